"""The engines that run a network: torch or onnxruntime. Row 2: imports `networks` and row 0.

Each is imported when a network is loaded with it, never before: a back end that has
only one of them, or a command that needs neither, does without.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kappamask.bands import NAMES
from kappamask.errors import InputError, WeightsError
from kappamask.networks.files import read_arrays, read_file, read_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

ENGINES = ("auto", "torch", "onnx")
PRECISIONS = ("auto", "bf16", "fp32")
ONNX_MANIFEST = "onnx.json"  # beside the ONNX files that `kappamask udf build` exports


@dataclass(frozen=True)
class WeightsFile:
    """The weights of one network, as the manifest describes them."""

    path: Path  # safetensors
    sha256: str
    widths: tuple[int, ...]  # channels at each depth


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


@dataclass(frozen=True, eq=False)
class TorchRunner:
    """The network in torch: bf16 where the processor computes in it, channels last."""

    network: nn.Module
    precision: str
    device: str
    engine: str = "torch"

    @property
    def version(self) -> str:
        """Name and version of the engine."""
        import torch

        return f"torch {torch.__version__}"

    def make_slots(self, height: int, width: int) -> Tensor:
        """Zeros in the precision of the network."""
        import torch

        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        return torch.zeros((1, len(NAMES), height, width), dtype=dtype)

    def run(self, slots: Tensor, flags: Sequence[float]) -> Tensor:
        """Run the network on its device."""
        import torch

        presence = torch.tensor([flags]).to(self.device, slots.dtype)
        with torch.inference_mode():
            logits: Tensor = self.network(slots.to(self.device), presence)[0]
        return logits

    def argmax(self, logits: Tensor) -> np.ndarray:
        """Find the largest on the device, with all threads."""
        return logits.argmax(0).cpu().numpy()

    def softmax(self, logits: Tensor) -> np.ndarray:
        """Compute probabilities on the device, with all threads."""
        return logits.softmax(0).cpu().numpy()


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


# --- loading --------------------------------------------------------------------------------


def resolve_engine(engine: str, weights: WeightsFile) -> str:
    """Choose the engine.

    1. The one that is named;
    2. torch, where it can be imported and its weights are there: it computes in bf16;
    3. onnxruntime.

    Raises
    ------
    InputError
        If there is no such engine, or neither can be imported.

    Examples
    --------
    >>> resolve_engine("onnx", WeightsFile(Path("net.safetensors"), "", (8,)))
    'onnx'
    """
    if engine not in ENGINES:
        raise InputError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if engine != "auto":
        return engine
    if is_there("torch") and is_there("safetensors") and weights.path.is_file():
        return "torch"
    if is_there("onnxruntime"):
        return "onnx"
    raise InputError(
        "a network needs torch (with safetensors) or onnxruntime, found neither: install one, or "
        "give a back end the archive that `kappamask udf build` makes"
    )


def is_there(package: str) -> bool:
    """Tell whether a package can be imported; a mere folder of that name is none.

    Examples
    --------
    >>> is_there("numpy"), is_there("tensorchord")
    (True, False)
    """
    found = find_spec(package)
    return found is not None and found.origin is not None


def resolve_precision(precision: str, engine: str) -> str:
    """Choose the precision that `engine` computes in, ``"bf16"`` or ``"fp32"``.

    Raises
    ------
    InputError
        If there is no such precision, or the engine does not have it.

    Examples
    --------
    >>> resolve_precision("auto", "onnx")
    'fp32'
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if engine == "onnx" and precision == "bf16":
        raise InputError("onnxruntime computes in fp32, got precision 'bf16': use torch, or fp32")
    if precision != "auto":
        return precision
    if engine == "onnx":
        return "fp32"
    import torch

    native = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if torch.cuda.is_available() or any(
        getattr(torch.cpu, probe, lambda: False)() for probe in native
    ):
        return "bf16"
    return "fp32"


def open_torch(weights: WeightsFile, *, precision: str, threads: int | None = None) -> TorchRunner:
    """Load a network into torch, batch normalisation folded.

    Raises
    ------
    WeightsError
        If the file is absent, damaged, not what the manifest says, or of another network.
    """
    # Large pages save the network from one page fault per 4 KiB of activations: 1.5 times faster.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import torch

    from kappamask.networks.unet import UNet

    if threads is not None:
        torch.set_num_threads(threads)
    network = UNet(weights.widths)
    try:
        network.load_state_dict(read_weights(weights.path, weights.sha256))
    except RuntimeError as error:
        raise WeightsError(
            f"{weights.path.name} does not hold the network that the manifest describes "
            f"({error}): reinstall kappamask"
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.fold().to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if precision == "bf16":
        head = network.head
        network.to(torch.bfloat16)
        network.head = head.float()  # see UNet.forward
    return TorchRunner(network.requires_grad_(requires_grad=False), precision, device)


def open_onnx(weights: WeightsFile, *, threads: int | None = None) -> OnnxRunner:
    """Load a network into onnxruntime.

    Raises
    ------
    WeightsError
        If there is no ONNX file beside the weights and none can be made, or it is
        damaged, not what its manifest says, or made from other weights.
    """
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


def available_threads() -> int:
    """How many processors this process may use; a container's quota counts.

    Engines see all cores of the machine: in a container with two of 64, 64 threads
    take turns.

    Examples
    --------
    >>> available_threads() >= 1
    True
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:  # cgroup v2: "QUOTA PERIOD" in microseconds, or "max PERIOD"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("utf-8").split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass
    return max(1, cores)
