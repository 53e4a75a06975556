"""What another network sees in a chip: soft labels to learn from; needs the extra `train`.

ukis-csmask 1.0.0 (DLR, Apache-2.0) knows clear ground, cloud and cloud shadow. It was made
for pixels of about 30 m, so a 10 m chip is shown to it at 10 m and at 20 m, with four bands
and, where they are, with six; the mean of these views is steadier than each. It knows no
semi-transparent cloud and nothing of the other seven bands: those come from simulation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from kappamask.base.bands import NAMES
from kappamask.base.errors import InputError
from kappamask.base.files import move_in, staging

VISIBLE = ("B02", "B03", "B04")
SHORT_WAVE = ("B11", "B12")
SIZE = 256  # pixels per side: the only one that its networks take
STEP = 128
BORDER = 64  # mirrored pixels around a chip


@cache
def _open(bands: int, level: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """Open one of its four networks: session, mean and spread per band."""
    try:
        import onnxruntime

        folder = resources.files("ukis_csmask")
    except ImportError as error:
        raise InputError(
            f"the teacher needs ukis-csmask and onnxruntime ({error}): "
            "pip install 'kappamask[train]'"
        ) from error
    stem = f"model_{bands}b_{level.lower()}"
    statistics = json.loads(folder.joinpath(f"{stem}.json").read_text("utf-8"))
    mean, std = statistics["data"]["dataset_statistics"]["img"]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(folder.joinpath(f"{stem}.onnx")), options, providers=["CPUExecutionProvider"]
    )
    centre, spread = (np.array(values, np.float32)[:, None, None] for values in (mean, std))
    return session, centre, spread


def teach(dn: np.ndarray, *, level: str, resolution: float) -> np.ndarray:
    """Say how likely each pixel is clear, shadow or cloud.

    Parameters
    ----------
    dn
        (13, y, x) reflectance x 10000, 0 = no data; B02, B03, B04 and B08 or B8A at least.
    level, resolution
        Of the chip; metres per pixel.

    Returns
    -------
    numpy.ndarray
        (3, y, x) float32 probabilities of clear, cloud shadow and cloud of any thickness,
        zero where there is no data.
    """
    reflectance = dn.astype(np.float32) / np.float32(1e4)
    present = {name for name, band in zip(NAMES, dn, strict=True) if band.any()}
    infrared = "B08" if "B08" in present else "B8A"
    four = [NAMES.index(name) for name in (*VISIBLE, infrared)]
    six = [*four, *(NAMES.index(name) for name in SHORT_WAVE)]
    full = six if present.issuperset(SHORT_WAVE) else four
    views = [_view(reflectance[full], level, 1)]
    if resolution <= 20:
        views += [_view(reflectance[full], level, 2), _view(reflectance[four], level, 2)]
    probabilities: np.ndarray = np.mean(views, axis=0)[[0, 2, 1]]  # its order: clear, cloud, shadow
    probabilities *= (dn[four] > 0).all(0)
    return probabilities.astype(np.float32, copy=False)


def _view(reflectance: np.ndarray, level: str, factor: int) -> np.ndarray:
    """Run it on pixels `factor` times as large; (3, y, x) probabilities."""
    height, width = reflectance.shape[1:]
    if factor == 1:
        return _blend(reflectance, level)
    # The mean of squares of pixels, at the last row and column of what there is of them.
    coarse = functional.avg_pool2d(torch.from_numpy(reflectance)[None], factor, ceil_mode=True)
    fine = _blend(coarse[0].numpy(), level).repeat(factor, axis=1).repeat(factor, axis=2)
    return fine[:, :height, :width]


def _blend(reflectance: np.ndarray, level: str) -> np.ndarray:
    """Run overlapping windows and blend them towards their middles."""
    session, mean, std = _open(len(reflectance), level)
    height, width = reflectance.shape[1:]
    inside = max(SIZE - 2 * BORDER, height), max(SIZE - 2 * BORDER, width)
    padding = [
        (0, 0),
        *((BORDER, BORDER + full - n) for full, n in zip(inside, (height, width), strict=True)),
    ]
    scene = np.pad((reflectance - mean) / std, padding, mode="symmetric").astype(np.float32)
    total = np.zeros((3, *scene.shape[1:]), np.float32)
    ramp = np.minimum(np.arange(SIZE) + 1, SIZE - np.arange(SIZE)).clip(max=96) ** 2.0
    weight = np.outer(ramp, ramp).astype(np.float32)
    weights = np.zeros(scene.shape[1:], np.float32)
    for rows in _spans(scene.shape[1]):
        for columns in _spans(scene.shape[2]):
            (logits,) = session.run(
                None, {session.get_inputs()[0].name: scene[None, :, rows, columns]}
            )
            share = np.exp(logits[0] - logits[0].max(0))
            total[:, rows, columns] += share / share.sum(0) * weight
            weights[rows, columns] += weight
    blended: np.ndarray = (total / weights)[:, BORDER : BORDER + height, BORDER : BORDER + width]
    return blended


def _spans(length: int) -> Iterator[slice]:
    for start in sorted({*range(0, length - SIZE, STEP), length - SIZE}):
        yield slice(start, start + SIZE)


def remember(path: Path, dn: np.ndarray, *, level: str, resolution: float) -> np.ndarray:
    """Give `teach`'s answer from a file, or ask and write it; percent are kept, as uint8.

    An answer of another size, for a chip that has changed since, is asked for again.
    """
    if path.exists():
        answer: np.ndarray = np.load(path)
        if answer.shape[1:] == dn.shape[1:]:
            return _to_share(answer)
    percent = np.rint(teach(dn, level=level, resolution=resolution) * 100).astype(np.uint8)
    with staging(path.parent, path.name) as aside:
        np.save(aside / path.name, percent)
        move_in(aside, [path])
    return _to_share(percent)


def _to_share(percent: np.ndarray) -> np.ndarray:
    share: np.ndarray = percent.astype(np.float32) / 100
    return share
