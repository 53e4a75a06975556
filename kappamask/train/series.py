"""What other dates of the same place say about a date: labels without a program.

A place seen clear on dates before and after shows how bright it is without cloud. What is brighter
in all visible bands was seen through a cloud, of an albedo that the same equation gives with which
`kappamask.train.simulate` draws one; what is darker in the infrared bands, and no brighter in the
visible, stands in shadow. So real pixels and simulated ones are labelled by one definition
(`docs/decisions/0012`, `0013`). MAJA tells clouds in this way (Hagolle et al. 2010, Remote Sens.
Environ. 114, 1747).

What a field does by itself looks different: tilled soil is brighter in red than in blue, a harvest
darkens the near infrared alone. Water darkens as in shadow when it clears, so where it does nothing
is learned. Snow, and places with too few clear dates, are left to the other labels. Of a pair, a
cloudy and a clear chip of one place, the clear one says how bright the ground is; it is the only
witness, so thresholds are stricter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from kappamask.base.bands import NEAR_INFRARED
from kappamask.base.legend import Label
from kappamask.predict.reference import albedo_over, refer
from kappamask.train.chips import ALGORITHMIC, SLOT, Chip
from kappamask.train.simulate import CLEAR_TO, THIN_FROM

# Beside the codes of `Label`: cloud of a thickness that nobody knows, and no label to be believed.
CLOUDY, DOUBTFUL = np.uint8(6), np.uint8(7)
VISIBLE = tuple(SLOT[name] for name in ("B02", "B03", "B04"))
FEWEST = 6  # dates that make a series
ENOUGH = 2  # of them
UNSURE = 0.03  # albedo by which a pair's verdict must lie beyond a threshold
SEEN_THROUGH, HIDDEN_FROM = 0.2, 0.3  # albedo: ground is surely seen below, hardly above
LIT_FROM, SHADED_TO = 0.85, 0.74  # of the reference, in the infrared band that lost least
NO_BRIGHTER = 0.01  # albedo in the visible that a shadow does not have
SNOW = 11  # class of Sen2Cor
SNOW_INDEX, SNOWY = 0.4, 0.01  # (B03 - B11) / (B03 + B11) of snow; share of a chip that is too much
BORDER = 2  # pixels inside a clear area that may serve as reference


def judge(chips: Sequence[Chip]) -> list[Chip]:
    """Give dated chips of one place a `verdict`, and all others back as they are.

    Chips belong to one place if their names are the same but for the date at their end, and
    level, resolution, bands and size are the same; or, as a pair, but for ``cloudy`` and
    ``clear``. Only labels that programs made are judged, and chips of the kind ``dates``, which
    have none; chips of the kind ``clear`` are witnesses.

    Returns
    -------
    list of Chip
        In the order of `chips`. A verdict is (y, x) uint8: 0 no opinion, codes of `Label`,
        `CLOUDY`, or `DOUBTFUL`.
    """
    places: dict[tuple[object, ...], list[int]] = {}
    for index, chip in enumerate(chips):
        if chip.place != chip.name and chip.kind in (*ALGORITHMIC, "dates", "clear"):
            key = (chip.place, chip.level, chip.resolution, chip.bands, chip.label.shape)
            places.setdefault(key, []).append(index)
    judged = list(chips)
    for indices in places.values():
        series = [chips[index] for index in indices]
        pair = all(chip.date is None for chip in series) and len(series) == 2
        if len(series) >= FEWEST or pair:
            for index, verdict in zip(indices, judge_place(series), strict=True):
                if chips[index].kind != "clear":
                    judged[index] = replace(chips[index], verdict=verdict)
    return judged


def judge_place(series: Sequence[Chip]) -> list[np.ndarray]:
    """Judge each date of one place by the others: (y, x) uint8 each, see `judge`."""
    # Where shadow holds hardly any light of the sky: B08 or B8A, and B11.
    near = [name for name in NEAR_INFRARED if name in series[0].bands][:1]
    infrared = [*near, *({"B11"} & set(series[0].bands))]
    slots = [*VISIBLE, *(SLOT[name] for name in infrared)]
    reflectance = np.stack([chip.dn[slots] for chip in series]).astype(np.float32) / 1e4
    reflectance[reflectance <= 0] = np.nan
    days = np.array([chip.date.toordinal() if chip.date else 0 for chip in series])
    pair, visible = len(series) == 2, len(VISIBLE)
    usable = np.array([not is_snowy(chip) for chip in series])[:, None, None]
    usable = usable & np.isfinite(reflectance[:, 0])
    said_cloud = np.stack([chip.label == Label.CLOUD for chip in series])
    clear = _inside(np.stack([chip.label == Label.CLEAR for chip in series]) & usable)
    for _ in range(1 if pair else 2):  # the second time with what the first found to be clear
        reference, counts = refer(reflectance, clear, days)
        # Albedo of what lies between, by band, and the share of infrared light that is left, as
        # the band says that lost least.
        veil = albedo_over(reflectance[:, :visible], reference[:, :visible])
        light = (reflectance[:, visible:] / reference[:, visible:]).max(1)
        known = (counts >= (1 if pair else ENOUGH)) & np.isfinite(veil).all(1) & usable
        like = known & (veil.max(1) < CLEAR_TO) & (light > LIT_FROM)
        clear = _inside(like & ~said_cloud) | (clear & ~(known & (veil.min(1) > THIN_FROM)))
    unsure = UNSURE if pair else 0.0
    # Water by its colour: greener than near infrared.
    wet = reference[:, slots.index(SLOT["B03"])] > reference[:, visible]
    dates = zip(series, veil, light, wet, strict=True)
    verdicts = [_decide(*date, unsure=unsure) for date in dates]
    return [np.where(sure, verdict, 0) for sure, verdict in zip(known, verdicts, strict=True)]


def is_snowy(chip: Chip) -> bool:
    """Whether there is snow on a chip, to Sen2Cor or by its darkness at 1.6 um."""
    green, swir = (chip.dn[SLOT[name]].astype(np.float32) for name in ("B03", "B11"))
    snow = (green - swir > SNOW_INDEX * (green + swir)) & (swir > 0) & (green > 2000)
    if chip.scl is not None:
        snow |= chip.scl == SNOW
    return bool(snow.mean() > SNOWY)


def _decide(
    chip: Chip, veils: np.ndarray, light: np.ndarray, wet: np.ndarray, *, unsure: float
) -> np.ndarray:
    """Turn what was measured on a date into codes: (y, x) uint8."""
    veil, brightest = veils.min(0), veils.max(0)
    light = ndimage.median_filter(np.nan_to_num(light, nan=1.0), 3)
    clear, cloud = (chip.label == label for label in (Label.CLEAR, Label.CLOUD))
    verdict = np.zeros(chip.label.shape, np.uint8)
    unveiled = veil < CLEAR_TO
    verdict[~unveiled & ~clear & ~cloud] = DOUBTFUL
    verdict[unveiled & (light > LIT_FROM) & ~cloud] = Label.CLEAR
    shaded = (light < SHADED_TO) & (brightest < NO_BRIGHTER)
    # Areas that are somewhere wider than a few pixels, whole: wet fields are no shadows.
    core = ndimage.binary_erosion(shaded, iterations=BORDER, border_value=1)
    shaded = ndimage.binary_propagation(core, mask=shaded)
    verdict[shaded & ~clear] = Label.CLOUD_SHADOW
    verdict[shaded & ~clear & wet] = DOUBTFUL  # a river darkens by itself when it clears
    verdict[veil > THIN_FROM + unsure] = CLOUDY
    verdict[(veil > THIN_FROM + unsure) & (veil < SEEN_THROUGH)] = Label.SEMI_TRANSPARENT
    verdict[veil > HIDDEN_FROM] = Label.CLOUD
    verdict[(veil > THIN_FROM) & clear] = DOUBTFUL  # a field that was tilled, more often than not
    return verdict


def _inside(there: np.ndarray) -> np.ndarray:
    """Take the borders off areas, date by date."""
    kept = [ndimage.binary_erosion(one, iterations=BORDER, border_value=1) for one in there]
    return np.stack(kept)
