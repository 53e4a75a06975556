"""What a network is asked for, and whether it gets there: `goals.toml` as one table."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import resources
from typing import Any

import numpy as np

from kappamask.base.bands import LEVELS
from kappamask.base.errors import KappaMaskError
from kappamask.evaluate.metrics import TOP
from kappamask.evaluate.peers import Peer
from kappamask.evaluate.programs import NetworkPeer
from kappamask.evaluate.scores import ARGMAX, Results
from kappamask.evaluate.tables import NOTHING, Table, number
from kappamask.networks.model import open_model
from kappamask.networks.weights import weights_of
from kappamask.train.chips import Chip


def read_goals() -> list[dict[str, Any]]:
    """Read the table of goals.

    Examples
    --------
    >>> [goal["least"] for goal in read_goals() if goal["what"] == "Alberta, people: clear"]
    [0.96]
    """
    text = resources.files("kappamask.evaluate").joinpath("goals.toml").read_text("utf-8")
    goals: list[dict[str, Any]] = tomllib.loads(text)["goal"]
    return goals


def goal_table(
    results: Results, masks: Sequence[str], engine: Mapping[str, float], cut: Results | None = None
) -> Table:
    """Set every goal whose figure was measured beside what the masks reach.

    The first mask is the one that is asked; `engine` is what `measure_engine` found of it, `cut`
    are its results with fewer bands.
    """
    goals = read_goals()
    values: dict[str, list[float | None]] = {
        mask: [find_value(results, goal, mask) for goal in goals] for mask in masks
    }
    for place, goal in enumerate(goals):  # of the first mask alone
        if "engine" in goal:
            values[masks[0]][place] = engine.get(goal["engine"])
        elif "bands" in goal and cut is not None:  # of a mask that is called "4: B02 ..."
            begin = f"{goal['bands']}: "
            named = (score.mask for score in cut.scores if score.mask.startswith(begin))
            values[masks[0]][place] = find_value(cut, goal, next(named, ""))
    shown = [mask for mask in masks if any(value is not None for value in values[mask])]
    rows = []
    for place, goal in enumerate(goals):
        first = values[masks[0]][place]
        if first is not None:
            asked = reached = NOTHING
            if "least" in goal:
                asked = f"≥ {_show(goal['least'])}"
                reached = "yes" if first >= goal["least"] else "NO"
            elif "most" in goal:
                asked = f"≤ {_show(goal['most'])}"
                reached = "yes" if first <= goal["most"] else "NO"
            others = [values[mask][place] for mask in shown]
            cells = [NOTHING if value is None else _show(value) for value in others]
            rows.append((goal["what"], asked, reached, *cells))
    note = (
        "Of the first mask. Figures of `test` are scored once, when a network was chosen by `val`."
    )
    return Table("What is asked for", ("of", "asked", "reached", *shown), tuple(rows), note)


def find_value(results: Results, goal: Mapping[str, Any], mask: str) -> float | None:
    """Find the figure of a goal; None where it was not measured."""
    if "ece" in goal:
        curves = (
            curve.ece.value
            for curve in results.reliabilities
            if (curve.mask, curve.dataset, curve.of) == (mask, goal["ece"], TOP)
        )
        return next(curves, None)
    if "figure" not in goal:
        return None
    dataset, scoring, of = goal["figure"]
    wanted = (scoring, mask, ARGMAX, of, goal.get("metric", "dice"), "")
    prefix = f"{dataset}/{goal.get('chips', '')}"
    found = [
        score.value
        for score in results.scores
        if score.key[1:] == wanted
        and (score.dataset.startswith(prefix) if "over" in goal else score.dataset == dataset)
        and score.value is not None
    ]
    if not found:
        return None
    if goal.get("over") == "mean":
        return float(np.mean(found))
    return min(found) if "least" in goal else max(found)


def _show(value: float) -> str:
    return f"{value:.2f}" if value > 1 else number(value)


def measure_engine(mask: Peer, chips: Sequence[Chip]) -> dict[str, float]:
    """Measure of a network how large its weights are, and how far bf16 and fp32 agree.

    Nothing of other masks; no agreement on a machine that computes in fp32 anyway.
    """
    if not isinstance(mask, NetworkPeer):
        return {}
    models = {}
    for level in LEVELS:
        with suppress(KappaMaskError):  # a network of one level, or one that was not fetched
            models[level] = mask.model_of(level)
    paths = {weights_of(model.entry).path for model in models.values()}
    found = {"megabytes": sum(path.stat().st_size for path in paths) / 1e6}
    if {model.precision for model in models.values()} != {"bf16"}:
        return found
    exact = {
        level: replace(open_model(model.entry, level, precision="fp32"), level=level)
        for level, model in models.items()
    }
    fine = NetworkPeer("fp32", mask.model, loaded=exact)
    same = [np.mean(mask.label(chip).codes == fine.label(chip).codes) for chip in chips]
    return found | ({"bf16_agrees": float(np.mean(same))} if same else {})
