"""A network in onnxruntime, imported when one is opened. Row 2: imports `networks` and row 0."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kappamask.base.bands import NAMES
from kappamask.base.errors import InputError, WeightsError
from kappamask.networks.files import read_arrays, read_file
from kappamask.networks.runners.base import WeightsFile

ONNX_MANIFEST = "onnx.json"  # beside the ONNX files that `kappamask udf build` exports


@dataclass(frozen=True, eq=False)
class OnnxRunner:
    """The network in onnxruntime, in single precision on the processor."""

    session: Any
    precision: str = "fp32"
    device: str = "cpu"
    engine: str = "onnx"

    @property
    def version(self) -> str:
        """Name and version of the engine."""
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def make_slots(self, height: int, width: int) -> np.ndarray:
        """Zeros in single precision."""
        return np.zeros((1, len(NAMES), height, width), np.float32)

    def run(self, slots: np.ndarray, flags: Sequence[float]) -> np.ndarray:
        """Run the network with the session's threads."""
        given = {"slots": slots, "flags": np.array([flags], np.float32)}
        logits: np.ndarray = self.session.run(["logits"], given)[0][0]
        return logits

    def argmax(self, logits: np.ndarray) -> np.ndarray:
        """Compare one class after the other: twice as fast as `numpy.argmax`."""
        best = logits[0].copy()
        codes = np.zeros(best.shape, np.uint8)
        for code in range(1, len(logits)):
            codes[logits[code] > best] = code
            np.maximum(best, logits[code], out=best)
        return codes

    def softmax(self, logits: np.ndarray) -> np.ndarray:
        """Compute probabilities in single precision."""
        probabilities: np.ndarray = np.exp(logits - logits.max(0))
        probabilities /= probabilities.sum(0)
        return probabilities


def open_onnx(weights: WeightsFile, *, threads: int | None = None) -> OnnxRunner:
    """Load a network into onnxruntime.

    Raises
    ------
    WeightsError
        If there is no ONNX file beside the weights and none can be made, or it is
        damaged, not what its manifest says, or made from other weights.
    """
    check_architecture(weights)
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"engine 'onnx' needs onnxruntime ({error}): pip install 'kappamask[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns of every processor it cannot pin
    options.intra_op_num_threads = threads or 0  # 0: as many as there are cores
    content = read_onnx(weights)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return OnnxRunner(session)


def check_architecture(weights: WeightsFile) -> None:
    """Refuse networks for which no ONNX graph is written down."""
    if weights.architecture != "unet":
        raise InputError(
            f"the network of {weights.path.name} runs in torch only, got engine 'onnx': "
            "install torch and leave the engine out"
        )


def read_onnx(weights: WeightsFile) -> bytes:
    """Read the ONNX file exported from these weights; without one, make it in memory.

    Raises
    ------
    WeightsError
        As `open_onnx`.
    """
    manifest = read_onnx_manifest(weights.path.parent)
    name = weights.path.with_suffix(".onnx").name
    if name not in manifest:
        return export_onnx(weights)
    if manifest[name]["source_sha256"] != weights.sha256:
        raise WeightsError(
            f"{name} was exported from weights with sha256 {manifest[name]['source_sha256']}, the "
            f"manifest of the models says {weights.sha256}: run `kappamask udf build` again"
        )
    return read_file(weights.path.with_name(name), manifest[name]["sha256"])


def read_onnx_manifest(folder: Path) -> Mapping[str, Mapping[str, str]]:
    """Read which ONNX files lie in a folder: ``{file: {"sha256", "source_sha256"}}``."""
    path = folder / ONNX_MANIFEST
    try:
        manifest: dict[str, dict[str, str]] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise WeightsError(f"{path} is no JSON ({error}): get the archive again") from error
    return manifest


def export_onnx(weights: WeightsFile) -> bytes:
    """Make the ONNX file of a network; the same weights always give the same bytes.

    Raises
    ------
    WeightsError
        If the weights cannot be read, or the packages onnx and safetensors are not there.
    """
    check_architecture(weights)
    try:
        from kappamask.networks.onnx import build_graph

        arrays = read_arrays(weights.path, weights.sha256)
    except ImportError as error:
        raise WeightsError(
            f"no ONNX file of {weights.path.stem} lies in {weights.path.parent}, and making one "
            f"needs {error.name}: pip install 'kappamask[onnx]', or use an archive that "
            "`kappamask udf build --engine onnx` makes"
        ) from error
    return build_graph(arrays, weights.widths)
