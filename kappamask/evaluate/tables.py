"""Results as tables for people: one form, written as HTML and as Markdown."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from kappamask.evaluate.metrics import METRICS, TOP, Figure, Reliability
from kappamask.evaluate.scores import (
    ARGMAX,
    HALF,
    MACRO,
    MICRO,
    UNDECIDED,
    Confusion,
    Results,
    Score,
)
from kappamask.evaluate.scoring import SCORINGS, Dataset

NOTHING = "-"
CIRCULAR = "†"  # a mask that the labels were made from
PARTIAL = "*"  # a macro figure over fewer classes than the others'
NOTES = {
    CIRCULAR: "the labels were made from this mask: no fair comparison.",
    PARTIAL: "mean over the classes that this mask has, fewer than the others.",
}


@dataclass(frozen=True)
class Table:
    """Words in rows and columns."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


class Lookup:
    """Find scores by what they are of.

    Examples
    --------
    >>> score = Score("val", "four", "net", ARGMAX, MACRO, "dice", 0.9, 0.8, 0.95, 100, 7)
    >>> Lookup([score]).text("val", "four", "net", MACRO)
    '.900 [.800, .950]'
    >>> Lookup([score]).text("val", "four", "other", MACRO)
    '-'
    """

    def __init__(self, scores: Iterable[Score]) -> None:
        self._by_key = {score.key: score for score in scores}

    def get(self, dataset: str, scoring: str, mask: str, of: str, **which: str) -> Score | None:
        """Find one score; `which` names a metric, rule or `beside` other than the usual."""
        rule, metric = which.get("rule", ARGMAX), which.get("metric", "dice")
        return self._by_key.get((dataset, scoring, mask, rule, of, metric, which.get("beside", "")))

    def text(self, dataset: str, scoring: str, mask: str, of: str, **which: str) -> str:
        """Show one score with its interval."""
        return show(self.get(dataset, scoring, mask, of, **which))


def show(score: Score | Figure | None, *, percent: bool = False) -> str:
    """Write one figure with its interval."""
    if score is None or score.value is None:
        return NOTHING
    text = number(score.value, percent=percent)
    if score.low is None or score.high is None:
        return text
    low, high = (number(end, percent=percent) for end in (score.low, score.high))
    return f"{text} [{low}, {high}]"


def number(value: float, *, percent: bool = False) -> str:
    """Three digits without the zero before the point, or percent.

    Examples
    --------
    >>> number(0.9094), number(1.0), number(0.00123, percent=True)
    ('.909', '1.000', '0.12 %')
    """
    return f"{100 * value:.2f} %" if percent else f"{value:.3f}".replace("0.", ".", 1)


def comparison(results: Results, dataset: Dataset, scoring: str, masks: Sequence[str]) -> Table:
    """Side by side: dice of every class and mean, with the first mask on the same chips."""
    lookup, kind = Lookup(results.scores), SCORINGS[scoring]
    columns = (*kind.scored, *((MACRO, MICRO) if len(kind.scored) > 1 else ()))

    def find(mask: str, beside: str = "") -> list[Score | None]:
        which = {"beside": beside, "metric": dataset.metric}
        return [lookup.get(dataset.name, scoring, mask, of, **which) for of in columns]

    rows, marks = [], set()
    for mask in masks:
        found, beside = find(mask), find(masks[0], mask)
        if not any(found):
            continue
        compared = (found, beside if any(beside) else find(masks[0]))
        said, could = (sum(map(bool, scores[: len(kind.scored)])) for scores in compared)
        mark = PARTIAL if said < could else ""
        circular = CIRCULAR if mask in dataset.made_from else ""
        cells = [
            show(score) + (mark if of in (MACRO, MICRO) else "")
            for score, of in zip(found, columns, strict=True)
        ]
        rows.append((mask + circular, *cells, *_size(found)))
        if any(beside):
            rows.append((f"{masks[0]}, same chips as {mask}", *map(show, beside), *_size(beside)))
        marks |= {mark, circular}
    head = ("mask", *(_words(of) for of in columns), "chips", "Mpx")
    title = f"{dataset.title}: {dataset.metric} ({kind.title})"
    notes = [f"{mark} {note}" for mark, note in NOTES.items() if mark in marks]
    return Table(title, head, tuple(rows), " ".join([f"Labels: {dataset.labels}.", *notes]))


def _size(scores: Sequence[Score | None]) -> tuple[str, str]:
    there = next(score for score in scores if score)
    return str(there.n_chips), f"{there.n_pixels / 1e6:.3f}"


def chip_table(results: Results, dataset: Dataset, masks: Sequence[str]) -> Table:
    """Dice chip by chip, of sets of few chips."""
    lookup = Lookup(results.scores)
    rows = []
    for chip in dataset.chips:
        for scoring in dataset.scorings:
            for of in scoring.scored:
                found = [
                    lookup.text(f"{dataset.name}/{chip.name}", scoring.name, mask, of)
                    for mask in masks
                ]
                rows.append((chip.name, scoring.name, _words(of), *found))
    return Table(f"{dataset.title}: dice chip by chip", ("chip", "scoring", "class", *masks),
                 tuple(rows))  # fmt: skip


