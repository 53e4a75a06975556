"""Draw dates of the embedded sample labelled by its other dates: docs/pictures/series.jpg.

    python scripts/draw_series.py

Rows: dates. Columns: true colour, Sen2Cor's classes mapped to labels, labels by the other dates
(`kappamask.train.series`; grey: no label, or cloud of unknown thickness), the default network.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
from draw_failures import paint, to_picture
from PIL import Image

import kappamask as km
from kappamask.base.legend import PREDICTED, Label
from kappamask.evaluate.peers import SCL, map_codes
from kappamask.sample import SCENES, catalog_path
from kappamask.train.chips import SLOT, Chip
from kappamask.train.series import judge

TARGET = Path(__file__).parents[1] / "docs" / "pictures" / "series.jpg"
DATES = ("2019-06-26", "2019-07-11", "2019-07-31", "2019-08-25", "2019-09-04", "2019-09-14")
BANDS = ("B02", "B03", "B04", "B08", "B8A", "B11")


def main() -> None:
    """Write the picture."""
    chips = {str(chip.date): chip for chip in judge(list(read_dates()))}
    rows = [np.hstack(list(draw(chips[day]))) for day in DATES]
    Image.fromarray(np.vstack(rows)).save(TARGET, quality=85)
    print(TARGET)


def read_dates() -> Iterator[Chip]:
    """Yield the sample's dates with Sen2Cor's labels, as if no other label were known."""
    (scene,) = (scene for scene in SCENES if scene.level == "L2A")
    for item in km.search(scene.bbox, scene.dates, catalog=catalog_path(), level=scene.level):
        cube = km.load_cube([item], scene.bbox, bands=list(BANDS)).isel(time=0).load()
        dn = np.zeros((13, *cube.shape[1:]), np.uint16)
        dn[[SLOT[name] for name in BANDS]] = np.rint(cube.fillna(0).values * 1e4)
        with rasterio.open(catalog_path().parent / "sentinel-2-l2a" / item.id / "SCL.tif") as file:
            scl = file.read(1)
        label = map_codes(scl, SCL)
        yield Chip(f"romania_{str(cube.time.values)[:10]}", dn, label, "L2A", 10.0, "scl+net", scl)


def draw(chip: Chip) -> Iterator[np.ndarray]:
    """Yield the columns of one row."""
    reflectance = chip.reflectance()[[SLOT[name] for name in BANDS]]
    yield to_picture(reflectance[[2, 1, 0]])
    yield paint(chip.label)
    verdict = np.zeros_like(chip.label) if chip.verdict is None else chip.verdict
    yield paint(np.where(np.isin(verdict, PREDICTED), verdict, Label.UNDEFINED))
    yield paint(km.predict_array(reflectance, list(BANDS), level="L2A"))


if __name__ == "__main__":
    main()
