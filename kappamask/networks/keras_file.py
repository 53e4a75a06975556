"""The HDF5 files in which Keras kept the published weights. Row 1: imports row 0 only.

Read with h5py, without TensorFlow; nothing in such a file is run. What is asked of it
is its hash (`kappamask.networks.weights_cache`), or, where a user names a file of their own, the
checks below: the right layers, of the right shapes, stored in the file itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kappamask.base.errors import WeightsError
from kappamask.networks.files import CAN_RUN_CODE

N_FEATURES, N_OUTPUTS, BOTTLENECK = 13, 6, 2
DEPTHS = 5
WIDEST = 256  # four times the published network: a larger file is another network, or hostile
SIGNATURE = b"\x89HDF\r\n\x1a\n"


class Layer(NamedTuple):
    """One convolution: its name in torch and its sizes."""

    name: str
    kernel: int  # pixels per side
    c_in: int
    c_out: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the kernel as Keras stores it: (y, x, in, out)."""
        return self.kernel, self.kernel, self.c_in, self.c_out


def plan_layers(width: int) -> list[Layer]:
    """List the convolutions of the published U-Net in the order of Keras' graph.

    Source: Domnich et al. 2021, Remote Sensing 13(20):4100; km_predict v2.4
    `architectures.py` (Apache-2.0).

    Parameters
    ----------
    width
        Channels of the first level; 64 in the published network.

    Examples
    --------
    >>> layers = plan_layers(64)
    >>> len(layers), layers[0], sum(k * k * i * o + o for _, k, i, o in layers)
    (24, Layer(name='down.0.0', kernel=3, c_in=13, c_out=64), 31038612)
    """
    widths = [width * 2**depth for depth in range(DEPTHS)]
    layers, below = [], N_FEATURES
    for depth, here in enumerate(widths):
        layers += [
            Layer(f"down.{depth}.0", 3, below, here),
            Layer(f"down.{depth}.2", 3, here, here),
        ]
        below = here
    for step, here in enumerate(reversed(widths[:-1])):
        layers += [
            Layer(f"up.{step}.lift", 2, below, here),
            Layer(f"up.{step}.mix.0", 3, 2 * here, here),
            Layer(f"up.{step}.mix.2", 3, here, here),
        ]
        below = here
    return [
        *layers,
        Layer("squeeze", 3, width, BOTTLENECK),
        Layer("head", 1, BOTTLENECK, N_OUTPUTS),
    ]


def read_keras(path: str | Path) -> dict[str, np.ndarray]:
    """Read the published network from Keras' HDF5 file.

    Parameters
    ----------
    path
        What ``Model.save_weights`` or ``Model.save`` of Keras 2 wrote.

    Returns
    -------
    dict of str to numpy.ndarray
        float32 by the names of `published.PublishedUNet`: kernels (out, in, y, x)
        and biases (out,). The width of the network is the file's own.

    Raises
    ------
    WeightsError
        If the file is absent, damaged, no HDF5 (a pickle is refused unread), holds
        another network, or if h5py is not installed.
    """
    path = Path(path)
    check_signature(path)
    h5py = import_h5py()
    try:
        with h5py.File(path, "r") as file:
            return _read_network(file, path)
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


def check_signature(path: Path) -> None:
    """Check that a file begins as HDF5 does."""
    try:
        with path.open("rb") as file:
            begin = file.read(len(SIGNATURE))
    except OSError as error:
        raise WeightsError(
            f"cannot read the weights {path} ({error.strerror}): name the .hdf5 file"
        ) from error
    if begin == SIGNATURE:
        return
    if begin[:2] in CAN_RUN_CODE:
        raise WeightsError(
            f"{path} is a pickle or a zip, which can run code when loaded: only the HDF5 files "
            "of the published network are read, get one"
        )
    raise WeightsError(f"{path} is no HDF5 file, it begins with {begin!r}: get it again")


def _read_network(file: Any, path: Path) -> dict[str, np.ndarray]:
    # `Model.save` keeps the weights in a group of their own, beside the optimizer's.
    root = _member(file, "model_weights", path) if "model_weights" in file else file
    held = list(_find_convolutions(root, path))
    width = held[0][0].shape[-1] if held and held[0][0].ndim == 4 else 0
    layers = plan_layers(width) if 0 < width <= WIDEST else []
    got = [kernel.shape for kernel, _ in held]
    if got != [layer.shape for layer in layers]:
        raise WeightsError(
            f"{path} should hold the {len(plan_layers(1))} convolutions of the published U-Net, "
            f"from (3, 3, 13, width) to (1, 1, 2, 6), got {len(got)}: {_show(got)}; it is another "
            "network, or damaged"
        )
    arrays = {}
    for layer, (kernel, bias) in zip(layers, held, strict=True):
        if bias.shape != (layer.c_out,):
            raise WeightsError(
                f"{path}: {bias.name} should have shape ({layer.c_out},), got {bias.shape}: "
                "it is another network, or damaged"
            )
        arrays[f"{layer.name}.weight"] = _read(kernel, path).transpose(3, 2, 0, 1).copy()
        arrays[f"{layer.name}.bias"] = _read(bias, path)
    return arrays


def _find_convolutions(root: Any, path: Path) -> Iterator[tuple[Any, Any]]:
    """Find kernel and bias of every layer that has weights, in the order of the graph."""
    for layer in root.attrs["layer_names"]:
        group = _member(root, layer, path)
        names = list(group.attrs["weight_names"])
        if not names:
            continue
        if len(names) != 2:
            raise WeightsError(
                f"{path}: layer {_text(layer)} should hold a kernel and a bias, got {len(names)} "
                "arrays: it is another network"
            )
        kernel, bias = (_member(group, name, path) for name in names)
        yield kernel, bias


def _member(group: Any, name: str | bytes, path: Path) -> Any:
    """Look a member up step by step; a link to somewhere else is none of ours."""
    hard_link = import_h5py().HardLink
    for part in _text(name).split("/"):
        if not isinstance(group.get(part, getlink=True), hard_link):
            raise WeightsError(
                f"{path} holds no {_text(name)} of its own: it is another network, or damaged"
            )
        group = group[part]
    return group


def _read(dataset: Any, path: Path) -> np.ndarray:
    """Read one array of single precision that lies in this file and nowhere else."""
    if dataset.dtype != np.dtype("<f4") or dataset.external or dataset.is_virtual:
        raise WeightsError(
            f"{path}: {dataset.name} should be float32 in the file itself, got {dataset.dtype}: "
            "it is another network, or damaged"
        )
    values: np.ndarray = dataset[()]
    if not np.isfinite(values).all():
        raise WeightsError(
            f"{path}: {dataset.name} holds numbers that are not finite: get it again"
        )
    return values


def _text(name: str | bytes) -> str:
    return name.decode("utf-8") if isinstance(name, bytes) else str(name)


def _show(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes[:3])) + (", ..." if len(shapes) > 3 else "")
