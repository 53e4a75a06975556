"""The engines that run a network: torch or onnxruntime. Imports `base`, `weights` and the networks.

An engine is imported when a network is loaded with it, never before: a back end that has
only one of them, or a command that needs neither, does without.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kappamask.base.bands import NAMES
from kappamask.base.errors import InputError, WeightsError
from kappamask.networks.weights import WeightsFile, read_file, read_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

ENGINES = ("auto", "torch", "onnx")
PRECISIONS = ("auto", "bf16", "fp32")
DEVICES = ("auto", "cpu", "cuda")
ONNX_MANIFEST = "onnx.json"  # beside the ONNX files that `kappamask udf build` exports
# What torch is told before it is first imported: it and its threads read this once.
ENVIRONMENT = {
    # Large pages save the network from one page fault per 4 KiB of activations: 1.5 times faster.
    "THP_MEM_ALLOC_ENABLE": "1",
    # Threads that wait for one another give their core away soon, to those that decode files.
    "GOMP_SPINCOUNT": "1000",
}
_MALLOC = {-1: 256 * 2**20, -3: 192 * 2**20}  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_TOLD_BY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
# Engines that have threads in this process, and those whose threads a fork has left behind: it
# copies none of them, and whoever waits for one waits for ever.
_AT_WORK: set[str] = set()
_LEFT_BEHIND: set[str] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _LEFT_BEHIND.update(_AT_WORK))


@dataclass(frozen=True, eq=False)
class Runner:
    """One engine that holds one network. Arrays are the engine's own until it decides."""

    network: Any  # a torch module, or a session of onnxruntime
    precision: str = "fp32"  # or "bf16"
    device: str = "cpu"  # or "cuda"
    engine: ClassVar[str]  # "torch" or "onnx"
    package: ClassVar[str]

    @property
    def version(self) -> str:
        """Name and version of the engine, for people."""
        return f"{self.package} {import_module(self.package).__version__}"

    def make_slots(self, count: int, height: int, width: int) -> Any:
        """Room (count, 13, height, width) for `Normalisation.fill`."""
        raise NotImplementedError

    def run(self, slots: Any, flags: Sequence[Sequence[float]]) -> Any:
        """Map slots, and 14 flags for each of them, to logits (count, 4, y, x).

        In a process that was forked from one in which the engine was at work it computes with a
        thread of its own.

        Raises
        ------
        InputError
            In such a process, if it computes on a GPU: that cannot be forked.
        """
        raise NotImplementedError

    def find_largest(self, slots: Any, flags: Sequence[Sequence[float]]) -> np.ndarray:
        """Map slots and flags, as `run` takes them, to the largest of four, (count, y, x) uint8."""
        return np.stack([find_largest(np.asarray(logits)) for logits in self.run(slots, flags)])

    def softmax(self, logits: Any) -> np.ndarray:
        """Probabilities (4, y, x) float32 that sum to 1."""
        raise NotImplementedError


def find_largest(logits: np.ndarray) -> np.ndarray:
    """Which of four (4, y, x) is largest, (y, x) uint8, the first of several equal ones.

    In pairs, as in a tournament: `argmax` of torch and of numpy go along an axis whose numbers
    lie far apart.

    Examples
    --------
    >>> find_largest(np.array([[[0, 2, 1]], [[1, 2, 0]], [[0, 1, 3]], [[1, 2, 4]]])).tolist()
    [[1, 0, 3]]
    """
    first = (logits[1] > logits[0]).view(np.uint8)
    second = (logits[3] > logits[2]).view(np.uint8) + np.uint8(2)
    is_second = np.maximum(logits[2], logits[3]) > np.maximum(logits[0], logits[1])
    largest: np.ndarray = np.where(is_second, second, first)
    return largest


# --- choice -------------------------------------------------------------------------------------


