"""Real scenes whose truth needs nobody's drawing: ground without cloud, cirrus that B10 sees.

Sets are made of `pairs/`, `series/` and `scenes/` beside the labelled chips, where they are
there. Networks of `scripts/earth.toml` are trained on most of them (`scripts/whole_earth.csv` says
which): of those they show what is still wrong, not how they do elsewhere.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kappamask.base.legend import Label, Snow
from kappamask.evaluate.scoring import FOUR, THREE, Dataset
from kappamask.predict.snow import find_snow, snow_bands
from kappamask.train.chips import SLOT, Chip, read_chip

# Reflectance in B10: clear scenes stay below, and cirrus above that leaves no doubt (decision
# 0014; Sen2Cor's cirrus begins at .012). Between them nobody knows.
NO_CIRRUS, CIRRUS = 80, 200  # DN
MOST_UNKNOWN = 0.95  # of a chip; one with more is no ground
# What was seen on the pictures: ground, and nothing else.
GROUND = (
    ("sea", "scenes/hydro_iceland.tif"),
    ("sea", "scenes/hydro_northsea.tif"),
    ("turbid sea", "scenes/cr_1158_spring_101_p755.tif"),
    ("turbid sea, foam, ships", "pairs/cr_1868_summer_135_p211/clear.tif"),
    ("turbid sea, foam, ships", "pairs/cr_1868_summer_135_p502/clear.tif"),
    ("sea, glint, ships", "pairs/cr_1970_fall_148_p521/clear.tif"),
    ("desert, salt, shallow water", "scenes/sharkbay_T49JGM_2017-10-22.tif"),
    ("haze over fields, L1C", "series/punjab_ssl4eo/L1C_2020-06-04.tif"),
    ("haze over fields, L2A", "series/punjab_ssl4eo/L2A_2020-06-04.tif"),
    ("quarries, town", "scenes/lazio_p81_2018-07-05.tif"),
    ("greenhouses, works", "scenes/lazio_p293_2018-06-25.tif"),
    ("mountains in shade", "scenes/lazio_p259_2018-02-10.tif"),
    ("wet tropics, rivers", "scenes/majortom_T48QUE_2020-02-23.tif"),
    ("snow, slopes in shade", "series/oetztal_snow/2018-01-12.tif"),
    ("snow, slopes in shade", "series/oetztal_snow/2018-01-27.tif"),
)
# Clear members of pairs that are not: a white cloudlet or plume at the left edge.
NOT_CLEAR = ("cr_1868_summer_101_p505",)
TRAINED = "by eye and by B10; networks of scripts/earth.toml are trained on most of these scenes"


def ground_set(folder: Path) -> Dataset:
    """Make the set of scenes without cloud: what is called cloud or shadow there is false."""
    chips = [
        replace(chip, name=f"{kind}: {Path(path).parent.name}/{Path(path).stem}")
        for kind, path in GROUND
        for chip in read_clear(folder, path)
    ]
    title = "Sea, salt, sand, snow, roofs, shade without cloud: false cloud and shadow"
    return told_set("ground", title, TRAINED, chips, ("cloud", "cloud_shadow"))


def pairs_set(folder: Path) -> Dataset:
    """Make the set of the pairs' clear members."""
    chips = [
        replace(chip, name=place.name)
        for place in sorted((folder / "pairs").glob("*/"))
        if place.name not in NOT_CLEAR
        for chip in read_clear(folder, f"pairs/{place.name}/clear.tif")
    ]
    title = "Clear members of pairs: false cloud and shadow"
    return told_set("clear_pairs", title, TRAINED, chips, ("cloud", "cloud_shadow"))


def snow_set(people: Sequence[Chip], split: str) -> Dataset:
    """Make the set of people's chips of one split whose clear ground is snow or ice."""
    chips = []
    for chip in people:
        bands = snow_bands(chip.bands)
        if bands is not None:
            seen = [chip.reflectance()[SLOT[name]] for name in bands]
            snow = find_snow(chip.label.astype(np.uint8), *seen) == Snow.SNOW
            if snow.mean() > 1 - MOST_UNKNOWN:
                chips.append(replace(chip, label=np.where(snow, chip.label, 0).astype(np.uint8)))
    title = f"{split.capitalize()}: snow and ice that people call clear"
    return told_set(f"{split}_snow", title, "drawn by people", chips, ("cloud", "cloud_shadow"))


def cirrus_set(folder: Path) -> Dataset:
    """Make the set of pixels in which B10 sees cirrus: what is called clear there is missed."""
    chips = []
    for path in ("pairs/*/*.tif", "series/*/*.tif", "scenes/*.tif"):
        for file in sorted(folder.glob(path)):
            chip = read_scene(file)
            b10 = chip.dn[SLOT["B10"]]
            if chip.level == "L1C" and (b10 > CIRRUS).any():
                label = np.where(b10 > CIRRUS, Label.SEMI_TRANSPARENT, Label.UNDEFINED)
                name = f"{file.parent.name}/{file.stem}"
                chips.append(replace(chip, name=name, label=label.astype(np.uint8)))
    title = "B10 above .02 at L1C: cirrus called clear"
    return told_set("cirrus", title, TRAINED, chips, ("clear",))


def told_set(
    name: str, title: str, labels: str, chips: list[Chip], told: tuple[str, ...]
) -> Dataset:
    """Make a set of which the shares of some classes are told, chip by chip."""
    scorings = (FOUR, THREE)
    return Dataset(
        name, title, labels, tuple(chips), scorings, each=True, told=told, pictured=False
    )


def read_clear(folder: Path, path: str) -> Iterator[Chip]:
    """Yield one scene as clear ground, unknown where B10 sees more than that; none if absent."""
    file = folder / path
    if not file.is_file():
        return
    chip = read_scene(file)
    cirrus = chip.dn[SLOT["B10"]] > NO_CIRRUS
    label = np.where(cirrus, np.uint8(Label.UNDEFINED), chip.label)
    if (label == Label.CLEAR).mean() > 1 - MOST_UNKNOWN:
        yield replace(chip, label=label)


def read_scene(file: Path) -> Chip:
    """Read a scene without labels as clear; its level and resolution stand in its table."""
    folder = file.parents[2] if file.parents[1].name in ("pairs", "series") else file.parents[1]
    with (folder / "unlabelled.csv").open(newline="", encoding="utf-8") as lines:
        found = {row["path"]: row for row in csv.DictReader(lines)}
    row = found[file.relative_to(folder).as_posix()]
    step = row["resolution_m"].split()[0]  # "10 x 7.4 (a grid of degrees)"
    kind = {"label_kind": "seen clear", "level": row["level"], "resolution_m": step}
    return read_chip(file, kind)
