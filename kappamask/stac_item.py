"""The STAC item of a mask: which items it came from, its name, its description.

Row 4: imports `bands`, `errors` and `legend`. `output` and `plot` read names and sources here.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import rioxarray  # noqa: F401  (registers the .rio accessor)
import shapely
from pyproj import Transformer
from shapely.geometry.polygon import orient

from kappamask import __version__
from kappamask.bands import check_level
from kappamask.errors import InputError, ItemError
from kappamask.legend import LEGEND, Label

if TYPE_CHECKING:
    from collections.abc import Iterable

    import xarray as xr
    from rasterio import Affine
    from rasterio.crs import CRS

NODATA = int(Label.MISSING)
MEDIA_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
EXTENSIONS = {
    name: f"https://stac-extensions.github.io/{name}/v{version}/schema.json"
    for name, version in {
        "classification": "2.0.0",
        "eo": "2.0.0",
        "file": "2.1.0",
        "grid": "1.1.0",
        "processing": "1.2.0",
        "projection": "2.0.0",
        "raster": "2.0.0",
    }.items()
}
# 32TPS in S2A_MSIL2A_20220602T101559_N0400_R065_T32TPS_..., S2A_T32TPS_... and S2A_32TPS_...
TILE_IN_ID = re.compile(r"(?:^|_)T?(\d{2}[C-HJ-NP-X][A-HJ-NP-Z]{2})(?:_|$)")
EDGE_PIECES = 8  # per side of a footprint; 110 km in UTM then lie within 3 m of the true edge


@dataclass(frozen=True)
class Source:
    """One STAC item that a mask was made from."""

    id: str
    href: str | None = None  # where the item itself lies
    time: np.datetime64 | None = None  # sensing time, UTC
    tile: str | None = None  # MGRS tile, "32TPS"
    platform: str | None = None  # "sentinel-2a"


@dataclass(frozen=True)
class Grid:
    """Where the pixels of one mask lie; always north up, x to the east."""

    crs: CRS
    transform: Affine  # (column, row) of a pixel corner -> projected x, y
    shape: tuple[int, int]  # rows, columns

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Outer edges: left, bottom, right, top in units of the CRS."""
        rows, columns = self.shape
        step = self.transform
        return step.c, step.f + rows * step.e, step.c + columns * step.a, step.f


@dataclass(frozen=True)
class MaskRecord:
    """All that is known of one written mask; `build_item` says it in STAC."""

    name: str  # of the files, without suffix; also the item's id
    time: np.datetime64  # UTC
    grid: Grid
    level: str  # "L1C" or "L2A"
    model: str | None
    model_sha256: str | None
    sources: tuple[Source, ...]

    @property
    def tile(self) -> str | None:
        """The MGRS tile, if every source lies in one and the same."""
        return common_tile(self.sources)

    @property
    def timestamp(self) -> str:
        """The sensing time as RFC 3339 wants it."""
        return f"{np.datetime_as_string(self.time, unit='us')}Z"

    @property
    def credit(self) -> str:
        """The sentence that the Copernicus licence asks for."""
        return f"Contains modified Copernicus Sentinel data {self.timestamp[:4]}"


def read_source(item: Any) -> Source:
    """Read what a mask must know of an item it came from.

    Parameters
    ----------
    item
        A ``pystac.Item`` or the dict of one.

    Raises
    ------
    ItemError
        If it is no STAC item or its time cannot be read.

    Examples
    --------
    >>> read_source({"id": "S2A_T32TPS_20220602T101559_L2A", "properties": {}}).tile
    '32TPS'
    """
    document = item.to_dict(transform_hrefs=False) if hasattr(item, "to_dict") else item
    if not isinstance(document, Mapping) or not document.get("id"):
        raise ItemError(
            "a source item must be a pystac.Item or the dict of one, with an id; "
            f"got {type(item).__name__}: pass the items that the cube was loaded from"
        )
    identity = str(document["id"])
    properties = document.get("properties") or {}
    hrefs = {link.get("rel"): link.get("href") for link in document.get("links") or ()}
    platform = properties.get("platform")
    return Source(
        id=identity,
        href=hrefs.get("self") or hrefs.get("canonical"),
        time=_read_time(properties.get("datetime") or properties.get("start_datetime"), identity),
        tile=_read_tile(identity, properties),
        platform=str(platform).lower() if platform else None,
    )