def choose_engine(
    weights: WeightsFile, *, engine: str = "auto", precision: str = "auto", device: str = "auto"
) -> tuple[str, str]:
    """Choose what computes, ``"torch"`` or ``"onnx"``, and in what, ``"bf16"`` or ``"fp32"``.

    1. What is named;
    2. torch, where it can be imported and its weights are there, in bf16 where the processor
       computes in it and the network was shown to give the same labels;
    3. onnxruntime, in fp32.

    Raises
    ------
    InputError
        If there is no such engine, precision or device, the engine or the network does not have
        the precision or the device, or neither engine can be imported.

    Examples
    --------
    >>> from kappamask.networks.manifest import find_entry
    >>> from kappamask.networks.weights import weights_of
    >>> choose_engine(weights_of(find_entry("default", "L2A")), engine="onnx")
    ('onnx', 'fp32')
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    engine = find_engine(weights, engine=engine, device=device)
    if engine == "onnx" and precision == "bf16":
        raise InputError("onnxruntime computes in fp32, got precision 'bf16': use torch, or fp32")
    measured = weights.entry.precisions
    if precision not in ("auto", *measured):
        raise InputError(
            f"this network computes in {' or '.join(measured)}, got precision {precision!r}, in "
            "which its labels were not compared: leave it out"
        )
    if precision == "auto":
        bf16 = engine == "torch" and "bf16" in measured and has_bf16(device)
        precision = "bf16" if bf16 else "fp32"
    return engine, precision


def find_engine(weights: WeightsFile, *, engine: str = "auto", device: str = "auto") -> str:
    """Choose what computes, as `choose_engine` does; neither engine is imported for that.

    Raises
    ------
    InputError
        If there is no such engine or device, the engine does not have the device, or neither
        engine can be imported.
    """
    if engine not in ENGINES:
        raise InputError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if device not in DEVICES:
        raise InputError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if engine == "auto":
        usable = {
            "torch": is_there("torch") and is_there("safetensors") and weights.path.is_file(),
            "onnx": is_there("onnxruntime"),
        }
        if not any(usable.values()):
            raise InputError(
                "a network needs torch (with safetensors) or onnxruntime, found neither: install "
                "one, or give a back end the archive that `kappamask udf build` makes"
            )
        engine = next(name for name, is_usable in usable.items() if is_usable)
    if engine == "onnx" and device == "cuda":
        raise InputError("onnxruntime computes on the processor here, got device 'cuda': use torch")
    return engine


def has_bf16(device: str = "auto") -> bool:
    """Tell whether torch finds hardware that gains by bf16, rather than imitates it.

    Intel's processors gain by AMX. Their AVX-512 BF16 alone, as where a hypervisor hides AMX, is
    slower than fp32 (.7 to .85 of it on a Xeon); AMD's is up to 1.8 times faster
    (docs/performance.md).
    """
    prepare_torch()
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return True
    avx, amx = (
        getattr(torch.cpu, f"_is_{name}_supported", lambda: False)()
        for name in ("avx512_bf16", "amx_tile")
    )
    return amx or (avx and not is_intel())


@cache
def is_intel() -> bool:
    """Tell who made the processor, as Linux knows it, else as Python does."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return "Intel" in platform.processor()


def is_there(package: str) -> bool:
    """Tell whether a package can be imported; a mere folder of that name is none.

    Examples
    --------
    >>> is_there("numpy"), is_there("tensorchord")
    (True, False)
    """
    found = find_spec(package)
    return found is not None and found.origin is not None


def keep_freed_memory() -> None:
    """Let glibc keep what a window frees, up to 256 MB: the next one needs it again.

    Else it returns the pages, and gets them anew, filled with zeros: a sixth of the time of a tile
    in COGs. Without effect on other C libraries, and where the user has said otherwise.
    """
    if not any(name in os.environ for name in _TOLD_BY):
        with suppress(AttributeError, OSError, TypeError):
            mallopt = ctypes.CDLL(None).mallopt
            for option, number in _MALLOC.items():
                mallopt(option, number)


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


# --- torch --------------------------------------------------------------------------------------


