"""What STAC items say of a cube before a file is opened: scenes and their common grid. Row 4.

Imports rows 0-3.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kappamask.area import parse_area, project_bounds
from kappamask.bands import NAMES, check_names
from kappamask.catalogs import ResolvedAsset, profile_of
from kappamask.engines import Grid
from kappamask.errors import InputError, ItemError, NoItemsError
from kappamask.items import level_of, sensing_time

LOG = logging.getLogger(__name__)
Resolve = Callable[..., dict[str, ResolvedAsset]]


@dataclass(frozen=True)
class Scene:
    """One item, read: what the cube needs of it."""

    id: str
    time: np.datetime64  # sensing start, UTC
    level: str
    footprint: Any  # GeoJSON geometry, degrees
    crs: int | None  # EPSG code that its assets are in
    assets: dict[str, ResolvedAsset]
    placement: dict[str, dict[str, Any]]  # band: proj:transform and proj:shape, where told
    gdal_options: dict[str, str]

    @property
    def solar_day(self) -> np.datetime64:
        """The local date: one hour per 15 degrees east of Greenwich."""
        from shapely.geometry import shape

        longitude = shape(self.footprint).representative_point().x
        day: np.datetime64 = (self.time + _solar_shift(longitude)).astype("M8[D]")
        return day


def _solar_shift(longitude: float) -> np.timedelta64:
    return np.timedelta64(round(longitude / 15 * 3600), "s")


def read_scene(item: Any, bands: Sequence[str] | None, *, resolve: Resolve) -> Scene:
    """Read what the cube needs of an item, without opening any file."""
    content = item if isinstance(item, dict) else item.to_dict(include_self_link=False)
    held = resolve(item, bands)
    properties = content["properties"]
    placement, codes = {}, set()
    for name, asset in held.items():
        fields = properties | content["assets"][asset.key]
        placement[name] = {
            key: fields[key] for key in ("proj:transform", "proj:shape") if fields.get(key)
        }
        codes.add(_epsg(fields))
    if len(codes) > 1:
        raise ItemError(f"item {content['id']}: its bands are in several CRS, got {codes}")
    try:
        options = dict(profile_of(item).gdal_options)
    except ItemError:  # a profile of the user's own
        options = {}
    return Scene(
        id=content["id"],
        time=np.datetime64(sensing_time(item).replace(tzinfo=None), "ns"),
        level=level_of(item),
        footprint=content["geometry"],
        crs=codes.pop(),
        assets=held,
        placement=placement,
        gdal_options=options,
    )


def _epsg(fields: dict[str, Any]) -> int | None:
    code = fields.get("proj:code") or fields.get("proj:epsg")
    return int(str(code).upper().removeprefix("EPSG:")) if code else None


def check_scenes(scenes: Sequence[Scene]) -> str:
    """Check that there is something to load, of one level; return the level."""
    if not scenes:
        raise NoItemsError("a cube needs at least one item, got none: widen area or dates")
    levels = {scene.level: scene.id for scene in scenes}
    if len(levels) > 1:
        raise InputError(
            "the items of a cube are of one processing level, got "
            f"{' and '.join(f'{level} ({name})' for level, name in levels.items())}: "
            "search one level at a time"
        )
    return scenes[0].level


def choose_bands(scenes: Sequence[Scene], bands: Sequence[str] | None, level: str) -> list[str]:
    """Keep the caller's order, or list every reflectance band that a scene holds."""
    if bands is not None:
        return list(check_names(bands, level))
    return [name for name in NAMES if any(name in scene.assets for scene in scenes)]


def choose_grid(scenes: Sequence[Scene], area: Any, *, resolution: float, crs: Any) -> Grid:
    """Settle CRS, origin and size of the cube; edges lie on the items' own pixel edges.

    The CRS is, in this order: 1. the caller's; 2. the one of most items.
    """
    if not resolution > 0:
        raise InputError(f"resolution is metres per pixel, above 0, got {resolution!r}")
    epsg = _projected(crs) if crs is not None else _commonest_crs(scenes)
    reach = [bounds for scene in scenes if (bounds := scene_bounds(scene, epsg))]
    if area is None:
        if not reach:
            raise ItemError(f"item {scenes[0].id} does not tell its extent: pass area=...")
        wanted = _union(reach)
    else:
        wanted = project_bounds(parse_area(area), epsg)
        if reach and not any(_overlap(bounds, wanted) for bounds in reach):
            raise NoItemsError(
                f"the area lies outside all {len(scenes)} items ({scenes[0].id}...): "
                f"got {_rounded(wanted)}, the items cover {_rounded(_union(reach))} "
                f"in EPSG:{epsg}: search with the same area"
            )
    anchor = reach[0] if reach else (0.0, 0.0, 0.0, 0.0)
    return Grid.covering(wanted, epsg=epsg, resolution=resolution, anchor=(anchor[0], anchor[3]))


def _projected(crs: Any) -> int:
    from pyproj import CRS

    found = CRS.from_user_input(crs)
    epsg = found.to_epsg()
    if epsg is None or not found.is_projected:
        raise InputError(
            f"a cube needs a projected CRS in metres with an EPSG code, got {crs!r}: "
            "give a UTM zone such as 'EPSG:32632'"
        )
    return int(epsg)


def _commonest_crs(scenes: Sequence[Scene]) -> int:
    counts = Counter(scene.crs for scene in scenes if scene.crs)
    if not counts:
        raise ItemError(f"item {scenes[0].id} does not tell its CRS (proj:code): pass crs=...")
    epsg, most = counts.most_common(1)[0]
    if len(counts) > 1:
        LOG.warning(
            "items lie in %d CRS: the cube is in EPSG:%d as %d of %d items are, the others are "
            "warped",
            len(counts),
            epsg,
            most,
            len(scenes),
        )
    return epsg


def scene_bounds(scene: Scene, epsg: int) -> tuple[float, float, float, float] | None:
    """Where a scene's pixels lie (left, bottom, right, top); from its grid, never its bbox.

    The bbox of an item is broken at the antimeridian.
    """
    from pyproj import Transformer

    for placed in scene.placement.values():
        if len(placed) == 2 and scene.crs:
            a, _, left, _, e, top = placed["proj:transform"][:6]
            height, width = placed["proj:shape"]
            bounds = (left, top + e * height, left + a * width, top)
            if scene.crs == epsg:
                return bounds
            there = Transformer.from_crs(scene.crs, epsg, always_xy=True)
            left, bottom, right, top = there.transform_bounds(*bounds, densify_pts=21)
            return left, bottom, right, top
    return None


def _union(all_bounds: Sequence[tuple[float, ...]]) -> tuple[float, float, float, float]:
    left, bottom, right, top = zip(*all_bounds, strict=True)
    return min(left), min(bottom), max(right), max(top)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _rounded(bounds: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(round(value) for value in bounds)
