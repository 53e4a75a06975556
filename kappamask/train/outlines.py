"""Outlines of real clouds, drawn by people, that simulated clouds take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from kappamask.base.errors import InputError
from kappamask.base.legend import Label
from kappamask.scenes.formats import OWN
from kappamask.train.chips import read_layers

SUFFIXES = (".tif", ".png")
SMALLEST, LARGEST = 0.005, 0.95  # share of a mask that is cloud, for it to be of use
FARTHEST = 120  # pixels between a cloud and its shadow
STEP = 4  # pixels to which that distance is found


@dataclass(frozen=True)
class Outline:
    """Clouds of one real scene."""

    cloud: np.ndarray  # (y, x) bool
    distance: float | None  # pixels from a cloud to its shadow, where shadows were drawn


def read_outlines(folder: Path) -> list[Outline]:
    """Read masks with codes of `Label` in their first band: GeoTIFF or PNG, at any depth.

    Raises
    ------
    InputError
        If the folder holds none that is of use.
    ReadError
        If a file is damaged.
    """
    outlines = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES):
        label, _ = read_layers(path, f"mask {path}", formats=OWN, indexes=1)
        cloud = (label == Label.CLOUD) | (label == Label.SEMI_TRANSPARENT)
        if SMALLEST < cloud.mean() < LARGEST:
            outlines.append(Outline(cloud, shadow_distance(cloud, label == Label.CLOUD_SHADOW)))
    if not outlines:
        raise InputError(
            f"outlines are masks of clouds (.tif, .png), got none in {folder}: correct outlines "
            "in [simulation]"
        )
    return outlines


def shadow_distance(cloud: np.ndarray, shadow: np.ndarray) -> float | None:
    """How far a scene's shadows lie from its clouds: the shift that lays one on the other best.

    Examples
    --------
    >>> cloud = np.zeros((256, 256), bool)
    >>> cloud[100:140, 90:130] = True
    >>> shadow_distance(cloud, np.roll(cloud, (24, 32), (0, 1)) & ~cloud)
    40.0
    >>> shadow_distance(cloud, cloud & False) is None
    True
    """
    if shadow.mean() < SMALLEST / 2:
        return None
    # The shadow's pixels count for a shift, the rest against it: neither sky nor cloud is shadow.
    signs = np.where(shadow, 1.0, -shadow.mean())[::STEP, ::STEP] * ~cloud[::STEP, ::STEP]
    shape = [2 * n for n in signs.shape]
    spectrum = np.fft.rfft2(signs, shape) * np.conj(np.fft.rfft2(cloud[::STEP, ::STEP], shape))
    match = np.fft.fftshift(np.fft.irfft2(spectrum, shape))
    y, x = np.ogrid[: shape[0], : shape[1]]
    reach = STEP * np.hypot(y - shape[0] // 2, x - shape[1] // 2)
    best = np.argmax(np.where(reach <= FARTHEST, match, -np.inf))
    found = float(reach.ravel()[best])
    return found if found < FARTHEST - STEP else None  # at the limit nothing was found


def cut_outline(
    outline: Outline,
    rng: np.random.Generator,
    *,
    size: int,
    direction: np.ndarray,
    distance: float,
) -> tuple[Tensor, Tensor]:
    """Cut a square out of a scene's clouds, enlarged and turned at random, with the shadows.

    Parameters
    ----------
    outline
        Where to cut.
    size
        Pixels per side.
    direction
        In which shadows fall: (y, x) of length 1.
    distance
        To the shadow where the outline tells none, in pixels.

    Returns
    -------
    tuple of torch.Tensor
        How deep inside a cloud a pixel lies, and the cloud between it and the sun: (y, x)
        each, 0 outside, 1 far from the border.
    """
    zoom = rng.uniform(0.7, 2.5)
    distance = distance if outline.distance is None else outline.distance * zoom
    shift = np.rint(direction * distance).astype(int)
    margin = int(np.abs(shift).max())
    whole = size + 2 * margin
    wanted = int(np.ceil(whole / zoom))
    cloud = np.rot90(outline.cloud, int(rng.integers(4)))
    short = [max(0, wanted - n) for n in cloud.shape]
    cloud = np.pad(cloud, [(0, n) for n in short], mode="symmetric") if any(short) else cloud
    for _ in range(5):  # a piece that shows some cloud
        top, left = (int(rng.integers(n - wanted + 1)) for n in cloud.shape)
        piece = cloud[top : top + wanted, left : left + wanted]
        if piece.any():
            break
    index = np.minimum((np.arange(whole) / zoom).astype(int), wanted - 1)
    depth = ndimage.distance_transform_edt(piece[np.ix_(index, index)])
    # People draw in straight lines: the border is roughened by less than a pixel of theirs.
    ramp = np.exp(rng.uniform(1, 4))
    depth = ndimage.gaussian_filter(depth, 0.6 * zoom) / ramp
    deep = torch.from_numpy(depth.clip(0, 1).astype(np.float32))
    (down, right), inside = shift, slice(margin, margin + size)
    behind = deep[margin - down : margin - down + size, margin - right : margin - right + size]
    return deep[inside, inside].clone(), behind.clone()
