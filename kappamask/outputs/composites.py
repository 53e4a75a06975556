"""Composites on disk: three GeoTIFFs and one STAC item per period. Imports `records`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import rioxarray  # noqa: F401  (registers the .rio accessor)
import xarray as xr

from kappamask.base.bands import BY_NAME, check_level
from kappamask.base.errors import InputError
from kappamask.outputs.cog import Layer, Placement, read_blocks
from kappamask.outputs.label_cube import face_north, north_up
from kappamask.outputs.records import (
    Outline,
    Progress,
    Record,
    grid_fields,
    told,
    write_each,
)
from kappamask.predict.cube import BY
from kappamask.scenes.scene import Scene
from kappamask.scenes.sources import source_of, sources_of_dates

RECIPE = (
    "method", "period", "buffer_cloud_m", "buffer_shadow_m", "ranking", "mask", "refined",
    "quality",    "fill", "min_observations", "max_observations", "percentile",
)  # fmt: skip
UNSEEN = 65535  # in the layer of observations: no date has data there
# Reflectance is stored as a signed integer: dark water and deep shadow are below 0 after the
# correction of the atmosphere, and unsigned numbers would lose them or take them for no data.
SCALE, NODATA = 0.0001, -32768
EPOCH = np.datetime64("1970-01-01", "D")  # dates are stored as days since then; 0 is no date


@dataclass(frozen=True)
class Coverage:
    """How often the pixels of a composite were seen clear."""

    pixels: int  # with data on any date
    never_clear: int
    observations: int  # of all pixels together
    most: int  # of one pixel

    @property
    def mean(self) -> float:
        """Observations of a pixel."""
        return round(self.observations / max(1, self.pixels), 4)


@dataclass(frozen=True)
class CompositeRecord(Record):
    """All that is known of one composite before it is computed.

    Its pixels are one period of what `composite` gave.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("reflectance", "observations", "date")

    start: np.datetime64  # UTC
    end: np.datetime64  # the last moment that belongs to it
    names: tuple[str, ...]  # of the bands
    recipe: dict[str, Any]  # method, period, buffers, ranking, as `composite` says them

    @property
    def short_name(self) -> str:
        """First and last day come first, so that names sort by date."""
        days = [re.sub("-", "", str(moment)[:10]) for moment in (self.start, self.end)]
        tile = [f"T{self.tile}"] if self.tile else []
        return "_".join(["kappamask", *days, *tile, self.level, self.recipe["method"]])

    @property
    def moments(self) -> tuple[str, ...]:
        """First and last moment."""
        both = (self.start, self.end)
        return tuple(f"{np.datetime_as_string(moment, unit='ms')}Z" for moment in both)

    @property
    def bands(self) -> tuple[str, ...]:
        """Of the reflectance."""
        return self.names

    @property
    def identity(self) -> dict[str, Any]:
        """Period, grid, model and recipe.

        ``datetime`` is null, as of everything that was made of a span of time, and
        ``start_datetime`` and ``end_datetime`` are the period, not the first and last pixel.
        """
        recipe = {f"kappamask:{name}": value for name, value in self.recipe.items()}
        return {
            "datetime": None,
            "start_datetime": self.moments[0],
            "end_datetime": self.moments[1],
            **grid_fields(self.placement),
            **told(self.optional | recipe),
        }

    def layers(self, pixels: xr.Dataset) -> list[Layer]:
        """Say how each part is stored."""
        import dask.array as da

        reflectance = da.asarray(pixels["reflectance"].transpose("band", "y", "x").data)
        observations, dates = (
            da.asarray(pixels[name].transpose("y", "x").data)[None]
            for name in ("observations", "date")
        )
        observations = observations.astype(np.uint16)
        if "seen" in pixels:
            seen = da.asarray(pixels["seen"].transpose("y", "x").data)[None]
            observations = da.where(seen, observations, np.uint16(UNSEEN))
        span = dict(zip(("start_datetime", "end_datetime"), self.moments, strict=True))
        tags = self.tags(span, {name: str(value) for name, value in self.recipe.items()})
        return [
            Layer(
                self.file_name("reflectance"),
                da.map_blocks(encode_reflectance, reflectance, dtype=np.int16),
                self.bands,
                nodata=NODATA,
                resampling="AVERAGE",
                scale=SCALE,
                unit="1",
                tags=tags,
            ),
            Layer(
                self.file_name("observations"),
                observations,
                ("observations",),
                nodata=UNSEEN,  # 0 is a count
                resampling="AVERAGE",
                unit="1",
                tags=tags,
            ),
            Layer(
                self.file_name("date"),
                da.map_blocks(encode_dates, dates, dtype=np.uint16),
                ("date",),
                nodata=0,
                resampling="NEAREST",  # a mean of dates is none of them
                unit="days since 1970-01-01",
                tags=tags,
            ),
        ]

    def measure(self, paths: Sequence[Path], layers: Sequence[Layer]) -> Coverage:  # noqa: ARG002
        """Read back how often the pixels were seen clear."""
        pixels = never = total = most = 0
        least = self.recipe.get("min_observations", 1)
        for block in read_blocks(paths[self.PARTS.index("observations")]):
            counts = block[block != UNSEEN]
            if not counts.size:
                continue
            pixels += counts.size
            never += int((counts < least).sum())
            total += int(counts.sum(dtype=np.int64))
            most = max(most, int(counts.max()))
        return Coverage(pixels, never, total, most)

    def properties(self, found: Coverage) -> dict[str, Any]:
        """Say the record and its coverage in the words of STAC."""
        recipe = self.recipe
        judge = self.model or recipe.get("mask") or "an unnamed model"
        lineage = (
            f"{recipe['method']} of Sentinel-2 {self.level} reflectance where "
            f"{judge} says clear, {recipe['buffer_cloud_m']:g} m from "
            f"clouds and {recipe['buffer_shadow_m']:g} m from shadows,"
        )
        first, last = (moment[:10] for moment in self.moments)
        return {
            **self.identity,
            **self.about(f"Cloud-free composite {first} to {last}"),
            **self.processing(lineage),
            "kappamask:never_clear": found.never_clear,
            "kappamask:never_clear_percentage": round(
                100 * found.never_clear / max(1, found.pixels), 4
            ),
            "kappamask:mean_observations": found.mean,
        }

    def assets(self, found: Coverage) -> dict[str, dict[str, Any]]:
        """Say what each part holds."""
        return {
            "reflectance": {
                "title": "Cloud-free reflectance",
                "roles": ["data", "reflectance"],
                "data_type": "int16",
                "nodata": NODATA,
                "unit": "1",
                "raster:scale": SCALE,
                "raster:offset": 0,
                "bands": [_band(name) for name in self.bands],
            },
            "observations": {
                "title": "Dates that could be used",
                "description": "0 where none could; reflectance that is there was filled in",
                "roles": ["metadata"],
                "data_type": "uint16",
                "nodata": UNSEEN,
                "statistics": {
                    "minimum": 0 if found.never_clear else 1,
                    "maximum": found.most,
                    "mean": found.mean,
                },
            },
            "date": {
                "title": "Date of the pixel, in days since 1970-01-01",
                "description": "The date chosen, or the middle one of those blended; 0 is none",
                "roles": ["metadata", "date"],
                "data_type": "uint16",
                "nodata": 0,
                "unit": "d",
            },
        }


