"""Labelled chips as training crops. Row 6; reads GeoTIFF through rasterio."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from kappamask.bands import NAMES, NEAR_INFRARED, REQUIRED
from kappamask.legend import Label
from kappamask.train.simulate import dress_ground, simulate, to_top_of_atmosphere

SLOT = {name: slot for slot, name in enumerate(NAMES)}
BLUE, GREEN, NIR = SLOT["B02"], SLOT["B03"], SLOT["B08"]
# What users have: the four 10 m bands, with SWIR, without 60 m bands, everything.
COMMON_BAND_SETS = (
    ("B02", "B03", "B04", "B08"),
    ("B02", "B03", "B04", "B08", "B11", "B12"),
    ("B02", "B03", "B04", "B8A", "B11", "B12"),
    ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"),
)


@dataclass(frozen=True)
class Chip:
    """One labelled piece of a scene."""

    name: str
    dn: np.ndarray  # (13, y, x) uint16: reflectance x 10000, 0 = no data or band absent
    label: np.ndarray  # (y, x) uint8, codes of `Label`
    level: str
    resolution: float  # metres
    kind: str  # who labelled: human, scl+net, net, clear

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands that hold any data."""
        return tuple(name for name, band in zip(NAMES, self.dn, strict=True) if band.any())

    def reflectance(self) -> np.ndarray:
        """(13, y, x) float32, NaN where there is no data."""
        return np.where(self.dn > 0, self.dn / np.float32(10000), np.float32(np.nan))


def read_chips(folder: Path, split: str) -> list[Chip]:
    """Read the chips of one split from a folder with a `chips.csv`."""
    with (folder / "chips.csv").open() as table:
        rows = [row for row in csv.DictReader(table) if row["split"] == split]
    return [read_chip(folder / row["file"], row) for row in rows if row["label_kind"] != "none"]


def read_chip(path: Path, row: dict[str, str]) -> Chip:
    """Read one chip and its label, doubtful labels taken out."""
    label_path = path.with_name(f"{path.stem}_label.tif")
    with rasterio.open(path) as image, rasterio.open(label_path) as labels:
        dn = np.zeros((len(NAMES), image.height, image.width), np.uint16)
        for index, name in enumerate(image.descriptions, start=1):
            if name in SLOT:
                dn[SLOT[name]] = image.read(index)
        label = labels.read(1)
    kind = row["label_kind"]
    chip = Chip(path.stem, dn, label, row["level"], float(row["resolution_m"]), kind)
    return distrust(chip) if kind in ("net", "scl+net") else chip


def distrust(chip: Chip) -> Chip:
    """Take back what the labellers are known to get wrong, seen in pictures.

    Sen2Cor's thin cloud is the rim of thick cloud more often than not, so it becomes
    undefined. A network alone calls haze and clear gaps between clouds shadow, so its
    shadows become undefined too; and it calls cirrus cloud, so faint clouds become
    semi-transparent.
    """
    label = chip.label.copy()
    if chip.kind == "scl+net":
        label[label == Label.SEMI_TRANSPARENT] = Label.UNDEFINED
        return replace(chip, label=label)
    label[label == Label.CLOUD_SHADOW] = Label.UNDEFINED
    faint = (label == Label.CLOUD) & (chip.dn[BLUE] < (2200 if chip.level == "L1C" else 1800))
    label[faint] = Label.SEMI_TRANSPARENT
    return replace(chip, label=label)


def read_bolzano(folder: Path) -> list[Chip]:
    """Read the labelled dates of the Bolzano scene (four 10 m bands, stored with +1000)."""
    chips = []
    for label_path in sorted(folder.glob("*/label.tif")):
        with rasterio.open(label_path) as source:
            label = source.read(1)
        dn = np.zeros((len(NAMES), *label.shape), np.uint16)
        for name in ("B02", "B03", "B04", "B08"):
            with rasterio.open(label_path.with_name(f"{name}.tif")) as source:
                stored = source.read(1).astype(np.int32)
            # Reflectance <= 0 was stored as DN 1000: dark, not missing.
            dn[SLOT[name]] = np.where(stored > 0, np.maximum(stored - 1000, 1), 0)
        chips.append(distrust(Chip(label_path.parent.name, dn, label, "L2A", 10.0, "scl+net")))
    return chips


def read_safe_blocks(folder: Path) -> list[Chip]:
    """Read the labelled 610 x 610 blocks of the 60 m product T29UNU (offset -1000)."""
    paths = {
        name: path
        for name in NAMES
        for path in folder.glob(f"*T29UNU*/GRANULE/*/IMG_DATA/R60m/*_{name}_60m.jp2")
    }
    dn = np.zeros((len(NAMES), 1830, 1830), np.uint16)
    for name, path in paths.items():
        with rasterio.open(path) as source:
            stored = source.read(1).astype(np.int32)
        dn[SLOT[name]] = np.where(stored > 0, np.maximum(stored - 1000, 1), 0)
    chips = []
    for label_path in sorted(folder.glob("labels_T29UNU/*_label.tif")):
        row, column = (int(digit) * 610 for digit in label_path.stem.split("_")[1])
        block = np.s_[row : row + 610, column : column + 610]
        with rasterio.open(label_path) as source:
            label = source.read(1)
        chips.append(
            distrust(Chip(label_path.stem, dn[:, *block].copy(), label, "L2A", 60.0, "scl+net"))
        )
    return chips


