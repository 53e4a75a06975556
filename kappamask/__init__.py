"""kappamask: cloud masks for Sentinel-2 from STAC catalogues, arrays and openEO.

Names are imported where they are first used: `import kappamask` loads neither
torch nor xarray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kappamask.errors import KappaMaskError
from kappamask.legend import Label

if TYPE_CHECKING:
    from kappamask import catalogs, networks
    from kappamask.cube import load_cube
    from kappamask.model import load_model
    from kappamask.output import write_mask
    from kappamask.plot import quicklook
    from kappamask.predict import predict_array, predict_cube
    from kappamask.stac_search import search

__version__ = "0.1.0"
__all__ = [
    "KappaMaskError",
    "Label",
    "catalogs",
    "load_cube",
    "load_model",
    "networks",
    "predict_array",
    "predict_cube",
    "quicklook",
    "search",
    "write_mask",
]

_ROOMS = {
    "load_cube": "cube",
    "load_model": "model",
    "predict_array": "predict",
    "predict_cube": "predict",
    "quicklook": "plot",
    "search": "stac_search",
    "write_mask": "output",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(import_module(f"kappamask.{_ROOMS[name]}"), name)
    if name in ("catalogs", "networks"):
        return import_module(f"kappamask.{name}")
    raise AttributeError(f"module 'kappamask' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
