"""Which engine, precision, how many threads. Row 2: imports the rooms beside it, and row 0."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from kappamask.base.errors import InputError
from kappamask.networks.runners.base import WeightsFile
from kappamask.networks.runners.torch_environment import prepare_torch

ENGINES = ("auto", "torch", "onnx")
PRECISIONS = ("auto", "bf16", "fp32")


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


def resolve_precision(precision: str, engine: str, measured: Sequence[str] = PRECISIONS[1:]) -> str:
    """Choose the precision that `engine` computes in, ``"bf16"`` or ``"fp32"``.

    Parameters
    ----------
    precision
        What is asked for.
    engine
        ``"torch"`` or ``"onnx"``.
    measured
        Precisions in which the network was shown to give the same labels.

    Raises
    ------
    InputError
        If there is no such precision, or the engine or the network does not have it.

    Examples
    --------
    >>> resolve_precision("auto", "onnx")
    'fp32'
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if engine == "onnx" and precision == "bf16":
        raise InputError("onnxruntime computes in fp32, got precision 'bf16': use torch, or fp32")
    if precision not in ("auto", *measured):
        raise InputError(
            f"this network computes in {' or '.join(measured)}, got precision {precision!r}, in "
            "which its labels were not compared: leave it out"
        )
    if precision != "auto":
        return precision
    if engine == "onnx" or "bf16" not in measured:
        return "fp32"
    prepare_torch()
    import torch

    native = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if torch.cuda.is_available() or any(
        getattr(torch.cpu, probe, lambda: False)() for probe in native
    ):
        return "bf16"
    return "fp32"


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
