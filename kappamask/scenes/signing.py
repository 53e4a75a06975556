"""Addresses that a catalogue gives out to signed requests only. Row 3: imports `catalogs`."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from requests import RequestException

from kappamask.base.errors import CatalogError, ItemError
from kappamask.scenes.catalogs import Profile, profile_of

if TYPE_CHECKING:
    import pystac


def signer(profile: Profile | None) -> Callable[[pystac.Item], pystac.Item]:
    """Find what makes the hrefs of a catalogue readable, before anything is searched.

    Raises
    ------
    CatalogError
        If the package that signs is not installed.
    """
    if not (profile and profile.signer):
        return lambda item: item
    try:
        module = importlib.import_module(profile.signer)
    except ImportError as error:
        raise CatalogError(
            f"catalogue {profile.name!r} gives files out to signed requests only, which needs "
            f"another package ({error}): pip install 'kappamask[{profile.name}]'"
        ) from None

    def sign(item: pystac.Item) -> pystac.Item:
        try:
            return module.sign(item)  # type: ignore[no-any-return]
        except RequestException as error:
            raise CatalogError(f"item {item.id} cannot be signed: {error}") from error

    return sign


def renew(item: Any) -> Any:
    """Sign an item again whose addresses may have expired; return others as they are.

    Only catalogues that sign are known to `kappamask.scenes.catalogs` by a signer: addresses that
    somebody else signed cannot be renewed here.

    Examples
    --------
    >>> item = {"id": "x_L2A", "properties": {}, "assets": {"red": {"href": "B04.tif"}}}
    >>> renew(item) is item
    True
    """
    try:
        profile = profile_of(item)
        sign = signer(profile)
    except (ItemError, CatalogError):
        return item
    if not profile.signer:
        return item
    bare = copy.deepcopy(item) if isinstance(item, dict) else item.clone()
    for asset in (bare["assets"] if isinstance(bare, dict) else bare.assets).values():
        if isinstance(asset, dict):
            asset["href"] = asset["href"].split("?")[0]
        else:
            asset.href = asset.href.split("?")[0]
    return sign(bare)  # type: ignore[arg-type]  # signers take dicts too