def shares_table(results: Results, dataset: Dataset, masks: Sequence[str]) -> Table:
    """Shares that each mask gives to the classes that are told: of the set, and of each chip."""
    lookup = Lookup(results.scores)
    chips = dataset.chips if dataset.each else ()
    names = [dataset.name, *(f"{dataset.name}/{chip.name}" for chip in chips)]
    rows = []
    for of in dataset.told:
        words = "cloud or thin cloud" if of == "cloud" else _words(of)
        for name in names:
            found = [
                show(lookup.get(name, "three", mask, of, metric="said"), percent=True)
                for mask in masks
            ]
            rows.append((words, name.removeprefix(f"{dataset.name}/"), *found))
    note = f"Labels: {dataset.labels}."
    return Table(f"{dataset.title}: share of pixels", ("said", "chip", *masks), tuple(rows), note)


def ablation_table(results: Results, sets: Sequence[Dataset], masks: Sequence[str]) -> Table:
    """Macro dice by bands given."""
    lookup = Lookup(results.scores)
    rows = [
        (mask, *(lookup.text(dataset.name, "four", mask, MACRO) for dataset in sets))
        for mask in masks
    ]
    return Table(
        "Fewer bands: macro dice of four classes",
        ("bands given", *(dataset.title for dataset in sets)),
        tuple(rows),
        "Chips that hold ten bands or all thirteen, and what becomes of them without some.",
    )


def calibration_table(curves: Sequence[Reliability]) -> Table:
    """List expected calibration errors."""
    rows = [
        (curve.dataset, curve.mask, _words(curve.of), show(curve.ece), str(curve.n_chips))
        for curve in curves
    ]
    note = f"15 equal bins (Guo et al. 2017); '{TOP}' is the usual figure."
    head = ("set", "mask", "of", "ECE", "chips")
    return Table("Calibration: expected calibration error", head, tuple(rows), note)


def metric_table(results: Results, dataset: Dataset, scoring: str, masks: Sequence[str]) -> Table:
    """Every metric of every mask, at argmax and at 0.5."""
    lookup = Lookup(results.scores)
    kind = SCORINGS[scoring]
    rows = []
    for mask in masks:
        for rule in (ARGMAX, HALF):
            for of in (*kind.scored, MACRO, MICRO):
                found = [
                    lookup.text(dataset.name, scoring, mask, of, metric=metric, rule=rule)
                    for metric in METRICS
                ]
                if set(found) != {NOTHING}:
                    rows.append((mask, rule, _words(of), *found))
    title = f"{dataset.title}: every metric ({kind.title})"
    return Table(title, ("mask", "rule", "class", *METRICS), tuple(rows))


def confusion_table(confusion: Confusion, title: str) -> Table:
    """Share of each class drawn by class said."""
    head = ("drawn \\ said", *(_words(name) for name in confusion.classes), UNDECIDED, "pixels")
    rows = []
    for name, pixels in zip(confusion.classes, confusion.pixels, strict=True):
        whole = sum(pixels)
        shares = [f"{100 * n / whole:.1f} %" if whole else NOTHING for n in pixels]
        rows.append((_words(name), *shares, str(whole)))
    return Table(f"{title}: {confusion.mask} ({confusion.scoring})", head, tuple(rows))


def skip_table(results: Results) -> Table:
    """List what was not scored, and why: one row for each mask and reason."""
    where: dict[tuple[str, str], list[str]] = {}
    for skip in results.skipped:
        places = where.setdefault((skip.mask, skip.reason), [])
        places.append(f"{skip.dataset} {skip.n_chips} of {skip.of_chips}")
    rows = [(mask, reason, ", ".join(places)) for (mask, reason), places in where.items()]
    return Table("Not scored", ("mask", "reason", "chips left out"), tuple(rows))


def read_published() -> dict[str, Any]:
    """Read the paper's table.

    Examples
    --------
    >>> read_published()["dice"]["KappaMask L2A"]["macro"]
    80
    """
    text = resources.files("kappamask.evaluate").joinpath("published.toml").read_text("utf-8")
    return tomllib.loads(text)


def published_table() -> Table:
    """Make the paper's table, marked as published.

    Examples
    --------
    >>> published_table().rows[-1]
    ('s2cloudless', '69', '-', '-', '57', '63')
    """
    found = read_published()
    columns = (*SCORINGS["four"].scored, MACRO)
    rows = [
        (mask, *(str(dice.get(of, NOTHING)) for of in columns))
        for mask, dice in found["dice"].items()
    ]
    head = ("mask", *(_words(of) for of in columns))
    title = f"Published: {found['title']} (dice, %)"
    return Table(title, head, tuple(rows), f"{found['note']} Source: {found['source']}.")


def _words(name: str) -> str:
    return name.replace("_", " ")


def to_markdown(tables: Iterable[Table]) -> str:
    r"""Write tables that documentation can include.

    Examples
    --------
    >>> print(to_markdown([Table("T", ("a", "b"), (("1", "2|3"),), "N.")]))
    **T**
    <BLANKLINE>
    | a | b |
    |---|---|
    | 1 | 2\|3 |
    <BLANKLINE>
    N.
    <BLANKLINE>
    """
    blocks = []
    for table in tables:
        lines = [table.head, *table.rows]
        rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines]
        rows.insert(1, "|---" * len(table.head) + "|")
        blocks += [f"**{table.title}**", "\n".join(rows), *([table.note] if table.note else [])]
    return "\n\n".join(blocks) + "\n"
