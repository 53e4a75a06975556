"""What a network is fed: fixed normalisation of 13 slots. Imports `base`.

`Normalisation` is that of our own network, `PublishedNormalisation` that of 2021. Both
compute in the array type they are given, torch or numpy, with the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.bands import NAMES, get_band
from kappamask.base.errors import InputError
from kappamask.base.windows import Span, Window

if TYPE_CHECKING:
    from torch import Tensor

HIGHEST_DN = 65535.0  # the published networks' features are shares of it
ROWS_AT_ONCE = 128  # numpy passes several times over a band: so many rows stay in the cache


class Slots:
    """13 slots that are filled band by band, with one band in the processor's cache at a time."""

    features: tuple[str, ...]  # which band each slot is for

    def fill(
        self, slots: Any, reflectance: Sequence[np.ndarray], bands: Sequence[str], window: Window
    ) -> None:
        """Normalise band by band into `slots` (1, 13, y, x), and mirror them into the padding.

        `slots`, a torch.Tensor or numpy.ndarray of any content, are written in place, with zeros
        for absent bands. `reflectance` is one (y, x) float32 array per band of `bands`, of the
        pixels that `window` reads; NaN = no data. The window says how many mirrored pixels are
        put around them.
        """
        write = self._write_array if isinstance(slots, np.ndarray) else self._write_tensor
        inside = tuple(
            slice(span.pad_before, span.size - span.pad_after)
            for span in (window.rows, window.columns)
        )
        for name, values in zip(bands, reflectance, strict=True):
            slot = self.features.index(name)
            target = slots[0, slot][inside]
            for top in range(0, len(values), ROWS_AT_ONCE):
                rows = slice(top, top + ROWS_AT_ONCE)
                write(target[rows], values[rows], slot)
        for slot, name in enumerate(self.features):
            if name not in bands:
                slots[0, slot] = 0
        mirror_edges(slots, 2, window.rows)
        mirror_edges(slots, 3, window.columns)

    def _write_tensor(self, target: Tensor, values: np.ndarray, slot: int) -> None:
        raise NotImplementedError

    def _write_array(self, target: np.ndarray, values: np.ndarray, slot: int) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Normalisation(Slots):
    """Fixed normalisation: ``(sqrt(reflectance) - mean) / std`` per band slot.

    The square root spreads dark ground (water, shadow) over more of the range.
    Nothing is taken from the window itself: statistics of a window make large
    clouds vanish.
    """

    mean: tuple[float, ...]  # 13, in the order of `kappamask.base.bands.NAMES`
    std: tuple[float, ...]  # 13, each above 0
    features = NAMES

    def __post_init__(self) -> None:
        """Check the lengths and signs."""
        if len(self.mean) != len(NAMES) or len(self.std) != len(NAMES) or min(self.std) <= 0:
            raise InputError(
                f"a normalisation has {len(NAMES)} means and {len(NAMES)} positive spreads, "
                f"got {len(self.mean)} and {self.std}: correct the manifest"
            )

    def __call__(self, reflectance: Tensor) -> Tensor:
        """Normalise (n, 13, y, x) reflectance; NaN, an absent band or pixel, becomes 0."""
        import torch

        mean = torch.tensor(self.mean)[:, None, None]
        scale = torch.tensor([1 / std for std in self.std])[:, None, None]
        normalised = reflectance.clamp(min=0).sqrt_().sub_(mean).mul_(scale)
        return normalised.nan_to_num_(0.0, posinf=0.0)

    def _write_tensor(self, target: Tensor, values: np.ndarray, slot: int) -> None:
        import torch

        band = torch.from_numpy(values).clamp(min=0).sqrt_()
        band.sub_(self.mean[slot]).mul_(1 / self.std[slot]).nan_to_num_(0.0, posinf=0.0)
        target.copy_(band)

    def _write_array(self, target: np.ndarray, values: np.ndarray, slot: int) -> None:
        band = np.maximum(values, np.float32(0))
        np.sqrt(band, out=band)
        band -= np.float32(self.mean[slot])
        band *= np.float32(1 / self.std[slot])
        band[~np.isfinite(band)] = 0
        target[:] = band


@dataclass(frozen=True)
class PublishedNormalisation(Slots):
    """The preprocessing of 2021: ``DN / 65535 / maximum`` per feature, clipped below 0 only.

    A cube holds reflectance with the offset settled, so ``DN = reflectance * 10000``;
    AOT and WVP are 1000 DN per unit. No data is 0, which is what its DN says.

    Source: Domnich et al. 2021, Remote Sensing 13(20):4100; km_predict v2.4
    `data_generator.py` (Apache-2.0).
    """

    features: tuple[str, ...]  # 13 names, in the order of the network's input
    maximum: tuple[float, ...]  # 13, in DN / 65535
    # What is added to the DN of reflectance: 0, or 1000 as the published code saw products of
    # baseline 04.00 and later, whose offset it did not subtract.
    added_dn: float = 0.0

    def __post_init__(self) -> None:
        """Check the lengths and signs."""
        if not len(self.features) == len(self.maximum) == len(NAMES) or min(self.maximum) <= 0:
            raise InputError(
                f"the published networks have {len(NAMES)} features with a positive maximum each, "
                f"got {len(self.features)} and {self.maximum}: correct the manifest"
            )

    @cached_property
    def scaling(self) -> dict[str, tuple[float, float]]:
        """Factor and summand of each feature: ``value * factor + summand``."""
        scaling = {}
        for name, maximum in zip(self.features, self.maximum, strict=True):
            band, full = get_band(name), HIGHEST_DN * maximum
            scaling[name] = band.dn_scale / full, self.added_dn * band.is_reflectance / full
        return scaling

    def _write_tensor(self, target: Tensor, values: np.ndarray, slot: int) -> None:
        import torch

        factor, summand = self.scaling[self.features[slot]]
        band = torch.from_numpy(values).mul(factor).add_(summand)
        target.copy_(band.nan_to_num_(0.0, posinf=0.0).clamp_(min=0))

    def _write_array(self, target: np.ndarray, values: np.ndarray, slot: int) -> None:
        factor, summand = map(np.float32, self.scaling[self.features[slot]])
        band = values * factor
        band += summand
        band[~np.isfinite(band)] = 0
        np.maximum(band, np.float32(0), out=target)


def has_data(values: np.ndarray) -> bool:
    """Tell whether any value is finite; a look at every eighth row and column mostly suffices.

    Examples
    --------
    >>> has_data(np.array([[np.nan, 0.2]])), has_data(np.array([[np.nan, np.inf]]))
    (True, False)
    """
    return bool(np.isfinite(values[::8, ::8]).any() or np.isfinite(values).any())


def mirror_edges(slots: Any, axis: int, span: Span) -> None:
    """Fill the padding of one axis with a mirror image of what was read.

    A network that meets nothing beyond the edge of an array draws a line of thin cloud there.
    """
    lines = slots.swapaxes(0, axis)
    size = span.read_stop - span.read_start
    order = np.pad(np.arange(size), (span.pad_before, span.pad_after), mode="symmetric")
    for padding in (slice(0, span.pad_before), slice(span.pad_before + size, span.size)):
        lines[padding] = lines[order[padding] + span.pad_before]