def _read_time(text: str | None, identity: str) -> np.datetime64 | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise ItemError(
            f"an item's datetime must be RFC 3339 text, got {text!r} in item {identity}: "
            "correct the item or leave it out"
        ) from error
    utc = moment.astimezone(UTC) if moment.tzinfo else moment
    return np.datetime64(utc.replace(tzinfo=None), "ns")


def _read_tile(identity: str, properties: Mapping[str, Any]) -> str | None:
    # 1. the grid extension  2. Planetary Computer's own property  3. the id
    code = str(properties.get("grid:code") or "")
    if code.startswith("MGRS-"):
        return code.removeprefix("MGRS-")
    if properties.get("s2:mgrs_tile"):
        return str(properties["s2:mgrs_tile"])
    found = TILE_IN_ID.search(identity)
    return found[1] if found else None


def common_tile(sources: Iterable[Source]) -> str | None:
    """Return the one MGRS tile of all sources, or None.

    Examples
    --------
    >>> common_tile([Source("a", tile="32TPS"), Source("b", tile="32TPT")]) is None
    True
    """
    tiles = {source.tile for source in sources}
    return tiles.pop() if len(tiles) == 1 else None


def sources_of_dates(labels: xr.DataArray, items: Iterable[Any] | None) -> list[tuple[Source, ...]]:
    """Say which items made each date of a label cube.

    The coordinate ``source_items`` (ids separated by spaces, one text per date)
    decides if the cube carries it. Otherwise an item belongs to the date of its
    own solar day that is nearest in time.

    Parameters
    ----------
    labels
        Dims (time, y, x), with a CRS.
    items
        ``pystac.Item`` or dicts; None if they are not known.

    Returns
    -------
    list of tuple of Source
        One tuple per date, empty where nothing is known.

    Raises
    ------
    InputError
        If items are given and a date finds none of its own among them.
    ItemError
        If something given is no STAC item.
    """
    given = None if items is None else [read_source(item) for item in items]
    if "source_items" in labels.coords:
        return _match_by_id(labels, given)
    if given is None:
        return [()] * labels.sizes["time"]
    return _match_by_time(labels, given)


def _match_by_id(labels: xr.DataArray, given: list[Source] | None) -> list[tuple[Source, ...]]:
    named = [str(ids or "").split() for ids in np.atleast_1d(labels["source_items"].values)]
    if given is None:
        return [tuple(Source(one, tile=_read_tile(one, {})) for one in ids) for ids in named]
    known = {source.id: source for source in given}
    absent = sorted({one for ids in named for one in ids if one not in known})
    if absent:
        raise InputError(
            "source_items must hold every item that the labels name; missing "
            f"{', '.join(absent)}: pass the items the cube was loaded from, or leave them out"
        )
    return [tuple(known[one] for one in ids) for ids in named]


def _match_by_time(labels: xr.DataArray, given: list[Source]) -> list[tuple[Source, ...]]:
    times = labels["time"].values.astype("datetime64[ns]")
    shift = np.timedelta64(round(_central_longitude(labels) / 15 * 3600), "s")
    days = (times + shift).astype("datetime64[D]")
    matched: list[list[Source]] = [[] for _ in times]
    for source in given:
        if source.time is None:
            continue
        same_day = np.flatnonzero(days == (source.time + shift).astype("datetime64[D]"))
        if same_day.size:
            nearest = same_day[np.argmin(np.abs(times[same_day] - source.time))]
            matched[nearest].append(source)
    lone = [str(time)[:19] for time, sources in zip(times, matched, strict=True) if not sources]
    if lone:
        raise InputError(
            "every date must come from one of source_items; none is of the solar day of "
            f"{', '.join(lone)}: pass the items the cube was loaded from, or leave them out"
        )
    return [tuple(sources) for sources in matched]


def _central_longitude(labels: xr.DataArray) -> float:
    middle = np.array([[float(labels[axis].values.mean()) for axis in ("x", "y")]])
    return float(_to_degrees(labels.rio.crs, middle)[0, 0])


