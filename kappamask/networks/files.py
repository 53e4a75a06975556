"""Weights files whose hash is known; nothing else is ever loaded. Row 1: imports `errors`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from kappamask.base.errors import WeightsError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# A zip, and pickles of protocols 2 to 5: what `torch.save` writes.
CAN_RUN_CODE = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def read_file(path: Path, sha256: str) -> bytes:
    """Read a file of weights, or refuse it.

    Parameters
    ----------
    path
        A safetensors or ONNX file. A pickle or a zip (what `torch.save` writes) is
        refused unread.
    sha256
        64 hexadecimal digits.

    Raises
    ------
    WeightsError
        If the file is absent, is another format, or has another hash.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"cannot read the weights {path} ({error.strerror}): reinstall kappamask"
        ) from error
    if content[:2] in CAN_RUN_CODE:
        raise WeightsError(
            f"{path} is a pickle or a zip, which can run code when loaded: "
            "only safetensors are read, convert it first"
        )
    got = hashlib.sha256(content).hexdigest()
    if got != sha256:
        raise WeightsError(
            f"{path} has sha256 {got}, the manifest says {sha256}: "
            "the file was changed or cut short, get it again"
        )
    return content


def read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read a safetensors file into torch tensors by name.

    Raises
    ------
    WeightsError
        As `read_file`, and if the content is no valid safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = read_file(path, sha256)
    try:
        tensors: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise _no_safetensors(path, error) from error
    return tensors


def read_arrays(path: Path, sha256: str) -> dict[str, np.ndarray]:
    """Read a safetensors file into numpy arrays by name; needs no torch.

    Raises
    ------
    WeightsError
        As `read_weights`.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = read_file(path, sha256)
    try:
        arrays: dict[str, np.ndarray] = load(content)
    except SafetensorError as error:
        raise _no_safetensors(path, error) from error
    return arrays


def _no_safetensors(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"{path} is no valid safetensors file ({error}): get it again")
