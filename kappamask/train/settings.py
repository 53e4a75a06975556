"""All that a training run depends on, read from a TOML file. Imports `base` only."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from kappamask.base.errors import InputError, UnknownNameError
from kappamask.base.files import read_toml

HELP = "see docs/training.md"
# Tables of one key, a folder: what it is named in the file, and what is in the folder.
FOLDERS = {
    "teacher": ("answers", "the folder that keeps its answers"),
    "simulation": ("outlines", "the folder of masks whose outlines it takes"),
}


@dataclass(frozen=True)
class Settings:
    """The numbers of a run: the table ``[settings]``.

    Examples
    --------
    >>> Settings(steps=100).batch
    6
    >>> Settings(size=100)
    Traceback (most recent call last):
    kappamask.base.errors.InputError: size is a multiple of 32, what the network...
    """

    widths: tuple[int, ...] = (32, 64, 128, 160, 192)  # channels of the network at each depth
    steps: int = 10000
    batch: int = 6  # crops per step
    size: int = 256  # pixels per side of a crop
    learning_rate: float = 2e-3  # the highest, reached when the warm-up ends
    warm_up: int = 300  # steps in which the rate rises, at most 30 % of all
    cool_down: int = 3000  # last steps, in which it falls to 0, at most half of all
    weight_decay: float = 0.01
    ema: float = 0.998  # share of the averaged weights that survives a step
    validate_every: int = 500  # steps; the run can be taken up again from there
    seed: int = 1
    workers: int = 1  # processes that prepare crops; another number gives other crops

    def __post_init__(self) -> None:
        """Check types and what cannot be."""
        for setting in fields(self):
            value, default = getattr(self, setting.name), setting.default
            wanted = (int, float) if isinstance(default, float) else type(default)
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise InputError(
                    f"{setting.name} is a number like {default!r}, got {value!r}: correct it"
                )
        for name in ("steps", "batch", "size", "validate_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is at least 1, got {getattr(self, name)}: correct it")
        if not self.widths or self.size % 32:
            raise InputError(
                "size is a multiple of 32, what the network halves five times, and widths has "
                f"a number per depth, got size {self.size} and widths {self.widths}: correct it"
            )
        least = min(self.warm_up, self.cool_down, self.workers)
        if not 0 <= self.ema < 1 or self.learning_rate <= 0 or least < 0:
            raise InputError(
                "ema lies between 0 and 1, learning_rate is above 0, warm_up, cool_down and "
                f"workers are not below 0, got {self.ema}, {self.learning_rate}, {self.warm_up}, "
                f"{self.cool_down} and {self.workers}: correct it"
            )


@dataclass(frozen=True)
class Source:
    """One data set of a run: a table of ``[[data]]``."""

    format: str  # how it is laid out: see `kappamask.train.datasets.FORMATS`
    folder: Path  # as on a command line: seen from where the command is run
    weight: float = 1.0  # its groups are drawn so many times as often as their size says
    limit: int | None = None  # at most so many chips of each split, spread evenly over it
    cache: Path | None = None  # chips are unpacked here once and not held in memory
    options: dict[str, Any] = field(default_factory=dict)  # the format's own

    def __post_init__(self) -> None:
        """Check what cannot be."""
        if self.weight <= 0 or (self.limit is not None and self.limit < 1):
            raise InputError(
                "a data set's weight is above 0 and its limit at least 1, got "
                f"{self.weight} and {self.limit} for {self.folder}: correct it"
            )


@dataclass(frozen=True)
class Config:
    """A whole configuration file."""

    data: tuple[Source, ...]
    settings: Settings = Settings()
    teacher: Path | None = None  # folder of the teacher's answers; None: labels as they are
    outlines: Path | None = None  # folder of masks whose clouds are simulated; None: noise alone


def read_config(path: Path) -> Config:
    r"""Read a configuration file.

    Raises
    ------
    InputError
        If the file cannot be read, has no ``[[data]]``, or a value makes no sense.
    UnknownNameError
        If a table or a setting is unknown.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "own.toml"
    ...     _ = path.write_text('[[data]]\nformat = "chips"\nfolder = "chips"')
    ...     read_config(path).data[0].weight
    1.0
    """
    try:
        tables = read_toml(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no readable TOML file ({error}): correct it") from error
    _check_names("table", tables, ["data", "settings", *FOLDERS])
    data = tables.get("data")
    if not isinstance(data, list) or not all(isinstance(table, dict) for table in data):
        raise InputError(
            f"a configuration says where its chips are, got {path} without [[data]]: {HELP}"
        )
    chosen = dict(tables.get("settings", {}))
    _check_names("setting", chosen, [known.name for known in fields(Settings)])
    if isinstance(chosen.get("widths"), list):
        chosen["widths"] = tuple(chosen["widths"])
    folders = {}
    for name, (key, meaning) in FOLDERS.items():
        table = tables.get(name)
        if table is not None:
            _check_names(f"key of [{name}]", table, [key])
            if key not in table:
                raise InputError(f"[{name}] names {meaning}, got none in {path}: {HELP}")
            folders[name] = Path(table[key])
    return Config(
        data=tuple(_read_source(table, path) for table in data),
        settings=Settings(**chosen),
        teacher=folders.get("teacher"),
        outlines=folders.get("simulation"),
    )


def _read_source(table: dict[str, Any], path: Path) -> Source:
    """Read one table of ``[[data]]``; keys that are no field go to the format."""
    if not isinstance(table.get("format"), str) or not isinstance(table.get("folder"), str):
        raise InputError(f"each [[data]] has a format and a folder, got {table} in {path}: {HELP}")
    own = {known.name for known in fields(Source)} - {"options"}
    chosen = {key: value for key, value in table.items() if key in own}
    chosen["folder"] = Path(table["folder"])
    if "cache" in table:
        chosen["cache"] = Path(table["cache"])
    return Source(**chosen, options={key: table[key] for key in table if key not in own})


def _check_names(kind: str, got: dict[str, Any], known: list[str]) -> None:
    for name in got:
        if name not in known:
            raise UnknownNameError.of(kind, name, sorted(known))
