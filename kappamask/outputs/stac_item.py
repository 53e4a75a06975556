"""The STAC item of a mask. Row 5: imports `sources`, `area`, `legend` and `errors`; no pixels."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely
from pyproj import Transformer
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.transform import array_bounds
from shapely.geometry import MultiPolygon, Polygon, mapping
from shapely.geometry.polygon import orient

from kappamask import __version__
from kappamask.base.errors import InputError, redact
from kappamask.base.legend import LEGEND, Label
from kappamask.scenes.area import cut_at_antimeridian
from kappamask.scenes.scene import Scene

NODATA = int(Label.MISSING)
MEDIA_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
EXTENSIONS = {
    "classification": "2.0.0", "eo": "2.0.0", "file": "2.1.0", "grid": "1.1.0",
    "processing": "1.2.0", "projection": "2.0.0", "raster": "2.0.0",
}  # fmt: skip
EDGE_PIECES = 8  # per side of a footprint; 110 km in UTM then lie within 3 m of the true edge


class Described(Protocol):
    """What every raster that an item describes can say of itself."""

    @property
    def crs(self) -> CRS:
        """Of its pixels."""

    @property
    def transform(self) -> Affine:
        """From (column, row) of a pixel corner to x, y; north up."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Outer edges: left, bottom, right, top."""

    @property
    def model(self) -> str | None:
        """Name of the model that made its labels."""

    @property
    def sources(self) -> tuple[Scene, ...]:
        """The items it was made from."""


