"""What 20 m costs in labels: `python benchmarks/resolutions.py [--pictures FOLDER]`.

Masks at 10 m, each 2 x 2 pixels brought to 20 m by their mode, beside masks of 20 m pixels: of
real scenes in ../shared/data. Chips hold all bands at 10 m, which are halved for the second mask;
the product is read at 20 m by the resolution levels of its files. Agreement counts pixels that
both have; per class it is the share of the 10 m mask's pixels of a class that get the same at
20 m, and the intersection over the union.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from kappamask import Label, open_raster, open_safe, predict_array
from kappamask.base.legend import LEGEND, PREDICTED

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
TARGET = 0.97  # of the pixels of all scenes


def halve(fine: np.ndarray) -> np.ndarray:
    """Average 2 x 2 pixels of reflectance (band, y, x); NaN counts only where there is no other."""
    bands, height, width = fine.shape
    blocks = fine.reshape(bands, height // 2, 2, width // 2, 2)
    valid = np.isfinite(blocks)
    count = valid.sum((2, 4))
    total = np.where(valid, blocks, 0).sum((2, 4))
    return np.where(count, total / np.maximum(count, 1), np.nan).astype(np.float32)


def mode(codes: np.ndarray) -> np.ndarray:
    """Bring labels (y, x) to pixels of twice the side: the commonest of four, the higher of two.

    As GDAL's mode, missing counts only where there is no other.
    """
    height, width = codes.shape
    votes = np.stack(
        [(codes == code).reshape(height // 2, 2, width // 2, 2).sum((1, 3)) for code in PREDICTED]
    )
    best = len(PREDICTED) - 1 - votes[::-1].argmax(0)
    chosen = np.array(PREDICTED, np.uint8)[best]
    return np.where(votes.any(0), chosen, np.uint8(Label.MISSING))


def bolzano() -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Twelve dates at L2A, four bands of 10 m: name, mask at 10 m, mask at 20 m, reflectance."""
    bands = ["B02", "B03", "B04", "B08"]
    for folder in sorted((SHARED / "bolzano").glob("S2_*")):
        paths = [folder / f"{name}.tif" for name in bands]
        cube = open_raster(paths, bands=bands, level="L2A", scale=10000, offset=-1000)
        fine = cube.values[..., : cube.sizes["y"] // 2 * 2, : cube.sizes["x"] // 2 * 2]
        yield folder.name[-8:], *both(fine.reshape(4, *fine.shape[-2:]), bands, "L2A")


def pairs() -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """27 places at L1C, 13 bands, a cloudy and a clear scene each."""
    for path in sorted((SHARED / "pairs").glob("*/*.tif")):
        with rasterio.open(path) as raster:
            dn, bands = raster.read().astype(np.float32), list(raster.descriptions)
        dn[dn == 0] = np.nan
        yield f"{path.parent.name}/{path.stem}", *both(dn / 10000, bands, "L1C")


def safe() -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Give the real L1C strip: at 20 m by the resolution levels of its JP2 files."""
    for product in sorted((SHARED / "safe").glob("S2A_MSIL1C_*.SAFE")):
        fine, coarse = (
            open_safe(product, resolution=step, chunks=100000).isel(
                time=0, y=slice(0, 30720 // step), x=slice(0, 15360 // step)
            )
            for step in (10, 20)
        )
        bands = [str(name) for name in fine.band.values]
        small = coarse.values
        masks = [predict_array(one, bands, level="L1C") for one in (fine.values, small)]
        yield product.name[38:44], mode(masks[0]), masks[1], small


def both(
    fine: np.ndarray, bands: list[str], level: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label 10 m pixels and those of 20 m made of them."""
    small = halve(fine)
    return (
        mode(predict_array(fine, bands, level=level)),
        predict_array(small, bands, level=level),
        small,
    )


def count(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Count pixels by the label at 10 m and at 20 m: (4, 4); what either misses is left out."""
    codes = [int(code) for code in PREDICTED]
    return np.array([[((ours == one) & (theirs == two)).sum() for two in codes] for one in codes])


def print_row(name: str, counts: np.ndarray) -> None:
    """Print agreement, and per class recall and intersection over union."""
    same, of, at = counts.diagonal(), counts.sum(1), counts.sum(0)
    cells = "".join(
        f"{same[i] / of[i]:9.1%} {same[i] / (of[i] + at[i] - same[i]):5.2f}"
        if of[i] else " " * 14 + "-"
        for i in range(len(PREDICTED))
    )  # fmt: skip
    print(
        f"{name:24} {counts.sum():>9} {same.sum() / max(counts.sum(), 1):8.2%}{cells}", flush=True
    )


def draw(path: Path, scene: np.ndarray, fine: np.ndarray, coarse: np.ndarray) -> None:
    """Put scene (first three bands B04 B03 B02), both masks and where they differ side by side."""
    from matplotlib import pyplot as plt
    from matplotlib.colors import ListedColormap

    colours = ListedColormap([f"#{entry.color}" for entry in LEGEND])
    _, axes = plt.subplots(1, 4, figsize=(20, 5.5))
    axes[0].imshow(np.clip(np.nan_to_num(scene.transpose(1, 2, 0)) * 2.5, 0, 1))
    for axis, codes, title in ((axes[1], fine, "10 m, mode"), (axes[2], coarse, "20 m")):
        axis.imshow(codes, cmap=colours, vmin=0, vmax=len(LEGEND) - 1, interpolation="nearest")
        axis.set_title(title)
    axes[3].imshow(fine != coarse, cmap="gray", interpolation="nearest")
    axes[3].set_title(f"differ: {(fine != coarse).mean():.1%}")
    for axis in axes:
        axis.axis("off")
    plt.tight_layout()
    plt.savefig(path, dpi=70)
    plt.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, help="a folder for one picture per scene")
    options = parser.parse_args()
    if not SHARED.is_dir():
        print("20 m beside 10 m: not measured, the scenes are not shipped")
        return
    names = "".join(f"{entry.name[:8]:>10} IoU " for entry in LEGEND if entry.label in PREDICTED)
    print(f"{'20 m beside 10 m':24} {'pixels':>9} {'agree':>8} {names}")
    total: Any = 0
    for source in (bolzano, pairs, safe):
        here: Any = 0
        for name, fine, coarse, scene in source():
            counts = count(fine, coarse)
            here = here + counts
            if options.pictures:
                options.pictures.mkdir(parents=True, exist_ok=True)
                path = options.pictures / f"{source.__name__}_{name.replace('/', '_')}.png"
                draw(
                    path, scene[[2, 1, 0]] if source is bolzano else scene[[3, 2, 1]], fine, coarse
                )
            if source is not pairs:
                print_row(f"{source.__name__} {name}", counts)
        print_row(f"all of {source.__name__}", here)
        total = total + here
    print_row("all", total)
    agree = total.diagonal().sum() / total.sum()
    print(f"target: at least {TARGET:.0%}: {'reached' if agree >= TARGET else 'MISSED'}")


if __name__ == "__main__":
    main()
