"""Random textures of clouds, ground and sea. Imports nothing of the package."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def fractal_noise(
    size: int, rng: np.random.Generator, *, slope: float, outer: float, stretch: float = 1.0
) -> Tensor:
    """Draw periodic noise of unit variance with spectrum ~ f ** -slope above 1 / `outer` pixels.

    Returns
    -------
    torch.Tensor
        (size, size), float32.
    """
    angle = rng.uniform(0, np.pi)
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij")
    along = np.cos(angle) * fx + np.sin(angle) * fy
    across = np.cos(angle) * fy - np.sin(angle) * fx
    f2 = (along * stretch) ** 2 + across**2
    amplitude = (f2 + 1 / outer**2) ** (-slope / 2)
    amplitude[0, 0] = 0
    white = rng.standard_normal((size, size), dtype=np.float32)
    noise = np.fft.irfft2(np.fft.rfft2(white) * amplitude, s=(size, size))
    return torch.from_numpy((noise / noise.std()).astype(np.float32))


def waves(size: int, rng: np.random.Generator, *, length: tuple[float, float]) -> Tensor:
    """Draw swell, dunes or a rippled deck: three trains of waves from about one direction.

    `length` is the range of wavelengths in pixels. Gives (size, size) between -1 and 1.
    """
    angle, total = rng.uniform(0, 2 * np.pi), torch.zeros(size, size)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    for _ in range(3):
        turned, wavelength = angle + rng.normal(0, 0.15), rng.uniform(*length)
        along = y * np.sin(turned) + x * np.cos(turned)
        total += torch.sin(2 * np.pi * along / wavelength + rng.uniform(0, 2 * np.pi))
    return total / 3