def _band(name: str) -> dict[str, Any]:
    band = BY_NAME[name]
    fields: dict[str, Any] = {"name": name, "eo:common_name": band.common_name}
    if band.wavelength_nm is not None:
        fields["eo:center_wavelength"] = round(band.wavelength_nm / 1000, 6)  # micrometres
    return fields


def write_composite(
    image: xr.Dataset,
    folder: str | Path,
    *,
    source_items: Iterable[Any] | None = None,
    overwrite: bool = True,
    progress: Progress | None = None,
    outline: Outline | None = None,
) -> list[Path]:
    """Write each period of a composite as COGs with a STAC item beside them.

    Of each period come ``NAME.tif`` (reflectance: int16, times 10000, -32768 is no data,
    scale 0.0001 in the file's and the item's metadata), ``NAME_observations.tif`` (uint16),
    ``NAME_date.tif`` (uint16 days since 1970-01-01, 0 is no date) and, last, the item
    ``NAME.json``, all under a temporary name first: where there is an item, the period is
    complete. Periods without any date are passed over. Reflectance beyond 3.2767 is stored
    as that.

    Parameters
    ----------
    image
        What `composite` gave; lazy or loaded. Lazy, it is computed block by block.
    folder
        Made if absent.
    source_items
        The items that the cube was loaded from, ``pystac.Item`` or dicts; each period is
        linked to its own.
    overwrite
        False keeps the periods that are complete, of the same items, model, method and
        options, and on the same grid, and does not compute them.
    progress
        Called after each block with the name of the period, how many are done, and how many
        there are.
    outline
        The polygon that the rectangle was cut by, if it was: names then tell it, so that two
        polygons in one rectangle keep their files.

    Returns
    -------
    list of Path
        The reflectance COGs, one per period with dates, in order of time.

    Raises
    ------
    InputError
        If the dataset is not what `composite` gives, or an item of a period is missing.
    ReadError
        After all periods were tried, if some could not be computed; names them.
    ResourceError
        If memory or threads run out; the periods before are written.
    WriteError
        If the folder cannot be written to. What was there before stays, and nothing
        half-written is left.

    Examples
    --------
    >>> import tempfile
    >>> from kappamask import composite
    >>> cube = xr.DataArray(
    ...     np.full((1, 1, 2, 2), 0.1, "float32"),
    ...     dims=("time", "band", "y", "x"),
    ...     coords={"time": np.array(["2022-06-02T10:15:59"], "M8[ns]"), "band": ["B04"],
    ...             "y": [5154955.0, 5154945.0], "x": [674995.0, 675005.0]},
    ...     attrs={"level": "L2A"},
    ... ).rio.write_crs(32632)
    >>> labels = cube.isel(band=0, drop=True).copy(data=np.ones((1, 2, 2), "uint8"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in write_composite(composite(cube, labels, period="month"), folder)]
    ['kappamask_20220601_20220630_L2A_median_10m_...tif']
    """
    image = check_composite(image)
    records = make_records(image, source_items, outline)
    periods = {one.name: (one, image.isel(time=index)) for index, one in records.items()}
    return write_each(
        periods, folder, kind="composites", unit="period", overwrite=overwrite, progress=progress
    )


