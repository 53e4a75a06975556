"""Clouds and shadows with exact labels, put on clear real pixels.

Imports `air`, `noise`, `outlines`.

Physics kept as simple as the labels need. A layer is a two-stream cloud that absorbs nothing
(Bohren 1987, Am. J. Phys. 55, 524: albedo A = (1 - g) t / (2 + (1 - g) t) for thickness t and
asymmetry g, 0.85 for droplets and 0.78 for ice). The ground, of reflectance r, is seen through
it with light going to and fro between them (adding method, van de Hulst 1980, Multiple Light
Scattering, ch. 4): A + (1 - A)^2 r / (1 - A r). The same cloud, moved along the sun's azimuth
by height over the tangent of the sun's elevation, takes its share of the direct beam, band by
band; what is left is skylight, which is blue. Bands of 20 m and 60 m are averaged over their own
pixels at the end.

How high a cloud stands is told by the vapour above it, one number for the bands that vapour
darkens: B09 is left exp(-v) of the cloud's light and B10 exp(-5.3 v), a law measured on the tops
of real clouds and on real cirrus (`docs/training.md`).

Known simplifications, none of which moves a label:

- haze's wavelength law is applied to its albedo, which holds for thin layers only;
- droplets and ice absorb at 1.6 and 2.2 um: a drawn factor stands for a thick cloud's loss, and
  a power of it for a thinner one's;
- at L1C the air above a cloud is one number between 0 and 1, whatever the wavelength;
- at L2A a random gain of up to 1.25 stands for what atmospheric correction does to clouds;
- each layer has one height; parallax between bands is ignored; shadows fall on flat ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kappamask.base.legend import Label
from kappamask.train.air import (
    CIRRUS,
    DIRECT,
    PATH,
    SWIR16,
    SWIR22,
    TWO_WAY,
    VAPOUR,
    VAPOUR_IN_B10,
    WAVELENGTH_UM,
    coarsen,
)
from kappamask.train.noise import fractal_noise, waves
from kappamask.train.outlines import Outline, cut_outline

# Cloud albedo at which a labeller changes his mind; between two values the label is undefined.
THIN_FROM, CLEAR_TO = 0.08, 0.04
CLOUD_FROM, THIN_TO = 0.34, 0.27
SHADOW_FROM, LIT_TO = 0.2, 0.1
# Reflectance of B10 that low cloud and ground leave dark, above what the ground itself shows:
# cirrus, whatever its albedo. Sen2Cor begins at .012 (L2A ATBD), Fmask at .01 (Zhu et al. 2015,
# Remote Sens. Environ. 159, 269); between the two values the label is undefined.
CIRRUS_FROM, CIRRUS_FREE_TO = 0.015, 0.008
SEEN_WITHOUT = 0.03  # from here on a person sees it in the visible bands too
FAINT = 8  # beside the codes of `Label`: cirrus that B10 alone shows
# Kinds of layer: how often, coarsest detail in pixels, cover, logarithm of the largest thickness,
# vapour above, loss of a thick cloud at 1.6 um.
KINDS = {
    "cumulus": (0.3, (20, 120), (0.03, 0.5), (1.8, 3.8), (0.6, 2.1), (0.7, 1.15)),
    "small cumulus": (0.15, (10, 50), (0.003, 0.1), (1.2, 3.6), (0.8, 2.1), (0.75, 1.15)),
    "deck": (0.15, (100, 400), (0.4, 1.0), (1.4, 4.2), (0.15, 1.6), (0.25, 1.0)),
    "thin": (0.18, (60, 400), (0.2, 0.9), (-0.7, 1.9), (0.6, 2.1), (0.85, 1.25)),
    "cirrus": (0.17, (60, 400), (0.2, 1.0), (-2.0, 1.7), (0.04, 0.35), (0.25, 0.9)),
    "haze": (0.05, (60, 400), (0.2, 0.9), (-0.7, 1.9), (1.0, 2.1), (0.85, 1.25)),
}
OUTLINED = 0.4  # share of thick layers that take the outline of a real cloud, if there are any


@dataclass(frozen=True)
class CloudField:
    """One simulated cloud layer over a scene of (y, x) pixels."""

    albedo: Tensor  # (y, x), 0-1, at 0.55 um
    shadow: Tensor  # (y, x), 0-1: albedo of the cloud that stands between pixel and sun
    angstrom: float  # albedo goes as wavelength ** -angstrom: about 0 for cloud, 1 for haze
    swir: tuple[float, float]  # albedo of a thick cloud at 1.6 and 2.2 um, relative to 0.55 um
    vapour: float  # optical thickness in B09 of the vapour above: 0 none, 2 a low cloud's


def draw_cloud_field(
    size: int, rng: np.random.Generator, *, azimuth: float, outlines: Sequence[Outline] = ()
) -> CloudField:
    """Draw one layer with the shadow it casts.

    `azimuth` is where shadows fall, in radians: all layers of a scene have one sun. Noise
    wraps around, so a shadow that leaves the scene comes back on the other side: the
    shadow of a cloud beyond the edge.
    """
    kind = str(rng.choice(list(KINDS), p=[row[0] for row in KINDS.values()]))
    _, outer, cover, thickest, vapour, swir = KINDS[kind]
    thick = kind in ("cumulus", "small cumulus", "deck")
    distance = rng.uniform(0, 40) if rng.random() < 0.35 else rng.uniform(15, 110)
    if kind == "small cumulus":
        distance *= 0.4
    shift = np.array([np.sin(azimuth), np.cos(azimuth)])
    steepness = rng.uniform(0.35, 1.3) if "cumulus" in kind else rng.uniform(0.6, 1.4)
    stretch = rng.uniform(1, 5) if kind in ("thin", "cirrus") else 1.0
    slope = rng.uniform(2.2, 3.0) if kind == "small cumulus" else rng.uniform(1.7, 2.6)
    noise = fractal_noise(size, rng, slope=slope, outer=rng.uniform(*outer), stretch=stretch)
    peak = np.exp(rng.uniform(*thickest))
    asymmetry = 0.78 if kind == "cirrus" else 0.85
    if thick and outlines and rng.random() < OUTLINED:
        outline = outlines[int(rng.integers(len(outlines)))]
        there, shaded = cut_outline(outline, rng, size=size, direction=shift, distance=distance)
        texture = peak * torch.exp(0.4 * noise)
        albedo = _albedo(texture * there**steepness, asymmetry)
        shadow = _albedo(peak * shaded**steepness, asymmetry)
    else:
        threshold = torch.quantile(noise, float(np.clip(1 - rng.uniform(*cover), 0, 1)))
        height = (noise - threshold).clamp(min=0)
        thickness = peak * (height / (height.max() + 1e-6)) ** steepness
        if kind == "deck" and rng.random() < 0.3:
            thickness = thickness * (1 + 0.6 * waves(size, rng, length=(4, 40)))
        albedo = _albedo(thickness, asymmetry)
        by = np.rint(distance * shift).astype(int)
        shadow = torch.roll(albedo, (int(by[0]), int(by[1])), dims=(0, 1))
    loss = rng.uniform(*swir)
    return CloudField(
        albedo=albedo,
        shadow=shadow,
        angstrom=rng.uniform(0.6, 1.5) if kind == "haze" else rng.uniform(-0.45, 0.1),
        swir=(loss, loss * rng.uniform(0.65, 1.1)),
        vapour=rng.uniform(*vapour),
    )


def _albedo(thickness: Tensor, asymmetry: float) -> Tensor:
    backscatter = 0.5 * (1 - asymmetry) * thickness
    return backscatter / (1 + backscatter)


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
    spectral = ((WAVELENGTH_UM / 0.55) ** -field.angstrom)[:, None, None].expand_as(surface).clone()
    absorbed = (field.albedo / 0.6).clamp(0.15, 1.2)  # the longer in the cloud, the more is lost
    spectral[SWIR16] *= field.swir[0] ** absorbed
    spectral[SWIR22] *= field.swir[1] ** absorbed
    over = torch.zeros(13, 1, 1)
    if level == "L1C":  # a low cloud lies under most of the air, and under nearly all vapour
        above = min(0.15 + 0.4 * field.vapour, 0.9)
        through = TWO_WAY ** (above * rng.uniform(0.7, 2.2))  # the way is longer at low sun
        through[VAPOUR] = np.exp(-field.vapour)
        spectral *= through[:, None, None]
        over = path * above
    albedo = (field.albedo * spectral).clamp(max=0.92)
    below = ground - over
    seen = over + albedo + (1 - albedo) ** 2 * below / (1 - albedo * below.clamp(max=1))
    left = np.exp(-VAPOUR_IN_B10 * field.vapour)
    seen[CIRRUS] = ground[CIRRUS] * (1 - field.albedo) ** 2 + 0.8 * field.albedo * left
    return seen * (rng.uniform(0.95, 1.25) if level == "L2A" else 1.0)


def label_field(field: CloudField) -> Tensor:
    """Say what a careful labeller would draw: (y, x) uint8 codes, 0 at class borders."""
    label = torch.full(field.albedo.shape, int(Label.UNDEFINED), dtype=torch.uint8)
    label[(field.albedo < CLEAR_TO) & (field.shadow < LIT_TO)] = Label.CLEAR
    label[(field.albedo < CLEAR_TO) & (field.shadow > SHADOW_FROM)] = Label.CLOUD_SHADOW
    label[(field.albedo > THIN_FROM) & (field.albedo < THIN_TO)] = Label.SEMI_TRANSPARENT
    label[field.albedo > CLOUD_FROM] = Label.CLOUD
    return label


def put_clouds(
    surface: Tensor,
    rng: np.random.Generator,
    *,
    level: str,
    resolution: float,
    outlines: Sequence[Outline] = (),
) -> tuple[Tensor, Tensor]:
    """Put one or two cloud layers on a clear scene; see `simulate`.

    Its labels have one more code: `FAINT`, cirrus that nothing but B10 shows.
    """
    size, azimuth = surface.shape[-1], rng.uniform(0, 2 * np.pi)
    scene, label = surface, torch.full(surface.shape[1:], int(Label.CLEAR), dtype=torch.uint8)
    for _ in range(1 + (rng.random() < 0.3)):
        field = draw_cloud_field(size, rng, azimuth=azimuth, outlines=outlines)
        scene = render(scene, field, rng, level=level)
        label = over(label, label_field(field))
    scene = coarsen(scene, resolution)
    # What the layers add in B10; without B10 it is NaN, and no comparison holds.
    shown = scene[CIRRUS] - coarsen(surface, resolution)[CIRRUS]
    weak = (label == Label.UNDEFINED) | (label == Label.CLEAR) | (label == Label.CLOUD_SHADOW)
    label[weak & (shown > CIRRUS_FREE_TO)] = Label.UNDEFINED
    label[weak & (shown > CIRRUS_FROM)] = FAINT
    label[weak & (shown > SEEN_WITHOUT)] = Label.SEMI_TRANSPARENT
    return scene, label


def simulate(
    surface: Tensor,
    rng: np.random.Generator,
    *,
    level: str,
    resolution: float,
    outlines: Sequence[Outline] = (),
) -> tuple[Tensor, Tensor]:
    """Put one or two cloud layers on a clear scene.

    Parameters
    ----------
    surface
        (13, y, x) clear reflectance, NaN in absent bands; square.
    level, resolution
        Of the scene; metres per pixel.
    outlines
        Of real clouds, that some of the clouds take.

    Returns
    -------
    tuple of torch.Tensor
        Reflectance (13, y, x) and labels (y, x).
    """
    scene, label = put_clouds(surface, rng, level=level, resolution=resolution, outlines=outlines)
    label[label == FAINT] = Label.SEMI_TRANSPARENT
    return scene, label


def over(below: Tensor, above: Tensor) -> Tensor:
    """Combine the labels of two layers: the stronger word wins, doubt beats clear."""
    strength = torch.tensor([1, 0, 2, 3, 4, 5])  # undefined, clear, shadow, thin, cloud, missing
    return torch.where(strength[above.long()] > strength[below.long()], above, below)
