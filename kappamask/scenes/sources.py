"""Scenes from STAC items, and which of them made a date. Imports `scenes` below and `base`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.bands import NAMES, check_network_bands
from kappamask.base.errors import CatalogError, InputError, ItemError, KappaMaskError
from kappamask.scenes.area import cut_at_antimeridian, transformer
from kappamask.scenes.catalogs import profile_of, resolve_assets
from kappamask.scenes.items import View, view_of
from kappamask.scenes.scene import NO_TIME, BandFile, Scene, rounded, split_array

if TYPE_CHECKING:
    import xarray as xr

ONE_PASS = np.timedelta64(10, "m")  # the next orbit sees a place 100 minutes later
# Passes over one place are a few hours apart on one solar day, and nearly a day on two.
SAME_PASS = np.timedelta64(12, "h")
FAR = 20_000  # metres: footprints are rough, a wrong zone or transform is further off
_NOTHING: dict[str, Any] = {"properties": {}, "assets": {}}  # else in an item
Resolve = Callable[..., dict[str, BandFile]]


def scene_of(
    item: Any,
    bands: Sequence[str] | None = None,
    *,
    also: Sequence[str] = (),
    resolve: Resolve = resolve_assets,
) -> Scene:
    """Read all that is needed of an item, without opening any file; a scene is returned as it is.

    Parameters
    ----------
    item
        pystac.Item, the dict of one, or a scene.
    bands
        Canonical names; None: every reflectance band that the item holds.
    also
        Names of bands that it has to hold too, such as ``AOT``.
    resolve
        Finds files and offsets: `resolve_assets`, with arguments of its own where a
        `functools.partial` holds them, or a function that takes its place.

    Raises
    ------
    ItemError
        If the item cannot be read as Sentinel-2, lacks a band, or contradicts itself; the
        message names it.
    InputError, UnknownNameError
        If it is no item, or a band is unknown.

    Examples
    --------
    >>> from kappamask.sample import catalog_path
    >>> from kappamask import search
    >>> (item,) = search((22.14, 45.2, 22.15, 45.21), "2019-07-11", catalog=catalog_path())
    >>> scene = scene_of(item, ["B02"])
    >>> scene.tile, scene.level, scene.files["B02"].dn_offset
    ('34TER', 'L2A', 0)
    """
    if isinstance(item, Scene):
        if absent := [name for name in (*(bands or ()), *also) if name not in item.files]:
            raise ItemError(
                f"item {item.id}: no asset for {', '.join(absent)} was read, got "
                f"{', '.join(item.files) or 'none'}: leave the band out, or read the item with it"
            )
        return item
    view = item if isinstance(item, View) else view_of(item)
    # What is viewed already is not looked into again; a function of the user's own gets the item.
    own = getattr(resolve, "func", resolve) is resolve_assets
    held = resolve(view if own else view.item, bands)
    if also:
        held |= resolve(view if own else view.item, also)
    files = {band: replace(file, **view.place(file.key)) for band, file in held.items()}
    files = _placed_in_store(files)
    codes = {file.epsg for file in files.values()}
    if len(codes) > 1:
        raise ItemError(f"item {view.id}: its bands are in several CRS, got {codes}")
    try:
        profile = profile_of(view)
    except ItemError:  # a profile of the user's own
        profile = None
    scene = replace(
        _named(view),
        level=view.level,
        epsg=codes.pop(),
        footprint=view.footprint,
        files=files,
        profile=profile,
    )
    _check_place(scene)
    return scene


def _placed_in_store(files: dict[str, BandFile]) -> dict[str, BandFile]:
    """Let a Zarr store say where the arrays of an item lie, if the item does not."""
    arrays = {band: split_array(file.href) for band, file in files.items() if not file.height}
    stores = {found[0] for found in arrays.values() if found}
    if not stores:
        return files
    from kappamask.scenes.eopf import read_store

    tiles = {store: read_store(store).granules[0].metadata for store in sorted(stores)}
    placed = {}
    for band, found in arrays.items():
        gsd = round(files[band].gsd)
        if found and gsd in tiles[found[0]].shapes:
            placed[band] = replace(files[band], **tiles[found[0]].place(gsd))
    return files | placed


def source_of(item: Any) -> Scene:
    """Read what a mask must know of an item it came from; a scene is returned as it is.

    Parameters
    ----------
    item
        A ``pystac.Item``, the dict of one, or a scene.

    Returns
    -------
    Scene
        Without files.

    Raises
    ------
    ItemError
        If it is no STAC item or its time cannot be read.

    Examples
    --------
    >>> source_of({
    ...     "id": "S2A_T32TPS_20220602T101559_L2A", "assets": {},
    ...     "properties": {"datetime": "2022-06-02T10:15:59Z"},
    ... }).tile
    '32TPS'
    """
    if isinstance(item, Scene):
        return item
    if not isinstance(item, Mapping) and not hasattr(item, "to_dict"):
        raise ItemError(
            "a source item must be a pystac.Item or the dict of one, got "
            f"{type(item).__name__}: pass the items that the cube was loaded from"
        )
    return _named(view_of(item))


def _named(view: View) -> Scene:
    return Scene(
        id=view.id,
        time=_utc(view),
        tile=view.tile,
        platform=str(view.properties.get("platform") or "").lower() or None,
        baseline=next(iter(view.baselines), None),
        href=view.href,
        sun=view.sun,
        item=view.item,
    )


def _utc(view: View) -> np.datetime64:
    return np.datetime64(view.time.replace(tzinfo=None), "ns")


def _check_place(scene: Scene) -> None:
    """Refuse an item whose pixels lie elsewhere than its geometry: one of them is wrong."""
    from shapely.geometry import shape

    if (bounds := scene.bounds) is None:
        return
    point = cut_at_antimeridian(shape(scene.footprint)).representative_point()
    x, y = transformer(4326, scene.epsg).transform(point.x, point.y)
    left, bottom, right, top = bounds
    if not (left - FAR <= x <= right + FAR and bottom - FAR <= y <= top + FAR):
        raise ItemError(
            f"item {scene.id}: its pixels must lie where its geometry does, got EPSG:{scene.epsg} "
            f"{rounded(bounds)} and a geometry around longitude {point.x:.2f}, latitude "
            f"{point.y:.2f}: correct the item (proj:code, proj:transform) or leave it out"
        )


def listed(items: Any) -> list[Any]:
    """Give items as a list: one alone is one, and a FeatureCollection holds its own.

    Examples
    --------
    >>> item = {"id": "x", "properties": {}, "assets": {}}
    >>> listed(item) == listed([item]) == listed({"features": [item]})
    True
    """
    if isinstance(items, Mapping) and "features" in items:
        return list(items["features"])
    alone = isinstance(items, Mapping | Scene | View) or hasattr(items, "assets")
    return [items] if alone else list(items)


def read_scenes(
    items: Iterable[Any],
    bands: Sequence[str] | None = None,
    *,
    also: Sequence[str] = (),
    resolve: Resolve = resolve_assets,
) -> tuple[list[Scene], dict[str, KappaMaskError]]:
    """Read items that a network can work with, apart from those that cannot be read.

    With an item go the others of its pass: half a date is no date.

    Parameters
    ----------
    items, bands, also, resolve
        As `scene_of` takes them.

    Returns
    -------
    tuple
        Scenes in the order of their items, and why not the others: by date, or by id where an
        item does not tell its date.

    Raises
    ------
    KappaMaskError
        If no item is left: the first one's error.
    """
    scenes: list[Scene] = []
    errors: list[tuple[str, np.datetime64, ItemError]] = []
    for item in listed(items):
        view = item if isinstance(item, Scene) else view_of(item)
        try:
            scene = scene_of(view, bands, also=also, resolve=resolve)
            if bands is None:
                _check_held(scene)
            scenes.append(scene)
        except ItemError as error:
            errors.append((view.id, _time_or_none(view), error))
    lost = np.array([time for _, time, _ in errors], "M8[ns]")
    left = [scene for scene in scenes if not (np.abs(lost - scene.time) <= ONE_PASS).any()]
    if errors and not left:
        raise errors[0][2]
    failed: dict[str, KappaMaskError] = {}
    for name, time, why in errors:
        date = name if np.isnat(time) else str(time.astype("M8[s]"))
        failed[date] = ItemError(f"{failed[date]}; {why}") if date in failed else why
    return left, failed


def _check_held(scene: Scene) -> None:
    names = [name for name in scene.files if name in NAMES]
    try:
        check_network_bands(names, scene.level)
    except InputError as error:
        raise ItemError(f"item {scene.id}: {error}") from None


def _time_or_none(item: View | Scene) -> np.datetime64:
    try:
        return item.time if isinstance(item, Scene) else _utc(item)
    except ItemError:
        return NO_TIME  # compares with nothing


def renew(scene: Scene) -> Scene:
    """Sign the files of a scene again whose addresses may have expired; return others as they are.

    Only catalogues that sign are known to `kappamask.scenes.catalogs` by a signer: addresses that
    somebody else signed cannot be renewed here.
    """
    if not (scene.profile and scene.profile.signer):
        return scene
    try:
        sign = scene.profile.find_signer()
    except CatalogError:
        return scene
    bare = copy.deepcopy(scene.item) if isinstance(scene.item, dict) else scene.item.clone()
    for asset in (bare["assets"] if isinstance(bare, dict) else bare.assets).values():
        if isinstance(asset, dict):
            asset["href"] = asset["href"].split("?")[0]
        else:
            asset.href = asset.href.split("?")[0]
    signed = view_of(sign(bare))
    files = {
        band: replace(file, href=signed.assets[file.key][0]) for band, file in scene.files.items()
    }
    return replace(scene, files=files, item=signed.item)


def sources_of_dates(labels: xr.DataArray, items: Iterable[Any] | None) -> list[tuple[Scene, ...]]:
    """Say which scenes made each date of a label cube.

    The coordinate ``source_items`` (ids separated by spaces, one text per date)
    decides if the cube carries it. Otherwise an item belongs to the date nearest in
    time, of the same solar day.

    Parameters
    ----------
    labels
        Dims (time, y, x).
    items
        ``pystac.Item``, dicts or scenes; None if they are not known.

    Returns
    -------
    list of tuple of Scene
        One tuple per date, empty where nothing is known.

    Raises
    ------
    InputError
        If items are given and a date finds none of its own among them.
    ItemError
        If something given is no STAC item.
    """
    given = None if items is None else [source_of(item) for item in listed(items)]
    if "source_items" in labels.coords:
        ids = [str(text).split() for text in np.atleast_1d(labels["source_items"].values)]
        return _match_by_id(ids, given)
    if given is None:
        return [()] * labels.sizes["time"]
    return _match_by_time(labels["time"].values, given)


def _match_by_id(ids: list[list[str]], given: list[Scene] | None) -> list[tuple[Scene, ...]]:
    names = {name for date in ids for name in date}
    if given is None:
        given = [Scene(name, tile=view_of({"id": name, **_NOTHING}).tile) for name in names]
    known = {source.id: source for source in given}
    if absent := sorted(names - set(known)):
        raise InputError(
            "source_items must hold every item that the labels name; missing "
            f"{', '.join(absent)}: pass the items the cube was loaded from, or leave them out"
        )
    return [tuple(known[name] for name in date) for date in ids]


def _match_by_time(times: np.ndarray, given: list[Scene]) -> list[tuple[Scene, ...]]:
    matched: list[list[Scene]] = [[] for _ in times]
    for source in given:
        apart = np.abs(times - source.time)
        if apart.min() < SAME_PASS:
            matched[apart.argmin()].append(source)
    lone = [str(time)[:19] for time, sources in zip(times, matched, strict=True) if not sources]
    if lone:
        raise InputError(
            "every date must come from one of source_items; none is of the solar day of "
            f"{', '.join(lone)}: pass the items the cube was loaded from, or leave them out"
        )
    return [tuple(sources) for sources in matched]
