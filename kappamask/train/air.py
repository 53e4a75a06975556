"""What the air adds, takes and blurs between ground and satellite. Imports `base` only."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kappamask.base.bands import BANDS, NAMES

WAVELENGTH_UM = torch.tensor([band.wavelength_nm or 0.0 for band in BANDS]) / 1000
# Rough clear-sky figures per band slot, mid-latitude, sun 40 degrees high (6S-like tables):
# path reflectance at the top of the atmosphere, two-way transmission, direct share of sunlight.
PATH = torch.tensor(
    [0.11, 0.075, 0.04, 0.022, 0.018, 0.014, 0.011, 0.01, 0.008, 0.004, 0, 0.001, 0]
)
TWO_WAY = torch.tensor([0.8, 0.84, 0.88, 0.9, 0.9, 0.91, 0.93, 0.93, 0.95, 0.45, 0, 0.96, 0.93])
DIRECT = torch.tensor([0.5, 0.6, 0.68, 0.75, 0.77, 0.8, 0.83, 0.85, 0.86, 0.88, 0, 0.94, 0.96])
NARROW_NIR, VAPOUR, CIRRUS, SWIR16, SWIR22 = (
    NAMES.index(name) for name in ("B8A", "B09", "B10", "B11", "B12")
)
VAPOUR_IN_B10 = 5.3  # how much more vapour takes from B10 than from B09


def to_top_of_atmosphere(surface: Tensor, rng: np.random.Generator) -> Tensor:
    """Turn L2A reflectance (13, y, x) into a plausible L1C one, B10 included.

    Path reflectance is added to what two ways through the air leave of the ground, and a share
    of that comes from the ground around a pixel, not from the pixel (Tanre et al. 1981, Applied
    Optics 20, 3676): seen pixel by pixel, hazy air flattens contrast more than it darkens. The
    ranges hold what was measured on one dusty scene that is there at both levels
    (`docs/training.md`). B10 gets what the sensor shows where vapour has taken all light from
    the ground.
    """
    # A low sun makes the way longer, haze makes the path redder or bluer.
    tint = (WAVELENGTH_UM / 0.49) ** rng.uniform(-0.5, 0.8)
    path = (PATH * tint * rng.uniform(0.6, 1.7))[:, None, None]
    through = TWO_WAY ** rng.uniform(0.7, 2.5)
    through[VAPOUR] = TWO_WAY[VAPOUR] ** rng.uniform(0.7, 3.2)  # as real scenes: 0.1 to 0.6 of B8A
    beside = rng.uniform(0, 0.3) * (WAVELENGTH_UM / 0.49) ** -0.9
    around = surface.flatten(1).nanmean(1)
    ground = surface + (beside * around)[:, None, None] - beside[:, None, None] * surface
    toa = path + through[:, None, None] * ground
    toa[CIRRUS] = 0.0005 + 0.004 * rng.random() ** 3 + 0.0005 * torch.rand(toa.shape[1:])
    return toa


def fill_bands(surface: Tensor, rng: np.random.Generator) -> Tensor:
    """Give a clear L2A scene with the ten 10 m and 20 m bands plausible B01 and B09.

    Both look much like a neighbour over clear ground: B01 like a blurred B02, B09, whose
    vapour the L2A processor took out, like a blurred B8A. Other scenes come back as they are.
    """
    have = surface.isfinite().flatten(1).any(1)
    lacking = {name for name, there in zip(NAMES, have, strict=True) if not there}
    if not {"B01", "B09"} <= lacking <= {"B01", "B09", "B10"}:
        return surface
    surface = surface.clone()
    for name, source, low, high in (("B01", "B02", 0.6, 1.05), ("B09", "B8A", 0.85, 1.15)):
        like = surface[NAMES.index(source)] * rng.uniform(low, high)
        surface[NAMES.index(name)] = (like + rng.uniform(-0.008, 0.012)).clamp(min=0.0005)
    return coarsen(surface, 10)


def coarsen(scene: Tensor, resolution: float) -> Tensor:
    """Give 20 m and 60 m bands of a 10 m scene (13, y, x) back their own resolution."""
    scene = scene.clone()
    for index, band in enumerate(BANDS):
        factor = int(band.gsd // resolution)
        if factor > 1:
            coarse = functional.avg_pool2d(
                scene[index][None, None], factor, ceil_mode=True, count_include_pad=False
            )
            fine = coarse.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
            scene[index] = fine[0, 0, : scene.shape[1], : scene.shape[2]]
    return scene
