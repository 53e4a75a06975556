"""Masks that are computed here: our networks, ukis-csmask, s2cloudless.

The other programs are imported when they are first used, and named where they are not there.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kappamask.base.bands import LEVELS, NEAR_INFRARED
from kappamask.base.errors import InputError, WeightsError
from kappamask.base.files import read_toml
from kappamask.base.legend import Label
from kappamask.evaluate.peers import EVERY_CLASS, NO_THIN, Answer, check_needs
from kappamask.networks.manifest import ModelEntry, find_entry, get_entry, read_registry
from kappamask.networks.model import Model, load_model, open_model
from kappamask.networks.normalisation import Normalisation
from kappamask.predict.array import most_probable, predict_array
from kappamask.train.chips import SLOT, Chip

UKIS_BANDS = {"B02": "blue", "B03": "green", "B04": "red"}  # and an infrared, as `NEAR_INFRARED`
UKIS_SWIR = {"B11": "swir16", "B12": "swir22"}
UKIS_LABELS = np.array([Label.CLEAR, Label.CLOUD, Label.CLOUD_SHADOW], np.uint8)  # its 0, 1, 2
S2CLOUDLESS_BANDS = (
    "B01", "B02", "B04", "B05", "B08", "B8A", "B09", "B10", "B11", "B12",
)  # fmt: skip


@dataclass(frozen=True)
class NetworkPeer:
    """One of our networks, with all bands of a chip or with some of them."""

    name: str  # in tables
    model: str = "default"
    only: tuple[str, ...] = ()  # bands that it is given; empty: all that a chip has
    loaded: Mapping[str, Model] = field(default_factory=dict, compare=False)  # by level
    says: frozenset[Label] = EVERY_CLASS

    @property
    def title(self) -> str:
        """The manifest's words."""
        if self.loaded:
            return next(iter(self.loaded.values())).entry.title
        _, models = read_registry()
        known = models.get(self.model)
        return known.title if known else "the shipped network of each level"

    def label(self, chip: Chip) -> Answer:
        """Run the network; its labels are the most probable classes, as everywhere."""
        needed: tuple[str, ...] = ("B02", "B03", "B04", *self.only)
        levels: tuple[str, ...] = LEVELS
        if not self.loaded and self.model != "default":
            entry = get_entry(self.model)
            needed, levels = needed + entry.bands, entry.levels
        check_needs(chip, levels=levels, bands=needed)
        try:
            model = self.model_of(chip.level)
        except WeightsError as error:  # it names a folder of this machine, which no report should
            raise WeightsError(
                f"its weights are damaged or not there: `kappamask models fetch {self.model}`"
            ) from error
        bands = [name for name in self.only or chip.bands if name in chip.bands]
        reflectance = chip.reflectance()[[SLOT[name] for name in bands]]
        shares = predict_array(
            reflectance, bands, level=chip.level, model=model, output="probabilities"
        )
        return Answer(most_probable(shares), shares)

    def model_of(self, level: str) -> Model:
        """Load the network of a level, or give the one that was loaded."""
        return self.loaded.get(level) or load_model(self.model, level)


