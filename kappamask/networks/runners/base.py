"""What an engine is, and what it opens. Row 2: imports nothing of the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class WeightsFile:
    """The weights of one network, as the manifest describes them."""

    path: Path  # safetensors
    sha256: str
    widths: tuple[int, ...]  # channels at each depth
    architecture: str = "unet"  # or "published"


class Runner(Protocol):
    """One engine that holds one network. Arrays are the engine's own until it decides."""

    @property
    def engine(self) -> str:
        """``"torch"`` or ``"onnx"``."""

    @property
    def version(self) -> str:
        """Name and version of the engine, for people."""

    @property
    def precision(self) -> str:
        """``"bf16"`` or ``"fp32"``."""

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda"``."""

    def make_slots(self, height: int, width: int) -> Any:
        """Zeros (1, 13, height, width) for `Normalisation.fill`."""

    def run(self, slots: Any, flags: Sequence[float]) -> Any:
        """Map slots and 14 flags to logits (4, y, x)."""

    def argmax(self, logits: Any) -> np.ndarray:
        """Which of the four is largest, (y, x) integers."""

    def softmax(self, logits: Any) -> np.ndarray:
        """Probabilities (4, y, x) float32 that sum to 1."""
