"""Real L1C beside L1C that training makes: what the air does, clear ground, tops of clouds.

    python scripts/compare_air.py --data ../shared/data

Prints the table of docs/training.md. The air is measured where one date is there at both
levels: L1C = path + slope x L2A, pixel by pixel. Real clear ground and real clouds are those of
the pairs and of the series of 13 bands; made ones come from clear L2A scenes of the same bands.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from kappamask.base.bands import NAMES
from kappamask.base.legend import Label
from kappamask.train.air import CIRRUS, fill_bands, to_top_of_atmosphere
from kappamask.train.chips import SLOT, read_chip
from kappamask.train.simulate import CIRRUS_FREE_TO, simulate

DRAWS = 40
SIZE = 256
PUNJAB = "series/punjab_ssl4eo/{}_2020-06-04.tif"
GROUND = ("scenes/majortom_T48QUE_2020-02-23.tif", PUNJAB.format("L2A"))
BRIGHT = 0.45  # blue reflectance of a top of cloud, real or made
RANGE = (5, 50, 95)  # percentiles


def read(path: Path, level: str) -> torch.Tensor:
    """(13, y, x) reflectance of a chip without a label."""
    row = {"label_kind": "seen clear", "level": level, "resolution_m": "10"}
    return torch.from_numpy(read_chip(path, row).reflectance())


def fit(seen: torch.Tensor, below: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Path and slope per band, by least squares over all pixels; NaN without a band."""
    x, y = (scene.flatten(1).double() for scene in (below, seen))
    mean_x, mean_y = x.mean(1), y.mean(1)
    slope = ((x * y).mean(1) - mean_x * mean_y) / ((x * x).mean(1) - mean_x**2)
    return (mean_y - slope * mean_x).numpy(), slope.numpy()


def make(ground: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """L1C of a piece of clear ground, and the same under a cloud with its label."""
    rng = np.random.default_rng([2026, seed])
    torch.manual_seed(seed)
    top, left = (int(rng.integers(n - SIZE + 1)) for n in ground.shape[1:])
    piece = ground[:, top : top + SIZE, left : left + SIZE]
    clear = to_top_of_atmosphere(fill_bands(piece, rng), rng)
    return clear, *simulate(clear, rng, level="L1C", resolution=10)


def table(columns: dict[str, list[str]]) -> None:
    """Print one table, bands down."""
    print(f"| band | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for band, cells in zip(NAMES, zip(*columns.values(), strict=True), strict=True):
        print(f"| {band} | {' | '.join(cells)} |".replace("nan (nan-nan)", "").replace("nan", ""))


def spread(values: np.ndarray) -> list[str]:
    """Median and range per band of (n, 13)."""
    low, middle, high = np.percentile(values, RANGE, axis=0)  # NaN where a band is absent
    return [f"{m:.3f} ({a:.3f}-{b:.3f})" for a, m, b in zip(low, middle, high, strict=True)]


def medians(scene: torch.Tensor) -> np.ndarray:
    """Median of each band: (13,)."""
    return scene.flatten(1).nanmedian(1).values.numpy()


def tops(scene: torch.Tensor) -> np.ndarray:
    """Medians of cloud tops relative to blue; blue and B10 as they are: (1, 13), or none."""
    bright = scene[SLOT["B02"]] > BRIGHT
    if bright.float().mean() < 0.02:
        return np.empty((0, len(NAMES)))
    median = scene[:, bright].median(1).values
    shape = median / median[SLOT["B02"]]
    shape[[SLOT["B02"], CIRRUS]] = median[[SLOT["B02"], CIRRUS]]
    return shape[None].numpy()


def main() -> None:
    """Measure, make and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    below = read(data / PUNJAB.format("L2A"), "L2A")
    path, slope = fit(read(data / PUNJAB.format("L1C"), "L1C"), below)
    made = [fit(to_top_of_atmosphere(below, np.random.default_rng(n)), below) for n in range(DRAWS)]
    columns = {
        "path, real": [f"{value:.3f}" for value in path],
        "made": spread(np.stack([one for one, _ in made])),
        "slope, real": [f"{value:.2f}" for value in slope],
        "made ": spread(np.stack([one for _, one in made])),
    }
    grounds = [read(data / name, "L2A") for name in GROUND]
    scenes = [make(grounds[n % len(grounds)], n) for n in range(DRAWS)]
    files = sorted(data.glob("pairs/*/*.tif")) + sorted(data.glob("series/lazio_p0/*.tif"))
    real = [read(file, "L1C") for file in files]
    clear = [scene for scene, file in zip(real, files, strict=True) if file.stem == "clear"]
    clear = [scene for scene in clear if scene[CIRRUS].median() < CIRRUS_FREE_TO]
    clouds = [seen for _, seen, label in scenes if (label == Label.CLOUD).any()]
    columns |= {
        "clear ground, real": spread(np.stack([medians(scene) for scene in clear])),
        "made  ": spread(np.stack([medians(scene) for scene, *_ in scenes])),
        "tops, real": spread(np.concatenate([tops(scene) for scene in real])),
        "made   ": spread(np.concatenate([tops(scene) for scene in clouds])),
    }
    table(columns)


if __name__ == "__main__":
    main()
