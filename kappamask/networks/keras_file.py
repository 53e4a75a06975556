"""The HDF5 files in which Keras kept the published weights. Imports `base` and this room.

Read with h5py, without TensorFlow; nothing in such a file is run. What is asked of it
is its hash (`kappamask.networks.weights`), or, where a user names a file of their own, the
checks below: the right layers, of the right shapes, stored in the file itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kappamask.base.errors import WeightsError
from kappamask.networks.published import PublishedUNet
from kappamask.networks.weights import refuse_code

WIDEST = 256  # four times the published network: a larger file is another network, or hostile
SIGNATURE = b"\x89HDF\r\n\x1a\n"
ANOTHER = "it is another network, or damaged"


def read_keras(path: str | Path) -> dict[str, np.ndarray]:
    """Read what ``Model.save_weights`` or ``Model.save`` of Keras 2 wrote of the published network.

    Gives float32 by the names of `published.PublishedUNet`: kernels (out, in, y, x) and
    biases (out,). The width of the network is the file's own.

    Raises
    ------
    WeightsError
        If the file is absent, damaged, no HDF5 (a pickle is refused unread), holds
        another network, or if h5py is not installed.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            begin = file.read(len(SIGNATURE))
    except OSError as error:
        raise WeightsError(
            f"cannot read the weights {path} ({error.strerror}): name the .hdf5 file"
        ) from error
    refuse_code(path, begin, "only the HDF5 files of the published network are read, get one")
    if begin != SIGNATURE:
        raise WeightsError(f"{path} is no HDF5 file, it begins with {begin!r}: get it again")
    h5py = import_h5py()
    try:
        with h5py.File(path, "r") as file:
            # `Model.save` keeps the weights in a group of their own, beside the optimizer's.
            root = _member(file, "model_weights", path) if "model_weights" in file else file
            return _read_network(root, path)
    except WeightsError:
        raise
    # h5py turns what its C library says of a damaged file into any of these.
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is a damaged HDF5 file ({error}): get it again") from error


def import_h5py() -> Any:
    """Import what reads HDF5, or say how to install it."""
    try:
        import h5py
    except ImportError as error:
        raise WeightsError(
            f"the published weights are HDF5 files, which need h5py ({error}): "
            "pip install 'kappamask[published]'"
        ) from error
    return h5py


def _read_network(root: Any, path: Path) -> dict[str, np.ndarray]:
    """Read kernels and biases, in the order of the graph, once all of them have their shapes."""
    held = list(_find_convolutions(root, path))
    kernels, biases = held[::2], held[1::2]
    got = [kernel.shape for kernel in kernels]
    width = got[0][-1] if got and len(got[0]) == 4 else 0
    with torch.device("meta"):  # names and shapes only, no numbers
        expected = PublishedUNet(width if 0 < width <= WIDEST else 1).state_dict()
    if got != [(y, x, i, o) for o, i, y, x in (of.shape for of in list(expected.values())[::2])]:
        seen = ", ".join(map(str, got[:3])) + (", ..." if len(got) > 3 else "")
        raise WeightsError(
            f"{path} should hold the {len(expected) // 2} convolutions of the published U-Net, "
            f"from (3, 3, 13, width) to (1, 1, 2, 6), got {len(got)}: {seen}; {ANOTHER}"
        )
    for kernel, bias in zip(kernels, biases, strict=True):
        if bias.shape != kernel.shape[-1:]:
            raise WeightsError(
                f"{path}: {bias.name} should have shape {kernel.shape[-1:]}, got {bias.shape}: "
                f"{ANOTHER}"
            )
    return {name: _read(values, path) for name, values in zip(expected, held, strict=True)}


def _find_convolutions(root: Any, path: Path) -> Iterator[Any]:
    """Find kernel and bias of every layer that has weights, one after the other."""
    for layer in root.attrs["layer_names"]:
        group = _member(root, layer, path)
        names = list(group.attrs["weight_names"])
        if names and len(names) != 2:
            raise WeightsError(
                f"{path}: layer {_text(layer)} should hold a kernel and a bias, got {len(names)} "
                "arrays: it is another network"
            )
        yield from (_member(group, name, path) for name in names)


def _member(group: Any, name: str | bytes, path: Path) -> Any:
    """Look a member up step by step; a link to somewhere else is none of ours."""
    hard_link = import_h5py().HardLink
    for part in _text(name).split("/"):
        if not isinstance(group.get(part, getlink=True), hard_link):
            raise WeightsError(f"{path} holds no {_text(name)} of its own: {ANOTHER}")
        group = group[part]
    return group


def _read(dataset: Any, path: Path) -> np.ndarray:
    """Read one array of single precision that lies in this file and nowhere else."""
    if dataset.dtype != np.dtype("<f4") or dataset.external or dataset.is_virtual:
        raise WeightsError(
            f"{path}: {dataset.name} should be float32 in the file itself, got {dataset.dtype}: "
            f"{ANOTHER}"
        )
    values: np.ndarray = dataset[()]
    if not np.isfinite(values).all():
        raise WeightsError(
            f"{path}: {dataset.name} holds numbers that are not finite: get it again"
        )
    # (y, x, in, out) -> (out, in, y, x)
    return values.transpose(3, 2, 0, 1).copy() if values.ndim == 4 else values


def _text(name: str | bytes) -> str:
    return name.decode("utf-8") if isinstance(name, bytes) else str(name)