def prepare_torch() -> None:
    """Set what the user has not set; without effect once torch is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True, eq=False)
class TorchRunner(Runner):
    """The network in torch: bf16 where the processor computes in it, channels last."""

    network: nn.Module
    engine = package = "torch"

    def make_slots(self, count: int, height: int, width: int) -> Tensor:
        """Room in the precision of the network; a GPU fetches it from pinned memory."""
        import torch

        _AT_WORK.add("torch")
        if "torch" in _LEFT_BEHIND:
            if self.device == "cuda":
                raise InputError(
                    "a GPU cannot be used in a process that was forked: start processes with "
                    "multiprocessing.get_context('spawn')"
                )
            torch.set_num_threads(1)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        shape = count, len(NAMES), height, width
        return torch.empty(shape, dtype=dtype, pin_memory=self.device == "cuda")

    def run(self, slots: Tensor, flags: Sequence[Sequence[float]]) -> Tensor:
        """Run the network on its device."""
        return self._compute(self.network, slots, flags)

    def find_largest(self, slots: Tensor, flags: Sequence[Sequence[float]]) -> np.ndarray:
        """Let the network find it, where it does so faster than from its logits."""
        own = getattr(self.network, "find_largest", None)
        return (
            super().find_largest(slots, flags)
            if own is None
            else self._compute(own, slots, flags).cpu().numpy()
        )

    def _compute(
        self, network: Callable[..., Tensor], slots: Tensor, flags: Sequence[Sequence[float]]
    ) -> Tensor:
        import torch

        presence = torch.tensor(flags).to(self.device, slots.dtype)
        with torch.inference_mode():
            return network(slots.to(self.device, non_blocking=True), presence)

    def softmax(self, logits: Tensor) -> np.ndarray:
        """Compute probabilities on the device, with all threads."""
        return logits.softmax(0).cpu().numpy()


def open_torch(
    weights: WeightsFile, *, precision: str, threads: int | None = None, device: str = "auto"
) -> TorchRunner:
    """Load a network into torch, batch normalisation folded; "auto": on a GPU where there is one.

    Raises
    ------
    InputError
        If a GPU is asked for and torch finds none.
    WeightsError
        If the file is absent, damaged, not what the manifest says, or of another network.
    """
    prepare_torch()
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and found != "cuda":
        raise InputError(
            f"device 'cuda' needs a GPU that torch {torch.__version__} finds, got none: leave the "
            "device out, or install torch for CUDA"
        )
    device = found if device == "auto" else device
    if device == "cpu":
        keep_freed_memory()
    network = _build_network(weights, precision).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TorchRunner(network.requires_grad_(requires_grad=False), precision, device)


def _build_network(weights: WeightsFile, precision: str) -> nn.Module:
    """Build our own network in the precision asked for, or that of 2021 with its four classes."""
    tensors = read_weights(weights.path, weights.sha256)
    if weights.entry.architecture == "published":
        from kappamask.networks.published import FourClasses, from_tensors

        return FourClasses(from_tensors(tensors, weights.path.name))
    from kappamask.networks.unet import UNet

    network = UNet(weights.entry.widths)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(
            f"{weights.path.name} does not hold the network that the manifest describes "
            f"({error}): reinstall kappamask"
        ) from error
    network = network.fold()
    return network.to_bf16() if precision == "bf16" else network


# --- onnxruntime --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class OnnxRunner(Runner):
    """The network in onnxruntime, in single precision on the processor."""

    content: bytes = b""  # of the ONNX file
    engine, package = "onnx", "onnxruntime"

    def make_slots(self, count: int, height: int, width: int) -> np.ndarray:
        """Room in single precision."""
        return np.empty((count, len(NAMES), height, width), np.float32)

    def run(self, slots: np.ndarray, flags: Sequence[Sequence[float]]) -> np.ndarray:
        """Run the network with the session's threads."""
        _AT_WORK.add("onnx")
        session = _own_session(self.content) if "onnx" in _LEFT_BEHIND else self.network
        given = {"slots": slots, "flags": np.array(flags, np.float32)}
        logits: np.ndarray = session.run(["logits"], given)[0]
        return logits

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
    content = _read_onnx(weights)
    try:
        session = _open_session(content, threads)
    except ImportError as error:
        raise InputError(
            f"engine 'onnx' needs onnxruntime ({error}): pip install 'kappamask[onnx]'"
        ) from error
    return OnnxRunner(session, content=content)


def _open_session(content: bytes, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns of every processor it cannot pin
    options.intra_op_num_threads = threads or 0  # 0: as many as there are cores
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


_own_session = cache(partial(_open_session, threads=1))  # of a forked process, once a network


def _read_onnx(weights: WeightsFile) -> bytes:
    """Read the ONNX file exported from these weights; without one, make it in memory."""
    path = weights.path.with_name(ONNX_MANIFEST)
    manifest: Mapping[str, Mapping[str, str]] = {}  # {file: {"sha256", "source_sha256"}}
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        pass
    except ValueError as error:
        raise WeightsError(f"{path} is no JSON ({error}): get the archive again") from error
    name = weights.path.with_suffix(".onnx").name
    if name not in manifest:
        return export_onnx(weights)
    if manifest[name]["source_sha256"] != weights.sha256:
        raise WeightsError(
            f"{name} was exported from weights with sha256 {manifest[name]['source_sha256']}, the "
            f"manifest of the models says {weights.sha256}: run `kappamask udf build` again"
        )
    return read_file(weights.path.with_name(name), manifest[name]["sha256"])


def export_onnx(weights: WeightsFile) -> bytes:
    """Make the ONNX file of a network; the same weights always give the same bytes.

    Raises
    ------
    WeightsError
        If the weights cannot be read, or the packages onnx and safetensors are not there.
    """
    if weights.entry.architecture != "unet":  # no graph of others is written down
        raise InputError(
            f"the network of {weights.path.name} runs in torch only, got engine 'onnx': "
            "install torch and leave the engine out"
        )
    try:
        from kappamask.networks.onnx import build_graph

        arrays = read_weights(weights.path, weights.sha256, "numpy")
    except ImportError as error:
        raise WeightsError(
            f"no ONNX file of {weights.path.stem} lies in {weights.path.parent}, and making one "
            f"needs {error.name}: pip install 'kappamask[onnx]', or use an archive that "
            "`kappamask udf build --engine onnx` makes"
        ) from error
    return build_graph(arrays, weights.entry.widths)
