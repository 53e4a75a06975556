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

from kappamask.base.bands import NAMES, check_names, check_network_bands
from kappamask.base.errors import InputError, ItemError, KappaMaskError, NoItemsError
from kappamask.base.grid import Grid
from kappamask.scenes.area import cut_at_antimeridian, parse_area, project_bounds
from kappamask.scenes.catalogs import ResolvedAsset, profile_of
from kappamask.scenes.items import document_of, level_of, sensing_time, view_of
from kappamask.scenes.placement import read_epsg, read_footprint, read_placement

LOG = logging.getLogger(__name__)
ONE_PASS = np.timedelta64(10, "m")  # the next orbit sees a place 100 minutes later
FAR = 20_000  # metres: footprints are rough, a wrong zone or transform is further off
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
    name = view_of(item).id
    held = resolve(item, bands)
    content = document_of(item)
    properties = content["properties"]
    placement, codes = {}, set()
    for band, asset in held.items():
        fields = {**properties, **content["assets"][asset.key]}
        where = f"item {name}, asset {asset.key!r}"
        placement[band] = read_placement(fields, where=where)
        codes.add(read_epsg(fields, where=where))
    if len(codes) > 1:
        raise ItemError(f"item {name}: its bands are in several CRS, got {codes}")
    try:
        options = dict(profile_of(item).gdal_options)
    except ItemError:  # a profile of the user's own
        options = {}
    scene = Scene(
        id=name,
        time=np.datetime64(sensing_time(item).replace(tzinfo=None), "ns"),
        level=level_of(item),
        footprint=read_footprint(content.get("geometry"), where=f"item {name}"),
        crs=codes.pop(),
        assets=held,
        placement=placement,
        gdal_options=options,
    )
    check_place(scene)
    return scene


def check_place(scene: Scene) -> None:
    """Refuse an item whose pixels lie elsewhere than its geometry: one of them is wrong.

    Raises
    ------
    ItemError
        Also if it has no geometry at all.
    """
    from pyproj import Transformer
    from shapely.geometry import shape

    if not scene.footprint:
        raise ItemError(f"item {scene.id}: it has no geometry, which a scene needs: leave it out")
    bounds = scene_bounds(scene, scene.crs) if scene.crs else None
    if bounds is None:
        return
    point = cut_at_antimeridian(shape(scene.footprint)).representative_point()
    x, y = Transformer.from_crs(4326, scene.crs, always_xy=True).transform(point.x, point.y)
    left, bottom, right, top = bounds
    if not (left - FAR <= x <= right + FAR and bottom - FAR <= y <= top + FAR):
        raise ItemError(
            f"item {scene.id}: its pixels must lie where its geometry does, got EPSG:{scene.crs} "
            f"{_rounded(bounds)} and a geometry around longitude {point.x:.2f}, latitude "
            f"{point.y:.2f}: correct the item (proj:code, proj:transform) or leave it out"
        )


def sift_items(
    items: Sequence[Any], bands: Sequence[str] | None, *, resolve: Resolve
) -> tuple[list[Any], dict[str, KappaMaskError]]:
    """Part items that a network can work with from those that cannot be read, whose date fails.

    With an item go the others of its pass: half a date is no date.

    Parameters
    ----------
    items
        pystac Items or their dicts.
    bands, resolve
        As `kappamask.load_cube` takes them.

    Returns
    -------
    tuple
        The items that are left, and why not the others: by date, or by id where an item
        does not tell its date.

    Raises
    ------
    KappaMaskError
        If no item is left: the first one's error.
    """
    errors: dict[int, KappaMaskError] = {}
    for index, item in enumerate(items):
        try:
            scene = read_scene(item, bands, resolve=resolve)
            if bands is None:
                _check_held(scene)
        except ItemError as error:
            errors[index] = error
    times = [_time_or_none(item) for item in items]
    lost = np.array([times[index] for index in errors], "M8[ns]")
    left = [
        item
        for index, item in enumerate(items)
        if index not in errors and not (np.abs(lost - times[index]) <= ONE_PASS).any()
    ]
    if errors and not left:
        raise next(iter(errors.values()))
    failed: dict[str, KappaMaskError] = {}
    for index, why in errors.items():
        time = times[index]
        name = view_of(items[index]).id if np.isnat(time) else str(time.astype("M8[s]"))
        failed[name] = ItemError(f"{failed[name]}; {why}") if name in failed else why
    return left, failed


def _check_held(scene: Scene) -> None:
    names = [name for name in scene.assets if name in NAMES]
    try:
        check_network_bands(names, scene.level)
    except InputError as error:
        raise ItemError(f"item {scene.id}: {error}") from None


def _time_or_none(item: Any) -> np.datetime64:
    try:
        return np.datetime64(sensing_time(item).replace(tzinfo=None), "ns")
    except ItemError:
        return np.datetime64("NaT", "ns")  # compares with nothing


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
    from pyproj.exceptions import CRSError

    try:
        found = CRS.from_user_input(crs)
    except CRSError:
        found = None
    epsg = found.to_epsg() if found else None
    if found is None or epsg is None or not found.is_projected:
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
    _projected(epsg)
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
