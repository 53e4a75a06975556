"""Do probabilities mean what they say? Reliability and ECE. Imports `metrics` and row 0.

The expected calibration error is that of Guo et al. 2017 (arXiv 1706.04599): the gap between
confidence and share of hits in equal bins of confidence, weighted by pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kappamask.base.legend import PREDICTED
from kappamask.evaluate.metrics import Figure, as_figure, bootstrap, divide

BINS = 15
TOP = "most probable class"


@dataclass(frozen=True)
class Reliability:
    """How often one mask was right, by how sure it was."""

    mask: str
    dataset: str
    of: str  # "most probable class", or the name of a class against the rest
    pixels: tuple[int, ...]  # per bin
    confidence: tuple[float | None, ...]  # mean per bin, None in an empty one
    hits: tuple[float | None, ...]  # share per bin
    ece: Figure
    n_chips: int


def bin_confidence(confidence: np.ndarray, hit: np.ndarray, *, bins: int = BINS) -> np.ndarray:
    """Sum pixels, confidence and hits in equal bins of confidence, closed at their upper end.

    Parameters
    ----------
    confidence
        (n,) 0-1.
    hit
        (n,) bool.
    bins
        How many.

    Returns
    -------
    numpy.ndarray
        (bins, 3) float64.

    Examples
    --------
    >>> bin_confidence(np.array([0.5, 0.6, 1.0]), np.array([True, False, True]), bins=2).tolist()
    [[1.0, 0.5, 1.0], [2.0, 1.6, 1.0]]
    """
    confidence = confidence.astype(np.float64)
    where = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    weights = (None, confidence, hit.astype(np.float64))
    return np.stack([np.bincount(where, w, minlength=bins) for w in weights], axis=1)


def count_reliability(
    probabilities: np.ndarray, label: np.ndarray, known: np.ndarray
) -> np.ndarray:
    """Bin one chip: the most probable class first, then each class against the rest.

    Parameters
    ----------
    probabilities
        (4, y, x) in the order of `PREDICTED`; NaN where data is missing.
    label, known
        (y, x) codes of `Label`, and which of them count.

    Returns
    -------
    numpy.ndarray
        (5, bins, 3).
    """
    known = known & np.isfinite(probabilities).all(0) & np.isin(label, PREDICTED)
    shares, drawn = probabilities[:, known], label[known]  # (4, n), (n,)
    best = np.array(PREDICTED)[shares.argmax(0)]
    top = bin_confidence(shares.max(0), best == drawn)
    each = [
        bin_confidence(share, drawn == code) for share, code in zip(shares, PREDICTED, strict=True)
    ]
    return np.stack([top, *each])


def ece_of(sums: np.ndarray) -> np.ndarray:
    """Compute the expected calibration error of bins (..., bins, 3), NaN without pixels.

    Examples
    --------
    >>> float(ece_of(np.array([[4, 3.0, 3.5], [4, 1.0, 2.5]])))
    0.25
    """
    pixels, confidence, hits = np.moveaxis(sums, -1, 0)
    return divide(np.abs(confidence - hits).sum(-1), pixels.sum(-1))


def reliability_of(
    sums: np.ndarray, *, mask: str, dataset: str, draws: int, seed: int
) -> list[Reliability]:
    """Turn bins of chips (chip, 5, bins, 3) into curves and calibration errors."""
    names = (TOP, *(label.name.lower() for label in PREDICTED))
    value, low, high = bootstrap(sums, ece_of, draws=draws, seed=seed)
    pixels, confidence, hits = np.moveaxis(sums.sum(0), -1, 0)  # (5, bins) each
    curves = zip(names, pixels, divide(confidence, pixels), divide(hits, pixels), strict=True)
    return [
        Reliability(
            mask=mask,
            dataset=dataset,
            of=name,
            pixels=tuple(int(n) for n in count),
            confidence=_plain(sure),
            hits=_plain(right),
            ece=as_figure(value[i], low[i], high[i]),
            n_chips=len(sums),
        )
        for i, (name, count, sure, right) in enumerate(curves)
    ]


def _plain(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else round(float(value), 6) for value in values)
