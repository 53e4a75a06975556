"""The models' manifest: what each network is, needs and was measured to do. Imports `base`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from kappamask.base.bands import check_level
from kappamask.base.errors import InputError, UnknownNameError
from kappamask.base.windows import LATTICE, Lattice
from kappamask.networks.normalisation import Normalisation, PublishedNormalisation

# What each kind of network is fed: its fields stand in the tables of the manifest.
ARCHITECTURES: Mapping[str, type[Normalisation | PublishedNormalisation]] = MappingProxyType(
    {"unet": Normalisation, "published": PublishedNormalisation}
)


@dataclass(frozen=True)
class ModelEntry:
    """One entry of `registry.toml`: what a network is, needs and was measured to do."""

    name: str
    title: str
    file: str  # in `kappamask/networks/weights/`, a path of its own, or its name under `url`
    sha256: str
    levels: tuple[str, ...]
    widths: tuple[int, ...]  # channels at each depth
    normalisation: Normalisation | PublishedNormalisation
    licence: str
    training_data: str
    metrics: dict[str, Any]  # measured figures, with what they were measured on
    architecture: str = "unet"  # or "published": Keras' weights of 2021
    url: str = ""  # where `file` is fetched from; a shipped one has none
    precisions: tuple[str, ...] = ("fp32", "bf16")  # in which it was shown to agree with itself
    lattice: Lattice = LATTICE

    @property
    def shipped(self) -> bool:
        """Whether the weights come with the package."""
        return not self.url

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that must all be there, in the network's order; none: any that include RGB and NIR.

        Examples
        --------
        >>> find_entry("default", "L2A").bands
        ()
        >>> find_entry("kappamask-2021-l2a", "L2A").bands[0]
        'AOT'
        """
        fed = self.normalisation
        return fed.features if isinstance(fed, PublishedNormalisation) else ()

    @classmethod
    def from_table(cls, name: str, table: dict[str, Any]) -> ModelEntry:
        """Read one table of the manifest."""
        read: dict[str, Any] = {
            key: tuple(of) if isinstance(of, list) else of for key, of in table.items()
        }
        architecture = read.get("architecture", "unet")
        if architecture not in ARCHITECTURES:
            raise UnknownNameError.of("architecture", architecture, list(ARCHITECTURES))
        kind = ARCHITECTURES[architecture]
        fed = {field.name: read.pop(field.name) for field in fields(kind) if field.name in read}
        if "lattice" in read:
            read["lattice"] = Lattice(**read["lattice"])
        return cls(name=name, normalisation=kind(**fed), **read)


@cache
def read_registry() -> tuple[Mapping[str, str], Mapping[str, ModelEntry]]:
    """Read the manifest: the default model of each level, and every model by name.

    Examples
    --------
    >>> default, models = read_registry()
    >>> default["L2A"] in models
    True
    """
    text = resources.files("kappamask.networks").joinpath("registry.toml").read_text("utf-8")
    tables = tomllib.loads(text)
    models = {}
    for name, table in tables["models"].items():
        inherited = tables["models"].get(table.pop("same_as", None), {})
        models[name] = ModelEntry.from_table(name, inherited | table)
    return MappingProxyType(tables["default"]), MappingProxyType(models)


def get_entry(name: str) -> ModelEntry:
    """Look a model up by its name in the manifest.

    Raises
    ------
    UnknownNameError
        If the manifest has no such model.
    """
    _, models = read_registry()
    if name not in models:
        raise UnknownNameError.of("model", name, ["default", *models])
    return models[name]


def find_entry(name: str, level: str) -> ModelEntry:
    """Look a model up for a level; ``"default"`` is the shipped one of the level.

    Raises
    ------
    UnknownNameError
        If the manifest has no such model.
    InputError
        If the model was not made for this level.

    Examples
    --------
    >>> "L1C" in find_entry("default", "L1C").levels
    True
    """
    default, _ = read_registry()
    level = check_level(level)
    return check_entry(get_entry(default[level] if name == "default" else name), level)


def check_entry(entry: ModelEntry, level: str) -> ModelEntry:
    """Return the entry if it was made for this level.

    Raises
    ------
    InputError
        If it was not.
    """
    if check_level(level) not in entry.levels:
        raise InputError(
            f"model {entry.name!r} was made for {' and '.join(entry.levels)}, the input is "
            f"{level}: choose another model (see `kappamask models`)"
        )
    return entry


def bands_of_model(name: str) -> tuple[str, ...] | None:
    """Bands to load for a model, as `load_cube` takes them; None: all that an item holds.

    Raises
    ------
    UnknownNameError
        If the manifest has no such model.

    Examples
    --------
    >>> bands_of_model("default") is None, len(bands_of_model("kappamask-2021-l1c"))
    (True, 13)
    """
    return None if name == "default" else get_entry(name).bands or None
