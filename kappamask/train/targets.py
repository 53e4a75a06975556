"""What the network is told about each pixel. Imports `chips`, `series`, `simulate`.

A target is (6, y, x): the shares of clear, cloud shadow, semi-transparent cloud, cloud, cloud of
a thickness that nobody knows, and cirrus that nothing but B10 shows. They sum to 1 where
anything is known, else to 0. The fifth share is why the teacher can be believed about cloud
without being believed about its thickness: see `kappamask.train.learner`. The sixth is
semi-transparent to a network that is given B10 and unknown to one that is not: `settle`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kappamask.base.legend import PREDICTED, Label
from kappamask.train.chips import BLUE, SCL_CLOUD, SLOT, Chip
from kappamask.train.series import CLOUDY
from kappamask.train.simulate import CIRRUS_FREE_TO, CIRRUS_FROM, FAINT, SEEN_WITHOUT

CLEAR, SHADOW, THIN, CLOUD, ANY_CLOUD, ONLY_B10 = range(6)
# Blue reflectance below which a cloud is semi-transparent, and above which it is not: what
# the simulation's thresholds of albedo look like over dark ground. L1C adds the air's light.
DULL = {"L2A": 0.18, "L1C": 0.23}
BRIGHT = {"L2A": 0.32, "L1C": 0.36}
UNLIKELY_CLEAR = 0.30  # so bright in blue, and cloud to Sen2Cor: the teacher overlooked it
DENSE_CIRRUS = 0.06  # reflectance in B10 above which cirrus may hide the ground
VEILED = 0.13  # blue reflectance at L1C that clear ground has, and ground under a veil too
HAZY = 0.2  # blue reflectance at L1C that hazy air alone can have
COARSE = 40.0  # metres: above, the teacher calls dark ground beside cloud shadow


def one_hot(label: np.ndarray) -> np.ndarray:
    """Turn codes of `Label`, `CLOUDY` and `FAINT` (y, x) into a target; any other code becomes 0.

    Examples
    --------
    >>> one_hot(np.array([[0, 1, 6]], np.uint8)).argmax(0).tolist()
    [[0, 0, 4]]
    >>> one_hot(np.array([[0, 1, 6]], np.uint8)).sum(0).tolist()
    [[0.0, 1.0, 1.0]]
    """
    return np.stack([label == code for code in (*PREDICTED, CLOUDY, FAINT)]).astype(np.float32)


def target_of(chip: Chip) -> np.ndarray:
    """Weigh a chip's label against all that is known of it: (6, y, x) float32.

    The teacher says clear, shadow or cloud; brightness says how thick, with a gap between
    the two words. Taken out again is what it was seen to get wrong in pictures: bright
    overcast called clear; at L1C haze called cloud, and woods and water in haze called
    shadow; shadow where pixels are larger than what it was made for. Other dates overrule it,
    and B10 overrules whoever calls cirrus anything but cloud.
    """
    evidence = chip.evidence
    if chip.kind == "overcast":
        evidence = np.zeros((3, *chip.label.shape), np.float32)
        evidence[2] = 1
    target = one_hot(chip.label) if evidence is None else _weigh(chip, evidence)
    if chip.verdict is not None:  # replaced where the other dates of the place say something
        target = np.where(chip.verdict > 0, one_hot(chip.verdict), target)
    trusted = chip.kind == "human" or chip.level != "L1C"
    return target if trusted else _see_cirrus(target, chip)


def settle(target: Any, *, with_b10: bool) -> Any:
    """Turn six shares into the five that the loss takes: arrays or tensors, (6, y, x) to (5, y, x).

    Cirrus that only B10 shows is semi-transparent for who is given B10. To who is not it is rather
    clear, as it is to a person: where nothing was said of it, networks with six bands called haze
    cloud. Only half is said, so that it counts in no dice.
    """
    settled = target[:ONLY_B10] + 0
    if with_b10:
        settled[THIN] += target[ONLY_B10]
    else:
        settled[CLEAR] += target[ONLY_B10] / 2
    return settled


def _see_cirrus(target: np.ndarray, chip: Chip) -> np.ndarray:
    """Let B10 say where there is cirrus, unless something else says that there is cloud.

    Ground shows in it only where there is hardly any vapour above: on high ice, which no chip of
    other than people's labels has.
    """
    b10 = chip.dn[SLOT["B10"]] / np.float32(1e4)
    clouded = target[THIN:].sum(0) > 0.5
    target[:, (b10 > CIRRUS_FREE_TO) & ~clouded] = 0
    steps = (CIRRUS_FROM, SEEN_WITHOUT, DENSE_CIRRUS, np.inf)
    for share, low, high in zip((ONLY_B10, THIN, ANY_CLOUD), steps[:-1], steps[1:], strict=True):
        target[share, (b10 > low) & (b10 <= high) & ~clouded] = 1
    return target


def _weigh(chip: Chip, evidence: np.ndarray) -> np.ndarray:
    target = np.zeros((6, *chip.label.shape), np.float32)
    clear, shadow, cloud = evidence
    target[CLEAR], target[SHADOW], target[ANY_CLOUD] = clear, shadow, cloud
    blue = chip.dn[BLUE] / np.float32(1e4)
    sure = cloud > 0.5
    for share, chosen in (
        (THIN, sure & (blue < DULL[chip.level])),
        (CLOUD, sure & (blue > BRIGHT[chip.level])),
    ):
        target[share, chosen], target[ANY_CLOUD, chosen] = cloud[chosen], 0
    doubt = blue == 0
    if chip.scl is not None:
        doubt |= (clear > 0.4) & (blue > UNLIKELY_CLEAR) & np.isin(chip.scl, SCL_CLOUD)
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
