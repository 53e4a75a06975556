"""Every mask on every set: counts of pixels, then figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kappamask.base.errors import KappaMaskError
from kappamask.evaluate.metrics import (
    METRICS,
    Reliability,
    as_figure,
    bootstrap,
    count_pixels,
    count_reliability,
    reliability_of,
    table_of,
)
from kappamask.evaluate.peers import Answer, Peer
from kappamask.evaluate.scoring import FOUR, Dataset, Scoring, known_pixels
from kappamask.train.chips import Chip

ARGMAX, HALF = "argmax", "threshold 0.5"
MACRO, MICRO = "macro", "micro"
UNDECIDED = "undecided"  # column of a confusion matrix: the mask says none of the classes

Progress = Callable[[str, int, int], None]  # what, done, total


@dataclass(frozen=True)
class Score:
    """One figure of one mask on one set."""

    dataset: str
    scoring: str  # name of a `Scoring`
    mask: str
    rule: str  # how probabilities became classes: "argmax" or "threshold 0.5"
    of: str  # a class, "macro" or "micro"
    metric: str
    value: float | None
    low: float | None  # 95 % interval over chips; None with fewer than two of them
    high: float | None
    n_pixels: int
    n_chips: int
    beside: str = ""  # only the chips that this other mask could label

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from the others."""
        words = (self.dataset, self.scoring, self.mask, self.rule, self.of, self.metric)
        return (*words, self.beside)


@dataclass(frozen=True)
class Confusion:
    """Pixels by class drawn (rows) and class said (columns, the last: none of them)."""

    dataset: str
    scoring: str
    mask: str
    classes: tuple[str, ...]
    pixels: tuple[tuple[int, ...], ...]
    n_chips: int


@dataclass(frozen=True)
class Skip:
    """What was not scored, and why."""

    mask: str
    dataset: str
    n_chips: int  # left out
    of_chips: int
    reason: str


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts of one mask on one set under one scoring, chip by chip."""

    mask: Peer
    dataset: Dataset
    scoring: Scoring
    chips: tuple[int, ...]  # positions in the set
    argmax: np.ndarray  # (chip, group, 4)
    half: np.ndarray | None  # the same at a threshold of 0.5; None without probabilities
    confusion: np.ndarray  # (group, group + 1)

    def keep(self, chips: Sequence[int], name: str | None = None) -> Tally:
        """Take some chips only."""
        rows = [self.chips.index(chip) for chip in chips]
        return replace(
            self,
            dataset=replace(self.dataset, name=name or self.dataset.name),
            chips=tuple(chips),
            argmax=self.argmax[rows],
            half=None if self.half is None else self.half[rows],
        )


def tally(
    mask: Peer,
    dataset: Dataset,
    *,
    answers: Answers | None = None,
    progress: Progress | None = None,
) -> tuple[list[Tally], np.ndarray | None, list[Skip]]:
    """Label every chip of a set once and count under every scoring.

    Returns
    -------
    tuple
        Tallies (none if no chip could be labelled); bins of reliability (chip, 5, bins, 3)
        where the set is calibrated and the mask has probabilities; what was left out and why.
    """
    answers = Answers() if answers is None else answers
    done: list[int] = []
    reasons: Counter[str] = Counter()
    counts: dict[str, list[list[np.ndarray]]] = {one.name: [] for one in dataset.scorings}
    bins: list[np.ndarray] = []
    for position, chip in enumerate(dataset.chips):
        answer = _label(mask, chip) if dataset.streamed else answers.ask(mask, chip)
        if isinstance(answer, str):
            reasons[answer] += 1
        else:
            done.append(position)
            for scoring in dataset.scorings:
                known, drawn = known_pixels(chip, scoring), scoring.drawn(chip.label)
                said = scoring.said(answer.codes, resolution=chip.resolution)
                found = [confuse(drawn[:, known], said[:, known]), count_pixels(drawn, said, known)]
                if answer.probabilities is not None:
                    likely = scoring.likely(answer.probabilities, resolution=chip.resolution)
                    found.append(count_pixels(drawn, likely, known))
                counts[scoring.name].append(found)
            if dataset.calibrated and answer.probabilities is not None:
                known = known_pixels(chip, FOUR)
                bins.append(count_reliability(answer.probabilities, chip.label, known))
        if progress:
            progress(f"{mask.name}: {dataset.name}", position + 1, len(dataset.chips))
    skips = [
        Skip(mask.name, dataset.name, number, len(dataset.chips), reason)
        for reason, number in reasons.items()
    ]
    tallies = []
    for scoring in dataset.scorings if done else ():
        # A chip without probabilities leaves the whole set without figures at 0.5.
        confusion, argmax, *half = map(np.stack, zip(*counts[scoring.name], strict=False))
        at_half = half[0] if half else None
        tallies.append(
            Tally(mask, dataset, scoring, tuple(done), argmax, at_half, confusion.sum(0))
        )
    return tallies, np.stack(bins) if bins else None, skips


class Answers:
    """What masks said of chips, so that pictures show what was scored and nothing runs twice."""

    def __init__(self) -> None:
        self._codes: dict[tuple[str, int], np.ndarray | str] = {}
        self._chips: list[Chip] = []  # kept, so that no other chip gets their identity

    def ask(self, mask: Peer, chip: Chip) -> Answer | str:
        """Label a chip, or say why not. Probabilities come with the first answer only."""
        key = mask.name, id(chip)
        if key not in self._codes:
            answer = _label(mask, chip)
            self._codes[key] = answer if isinstance(answer, str) else answer.codes
            self._chips.append(chip)
            return answer
        known = self._codes[key]
        return known if isinstance(known, str) else Answer(known)


def _label(mask: Peer, chip: Chip) -> Answer | str:
    try:
        return mask.label(chip)
    except KappaMaskError as error:
        return str(error)


def confuse(drawn: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Count pixels by class drawn and said: two (group, n) bool to (group, group + 1).

    Examples
    --------
    >>> drawn = np.array([[True, True, False], [False, False, True]])
    >>> said = np.array([[True, False, False], [False, False, True]])
    >>> confuse(drawn, said).tolist()
    [[1, 0, 1], [0, 1, 0]]
    """
    columns = np.concatenate([said, ~said.any(0, keepdims=True)])
    return drawn.astype(np.int64) @ columns.astype(np.int64).T


