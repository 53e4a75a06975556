"""Cloud-free composites. Imports lower floors, and those only when something is composed.

`cube` is the front door, `periods` splits dates, `ranking` says where the ground is seen and how
good a date is, `quality` which views are poor, `methods` makes one pixel of many.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kappamask.composites.cube import composite
    from kappamask.composites.ranking import Ranking

__all__ = ["BUFFER_M", "METHODS", "Ranking", "composite"]
METHODS = (
    "median", "mean", "geomedian", "percentile", "best-pixel", "medoid", "first-clear", "max-ndvi",
)  # fmt: skip
FILLS = ("least-cloudy",)  # what is taken where no date is clear, if anything
# metres around each that are not used
BUFFER_M: Mapping[str, float] = MappingProxyType({"cloud": 60.0, "shadow": 40.0})


def __getattr__(name: str) -> Any:
    rooms = {"composite": "cube", "Ranking": "ranking"}
    if name in rooms:
        return getattr(import_module(f"{__name__}.{rooms[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
