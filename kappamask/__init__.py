"""kappamask: cloud masks for Sentinel-2 from STAC catalogues, arrays and openEO.

Names are imported where they are first used: `import kappamask` loads neither
torch nor xarray. The first use of a function of cubes registers the accessor
``cube.kappamask``; so does ``import kappamask.accessor``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kappamask.errors import KappaMaskError
from kappamask.legend import Label

if TYPE_CHECKING:
    from kappamask import catalogs, networks, plot
    from kappamask.cf_files import write_netcdf, write_zarr
    from kappamask.composite_output import write_composite
    from kappamask.composites import composite
    from kappamask.cube import load_cube
    from kappamask.model import load_model
    from kappamask.output import write_mask
    from kappamask.plot import quicklook
    from kappamask.predict import predict_array, predict_cube
    from kappamask.safe import open_safe
    from kappamask.stac_search import search

__version__ = "0.1.0"
__all__ = [
    "KappaMaskError",
    "Label",
    "catalogs",
    "composite",
    "load_cube",
    "load_model",
    "networks",
    "open_safe",
    "plot",
    "predict_array",
    "predict_cube",
    "quicklook",
    "search",
    "write_composite",
    "write_mask",
    "write_netcdf",
    "write_zarr",
]

_ROOMS = {
    "composite": "composites",
    "load_cube": "cube",
    "load_model": "model",
    "open_safe": "safe",
    "predict_array": "predict",
    "predict_cube": "predict",
    "quicklook": "plot",
    "search": "stac_search",
    "write_composite": "composite_output",
    "write_mask": "output",
    "write_netcdf": "cf_files",
    "write_zarr": "cf_files",
}


# Whoever takes one of these has xarray loaded anyway, or is about to.
_OF_CUBES = {"composite", "load_cube", "open_safe", "predict_cube", "quicklook", "write_mask"}


def __getattr__(name: str) -> Any:
    if name in _OF_CUBES:
        import_module("kappamask.accessor")  # registers cube.kappamask
    if name in _ROOMS:
        return getattr(import_module(f"kappamask.{_ROOMS[name]}"), name)
    if name in ("catalogs", "networks", "plot"):
        return import_module(f"kappamask.{name}")
    raise AttributeError(f"module 'kappamask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
