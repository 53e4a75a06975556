"""The one class table: codes, names, colours. Imports nothing of the package."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Label(IntEnum):
    """Class codes of every mask that kappamask writes.

    The codes are those of the KappaMask labels (Domnich et al. 2021, Remote
    Sensing 13(20):4100). ``UNDEFINED`` occurs in training labels only, never in
    a predicted mask.

    Examples
    --------
    >>> int(Label.CLOUD)
    4
    >>> Label(2).name
    'CLOUD_SHADOW'
    """

    UNDEFINED = 0
    CLEAR = 1
    CLOUD_SHADOW = 2
    SEMI_TRANSPARENT = 3
    CLOUD = 4
    MISSING = 5


@dataclass(frozen=True)
class ClassEntry:
    """One row of the legend."""

    label: Label
    name: str  # machine-readable: lower case, no spaces (CF flag_meanings, STAC classification)
    title: str  # what a person reads in a picture
    description: str
    color: str  # six hexadecimal digits, RRGGBB (STAC classification color_hint)

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour as three integers 0-255."""
        return tuple(bytes.fromhex(self.color))  # type: ignore[return-value]


LEGEND: tuple[ClassEntry, ...] = (
    ClassEntry(Label.UNDEFINED, "undefined", "undefined", "The labeller was unsure", "808080"),
    ClassEntry(
        Label.CLEAR, "clear", "clear", "Ground seen without cloud or cloud shadow", "3B9B6D"
    ),
    ClassEntry(
        Label.CLOUD_SHADOW, "cloud_shadow", "cloud shadow", "Ground darkened by a cloud", "3D348B"
    ),
    ClassEntry(
        Label.SEMI_TRANSPARENT,
        "semi_transparent_cloud",
        "semi-transparent cloud",
        "Cloud, cirrus or haze through which the ground is visible",
        "7FC8F8",
    ),
    ClassEntry(Label.CLOUD, "cloud", "cloud", "Cloud that hides the ground", "F7F7F2"),
    ClassEntry(Label.MISSING, "missing", "missing", "No data", "000000"),
)

# What a network can say, in the order of its four logits.
PREDICTED: tuple[Label, ...] = (
    Label.CLEAR,
    Label.CLOUD_SHADOW,
    Label.SEMI_TRANSPARENT,
    Label.CLOUD,
)
