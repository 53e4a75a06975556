"""Where training chips come from. Imports `chips`, `kappaset`, `cloudsen12`, `series`.

A data set is anything with a method `chips`; its class stands in `FORMATS` under the word that
a configuration calls it by. Its other fields are options of the ``[[data]]`` table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kappamask.base.errors import InputError, UnknownNameError
from kappamask.base.files import publish, staging
from kappamask.train.chips import (
    Chip,
    ask_teacher,
    read_bolzano,
    read_chips,
    read_safe_blocks,
    read_strip,
)
from kappamask.train.cloudsen12 import CloudSen12
from kappamask.train.kappaset import KappaSet
from kappamask.train.series import judge
from kappamask.train.settings import Config, Source


class Dataset(Protocol):
    """Labelled chips by split."""

    def chips(self, split: str, *, limit: int | None = None) -> Iterator[Chip]:
        """Yield the chips of ``"train"``, ``"val"`` or ``"test"``, always in the same order.

        At most `limit` of them, spread evenly over the split.
        """
        ...


@dataclass(frozen=True)
class ChipFolder:
    """A folder with a `chips.csv`, as `docs/training.md` lays it out.

    Without a `table` of its own, two further sources are read for training where the folder
    holds them: `bolzano/` and `safe/labels_T29UNU/` of the project's own data.
    """

    folder: Path
    series: bool = False  # let the dates of a place judge one another, `kappamask.train.series`
    table: str | None = None  # path of a table instead of the folder's `chips.csv`

    def __post_init__(self) -> None:
        """Refuse a word where true or false is meant, and no word where a path is."""
        if not isinstance(self.table, str | None):
            raise InputError(
                f"table is the path of a CSV file, got {self.table!r} in [[data]] of "
                f"{self.folder}: correct it"
            )
        if not isinstance(self.series, bool):
            raise InputError(
                f"series is true or false, got {self.series!r} in [[data]] of {self.folder}: "
                "write series = true"
            )

    def chips(self, split: str, *, limit: int | None = None) -> Iterator[Chip]:
        """Yield the chips of one split."""
        table = Path(self.table) if self.table else None
        chips = [*read_chips(self.folder, split, limit=limit, table=table)]
        if split == "train" and table is None:
            chips += read_bolzano(self.folder / "bolzano")
            chips += read_safe_blocks(self.folder / "safe")
            chips += read_strip(self.folder / "safe")
        yield from judge(chips) if self.series else chips


FORMATS: dict[str, Callable[..., Dataset]] = {
    "chips": ChipFolder,
    "cloudsen12": CloudSen12,
    "kappaset": KappaSet,
}


@dataclass(frozen=True)
class Groups:
    """Chips to draw from; those of one group share level, resolution, band set and size."""

    chips: dict[str, list[Chip]]
    weights: dict[str, float]  # of each group, beside its size


def open_dataset(source: Source) -> Dataset:
    """Make the data set that a ``[[data]]`` table describes.

    Raises
    ------
    UnknownNameError
        If no format or option has that name.
    InputError
        If the folder is none.
    """
    if source.format not in FORMATS:
        raise UnknownNameError.of("format of [[data]]", source.format, sorted(FORMATS))
    make: Any = FORMATS[source.format]
    known = [option.name for option in fields(make) if option.name != "folder"]
    for name in source.options:
        if name not in known:
            raise UnknownNameError.of(f"key of [[data]] {source.format}", name, known or ["none"])
    if not source.folder.is_dir():
        raise InputError(
            f"a data set lies in a folder, got {source.folder}, seen from {Path.cwd()}: correct "
            "folder in [[data]], or run the command elsewhere"
        )
    dataset: Dataset = make(source.folder, **source.options)
    return dataset


def read_split(source: Source, split: str) -> list[Chip]:
    """Read the chips of one split, into memory or into the cache that `source` names."""
    chips = open_dataset(source).chips(split, limit=source.limit)
    if source.cache is None:
        return list(chips)
    return keep(chips, source.cache, name=f"{split}-{source.limit or 'all'}")


def read_training(config: Config) -> Groups:
    """Read the `train` split of every data set, in groups, taught where a teacher is wanted.

    Raises
    ------
    InputError
        If there is no chip.
    """
    groups = Groups({}, {})
    for number, source in enumerate(config.data):
        for chip in ask_teacher(read_split(source, "train"), config.teacher):
            key = f"{number}-{chip.level}-{chip.kind}-{chip.resolution:.0f}m-{len(chip.bands)}"
            key += f"-{chip.label.shape[0]}x{chip.label.shape[1]}"
            groups.chips.setdefault(key, []).append(chip)
            groups.weights[key] = source.weight
    _refuse_nothing(groups.chips, "train", config)
    return groups


def read_validation(config: Config) -> list[Chip]:
    """Read the `val` split of every data set.

    Raises
    ------
    InputError
        If there is no chip.
    """
    chips = [chip for source in config.data for chip in read_split(source, "val")]
    _refuse_nothing(chips, "val", config)
    return ask_teacher(chips, config.teacher)


def _refuse_nothing(found: Any, split: str, config: Config) -> None:
    if not found:
        where = ", ".join(str(source.folder) for source in config.data) or "no [[data]]"
        raise InputError(
            f"training needs labelled chips of the splits train and val, got none of {split} in "
            f"{where}: see docs/training.md for how each format names its splits"
        )


# --- chips unpacked to plain arrays on disk, for data sets larger than memory ----------------

LAYERS = ("dn", "label", "scl", "verdict")


def keep(chips: Iterable[Chip], folder: Path, *, name: str) -> list[Chip]:
    """Give chips whose pixels stay on disk; the first time, unpack them there.

    The arrays are mapped, not read: what a crop does not touch is never loaded, and the
    operating system keeps what it has room for. KappaSet takes 65 GB so.

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
    kept = []
    for row in json.loads(index.read_text("utf-8")):
        paths = {layer: folder / f"{row['name']}_{layer}.npy" for layer in row.pop("layers")}
        layers = {layer: np.load(path, mmap_mode="r") for layer, path in paths.items()}
        kept.append(Chip(**row, **layers))
    return kept


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
