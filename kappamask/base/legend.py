"""The class tables: codes, names, colours; of masks, and of snow. Imports nothing else."""

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


class Snow(IntEnum):
    """Codes of snow, as the snow products of Theia and Copernicus have them.

    Theia Snow collection (Gascoin et al. 2019, Earth Syst. Sci. Data 11, 493): 0 no snow, 100
    snow, 205 cloud, 255 no data. So the mean of what is not 205 or 255 is the snow cover in
    percent. ``HIDDEN`` is cloud of any thickness and cloud shadow.
    """

    NO_SNOW = 0
    SNOW = 100
    HIDDEN = 205
    MISSING = 255


@dataclass(frozen=True)
class ClassEntry:
    """One row of a legend."""

    label: Label | Snow
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

SNOW_LEGEND: tuple[ClassEntry, ...] = (
    ClassEntry(Snow.NO_SNOW, "no_snow", "no snow", "Clear ground without snow", "3B9B6D"),
    ClassEntry(Snow.SNOW, "snow", "snow", "Clear ground covered by snow or ice", "F4A6D7"),
    ClassEntry(Snow.HIDDEN, "hidden", "hidden", "Cloud or cloud shadow hides the ground", "F7F7F2"),
    ClassEntry(Snow.MISSING, "missing", "missing", "No data", "000000"),
)

# What a network can say, in the order of its four logits.
PREDICTED: tuple[Label, ...] = (
    Label.CLEAR,
    Label.CLOUD_SHADOW,
    Label.SEMI_TRANSPARENT,
    Label.CLOUD,
)
