"""What people call a cube, brought to the canonical one. Imports `base`.

A Dataset with a variable per band (odc-stac, EOPF), dims ``t`` and ``bands`` (openEO), common
names (STAC), fill values that attributes name (rioxarray), digital numbers with their scale.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.bands import canonical_name
from kappamask.base.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    import xarray as xr

_DIMS = {
    "time": ("t", "date", "datetime"),
    "band": ("bands", "wavelength_name", "variable"),
    "y": ("latitude", "lat", "northing", "Y"),
    "x": ("longitude", "lon", "easting", "X"),
}
_CANONICAL = {name: dim for dim, names in _DIMS.items() for name in names}
# Where libraries say what stands for no data. Not in `encoding`: there it is done already.
_NODATA = ("_FillValue", "nodata", "missing_value")
CRS_KEYS = ("crs_wkt", "spatial_ref", "grid_mapping_name")


def to_canonical(data: Any, *, scale: float | None = None, offset: float | None = None) -> Any:
    """Bring a DataArray or Dataset to dims, band names and reflectance of the canonical cube.

    Parameters
    ----------
    data
        A DataArray, or a Dataset with a variable per band; lazy or loaded. What is neither is
        returned as it is.
    scale, offset
        Reflectance is ``(value + offset) / scale``; None: the values are reflectance, or
        attributes ``scale_factor`` and ``add_offset`` say it.

    Returns
    -------
    xarray.DataArray
        With NaN where an attribute's fill value stood, or a DN of 0 below an offset. Layers
        that are no bands (``SCL``) are left out.

    Raises
    ------
    InputError
        If a Dataset holds no band, two layers are one band, or integers come without a scale.

    Examples
    --------
    >>> import xarray as xr
    >>> red = xr.DataArray([[0, 1500]], dims=("latitude", "longitude"), attrs={"nodata": 0})
    >>> cube = to_canonical(xr.Dataset({"red": red}), scale=10000, offset=-1000)
    >>> cube.dims, cube.band.values.tolist(), cube.values.round(4)
    (('band', 'y', 'x'), ['B04'], array([[[ nan, 0.05]]], dtype=float32))
    """
    if hasattr(data, "data_vars"):
        return _join(data, scale, offset)
    if not all(hasattr(data, name) for name in ("dims", "coords", "rename")):
        return data
    return _to_reflectance(_name_bands(_rename(data)), scale, offset)


def _join(data: xr.Dataset, scale: float | None, offset: float | None) -> xr.DataArray:
    """Make one DataArray of the variables that are bands, or take the one that has them all."""
    import xarray as xr

    references = [
        name
        for name, variable in data.data_vars.items()
        if not variable.dims and any(key in variable.attrs for key in CRS_KEYS)
    ]
    data = _rename(data.set_coords(references))
    layers = {name: _band_or_none(name) for name in data.data_vars}
    bands = {name: band for name, band in layers.items() if band is not None}
    cubes = [variable for variable in data.data_vars.values() if "band" in variable.dims]
    if not bands and len(cubes) == 1:
        cube = cubes[0].assign_attrs({**data.attrs, **cubes[0].attrs})
        return _to_reflectance(_name_bands(cube), scale, offset)
    if not bands:
        raise InputError(
            "a Dataset holds a variable for each band (B02, red...) or one with all of them, got "
            f"{', '.join(map(str, data.data_vars)) or 'none'}: rename its variables"
        )
    _check_once(list(bands.values()), list(bands))
    variables = [_to_reflectance(data[name], scale, offset) for name in bands]
    names = xr.DataArray(list(bands.values()), dims="band", name="band")
    joined: xr.DataArray = xr.concat(
        variables, dim=names, coords="minimal", compat="override", join="exact"
    )
    attrs = {**variables[0].attrs, **data.attrs}
    return joined.assign_attrs({key: attrs[key] for key in ("level", "crs") if key in attrs})


def _rename(data: Any) -> Any:
    """Call dims and their coordinates as the canonical cube does."""
    names = {
        name: _CANONICAL[name]
        for name in data.dims
        if name in _CANONICAL and _CANONICAL[name] not in (*data.dims, *data.coords)
    }
    return data.rename(names) if names else data


def _name_bands(cube: xr.DataArray) -> xr.DataArray:
    """Give bands their canonical names; leave out layers that are none."""
    if "band" not in cube.dims or "band" not in cube.coords:
        return cube
    given = cube.band.values.tolist()
    found = [_band_or_none(name) for name in given]
    if found == given:
        return cube
    kept = [place for place, name in enumerate(found) if name is not None]
    if not kept:
        return cube
    names = [found[place] for place in kept]
    _check_once(names, [given[place] for place in kept])
    cube = cube if len(kept) == len(given) else cube.isel(band=kept)
    return cube.assign_coords(band=names)


def _band_or_none(name: Hashable) -> str | None:
    try:
        return canonical_name(str(name))
    except UnknownNameError:
        return None


def _check_once(bands: list[Any], given: list[Any]) -> None:
    twice = sorted({band for band in bands if bands.count(band) > 1})
    if twice:
        raise InputError(
            f"each band may stand once, got {', '.join(twice)} more than once among "
            f"{', '.join(map(str, given))}: select one of each"
        )


def _to_reflectance(
    values: xr.DataArray, scale: float | None, offset: float | None
) -> xr.DataArray:
    """Put NaN where attributes say that there is no data, and turn DN into reflectance."""
    attrs = values.attrs
    if scale is None and values.dtype.kind in "iu" and attrs.get("scale_factor", 1) != 1:
        scale = 1 / attrs["scale_factor"]
        offset = attrs.get("add_offset", 0) * scale if offset is None else offset
    if offset is not None and scale is None:
        raise InputError(f"an offset goes with a scale, got offset={offset}: pass scale=10000 too")
    if values.dtype.kind in "iu" and scale is None:
        raise InputError(
            f"reflectance is floating point with 1.0 = 100 %, got {values.dtype}, which looks like "
            "DN: pass scale=10000, and offset=-1000 from processing baseline 04.00 on (else 0); "
            "or pass (DN + offset) / 10000 with NaN for no data"
        )
    if scale is not None and not scale > 0:
        raise InputError(f"a scale is DN per unit of reflectance, above 0, got {scale}: pass 10000")
    empty = None
    for fill in (attrs.get(name) for name in _NODATA):
        if isinstance(fill, int | float | np.number) and not np.isnan(fill):
            is_fill = values == values.dtype.type(fill)
            empty = is_fill if empty is None else empty | is_fill
    if offset:  # a DN of 0 is none that was measured
        is_fill = values == 0
        empty = is_fill if empty is None else empty | is_fill
    if empty is None and scale is None:
        return values
    found = values.astype(np.float32) if values.dtype.kind in "iu" else values
    if scale is not None:
        found = (found + np.float32(offset or 0)) * np.float32(1 / scale)
    found = found if empty is None else found.where(~empty)
    kept = {
        name: value
        for name, value in attrs.items()
        if name not in (*_NODATA, "scale_factor", "add_offset")
    }
    return found.assign_attrs(kept)
