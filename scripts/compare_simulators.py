"""Our simulated clouds beside those of a published generator, over the same clear ground.

    pip install --no-deps satellite-cloud-generator kornia kornia-rs    # or --generator DIR ...
    python scripts/compare_simulators.py --data ../shared/data --out comparison

Prints the table of docs/training.md. Three questions: how well does a network that was trained
on real imagery (ukis-csmask) find each generator's clouds and shadows; do thin clouds have
colours that real ones have; what do pictures look like (written to --out, where it is given;
`--sample` makes them of the embedded scene alone, whose pixels may be published).
satellite-cloud-generator: Czerkawski et al. 2023, Remote Sensing 15(17):4138 (MIT).
"""

from __future__ import annotations

import argparse
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kappamask.base.legend import LEGEND, Label
from kappamask.evaluate.scenes import GERMANY_CLEAR, cut, find_surfaces, read_germany
from kappamask.train.chips import SLOT, Chip, read_chips
from kappamask.train.simulate import CloudField, label_field, simulate
from kappamask.train.teacher import teach

SEED = 7
CONFIGS = ("WIDE_CONFIG", "BIG_CONFIG", "LOCAL_CONFIG", "THIN_CONFIG")  # of the other generator
CLOUDS = (Label.SEMI_TRANSPARENT, Label.CLOUD)
FAINT, BRIGHT = 0.20, 0.36  # blue reflectance of real cloud that is thin, and that is thick


@dataclass(frozen=True)
class Scene:
    """One clear chip under a simulated cloud."""

    surface: Chip
    reflectance: np.ndarray  # (13, y, x), NaN where a band is absent
    label: np.ndarray  # (y, x) codes of `Label`


def with_ours(surface: Chip, seed: int) -> Scene:
    """Simulate as training does."""
    rng = np.random.default_rng([SEED, seed])
    torch.manual_seed(seed)
    ground = torch.from_numpy(surface.reflectance())
    seen, label = simulate(ground, rng, level=surface.level, resolution=surface.resolution)
    return Scene(surface, seen.numpy(), label.numpy())


def with_theirs(surface: Chip, seed: int) -> Scene:
    """Simulate as the other generator does; labels by our thresholds on its own opacity."""
    import satellite_cloud_generator as generator

    torch.manual_seed(seed)
    random.seed(seed)
    config = dict(getattr(generator, CONFIGS[seed % len(CONFIGS)]))
    ground = torch.from_numpy(surface.reflectance())
    there = ground.isfinite().flatten(1).any(1)
    seen, cloud, shadow = generator.add_cloud_and_shadow(
        ground[there][None].nan_to_num(0.0), **config, return_cloud=True
    )
    reflectance = ground.clone()
    reflectance[there] = seen[0]
    field = CloudField(cloud[0].mean(0), shadow[0].mean(0), 0.0, (1.0, 1.0), 0.0)
    return Scene(surface, reflectance.numpy(), label_field(field).numpy())


GENERATORS = {"ours": with_ours, "satellite-cloud-generator": with_theirs}


def dice_of(scenes: Sequence[Scene]) -> dict[str, float]:
    """Pool the pixels of all scenes: dice of what the network says against the exact labels."""
    hits = {name: np.zeros(3) for name in ("clear", "shadow", "cloud")}
    found = {code: np.zeros(2) for code in CLOUDS}
    drawn_of = dict.fromkeys((Label.CLEAR, Label.CLOUD_SHADOW, *CLOUDS), 0.0)
    for scene in scenes:
        dn = np.nan_to_num(scene.reflectance).clip(0, 6) * 1e4
        dn = np.where(np.isfinite(scene.reflectance), dn.clip(1), 0).astype(np.uint16)
        chip = scene.surface
        said = teach(dn, level=chip.level, resolution=chip.resolution).argmax(0)
        known = scene.label != Label.UNDEFINED
        for code in drawn_of:
            drawn_of[code] += float((scene.label == code).sum())
        classes = {
            "clear": scene.label == Label.CLEAR,
            "shadow": scene.label == Label.CLOUD_SHADOW,
            "cloud": np.isin(scene.label, CLOUDS),
        }
        for number, (name, drawn) in enumerate(classes.items()):
            yes = (said == number) & known
            hits[name] += [(yes & drawn).sum(), yes.sum(), drawn.sum()]
        for code in CLOUDS:
            drawn = scene.label == code
            found[code] += [((said == 2) & drawn).sum(), drawn.sum()]
    all_drawn = sum(drawn_of.values())
    scores = {f"share of {LEGEND[code].name}": n / all_drawn for code, n in drawn_of.items()}
    scores |= {f"dice {name}": 2 * both / (a + b) for name, (both, a, b) in hits.items()}
    return scores | {
        f"found of {LEGEND[code].name}": both / max(drawn, 1)
        for code, (both, drawn) in found.items()
    }


