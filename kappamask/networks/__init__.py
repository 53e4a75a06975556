"""Networks: `unet` and `published` in torch, `onnx` as a graph. Imports `base` only.

Importing `unet` or `published` imports torch; importing `onnx` imports the package onnx.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kappamask.networks import published, unet

__all__ = ["published", "unet"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f"kappamask.networks.{name}")
    raise AttributeError(f"module 'kappamask.networks' has no attribute {name!r}")
