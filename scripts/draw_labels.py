"""Draw what training is told about each chip of a configuration: look before you train.

    python scripts/draw_labels.py scripts/earth.toml --split train --out runs/labels
    python scripts/draw_labels.py scripts/earth.toml --split val --out runs/labels --weights W
    python scripts/draw_labels.py scripts/earth.toml --landscapes ../shared/data \
        --out docs/pictures/landscapes --weights runs/earth/best.safetensors

Sheets of PNG, three chips in a row; of each: true colour, SWIR (or infrared), what is told, and
with `--weights` what that network says. Green clear, violet shadow, light blue semi-transparent,
white cloud, orange cloud of any thickness, blue cirrus that B10 alone shows, grey unknown.

With `--landscapes` the sheets of docs/landscapes.md instead, a JPEG for each theme: pairs, scenes,
snow, a series and the embedded scene, labelled with all bands and with fewer. `--weights` is a file
of a training run or a name that `kappamask models` lists, by default what is shipped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from kappamask.base.bands import NAMES
from kappamask.base.legend import LEGEND, SNOW_LEGEND, Label, Snow
from kappamask.evaluate.grounds import read_scene
from kappamask.evaluate.pictures import colors_of
from kappamask.evaluate.programs import NetworkPeer, name_of, network_from_file
from kappamask.evaluate.scenes import BAND_SETS, read_germany
from kappamask.predict.snow import find_snow, snow_bands
from kappamask.train.chips import SLOT, Chip, ask_teacher
from kappamask.train.datasets import read_split
from kappamask.train.settings import read_config
from kappamask.train.targets import target_of

# Of the legend as far as it goes; cloud of unknown thickness, cirrus that B10 shows; snow.
COLORS = np.array(
    [
        *(entry.rgb for entry in LEGEND if entry.label != Label.MISSING),
        *((255, 160, 40), (0, 80, 255)),
        *(entry.rgb for entry in SNOW_LEGEND if entry.label == Snow.SNOW),
    ],
    np.uint8,
)
SNOW = 7  # place of its colour
TILE, ACROSS, DOWN = 200, 3, 8  # pixels of a picture; chips along and down a sheet
SMALL, LARGE = 128, 768  # pixels of a picture of landscapes; of the embedded scene its width
QUALITY, BACK = 78, 60
FOUR, SIX = BAND_SETS[:2]
FEWER = {"all": (), "6": SIX, "4": FOUR}  # bands that a network is given


def main() -> None:
    """Read the chips, draw them and print what stands where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--split", default="train", choices=("train", "val"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", help="of a run, or a name; draws its answers too")
    parser.add_argument("--landscapes", type=Path, metavar="DATA", help="sheets for the docs")
    options = parser.parse_args()
    config = read_config(options.config)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.landscapes is not None:
        tables = [source for source in config.data if "table" in source.options]  # the rest: fields
        splits = (read_split(source, split) for source in tables for split in ("train", "val"))
        told = {chip.name: chip for chips in splits for chip in chips}
        draw_landscapes(options.landscapes, told, network_of(options.weights), options.out)
        return
    chips = [chip for source in config.data for chip in read_split(source, options.split)]
    if config.teacher is not None:
        chips = ask_teacher(chips, config.teacher)
    network = network_of(options.weights) if options.weights else None
    for number, some in enumerate(cut(chips, ACROSS * DOWN)):
        rows = [[picture for chip in row for picture in draw(chip, network)] for row in
                cut(some, ACROSS)]  # fmt: skip
        Image.fromarray(lay_out(rows)).save(options.out / f"{options.split}{number}.png")
        for chip in some:
            print(number, chip.name, chip.kind, chip.level, target_of(chip).mean((1, 2)).round(2))


def network_of(weights: str | None) -> NetworkPeer:
    """Open the file of a run, or a network by its name."""
    if weights is not None and Path(weights).is_file():
        return network_from_file(Path(weights))
    name = weights or "default"
    return NetworkPeer(name_of(name), name)


def draw(chip: Chip, network: NetworkPeer | None) -> Iterator[np.ndarray]:
    """Yield the pictures of one chip, TILE x TILE each."""
    for picture in (to_colors(chip), to_infrared(chip), to_told(chip)):
        yield shrink(picture)
    if network is not None:
        yield shrink(COLORS[to_codes(network, chip)])


def to_colors(chip: Chip) -> np.ndarray:
    """Draw a chip in true colour, (y, x, 3) uint8."""
    return colors_of(chip, 1)


def to_infrared(chip: Chip) -> np.ndarray:
    """Draw SWIR, infrared and red, or without SWIR infrared twice."""
    infrared = "B8A" if "B8A" in chip.bands else "B08"
    bands = ["B11" if "B11" in chip.bands else infrared, infrared, "B04"]
    colors = chip.dn[[SLOT[name] for name in bands]].transpose(1, 2, 0) / 4000
    return (colors.clip(0, 1) * 255).astype(np.uint8)


def to_told(chip: Chip) -> np.ndarray:
    """Draw what training is told."""
    target = target_of(chip)
    return COLORS[np.where(target.max(0) > 0.5, target.argmax(0) + 1, 0)]


