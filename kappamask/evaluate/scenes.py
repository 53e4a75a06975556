"""The chips that are scored: people's, val, simulated, bright negatives, showpieces.

What is not there (a folder without Bolzano, say) gives an empty set, which the report names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from kappamask.base.bands import NAMES
from kappamask.base.errors import InputError
from kappamask.base.legend import PREDICTED, Label
from kappamask.evaluate.scoring import CLOUD, CLOUD_WIDENED, FOUR, SHADOW, THREE, Dataset
from kappamask.sample import catalog_path
from kappamask.train.chips import (
    COMMON_BAND_SETS,
    SLOT,
    Chip,
    read_bands,
    read_bolzano_date,
    read_chips,
    read_layers,
)
from kappamask.train.series import judge
from kappamask.train.simulate import simulate

SPLITS = ("val", "test")
SIZE = 256  # pixels per side of a simulated scene
BAND_SETS = tuple(bands for bands in COMMON_BAND_SETS if "B08" in bands)
SIX_BANDS, TEN_BANDS = BAND_SETS[1:]
# Dates of Bolzano on which nothing but ground is seen; other dates were trained on.
CLEAR_DATES = ("20220612", "20220620", "20220627", "20220630")
SHOWPIECE = "S2_L2A_20220602"
GERMANY = "S2A_T33UUU_20170216T102101_L1C"
# Row and column of clear windows, chosen by eye. T33UUU: the scene of the sample, no part of which
# was trained on; wright: the one clear chip of `val`.
GERMANY_CLEAR = ((0, 0), (0, 256), (256, 0), (400, 1040), (300, 820), (60, 1270))
WRIGHT, WRIGHT_CLEAR = "wright_clear", ((0, 0), (154, 154))
SMALL_CLEAR = 6  # small clear chips of `val` that are mirrored to a whole scene
# People's labels by the prefix of their names: what was drawn, and what is scored for it.
DRAWN = (
    ("l8b", "clear, shadow, thin and thick cloud, snow among it (L8 Biome)", (FOUR, CLOUD)),
    ("layton", "shadow drawn, cloud not (Alberta)", (SHADOW,)),
    ("ocnx", "cloud drawn generously, shadow not (On-Cloud-N)", (CLOUD_WIDENED, CLOUD)),
    ("c38", "cloud drawn, shadow not (38-Cloud)", (CLOUD,)),
)
ALGORITHMIC = frozenset({"scl", "ukis-csmask"})  # what the labels of `val` were made from


def people_sets(folder: Path) -> list[Dataset]:
    """Chips that people labelled, never trained on."""
    chips = read_chips(folder, "test")
    people = "drawn by people"
    clouds = tuple(chip for chip in chips if not (chip.label == Label.CLOUD_SHADOW).any())
    shadows = tuple(chip for chip in chips if (chip.label == Label.CLOUD_SHADOW).any())
    return [
        Dataset(
            "test_clouds", "Test: cloud drawn, shadow not (On-Cloud-N)", people, clouds,
            (CLOUD_WIDENED, CLOUD), each=True,
        ),
        Dataset(
            "test_shadows", "Test: clear, shadow and cloud drawn (ukis_ref)", people, shadows,
            (THREE,), each=True,
        ),
    ]  # fmt: skip


def drawn_sets(people: Sequence[Chip], split: str) -> list[Dataset]:
    """Make the sets of `DRAWN` from one split of `people/`."""
    sets = []
    for prefix, what, scorings in DRAWN:
        drawn = tuple(chip for chip in people if chip.name.startswith(f"{prefix}_"))
        title = f"{split.capitalize()}: {what}"
        sets.append(
            Dataset(
                f"{split}_{prefix}", title, "drawn by people", drawn, scorings,
                each=True, calibrated=FOUR in scorings,
            )
        )  # fmt: skip
    return sets


def val_set(folder: Path) -> Dataset:
    """Make the set of the `val` split: to choose by, not to quote."""
    return Dataset(
        "val",
        "Val: other places, labels of programs",
        "made by Sen2Cor and ukis-csmask where they agree, or by ukis-csmask alone: easy pixels",
        tuple(read_chips(folder, "val")),
        (FOUR, THREE),
        ALGORITHMIC,
        calibrated=True,
    )


def series_set(folder: Path) -> Dataset:
    """Make the set of `val` places with many dates, each date labelled by the others.

    Verdicts that are no label, but doubt, are not scored.
    """
    chips = []
    for chip in judge(read_chips(folder, "val")):
        if chip.verdict is not None:
            sure = np.isin(chip.verdict, PREDICTED)
            label = np.where(sure, chip.verdict, np.uint8(Label.UNDEFINED))
            chips.append(replace(chip, label=label))
    return Dataset(
        "val_series",
        "Val: dates labelled by the other dates of their place",
        "by albedo and darkness against the same ground on clear dates (kappamask.train.series)",
        tuple(chips),
        (FOUR, CLOUD),
        calibrated=True,
    )


def bright_set(folder: Path) -> Dataset:
    """Clear ground, much of it bright: whatever is called cloud or shadow here is false."""
    chips = [chip for chip in read_chips(folder, "val") if chip.kind == "clear"]
    chips += [chip for date in CLEAR_DATES if (chip := read_date(folder, f"S2_L2A_{date}"))]
    return Dataset(
        "bright", "Clear ground: false cloud and shadow",
        "clear by construction or by eye; Bolzano was trained on, on other dates",
        tuple(chips), (FOUR, THREE), each=True, told=("cloud", "cloud_shadow"),
    )  # fmt: skip


def read_date(folder: Path, name: str) -> Chip | None:
    """Read one date of Bolzano as clear ground."""
    date = folder / "bolzano" / name
    if not (date / "B02.tif").is_file():
        return None
    dn, scl = read_bolzano_date(date), date / "SCL.tif"
    chip = Chip(name, dn, np.full(dn.shape[1:], Label.CLEAR, np.uint8), "L2A", 10.0, "clear")
    if not scl.is_file():
        return chip
    return replace(chip, scl=read_layers(scl, f"the raster {scl}", indexes=1)[0])


# --- whole scenes ----------------------------------------------------------------------------


def read_germany() -> Chip:
    """Read the embedded L1C scene with 13 bands at 10 m, 768 x 1536 pixels.

    Examples
    --------
    >>> read_germany().dn.shape
    (13, 768, 1536)
    """
    folder = catalog_path().parent / "sentinel-2-l1c" / GERMANY
    dn = read_bands({name: folder / f"{name}.tif" for name in NAMES}, shape=(768, 1536))
    label = np.full(dn.shape[1:], Label.CLEAR, np.uint8)
    return Chip("T33UUU 2017-02-16", dn, label, "L1C", 10.0, "none")


def show_scenes(folder: Path) -> list[Chip]:
    """Scenes for pictures: the embedded L1C scene, and Bolzano on 2022-06-02 where it is there."""
    bolzano = read_date(folder, SHOWPIECE)
    return [read_germany(), *([bolzano] if bolzano else [])]


# --- simulated scenes ------------------------------------------------------------------------


def simulated_set(folder: Path, *, limit: int | None = None) -> Dataset:
    """Clear ground that was not trained on, with simulated clouds: labels are exact.

    Parameters
    ----------
    folder
        Data, for its `val` chips; the embedded scene is always there.
    limit
        At most so many scenes.
    """
    chips: list[Chip] = []
    for surface, scenes in find_surfaces(folder):
        for number in range(scenes):
            if limit is None or len(chips) < limit:
                chips.append(cloud_over(surface, seed=len(chips), number=number))
    return Dataset(
        "simulated",
        "Simulated clouds on clear ground not trained on",
        "exact, by simulation; undefined between two classes. Our networks learned from the same "
        "simulation on other ground, which favours them",
        tuple(chips),
        (FOUR, THREE, CLOUD),
        calibrated=True,
    )


def find_surfaces(folder: Path) -> list[tuple[Chip, int]]:
    """Clear ground for simulation, and how many scenes are made of each piece (13, SIZE, SIZE).

    13 bands at L1C, ten at L1C and L2A.
    """
    germany = read_germany()
    surfaces = [(cut(germany, row, column), 3) for row, column in GERMANY_CLEAR]
    val = read_chips(folder, "val") if (folder / "chips.csv").is_file() else []
    surfaces += [
        (cut(chip, row, column), 1)
        for chip in val
        if chip.name == WRIGHT
        for row, column in WRIGHT_CLEAR
    ]
    small = [
        chip
        for chip in val
        if chip.level == "L2A"
        and set(TEN_BANDS) <= set(chip.bands)
        and (chip.dn[SLOT["B02"]] > 0).all()
        and (chip.label == Label.CLEAR).mean() > 0.97
    ]
    step = max(1, len(small) // SMALL_CLEAR)  # seasons apart: names of chips end with their date
    return surfaces + [(mirror(chip), 1) for chip in small[::step][:SMALL_CLEAR]]


def cut(chip: Chip, row: int, column: int) -> Chip:
    """Cut a square of SIZE pixels, and call it clear.

    Raises
    ------
    InputError
        If it does not lie inside the chip.
    """
    window = np.s_[row : row + SIZE, column : column + SIZE]
    dn = chip.dn[:, *window]
    if dn.shape[1:] != (SIZE, SIZE):
        raise InputError(
            f"a simulated scene needs {SIZE} x {SIZE} pixels, got {dn.shape[1:]} of {chip.name} "
            f"at row {row} and column {column}: choose another window"
        )
    label = np.full((SIZE, SIZE), Label.CLEAR, np.uint8)
    name = f"{chip.name} {row},{column}"
    return Chip(name, dn, label, chip.level, chip.resolution, "clear")


def mirror(chip: Chip) -> Chip:
    """Mirror a small chip to SIZE pixels: no seam is made where it ends.

    Examples
    --------
    >>> dn = np.broadcast_to(np.arange(4, dtype=np.uint16).reshape(2, 2), (13, 2, 2))
    >>> mirror(Chip("a", dn, dn[0].astype(np.uint8), "L2A", 10.0, "clear")).dn[1, 0, :6].tolist()
    [0, 1, 1, 0, 0, 1]
    """
    height, width = chip.label.shape
    beyond = [(0, max(0, SIZE - size)) for size in (height, width)]
    dn = np.pad(chip.dn, [(0, 0), *beyond], mode="symmetric")[:, :SIZE, :SIZE]
    label = np.full((SIZE, SIZE), Label.CLEAR, np.uint8)
    return Chip(chip.name, dn, label, chip.level, chip.resolution, "clear")


def cloud_over(surface: Chip, *, seed: int, number: int = 0) -> Chip:
    """Put simulated clouds on clear ground, the same ones for the same seed.

    Returns
    -------
    Chip
        Exact labels; missing where the ground has no data.
    """
    rng = np.random.default_rng([2026, seed])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ground = torch.from_numpy(surface.reflectance())
        scene, label = simulate(ground, rng, level=surface.level, resolution=surface.resolution)
    reflectance = scene.numpy()  # (13, SIZE, SIZE), NaN in absent bands
    held = np.isfinite(reflectance)
    dn = np.where(held, np.clip(np.round(np.nan_to_num(reflectance) * 10000), 1, 65535), 0)
    codes = np.where(held[SLOT["B02"]], label.numpy(), np.uint8(Label.MISSING))
    return replace(
        surface,
        name=f"{surface.name} #{number + 1}",
        dn=dn.astype(np.uint16),
        label=codes.astype(np.uint8),
        kind="simulated",
    )


# --- bands -----------------------------------------------------------------------------------


def ablation_sets(sets: Sequence[Dataset]) -> Iterator[Dataset]:
    """Chips that hold ten bands or more, or six of sets of shares, to take bands away from them."""
    for dataset in sets:
        if dataset.told and dataset.name != "bright":
            chips = tuple(chip for chip in dataset.chips if set(SIX_BANDS) <= set(chip.bands))
            title = f"{dataset.title}, by bands given"
            if chips:
                yield replace(
                    dataset, name=f"{dataset.name}_bands", title=title, chips=chips,
                    labels=f"{dataset.labels}; under ten bands without the chips that have six",
                    scorings=(THREE,), each=False,
                )  # fmt: skip
        if dataset.name not in ("simulated", "val"):
            continue
        rich = [chip for chip in dataset.chips if set(TEN_BANDS) <= set(chip.bands)]
        full = tuple(chip for chip in rich if len(chip.bands) == len(NAMES))
        ten = tuple(chip for chip in rich if len(chip.bands) < len(NAMES))
        for chips, bands in ((full, 13), (ten, 10)):
            name, title = f"{dataset.name}_{bands}_bands", f"{dataset.title}, {bands} bands"
            if len(chips) > 1:
                yield replace(
                    dataset, name=name, title=title, chips=chips, scorings=(FOUR,),
                    calibrated=False,
                )  # fmt: skip
