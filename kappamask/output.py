"""Masks on disk: one cloud-optimised GeoTIFF and one STAC item per date.

Row 5: imports `stac_item`, `bands`, `errors` and `legend`; never `plot`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
import rioxarray  # noqa: F401  (registers the .rio accessor)
import xarray as xr
from rasterio import Affine
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from kappamask import __version__
from kappamask.bands import check_level
from kappamask.errors import InputError, ItemError, ReadError, WriteError
from kappamask.legend import LEGEND
from kappamask.stac_item import (
    NODATA,
    Grid,
    MaskRecord,
    build_item,
    build_links,
    count_codes,
    grid_fields,
    names_of_dates,
    sources_of_dates,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

BLOCK = 512  # pixels; the tile of the COG layout
IRREGULAR = 1e-3  # of a pixel: how far a coordinate may stray from an even step
# What one unreadable date raises while it is computed; the other dates are still written.
DATE_ERRORS = (ItemError, OSError, RuntimeError)
COG = {
    "driver": "COG",
    "dtype": "uint8",
    "count": 1,
    "nodata": NODATA,
    "compress": "DEFLATE",
    "overview_resampling": "MODE",  # a class code has no mean
}


def write_mask(
    labels: xr.DataArray,
    folder: str | Path,
    *,
    source_items: Iterable[Any] | None = None,
    overwrite: bool = True,
    progress: Callable[[Path], object] | None = None,
) -> list[Path]:
    """Write each date of a label cube as a COG with a STAC item beside it.

    Dates are computed and written one at a time: memory holds one date, however
    many there are. Of each date come ``NAME.tif``, its class names for GDAL in
    ``NAME.tif.aux.xml`` and, last, the item ``NAME.json``, all under a temporary
    name first: where there is an item, the date is complete. The same labels give
    the same bytes.

    Parameters
    ----------
    labels
        uint8 class codes of `kappamask.Label`, dims (time, y, x), or (y, x) with a
        scalar ``time``; lazy or loaded. Needs evenly spaced ``x`` and ``y`` at pixel
        centres, a CRS (``labels.rio.crs``) and ``attrs["level"]``; ``kappamask_model``
        and ``kappamask_model_sha256`` in ``attrs`` are passed on. A coordinate
        ``source_items`` along time may hold the ids of each date's items, separated
        by spaces.
    folder
        Made if absent.
    source_items
        The items that the cube was loaded from, ``pystac.Item`` or dicts; each date
        is linked to its own by the ids above, else to those of its solar day.
    overwrite
        False keeps the dates that are complete, of the same items and model and on
        the same grid, and does not compute them: an interrupted run goes on where it
        stopped.
    progress
        Called with the path of the COG after each date.

    Returns
    -------
    list of Path
        The COGs, one per date, in the order of ``labels``.

    Raises
    ------
    InputError
        If the labels break a rule above, or an item of a date is missing.
    ItemError
        If one of `source_items` is no STAC item.
    ReadError
        After all dates were tried, if some could not be computed; names them.
    WriteError
        If the folder cannot be written to. What was there before stays, and nothing
        half-written is left.

    Notes
    -----
    COG: https://docs.ogc.org/is/21-026/21-026.html; item: STAC 1.1.0.

    Examples
    --------
    >>> labels = xr.DataArray(
    ...     np.ones((1, 2, 3), "uint8"),  # all clear
    ...     dims=("time", "y", "x"),
    ...     coords={
    ...         "time": np.array(["2022-06-02T10:15:59"], "datetime64[ns]"),
    ...         "y": [5154955.0, 5154945.0],
    ...         "x": [674995.0, 675005.0, 675015.0],
    ...     },
    ...     attrs={"level": "L2A"},
    ... ).rio.write_crs(32632)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in write_mask(labels, folder)]
    ['kappamask_20220602T101559_L2A.tif']
    """
    labels, grid = check_labels(labels)
    folder = Path(folder).absolute()
    records = _records(labels, grid, source_items)
    with _staging(folder, "masks"):
        pass  # a folder that cannot be written to is found before the first network call
    paths: list[Path] = []
    failed: dict[str, Exception] = {}
    for index, record in enumerate(records):
        path = folder / f"{record.name}.tif"
        if overwrite or not _is_complete(path, record):
            try:
                values = labels.isel(time=index).to_numpy()
            except DATE_ERRORS as error:
                failed[record.timestamp] = error
                continue
            _write_date(values, path, record)
        paths.append(path)
        if progress is not None:
            progress(path)
    _report(failed, total=len(records))
    return paths


def _report(failed: dict[str, Exception], *, total: int) -> None:
    if failed:
        reasons = "; ".join(f"{date}: {error}" for date, error in failed.items())
        raise ReadError(
            f"every date must be readable, got errors in {len(failed)} of {total}: {reasons}. "
            "The others are written: repeat with overwrite=False to try only these again"
        ) from next(iter(failed.values()))


def _records(labels: xr.DataArray, grid: Grid, items: Iterable[Any] | None) -> list[MaskRecord]:
    times = labels["time"].values
    level = labels.attrs["level"]
    sources = sources_of_dates(labels, items)
    names = names_of_dates(times, sources, level=level)
    return [
        MaskRecord(
            name=name,
            time=time,
            grid=grid,
            level=level,
            model=labels.attrs.get("kappamask_model"),
            model_sha256=labels.attrs.get("kappamask_model_sha256"),
            sources=date_sources,
        )
        for name, time, date_sources in zip(names, times, sources, strict=True)
    ]


def check_labels(labels: xr.DataArray) -> tuple[xr.DataArray, Grid]:
    """Check a label cube and bring it to (time, y, x), north up, x to the east.

    Codes are not looked at: that would compute the labels.

    Returns
    -------
    labels : DataArray
        Still lazy if it was.
    grid : Grid
        Where its pixels lie.

    Raises
    ------
    InputError
        If dims, dtype, size, time, level, CRS or coordinates break the rules of
        `write_mask`.
    """
    if not isinstance(labels, xr.DataArray) or not {"y", "x"} <= set(labels.dims):
        raise InputError(
            "labels must be a DataArray with dims (time, y, x) or (y, x), got "
            f"{getattr(labels, 'dims', type(labels).__name__)}: pass what predict_cube returned"
        )
    if "time" not in labels.dims and "time" in labels.coords:
        labels = labels.expand_dims("time")
    if set(labels.dims) != {"time", "y", "x"}:
        raise InputError(
            f"labels must have dims (time, y, x), or (y, x) and a scalar time, got {labels.dims}: "
            "select along other dims, or add labels.assign_coords(time=...)"
        )
    labels = labels.transpose("time", "y", "x")
    if labels.dtype != np.uint8:
        raise InputError(
            f"labels must be uint8 class codes, got {labels.dtype}: "
            "pass the labels, not probabilities, and do not mask them"
        )
    if 0 in labels.shape:
        raise InputError(
            f"labels must hold at least one date and pixel, got shape {labels.shape}: "
            "check the area and the dates"
        )
    _check_time(labels)
    check_level(labels.attrs.get("level"))
    if labels.rio.crs is None:
        raise InputError("labels must have a CRS, got none: add it with labels.rio.write_crs(...)")
    return _north_up(labels)


def _check_time(labels: xr.DataArray) -> None:
    times = labels["time"].values if "time" in labels.coords else np.arange(labels.sizes["time"])
    if not np.issubdtype(times.dtype, np.datetime64) or np.isnat(times).any():
        raise InputError(
            f"time must hold dates (datetime64 in UTC, none missing), got {times.dtype} "
            f"{times[:3]}: set labels['time'] to the sensing times"
        )


def _north_up(labels: xr.DataArray) -> tuple[xr.DataArray, Grid]:
    steps = _steps(labels)
    if steps["x"] < 0:
        labels = labels.isel(x=slice(None, None, -1))
    if steps["y"] > 0:
        labels = labels.isel(y=slice(None, None, -1))
    dx, dy = abs(steps["x"]), abs(steps["y"])
    left = float(labels["x"].values[0]) - dx / 2
    top = float(labels["y"].values[0]) + dy / 2
    transform = Affine(dx, 0.0, left, 0.0, -dy, top)
    return labels, Grid(labels.rio.crs, transform, (labels.sizes["y"], labels.sizes["x"]))


def _steps(labels: xr.DataArray) -> dict[str, float]:
    """Signed pixel size along x and y, in units of the CRS."""
    # 1. the coordinates  2. the recorded transform, if it does not contradict them
    steps = {axis: _measured_step(labels, axis) for axis in ("x", "y")}
    recorded = _recorded_steps(labels)
    agrees = all(
        step is None or np.isclose(abs(step), abs(recorded[axis]))
        for axis, step in steps.items()
        if recorded
    )
    resolved = {}
    for axis, step in steps.items():
        if step is None and not (recorded and agrees):
            raise InputError(
                f"the pixel size must be known, got a single coordinate along {axis} and no "
                "GeoTransform that fits: take an area of 2 x 2 pixels or more, or record it "
                "with labels.rio.write_transform(...)"
            )
        resolved[axis] = recorded[axis] if step is None else step
    return resolved


def _measured_step(labels: xr.DataArray, axis: str) -> float | None:
    if axis not in labels.coords:
        raise InputError(
            f"labels must have coordinates x and y at pixel centres, got no {axis}: "
            "a rotated or unreferenced raster must be warped to a grid first"
        )
    values = labels[axis].values.astype(float)
    if values.size == 1:
        return None
    step = float(values[-1] - values[0]) / (values.size - 1)
    even = values[0] + step * np.arange(values.size)
    if step == 0 or not np.abs(values - even).max() <= IRREGULAR * abs(step):
        raise InputError(
            f"{axis} must be evenly spaced, got {values[:4]}...: select a rectangle "
            "without gaps, or reindex it"
        )
    return step


def _recorded_steps(labels: xr.DataArray) -> dict[str, float]:
    """Pixel size as rioxarray wrote it down; empty if it did not.

    Its origin is not used: it stays behind when an array is cut.
    """
    text = labels.coords[labels.rio.grid_mapping].attrs.get("GeoTransform")
    if text is None:
        return {}
    _, dx, rotation, _, skew, dy = map(float, str(text).split())
    if rotation or skew:
        raise InputError(
            f"a mask must not be rotated, got rotation terms {rotation} and {skew}: "
            "warp it to a north-up grid first"
        )
    return {"x": dx, "y": dy}


def _is_complete(path: Path, record: MaskRecord) -> bool:
    """Whether this very mask was written before: time, grid, model and sources agree."""
    wanted = {
        "datetime": record.timestamp,
        "kappamask:model": record.model,
        "kappamask:model_sha256": record.model_sha256,
        **grid_fields(record.grid),
    }
    try:
        item = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        known = item["properties"]
        # Sources are told by their ids: addresses change with the server that is asked.
        ids = [link["title"] for link in item["links"]]
        return bool(
            all(known.get(name) == value for name, value in wanted.items())
            and ids == [link["title"] for link in build_links(record, folder=path.parent)]
            and item["assets"]["mask"]["file:size"] == path.stat().st_size
        )
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return False


def _write_date(values: np.ndarray, path: Path, record: MaskRecord) -> None:
    if values.max() >= len(LEGEND):
        raise InputError(
            f"labels must be codes of kappamask.Label, 0 to {len(LEGEND) - 1}, got "
            f"{values.max()} on {record.timestamp}: pass what predict_cube returned"
        )
    counts = count_codes(values)
    with _staging(path.parent, path.name) as staging:
        cog = _encode_cog(values, record)
        item = build_item(
            record,
            counts,
            folder=path.parent,
            sha256=hashlib.sha256(cog).hexdigest(),
            size=len(cog),
        )
        text = json.dumps(item, indent=2, ensure_ascii=False) + "\n"
        _publish(
            staging,
            {
                path: cog,
                path.with_name(f"{path.name}.aux.xml"): _category_names().encode(),
                path.with_suffix(".json"): text.encode(),
            },
        )


@contextmanager
def _staging(folder: Path, name: str) -> Iterator[Path]:
    """Lend a hidden folder inside `folder`, removed on any end; say OSErrors as WriteError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".kappamask-", dir=folder) as staging:
            yield Path(staging)
    except (OSError, RasterioError) as error:
        raise WriteError(
            f"the output folder must exist or be makable, be writable and have space, got "
            f"{getattr(error, 'strerror', None) or error} for {name} in {folder}: free some "
            "space or choose another folder (nothing half-written is left)"
        ) from error


