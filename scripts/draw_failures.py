"""Draw where the default network fails on the embedded sample: docs/pictures/failures.jpg.

    python scripts/draw_failures.py

Rows: the L1C scene with 13, 6 and 4 bands, then L2A dates. Columns: true colour, labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import kappamask as km
from kappamask.base.legend import LEGEND
from kappamask.sample import SCENES, catalog_path

TARGET = Path(__file__).parents[1] / "docs" / "pictures" / "failures.jpg"
DATES = ("2019-08-25", "2019-07-11", "2019-08-05")
FOUR = ["B02", "B03", "B04", "B08"]
L1C_BANDS = (None, [*FOUR, "B11", "B12"], FOUR)
SIZE = (480, 240)  # of one picture, pixels


def main() -> None:
    """Write the picture."""
    rows = [np.hstack(pair) for pair in draw_scenes()]
    Image.fromarray(np.vstack(rows)).save(TARGET, quality=85)
    print(TARGET)


def draw_scenes() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield true colour and labels of each row."""
    for scene in SCENES:
        items = km.search(scene.bbox, scene.dates, catalog=catalog_path(), level=scene.level)
        cube = km.load_cube(items, scene.bbox).compute()
        for date in cube:
            day = str(date.time.values)[:10]
            if scene.level == "L2A" and day not in DATES:
                continue
            for bands in L1C_BANDS if scene.level == "L1C" else (None,):
                chosen = date if bands is None else date.sel(band=bands)
                names = [str(name) for name in chosen.band.values]
                labels = km.predict_array(chosen.values, names, level=scene.level)
                yield to_picture(date.sel(band=["B04", "B03", "B02"]).values), paint(labels)


def to_picture(rgb: np.ndarray) -> np.ndarray:
    """Stretch reflectance (3, y, x) for the eye."""
    bright = max(0.3, float(np.nanpercentile(rgb, 98)))
    shown = np.clip(np.nan_to_num(rgb) / bright, 0, 1) ** 0.7
    return resize((shown * 255).astype(np.uint8).transpose(1, 2, 0))


def paint(labels: np.ndarray) -> np.ndarray:
    """Give each label the colour of the legend."""
    palette = np.zeros((256, 3), np.uint8)
    for code, entry in enumerate(LEGEND):
        palette[code] = entry.rgb
    return resize(palette[labels])


def resize(picture: np.ndarray) -> np.ndarray:
    """Bring a picture to one size."""
    return np.asarray(Image.fromarray(picture).resize(SIZE, Image.Resampling.LANCZOS))


if __name__ == "__main__":
    main()