def to_codes(network: NetworkPeer, chip: Chip, bands: Sequence[str] = ()) -> np.ndarray:
    """Label a chip, with some of its bands only; snow has a code of its own where B11 tells it."""
    given = [name for name in NAMES if name in (bands or chip.bands) and name in chip.bands]
    one = NetworkPeer(network.name, network.model, tuple(given), network.loaded)
    codes = one.label(chip).codes
    told_by = snow_bands(tuple(given))
    if told_by is not None:
        seen = chip.reflectance()[[SLOT[name] for name in told_by]]
        codes = np.where(find_snow(codes, *seen) == 100, SNOW, codes)
    return np.where(codes == 5, 0, codes)


# --- landscapes ---------------------------------------------------------------------------------


def draw_landscapes(
    data: Path, told: Mapping[str, Chip], network: NetworkPeer, folder: Path
) -> None:
    """Write the sheets of docs/landscapes.md, and print how large they are."""
    sheets = {
        "pairs": three_across(pair_rows(data, told, network)),
        "scenes": three_across(
            scene_row(read_scene(file), None, network, ("all", "4"))
            for file in sorted((data / "scenes").glob("*.tif"))
            if file.stem != "ca_66_pre"  # a median of dates: no picture that a satellite took
        ),
        "snow": [
            scene_row(read_scene(file), None, network, ("all", "4"))
            for file in sorted((data / "series" / "oetztal_snow").glob("*.tif"))
        ],
        "series": three_across(
            scene_row(
                read_scene(file),
                told.get(f"lazio_p0_{file.stem}"),
                network,
                tuple(FEWER),
                always_told=True,
            )
            for file in sorted((data / "series" / "lazio_p0").glob("*.tif"))
        ),
        "germany": germany_rows(network),
    }
    for name, rows in sheets.items():
        path = folder / f"{name}.jpg"
        Image.fromarray(lay_out(rows)).save(path, quality=QUALITY, optimize=True)
        print(path, f"{path.stat().st_size / 1e6:.2f} MB")


def pair_rows(
    data: Path, told: Mapping[str, Chip], network: NetworkPeer
) -> Iterator[list[np.ndarray]]:
    """Yield of each pair the clear one and its labels, the cloudy one, what is told, labels."""
    for place in sorted((data / "pairs").glob("*/")):
        clear, cloudy = (read_scene(place / f"{name}.tif") for name in ("clear", "cloudy"))
        names = (f"{place.name}_cloudy", f"{place.name}_alone")
        known = next((told[name] for name in names if name in told), None)
        yield [
            shrink(to_colors(clear), SMALL),
            shrink(COLORS[to_codes(network, clear)], SMALL),
            *scene_row(cloudy, known, network, ("all",), always_told=True),
        ]


def scene_row(
    chip: Chip, known: Chip | None, network: NetworkPeer, bands: Sequence[str], *,
    always_told: bool = False,
) -> list[np.ndarray]:  # fmt: skip
    """Draw true colour, what is told (if anything is), and labels by bands given."""
    pictures = [to_colors(chip)]
    if known is not None:
        pictures.append(to_told(known))
    elif always_told:
        pictures.append(np.broadcast_to(COLORS[0], pictures[0].shape))
    pictures += [COLORS[to_codes(network, chip, FEWER[name])] for name in bands]
    return [shrink(picture, SMALL) for picture in pictures]


def germany_rows(network: NetworkPeer) -> list[list[np.ndarray]]:
    """Draw the embedded scene T33UUU: true colour and 13 bands, 6 and 4."""
    chip = read_germany()
    pictures = [to_colors(chip), *(COLORS[to_codes(network, chip, one)] for one in FEWER.values())]
    halves = [
        np.asarray(Image.fromarray(picture).resize((LARGE, LARGE // 2), Image.Resampling.BOX))
        for picture in pictures
    ]
    return [halves[:2], halves[2:]]


def three_across(rows: Iterable[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Put three rows of pictures beside one another, with a gap between them."""
    kept = list(rows)
    gap = np.full((SMALL, 12, 3), BACK, np.uint8)
    return [[picture for row in some for picture in (*row, gap)][:-1] for some in cut(kept, ACROSS)]


# --- sheets -------------------------------------------------------------------------------------


def lay_out(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Lay rows of pictures of one height below one another, on a dark ground: cloud is white."""
    strips = [np.hstack([np.pad(one, ((0, 4), (0, 2), (0, 0)), constant_values=BACK)
                         for one in row]) for row in rows]  # fmt: skip
    widest = max(strip.shape[1] for strip in strips)
    return np.vstack(
        [
            np.pad(strip, ((0, 0), (0, widest - strip.shape[1]), (0, 0)), constant_values=BACK)
            for strip in strips
        ]
    )


def cut(chips: Sequence, length: int) -> list:
    """Cut a list into pieces of at most `length`."""
    return [chips[start : start + length] for start in range(0, len(chips), length)]


def shrink(pixels: np.ndarray, size: int = TILE) -> np.ndarray:
    """Bring a picture to `size` x `size` with whole pixels."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(picture.resize((size, size), Image.Resampling.NEAREST))


if __name__ == "__main__":
    main()