def network_from_file(path: Path) -> NetworkPeer:
    """Open weights that no manifest names: `best.safetensors` of a training run.

    `best.toml` beside them (`kappamask.train.fit.export`) says widths, mean and spread.
    The hash is taken from the file itself: it was written here, by the one who scores it.

    Raises
    ------
    WeightsError
        If either file is absent or is not what the other says.
    """
    table_path = path.with_suffix(".toml")
    try:
        table = read_toml(table_path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        widths = tuple(int(width) for width in table["widths"])
        normalisation = Normalisation(tuple(table["mean"]), tuple(table["std"]))
    except (OSError, KeyError, ValueError) as error:
        raise WeightsError(
            "a training run's weights lie beside a TOML file of the same name with widths, mean "
            f"and std, got {type(error).__name__} ({error}) for {path.name}: give --weights the "
            "best.safetensors that `python -m kappamask.train.fit` wrote"
        ) from error
    name = f"{path.parent.name}/{path.stem}"
    entry = ModelEntry(
        name=name,
        title=f"weights of a training run, sha256 {sha256[:12]}",
        file=str(path.resolve()),
        sha256=sha256,
        levels=LEVELS,
        widths=widths,
        normalisation=normalisation,
        licence="",
        training_data="",
        metrics={},
    )
    model = open_model(entry, LEVELS[0])
    return NetworkPeer(name, name, loaded={level: replace(model, level=level) for level in LEVELS})


def name_of(model: str) -> str:
    """Name that tables give a model: the shipped network for ``"default"``.

    Raises
    ------
    UnknownNameError
        If the manifest has no such model.

    Examples
    --------
    >>> name_of("default") == read_registry()[0]["L2A"]
    True
    """
    if model != "default":
        return get_entry(model).name
    names = dict.fromkeys(find_entry(model, level).name for level in LEVELS)
    return " / ".join(names)


@dataclass(frozen=True)
class InstalledPeer:
    """A mask of another package, called as that package wants it."""

    program: Any = field(default=None, compare=False)  # in place of what the package has
    name: ClassVar[str]
    says: ClassVar[frozenset[Label]]
    levels: ClassVar[tuple[str, ...]]
    bands: ClassVar[tuple[str, ...]]

    @cached_property
    def _program(self) -> Any:
        """What is called."""
        try:
            return self.program or self.find()
        except ImportError as error:
            raise InputError("not installed: pip install 'kappamask[evaluate]'") from error

    def find(self) -> Any:
        """Import the package."""
        raise NotImplementedError

    def run(self, program: Any, chip: Chip) -> np.ndarray:
        """Label a chip with it: (y, x) codes."""
        raise NotImplementedError

    def label(self, chip: Chip) -> Answer:
        """Run it on the whole chip."""
        program = self._program
        check_needs(chip, levels=self.levels, bands=self.bands)
        return Answer(self.run(program, chip))

    @property
    def title(self) -> str:
        """With the version that is installed."""
        installed = ""
        with suppress(PackageNotFoundError):
            installed = f" {version(self.name)}"
        return f"{self.name}{installed}, at the chip's resolution"


def pixels_of(chip: Chip, bands: Iterable[str]) -> np.ndarray:
    """Reflectance of some bands as other programs want it: (y, x, band) float32, 0 = no data."""
    reflectance = np.nan_to_num(chip.reflectance()[[SLOT[name] for name in bands]])
    return np.ascontiguousarray(np.moveaxis(reflectance, 0, -1), dtype=np.float32)


@dataclass(frozen=True)
class UkisPeer(InstalledPeer):
    """ukis-csmask 1.0 (DLR, Apache-2.0): ONNX networks of 4 or 6 bands, for L1C and L2A.

    It was made for about 30 m and is run at the chip's own resolution. It mirrors chips
    below its window of 256 px itself, and warns of them: a chip has no more pixels to give.
    """

    name = "ukis-csmask"
    says = NO_THIN
    levels = LEVELS
    bands = tuple(UKIS_BANDS)

    def find(self) -> Any:
        """Import its mask."""
        from ukis_csmask.mask import CSmask

        return CSmask

    def run(self, program: Any, chip: Chip) -> np.ndarray:
        """Label with six bands where they are there, else with four: (y, x) codes."""
        six = all(name in chip.bands for name in UKIS_SWIR)
        infrared = next((name for name in NEAR_INFRARED if name in chip.bands), None)
        if infrared is None:  # chips of Landsat have B8A alone
            raise InputError("needs B08 or B8A")
        names = UKIS_BANDS | {infrared: "nir"} | (UKIS_SWIR if six else {})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Your input image is smaller")
            made = program(
                pixels_of(chip, names), list(names.values()), product_level=chip.level.lower()
            )
        labels: np.ndarray = UKIS_LABELS[made.csm[..., 0]]  # (y, x, 1) -> (y, x)
        return labels


@dataclass(frozen=True)
class S2cloudlessPeer(InstalledPeer):
    """s2cloudless 1.7 (Sinergise, CC BY-SA): boosted trees over ten L1C bands, cloud or not.

    With the settings of its class: threshold 0.4, averaged and widened by one pixel.
    """

    name = "s2cloudless"
    says = frozenset({Label.CLEAR, Label.CLOUD})
    levels = ("L1C",)
    bands = S2CLOUDLESS_BANDS

    def find(self) -> Any:
        """Make its detector."""
        from s2cloudless import S2PixelCloudDetector

        return S2PixelCloudDetector()

    def run(self, program: Any, chip: Chip) -> np.ndarray:
        """Label cloud or clear: (y, x) codes."""
        cloudy = program.get_cloud_masks(pixels_of(chip, self.bands)[None])[0]  # (y, x)
        return np.where(cloudy > 0, np.uint8(Label.CLOUD), np.uint8(Label.CLEAR))
