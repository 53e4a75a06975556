"""What the network is fed: fixed normalisation of 13 band slots. Row 2: imports `windows`, row 0.

It computes in the array type it is given, torch or numpy, with the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.bands import NAMES
from kappamask.errors import InputError
from kappamask.windows import Span, Window

if TYPE_CHECKING:
    from torch import Tensor

ROWS_AT_ONCE = 128  # numpy passes several times over a band: so many rows stay in the cache


@dataclass(frozen=True)
class Normalisation:
    """Fixed normalisation: ``(sqrt(reflectance) - mean) / std`` per band slot.

    The square root spreads dark ground (water, shadow) over more of the range.
    Nothing is taken from the window itself: statistics of a window make large
    clouds vanish.
    """

    mean: tuple[float, ...]  # 13, in the order of `kappamask.bands.NAMES`
    std: tuple[float, ...]  # 13, each above 0

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

    def fill(
        self, slots: Any, reflectance: Sequence[np.ndarray], bands: Sequence[str], window: Window
    ) -> None:
        """Normalise band by band into `slots` (1, 13, y, x), and mirror them into the padding.

        The same arithmetic as calling it, with one band in the processor's cache at a time.
        Slots of absent bands stay as they are, zero.

        Parameters
        ----------
        slots
            torch.Tensor or numpy.ndarray of zeros; written in place.
        reflectance
            One (y, x) float32 array per band, of the window's pixels read; NaN = no data.
        bands
            Their names.
        window
            Says how many mirrored pixels are put around them.
        """
        write = self._write_array if isinstance(slots, np.ndarray) else self._write_tensor
        rows, columns = window.rows, window.columns
        inside = _inside(rows.pad_before, rows.read), _inside(columns.pad_before, columns.read)
        for name, values in zip(bands, reflectance, strict=True):
            slot = NAMES.index(name)
            write(slots[0, slot][inside], values, slot)
        mirror_edges(slots, 2, rows)
        mirror_edges(slots, 3, columns)

    def _write_tensor(self, target: Tensor, values: np.ndarray, slot: int) -> None:
        import torch

        band = torch.from_numpy(values).clamp(min=0).sqrt_()
        band.sub_(self.mean[slot]).mul_(1 / self.std[slot]).nan_to_num_(0.0, posinf=0.0)
        target.copy_(band)

    def _write_array(self, target: np.ndarray, values: np.ndarray, slot: int) -> None:
        for top in range(0, len(values), ROWS_AT_ONCE):
            rows = slice(top, top + ROWS_AT_ONCE)
            band = np.maximum(values[rows], np.float32(0))
            np.sqrt(band, out=band)
            band -= np.float32(self.mean[slot])
            band *= np.float32(1 / self.std[slot])
            band[~np.isfinite(band)] = 0
            target[rows] = band


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


def _inside(before: int, read: slice) -> slice:
    """Where the pixels read stand in the padded window."""
    return slice(before, before + read.stop - read.start)
