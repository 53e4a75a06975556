"""What a training run leaves in its folder.

- `log.csv`: a line per validation;
- `last.pt`: what is needed to go on after an interruption, read back without a pickle;
- `best.safetensors` and `best.toml`: the best averaged weights so far, and the entry for
  `kappamask/networks/registry.toml`; `kappamask evaluate --weights` takes them.
"""

from __future__ import annotations

import csv
import io
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from kappamask.base.errors import InputError, WeightsError
from kappamask.base.files import publish, read_toml, staging
from kappamask.networks.manifest import read_registry
from kappamask.networks.normalisation import Normalisation
from kappamask.train.settings import Settings

LOG, STATE, WEIGHTS, ENTRY = "log.csv", "last.pt", "best.safetensors", "best.toml"
# Settings that a resumed run may see otherwise: a run can be made longer, or end sooner.
MAY_CHANGE = ("workers", "validate_every", "steps", "cool_down")


def export(
    weights: dict[str, Tensor],
    folder: Path,
    normalise: Normalisation,
    settings: Settings,
    scores: dict[str, float],
) -> None:
    """Write the weights as safetensors and the manifest entry that goes with them."""
    entry = [
        f"{key} = {list(value) if isinstance(value, tuple) else value!r}"
        for key, value in {**asdict(settings), **asdict(normalise)}.items()
    ]
    entry += [f"val_{key.lower()} = {value:.4f}" for key, value in scores.items()]
    tensors = {key: value.contiguous() for key, value in weights.items()}
    with staging(folder, WEIGHTS) as aside:
        text = "\n".join(entry) + "\n"
        publish(aside, {folder / WEIGHTS: save(tensors), folder / ENTRY: text.encode()})


def read_normalisation(weights: Path | None) -> Normalisation | None:
    """Read what some weights were fed with; None where nobody knows.

    Weights of a run have an entry beside them, shipped ones are in the manifest.
    """
    if weights is None:
        return None
    entry = weights.with_name(ENTRY)
    if not entry.is_file():
        for known in read_registry()[1].values():
            if known.file == weights.name and isinstance(known.normalisation, Normalisation):
                return known.normalisation
        return None
    try:
        table = read_toml(entry)
        return Normalisation(tuple(table["mean"]), tuple(table["std"]))
    except (ValueError, KeyError) as error:
        raise WeightsError(f"{entry} is no entry of a run ({error!r}): train again") from error


def save_state(folder: Path, state: dict[str, Any], settings: Settings) -> None:
    """Write what a resumed run starts from."""
    buffer = io.BytesIO()  # torch has words of its own for a full disk
    torch.save({**state, "settings": asdict(settings)}, buffer)
    with staging(folder, STATE) as aside:
        publish(aside, {folder / STATE: buffer.getvalue()})


def load_state(folder: Path, settings: Settings) -> dict[str, Any] | None:
    """Read what `save_state` wrote, or None where nothing was.

    Raises
    ------
    WeightsError
        If the file is damaged, or holds anything but tensors, numbers and words.
    InputError
        If the run was begun with other settings.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"a run is resumed from the last.pt that it wrote, got {path}: "
            f"{str(error).splitlines()[0]}; remove it to begin anew"
        ) from error
    begun = state.get("settings", {})
    wanted = asdict(settings)
    other = [
        f"{key} = {begun[key]!r} instead of {wanted.get(key)!r}"
        for key in begun
        if key not in MAY_CHANGE and begun[key] != wanted.get(key)
    ]
    if other:
        raise InputError(
            f"a run goes on with the settings it was begun with, got {', '.join(other)} in "
            f"{path}: choose another --out, or set them back"
        )
    return state


def write_log(folder: Path, rows: list[dict[str, float]]) -> None:
    """Write the lines of all validations so far, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    with staging(folder, LOG) as aside:
        publish(aside, {folder / LOG: text.getvalue().encode()})
