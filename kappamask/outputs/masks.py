"""Masks on disk: one GeoTIFF and one STAC item per date. Row 6: never imports `plot`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import xarray as xr
from rasterio.io import MemoryFile

from kappamask import __version__
from kappamask.base.errors import InputError, ItemError, ReadError
from kappamask.base.files import check_folder, publish, staging
from kappamask.base.legend import LEGEND
from kappamask.base.limits import limits_named, refuse_limit
from kappamask.outputs.label_cube import check_labels, count_codes
from kappamask.outputs.stac_item import NODATA, MaskRecord, build_item, build_links, grid_fields
from kappamask.scenes.sources import sources_of_dates

BLOCK = 512  # pixels; the tile of the COG layout
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
    ResourceError
        If memory or threads run out; the dates before are written.
    WriteError
        If the folder cannot be written to. What was there before stays, and nothing
        half-written is left.

    Notes
    -----
    COG: https://docs.ogc.org/is/21-026/21-026.html; item: STAC 1.1.0.

    Examples
    --------
    >>> import tempfile
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
    labels = check_labels(labels)
    folder = Path(folder).absolute()
    records = make_records(labels, source_items)
    check_folder(folder, "masks")  # before the first network call
    paths: list[Path] = []
    failed: dict[str, Exception] = {}
    for index, record in enumerate(records):
        path = folder / f"{record.name}.tif"
        if overwrite or not is_complete(path, record):
            try:
                values = labels.isel(time=index).to_numpy()
            except (MemoryError, *DATE_ERRORS) as error:
                refuse_limit(error)  # the other dates are as large
                failed[record.timestamp] = error
                continue
            write_date(values, path, record)
        paths.append(path)
    if failed:
        reasons = "; ".join(f"{date}: {error}" for date, error in failed.items())
        raise ReadError(
            f"every date must be readable, got errors in {len(failed)} of {len(records)}: "
            f"{reasons}. The others are written: repeat with overwrite=False to try only these "
            "again"
        ) from next(iter(failed.values()))
    return paths


def make_records(labels: xr.DataArray, items: Iterable[Any] | None) -> list[MaskRecord]:
    """Say of each date of a checked label cube what is known before it is computed."""
    times = labels["time"].values
    records = [
        MaskRecord(
            time=time,
            crs=labels.rio.crs,
            transform=labels.rio.transform(),
            shape=labels.rio.shape,
            level=labels.attrs["level"],
            model=labels.attrs.get("kappamask_model"),
            model_sha256=labels.attrs.get("kappamask_model_sha256"),
            sources=sources,
        )
        for time, sources in zip(times, sources_of_dates(labels, items), strict=True)
    ]
    counts = Counter(record.name for record in records)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise InputError(
            f"each date must have a second of its own, got {', '.join(twice)} more than once: "
            "group the items by solar day or drop the duplicates"
        )
    return records


def is_complete(path: Path, record: MaskRecord) -> bool:
    """Tell whether this very mask was written before: time, grid, model and sources agree."""
    wanted = {
        "datetime": record.timestamp,
        "kappamask:model": record.model,
        "kappamask:model_sha256": record.model_sha256,
        **grid_fields(record),
    }
    links = build_links(record, folder=path.parent)
    try:
        item = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        known = item["properties"]
        return bool(
            all(known.get(name) == value for name, value in wanted.items())
            # Titles hold the ids of the sources; addresses change with the server that is asked.
            and [link["title"] for link in item["links"]] == [link["title"] for link in links]
            and item["assets"]["mask"]["file:size"] == path.stat().st_size
        )
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return False


def write_date(values: np.ndarray, path: Path, record: MaskRecord) -> None:
    """Write one date."""
    counts = count_codes(values, where=f"on {record.timestamp}")
    with limits_named(), staging(path.parent, path.name) as aside:
        publish_mask(aside, encode_cog(values, record), counts, path, record)


def publish_mask(
    aside: Path, cog: bytes, counts: np.ndarray, path: Path, record: MaskRecord
) -> None:
    """Write raster, class names and, last, the item that vouches for them.

    Parameters
    ----------
    aside
        What `staging` lends.
    cog
        Content of the GeoTIFF.
    counts
        Pixels per class code, integers (6,).
    path
        Of the GeoTIFF.
    record
        What the mask is.
    """
    digest = hashlib.sha256(cog).hexdigest()
    item = build_item(record, counts, folder=path.parent, sha256=digest, size=len(cog))
    text = json.dumps(item, indent=2, ensure_ascii=False) + "\n"
    names = path.with_name(f"{path.name}.aux.xml")
    seal = path.with_suffix(".json")
    publish(aside, {path: cog, names: _category_names().encode(), seal: text.encode()})


def encode_cog(values: np.ndarray, record: MaskRecord) -> bytes:
    """Encode labels (y, x) as a cloud-optimised GeoTIFF with palette, class names and tags.

    In memory, where it is a few MB: Python then writes it and hears of a full disk,
    which GDAL may only log while it closes a file.
    """
    with MemoryFile() as memory:
        with memory.open(**COG, **cog_grid(record)) as raster:
            raster.write(values, 1)
            describe_raster(raster, record)
        return bytes(memory.read())


def cog_grid(record: MaskRecord) -> dict[str, Any]:
    """Say size, blocks and place of a mask in the words of rasterio."""
    rows, columns = record.shape
    return {
        "width": columns,
        "height": rows,
        "blocksize": _block_size(rows, columns),
        "crs": record.crs,
        "transform": record.transform,
    }


def describe_raster(raster: Any, record: MaskRecord) -> None:
    """Give an open raster its palette, class names and tags."""
    raster.write_colormap(1, {int(entry.label): (*entry.rgb, 255) for entry in LEGEND})
    raster.set_band_description(1, "label")
    raster.update_tags(**_tags(record))
    raster.update_tags(
        1,
        flag_values=", ".join(str(int(entry.label)) for entry in LEGEND),
        flag_meanings=" ".join(entry.name for entry in LEGEND),
    )


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
