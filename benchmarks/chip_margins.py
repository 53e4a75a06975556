"""How wide the mirrored edges of a chip must be: `python benchmarks/chip_margins.py DATA`.

Chips are cut out of the real scenes of DATA (`../shared/data`). The labels that each one gets
alone, with its edges mirrored so far, are held against those that it has in its surroundings:
mirrored pixels tell nothing, they only keep the network from drawing cloud along an edge.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio

from kappamask import load_model, predict_array
from kappamask.base.bands import NAMES
from kappamask.base.legend import PREDICTED, Label
from kappamask.base.windows import Span, Window

MIRRORED = (0, 16, 32, 64, 128)  # px on each side
RINGS = (4, 16)  # px along the edges that are counted by themselves
STEP = 160  # px between two chips


def read_scenes(data: Path) -> Iterator[tuple[str, list[str], str, np.ndarray]]:
    """Give kind, bands, level and reflectance (band, y, x) of every scene large enough."""
    for folder in sorted(path.parent for path in data.glob("bolzano/*/B02.tif")):
        bands = ["B02", "B03", "B04", "B08"]
        dn = np.stack([rasterio.open(folder / f"{band}.tif").read(1) for band in bands])
        yield "Bolzano", bands, "L2A", np.where(dn == 0, np.nan, (dn - 1000.0) / 1e4)
    for kind in ("scenes", "people", "pairs", "series", "chips"):
        for path in sorted(data.glob(f"{kind}/**/*.tif")):
            if path.stem.endswith("_label"):
                continue
            with rasterio.open(path) as source:
                bands = [name for name in source.descriptions if name in NAMES]
                large = min(source.shape) >= (384 if len(bands) < 12 else 256)
                if not large or len(bands) < 4:
                    continue
                dn = source.read([source.descriptions.index(name) + 1 for name in bands])
                level = source.tags().get("level", "L2A")
            told = "12 or 13 bands" if len(bands) > 11 else "others, 4 to 8 bands"
            yield told, bands, level, np.where(dn == 0, np.nan, dn / 1e4)


def cut(reflectance: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Give chips of 256 px, of smaller scenes 128 px, with real pixels around."""
    height, width = reflectance.shape[1:]
    side = 256 if min(height, width) >= 384 else 128
    for top in range(64, height - side - 63, STEP):
        for left in range(64, width - side - 63, STEP):
            yield slice(top, top + side), slice(left, left + side)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    wrong: defaultdict[tuple[str, int, int], list[int]] = defaultdict(lambda: [0, 0])
    chips: defaultdict[str, int] = defaultdict(int)
    for kind, bands, level, values in read_scenes(parser.parse_args().data):
        reflectance = values.astype(np.float32)
        model = load_model("default", level)
        expected = predict_array(reflectance, bands, level=level, model=model)
        for rows, columns in cut(reflectance):
            truth = expected[rows, columns]
            valid = truth != Label.MISSING
            if valid.mean() < 0.7:
                continue
            chips[kind] += 1
            layers = [np.ascontiguousarray(layer) for layer in reflectance[:, rows, columns]]
            for mirrored in MIRRORED:
                span = Span(0, len(truth), 0, len(truth), mirrored, mirrored)
                (largest,) = model.batch_largest([(layers, Window(span, span))], bands)
                found = np.array(PREDICTED, np.uint8)[largest]
                for ring in (*RINGS, len(truth)):
                    inside = np.zeros(truth.shape, bool)
                    inside[ring : len(truth) - ring, ring : len(truth) - ring] = True
                    counted = valid & ~inside
                    tally = wrong[kind, mirrored, ring]
                    tally[0] += int((found != truth)[counted].sum())
                    tally[1] += int(counted.sum())
    rings = [*(f"outer {ring} px" for ring in RINGS), "all"]
    print(f"{'labels that differ':22} {'chips':>6} {'mirrored':>9}", *(f"{r:>12}" for r in rings))
    for kind, count in chips.items():
        for mirrored in MIRRORED:
            tallies = [tally for key, tally in wrong.items() if key[:2] == (kind, mirrored)]
            # per kind and width in the order of rings; chips of 128 and 256 px are one row
            by_ring = [tallies[0], tallies[1], [sum(t[i] for t in tallies[2:]) for i in (0, 1)]]
            shares = (f"{100 * bad / counted:11.2f} %" for bad, counted in by_ring)
            print(f"{kind:22} {count:6} {mirrored:6} px", *shares)


if __name__ == "__main__":
    main()