def scores_of(tally: Tally, *, draws: int, seed: int, beside: str = "") -> list[Score]:
    """All figures of one tally: classes, macro and micro, at argmax and at 0.5.

    A class is given figures if it was drawn somewhere in the set and the mask can say it.
    On ground that is clear throughout the share that the mask gives to each class tells
    all, so there every class is given.
    """
    drawn = tally.argmax[..., 0].sum(0) + tally.argmax[..., 2].sum(0) > 0  # (group,)
    can_say = tally.scoring.can_say(tally.mask.says)
    evaluated = can_say & (drawn | (drawn.sum() == 1))
    names = [group.name for group in tally.scoring.groups]
    rows = [i for i, kept in enumerate(evaluated) if kept]
    if evaluated.sum() > 1:
        rows += [len(names), len(names) + 1]
    labels = [*names, MACRO, MICRO]
    n_pixels = int(tally.argmax[:, 0].sum())
    scores = []
    for rule, counts in ((ARGMAX, tally.argmax), (HALF, tally.half)):
        if counts is None:
            continue
        value, low, high = bootstrap(
            counts, lambda sums: table_of(sums, evaluated), draws=draws, seed=seed
        )
        for row in rows:
            for column, metric in enumerate(METRICS):
                figure = as_figure(value[row, column], low[row, column], high[row, column])
                scores.append(
                    Score(
                        tally.dataset.name, tally.scoring.name, tally.mask.name, rule,
                        labels[row], metric, figure.value, figure.low, figure.high,
                        n_pixels, len(tally.chips), beside,
                    )
                )  # fmt: skip
    return scores


@dataclass(frozen=True, eq=False)
class Results:
    """All that was measured."""

    scores: tuple[Score, ...]
    confusions: tuple[Confusion, ...]
    reliabilities: tuple[Reliability, ...]
    skipped: tuple[Skip, ...]


def score_all(
    masks: Sequence[Peer],
    sets: Sequence[Dataset],
    *,
    draws: int,
    seed: int,
    answers: Answers | None = None,
    progress: Progress | None = None,
) -> Results:
    """Score masks on sets; the first mask also on the chips that each other one could label.

    Chips that a mask cannot label are hard or easy: without the same chips of the first
    mask beside them, its figures compare with nothing.
    """
    scores: list[Score] = []
    confusions: list[Confusion] = []
    curves: list[Reliability] = []
    skipped: list[Skip] = []
    for dataset in sets:
        first: dict[str, Tally] = {}
        for mask in masks:
            tallies, bins, skips = tally(mask, dataset, answers=answers, progress=progress)
            skipped += skips
            if bins is not None:
                curves += reliability_of(
                    bins, mask=mask.name, dataset=dataset.name, draws=draws, seed=seed
                )
            for one in tallies:
                scores += scores_of(one, draws=draws, seed=seed)
                classes = tuple(group.name for group in one.scoring.groups)
                pixels = tuple(map(tuple, one.confusion.tolist()))
                names = dataset.name, one.scoring.name, mask.name
                confusions.append(Confusion(*names, classes, pixels, len(one.chips)))
                for position in one.chips if dataset.each else ():
                    name = f"{dataset.name}/{dataset.chips[position].name}"
                    scores += scores_of(one.keep([position], name), draws=0, seed=0)
                whole = first.setdefault(one.scoring.name, one) if mask is masks[0] else None
                whole = whole or first.get(one.scoring.name)
                shared = sorted(set(whole.chips) & set(one.chips)) if whole else []
                if whole and shared and len(shared) < len(whole.chips):
                    part = whole.keep(shared)
                    scores += scores_of(part, draws=draws, seed=seed, beside=mask.name)
    return Results(tuple(scores), tuple(confusions), tuple(curves), tuple(skipped))
