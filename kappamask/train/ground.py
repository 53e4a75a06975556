"""Ground that is taken for cloud or shadow and is neither. Imports `air` and `noise`.

Each kind of ground is a spectrum at the surface and a pattern; at L1C it is seen through the
same air as everything else. Spectra are rounded from textbook curves (snow: Warren 1982, Reviews
of Geophysics 20, 67; the others: USGS spectral library, Kokaly et al. 2017).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kappamask.train.air import (
    CIRRUS,
    DIRECT,
    NARROW_NIR,
    PATH,
    SWIR16,
    TWO_WAY,
    VAPOUR,
    VAPOUR_IN_B10,
    WAVELENGTH_UM,
)
from kappamask.train.noise import fractal_noise, waves

# Thousandths of reflectance per band slot, B01 ... B12; B10 sees no ground.
SPECTRA = {
    name: torch.tensor(values)[:, None, None] / 1000
    for name, values in {
        # clear to turbid inland water, open sea, water full of silt, all from just above
        "water": (40, 45, 50, 35, 25, 18, 16, 14, 12, 10, 0, 6, 4),
        "sea": (25, 22, 12, 6, 5, 4, 4, 3, 3, 3, 0, 1, 1),
        "silt": (50, 70, 110, 110, 100, 60, 60, 50, 45, 30, 0, 6, 4),
        # conifers: next to shadow in winter
        "woods": (18, 20, 30, 22, 45, 110, 140, 150, 160, 160, 0, 75, 40),
        "snow": (930, 940, 940, 930, 920, 900, 890, 880, 860, 800, 0, 100, 70),
        "ice": (600, 620, 600, 520, 460, 400, 360, 320, 260, 200, 0, 15, 10),
        "salt": (460, 520, 570, 600, 610, 620, 620, 620, 610, 550, 0, 380, 240),
        "red sand": (80, 100, 160, 300, 340, 360, 380, 390, 400, 390, 0, 520, 470),
        "white sand": (280, 340, 420, 490, 520, 540, 550, 560, 570, 550, 0, 620, 560),
        "white roof": (500, 540, 560, 570, 570, 570, 570, 570, 570, 550, 0, 520, 460),
        "blue roof": (220, 300, 240, 160, 150, 160, 180, 200, 220, 220, 0, 320, 280),
        "red roof": (70, 80, 110, 200, 230, 250, 270, 280, 290, 290, 0, 340, 300),
        "concrete": (190, 220, 250, 270, 280, 290, 300, 300, 310, 300, 0, 340, 310),
    }.items()
}
ROOFS = ("white roof", "white roof", "blue roof", "red roof", "concrete")
# How often clear ground gets dark woods. Through hazy air they look like shadow, and only ground
# at L2A is seldom so hazy; where they are frequent, real shadows get lost.
WOODED = {"L2A": 0.12, "L1C": 0.2}
HIGH = 0.3  # share of snow at L1C that lies high in dry air, as firn does


def dress_ground(
    surface: Tensor, rng: np.random.Generator, *, level: str, wooded: float | None = None
) -> Tensor:
    """Turn clear ground into other clear ground now and then: sea, snow, sand, towns, haze.

    Takes and gives (13, y, x) clear reflectance; absent bands stay NaN. `wooded` is how often
    there are dark woods; by default as often as `level` bears.
    """
    for often, put in WHOLE_SCENES + DETAILS:
        if rng.random() < often:
            surface = put(surface, rng, level)
    if rng.random() < (WOODED[level] if wooded is None else wooded):
        surface = put_woods(surface, rng, level)
    if rng.random() < 0.5:  # an atmosphere hazier or cleaner than assumed is no cloud
        air = PATH * (WAVELENGTH_UM / 0.49) ** rng.uniform(-0.5, 0.5)
        haze = air[:, None, None] * rng.uniform(-0.2, 1.3 if level == "L1C" else 0.7)
        surface = surface + haze
    return surface.clamp(min=0.0005)


def lay(surface: Tensor, spectrum: Tensor, where: Tensor, level: str) -> Tensor:
    """Replace the ground where (y, x) `where` is set; `spectrum` is (13, y, x) at the surface."""
    seen = spectrum
    if level == "L1C":
        seen = PATH[:, None, None] + TWO_WAY[:, None, None] * spectrum
    there = where & surface.isfinite()
    there[CIRRUS] = False
    return torch.where(there, seen, surface)


def put_sea(surface: Tensor, rng: np.random.Generator, level: str) -> Tensor:
    """Sea, a coast or a bay, with swell, sunglint, white caps and ships, up to the edge."""
    size = surface.shape[-1]
    ramp = torch.linspace(-1, 1, size) * rng.uniform(0.5, 4)
    angle = rng.uniform(0, 2 * np.pi)
    shore = np.sin(angle) * ramp[:, None] + np.cos(angle) * ramp[None]
    coast = shore + fractal_noise(size, rng, slope=2.6, outer=200)
    wet = coast > (rng.uniform(-1.5, 1.5) if rng.random() < 0.5 else -np.inf)
    share = rng.uniform(0, 1)
    sea = share * SPECTRA["sea"] + (1 - share) * SPECTRA[("water", "silt")[rng.integers(2)]]
    drift = 1 + 0.25 * fractal_noise(size, rng, slope=2.8, outer=300)
    glint = rng.uniform(0, 0.12) * (rng.random() < 0.5)
    swell = waves(size, rng, length=(3, 30)) * rng.uniform(0, 0.6)
    ruffled = 0.1 * torch.randn(size, size)
    scene = sea * drift + glint * (1 + swell + ruffled).clamp(min=0) + 0.001
    foam = torch.rand(size, size) < rng.uniform(0, 0.001)
    scene = torch.where(foam, rng.uniform(0.08, 0.4) * torch.ones(13, 1, 1), scene)
    surface = lay(surface, scene.clamp(min=0.0005), wet, level)
    return put_roofs(surface, rng, level) if rng.random() < 0.3 else surface


def put_water(surface: Tensor, rng: np.random.Generator, level: str) -> Tensor:
    """Rivers or lakes."""
    size = surface.shape[-1]
    noise = fractal_noise(size, rng, slope=rng.uniform(2.2, 3), outer=rng.uniform(60, 400))
    wet = noise.abs() < rng.uniform(0.02, 0.1) if rng.random() < 0.6 else noise > 1.3
    clarity = torch.from_numpy(rng.uniform(0.5, 1.5, (13, 1, 1)).astype(np.float32))
    water = SPECTRA["water"] * clarity * rng.uniform(0.4, 1.6) + 0.004 * noise
    return lay(surface, water.clamp(min=0.0005), wet, level)


def put_woods(surface: Tensor, rng: np.random.Generator, level: str) -> Tensor:
    """Dark conifers."""
    size = surface.shape[-1]
    noise = fractal_noise(size, rng, slope=rng.uniform(1.8, 2.6), outer=rng.uniform(20, 150))
    tint = torch.from_numpy(rng.uniform(0.7, 1.3, (13, 1, 1)).astype(np.float32))
    mottle = 1 + 0.12 * torch.randn(size, size)
    woods = SPECTRA["woods"] * tint * rng.uniform(0.5, 1.3) * mottle
    return lay(surface, woods, noise > rng.uniform(0.5, 1.8), level)


def put_roofs(surface: Tensor, rng: np.random.Generator, level: str) -> Tensor:
    """Roofs, docks, greenhouses, ships: bright rectangles."""
    size = surface.shape[-1]
    largest = 60 if rng.random() < 0.25 else 14
    for _ in range(rng.integers(1, 5)):
        bright = torch.zeros(size, size)
        for _ in range(rng.integers(1, 12)):
            (y, x), (high, wide) = rng.integers(size, size=2), rng.integers(1, largest, size=2)
            bright[y : y + high, x : x + wide] = rng.uniform(0.4, 1.5)
        roof = SPECTRA[ROOFS[rng.integers(len(ROOFS))]] * bright
        surface = lay(surface, roof, bright > 0, level)
    return surface


def put_sand(surface: Tensor, rng: np.random.Generator, level: str) -> Tensor:
    """Desert, red or white, with dunes; now and then with salt pans."""
    size, share = surface.shape[-1], rng.uniform(0, 1)
    sand = share * SPECTRA["red sand"] + (1 - share) * SPECTRA["white sand"]
    mottle = 0.12 * fractal_noise(size, rng, slope=rng.uniform(1.6, 2.4), outer=100)
    dunes = waves(size, rng, length=(5, 60)) * rng.uniform(0, 0.15)
    scene = sand * rng.uniform(0.6, 1.2) * (1 + mottle + dunes).clamp(min=0.2)
    patches = fractal_noise(size, rng, slope=2.4, outer=200)
    surface = lay(surface, scene, patches > rng.uniform(-4, 0.5), level)
    return put_salt(surface, rng, level) if rng.random() < 0.4 else surface


def put_salt(surface: Tensor, rng: np.random.Generator, level: str) -> Tensor:
    """Salt pans, dry or wet: wet salt is dark at 1.6 and 2.2 um."""
    noise = fractal_noise(surface.shape[-1], rng, slope=rng.uniform(2.4, 3), outer=150)
    wet = torch.ones(13, 1, 1)
    wet[SWIR16:] = rng.uniform(0.2, 1.2)
    texture = 1 + 0.06 * noise
    salt = SPECTRA["salt"] * wet * texture * rng.uniform(0.5, 1.3)
    return lay(surface, salt, noise > rng.uniform(0.5, 2), level)


def put_snow(surface: Tensor, rng: np.random.Generator, level: str) -> Tensor:
    """Snow, fresh or old, whole or in patches, with slopes in sun and shade, trees and ice."""
    size = surface.shape[-1]
    age = rng.uniform(0, 0.8) ** 2
    snow = (1 - age) * SPECTRA["snow"] + age * SPECTRA["ice"]
    snow = snow * rng.uniform(0.6, 1.05)
    snow[SWIR16:] *= rng.uniform(0.3, 2.2)  # coarse grains are darker there, fine dry ones bright
    patches = fractal_noise(size, rng, slope=rng.uniform(1.8, 2.8), outer=rng.uniform(30, 300))
    cover = torch.sigmoid((patches - rng.uniform(-4, 1)) * rng.uniform(2, 8))
    if rng.random() < 0.3:  # trees or rocks stand out of it
        cover = cover * (torch.rand(size, size) > rng.uniform(0, 0.6))
    below = torch.where(surface.isfinite(), surface, SPECTRA["woods"])
    if level == "L1C":
        below = (below - PATH[:, None, None]).clamp(min=0.005) / TWO_WAY[:, None, None].clamp(0.1)
    scene = cover * snow + (1 - cover) * below
    surface = lay(surface, scene, cover > 0.02, level)
    if level == "L1C" and rng.random() < HIGH:
        surface = lift(surface, cover, snow, rng)
    return put_relief(surface, rng, level) if rng.random() < 0.7 else surface


def lift(surface: Tensor, cover: Tensor, snow: Tensor, rng: np.random.Generator) -> Tensor:
    """Bring snow up high: less air above it, and so little vapour that B09 and B10 see it.

    Both bands lose to vapour as they do above clouds (`kappamask.train.simulate`).
    """
    vapour = rng.uniform(0.2, 0.9)
    surface = surface - rng.uniform(0, 0.4) * cover * PATH[:, None, None]
    seen = PATH[VAPOUR] + np.exp(-vapour) * snow[VAPOUR]
    surface[VAPOUR] = cover * seen + (1 - cover) * surface[VAPOUR]
    surface[CIRRUS] += np.exp(-VAPOUR_IN_B10 * vapour) * cover * snow[NARROW_NIR]
    return surface.clamp(min=0.0005)


def put_sea_ice(surface: Tensor, rng: np.random.Generator, level: str) -> Tensor:
    """Floes of grey to white ice with leads of dark water between."""
    size = surface.shape[-1]
    cracks = fractal_noise(size, rng, slope=rng.uniform(1.8, 2.6), outer=rng.uniform(40, 300))
    cracks = torch.minimum(cracks.abs(), fractal_noise(size, rng, slope=2.2, outer=100).abs())
    surface = lay(surface, SPECTRA["sea"] * 1.5, cracks >= 0, level)
    white = rng.uniform(0, 1)
    ice = white * SPECTRA["snow"] + (1 - white) * SPECTRA["ice"]
    thick = (0.75 + 0.2 * fractal_noise(size, rng, slope=2, outer=80)).clamp(0.15, 1.1)
    return lay(surface, ice * thick, cracks > rng.uniform(0.01, 0.5), level)


def put_relief(surface: Tensor, rng: np.random.Generator, level: str) -> Tensor:
    """Slopes in more or less sun; what the sun does not reach has the light of the sky alone."""
    size = surface.shape[-1]
    heights = fractal_noise(size, rng, slope=rng.uniform(2.3, 3), outer=rng.uniform(60, 300))
    down, right = torch.gradient(heights)
    steep = rng.uniform(0.15, 0.9) / torch.hypot(down, right).mean().clamp(min=1e-6)
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(15, 60))
    towards = np.sin(azimuth) * down + np.cos(azimuth) * right
    normal = torch.sqrt(1 + steep**2 * (down**2 + right**2))
    sun = (np.sin(elevation) + np.cos(elevation) * steep * towards) / normal / np.sin(elevation)
    direct = DIRECT[:, None, None]
    lit = 1 - direct + direct * sun.clamp(0, 1.5)
    path = PATH[:, None, None] if level == "L1C" else torch.zeros(13, 1, 1)
    lit[CIRRUS] = 1
    return torch.where(surface > path, path + (surface - path) * lit, surface)


Put = Callable[[Tensor, np.random.Generator, str], Tensor]
WHOLE_SCENES: tuple[tuple[float, Put], ...] = (
    (0.07, put_sand),
    (0.12, put_snow),
    (0.03, put_sea_ice),
    (0.14, put_sea),
)
DETAILS: tuple[tuple[float, Put], ...] = (
    (0.3, put_water),
    (0.03, put_salt),
    (0.08, put_relief),
    (0.25, put_roofs),
)
