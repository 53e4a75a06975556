"""The own network: a U-Net whose trunk runs at 20 m and labels at 10 m. Imports torch only.

Background: U-Net (Ronneberger et al. 2015, arXiv:1505.04597); sub-pixel layers
(Shi et al. 2016, arXiv:1609.05158) as stem and head, so that four 10 m pixels
become channels and nothing of the input is lost while the trunk costs a quarter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

N_BANDS = 13
N_FLAGS = N_BANDS + 1  # which bands are present, and whether the level is L1C
N_CLASSES = 4
SHUFFLE = 2  # 10 m pixels per side of one trunk pixel
PAIRS = {torch.bfloat16: torch.int32, torch.float32: torch.int64}  # as wide as two numbers
SMALLEST_BIAS = 1e-30  # below it a bias is as good as 0
# Convolution and ReLU at once, as torch.compile calls them; absent where torch has no oneDNN.
FUSED: Any = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
BF16: Any = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)


class ConvUnit(nn.Sequential):
    """3 x 3 convolution, batch normalisation, ReLU: (n, c_in, y, x) -> (n, c_out, y, x)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c_in, y, x) to (n, c_out, y, x); once folded, by oneDNN in one pass."""
        if isinstance(self[1], nn.Identity):
            return convolve(self.conv, x, relu=True)
        return cast("Tensor", super().forward(x))  # type: ignore[no-untyped-call]

    def fold(self) -> None:
        """Fold the batch normalisation into the convolution (inference only)."""
        self[0] = fuse_conv_bn_eval(self.conv, cast("nn.BatchNorm2d", self[1]))
        self[1] = nn.Identity()

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution, with a bias once it is folded."""
        return cast("nn.Conv2d", self[0])

    def rescale(self, scale: Tensor | None = None) -> Tensor:
        """Undo the scale of what is read; make the biases numbers of bf16, return their scale."""
        if scale is not None:
            _scale_inputs(self.conv, scale)
        bias = cast("Tensor", self.conv.bias)
        rounded = bias.to(torch.bfloat16).float()
        scale = torch.where(bias.abs() > SMALLEST_BIAS, rounded / bias, 1.0)
        _scale_outputs(self.conv, scale)
        return scale


