"""Pixel counts to figures with intervals, and whether probabilities mean what they say.

Every figure is a function of counts that add up over chips, so that pooling pixels and drawing
chips again (the bootstrap) are sums. The expected calibration error is that of Guo et al. 2017
(arXiv 1706.04599): the gap between confidence and share of hits in equal bins of confidence,
weighted by pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kappamask.base.errors import InputError
from kappamask.base.legend import PREDICTED

METRICS = ("dice", "iou", "precision", "recall", "accuracy", "balanced", "said")
INTERVAL = (0.025, 0.975)
BINS = 15
TOP = "most probable class"


@dataclass(frozen=True)
class Figure:
    """One figure and the 95 % interval over chips; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


def count_pixels(drawn: np.ndarray, said: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Count one chip.

    Parameters
    ----------
    drawn, said
        (class, y, x) bool: where each class was drawn, and where the mask says it.
    known
        (y, x) bool: pixels that count.

    Returns
    -------
    numpy.ndarray
        (class, 4) int64: true positives, false positives, false negatives, true negatives.

    Examples
    --------
    >>> drawn = np.array([[[True, True, False, False]]])
    >>> said = np.array([[[True, False, True, False]]])
    >>> count_pixels(drawn, said, np.ones((1, 4), bool)).tolist()
    [[1, 1, 1, 1]]
    """
    if drawn.shape != said.shape or drawn.shape[1:] != known.shape:
        raise InputError(
            "labels and mask must show the same pixels, got "
            f"{drawn.shape}, {said.shape} and {known.shape}: cut the mask to the chip"
        )
    drawn, said = drawn[:, known], said[:, known]  # (class, pixels)
    pairs = (drawn & said, ~drawn & said, drawn & ~said, ~drawn & ~said)
    return np.stack([pair.sum(1) for pair in pairs], axis=1).astype(np.int64)


def figures_of(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Turn counts (..., 4) into figures (...), NaN where nothing was there to count.

    dice = 2tp / (2tp + fp + fn), iou = tp / (tp + fp + fn), precision = tp / (tp + fp),
    recall = tp / (tp + fn), accuracy = (tp + tn) / all of this class against the rest,
    balanced = mean of recall and of tn / (tn + fp),
    said = (tp + fp) / all: the share that the mask gives to the class.

    Examples
    --------
    >>> {name: float(value) for name, value in figures_of(np.array([2, 1, 1, 6])).items()}
    {'dice': 0.666..., 'iou': 0.5, 'precision': 0.666..., 'recall': 0.666...,
    'accuracy': 0.8, 'balanced': 0.761..., 'said': 0.3}
    """
    tp, fp, fn, tn = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    everything = tp + fp + fn + tn
    return {
        "dice": divide(2 * tp, 2 * tp + fp + fn),
        "iou": divide(tp, tp + fp + fn),
        "precision": divide(tp, tp + fp),
        "recall": divide(tp, tp + fn),
        "accuracy": divide(tp + tn, everything),
        "balanced": (divide(tp, tp + fn) + divide(tn, tn + fp)) / 2,
        "said": divide(tp + fp, everything),
    }


def divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide, NaN where `whole` is 0.

    Examples
    --------
    >>> divide(np.array([1.0, 0.0]), np.array([2.0, 0.0])).tolist()
    [0.5, nan]
    """
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    result = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def table_of(counts: np.ndarray, evaluated: np.ndarray) -> np.ndarray:
    """Figures of every class, their macro mean and the micro figure.

    The macro figure is the mean over the evaluated classes ("All classes" of Domnich et
    al. 2021, Remote Sensing 13(20):4100); the micro figure pools their counts.

    Parameters
    ----------
    counts
        (..., class, 4).
    evaluated
        (class,) bool: classes that were drawn and that the mask can say.

    Returns
    -------
    numpy.ndarray
        (..., class + 2, metric): the classes, macro, micro; metrics as in `METRICS`.

    Examples
    --------
    >>> counts = np.array([[3, 1, 0, 4], [4, 0, 1, 3]])
    >>> table_of(counts, np.array([True, True]))[:, 0].round(3).tolist()
    [0.857, 0.889, 0.873, 0.875]
    """
    classes = np.stack(list(figures_of(counts).values()), axis=-1)  # (..., class, metric)
    kept = classes[..., evaluated, :]
    there = ~np.isnan(kept)
    macro = divide(np.where(there, kept, 0).sum(-2), there.sum(-2))
    pooled = counts[..., evaluated, :].sum(-2)
    micro = np.stack(list(figures_of(pooled).values()), axis=-1)
    return np.concatenate([classes, macro[..., None, :], micro[..., None, :]], axis=-2)


def bootstrap(
    counts: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    draws: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute a statistic of summed counts, and its 95 % interval over chips.

    Chips are drawn again with replacement (Efron 1979), percentiles taken. Pixels of a
    chip are no independent samples, chips nearly are; chips of one place still are not,
    so the interval is rather too narrow than too wide.

    Parameters
    ----------
    counts
        (chip, ...) counts that add up.
    statistic
        Maps summed counts (..., as of one chip) to an array of figures.
    draws
        How many times all chips are drawn again.
    seed
        Of the draws: the same seed and number of chips draw the same chips.

    Returns
    -------
    tuple of numpy.ndarray
        Value, low and high. With fewer than two chips low and high are NaN.

    Examples
    --------
    >>> value, low, high = bootstrap(
    ...     np.array([[1.0], [3.0]]), lambda sums: sums[..., 0], draws=200, seed=1
    ... )
    >>> float(value), float(low), float(high)
    (4.0, 2.0, 6.0)
    """
    value = statistic(counts.sum(0))
    chips = len(counts)
    if chips < 2 or draws < 1:
        nothing = np.full(value.shape, np.nan)
        return value, nothing, nothing
    rng = np.random.default_rng(seed)
    times = rng.multinomial(chips, np.full(chips, 1 / chips), size=draws)  # (draw, chip)
    again = statistic(np.tensordot(times, counts, axes=1))  # (draw, ...)
    there = ~np.isnan(again).all(0)
    ends = np.full((2, *value.shape), np.nan)
    if there.any():
        ends[:, there] = np.nanquantile(again[:, there], INTERVAL, axis=0)
    return value, *ends


def as_figure(value: float, low: float, high: float) -> Figure:
    """Round to what a table can show and JSON can hold.

    Examples
    --------
    >>> as_figure(0.1234567, float("nan"), float("nan"))
    Figure(value=0.123457, low=None, high=None)
    """
    return Figure(*(None if np.isnan(x) else round(float(x), 6) for x in (value, low, high)))


# --- calibration -----------------------------------------------------------------------------


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
