"""Composites on disk: three GeoTIFFs and one STAC item per period. Row 5: imports no pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rioxarray  # noqa: F401  (registers the .rio accessor)
import xarray as xr

from kappamask import __version__
from kappamask.base.bands import BY_NAME, check_level
from kappamask.base.errors import InputError, ReadError
from kappamask.base.files import check_folder, move_in, staging
from kappamask.outputs.composite_item import (
    EPOCH,
    NODATA,
    PARTS,
    SCALE,
    CompositeRecord,
    Coverage,
    build_composite_item,
    fixed_properties,
)
from kappamask.outputs.label_cube import north_up
from kappamask.outputs.raster_writer import (
    BlockError,
    Layer,
    Placement,
    describe_file,
    write_layers,
)
from kappamask.outputs.stac_item import build_links
from kappamask.scenes.scene import Scene
from kappamask.scenes.sources import source_of, sources_of_dates

RECIPE = ("method", "period", "buffer_cloud_m", "buffer_shadow_m", "ranking")
Progress = Callable[[str, int, int], object]


def write_composite(
    image: xr.Dataset,
    folder: str | Path,
    *,
    source_items: Iterable[Any] | None = None,
    overwrite: bool = True,
    progress: Progress | None = None,
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
    ['kappamask_20220601_20220630_L2A_median.tif']
    """
    image = check_composite(image)
    folder = Path(folder).absolute()
    records = make_records(image, source_items)
    check_folder(folder, "composites")  # before anything is computed
    paths: list[Path] = []
    failed: dict[str, Exception] = {}
    for index, record in records.items():
        path = folder / record.file_name("reflectance")
        if overwrite or not is_complete(record, folder):
            try:
                write_period(image.isel(time=index), record, folder, progress=progress)
            except BlockError as error:
                failed[record.name] = error
                continue
        paths.append(path)
    if failed:
        reasons = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise ReadError(
            f"every period must be readable, got errors in {len(failed)} of {len(records)}: "
            f"{reasons}. The others are written: repeat with overwrite=False to try only these "
            "again"
        ) from next(iter(failed.values()))
    return paths


def check_composite(image: Any) -> xr.Dataset:
    """Check what is to be written; bring it north up, x to the east."""
    lacking = [name for name in PARTS if name not in getattr(image, "data_vars", ())]
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
    flips = {
        dim: slice(None, None, -1)
        for dim, falls in (("x", False), ("y", True))
        if (image[dim].values[0] > image[dim].values[-1]) != falls and image.sizes[dim] > 1
    }
    return image.isel(flips)


def make_records(image: xr.Dataset, items: Iterable[Any] | None) -> dict[int, CompositeRecord]:
    """Say of each period with dates what is known before it is computed."""
    plane = north_up(image["observations"])
    bounds = image["time_bounds"].values
    recipe = {name: image.attrs[name] for name in RECIPE if name in image.attrs}
    # The end of a period is the start of the next one; the whole range ends with its last date.
    short = np.timedelta64(0 if recipe.get("period") == "whole" else 1, "ms")
    sources = _sources(image, items)
    return {
        index: CompositeRecord(
            start=bounds[index, 0],
            end=bounds[index, 1] - short,
            crs=plane.rio.crs,
            transform=plane.rio.transform(),
            shape=plane.rio.shape,
            level=image.attrs["level"],
            bands=tuple(str(name) for name in image["band"].values),
            recipe=recipe,
            model=image.attrs.get("kappamask_model"),
            model_sha256=image.attrs.get("kappamask_model_sha256"),
            sources=sources[index],
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


def is_complete(record: CompositeRecord, folder: Path) -> bool:
    """Tell whether this very composite was written before."""
    links = build_links(record, folder=folder)
    try:
        item = json.loads((folder / f"{record.name}.json").read_text(encoding="utf-8"))
        known = item["properties"]
        wanted = json.loads(json.dumps(fixed_properties(record)))
        return bool(
            all(known[name] == value for name, value in wanted.items())
            and [link["title"] for link in item["links"]] == [link["title"] for link in links]
            and [band["name"] for band in item["assets"]["reflectance"]["bands"]]
            == list(record.bands)
            and all(
                item["assets"][part]["file:size"]
                == (folder / record.file_name(part)).stat().st_size
                for part in PARTS
            )
        )
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return False


def write_period(
    image: xr.Dataset, record: CompositeRecord, folder: Path, *, progress: Progress | None = None
) -> None:
    """Write one period: rasters and, last, the item that vouches for them."""
    layers = make_layers(image, record)
    blocks = layers[0].pixels.npartitions
    done = 0

    def on_block() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(record.name, done, blocks)

    with staging(folder, record.name) as aside:
        placement = Placement(record.crs, record.transform, record.shape)
        paths = write_layers(layers, aside, placement, on_block=on_block)
        files = {part: describe_file(path) for part, path in zip(PARTS, paths, strict=True)}
        coverage = count_observations(paths[PARTS.index("observations")])
        item = build_composite_item(record, coverage, files, folder=folder)
        seal = f"{record.name}.json"
        text = json.dumps(item, indent=2, ensure_ascii=False) + "\n"
        (aside / seal).write_text(text, encoding="utf-8")
        move_in(aside, [*(folder / path.name for path in paths), folder / seal])


def make_layers(image: xr.Dataset, record: CompositeRecord) -> list[Layer]:
    """Say how each part of a composite is stored, in the order of `PARTS`."""
    import dask.array as da

    reflectance = da.asarray(image["reflectance"].transpose("band", "y", "x").data)
    observations, dates = (
        da.asarray(image[name].transpose("y", "x").data)[None] for name in ("observations", "date")
    )
    tags = {
        "TIFFTAG_SOFTWARE": f"kappamask {__version__}",
        "TIFFTAG_COPYRIGHT": record.credit,
        "start_datetime": record.span[0],
        "end_datetime": record.span[1],
        "level": record.level,
        "model": record.model or "",
        **{name: str(value) for name, value in record.recipe.items()},
        "source_items": " ".join(source.id for source in record.sources),
    }
    return [
        Layer(
            record.file_name("reflectance"),
            da.map_blocks(encode_reflectance, reflectance, dtype=np.int16),
            record.bands,
            nodata=NODATA,
            resampling="AVERAGE",
            scale=SCALE,
            unit="1",
            tags=tags,
        ),
        Layer(
            record.file_name("observations"),
            observations.astype(np.uint16),
            ("observations",),
            nodata=None,  # 0 is a count
            resampling="AVERAGE",
            unit="1",
            tags=tags,
        ),
        Layer(
            record.file_name("date"),
            da.map_blocks(encode_dates, dates, dtype=np.uint16),
            ("date",),
            nodata=0,
            resampling="NEAREST",  # a mean of dates is none of them
            unit="days since 1970-01-01",
            tags=tags,
        ),
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


def count_observations(path: Path) -> Coverage:
    """Read back how often the pixels were seen clear, block by block."""
    pixels = never = total = most = 0
    with rasterio.open(path) as raster:
        for _, window in raster.block_windows(1):
            counts = raster.read(1, window=window)
            pixels += counts.size
            never += int((counts == 0).sum())
            total += int(counts.sum(dtype=np.int64))
            most = max(most, int(counts.max()))
    return Coverage(pixels, never, total, most)
