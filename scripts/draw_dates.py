"""Draw dates before and after the others corrected them: docs/pictures/dates.jpg.

    python scripts/draw_dates.py ../shared/data

Rows: four dates of Bolzano, two of Alberta. Columns: true colour, labels by the date alone, labels
refined by the others and the sun.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr
from draw_failures import paint, to_picture
from measure_dates import read_bolzano, read_rasters
from PIL import Image

import kappamask as km

TARGET = Path(__file__).parents[1] / "docs" / "pictures" / "dates.jpg"
SIDE = 320  # pixels of a picture
# Day, and where the picture begins: rivers and cliffs, roofs, a small cloud; lakes under cumulus.
BOLZANO = {
    "2022-06-10": (330, 560),
    "2022-06-12": (150, 260),
    "2022-06-17": (380, 300),
    "2022-06-27": (330, 200),
}
ALBERTA = {"2020-06-25": (120, 60), "2020-07-20": (250, 380)}


def main() -> None:
    """Write the picture."""
    data = Path(sys.argv[1])
    bolzano, _ = read_bolzano(data)
    with (data / "people" / "people.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith("layton_")]
    sun = [(float(row["sun_azimuth"]), float(row["sun_elevation"])) for row in rows]
    paths = [data / "people" / row["file"] for row in rows]
    alberta = read_rasters(paths, sun, level="L2A", step=30.0)
    strips = [*draw(bolzano, BOLZANO), *draw(alberta, ALBERTA)]
    Image.fromarray(np.vstack(strips)).save(TARGET, quality=80)
    print(TARGET)


def draw(cube: xr.DataArray, places: dict[str, tuple[int, int]]) -> Iterator[np.ndarray]:
    """Yield a row of pictures for each date."""
    labels = km.predict_cube(cube).compute()
    refined = km.refine(labels).compute()
    for day, (top, left) in places.items():
        here = {"y": slice(top, top + SIDE), "x": slice(left, left + SIDE)}
        seen, alone, together = (
            one.sel(time=day).isel(time=0).isel(here).values for one in (cube, labels, refined)
        )
        yield np.hstack([to_picture(seen[[2, 1, 0]]), paint(alone), paint(together)])


if __name__ == "__main__":
    main()