def check_composite(image: Any) -> xr.Dataset:
    """Check what is to be written; bring it north up, x to the east."""
    lacking = [
        name for name in CompositeRecord.PARTS if name not in getattr(image, "data_vars", ())
    ]
    lacking += [name for name in ("time_bounds", "date_count") if name not in image.coords]
    if not isinstance(image, xr.Dataset) or lacking or image["reflectance"].ndim != 4:
        raise InputError(
            "a composite is a Dataset with reflectance, observations, date and time_bounds, got "
            f"{type(image).__name__} without {', '.join(lacking) or 'the dims of those'}: pass "
            "what composite returned; of several periods choose with isel(time=[0])"
        )
    check_level(image.attrs.get("level"))
    names = [str(name) for name in image["band"].values]
    if other := [name for name in names if name not in BY_NAME or not BY_NAME[name].is_reflectance]:
        raise InputError(
            f"composite files hold reflectance of the bands {', '.join(BY_NAME)} but AOT and WVP, "
            f"got {', '.join(other)}: leave them out with cube.sel(band=...)"
        )
    return face_north(image)


def make_records(
    image: xr.Dataset, items: Iterable[Any] | None, outline: Outline | None = None
) -> dict[int, CompositeRecord]:
    """Say of each period with dates what is known before it is computed."""
    plane = north_up(image["observations"])
    placement = Placement(plane.rio.crs, plane.rio.transform(), plane.rio.shape)
    bounds = image["time_bounds"].values
    recipe = {name: image.attrs[name] for name in RECIPE if name in image.attrs}
    # Of a file, numbers come back as numpy's.
    recipe |= {n: v.item() for n, v in recipe.items() if isinstance(v, np.generic)}
    asked = image[BY].values if BY in image.coords else None
    # The end of a period is the start of the next one; the whole range ends with its last date.
    short = np.timedelta64(0 if recipe.get("period") == "whole" else 1, "ms")
    sources = _sources(image, items)
    return {
        index: CompositeRecord(
            start=bounds[index, 0],
            end=bounds[index, 1] - short,
            placement=placement,
            level=image.attrs["level"],
            names=tuple(str(name) for name in image["band"].values),
            recipe=recipe | ({} if asked is None else {BY: str(asked[index])}),
            model=image.attrs.get("kappamask_model"),
            model_sha256=image.attrs.get("kappamask_model_sha256"),
            sources=sources[index],
            outline=outline,
        )
        for index, count in enumerate(image["date_count"].values)
        if count
    }


def _sources(image: xr.Dataset, items: Iterable[Any] | None) -> list[tuple[Scene, ...]]:
    if "source_items" in image.coords or items is None:
        return sources_of_dates(image["observations"], items)
    known = [source_of(item) for item in items]
    return [
        tuple(source for source in known if start <= source.time <= end)
        for start, end in image["time_bounds"].values
    ]


def encode_reflectance(values: np.ndarray) -> np.ndarray:
    """Turn reflectance into what is stored.

    Examples
    --------
    >>> encode_reflectance(np.array([0.12345, -0.01, 9.0, np.nan])).tolist()
    [1234, -100, 32767, -32768]
    """
    stored = np.clip(np.round(values / SCALE), NODATA + 1, -NODATA - 1)
    return np.where(np.isnan(values), NODATA, stored).astype(np.int16)


def encode_dates(values: np.ndarray) -> np.ndarray:
    """Turn dates into days since 1970-01-01, 0 where there is none.

    Examples
    --------
    >>> encode_dates(np.array(["2022-06-20T10:15:59", "NaT"], "M8[ns]")).tolist()
    [19163, 0]
    """
    days = (values.astype("M8[D]") - EPOCH).astype(np.int64)
    return np.where(np.isnat(values), 0, days).astype(np.uint16)
