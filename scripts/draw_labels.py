"""Draw what training is told about each chip of a configuration: look before you train.

    python scripts/draw_labels.py scripts/earth.toml --split train --out runs/labels
    python scripts/draw_labels.py scripts/earth.toml --split val --out runs/labels --weights W

Sheets of PNG, three chips in a row; of each: true colour, SWIR (or infrared), what is told, and
with `--weights` what that network says. Green clear, violet shadow, light blue semi-transparent,
white cloud, orange cloud of any thickness, blue cirrus that B10 alone shows, grey unknown.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import kappamask as km
from kappamask.base.bands import NAMES
from kappamask.train.chips import SLOT, Chip, ask_teacher
from kappamask.train.datasets import read_split
from kappamask.train.settings import read_config
from kappamask.train.targets import target_of

COLORS = np.array(
    [[128, 128, 128], [60, 160, 60], [140, 60, 200], [130, 200, 255], [255, 255, 255],
     [255, 160, 40], [0, 80, 255]], np.uint8,
)  # fmt: skip
TILE, ACROSS, DOWN = 200, 3, 8  # pixels of a picture; chips along and down a sheet


def main() -> None:
    """Read the chips, draw them and print what stands where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--split", default="train", choices=("train", "val"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", help="of a run; draws its answers too")
    options = parser.parse_args()
    config = read_config(options.config)
    chips = [chip for source in config.data for chip in read_split(source, options.split)]
    if config.teacher is not None:
        chips = ask_teacher(chips, config.teacher)
    options.out.mkdir(parents=True, exist_ok=True)
    for number, some in enumerate(cut(chips, ACROSS * DOWN)):
        rows = [
            np.hstack([picture for chip in row for picture in draw(chip, options.weights)])
            for row in cut(some, ACROSS)
        ]
        widest = max(row.shape[1] for row in rows)
        rows = [np.pad(row, ((0, 4), (0, widest - row.shape[1]), (0, 0))) for row in rows]
        Image.fromarray(np.vstack(rows)).save(options.out / f"{options.split}{number}.png")
        for chip in some:
            print(number, chip.name, chip.kind, chip.level, target_of(chip).mean((1, 2)).round(2))


def draw(chip: Chip, weights: str | None) -> Iterator[np.ndarray]:
    """Yield the pictures of one chip, TILE x TILE each."""
    infrared = "B8A" if "B8A" in chip.bands else "B08"
    for red, green, blue in (("B04", "B03", "B02"), ("B11", infrared, "B04")):
        bands = [red if red in chip.bands else infrared, green, blue]
        colors = chip.dn[[SLOT[name] for name in bands]].transpose(1, 2, 0) / 4000
        yield shrink((colors.clip(0, 1) * 255).astype(np.uint8))
    target = target_of(chip)
    yield shrink(COLORS[np.where(target.max(0) > 0.5, target.argmax(0) + 1, 0)])
    if weights is not None:
        reflectance = chip.reflectance()[[NAMES.index(name) for name in chip.bands]]
        codes = km.predict_array(reflectance, list(chip.bands), level=chip.level, model=weights)
        yield shrink(COLORS[np.where(codes > 4, 0, codes)])


def cut(chips: list[Chip], length: int) -> list[list[Chip]]:
    """Cut a list into pieces of at most `length`."""
    return [chips[start : start + length] for start in range(0, len(chips), length)]


def shrink(pixels: np.ndarray) -> np.ndarray:
    """Bring a picture to TILE x TILE with whole pixels."""
    return np.asarray(Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.NEAREST))


if __name__ == "__main__":
    main()