@dataclass(frozen=True)
class MaskRecord:
    """All that is known of one written mask; `build_item` says it in STAC."""

    time: np.datetime64  # UTC
    crs: CRS
    transform: Affine  # (column, row) of a pixel corner -> x, y; north up
    shape: tuple[int, int]  # rows, columns
    level: str  # "L1C" or "L2A"
    model: str | None
    model_sha256: str | None
    sources: tuple[Scene, ...]

    @property
    def name(self) -> str:
        """Of the files, without suffix; also the item's id.

        The time comes first, as in a Sentinel-2 product's own name, so that names sort
        by date whether or not a tile is known.
        """
        stamp = re.sub("[-:]", "", self.timestamp[:19])
        tile = [f"T{self.tile}"] if self.tile else []
        return "_".join(["kappamask", stamp, *tile, self.level])

    @property
    def tile(self) -> str | None:
        """The MGRS tile, if every source lies in one and the same."""
        tiles = {source.tile for source in self.sources}
        return tiles.pop() if len(tiles) == 1 else None

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Outer edges: left, bottom, right, top in units of the CRS."""
        return array_bounds(*self.shape, self.transform)  # type: ignore[no-any-return]

    @property
    def timestamp(self) -> str:
        """The sensing time as RFC 3339 wants it."""
        return f"{np.datetime_as_string(self.time, unit='us')}Z"

    @property
    def credit(self) -> str:
        """The sentence that the Copernicus licence asks for."""
        return f"Contains modified Copernicus Sentinel data {self.timestamp[:4]}"


def build_item(
    record: MaskRecord, counts: np.ndarray, *, folder: Path, sha256: str, size: int
) -> dict[str, Any]:
    """Describe one mask as a STAC 1.1 item.

    ``created`` and ``updated`` are left out on purpose: the same labels give the
    same bytes on any day. ``eo:cloud_cover`` is the percentage of the pixels with
    data that are labelled cloud or semi-transparent cloud; a mask without any data
    has none.

    Parameters
    ----------
    record
        What the mask is.
    counts
        Pixels per class code, integers (6,).
    folder
        Where the item will lie: local source items are linked relative to it.
    sha256, size
        Of the mask's file: hexadecimal digits, bytes.
    """
    cover = _cloud_cover(counts)
    unused = {"eo"} if cover is None else set()
    unused |= {"grid"} if record.tile is None else set()
    geometry, bbox = footprint(record)
    asset = {
        "href": f"./{record.name}.tif",
        "type": MEDIA_TYPE,
        "title": "Cloud mask",
        "roles": ["data", "cloud", "cloud-shadow"],
        "data_type": "uint8",
        "nodata": NODATA,
        "file:checksum": f"1220{sha256}",  # multihash: 0x12 is sha2-256, 0x20 its 32 bytes
        "file:size": size,
        "classification:classes": _classes(counts),
        "raster:sampling": "area",
    }
    if record.crs.is_projected:  # the resolution is in metres by definition
        step = (record.transform.a - record.transform.e) / 2
        asset["raster:spatial_resolution"] = step * record.crs.linear_units_factor[1]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [
            f"https://stac-extensions.github.io/{name}/v{version}/schema.json"
            for name, version in EXTENSIONS.items()
            if name not in unused
        ],
        "id": record.name,
        "geometry": geometry,
        "bbox": bbox,
        "properties": _properties(record, cover),
        "links": build_links(record, folder=folder),
        "assets": {"mask": asset},
    }


def _cloud_cover(counts: np.ndarray) -> float | None:
    seen = counts.sum() - counts[Label.MISSING]
    cloudy = counts[[Label.CLOUD, Label.SEMI_TRANSPARENT]].sum()
    return round(100 * float(cloudy / seen), 4) if seen else None


def _classes(counts: np.ndarray) -> list[dict[str, Any]]:
    total = float(counts.sum())
    return [
        {
            "value": int(entry.label),
            "name": entry.name,
            "title": entry.title,
            "description": entry.description,
            "color_hint": entry.color,
            "nodata": int(entry.label) == NODATA,
            "percentage": round(100 * float(counts[entry.label]) / total, 4),
            "count": int(counts[entry.label]),
        }
        for entry in LEGEND
    ]


def _properties(record: MaskRecord, cover: float | None) -> dict[str, Any]:
    platforms = {source.platform for source in record.sources}
    platform = platforms.pop() if len(platforms) == 1 else None
    model = record.model or "an unnamed model"
    optional = {
        "platform": platform,
        "eo:cloud_cover": cover,
        "grid:code": f"MGRS-{record.tile}" if record.tile else None,
        "kappamask:model": record.model,
        "kappamask:model_sha256": record.model_sha256,
    }
    return {
        "datetime": record.timestamp,
        "title": f"Cloud mask of {record.timestamp[:10]}",
        "description": record.credit,
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        **grid_fields(record),
        "processing:level": record.level,
        "processing:software": {"kappamask": __version__},
        "processing:lineage": f"Sentinel-2 {record.level} reflectance labelled pixel by pixel "
        f"with {model} by kappamask {__version__}",
        **{name: value for name, value in optional.items() if value is not None},
    }


def grid_fields(record: Described) -> dict[str, Any]:
    """Say where the pixels lie in the words of the projection extension."""
    authority = record.crs.to_authority()
    fields = {
        "proj:code": ":".join(authority) if authority else None,
        "proj:shape": list(record.shape),
        "proj:transform": [float(number) for number in record.transform[:6]],
        "proj:bbox": [float(number) for number in record.bounds],
    }
    if authority is None:
        fields["proj:wkt2"] = record.crs.to_wkt(version="WKT2_2019")
    return fields


def build_links(record: Described, *, folder: Path) -> list[dict[str, str]]:
    """Link a mask in `folder` to its source items and its model, all ``derived_from``.

    Examples
    --------
    >>> source = Scene("S2A_a", tile="32TPS")
    >>> time, grid = np.datetime64("2022-06-02"), (CRS.from_epsg(32632), Affine.scale(10), (2, 3))
    >>> record = MaskRecord(time, *grid, "L2A", None, None, (source,))
    >>> record.name
    'kappamask_20220602T000000_T32TPS_L2A'
    >>> build_links(record, folder=Path("out"))[0]["href"]
    'S2A_a'
    """
    links = [
        {
            "rel": "derived_from",
            "href": _link_href(source, folder),
            "type": "application/geo+json",
            "title": f"Source item {source.id}",
        }
        for source in record.sources
    ]
    if record.model:
        # Models have names and hashes, not addresses: a URN points at the registry entry.
        urn = f"urn:kappamask:model:{record.model}"
        links.append({"rel": "derived_from", "href": urn, "title": f"Model {record.model}"})
    return links


def _link_href(source: Scene, folder: Path) -> str:
    # 1. an id, if the item does not say where it lies  2. a local file, so that the
    #    two folders can move together  3. the address, without what signs it
    if source.href is None:
        return source.id
    if Path(source.href).is_absolute():
        return Path(os.path.relpath(source.href, folder)).as_posix()
    return redact(source.href)


def footprint(record: Described) -> tuple[dict[str, Any], list[float]]:
    """Outline a mask as GeoJSON wants it: geometry and bbox in degrees.

    A mask across 180 degrees is cut there, and its bbox has west above east
    (RFC 7946, sections 3.1.9 and 5.2). Exteriors run counter-clockwise.

    Raises
    ------
    InputError
        If the coordinates lie outside the domain of the CRS.
    """
    left, bottom, right, top = record.bounds
    longest = max(right - left, top - bottom)
    ring = shapely.segmentize(shapely.box(left, bottom, right, top), longest / EDGE_PIECES)
    to_degrees = Transformer.from_crs(record.crs.to_wkt(), "EPSG:4326", always_xy=True)
    longitude, latitude = to_degrees.transform(*shapely.get_coordinates(ring).T)
    if not (np.isfinite(longitude).all() and np.abs(latitude).max() <= 90):
        raise InputError(
            f"x and y must lie in the domain of the CRS, got {record.bounds} in "
            f"{record.crs.to_string()}: check that the CRS belongs to these coordinates"
        )
    longitude = np.round(longitude, 7)  # an edge at 180 does not cross it
    longitude = np.where(longitude > 180, longitude - 360, longitude)
    outline = cut_at_antimeridian(Polygon(np.column_stack([longitude, latitude])))
    outline = shapely.transform(outline, lambda points: np.round(points, 7))
    parts = [orient(part) for part in getattr(outline, "geoms", [outline])]
    wests, souths, easts, norths = zip(*(part.bounds for part in parts), strict=True)
    geometry = parts[0] if len(parts) == 1 else MultiPolygon(parts)
    return mapping(geometry), [max(wests), min(souths), min(easts), max(norths)]
