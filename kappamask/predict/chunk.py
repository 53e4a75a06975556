"""What the openEO UDF does with one date of one chunk, as numpy arrays.

Imports `array`, `networks` and `base`, and neither xarray nor openeo, so that it runs on a
worker that has little else. `udf/kappamask_udf.py` is the thin adapter around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np

from kappamask.base.bands import find_bands
from kappamask.base.errors import InputError
from kappamask.base.legend import LEGEND, PREDICTED, Label
from kappamask.base.pixels import dilate
from kappamask.networks.model import Model
from kappamask.predict.array import (
    HIGHEST_REFLECTANCE,
    Output,
    make_task,
    most_probable,
    predict_array,
)
from kappamask.predict.refine import refine_array
from kappamask.predict.snow import find_snow
from kappamask.predict.sunlight import Sun

# What each output calls its bands. Names that do not clash with the optical bands of a cube
# that they are merged into.
OUTPUT_BANDS: dict[str, tuple[str, ...]] = {
    "labels": ("cloud_labels",),
    "mask": ("cloud_mask",),
    "probabilities": tuple(LEGEND[code].name for code in PREDICTED),
    "snow": ("snow",),
}
SUN_BANDS = ("sunAzimuthAngles", "sunZenithAngles")  # as Copernicus' collections name them
MOST_BUFFER_PX = 10_000  # a tile has 10980
DN_SCALE = 100.0  # a scale from here on says that the values are DN
FINEST_M = 10  # pixels of Sentinel-2 are multiples of this
EARTH_M = 4.1e7  # around the equator: no projected coordinate is larger
FLOAT32_STEP = 2.0**-23  # how far apart neighbours in float32 are at most, relative to themselves


@dataclass(frozen=True)
class Digits:
    """What stored values mean: reflectance is ``(value + offset) / scale``."""

    scale: float = 10000.0  # 1 where the values are reflectance already
    offset: float = 0.0  # -1000 for raw DN from processing baseline 04.00

    def __post_init__(self) -> None:
        """Check that they are numbers that can be meant."""
        told: tuple[object, ...] = (self.scale, self.offset)
        if (
            not all(isinstance(one, Real) and -1e9 < float(one) < 1e9 for one in told)
            or self.scale <= 0
        ):
            raise InputError(
                f"scale must be above 0 and offset a number, got {self.scale} and {self.offset}: "
                "for DN pass scale=10000, for reflectance scale=1, offset=0"
            )

    def to_reflectance(self, values: np.ndarray) -> np.ndarray:
        """Turn stored values (band, y, x) into float32 reflectance, NaN where there is none.

        Besides NaN and infinities, two kinds of zeros are no data: a pixel that is 0
        in all bands; and, where the offset is still in the values, every 0.

        Raises
        ------
        InputError
            If the values are not what `scale` says: DN given as reflectance, or the
            reverse. The message holds the numbers seen.

        Examples
        --------
        >>> Digits(10000, -1000).to_reflectance(np.array([[[0, 1500]]]))
        array([[[ nan, 0.05]]], dtype=float32)
        """
        with np.errstate(over="ignore"):  # beyond float32 is infinite: no data
            stored = np.array(values, dtype=np.float32)
        empty = stored == 0
        if self.offset == 0:
            empty = np.broadcast_to(empty.all(0), stored.shape)
        stored[empty | ~np.isfinite(stored)] = np.nan
        self._check(stored)
        stored += np.float32(self.offset)
        stored *= np.float32(1 / self.scale)
        return stored

    def _check(self, stored: np.ndarray) -> None:
        finite = stored[np.isfinite(stored)]
        if not finite.size:
            return
        lowest, highest = float(finite.min()), float(finite.max())
        seen = f"got values from {lowest:g} to {highest:g} with scale {self.scale:g}"
        if (highest + self.offset) / self.scale > HIGHEST_REFLECTANCE:
            raise InputError(
                f"reflectance lies between 0 and about 2 (1.0 = 100 %), {seen}, which look like "
                "DN: pass scale=10000, and offset=-1000 if the offset of baseline 04.00 is in them"
            )
        fractions = bool((finite[finite != 0] % 1 != 0).any())
        if self.scale >= DN_SCALE and highest <= HIGHEST_REFLECTANCE and fractions:
            raise InputError(
                f"digital numbers reach hundreds or thousands, {seen}, which look like "
                "reflectance: pass scale=1 and offset=0"
            )


@dataclass(frozen=True)
class Wanted:
    """What comes out of a chunk.

    Parameters
    ----------
    output
        ``"labels"``: codes of `Label`, missing is 5. ``"mask"``: 1 where the ground
        is not seen clearly (shadow, semi-transparent, cloud, missing), else 0.
        ``"probabilities"``: of the four classes, NaN where data is missing.
        ``"snow"``: 0 none, 100 snow, 205 hidden by cloud or shadow, 255 missing; needs B11.
    buffer_px
        With ``"mask"``: pixels by which clouds and shadows are grown, as discs.
        Missing pixels are not grown.

    Raises
    ------
    InputError
        If the output is unknown, or the buffer no whole number from 0 on.
    """

    output: str = "labels"
    buffer_px: int = 0

    def __post_init__(self) -> None:
        """Check that there is such an output, and such a buffer."""
        if self.output not in OUTPUT_BANDS:
            raise InputError(
                f"output must be one of {', '.join(OUTPUT_BANDS)}, got {self.output!r}: correct it"
            )
        if isinstance(self.buffer_px, bool) or self.buffer_px not in range(MOST_BUFFER_PX + 1):
            raise InputError(
                f"buffer_px is a whole number of pixels, 0 to {MOST_BUFFER_PX}, got "
                f"{self.buffer_px!r}: correct it"
            )


def find_origin(y: np.ndarray | None, x: np.ndarray | None) -> tuple[int, int]:
    """Row and column of a chunk's first pixel on the projected pixel grid, as far as it tells.

    As `kappamask.predict.cube.lattice_origin`, which needs exact coordinates. Those of a
    chunk are float32, absent, or wrong: openEO's Spark driver works them out of tile
    and overlap (openeo-geotrellis-extensions, `Udf.scala`), not of the pixels.

    Parameters
    ----------
    y, x
        Coordinates along an axis at pixel centres, metres; None where there are none.
        NaN, as padding leaves it, is passed over.

    Returns
    -------
    tuple of int
        0 along an axis whose coordinates are absent, uneven, no pixels of Sentinel-2
        (a multiple of 10 m), or too far out for float32 to tell pixels apart.

    Examples
    --------
    >>> x = np.arange(600005, 600645, 10, dtype=np.float32)
    >>> find_origin(None, x), find_origin(x[::-1], x * 0.75)
    ((0, 60000), (-60064, 0))
    """
    return _axis_grid(y)[0], _axis_grid(x)[0]


def find_step(y: np.ndarray | None, x: np.ndarray | None) -> tuple[float, float]:
    """Height and width of a pixel in metres, as far as coordinates that `find_origin` takes tell.

    The height is below 0 where y runs north. An axis that tells nothing is as the other one,
    running south or east; where neither does, pixels are of 10 m.

    Examples
    --------
    >>> x = np.arange(600010, 601290, 20, dtype=np.float32)
    >>> find_step(x, x), find_step(None, x), find_step(None, None)
    ((-20, 20), (20, 20), (10, 10))
    """
    down, right = -_axis_grid(y)[1], _axis_grid(x)[1]
    return down or abs(right) or FINEST_M, right or abs(down) or FINEST_M


def _axis_grid(coordinates: np.ndarray | None) -> tuple[int, int]:
    """Place of the first pixel, in pixels, and step in metres; zeros where they are not told."""
    centres = np.asarray(coordinates)  # of None: an array without a dimension
    if centres.ndim != 1 or centres.dtype.kind not in "iuf":
        return 0, 0
    (at,) = np.isfinite(centres).nonzero()
    if at.size < 2:
        return 0, 0
    known = centres[at].astype(float)
    farthest = np.abs(known).max()
    doubt = FLOAT32_STEP * farthest
    if farthest > EARTH_M:
        return 0, 0
    step = FINEST_M * round((known[-1] - known[0]) / (at[-1] - at[0]) / FINEST_M)
    expected = known[0] + step * (at - at[0])
    if abs(step) <= 4 * doubt or np.abs(known - expected).max() > doubt:
        return 0, 0
    origin: int = round((known[0] - step / 2) / step)
    return origin - int(at[0]), step


def label_chunk(
    values: np.ndarray,
    bands: Sequence[str],
    *,
    model: Model,
    digits: Digits,
    wanted: Wanted = Wanted(),
    origin: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """Label one date of a chunk as a back end stores it.

    Parameters
    ----------
    values
        (band, y, x) numbers; NaN is no data.
    bands
        Names of all bands as the back end spells them; those that no network reads
        are passed over.
    model
        What `load_model` gave; its level is that of the values.
    digits
        What the values mean.
    wanted
        What comes out.
    origin
        Row and column of the first pixel on the projected pixel grid (`find_origin`):
        labels are then those of the same pixels in any other chunk or cube.

    Returns
    -------
    numpy.ndarray
        (band, y, x) float32, one band for each name in `OUTPUT_BANDS`.

    Raises
    ------
    InputError
        If bands are missing (for snow B11 too), or the values are not what `digits` says.

    Examples
    --------
    >>> from kappamask.networks.model import load_model
    >>> dn = np.full((4, 32, 32), 500)
    >>> dn[:, :8] = 0
    >>> mask = label_chunk(dn, ["red", "green", "blue", "nir"], model=load_model(),
    ...                    digits=Digits(), wanted=Wanted("mask"))
    >>> mask.shape, mask[0, :8].min()
    ((1, 32, 32), np.float32(1.0))
    """
    places = find_bands(bands, model.level)
    reflectance = digits.to_reflectance(np.asarray(values)[list(places.values())])
    outputs: dict[str, Output] = {"probabilities": "probabilities", "snow": "snow"}
    output = outputs.get(wanted.output, "labels")
    predicted = predict_array(
        reflectance, list(places), level=model.level, model=model, output=output, origin=origin
    )
    if wanted.output == "probabilities":
        return predicted
    if wanted.output == "mask":
        return to_mask(predicted, wanted.buffer_px)[None]
    return predicted[None].astype(np.float32)


def label_dates(  # noqa: PLR0913  as `label_chunk`, and when and how large
    values: np.ndarray,
    bands: Sequence[str],
    times: np.ndarray,
    *,
    model: Model,
    digits: Digits,
    wanted: Wanted = Wanted(),
    origin: tuple[int, int] = (0, 0),
    step: tuple[float, float] = (FINEST_M, FINEST_M),
) -> np.ndarray:
    """Label all dates of a chunk, and let them and the sun correct one another.

    Parameters
    ----------
    values
        (time, band, y, x) as `label_chunk` takes each date.
    bands
        As `label_chunk` takes them. Where ``sunAzimuthAngles`` and ``sunZenithAngles`` are
        among them, degrees as they stand, the sun is asked too.
    times
        datetime64 (time,).
    model, digits, wanted, origin
        As in `label_chunk`.
    step
        Height and width of a pixel, metres; height below 0 where y runs north.

    Returns
    -------
    numpy.ndarray
        (time, band, y, x) float32, as `label_chunk` gives each date; snow is that of the ground
        which the refined labels call clear.

    Raises
    ------
    InputError
        As `label_chunk`.
    """
    soft = wanted.output == "probabilities"
    inner = replace(wanted, output="probabilities" if soft else "labels", buffer_px=0)
    given = {"model": model, "digits": digits, "wanted": inner, "origin": origin}
    found = np.stack([label_chunk(date, bands, **given) for date in values])  # type: ignore[arg-type]
    codes = most_probable(found.swapaxes(0, 1)) if soft else found[:, 0].astype(np.uint8)
    suns = _suns_of(values, bands, step)
    settled = refine_array(codes, np.asarray(times, "M8[ns]"), suns=suns)
    if soft:
        clear = np.array([1, 0, 0, 0], np.float32)[:, None, None]
        return np.where((settled != codes)[:, None], clear, found)
    if wanted.output == "mask":
        return np.stack([to_mask(date, wanted.buffer_px)[None] for date in settled])
    if wanted.output == "snow":
        dates = zip(values, settled, strict=True)
        settled = np.stack([_snow_of(date, bands, codes, model, digits) for date, codes in dates])
    return settled[:, None].astype(np.float32)


def _snow_of(
    values: np.ndarray, bands: Sequence[str], codes: np.ndarray, model: Model, digits: Digits
) -> np.ndarray:
    """Tell snow of one date by labels that are there already."""
    places = find_bands(bands, model.level)
    task = make_task(list(places), level=model.level, model=model, output="snow")
    reflectance = digits.to_reflectance(np.asarray(values)[list(places.values())])
    layers = dict(zip(places, reflectance, strict=True))
    return find_snow(codes, *(layers[task.bands[index]] for index in task.told_by))


def _suns_of(
    values: np.ndarray, bands: Sequence[str], step: tuple[float, float]
) -> list[Sun | None]:
    """Read the sun of each date from the bands that Copernicus has for it."""
    if not set(SUN_BANDS) <= set(bands):
        return [None] * len(values)
    places = [list(bands).index(name) for name in SUN_BANDS]
    angles = values[:, places].reshape(len(values), 2, -1).astype(float)
    angles[angles == 0] = np.nan  # no data, as of other bands
    suns: list[Sun | None] = []
    for date in angles:
        known = np.isfinite(date).any(axis=1).all()
        azimuth, zenith = np.nanmedian(date, axis=1) if known else (np.nan, np.nan)
        suns.append(Sun(float(azimuth), 90.0 - float(zenith), step) if known else None)
    return suns


def to_mask(labels: np.ndarray, buffer_px: int = 0) -> np.ndarray:
    """Turn labels into float32 1 where the ground is not seen clearly, else 0.

    Explicit zeros and ones, missing included: back ends disagree on what NaN masks.

    Examples
    --------
    >>> to_mask(np.array([[1, 2, 3, 4, 5]])).tolist()
    [[0.0, 1.0, 1.0, 1.0, 1.0]]
    """
    missing = labels == Label.MISSING
    hidden = (labels != Label.CLEAR) & ~missing
    return np.asarray(dilate(hidden, buffer_px) | missing, np.float32)