def _to_degrees(crs: CRS, points: np.ndarray) -> np.ndarray:
    """Projected (n, 2) to longitude, latitude (n, 2)."""
    to_degrees = Transformer.from_crs(crs.to_wkt(), "EPSG:4326", always_xy=True)
    degrees = np.column_stack(to_degrees.transform(points[:, 0], points[:, 1]))
    if not (np.isfinite(degrees).all() and np.abs(degrees[:, 1]).max() <= 90):
        raise InputError(
            f"x and y must lie in the domain of the CRS, got {points.min(axis=0)} to "
            f"{points.max(axis=0)} in {crs.to_string()}: check that the CRS belongs to these "
            "coordinates"
        )
    return degrees


def names_of_dates(
    times: np.ndarray, sources: Iterable[tuple[Source, ...]], *, level: str
) -> list[str]:
    """Name the files of each date: sensing time, tile if there is one, level.

    The time comes first, as in a Sentinel-2 product's own name, so that names sort
    by date whether or not a tile is known. A name depends on its own date only,
    unless two would be the same: those get their microseconds too.

    Parameters
    ----------
    times
        datetime64, one per date, UTC.
    sources
        One tuple per date.
    level
        ``"L1C"`` or ``"L2A"``.

    Raises
    ------
    InputError
        If two dates cannot be told apart.

    Examples
    --------
    >>> times = np.array(["2022-06-02T10:15:59"], "datetime64[ns]")
    >>> names_of_dates(times, [(Source("a", tile="32TPS"),)], level="L2A")
    ['kappamask_20220602T101559_T32TPS_L2A']
    """
    level = check_level(level)
    tiles = [common_tile(one) for one in sources]
    short = [_name(time, "s", tile, level) for time, tile in zip(times, tiles, strict=True)]
    full = [_name(time, "us", tile, level) for time, tile in zip(times, tiles, strict=True)]
    twice = sorted(name for name, count in Counter(full).items() if count > 1)
    if twice:
        raise InputError(
            f"each date must have a time of its own, got {', '.join(twice)} more than once: "
            "group the items by solar day or drop the duplicates"
        )
    count = Counter(short)
    return [one if count[one] == 1 else long for one, long in zip(short, full, strict=True)]


def _name(time: np.datetime64, unit: Literal["s", "us"], tile: str | None, level: str) -> str:
    stamp = re.sub("[-:.]", "", np.datetime_as_string(time, unit=unit))
    return "_".join(["kappamask", stamp, *([f"T{tile}"] if tile else []), level])


def footprint(grid: Grid) -> tuple[dict[str, Any], list[float]]:
    """Outline a grid in degrees, as GeoJSON wants it.

    Returns
    -------
    geometry : dict
        A Polygon, exterior counter-clockwise; a MultiPolygon cut at 180 degrees
        where the grid crosses it (RFC 7946, sections 3.1.6 and 3.1.9).
    bbox : list of float
        west, south, east, north; west is above east where 180 degrees is crossed
        (section 5.2).

    Raises
    ------
    InputError
        If the coordinates lie outside the domain of the CRS.
    """
    left, bottom, right, top = grid.bounds
    longest = max(right - left, top - bottom)
    ring = shapely.segmentize(shapely.box(left, bottom, right, top), longest / EDGE_PIECES)
    longitude, latitude = _to_degrees(grid.crs, shapely.get_coordinates(ring)).T
    # Neighbours on a ring are close: a jump of more than half a turn is the antimeridian.
    longitude = np.unwrap(longitude, period=360)
    longitude -= 360 * np.floor((longitude.min() + 180) / 360)
    outline = shapely.Polygon(np.round(np.column_stack([longitude, latitude]), 7))
    west, south, east, north = outline.bounds
    if east <= 180:
        return shapely.geometry.mapping(orient(outline)), [west, south, east, north]
    near = outline.intersection(shapely.box(west, -90, 180, 90))
    beyond = outline.intersection(shapely.box(180, -90, east, 90))
    beyond = shapely.transform(beyond, lambda points: np.round(points - [360, 0], 7))
    halves = shapely.MultiPolygon([orient(near), orient(beyond)])
    return shapely.geometry.mapping(halves), [west, south, round(east - 360, 7), north]


