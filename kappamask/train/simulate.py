"""Clouds and shadows with exact labels, put on clear real pixels. Row 6.

Physics kept as simple as the labels need. A layer is a two-stream cloud that absorbs nothing
(Bohren 1987, Am. J. Phys. 55, 524: albedo A = (1 - g) t / (2 + (1 - g) t) for thickness t and
asymmetry g, 0.85 for droplets and 0.78 for ice). The ground, of reflectance r, is seen through
it with light going to and fro between them (adding method, van de Hulst 1980, Multiple Light
Scattering, ch. 4): A + (1 - A)^2 r / (1 - A r). The same cloud, moved along the sun's azimuth
by height over the tangent of the sun's elevation, takes its share of the direct beam, band by
band; what is left is skylight, which is blue. Bands of 20 m and 60 m are averaged over their own
pixels at the end.

Known simplifications, none of which moves a label:

- haze's wavelength law is applied to its albedo, which holds for thin layers only;
- droplets and ice absorb at 1.6 and 2.2 um: two drawn factors stand for that, whatever the
  thickness;
- at L1C the air above a cloud is one number between 0 and 1, whatever the wavelength;
- at L2A a random gain of up to 1.25 stands for what atmospheric correction does to clouds;
- each layer has one height; parallax between bands is ignored; shadows fall on flat ground.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kappamask.base.bands import BANDS, NAMES
from kappamask.base.legend import Label

WAVELENGTH_UM = torch.tensor([band.wavelength_nm or 0.0 for band in BANDS]) / 1000
# Rough clear-sky figures per band slot, mid-latitude, sun 40 degrees high (6S-like tables):
# path reflectance at the top of the atmosphere, two-way transmission, direct share of sunlight.
PATH = torch.tensor(
    [0.11, 0.075, 0.04, 0.022, 0.018, 0.014, 0.011, 0.01, 0.008, 0.004, 0, 0.001, 0]
)
TWO_WAY = torch.tensor([0.8, 0.84, 0.88, 0.9, 0.9, 0.91, 0.93, 0.93, 0.95, 0.45, 0, 0.96, 0.93])
DIRECT = torch.tensor([0.5, 0.6, 0.68, 0.75, 0.77, 0.8, 0.83, 0.85, 0.86, 0.88, 0, 0.94, 0.96])
# Clear to turbid inland water, seen from just above it.
WATER = torch.tensor(
    [0.04, 0.045, 0.05, 0.035, 0.025, 0.018, 0.016, 0.014, 0.012, 0.01, 0, 0.006, 0.004]
)
# Conifers, dark in every band and most of all in the visible: next to shadow in winter.
WOODS = torch.tensor(
    [0.018, 0.02, 0.03, 0.022, 0.045, 0.11, 0.14, 0.15, 0.16, 0.16, 0, 0.075, 0.04]
)
VAPOUR, CIRRUS, SWIR16, SWIR22 = (NAMES.index(name) for name in ("B09", "B10", "B11", "B12"))
# Cloud albedo at which a labeller changes his mind; between two values the label is undefined.
THIN_FROM, CLEAR_TO = 0.08, 0.04
CLOUD_FROM, THIN_TO = 0.34, 0.27
SHADOW_FROM, LIT_TO = 0.2, 0.1


@dataclass(frozen=True)
class CloudField:
    """One simulated cloud layer over a scene of (y, x) pixels."""

    albedo: Tensor  # (y, x), 0-1, at 0.55 um
    shadow: Tensor  # (y, x), 0-1: albedo of the cloud that stands between pixel and sun
    angstrom: float  # albedo goes as wavelength ** -angstrom: 0 for droplets, 1 for haze
    swir: tuple[float, float]  # albedo at 1.6 and 2.2 um, relative to 0.55 um
    cirrus: float  # share of the albedo seen in B10: 0 low cloud, 1 above all vapour


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


def draw_cloud_field(size: int, rng: np.random.Generator, *, azimuth: float) -> CloudField:
    """Draw one layer, cumulus, deck, thin cloud or haze, with the shadow it casts.

    `azimuth` is where shadows fall, in radians: all layers of a scene have one sun. Noise
    wraps around, so a shadow that leaves the scene comes back on the other side: the
    shadow of a cloud beyond the edge.
    """
    kind = rng.choice(["cumulus", "deck", "thin", "haze"], p=[0.45, 0.15, 0.35, 0.05])
    outer = {"cumulus": rng.uniform(20, 120), "deck": rng.uniform(100, 400)}.get(
        kind, rng.uniform(60, 400)
    )
    stretch = rng.uniform(1, 5) if kind == "thin" else 1.0
    noise = fractal_noise(size, rng, slope=rng.uniform(1.7, 2.6), outer=outer, stretch=stretch)
    cover = {"cumulus": rng.uniform(0.03, 0.5), "deck": rng.uniform(0.4, 1.0)}.get(
        kind, rng.uniform(0.2, 0.9)
    )
    threshold = torch.quantile(noise, float(np.clip(1 - cover, 0, 1)))
    thickest = np.exp(
        rng.uniform(*{"cumulus": (2.5, 4.6), "deck": (1.8, 4.4)}.get(kind, (-0.7, 1.9)))
    )
    steepness = rng.uniform(0.35, 1.3) if kind == "cumulus" else rng.uniform(0.6, 1.4)
    height = (noise - threshold).clamp(min=0)
    thickness = thickest * (height / (height.max() + 1e-6)) ** steepness
    backscatter = 0.5 * (1 - (0.78 if kind == "thin" else 0.85)) * thickness
    albedo = backscatter / (1 + backscatter)
    distance = rng.uniform(0, 40) if rng.random() < 0.35 else rng.uniform(15, 110)
    shift = (round(distance * np.sin(azimuth)), round(distance * np.cos(azimuth)))
    # Half of the thin cloud is high, of ice and bright in B10; the rest is low, under the vapour,
    # of droplets that absorb next to nothing at 1.6 and 2.2 um.
    high = kind == "thin" and rng.random() < 0.5
    low_and_thin = kind in ("thin", "haze") and not high
    return CloudField(
        albedo=albedo,
        shadow=torch.roll(albedo, shift, dims=(0, 1)),
        angstrom={"haze": rng.uniform(0.6, 1.5)}.get(kind, rng.uniform(0, 0.3)),
        swir=(rng.uniform(0.85, 1.25), rng.uniform(0.65, 1.15))
        if low_and_thin
        else (rng.uniform(0.55, 0.95), rng.uniform(0.35, 0.8)),
        cirrus=rng.uniform(0.3, 1) if high else rng.uniform(0, 1) ** 3 * 0.5,
    )


def dress_ground(
    surface: Tensor, rng: np.random.Generator, *, level: str, wooded: float = 0.12
) -> Tensor:
    """Add what is taken for cloud or shadow and is neither: water, woods, roofs, an even haze.

    Takes and gives (13, y, x) clear reflectance; absent bands stay NaN. `wooded` is how often
    there are dark woods.
    """
    size = surface.shape[-1]
    path = PATH[:, None, None] if level == "L1C" else torch.zeros(13, 1, 1)
    if rng.random() < 0.4:
        noise = fractal_noise(size, rng, slope=rng.uniform(2.2, 3), outer=rng.uniform(60, 400))
        wet = (
            noise.abs() < rng.uniform(0.02, 0.1) if rng.random() < 0.6 else noise > 1.3
        )  # rivers, lakes
        clarity = torch.from_numpy(rng.uniform(0.5, 1.5, (13, 1, 1)).astype(np.float32))
        water = path + WATER[:, None, None] * clarity * rng.uniform(0.4, 1.6)
        surface = torch.where(wet & surface.isfinite(), water + 0.004 * noise, surface)
    if rng.random() < wooded:
        noise = fractal_noise(size, rng, slope=rng.uniform(1.8, 2.6), outer=rng.uniform(20, 150))
        tint = torch.from_numpy(rng.uniform(0.7, 1.3, (13, 1, 1)).astype(np.float32))
        woods = path + WOODS[:, None, None] * tint * rng.uniform(0.5, 1.3)
        mottle = 1 + 0.12 * torch.randn(size, size)
        there = (noise > rng.uniform(0.5, 1.8)) & surface.isfinite()
        surface = torch.where(there, woods * mottle, surface)
    if rng.random() < 0.25:
        roofs = torch.zeros(size, size)
        for _ in range(rng.integers(3, 40)):
            (y, x), (high, wide) = rng.integers(size, size=2), rng.integers(1, 14, size=2)
            roofs[y : y + high, x : x + wide] = rng.uniform(0.15, 0.8)
        tint = torch.from_numpy(rng.uniform(0.7, 1.1, (13, 1, 1)).astype(np.float32))
        surface = torch.where((roofs > 0) & surface.isfinite(), path + roofs * tint, surface)
    if rng.random() < 0.5:  # an atmosphere hazier or cleaner than assumed is no cloud
        air = PATH * (WAVELENGTH_UM / 0.49) ** rng.uniform(-0.5, 0.5)
        surface = surface + air[:, None, None] * rng.uniform(-0.2, 1.3 if level == "L1C" else 0.7)
    return surface.clamp(min=0.0005)


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


def to_top_of_atmosphere(surface: Tensor, rng: np.random.Generator) -> Tensor:
    """Turn L2A reflectance (13, y, x) into a plausible L1C one, B10 included.

    Path reflectance is added to what two ways through the air leave of the ground. B10 gets
    what the sensor shows where vapour has taken all light from the ground: noise near 0.002.
    """
    # A low sun makes the way longer, haze makes the path redder or bluer.
    tint = (WAVELENGTH_UM / 0.49) ** rng.uniform(-0.5, 0.8)
    path = (PATH * tint * rng.uniform(0.5, 2.2))[:, None, None]
    through = TWO_WAY ** rng.uniform(0.7, 2)
    through[VAPOUR] = TWO_WAY[VAPOUR] ** rng.uniform(0.7, 2.8)  # as real scenes: 0.1 to 0.6 of B8A
    toa = path + through[:, None, None] * surface
    toa[CIRRUS] = 0.001 + 0.001 * rng.random() + 0.0008 * torch.rand(toa.shape[1:])
    return toa


def render(surface: Tensor, field: CloudField, rng: np.random.Generator, *, level: str) -> Tensor:
    """See a clear scene through a cloud layer, its shadow on the ground.

    Parameters
    ----------
    surface
        (13, y, x) reflectance of the clear scene, NaN where a band is absent.
    field
        The layer, same (y, x).
    level
        At L1C the path reflectance is not darkened by the shadow, and B10 sees the layer.
    """
    direct = (DIRECT * rng.uniform(0.9, 1.12)).clamp(max=0.98)[:, None, None]
    lit = 1 - direct * (1 - (1 - field.shadow) ** 1.5)  # (13, y, x)
    path = PATH[:, None, None] * rng.uniform(0.6, 1.0) if level == "L1C" else torch.zeros(13, 1, 1)
    ground = torch.where(surface > path, path + (surface - path) * lit, surface)
    spectral = (WAVELENGTH_UM / 0.55) ** -field.angstrom
    spectral[SWIR16] *= field.swir[0]
    spectral[SWIR22] *= field.swir[1]
    over = torch.zeros(13, 1, 1)
    if level == "L1C":  # a low cloud lies under most of the air, and under nearly all vapour
        above = (1 - field.cirrus) * rng.uniform(0.4, 0.9)
        spectral *= TWO_WAY ** (above * rng.uniform(0.7, 2.2))  # the way is longer at low sun
        spectral[VAPOUR] *= TWO_WAY[VAPOUR] ** (above * rng.uniform(0, 2))
        over = path * above
    albedo = (field.albedo * spectral[:, None, None]).clamp(max=0.92)
    below = ground - over
    seen = over + albedo + (1 - albedo) ** 2 * below / (1 - albedo * below.clamp(max=1))
    seen[CIRRUS] = ground[CIRRUS] + field.albedo * field.cirrus * rng.uniform(0.3, 0.8)
    return seen * (rng.uniform(0.95, 1.25) if level == "L2A" else 1.0)


def label_field(field: CloudField) -> Tensor:
    """Say what a careful labeller would draw: (y, x) uint8 codes, 0 at class borders."""
    label = torch.full(field.albedo.shape, int(Label.UNDEFINED), dtype=torch.uint8)
    label[(field.albedo < CLEAR_TO) & (field.shadow < LIT_TO)] = Label.CLEAR
    label[(field.albedo < CLEAR_TO) & (field.shadow > SHADOW_FROM)] = Label.CLOUD_SHADOW
    label[(field.albedo > THIN_FROM) & (field.albedo < THIN_TO)] = Label.SEMI_TRANSPARENT
    label[field.albedo > CLOUD_FROM] = Label.CLOUD
    return label


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


def simulate(
    surface: Tensor, rng: np.random.Generator, *, level: str, resolution: float
) -> tuple[Tensor, Tensor]:
    """Put one or two cloud layers on a clear scene.

    Parameters
    ----------
    surface
        (13, y, x) clear reflectance, NaN in absent bands; square.
    level, resolution
        Of the scene; metres per pixel.

    Returns
    -------
    tuple of torch.Tensor
        Reflectance (13, y, x) and labels (y, x).
    """
    size, azimuth = surface.shape[-1], rng.uniform(0, 2 * np.pi)
    layers = 1 + (rng.random() < 0.3)
    fields = [draw_cloud_field(size, rng, azimuth=azimuth) for _ in range(layers)]
    scene, label = surface, torch.full(surface.shape[1:], int(Label.CLEAR), dtype=torch.uint8)
    for field in fields:
        scene = render(scene, field, rng, level=level)
        label = over(label, label_field(field))
    return coarsen(scene, resolution), label


def over(below: Tensor, above: Tensor) -> Tensor:
    """Combine the labels of two layers: the stronger word wins, doubt beats clear."""
    strength = torch.tensor([1, 0, 2, 3, 4, 5])  # undefined, clear, shadow, thin, cloud, missing
    return torch.where(strength[above.long()] > strength[below.long()], above, below)