def read_training(folder: Path) -> dict[str, list[Chip]]:
    """Group every training chip by where it comes from: chips of a group share a band set."""
    groups: dict[str, list[Chip]] = {
        "bolzano": read_bolzano(folder / "bolzano"),
        "t29unu": read_safe_blocks(folder / "safe"),
    }
    for chip in read_chips(folder, "train"):
        key = (
            f"{chip.level}-{chip.kind}-{chip.resolution:.0f}m-{len(chip.bands)}-{chip.dn.shape[1]}"
        )
        groups.setdefault(key, []).append(chip)
    return {key: chips for key, chips in groups.items() if chips}


class Crops(IterableDataset):  # type: ignore[type-arg]
    """An endless stream of augmented crops: reflectance (13, y, x), flags (14,), labels (y, x).

    Small chips are laid side by side into one crop. Clear crops receive a
    simulated cloud most of the time, so that shadow and thin cloud are not rare.
    """

    def __init__(self, groups: dict[str, list[Chip]], *, size: int, seed: int) -> None:
        self.groups = groups
        self.size = size
        self.seed = seed
        # Large groups more often, but not in proportion; a single network's labels half as often.
        share = np.array(
            [
                sum(chip.label.size for chip in chips) ** 0.4
                * (0.5 if chips[0].kind == "net" else 1)
                for chips in groups.values()
            ]
        )
        self.share = share / share.sum()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield crops for ever; each worker has a stream of its own."""
        info = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, info.id if info else 0])
        torch.manual_seed(int(rng.integers(2**31)))
        keys = list(self.groups)
        while True:
            yield self.draw(self.groups[keys[rng.choice(len(keys), p=self.share)]], rng)

    def draw(self, chips: list[Chip], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw one crop of a group and augment it."""
        level, resolution = chips[0].level, chips[0].resolution
        x, label = self.crop(chips, rng)
        while (
            torch.isin(label, torch.tensor([Label.UNDEFINED, Label.MISSING])).float().mean() > 0.9
        ):
            x, label = self.crop(chips, rng)
        clear = (label == Label.CLEAR).float().mean()
        decided = (label != Label.UNDEFINED).float().mean()
        if clear > 0.95 * decided and clear > 0.5 and rng.random() < 0.7:
            x = x * float(rng.uniform(0.55, 1.25))  # low sun, dark and bright soils are clear too
            x = dress_ground(x, rng, level=level)
            if level == "L2A" and rng.random() < 0.35:
                level, x = "L1C", to_top_of_atmosphere(x, rng)
            x, simulated = simulate(x, rng, level=level, resolution=resolution)
            label = torch.where(label == Label.CLEAR, simulated, label)
        x = x * float(rng.uniform(0.92, 1.08)) * (1 + 0.03 * torch.randn(13, 1, 1))
        x = drop_bands(x, rng)
        if rng.random() < 0.2:
            x, label = cut_swath_edge(x, label, rng)
        flags = torch.cat([x.isfinite().flatten(1).any(1), torch.tensor([level == "L1C"])])
        return x, flags.float(), label.long()

    def crop(self, chips: list[Chip], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Cut a square, mirrored and turned at random, from one chip or a quilt of small ones."""
        y, x = chips[0].label.shape
        repeat = -(-self.size // min(y, x))
        if repeat > 1 and rng.random() < 0.5:  # half of the quilts are of clear chips only
            chips = [chip for chip in chips if (chip.label == Label.CLEAR).mean() > 0.97] or chips
        drawn = [chips[rng.integers(len(chips))] for _ in range(repeat**2)]
        rows = [drawn[i : i + repeat] for i in range(0, repeat**2, repeat)]
        top, left = (rng.integers(n * repeat - self.size + 1) for n in (y, x))
        window = np.s_[top : top + self.size, left : left + self.size]
        turns, mirror = int(rng.integers(4)), rng.random() < 0.5
        label = turn(
            np.block([[chip.label for chip in row] for row in rows])[window], turns, mirror
        )
        dn = np.block([[chip.dn for chip in row] for row in rows])[:, *window]
        dn = turn(dn, turns, mirror)
        refl = np.where(dn > 0, dn * np.float32(1e-4), np.float32(np.nan))
        return torch.from_numpy(refl), torch.from_numpy(label)


def turn(array: np.ndarray, turns: int, mirror: bool) -> np.ndarray:
    """Rotate the last two axes by quarter turns and mirror them."""
    array = np.rot90(array, turns, axes=(-2, -1))
    return np.ascontiguousarray(array[..., ::-1] if mirror else array)


def drop_bands(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Take bands away (NaN) as users' band sets do, never one that a mask cannot do without."""
    chance = rng.random()
    if chance < 0.4:
        return x
    present = [name for name in NAMES if x[SLOT[name]].isfinite().any()]
    if chance < 0.7:
        keep = set(COMMON_BAND_SETS[rng.integers(len(COMMON_BAND_SETS))])
    else:
        keep = {name for name in present if rng.random() < rng.uniform(0.3, 1)}
    infrared = [name for name in NEAR_INFRARED if name in present]
    keep |= {*REQUIRED, infrared[rng.integers(len(infrared))]}
    x = x.clone()
    x[[slot for slot, name in enumerate(NAMES) if name not in keep]] = torch.nan
    return x


def cut_swath_edge(x: Tensor, label: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Blank one side of a slanted line, as the edge of a swath does."""
    size = label.shape[-1]
    ramp = torch.linspace(-1, 1, size)
    angle = rng.uniform(0, 2 * np.pi)
    outside = np.cos(angle) * ramp[:, None] + np.sin(angle) * ramp[None] > rng.uniform(0.1, 0.9)
    return x.masked_fill(outside, torch.nan), label.masked_fill(outside, int(Label.UNDEFINED))
