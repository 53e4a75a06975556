"""A network in OpenVINO, imported when one is opened. Row 2: imports `networks` and row 0.

It reads the ONNX file of `in_onnx` and is the fastest on processors: docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kappamask.errors import InputError
from kappamask.runners.base import WeightsFile
from kappamask.runners.in_onnx import OnnxRunner, check_architecture, read_onnx

PRECISION_HINT = {"fp32": "f32", "bf16": "bf16"}


@dataclass(frozen=True, eq=False)
class OpenVinoRunner(OnnxRunner):
    """The network in OpenVINO: in bf16 or single precision, on the processor.

    `session` is an ``openvino.CompiledModel``.
    """

    engine: str = "openvino"

    @property
    def version(self) -> str:
        """Name and version of the engine."""
        import openvino

        return f"openvino {openvino.__version__.split('-')[0]}"

    def run(self, slots: np.ndarray, flags: Sequence[float]) -> np.ndarray:
        """Run the network with its own threads."""
        request = self.session.create_infer_request()  # holds the memory of what it gives
        given = {"slots": slots, "flags": np.array([flags], np.float32)}
        found = request.infer(given, share_inputs=True, share_outputs=True)
        logits: np.ndarray = found["logits"][0]
        return logits.copy()


def open_openvino(
    weights: WeightsFile, *, precision: str, threads: int | None = None
) -> OpenVinoRunner:
    """Load a network into OpenVINO.

    Raises
    ------
    InputError
        If OpenVINO is not installed, or the network has no ONNX graph.
    WeightsError
        As `kappamask.runners.open_onnx`.
    """
    check_architecture(weights)
    try:
        import openvino
    except ImportError as error:
        raise InputError(
            f"engine 'openvino' needs openvino ({error}): pip install 'kappamask[openvino]'"
        ) from error
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": PRECISION_HINT[precision]}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()
    session = core.compile_model(core.read_model(read_onnx(weights), b""), "CPU", options)
    return OpenVinoRunner(session, precision=precision)
