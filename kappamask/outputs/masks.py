"""Masks on disk: one GeoTIFF and one STAC item per date. Imports `records`, never `plot`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from xml.sax.saxutils import escape

import numpy as np
import xarray as xr

from kappamask.base.errors import InputError
from kappamask.base.files import check_folder
from kappamask.base.legend import LEGEND, Label
from kappamask.base.pixels import count_codes
from kappamask.outputs.cog import BLOCK, Layer, Placement, Strips, read_blocks
from kappamask.outputs.records import Record, grid_fields, told, write_each, write_record
from kappamask.scenes.sources import sources_of_dates

NODATA = int(Label.MISSING)


@dataclass(frozen=True)
class MaskRecord(Record):
    """All that is known of one mask before it is computed.

    Its pixels are uint8 class codes (y, x), lazy or loaded, or `Strips` of them.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("mask",)

    time: np.datetime64  # UTC

    @property
    def name(self) -> str:
        """Of the files, without suffix; also the item's id.

        The time comes first, as in a Sentinel-2 product's own name, so that names sort
        by date whether or not a tile is known.

        Examples
        --------
        >>> from kappamask.scenes.scene import Scene
        >>> source = Scene("S2A_a", tile="32TPS")
        >>> MaskRecord(None, "L2A", None, None, (source,), np.datetime64("2022-06-02")).name
        'kappamask_20220602T000000_T32TPS_L2A'
        """
        stamp = re.sub("[-:]", "", self.timestamp[:19])
        tile = [f"T{self.tile}"] if self.tile else []
        return "_".join(["kappamask", stamp, *tile, self.level])

    @property
    def timestamp(self) -> str:
        """The sensing time as RFC 3339 wants it."""
        return f"{np.datetime_as_string(self.time, unit='us')}Z"

    @property
    def moments(self) -> tuple[str, ...]:
        """The sensing time."""
        return (self.timestamp,)

    @property
    def identity(self) -> dict[str, Any]:
        """Time, grid and model."""
        return {"datetime": self.timestamp, **grid_fields(self.placement), **self.optional}

    def layers(self, pixels: Any) -> list[Layer]:
        """Say how class codes are stored: with palette, class names and tags."""
        import dask.array as da

        own = {"datetime": self.timestamp}, {"model_sha256": self.model_sha256 or ""}
        return [
            Layer(
                self.file_name("mask"),
                pixels if isinstance(pixels, Strips) else da.asarray(pixels)[None],
                ("label",),
                nodata=NODATA,
                resampling="MODE",  # a class code has no mean
                tags={name: value for name, value in self.tags(*own).items() if value},
                band_tags={
                    "flag_values": ", ".join(str(int(entry.label)) for entry in LEGEND),
                    "flag_meanings": " ".join(entry.name for entry in LEGEND),
                },
                colors={int(entry.label): (*entry.rgb, 255) for entry in LEGEND},
                blocksize=_block_size(*self.placement.shape),
                compact=True,
            )
        ]

    def measure(self, paths: Sequence[Path]) -> np.ndarray:
        """Count the pixels of each class code: integers (6,)."""
        where = f"on {self.timestamp}"
        return sum(  # type: ignore[return-value]  # there is at least one block
            count_codes(block, where=where) for block in read_blocks(paths[0])
        )

    def properties(self, found: np.ndarray) -> dict[str, Any]:
        """Say the record and the cloud cover in the words of STAC.

        ``eo:cloud_cover`` is the percentage of the pixels with data that are labelled cloud
        or semi-transparent cloud; a mask without any data has none.
        """
        platforms = {source.platform for source in self.sources}
        seen = found.sum() - found[Label.MISSING]
        cloudy = found[[Label.CLOUD, Label.SEMI_TRANSPARENT]].sum()
        lineage = (
            f"Sentinel-2 {self.level} reflectance labelled pixel by pixel with "
            f"{self.model or 'an unnamed model'}"
        )
        optional = {
            "platform": platforms.pop() if len(platforms) == 1 else None,
            "eo:cloud_cover": round(100 * float(cloudy / seen), 4) if seen else None,
            **self.optional,
        }
        return {
            "datetime": self.timestamp,
            **self.about(f"Cloud mask of {self.timestamp[:10]}"),
            **grid_fields(self.placement),
            **self.processing(lineage),
            **told(optional),
        }

    def assets(self, found: np.ndarray) -> dict[str, dict[str, Any]]:
        """Say what the file holds, class by class."""
        total = float(found.sum())
        classes = [
            {
                "value": int(entry.label),
                "name": entry.name,
                "title": entry.title,
                "description": entry.description,
                "color_hint": entry.color,
                "nodata": int(entry.label) == NODATA,
                "percentage": round(100 * float(found[entry.label]) / total, 4),
                "count": int(found[entry.label]),
            }
            for entry in LEGEND
        ]
        mask = {
            "title": "Cloud mask",
            "roles": ["data", "cloud", "cloud-shadow"],
            "data_type": "uint8",
            "nodata": NODATA,
            "file:checksum": None,  # their places: the same labels give the same bytes as ever
            "file:size": None,
            "classification:classes": classes,
        }
        return {"mask": mask}

    def companions(self) -> dict[str, str]:
        """Class names as GDAL reads them: TIFF has no place for them, so they lie beside it."""
        names = "".join(f"      <Category>{escape(entry.title)}</Category>\n" for entry in LEGEND)
        text = (
            '<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n'
            f"{names}    </CategoryNames>\n  </PAMRasterBand>\n</PAMDataset>\n"
        )
        return {f"{self.file_name('mask')}.aux.xml": text}


def _block_size(rows: int, columns: int) -> int:
    """512 pixels, unless that would look untiled to `rio cogeo validate`: then less.

    The validator takes a level that is taller than 512 pixels and exactly one block
    wide for a raster in strips; GDAL's own does so only above 1024.
    """
    widths = {columns >> level for level in range(rows.bit_length()) if rows >> level > BLOCK}
    return next((size for size in (BLOCK, 256, 128, 64, 32) if size not in widths), BLOCK)


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
    from kappamask.outputs.label_cube import check_labels

    labels = check_labels(labels)
    folder = Path(folder).absolute()
    records = make_records(labels, source_items)
    check_folder(folder, "masks")  # before the first network call
    work = {
        record.timestamp: partial(
            write_record, record, labels.isel(time=index).data, folder, overwrite=overwrite
        )
        for index, record in enumerate(records)
    }
    return write_each(work, unit="date")


def make_records(labels: xr.DataArray, items: Iterable[Any] | None) -> list[MaskRecord]:
    """Say of each date of a checked label cube what is known before it is computed."""
    times = labels["time"].values
    placement = Placement(labels.rio.crs, labels.rio.transform(), labels.rio.shape)
    records = [
        MaskRecord(
            time=time,
            placement=placement,
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