def _publish(staging: Path, contents: dict[Path, bytes]) -> None:
    """Write all files aside, then move them; the last one tells that all are there."""
    for path, content in contents.items():
        (staging / path.name).write_bytes(content)
    *_, seal = contents
    seal.unlink(missing_ok=True)  # an old item must not vouch for a new mask
    for path in contents:
        (staging / path.name).replace(path)


def _encode_cog(values: np.ndarray, record: MaskRecord) -> bytes:
    # In memory, where it is a few MB: Python then writes it and hears of a full disk,
    # which GDAL may only log while it closes a file.
    rows, columns = record.grid.shape
    block = _block_size(rows, columns)
    profile = COG | {"width": columns, "height": rows, "blocksize": block}
    grid = {"crs": record.grid.crs, "transform": record.grid.transform}
    with MemoryFile() as memory:
        with memory.open(**profile, **grid) as raster:
            raster.write(values, 1)
            raster.write_colormap(1, {int(entry.label): (*entry.rgb, 255) for entry in LEGEND})
            raster.set_band_description(1, "label")
            raster.update_tags(**_tags(record))
            raster.update_tags(
                1,
                flag_values=", ".join(str(int(entry.label)) for entry in LEGEND),
                flag_meanings=" ".join(entry.name for entry in LEGEND),
            )
        return bytes(memory.read())


