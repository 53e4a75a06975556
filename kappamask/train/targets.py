"""What the network is told about each pixel. Row 6: imports `chips`.

A target is (5, y, x): the shares of clear, cloud shadow, semi-transparent cloud, cloud, and
cloud of a thickness that nobody knows. They sum to 1 where anything is known, else to 0. The
fifth share is why the teacher can be believed about cloud without being believed about its
thickness: see `kappamask.train.losses`.
"""

from __future__ import annotations

import numpy as np

from kappamask.base.legend import PREDICTED, Label
from kappamask.train.chips import BLUE, SCL_CLOUD, SLOT, Chip
from kappamask.train.series import CLOUDY

CLEAR, SHADOW, THIN, CLOUD, ANY_CLOUD = range(5)
# Blue reflectance below which a cloud is semi-transparent, and above which it is not: what
# the simulation's thresholds of albedo look like over dark ground. L1C adds the air's light.
FAINT = {"L2A": 0.18, "L1C": 0.23}
BRIGHT = {"L2A": 0.32, "L1C": 0.36}
UNLIKELY_CLEAR = 0.30  # so bright in blue, and cloud to Sen2Cor: the teacher overlooked it
CIRRUS = 80  # DN of B10 that no clear ground at low height has: the teacher does not see B10
VEILED = 0.13  # blue reflectance at L1C that clear ground has, and ground under a veil too
HAZY = 0.2  # blue reflectance at L1C that hazy air alone can have
COARSE = 40.0  # metres: above, the teacher calls dark ground beside cloud shadow


def one_hot(label: np.ndarray) -> np.ndarray:
    """Turn codes of `Label` (y, x) into a target; undefined and missing become 0.

    Examples
    --------
    >>> one_hot(np.array([[0, 1, 3]], np.uint8))[:, 0].tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    target = np.zeros((5, *label.shape), np.float32)
    for share, code in enumerate(PREDICTED):
        target[share] = label == code
    return target


def target_of(chip: Chip) -> np.ndarray:
    """Weigh a chip's label against what the teacher saw: (5, y, x) float32.

    The teacher says clear, shadow or cloud; brightness says how thick, with a gap between
    the two words. Taken out again is what it was seen to get wrong in pictures: bright
    overcast and cirrus called clear; at L1C haze called cloud, and woods and water in haze called
    shadow; shadow where pixels are larger than what it was made for.
    """
    target = one_hot(chip.label) if chip.evidence is None else _weigh(chip, chip.evidence)
    return target if chip.verdict is None else overrule(target, chip.verdict)


def overrule(target: np.ndarray, verdict: np.ndarray) -> np.ndarray:
    """Replace what is said of a pixel by what the other dates of its place say, if they say."""
    target = target.copy()
    target[:, verdict > 0] = 0
    for share, code in enumerate((*PREDICTED, CLOUDY)):
        target[share, verdict == code] = 1
    return target


def _weigh(chip: Chip, evidence: np.ndarray) -> np.ndarray:
    target = np.zeros((5, *chip.label.shape), np.float32)
    clear, shadow, cloud = evidence
    target[CLEAR], target[SHADOW], target[ANY_CLOUD] = clear, shadow, cloud
    blue = chip.dn[BLUE] / np.float32(1e4)
    sure = cloud > 0.5
    for share, chosen in (
        (THIN, sure & (blue < FAINT[chip.level])),
        (CLOUD, sure & (blue > BRIGHT[chip.level])),
    ):
        target[share, chosen], target[ANY_CLOUD, chosen] = cloud[chosen], 0
    doubt = blue == 0
    if chip.scl is not None:
        doubt |= (clear > 0.4) & (blue > UNLIKELY_CLEAR) & np.isin(chip.scl, SCL_CLOUD)
    doubt |= (clear > 0.4) & (chip.dn[SLOT["B10"]] > CIRRUS)
    if chip.level == "L1C":  # nor thin veils; a first label that says clear was surer of itself
        doubt |= (clear > 0.2) & (blue > VEILED) & (chip.label != Label.CLEAR)
        doubt |= (cloud > 0.2) & (blue < HAZY)
        doubt |= (shadow > 0.2) & (chip.label != Label.CLOUD_SHADOW)
    if chip.resolution > COARSE:
        doubt |= (shadow > 0.2) & (chip.label != Label.CLOUD_SHADOW)
    target[:, doubt] = 0
    if chip.scl is not None:  # two programs agree: the teacher's doubt there costs too many shadows
        agreed = chip.label == Label.CLOUD_SHADOW
        target[:, agreed] = 0
        target[SHADOW, agreed] = 1
    return target
