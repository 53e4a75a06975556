"""Which observations are poor though they are clear: haze beside clouds, shade that no label names.

Labels call clear what a reader calls clear: haze of an albedo below 0.04 (docs/decisions/0012). A
composite may be more particular, where another date is there to take: beside clouds, what is
brighter or darker than the same ground on clear dates is passed over. Far from clouds nothing is:
there, what changed is the ground.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kappamask.base.bands import NEAR_INFRARED
from kappamask.base.legend import Label
from kappamask.predict.blocks import repeat_cells, take_cells
from kappamask.predict.reference import albedo_over, refer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dask.array as da

CELL_M = 20.0  # of the map that is made of every date: haze has no finer edges
VISIBLE = ("B02", "B03", "B04")
ENOUGH = 2  # clear dates that a reference needs
VEIL = 0.015  # albedo between: a third of what a label calls semi-transparent from 0.04 on
SHADE, UNVEILED = 0.75, 0.005  # of the light of clear dates that is left; and without any veil
SOFT = 0.01  # reflectance added before two are compared: deep shade and water are near 0
NEAR_M = 500.0  # around a pixel,
SOME = 0.002  # such a share of cloud is weather
BORDER = 1  # cells inside clear ground that serve as reference
BLOCK = 256  # cells per side of what one task looks at


def can_judge(bands: Sequence[str]) -> bool:
    """Tell whether a cube has the bands that show haze and shade."""
    return set(VISIBLE) <= set(bands) and bool(set(NEAR_INFRARED) & set(bands))


def find_poor(
    reflectance: da.Array,
    codes: da.Array,
    *,
    days: np.ndarray,
    bands: Sequence[str],
    step: tuple[float, float],
) -> da.Array:
    """Find what is no good view of the ground, lazily: bool (time, y, x).

    Parameters
    ----------
    reflectance
        (time, band, y, x), NaN = no data; of `bands`, which `can_judge`.
    codes
        uint8 class codes (time, y, x), best refined.
    days
        (time,), counted from any day.
    step
        Height and width of a pixel in metres.
    """
    from dask.array.overlap import map_overlap

    near_infrared = next(name for name in NEAR_INFRARED if name in bands)
    wanted = [list(bands).index(name) for name in (*VISIBLE, near_infrared)]
    stride = tuple(max(1, round(CELL_M / size)) for size in step)
    rows, columns = stride
    small = [
        take_cells(layers, (rows, columns)).rechunk({0: -1, 1: -1, -2: BLOCK, -1: BLOCK})
        for layers in (reflectance[:, wanted], codes[:, None])
    ]
    boxes = [
        2 * max(1, round(NEAR_M / size / count)) + 1
        for size, count in zip(step, stride, strict=True)
    ]

    def judge(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return judge_cells(values, labels[:, 0], days=days, boxes=boxes)[:, None]

    poor = map_overlap(
        judge,
        *small,
        depth={  # a small field is one block, which needs nothing around it
            axis: min(box // 2 + BORDER + 1, small[0].shape[axis])
            for axis, box in zip((2, 3), boxes, strict=True)
        },
        boundary="none",
        allow_rechunk=True,
        dtype=bool,
        meta=np.empty((0, 0, 0, 0), bool),
        align_arrays=False,
    )[:, 0]
    return repeat_cells(poor, (rows, columns), codes.chunks[1:])


def judge_cells(
    values: np.ndarray, codes: np.ndarray, *, days: np.ndarray, boxes: Sequence[int]
) -> np.ndarray:
    """Judge all dates of a block by one another: bool (time, y, x).

    Parameters
    ----------
    values
        float32 (time, 4, y, x): blue, green, red, near infrared.
    codes
        uint8 (time, y, x).
    days
        (time,).
    boxes
        Rows and columns around a cell where cloud counts.
    """
    from scipy.ndimage import binary_erosion, uniform_filter

    near = np.stack(
        [
            uniform_filter(np.isin(one, (Label.CLOUD, Label.SEMI_TRANSPARENT)).astype(np.float32),
                           boxes, mode="constant") > SOME
            for one in codes
        ]
    )  # fmt: skip
    if not near.any():
        return near
    serves = [
        binary_erosion(one == Label.CLEAR, iterations=BORDER, border_value=1) for one in codes
    ]
    reference, counts = refer(values, np.stack(serves) & np.isfinite(values).all(axis=1), days)
    poor = near & (counts >= ENOUGH)
    for one, seen, ground in zip(poor, values, reference, strict=True):
        if one.any():
            veil = albedo_over(seen[:3], ground[:3]).min(axis=0)
            light = ((seen[2:] + SOFT) / (ground[2:] + SOFT)).max(axis=0)
            veil = uniform_filter(np.nan_to_num(veil), 3)
            light = uniform_filter(np.nan_to_num(light, nan=1.0), 3)
            np.logical_and(one, (veil > VEIL) | ((light < SHADE) & (veil < UNVEILED)), out=one)
    return poor
