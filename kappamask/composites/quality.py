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
from kappamask.predict.blocks import average_cells, repeat_cells
from kappamask.predict.reference import albedo_over, refer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dask.array as da

CELL_M = 40.0  # of the map of means that is made of every date: haze has no finer edges
VISIBLE = ("B02", "B03", "B04")
ENOUGH = 2  # clear dates that a reference needs
VEIL = 0.015  # albedo between: a third of what a label calls semi-transparent from 0.04 on
SHADE, UNVEILED = 0.75, 0.005  # of the light of clear dates that is left; and without any veil
SOFT = 0.01  # reflectance added before two are compared: deep shade and water are near 0
NEAR_M = 500.0  # around a pixel,
SOME = 0.002  # such a share of cloud is weather


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
    import dask.array as da
    from dask.array.overlap import map_overlap

    near_infrared = next(name for name in NEAR_INFRARED if name in bands)
    wanted = [list(bands).index(name) for name in (*VISIBLE, near_infrared)]
    rows, columns = (
        min(max(1, round(CELL_M / size)), length)
        for size, length in zip(step, codes.shape[1:], strict=True)
    )
    cloud = (codes == Label.CLOUD) | (codes == Label.SEMI_TRANSPARENT)
    cloud, clear = (
        average_cells(layer.astype(np.float32), (rows, columns))
        for layer in (cloud, codes == Label.CLEAR)
    )
    boxes = [
        2 * max(1, round(NEAR_M / size / count)) + 1
        for size, count in zip(step, (rows, columns), strict=True)
    ]
    # Of what lies around a cell only labels are asked: a chunk of reflectance, which all dates
    # make large, is read, judged and composed without the chunks beside it.
    near = map_overlap(
        lambda shares: _is_near(shares, boxes),
        cloud,
        depth={
            axis: min(box // 2, cloud.shape[axis]) for axis, box in zip((1, 2), boxes, strict=True)
        },
        boundary="none",
        allow_rechunk=True,
        dtype=bool,
        meta=np.empty((0, 0, 0), bool),
    ).rechunk(cloud.chunks)
    cells = average_cells(reflectance[:, wanted], (rows, columns))
    poor = da.map_blocks(
        lambda values, *about: judge_cells(values, *(a[:, 0] for a in about), days=days)[:, None],
        *(stack.rechunk({0: -1, 1: -1}) for stack in (cells, near[:, None], clear[:, None] == 1)),
        chunks=(cells.shape[:1], (1,), *cells.chunks[2:]),
        dtype=bool,
        meta=np.empty((0, 0, 0, 0), bool),
    )[:, 0]
    return repeat_cells(poor, (rows, columns), codes.chunks[1:])


def _is_near(shares: np.ndarray, boxes: Sequence[int]) -> np.ndarray:
    """Find where there is cloud around a cell, from its share in each (time, y, x)."""
    from scipy.ndimage import uniform_filter

    return np.stack([uniform_filter(one, boxes, mode="constant") > SOME for one in shares])


def judge_cells(
    values: np.ndarray, near: np.ndarray, clear: np.ndarray, *, days: np.ndarray
) -> np.ndarray:
    """Judge all dates of a block by one another: bool (time, y, x).

    Parameters
    ----------
    values
        float32 (time, 4, y, x): blue, green, red, near infrared.
    near, clear
        bool (time, y, x): cells with clouds around them, and those that are clear.
    days
        (time,).
    """
    if not near.any():
        return near
    reference, counts = refer(values, clear & np.isfinite(values).all(axis=1), days)
    veil = albedo_over(values[:, :3], reference[:, :3]).min(axis=1)
    light = ((values[:, 2:] + SOFT) / (reference[:, 2:] + SOFT)).max(axis=1)
    poor: np.ndarray = near & (counts >= ENOUGH)
    poor &= (veil > VEIL) | ((light < SHADE) & (veil < UNVEILED))  # neither of NaN
    return poor
