"""Masks on disk: one GeoTIFF and one STAC item per date. Imports `records`, never `plot`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from xml.sax.saxutils import escape

import numpy as np

from kappamask.base.errors import InputError
from kappamask.base.legend import LEGEND, SNOW_LEGEND, ClassEntry, Label, Snow
from kappamask.base.pixels import count_codes
from kappamask.outputs.cog import BLOCK, Layer, Placement, Strips, read_blocks
from kappamask.outputs.records import (
    Outline,
    Record,
    grid_fields,
    told,
    write_each,
)
from kappamask.predict.cube import BY, check_same
from kappamask.scenes.scene import sun_of
from kappamask.scenes.sources import sources_of_dates

if TYPE_CHECKING:
    import xarray as xr

NODATA = int(Label.MISSING)
# STAC wants a span of time where there is no time: all of the mission's, so far and to come.
UNKNOWN_TIME = {
    "datetime": None,
    "start_datetime": "2015-06-23T00:00:00Z",
    "end_datetime": "2099-12-31T23:59:59Z",
}


@dataclass(frozen=True)
class MaskRecord(Record):
    """All that is known of one mask before it is computed.

    Its pixels are uint8 class codes (y, x), lazy or loaded, or `Strips` of them; with snow
    (2, y, x), the codes of `Snow` behind those of the classes.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("mask", "snow")

    time: np.datetime64  # UTC; NaT where a raster does not tell it
    suffix: str = ""  # of the name, where another mask has the same one without
    snow: bool = False  # whether its pixels come with snow
    keep_snow: bool = False  # in a file of its own
    refined_by: tuple[str, ...] = ()  # days of the dates that were asked, where any were

    @property
    def parts(self) -> tuple[str, ...]:
        """The mask, and snow where it is kept."""
        return self.PARTS if self.keep_snow else self.PARTS[:1]

    @property
    def short_name(self) -> str:
        """The time comes first, as in a Sentinel-2 product's own name.

        So names sort by date whether or not a tile is known.

        Examples
        --------
        >>> from rasterio import Affine
        >>> from rasterio.crs import CRS
        >>> from kappamask.scenes.scene import Scene
        >>> source, corner = (Scene("S2A_a", tile="32TPS"),), Affine(10, 0, 600000, 0, -10, 5200020)
        >>> when = np.datetime64("2022-06-02")
        >>> for shape in ((10980, 10980), (24, 24)):
        ...     placement = Placement(CRS.from_epsg(32632), corner, shape)
        ...     print(MaskRecord(placement, "L2A", None, None, source, when).name)
        kappamask_20220602T000000_T32TPS_L2A
        kappamask_20220602T000000_T32TPS_L2A_10m_...
        """
        stamp = re.sub("[-:]", "", self.timestamp[:19]) or self.sources[0].id
        tile = [f"T{self.tile}"] if self.tile else []
        return "_".join(["kappamask", stamp, *tile, self.level, *filter(None, [self.suffix])])

    @property
    def timestamp(self) -> str:
        """The sensing time as RFC 3339 wants it; "" where it is not known."""
        return "" if np.isnat(self.time) else f"{np.datetime_as_string(self.time, unit='us')}Z"

    @property
    def moments(self) -> tuple[str, ...]:
        """The sensing time, if it is known."""
        return (self.timestamp,) if self.timestamp else ()

    @property
    def identity(self) -> dict[str, Any]:
        """Time, grid and model."""
        asked = {"kappamask:refined_by": list(self.refined_by)} if self.refined_by else {}
        known = {**grid_fields(self.placement), **self.optional, **asked}
        return {"datetime": self.timestamp or None, **known}

    def layers(self, pixels: Any) -> list[Layer]:
        """Say how class codes are stored: with palette, class names and tags."""
        own = {"datetime": self.timestamp}, {"model_sha256": self.model_sha256 or ""}
        planes = [pixels, pixels]
        if not isinstance(pixels, Strips):
            import dask.array as da

            array = da.asarray(pixels)
            planes = [array[:1], array[1:]] if array.ndim == 3 else [array[None]]
        parts = [("mask", "label", LEGEND, NODATA, True)]
        if self.snow:
            parts.append(("snow", "snow", SNOW_LEGEND, int(Snow.MISSING), self.keep_snow))
        return [
            Layer(
                self.file_name(part),
                plane,
                (band,),
                nodata=nodata,
                resampling="MODE",  # a class code has no mean
                tags={name: value for name, value in self.tags(*own).items() if value},
                band_tags={
                    "flag_values": ", ".join(str(int(entry.label)) for entry in legend),
                    "flag_meanings": " ".join(entry.name for entry in legend),
                },
                colors={int(entry.label): (*entry.rgb, 255) for entry in legend},
                blocksize=_block_size(*self.placement.shape),
                compact=True,
                counts=Counter({int(entry.label): 0 for entry in legend if part == "snow"}),
                kept=kept,
            )
            for plane, (part, band, legend, nodata, kept) in zip(planes, parts, strict=False)
        ]

    def measure(self, paths: Sequence[Path], layers: Sequence[Layer]) -> Found:
        """Count the pixels of each class code, and of snow."""
        where = f"on {self.timestamp}"
        codes: Any = sum(count_codes(block, where=where) for block in read_blocks(paths[0]))
        return Found(codes, layers[1].counts if self.snow else None)

    def properties(self, found: Found) -> dict[str, Any]:
        """Say the record, the cloud cover and the snow cover in the words of STAC.

        ``eo:cloud_cover`` is the percentage of the pixels with data that are labelled cloud
        or semi-transparent cloud, ``eo:snow_cover`` that of those that are clear and covered by
        snow: what lies under clouds nobody knows. A mask without any data has neither, one
        without B11 no snow.
        """
        platforms = {source.platform for source in self.sources}
        seen = found.codes.sum() - found.codes[Label.MISSING]
        cloudy = found.codes[[Label.CLOUD, Label.SEMI_TRANSPARENT]].sum()
        snowy = None if found.snow is None else found.snow[int(Snow.SNOW)]
        lineage = (
            f"Sentinel-2 {self.level} reflectance labelled pixel by pixel with "
            f"{self.model or 'an unnamed model'}"
        )
        if self.refined_by:
            lineage += f", refined by {len(self.refined_by)} other dates and the sun"
        lit = [source for source in self.sources if source.sun is not None]
        sun = [round(degrees, 4) for degrees in sun_of(lit)] if lit else [None, None]
        optional = {
            "kappamask:refined_by": list(self.refined_by) or None,
            "view:sun_azimuth": sun[0],
            "view:sun_elevation": sun[1],
            "platform": platforms.pop() if len(platforms) == 1 else None,
            "eo:cloud_cover": round(100 * float(cloudy / seen), 4) if seen else None,
            "eo:snow_cover": None if snowy is None or not seen else round(100 * snowy / seen, 4),
            **self.optional,
        }
        known = {"datetime": self.timestamp}
        return {
            **(known if self.timestamp else UNKNOWN_TIME),
            **self.about(f"Cloud mask of {self.timestamp[:10] or self.sources[0].id}"),
            **grid_fields(self.placement),
            **self.processing(lineage),
            **told(optional),
        }

    def assets(self, found: Found) -> dict[str, dict[str, Any]]:
        """Say what the files hold, class by class."""
        return {
            "mask": _classes_asset(
                "Cloud mask", ["data", "cloud", "cloud-shadow"], LEGEND, found.codes
            ),
            "snow": _classes_asset(
                "Snow on clear ground", ["data", "snow-ice"], SNOW_LEGEND, found.snow or Counter()
            ),
        }

    def companions(self) -> dict[str, str]:
        """Class names as GDAL reads them: TIFF has no place for them, so they lie beside it."""
        names = "".join(f"      <Category>{escape(entry.title)}</Category>\n" for entry in LEGEND)
        text = (
            '<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n'
            f"{names}    </CategoryNames>\n  </PAMRasterBand>\n</PAMDataset>\n"
        )
        return {f"{self.file_name('mask')}.aux.xml": text}


