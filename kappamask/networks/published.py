"""The U-Net that KappaMask published in 2021, in torch. Imports `base` and `keras_file`.

Source: Domnich et al. 2021, Remote Sensing 13(20):4100, and km_predict v2.4
`architectures.py` (Apache-2.0). Its weights are Keras', read by `keras_file`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kappamask.base.errors import InputError, WeightsError
from kappamask.base.legend import PREDICTED

N_FEATURES, N_OUTPUTS, BOTTLENECK = 13, 6, 2
DEPTHS = 5
STRIDE = 2 ** (DEPTHS - 1)  # height and width must be multiples


def make_pair(c_in: int, c_out: int) -> nn.Sequential:
    """Two 3 x 3 convolutions with ReLU: (n, c_in, y, x) -> (n, c_out, y, x)."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(c_out, c_out, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
    )


class UpBlock(nn.Module):
    """One step of the decoder: double the pixels, convolve, join the skip, mix."""

    def __init__(self, c_below: int, c_here: int) -> None:
        super().__init__()
        self.lift = nn.Conv2d(c_below, c_here, kernel_size=2)
        self.mix = make_pair(2 * c_here, c_here)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (n, c_below, y/2, x/2) and (n, c_here, y, x) to (n, c_here, y, x)."""
        x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        # As Keras' 'same' pads for a 2 x 2 kernel: a row below, a column to the right.
        x = functional.relu_(self.lift(functional.pad(x, (0, 1, 0, 1))))
        return cast("Tensor", self.mix(torch.cat([skip, x], 1)))


class PublishedUNet(nn.Module):
    """Normalised features to the probabilities of six classes.

    Parameters
    ----------
    width
        Channels of the first level, doubled at each of four more; 64 as published.

    Notes
    -----
    Input ``(n, 13, y, x)``, normalised as `kappamask.networks.normalisation.PublishedNormalisation`
    does, in its order of features. Output ``(n, 6, y, x)``: one sigmoid for each code of
    `kappamask.base.legend.Label`, which do not sum to 1. `y` and `x` must be multiples of 16.
    A label depends on pixels at most 123 px away.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * 2**depth for depth in range(DEPTHS)]
        self.down = nn.ModuleList(
            make_pair(above, here)
            for above, here in zip([N_FEATURES, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            UpBlock(below, here) for below, here in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.squeeze = nn.Conv2d(width, BOTTLENECK, kernel_size=3, padding=1)
        self.head = nn.Conv2d(BOTTLENECK, N_OUTPUTS, kernel_size=1)

    def logits(self, x: Tensor) -> Tensor:
        """Map (n, 13, y, x) to (n, 6, y, x), before the sigmoid."""
        if x.shape[2] % STRIDE or x.shape[3] % STRIDE:
            raise InputError(
                f"the published network takes sizes that are multiples of {STRIDE} px, got "
                f"{tuple(x.shape)}: pad the input"
            )
        skips = []
        for depth, down in enumerate(self.down):
            x = down(functional.max_pool2d(x, 2) if depth else x)
            skips.append(x)
        skips.pop()
        for up in self.up:
            x = up(x, skips.pop())
        return cast("Tensor", self.head(functional.relu_(self.squeeze(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 13, y, x) to probabilities (n, 6, y, x)."""
        return self.logits(x).sigmoid_()


class FourClasses(nn.Module):
    """The published network behind our doors: it speaks of the four classes of a mask only.

    Its outputs are logarithms of sigmoids, so that their softmax is the four sigmoids
    divided by their sum, and the largest of them is the label. Undefined and missing are
    left out: a mask says undefined nowhere, and data decides what is missing.
    """

    def __init__(self, network: PublishedUNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, flags: Tensor) -> Tensor:  # noqa: ARG002  as `UNet` is called
        """Map (n, 13, y, x) to (n, 4, y, x) in the order of `kappamask.base.legend.PREDICTED`."""
        return functional.logsigmoid(self.network.logits(x)[:, list(PREDICTED)])


def from_tensors(weights: Mapping[str, Tensor], source: str) -> PublishedUNet:
    """Make the network from its weights by name; `source` names them in errors.

    Raises
    ------
    WeightsError
        If they are of another network.
    """
    first = weights.get("down.0.0.weight")
    network = PublishedUNet(1 if first is None else len(first))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise WeightsError(
            f"{source} does not hold the network published in 2021 ({error}): get it again"
        ) from error
    return network.eval().requires_grad_(requires_grad=False)


def from_keras(path: str | Path) -> PublishedUNet:
    """Read the published network from Keras' HDF5 file, without TensorFlow.

    Parameters
    ----------
    path
        ``l2a_unet.hdf5`` or ``l1c_unet.hdf5`` as published, or any file of the same
        network with another width.

    Returns
    -------
    PublishedUNet
        In evaluation mode: (n, 13, y, x) normalised features to (n, 6, y, x)
        probabilities, within 1e-4 of Keras'.

    Raises
    ------
    WeightsError
        If the file is absent, damaged, no HDF5 or of another network, or if h5py is
        not installed.

    Examples
    --------
    >>> from_keras("none.hdf5")
    Traceback (most recent call last):
    ...
    kappamask.base.errors.WeightsError: cannot read the weights none.hdf5...
    """
    from kappamask.networks.keras_file import read_keras

    weights = {name: torch.from_numpy(array) for name, array in read_keras(path).items()}
    return from_tensors(weights, str(path))
