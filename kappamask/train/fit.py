"""The training loop, readable top to bottom.

`kappamask train CONFIG.toml` calls `fit`; `kappamask.train.run_files` says what it writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from kappamask.base.bands import NAMES
from kappamask.base.files import check_folder
from kappamask.networks.normalisation import Normalisation
from kappamask.train.chips import Chip
from kappamask.train.crops import Crops
from kappamask.train.datasets import Groups, read_training, read_validation
from kappamask.train.learner import Learner
from kappamask.train.outlines import Outline, read_outlines
from kappamask.train.run_files import (
    WEIGHTS,
    export,
    load_state,
    read_normalisation,
    save_state,
    write_log,
)
from kappamask.train.settings import Config, Settings
from kappamask.train.validate import collect, validate

BATCHES_AHEAD = 6  # that each worker prepares


def fit(
    config: Config,
    out: Path,
    *,
    start_from: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, float]:
    """Train one network on the `train` split and keep the best on `val`.

    A folder that holds an interrupted run of the same settings is gone on with.

    Parameters
    ----------
    config
        Data, settings, teacher.
    out
        Folder of the run.
    start_from
        Safetensors to begin with; of no account when a run is gone on with.
    progress
        Called at each step with (the loss lately, steps done, steps in all).
    tell
        Called with a line for people at each validation.

    Returns
    -------
    dict
        The scores of the last validation, see `kappamask.train.validate.validate`; empty if
        the run was complete before.

    Raises
    ------
    InputError, UnknownNameError, ReadError, WeightsError, WriteError
        If the configuration, a chip, weights or the folder do not serve.

    Examples
    --------
    >>> import tempfile
    >>> from kappamask.train.settings import Config, Settings, Source
    >>> with tempfile.TemporaryDirectory() as empty:
    ...     config = Config((Source("chips", Path(empty)),), Settings(steps=1))
    ...     fit(config, Path(empty) / "run")
    Traceback (most recent call last):
    kappamask.base.errors.InputError: ...
    """
    settings = config.settings
    check_folder(out, "the run")
    state = load_state(out, settings)
    torch.manual_seed(settings.seed)
    outlines = read_outlines(config.outlines) if config.outlines is not None else []
    groups = read_training(config)
    examples = collect(read_validation(config), outlines)
    # Weights that were begun with are fed as before, whatever the chips of this run.
    begun = out / WEIGHTS if state is not None else start_from
    normalise = read_normalisation(begun) or normalisation_of(groups.chips)
    learner = Learner(settings, start_from=start_from if state is None else None)
    start, best, before, rows = 0, -1.0, 0.0, []
    if state is not None:
        learner.restore(state)
        start, best, before = state["step"], state["best"], state.get("seconds", 0.0)
        rows = state.get("log", [])
        if tell:
            tell(f"going on from step {start} of {settings.steps}")
    began, losses, scores = time.monotonic() - before, [], {}
    stream = open_stream(groups, settings, start=start, outlines=outlines)
    for step in range(start + 1, settings.steps + 1):
        losses.append(learner.learn(normalise, next(stream)))
        if progress:
            progress(f"loss {np.mean(losses[-50:]):.3f}", step, settings.steps)
        if step % settings.validate_every and step < settings.steps:
            continue
        scores = validate(learner.average.module, normalise, examples, learner.device)
        seconds = time.monotonic() - began
        row: dict[str, float] = {"step": step, "seconds": round(seconds)}
        row["loss"] = round(float(np.mean(losses)), 4)
        rows.append(row | {key.lower(): round(value, 4) for key, value in scores.items()})
        write_log(out, rows)
        if tell:
            tell("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
        losses.clear()
        if scores["mean"] > best:
            best = scores["mean"]
            export(learner.average.module.state_dict(), out, normalise, settings, scores)
        marks = {"step": step, "best": best, "seconds": seconds, "log": rows}
        save_state(out, {**marks, **learner.state()}, settings)
    return scores


def open_stream(
    groups: Groups, settings: Settings, *, start: int, outlines: Sequence[Outline] = ()
) -> Iterator[Any]:
    """Yield batches for ever.

    A resumed run draws other crops than its first part did, or it would see them twice.
    """
    crops = Crops(
        groups.chips,
        size=settings.size,
        seed=settings.seed + start,
        weights=groups.weights,
        outlines=outlines,
    )
    loader = DataLoader(
        crops,
        settings.batch,
        num_workers=settings.workers,
        prefetch_factor=BATCHES_AHEAD if settings.workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)


def normalisation_of(groups: Mapping[str, Sequence[Chip]]) -> Normalisation:
    """Mean and spread of the square root of reflectance per band, over all training chips.

    A band that no chip holds gets a spread that does no harm: it is never fed.
    """
    mean, std = [], []
    for slot in range(len(NAMES)):
        values = np.concatenate(
            [chip.dn[slot][::4, ::4].ravel() for chips in groups.values() for chip in chips]
        )
        values = values[values > 0]
        root = np.sqrt(values / 10000) if values.size else np.zeros(1)
        mean.append(round(float(root.mean()), 4))
        std.append(round(float(max(root.std(), 0.02)), 4))
    return Normalisation(tuple(mean), tuple(std))
