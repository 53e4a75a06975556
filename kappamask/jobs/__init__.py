"""The one loop over dates: items or products to masks, composites and pictures, on disk.

Imports `plot`, `outputs` and below. A name is imported where it is first used: masks need
nothing of composites.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kappamask.jobs.composites import CompositeOptions, compose_items
    from kappamask.jobs.fields import FieldTable, field_shares, mask_fields
    from kappamask.jobs.loop import MaskOptions, Report
    from kappamask.jobs.masks import mask_items
    from kappamask.jobs.products import mask_files, mask_product, mask_products

__all__ = [
    "CompositeOptions",
    "FieldTable",
    "MaskOptions",
    "Report",
    "compose_items",
    "field_shares",
    "mask_fields",
    "mask_files",
    "mask_items",
    "mask_product",
    "mask_products",
]
_ROOMS = {
    "composites": ("CompositeOptions", "compose_items"),
    "fields": ("FieldTable", "field_shares", "mask_fields"),
    "loop": ("MaskOptions", "Report"),
    "masks": ("mask_items",),
    "products": ("mask_files", "mask_product", "mask_products"),
}


def __getattr__(name: str) -> Any:
    for room, held in _ROOMS.items():
        if name in held:
            return getattr(import_module(f"{__name__}.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