def count_codes(codes: np.ndarray) -> np.ndarray:
    """Count the pixels of each class code: integers (6,).

    `np.bincount` would turn a tile of 120 MB into one of 1 GB first.

    Examples
    --------
    >>> count_codes(np.array([[1, 4], [4, 5]], dtype="uint8")).tolist()
    [0, 1, 0, 0, 2, 1]
    """
    return np.array([np.count_nonzero(codes == int(entry.label)) for entry in LEGEND])


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

    Returns
    -------
    dict
        Ready for `json.dumps`. Schemas: STAC 1.1.0 and those in its ``stac_extensions``.
    """
    cover = _cloud_cover(counts)
    extensions = set(EXTENSIONS)
    extensions -= {"eo"} if cover is None else set()
    extensions -= {"grid"} if record.tile is None else set()
    geometry, bbox = footprint(record.grid)
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
        **_raster_fields(record.grid),
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [EXTENSIONS[name] for name in sorted(extensions)],
        "id": record.name,
        "geometry": geometry,
        "bbox": bbox,
        "properties": _properties(record, cover),
        "links": build_links(record, folder=folder),
        "assets": {"mask": asset},
    }


def _cloud_cover(counts: np.ndarray) -> float | None:
    seen = counts.sum() - counts[Label.MISSING]
    if seen == 0:
        return None
    return round(100 * float(counts[[Label.CLOUD, Label.SEMI_TRANSPARENT]].sum()) / float(seen), 4)


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


def _raster_fields(grid: Grid) -> dict[str, Any]:
    fields: dict[str, Any] = {"raster:sampling": "area"}
    if grid.crs.is_projected:  # the resolution is in metres by definition
        step = (abs(grid.transform.a) + abs(grid.transform.e)) / 2
        fields["raster:spatial_resolution"] = step * grid.crs.linear_units_factor[1]
    return fields


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
        **grid_fields(record.grid),
        "processing:level": record.level,
        "processing:software": {"kappamask": __version__},
        "processing:lineage": f"Sentinel-2 {record.level} reflectance labelled pixel by pixel "
        f"with {model} by kappamask {__version__}",
        **{name: value for name, value in optional.items() if value is not None},
    }


def grid_fields(grid: Grid) -> dict[str, Any]:
    """Say a grid in the words of the projection extension.

    Examples
    --------
    >>> from rasterio import Affine
    >>> from rasterio.crs import CRS
    >>> grid = Grid(CRS.from_epsg(32632), Affine(10, 0, 600000, 0, -10, 5200000), (2, 3))
    >>> grid_fields(grid)["proj:bbox"]
    [600000.0, 5199980.0, 600030.0, 5200000.0]
    """
    authority = grid.crs.to_authority()
    fields = {
        "proj:code": ":".join(authority) if authority else None,
        "proj:shape": list(grid.shape),
        "proj:transform": [float(number) for number in grid.transform[:6]],
        "proj:bbox": [float(number) for number in grid.bounds],
    }
    if authority is None:
        fields["proj:wkt2"] = grid.crs.to_wkt(version="WKT2_2019")
    return fields


def build_links(record: MaskRecord, *, folder: Path) -> list[dict[str, str]]:
    """Link a mask in `folder` to its source items and its model, all ``derived_from``.

    Examples
    --------
    >>> from rasterio import Affine
    >>> from rasterio.crs import CRS
    >>> grid = Grid(CRS.from_epsg(32632), Affine(10, 0, 600000, 0, -10, 5200000), (2, 3))
    >>> time = np.datetime64("2022-06-02T10:15:59")
    >>> record = MaskRecord("mask", time, grid, "L2A", None, None, (Source("S2A_a"),))
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
        links.append(
            {
                "rel": "derived_from",
                "href": f"urn:kappamask:model:{record.model}",
                "title": f"Model {record.model}",
            }
        )
    return links


def _link_href(source: Source, folder: Path) -> str:
    # 1. an id, if the item does not say where it lies  2. a local file, so that the
    #    two folders can move together  3. the address as it stands
    if source.href is None:
        return source.id
    if Path(source.href).is_absolute():
        return Path(os.path.relpath(source.href, folder)).as_posix()
    return source.href
