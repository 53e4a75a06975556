"""What is scored and how: classes put together, clouds widened, sets of chips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kappamask.base.bands import NEAR_INFRARED, REQUIRED
from kappamask.base.legend import PREDICTED, Label
from kappamask.base.pixels import dilate
from kappamask.train.chips import SLOT, Chip
from kappamask.train.series import CLOUDY

BOTH = 8  # cloud and cloud shadow at once, which PixBox tells apart: a code beside those of `Label`
THRESHOLD = 0.5  # Domnich et al. 2021: each class at 0.5 of its own probability


@dataclass(frozen=True)
class Group:
    """One class of a scoring: labels that count as one."""

    name: str
    labels: tuple[int, ...]  # codes of `Label`, or beside them `CLOUDY` and `BOTH`


@dataclass(frozen=True)
class Scoring:
    """A way to compare labels with a mask."""

    name: str
    title: str
    groups: tuple[Group, ...]
    scored: tuple[str, ...]  # names of the groups that figures are given for
    widen_m: float = 0.0  # metres by which the last group is widened in the mask, not in the labels

    def drawn(self, label: np.ndarray) -> np.ndarray:
        """Where each group was drawn: (y, x) codes to (group, y, x) bool."""
        return np.stack([np.isin(label, group.labels) for group in self.groups])

    def said(self, codes: np.ndarray, *, resolution: float) -> np.ndarray:
        """Where a mask says each group: as `drawn`, the last group widened.

        Examples
        --------
        >>> codes = np.array([[1, 1, 1, 4, 1, 1, 1]])
        >>> CLOUD_WIDENED.said(codes, resolution=20)[-1].astype(int).tolist()
        [[0, 1, 1, 1, 1, 1, 0]]
        """
        return self._widen(self.drawn(codes), resolution)

    def likely(self, probabilities: np.ndarray, *, resolution: float) -> np.ndarray:
        """Where each group has a probability of 0.5 or more: (4, y, x) to (group, y, x) bool.

        Examples
        --------
        >>> shares = np.array([0.4, 0.1, 0.2, 0.3])[:, None, None]
        >>> CLOUD.likely(shares, resolution=10)[:, 0, 0].tolist()
        [True, True]
        """
        sums = [probabilities[np.isin(PREDICTED, group.labels)].sum(0) for group in self.groups]
        # Single precision: .2 + .3 is meant to be half.
        likely: np.ndarray = np.stack(sums) >= THRESHOLD - 1e-6  # NaN compares as False
        return self._widen(likely, resolution)

    def _widen(self, said: np.ndarray, resolution: float) -> np.ndarray:
        radius = round(self.widen_m / resolution)
        if radius:
            grown = dilate(said[-1], radius)
            return np.concatenate([said[:-1] & ~grown, grown[None]])
        return said

    def can_say(self, labels: frozenset[Label]) -> np.ndarray:
        """Which scored groups a mask with these labels can say, (group,) bool."""
        return np.array(
            [
                group.name in self.scored and not labels.isdisjoint(group.labels)
                for group in self.groups
            ]
        )


def _groups(**labels: tuple[int, ...]) -> tuple[Group, ...]:
    return tuple(Group(name, members) for name, members in labels.items())


_CLOUDY = (Label.SEMI_TRANSPARENT, Label.CLOUD)
_OPEN = (Label.CLEAR, Label.CLOUD_SHADOW)
FOUR = Scoring(
    "four",
    "clear, cloud shadow, semi-transparent, cloud",
    tuple(Group(label.name.lower(), (label,)) for label in PREDICTED),
    tuple(label.name.lower() for label in PREDICTED),
)
THREE = Scoring(
    "three",
    "clear, cloud shadow, cloud; semi-transparent counts as cloud",
    _groups(clear=(Label.CLEAR,), cloud_shadow=(Label.CLOUD_SHADOW,), cloud=_CLOUDY),
    ("clear", "cloud_shadow", "cloud"),
)
SHADOW = Scoring(
    "shadow",
    "clear and cloud shadow; cloud is not scored",
    THREE.groups,
    ("clear", "cloud_shadow"),
)
CLOUD = Scoring(
    "cloud",
    "cloud against the rest; semi-transparent counts as cloud",
    _groups(not_cloud=_OPEN, cloud=_CLOUDY),
    ("cloud",),
)
CLOUD_WIDENED = Scoring(
    "cloud_widened_40m",
    "cloud against the rest, the mask's cloud widened by 40 m; semi-transparent counts as cloud",
    CLOUD.groups,
    ("cloud",),
    widen_m=40.0,
)
VALID = Scoring(
    "valid",
    "clear against shadow, semi-transparent and cloud together",
    _groups(clear=(Label.CLEAR,), hidden=(Label.CLOUD_SHADOW, *_CLOUDY)),
    ("clear", "hidden"),
)
POINTS = Scoring(
    "points",
    "clear, cloud shadow, cloud of any thickness, each against the rest; a point may be shadow and "
    "cloud",
    _groups(
        clear=(Label.CLEAR,),
        cloud_shadow=(Label.CLOUD_SHADOW, BOTH),
        cloud=(*_CLOUDY, int(CLOUDY), BOTH),
    ),
    ("clear", "cloud_shadow", "cloud"),
)
SCORINGS = {
    scoring.name: scoring for scoring in (FOUR, THREE, SHADOW, CLOUD, CLOUD_WIDENED, VALID, POINTS)
}


@dataclass(frozen=True)
class Dataset:
    """Chips that are scored together."""

    name: str
    title: str
    labels: str  # whose they are, in words
    chips: Sequence[Chip]
    scorings: tuple[Scoring, ...]
    made_from: frozenset[str] = frozenset()  # masks that the labels were made from
    each: bool = False  # figures of every chip, too
    calibrated: bool = False  # reliability is measured
    told: tuple[str, ...] = ()  # classes of which shares are told, where one class was drawn
    pictured: bool = True  # its chips are drawn in the report
    streamed: bool = False  # its chips are read anew each time: nothing is kept of them
    metric: str = "dice"  # that is shown first


def known_pixels(chip: Chip, scoring: Scoring) -> np.ndarray:
    """Pixels that count: of a class that is compared, with data in the bands that a mask needs.

    Examples
    --------
    >>> dn = np.full((13, 1, 3), 500, np.uint16)
    >>> dn[SLOT["B04"], 0, 0] = 0
    >>> chip = Chip("a", dn, np.array([[1, 1, 0]], np.uint8), "L2A", 10.0, "human")
    >>> known_pixels(chip, FOUR).tolist()
    [[False, True, False]]
    """
    infrared = next((name for name in NEAR_INFRARED if name in chip.bands), NEAR_INFRARED[0])
    needed = chip.dn[[SLOT[name] for name in (*REQUIRED, infrared)]] > 0
    held: np.ndarray = np.logical_and.reduce(needed)
    known: np.ndarray = scoring.drawn(chip.label).any(0) & held
    return known
