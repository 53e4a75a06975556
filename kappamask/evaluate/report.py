"""Results as files: a report for people, a table for documentation, JSON for programs; jinja2."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from kappamask import __version__
from kappamask.base.errors import InputError
from kappamask.base.files import publish, staging
from kappamask.base.legend import LEGEND
from kappamask.evaluate import tables
from kappamask.evaluate.goals import goal_table
from kappamask.evaluate.metrics import TOP
from kappamask.evaluate.pictures import reliability_svg
from kappamask.evaluate.run import Evaluation
from kappamask.evaluate.tables import Table, read_published

REPORT, SCORES, TABLE = "report.html", "scores.json", "table.md"


def write_report(evaluation: Evaluation, folder: Path) -> Mapping[str, Path]:
    """Write `report.html` (one file, pictures inside), `table.md` and `scores.json`.

    Returns
    -------
    mapping of str to pathlib.Path
        By name of the file.

    Raises
    ------
    WriteError
        If they cannot be written; nothing half-written is left.
    InputError
        If jinja2 is not installed.
    """
    contents = {
        folder / REPORT: to_html(evaluation).encode(),
        folder / TABLE: tables.to_markdown(main_tables(evaluation)).encode(),
        folder / SCORES: to_json(evaluation).encode(),
    }
    with staging(folder, REPORT) as aside:
        publish(aside, contents)
    return {path.name: path for path in contents}


def main_tables(evaluation: Evaluation) -> list[Table]:
    """Make the tables that are read first."""
    masks = [mask.name for mask in evaluation.masks]
    results = evaluation.results
    there = {score.mask for score in results.scores}
    ran = [mask for mask in masks if mask in there]
    found = [goal_table(results, masks, evaluation.engine, evaluation.cut_results)]
    for dataset in evaluation.sets:
        if dataset.told:
            found.append(tables.shares_table(results, dataset, ran))
            continue
        names = [scoring.name for scoring in dataset.scorings]
        found += [tables.comparison(results, dataset, name, ran) for name in names]
        if dataset.each:
            found.append(tables.chip_table(results, dataset, ran))
    if evaluation.cut_sets:
        cut = [mask.name for mask in evaluation.cut]
        whole = [dataset for dataset in evaluation.cut_sets if not dataset.told]
        found.append(tables.ablation_table(evaluation.cut_results, whole, cut))
        parts = [dataset for dataset in evaluation.cut_sets if dataset.told]
        found += [tables.shares_table(evaluation.cut_results, one, cut) for one in parts]
    if results.reliabilities:
        found.append(tables.calibration_table(results.reliabilities))
    return [*found, tables.published_table(), tables.skip_table(results)]


def detail_tables(evaluation: Evaluation) -> list[Table]:
    """Make tables of every metric and every confusion matrix."""
    masks = [mask.name for mask in evaluation.masks]
    titles = {dataset.name: dataset.title for dataset in evaluation.sets}
    metrics = [
        tables.metric_table(evaluation.results, dataset, scoring.name, masks)
        for dataset in evaluation.sets
        for scoring in dataset.scorings
    ]
    confusions = [
        tables.confusion_table(one, titles[one.dataset]) for one in evaluation.results.confusions
    ]
    return [*metrics, *confusions]


def to_html(evaluation: Evaluation) -> str:
    """Render the report."""
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise InputError(
            f"the report needs jinja2 ({error}): pip install 'kappamask[evaluate]'"
        ) from error
    source = resources.files("kappamask.evaluate").joinpath("report.html.j2").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    plates = [
        (one.title, [(panel, base64.b64encode(panel.png).decode()) for panel in one.panels])
        for one in evaluation.plates
    ]
    return environment.from_string(source).render(
        version=__version__,
        about=about(evaluation),
        masks=evaluation.masks,
        legend=LEGEND,
        tables=main_tables(evaluation),
        details=detail_tables(evaluation),
        # The curves worth a plot: of the most probable class, and of each class on `val`.
        curves=[
            reliability_svg(curve)
            for curve in evaluation.results.reliabilities
            if curve.of == TOP or curve.dataset == "val"
        ],
        plates=plates,
    )


def to_json(evaluation: Evaluation) -> str:
    """Write every figure with its pixels, chips and interval; one line each."""
    results, cut = evaluation.results, evaluation.cut_results
    parts: dict[str, Any] = {
        "about": about(evaluation),
        "masks": {mask.name: mask.title for mask in evaluation.masks},
        "sets": {
            dataset.name: {
                "title": dataset.title,
                "labels": dataset.labels,
                "made_from": sorted(dataset.made_from),
                "chips": [] if dataset.streamed else [chip.name for chip in dataset.chips],
            }
            for dataset in (*evaluation.sets, *evaluation.cut_sets)
        },
        "published": read_published(),
        "scores": [asdict(score) for score in results.scores],
        "band_ablation": [asdict(score) for score in cut.scores],
        "calibration": [asdict(curve) for curve in results.reliabilities],
        "confusions": [asdict(confusion) for confusion in results.confusions],
        "skipped": [asdict(skip) for skip in (*results.skipped, *cut.skipped)],
    }
    lines = []
    for name, value in parts.items():
        text = json.dumps(value)
        if isinstance(value, list) and value:  # an entry a line: two runs compare line by line
            text = "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
        lines.append(f"{json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def about(evaluation: Evaluation) -> dict[str, Any]:
    """Say what the figures depend on; no time and no machine path, so that runs compare."""
    return {
        "kappamask": __version__,
        "splits": list(evaluation.options.chosen_splits()),
        "seed": evaluation.options.seed,
        "bootstrap_draws": evaluation.options.draws,
        "interval": "95 %, percentiles, over chips drawn again",
        "simulation_sha256": evaluation.simulation,
    }