def colours_of(pixels: Iterator[tuple[str, np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Medians over thin and thick cloud: blue / SWIR at L2A, B10 at L1C.

    Takes (level, reflectance (13, n), whether a pixel is thin (n,)) per scene.
    """
    ratios: dict[str, list[np.ndarray]] = {}
    for level, values, thin in pixels:
        with np.errstate(invalid="ignore", divide="ignore"):
            for word, chosen in (("thin", thin), ("thick", ~thin)):
                part = values[:, chosen]
                if level == "L2A":
                    ratio = part[SLOT["B02"]] / part[SLOT["B11"]]
                    ratios.setdefault(f"B02 / B11, {word}, L2A", []).append(ratio)
                else:
                    ratios.setdefault(f"B10, {word}, L1C", []).append(part[SLOT["B10"]])
    result = {}
    for name, parts in sorted(ratios.items()):
        values = np.concatenate(parts)
        values = values[np.isfinite(values)]
        if values.size:
            low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
            result[f"{name}: median"] = middle
            result[f"{name}: 10 %"], result[f"{name}: 90 %"] = low, high
    return result


def simulated_pixels(scenes: Sequence[Scene]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield cloudy pixels of simulated scenes."""
    for scene in scenes:
        cloudy = np.isin(scene.label, CLOUDS)
        thin = scene.label[cloudy] == Label.SEMI_TRANSPARENT
        yield scene.surface.level, scene.reflectance[:, cloudy], thin


def real_pixels(folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield real cloudy pixels, by algorithmic labels, that are clearly faint or bright."""
    for chip in [*read_chips(folder, "train"), *read_chips(folder, "val")]:
        if chip.resolution > 20 or len(chip.bands) < 6:
            continue
        reflectance = chip.reflectance()
        blue = reflectance[SLOT["B02"]]
        extra = 0.05 if chip.level == "L1C" else 0.0  # the air's own light
        faint, bright = blue < FAINT + extra, blue > BRIGHT + extra
        chosen = np.isin(chip.label, CLOUDS) & (faint | bright)
        yield chip.level, reflectance[:, chosen], faint[chosen]


def blocks_broken(scenes: Sequence[Scene]) -> float:
    """How much of B11's variation lies inside its own 20 m pixels, which a real one cannot have."""
    inside, all_ = 0.0, 0.0
    for scene in scenes:
        band = scene.reflectance[SLOT["B11"]]
        if scene.surface.resolution == 10 and np.isfinite(band).all():
            blocks = band.reshape(band.shape[0] // 2, 2, band.shape[1] // 2, 2)
            inside += float(((blocks - blocks.mean((1, 3), keepdims=True)) ** 2).mean())
            all_ += float(band.var())
    return inside / max(all_, 1e-12)


def draw(scenes: Sequence[tuple[Chip, Scene, Scene]], path: Path) -> None:
    """Write rows of: clear ground, ours, its labels, theirs, its labels."""
    rows = []
    for surface, ours, theirs in scenes:
        ground = surface.reflectance()
        top = float(np.nanquantile(ground[SLOT["B04"]], 0.98)) * 2.2
        panels = [true_colour(ground, top)]
        for scene in (ours, theirs):
            panels += [true_colour(scene.reflectance, top), colour(scene.label)]
        gap = np.full((panels[0].shape[0], 4, 3), 255, np.uint8)
        rows.append(np.hstack([part for panel in panels for part in (panel, gap)][:-1]))
        rows.append(np.full((4, rows[0].shape[1], 3), 255, np.uint8))
    Image.fromarray(np.vstack(rows[:-1])).save(path, quality=75)


def true_colour(reflectance: np.ndarray, top: float) -> np.ndarray:
    """(y, x, 3) uint8."""
    rgb = reflectance[[SLOT["B04"], SLOT["B03"], SLOT["B02"]]]
    return (np.nan_to_num(rgb / top).clip(0, 1) ** 0.7 * 255).astype(np.uint8).transpose(1, 2, 0)


def colour(label: np.ndarray) -> np.ndarray:
    """(y, x, 3) uint8: green clear, violet shadow, light blue thin, white cloud, grey doubt."""
    table = np.full((6, 3), 110, np.uint8)
    for code, value in (
        (Label.CLEAR, (70, 130, 70)),
        (Label.CLOUD_SHADOW, (60, 20, 110)),
        (Label.SEMI_TRANSPARENT, (130, 200, 240)),
        (Label.CLOUD, (255, 255, 255)),
    ):
        table[code] = value
    return table[label]


def sample_surfaces() -> list[Chip]:
    """Give clear pieces of the embedded L1C scene."""
    germany = read_germany()
    return [cut(germany, row, column) for row, column in GERMANY_CLEAR]


def main() -> None:
    """Print the table; write pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder as docs/training.md describes it")
    parser.add_argument("--out", type=Path, help="where pictures go")
    parser.add_argument("--sample", action="store_true", help="pictures of the embedded scene")
    parser.add_argument(
        "--generator", type=Path, nargs="*", default=[], help="folders put on Python's path"
    )
    options = parser.parse_args()
    sys.path += [str(folder) for folder in options.generator]
    warnings.simplefilter("ignore")
    if options.data:
        found = find_surfaces(options.data)
        surfaces = [surface for surface, scenes in found for _ in range(scenes)]
    else:
        surfaces = sample_surfaces()
    made: dict[str, list[Scene]] = {}
    for name, generate in GENERATORS.items():
        made[name] = [generate(surface, seed) for seed, surface in enumerate(surfaces)]
    if options.data:
        print_table(made, options.data)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        shown = sample_surfaces() if options.sample else surfaces[:: max(1, len(surfaces) // 8)]
        pairs = [(s, with_ours(s, n), with_theirs(s, n)) for n, s in enumerate(shown)]
        draw(pairs, options.out / "simulators.jpg")


def print_table(made: dict[str, list[Scene]], folder: Path) -> None:
    """Print what is measured, a column per generator and one for real cloud."""
    columns: dict[str, dict[str, float]] = {}
    for name, scenes in made.items():
        columns[name] = dice_of(scenes) | colours_of(simulated_pixels(scenes))
        columns[name]["B11: share of variance inside 20 m pixels"] = blocks_broken(scenes)
    columns["real cloud"] = colours_of(real_pixels(folder))
    rows = list(dict.fromkeys(row for column in columns.values() for row in column))
    print(f"{len(next(iter(made.values())))} scenes per generator\n")
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for row in rows:
        cells = (f"{column[row]:.3f}" if row in column else "-" for column in columns.values())
        print(f"| {row} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
