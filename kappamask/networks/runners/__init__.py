"""The engines that run a network: torch or onnxruntime. Row 2: imports `networks` and row 0.

`base` says what an engine is and what a network's file is, `choice` which engine,
precision and threads are used, the `in_...` hold one engine each. An
engine is imported when a network is loaded with it, never before: a back end that has
only one of them, or a command that needs neither, does without.
"""

from __future__ import annotations

from kappamask.networks.runners.base import Runner, WeightsFile
from kappamask.networks.runners.choice import (
    ENGINES,
    PRECISIONS,
    available_threads,
    is_there,
    resolve_engine,
    resolve_precision,
)
from kappamask.networks.runners.in_onnx import ONNX_MANIFEST, OnnxRunner, export_onnx, open_onnx
from kappamask.networks.runners.in_torch import TorchRunner, open_torch

__all__ = [
    "ENGINES",
    "ONNX_MANIFEST",
    "PRECISIONS",
    "OnnxRunner",
    "Runner",
    "TorchRunner",
    "WeightsFile",
    "available_threads",
    "export_onnx",
    "is_there",
    "open_onnx",
    "open_torch",
    "resolve_engine",
    "resolve_precision",
]