def _block_size(rows: int, columns: int) -> int:
    """512 pixels, unless that would look untiled to `rio cogeo validate`: then less.

    The validator takes a level that is taller than 512 pixels and exactly one block
    wide for a raster in strips; GDAL's own does so only above 1024.
    """
    widths = {columns >> level for level in range(rows.bit_length()) if rows >> level > BLOCK}
    return next((size for size in (BLOCK, 256, 128, 64, 32) if size not in widths), BLOCK)


def _tags(record: MaskRecord) -> dict[str, str]:
    tags = {
        "TIFFTAG_SOFTWARE": f"kappamask {__version__}",
        "TIFFTAG_COPYRIGHT": record.credit,
        "datetime": record.timestamp,
        "level": record.level,
        "model": record.model,
        "model_sha256": record.model_sha256,
        "source_items": " ".join(source.id for source in record.sources),
    }
    return {name: value for name, value in tags.items() if value}


def _category_names() -> str:
    """Class names as GDAL reads them: TIFF has no place for them, so they lie beside it."""
    names = "".join(f"      <Category>{escape(entry.title)}</Category>\n" for entry in LEGEND)
    return (
        '<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n'
        f"{names}    </CategoryNames>\n  </PAMRasterBand>\n</PAMDataset>\n"
    )
