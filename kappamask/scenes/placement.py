"""Where an item says that its pixels lie, checked before it is used. Row 4: imports `errors`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from kappamask.base.errors import ItemError

_CODE = re.compile(r"(?:EPSG:+)?(\d{4,6})(?:\.0)?", re.ASCII)
_MOST_PIXELS = 10_000_000  # per side; around the equator there are 4 million of 10 m
_FARTHEST = 1e8  # metres, twice around the equator and more


def read_epsg(fields: Mapping[str, Any], *, where: str) -> int | None:
    """Read the EPSG code that STAC's projection extension gives; None where it gives none.

    Parameters
    ----------
    fields
        Of an item's properties or of an asset: ``proj:code``, else ``proj:epsg``.
    where
        The item, as messages name it.

    Raises
    ------
    ItemError
        If what it gives is no EPSG code that PROJ knows.

    Examples
    --------
    >>> read_epsg({"proj:code": "EPSG:32632"}, where="item x")
    32632
    """
    code = fields.get("proj:code") or fields.get("proj:epsg")
    if not code:
        return None
    told = _CODE.fullmatch(str(code).strip().upper())
    if told is None or not _is_known(int(told[1])):
        raise ItemError(
            f"{where}: proj:code is that of a reference system of EPSG ('EPSG:32632'), got "
            f"{code!r:.60}: correct the item or leave it out"
        )
    return int(told[1])


@cache
def _is_known(epsg: int) -> bool:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        CRS.from_epsg(epsg)
    except CRSError:
        return False
    return True


def read_placement(fields: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Read ``proj:transform`` and ``proj:shape`` in the words of `BandFile`, if both are given.

    Raises
    ------
    ItemError
        If they describe no grid of pixels whose north is up.

    Examples
    --------
    >>> read_placement({"proj:shape": [0, 5]}, where="item x, asset 'red'")
    Traceback (most recent call last):
    kappamask.base.errors.ItemError: item x, asset 'red': proj:shape is rows and columns, ...
    """
    shape, transform = fields.get("proj:shape") or None, fields.get("proj:transform") or None
    if shape is not None and not _is_shape(shape):
        raise ItemError(
            f"{where}: proj:shape is rows and columns, whole numbers above 0, got {shape!r:.60}: "
            "correct the item or leave it out"
        )
    if transform is not None and not _is_transform(transform):
        raise ItemError(
            f"{where}: proj:transform is (step, 0, left, 0, -step, top) in metres, with north up, "
            f"got {transform!r:.80}: correct the item or leave it out"
        )
    if shape is None or transform is None:
        return {}
    step, _, left, _, _, top = transform[:6]
    return {"gsd": step, "left": left, "top": top, "height": shape[0], "width": shape[1]}


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list | tuple)
        and len(shape) == 2
        and all(type(size) is int and 0 < size <= _MOST_PIXELS for size in shape)
    )


def _is_transform(transform: Any) -> bool:
    if not isinstance(transform, list | tuple) or len(transform) not in (6, 9):
        return False
    if not all(
        isinstance(value, int | float) and abs(value) < _FARTHEST and not isinstance(value, bool)
        for value in transform
    ):
        return False
    a, b, _, d, e, _ = transform[:6]
    return bool(b == d == 0 and a > 1e-6 and abs(a + e) <= 1e-6 * a)


def read_footprint(geometry: Any, *, where: str) -> Any:
    """Return an item's GeoJSON geometry if it is one: a surface in degrees.

    Raises
    ------
    ItemError
        If it is none.

    Examples
    --------
    >>> read_footprint(None, where="item x")
    Traceback (most recent call last):
    kappamask.base.errors.ItemError: item x: its geometry is a GeoJSON surface in degrees...
    """
    from shapely import get_coordinates
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    try:
        with np.errstate(invalid="ignore"):  # a corner that is NaN
            found = shape(geometry)
        whole = np.isfinite(get_coordinates(found)).all() and found.area > 0
        bounds = found.bounds if whole else ()
    except (ShapelyError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        bounds = ()
    limits = (360, 90, 360, 90)
    if not bounds or not all(
        math.isfinite(edge) and abs(edge) <= most for edge, most in zip(bounds, limits, strict=True)
    ):
        raise ItemError(
            f"{where}: its geometry is a GeoJSON surface in degrees, got {geometry!r:.80}: correct "
            "the item or leave it out"
        )
    return geometry
