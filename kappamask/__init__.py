"""kappamask: cloud masks for Sentinel-2 from STAC catalogues, arrays and openEO.

Names are imported where they are first used: `import kappamask` loads neither
torch nor xarray. The first use of a function of cubes registers the accessor
``cube.kappamask``; so does ``import kappamask.accessor``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kappamask.base.errors import KappaMaskError
from kappamask.base.legend import Label

if TYPE_CHECKING:
    from kappamask import networks, plot
    from kappamask.composites.cube import composite
    from kappamask.cubes.cube import load_cube
    from kappamask.cubes.products import open_raster, open_safe
    from kappamask.networks.model import load_model
    from kappamask.outputs.cf_files import write_netcdf, write_zarr
    from kappamask.outputs.composites import write_composite
    from kappamask.outputs.masks import write_mask
    from kappamask.plot import quicklook
    from kappamask.predict.array import predict_array, predict_batch
    from kappamask.predict.cube import predict_cube
    from kappamask.predict.refine import refine
    from kappamask.scenes import catalogs
    from kappamask.scenes.search import search

__version__ = "0.1.0"
__all__ = [
    "KappaMaskError",
    "Label",
    "catalogs",
    "composite",
    "load_cube",
    "load_model",
    "networks",
    "open_raster",
    "open_safe",
    "plot",
    "predict_array",
    "predict_batch",
    "predict_cube",
    "quicklook",
    "refine",
    "search",
    "write_composite",
    "write_mask",
    "write_netcdf",
    "write_zarr",
]

_ROOMS = {
    "composite": "composites.cube",
    "load_cube": "cubes.cube",
    "load_model": "networks.model",
    "open_raster": "cubes.products",
    "open_safe": "cubes.products",
    "predict_array": "predict.array",
    "predict_batch": "predict.array",
    "predict_cube": "predict.cube",
    "quicklook": "plot.scene",
    "refine": "predict.refine",
    "search": "scenes.search",
    "write_composite": "outputs.composites",
    "write_mask": "outputs.masks",
    "write_netcdf": "outputs.cf_files",
    "write_zarr": "outputs.cf_files",
}


# Whoever takes one of these has xarray loaded anyway, or is about to.
_OF_CUBES = {
    "composite", "load_cube", "open_raster", "open_safe", "predict_cube", "quicklook", "refine",
    "write_mask",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _OF_CUBES:
        import_module("kappamask.accessor")  # registers cube.kappamask
    if name == "catalogs":
        return import_module("kappamask.scenes.catalogs")
    if name in _ROOMS:
        return getattr(import_module(f"kappamask.{_ROOMS[name]}"), name)
    if name in ("networks", "plot"):
        return import_module(f"kappamask.{name}")
    raise AttributeError(f"module 'kappamask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