@dataclass(frozen=True, eq=False)
class Found:
    """What the pixels of a mask are."""

    codes: np.ndarray  # (6,) pixels by class code
    snow: Counter[int] | None  # pixels by code of `Snow`; None where it is not told


def _classes_asset(
    title: str, roles: list[str], legend: Sequence[ClassEntry], counts: Any
) -> dict[str, Any]:
    """Describe a raster of classes; `counts` are its pixels by code."""
    total = float(sum(counts[int(entry.label)] for entry in legend))
    nodata = int(legend[-1].label)  # missing stands last
    return {
        "title": title,
        "roles": roles,
        "data_type": "uint8",
        "nodata": nodata,
        "file:checksum": None,  # their places: the same labels give the same bytes as ever
        "file:size": None,
        "classification:classes": [
            {
                "value": int(entry.label),
                "name": entry.name,
                "title": entry.title,
                "description": entry.description,
                "color_hint": entry.color,
                "nodata": int(entry.label) == nodata,
                "percentage": round(100 * float(counts[int(entry.label)]) / (total or 1), 4),
                "count": int(counts[int(entry.label)]),
            }
            for entry in legend
        ],
    }


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
    snow: xr.DataArray | None = None,
    outline: Outline | None = None,
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
    snow
        Codes of snow of the same dates and pixels, ``predict_cube(cube, output="snow")``: the
        items then tell ``eo:snow_cover``.
    outline
        The polygon that the rectangle was cut by, if it was: names then tell it, so that two
        polygons in one rectangle keep their files.

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
    >>> import tempfile, rioxarray, xarray as xr
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
    ['kappamask_20220602T101559_L2A_10m_...tif']
    """
    import dask.array as da

    from kappamask.outputs.label_cube import check_labels, north_up

    labels = check_labels(labels)
    records = make_records(labels, source_items, outline)
    pixels = labels.data
    if snow is not None:
        snow = snow if "time" in snow.dims else snow.expand_dims("time")
        snow = north_up(snow.transpose("time", "y", "x"))
        check_same(labels, snow, "cover the same pixels", dims=("time", "y", "x"))
        pixels = da.stack([labels.data, snow.data], axis=1)
        records = [replace(record, snow=True) for record in records]
    dates = {one.timestamp: (one, plane) for one, plane in zip(records, pixels, strict=True)}
    return write_each(dates, folder, kind="masks", unit="date", overwrite=overwrite)


def make_records(
    labels: xr.DataArray, items: Iterable[Any] | None, outline: Outline | None = None
) -> list[MaskRecord]:
    """Say of each date of a checked label cube what is known before it is computed."""
    times = labels["time"].values
    placement = Placement(labels.rio.crs, labels.rio.transform(), labels.rio.shape)
    asked = [str(by) for by in labels[BY].values] if BY in labels.coords else [""] * times.size
    records = [
        MaskRecord(
            time=time,
            placement=placement,
            level=labels.attrs["level"],
            model=labels.attrs.get("kappamask_model"),
            model_sha256=labels.attrs.get("kappamask_model_sha256"),
            sources=sources,
            refined_by=tuple(by.split()),
            outline=outline,
        )
        for time, sources, by in zip(times, sources_of_dates(labels, items), asked, strict=True)
    ]
    counts = Counter(record.name for record in records)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise InputError(
            f"each date must have a second of its own, got {', '.join(twice)} more than once: "
            "group the items by solar day or drop the duplicates"
        )
    return records
