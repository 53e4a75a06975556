"""Draw the picture at the head of README and docs: one place, its labels, what is composed of it.

    python scripts/draw_readme.py ../shared/data/bolzano --out docs/img/bolzano.jpg

Bolzano in June 2022, twelve dates of the test data of openeo-processes-dask (Apache-2.0), which
are not shipped; the picture is, with their credit (NOTICE). Run it again whenever the default
network or the composites change. Above: true colour and labels of 2022-06-02. Below: the composite
of the month by these labels, and the same by the scene classification (SCL) that comes with the
products, with the same buffers. It prints what share of the pixels either never saw.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import rasterio
import rioxarray  # noqa: F401  registers .rio
import xarray as xr
from PIL import Image

import kappamask as km
from kappamask.base.legend import Label
from kappamask.plot.picture import Date, label_colors, true_color
from kappamask.plot.scene import Sheet, named_in_legend

BANDS = ("B02", "B03", "B04", "B08")
DAY = "2022-06-02"
OFFSET = -1000  # of baseline 04.00
SCL = {0: Label.MISSING, 1: Label.MISSING, 3: Label.CLOUD_SHADOW, 8: Label.CLOUD,
       9: Label.CLOUD, 10: Label.SEMI_TRANSPARENT}  # fmt: skip
AIR, TOP, FOOT = 24, 130, 92
ROW = 72  # room for the words above the lower panels
# Points of words on a sheet that is shown at less than half its size: on a page of docs, 700 px
# wide, they are as large as the text around.
TITLE, WORDS, KEY = 27, 23, 21
WIDTH = 1600  # pixels of the picture
QUALITY = 85


def main() -> None:
    """Read the dates, compose them twice, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="a folder per date")
    parser.add_argument("--out", type=Path, default=Path("docs/img/bolzano.jpg"))
    options = parser.parse_args()
    cube, scl = read_dates(options.data)
    labels = km.predict_cube(cube).compute()
    images = {
        "kappamask": km.composite(cube, labels).compute(),
        "SCL": km.composite(cube, scl).compute(),
    }
    for name, image in images.items():
        share = float((image["observations"] == 0).mean())
        print(f"{name}: {100 * share:.3f} % of the pixels never clear")
    draw(cube, labels, images, options.out)


def read_dates(folder: Path) -> tuple[xr.DataArray, xr.DataArray]:
    """Read reflectance (time, band, y, x) and the SCL as labels (time, y, x)."""
    values, codes, times = [], [], []
    table = np.full(256, int(Label.CLEAR), np.uint8)
    for code, label in SCL.items():
        table[code] = int(label)
    for scene in sorted(path for path in folder.iterdir() if path.is_dir()):
        day = scene.name.rsplit("_", 1)[1]
        times.append(np.datetime64(f"{day[:4]}-{day[4:6]}-{day[6:]}T10:15:59", "ns"))
        layers = []
        for band in BANDS:
            with rasterio.open(scene / f"{band}.tif") as raster:
                dn, place, crs = raster.read(1).astype(np.float32), raster.transform, raster.crs
            layers.append(np.where(dn == 0, np.nan, (dn + OFFSET) * np.float32(1e-4)))
        values.append(np.stack(layers))
        with rasterio.open(scene / "SCL.tif") as raster:
            codes.append(table[raster.read(1, out_shape=layers[0].shape)])
    rows, columns = layers[0].shape
    coords = {
        "time": times,
        "y": place.f + place.e * (np.arange(rows) + 0.5),
        "x": place.c + place.a * (np.arange(columns) + 0.5),
    }
    cube = xr.DataArray(
        np.stack(values).astype(np.float32),
        dims=("time", "band", "y", "x"),
        coords=coords | {"band": list(BANDS)},
        attrs={"level": "L2A"},
    ).rio.write_crs(crs)
    scl = xr.DataArray(np.stack(codes), dims=("time", "y", "x"), coords=coords)
    return cube, scl.rio.write_crs(crs)


def draw(
    cube: xr.DataArray, labels: xr.DataArray, images: dict[str, xr.Dataset], path: Path
) -> None:
    """Put four panels on a sheet, with the legend below."""
    one = {
        "time": int(np.flatnonzero(cube["time"].values.astype("M8[D]") == np.datetime64(DAY))[0])
    }
    date = Date(cube.isel(one), labels.isel(one), longest=10**6)
    height, width = date.codes.shape
    sheet = Sheet(2 * width + 3 * AIR, TOP + 2 * height + ROW + FOOT)
    sheet.write(AIR, 14, "Bolzano, June 2022 · Sentinel-2 L2A · 9.4 x 7.1 km, north up",
                size=TITLE, va="top")  # fmt: skip
    panels = [
        (f"{DAY}, as seen", date.draw_colors()),
        ("labels of kappamask", label_colors(date.codes)),
        *(
            (f"median of 12 dates, clear by {name}",
             true_color(image["reflectance"].isel(time=0), level="L2A"))
            for name, image in images.items()
        ),
    ]  # fmt: skip
    for number, (words, picture) in enumerate(panels):
        row, column = divmod(number, 2)
        left, top = AIR + column * (width + AIR), TOP + row * (height + ROW)
        sheet.write(left, top - 8, words, size=WORDS)
        sheet.show(left, top, width, height, picture)
    named = named_in_legend(undefined=bool(date.shares[Label.UNDEFINED]))
    sheet.explain(AIR, 5, named, size=KEY)
    shown = sheet.save(path.with_suffix(".png"))
    with Image.open(shown) as whole:
        size = (WIDTH, round(whole.height * WIDTH / whole.width))
        whole.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(path, quality=QUALITY)
    shown.unlink()


if __name__ == "__main__":
    main()