class UpUnit(nn.Module):
    """Lift the trunk one scale up and add the skip: cheaper than concatenating them."""

    def __init__(self, c_below: int, c_here: int) -> None:
        super().__init__()
        self.lift = nn.Conv2d(c_below, c_here, kernel_size=1)
        self.mix = ConvUnit(c_here, c_here)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (n, c_below, y/2, x/2) and (n, c_here, y, x) to (n, c_here, y, x)."""
        return cast("Tensor", self.mix(add_coarse(skip, convolve(self.lift, x))))


class UNet(nn.Module):
    """Normalised reflectance and presence flags to logits of four classes.

    Parameters
    ----------
    widths
        Channels at each depth, the trunk's full resolution (20 m) first.

    Notes
    -----
    Input ``(n, 13, y, x)`` in the order of `kappamask.base.bands.NAMES`, already
    normalised, zero where a band or a pixel is absent; flags ``(n, 14)``, 1 where
    a band is present and, last, 1 for L1C. Output ``(n, 4, y, x)`` logits in the
    order of `kappamask.base.legend.PREDICTED`. `y` and `x` must be multiples of `stride`.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        scales = list(pairwise(widths))
        self.stride = SHUFFLE * 2 ** len(scales)
        self.stem = ConvUnit(N_BANDS * SHUFFLE**2, widths[0])
        self.presence = nn.Linear(N_FLAGS, widths[0])
        self.first = ConvUnit(widths[0], widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(ConvUnit(above, here), ConvUnit(here, here)) for above, here in scales
        )
        self.up = nn.ModuleList(UpUnit(below, here) for here, below in reversed(scales))
        self.last = ConvUnit(widths[0], widths[0])
        self.head = nn.Conv2d(widths[0], N_CLASSES * SHUFFLE**2, kernel_size=1)

    def forward(self, x: Tensor, flags: Tensor) -> Tensor:
        """Map (n, 13, y, x) and (n, 14) to float32 logits (n, 4, y, x)."""
        return functional.pixel_shuffle(self._subpixels(x, flags), SHUFFLE)

    def find_largest(self, x: Tensor, flags: Tensor) -> Tensor:
        """Which of the four logits is largest, (n, y, x) uint8, the first of several equal ones.

        Four numbers become one before they are moved to their pixels; in pairs, as `argmax` goes
        along an axis whose numbers lie apart.
        """
        logits = self._subpixels(x, flags).permute(0, 2, 3, 1)
        first, second, third, fourth = torch.split(logits, SHUFFLE**2, dim=-1)
        low, high = (second > first).to(torch.uint8), (fourth > third).to(torch.uint8).add_(2)
        is_high = torch.maximum(third, fourth) > torch.maximum(first, second)
        largest = torch.where(is_high, high, low)
        n, rows, columns, _ = largest.shape
        largest = largest.view(n, rows, columns, SHUFFLE, SHUFFLE).transpose(2, 3)
        return largest.reshape(n, rows * SHUFFLE, columns * SHUFFLE)

    def _subpixels(self, x: Tensor, flags: Tensor) -> Tensor:
        """Compute logits of classes and, within them, of 2 x 2 pixels: (n, 4 * 4, y/2, x/2)."""
        x = self.stem(unshuffle(x))
        x = add(x, self.presence(flags.float()).to(x.dtype)[:, :, None, None])
        x = self.first(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(pool(x))
        for up in self.up:
            x = up(x, skips.pop())
        x = self.last(x)
        # The last layer stays in single precision: bf16 logits flip labels at class borders.
        with torch.autocast(x.device.type, enabled=False):
            return convolve(self.head, x.float())

    def fold(self) -> UNet:
        """Fold every batch normalisation into its convolution, for inference; returns self."""
        self.eval()
        for unit in [module for module in self.modules() if isinstance(module, ConvUnit)]:
            unit.fold()
        return self

    def to_bf16(self) -> UNet:
        """Turn the folded network to bf16, for inference; returns self.

        A rounded bias moves every pixel of a channel the same way, and with it the borders
        of classes; errors of weights mostly cancel. So biases are made exact first. The
        head, and what the flags say, stay in single precision.
        """
        self.make_biases_exact()
        for part in (self.stem, self.first, self.down, self.up, self.last):
            part.to(torch.bfloat16)
        return self

    @torch.no_grad()
    def make_biases_exact(self) -> UNet:
        """Scale channels so that bf16 holds their biases exactly; the logits stay the same.

        ReLU lets a channel be scaled where it is written and scaled back where it is read.
        The factors lie within 1/256 of 1. A lift is added to a skip and takes its scale, so
        its own bias is not exact.
        """
        scale = self.stem.rescale()
        _scale_outputs(self.presence, scale)
        scale = self.first.rescale(scale)
        skips = []
        for down in self.down:
            skips.append(scale)
            for unit in cast("list[ConvUnit]", down):
                scale = unit.rescale(scale)
        for up in cast("list[UpUnit]", self.up):
            _scale_inputs(up.lift, scale)
            _scale_outputs(up.lift, skips[-1])
            scale = up.mix.rescale(skips.pop())
        scale = self.last.rescale(scale)
        _scale_inputs(self.head, scale)
        return self


# --- the same numbers with fewer passes over the memory, where nothing is learned ---------------


def is_lean(x: Tensor) -> bool:
    """Tell whether what is no longer needed may be written over: on a processor, not in training.

    There half of the time goes to passes over the memory. A GPU has kernels of its own.
    """
    return x.device.type == "cpu" and not torch.is_grad_enabled()


@cache
def has_fused(dtype: torch.dtype) -> bool:
    """Tell whether oneDNN convolves in this precision on this processor."""
    if FUSED is None or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype != torch.bfloat16 or bool(BF16())


def convolve(conv: nn.Conv2d, x: Tensor, *, relu: bool = False) -> Tensor:
    """Convolve, by oneDNN where it can: it does ReLU in the same pass.

    Torch itself calls it for several threads only, and is half as fast with one.
    """
    if is_lean(x) and x.dtype == conv.weight.dtype and has_fused(x.dtype):  # not in autocast
        how = conv.padding, conv.stride, conv.dilation, conv.groups, "relu" if relu else "none"
        return cast("Tensor", FUSED(x, conv.weight, conv.bias, *how, [], ""))
    x = conv(x)
    return functional.relu(x, inplace=is_lean(x)) if relu else x


def add(x: Tensor, y: Tensor) -> Tensor:
    """Add, into `x` where that may be."""
    return x.add_(y) if is_lean(x) else x + y


def pool(x: Tensor) -> Tensor:
    """Maxima of 2 x 2 pixels: (n, c, y, x) -> (n, c, y/2, x/2), without their places."""
    if not is_lean(x):
        return functional.max_pool2d(x, 2)
    x = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
    return torch.maximum(x[..., ::2], x[..., 1::2])


def add_coarse(x: Tensor, coarse: Tensor) -> Tensor:
    """Add (n, c, y/2, x/2) to (n, c, y, x), each number to its 2 x 2 pixels."""
    if not is_lean(x):
        return functional.interpolate(coarse, scale_factor=2.0, mode="nearest").add_(x)
    n, c, rows, columns = coarse.shape
    x.view(n, c, rows, 2, columns, 2).add_(coarse[:, :, :, None, :, None])
    return x


def _scale_outputs(layer: nn.Conv2d | nn.Linear, scale: Tensor) -> None:
    layer.weight.mul_(scale.view(-1, *(1 for _ in layer.weight.shape[1:])))
    cast("Tensor", layer.bias).mul_(scale)


def _scale_inputs(conv: nn.Conv2d, scale: Tensor) -> None:
    conv.weight.div_(scale[None, :, None, None])


def unshuffle(x: Tensor) -> Tensor:
    """`pixel_unshuffle` straight into channels-last memory: (n, c, y, x) -> (n, 4c, y/2, x/2).

    Two neighbours in a row stay neighbours, so they are moved as one number of twice the
    width: six times faster than one by one, as the copy is bound by its count of numbers.
    """
    n, c, y, x_ = x.shape
    if x.dtype not in PAIRS or x.requires_grad:
        return functional.pixel_unshuffle(x, SHUFFLE)
    paired = x.contiguous().view(PAIRS[x.dtype]).view(n, c, y // SHUFFLE, SHUFFLE, x_ // SHUFFLE)
    x = paired.permute(0, 2, 4, 1, 3).contiguous().view(x.dtype)  # (n, y/2, x/2, c, 2 * 2)
    return x.reshape(n, y // SHUFFLE, x_ // SHUFFLE, c * SHUFFLE**2).permute(0, 3, 1, 2)
