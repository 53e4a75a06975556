"""Chips unpacked to plain arrays on disk, for data sets larger than memory..

The arrays are mapped, not read: what a crop does not touch is never loaded, and the operating
system keeps what it has room for. KappaSet takes 65 GB so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kappamask.base.files import publish, staging
from kappamask.train.chips import Chip

LAYERS = ("dn", "label", "scl", "verdict")


def keep(chips: Iterable[Chip], folder: Path, *, name: str) -> list[Chip]:
    """Give chips whose pixels stay on disk; the first time, unpack them there.

    Parameters
    ----------
    chips
        Not even looked at where the cache is whole.
    folder
        Written to if it lacks `name`.json. Delete it when the source changes.
    name
        Of this set of chips.

    Raises
    ------
    WriteError
        If the folder cannot be written.
    """
    index = folder / f"{name}.json"
    if not index.exists():
        with staging(folder, name) as aside:
            rows = [_unpack(chip, folder, aside) for chip in chips]
            publish(aside, {index: json.dumps(rows).encode()})  # last: it vouches for the arrays
    return [_map(row, folder) for row in json.loads(index.read_text("utf-8"))]


def _unpack(chip: Chip, folder: Path, aside: Path) -> dict[str, Any]:
    for layer in LAYERS:
        array = getattr(chip, layer)
        if array is not None:
            np.save(aside / "array.npy", array)
            (aside / "array.npy").replace(folder / f"{chip.name}_{layer}.npy")
    return {
        "name": chip.name,
        "level": chip.level,
        "resolution": chip.resolution,
        "kind": chip.kind,
        "layers": [layer for layer in LAYERS if getattr(chip, layer) is not None],
    }


def _map(row: dict[str, Any], folder: Path) -> Chip:
    layers = {
        layer: np.load(folder / f"{row['name']}_{layer}.npy", mmap_mode="r")
        for layer in row.pop("layers")
    }
    return Chip(**row, **layers)
