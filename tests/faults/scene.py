"""Three tiny dates of four bands, made up: their files in memory and their STAC items."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pyproj import Transformer
from rasterio.io import MemoryFile
from rasterio.shutil import copy
from rasterio.transform import from_origin
from shapely.geometry import box, mapping

KEYS = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir"}
DATES = ("2022-06-02", "2022-06-12", "2022-06-22")
FAULTY = DATES[1]
EPSG, LEFT, TOP, SIZE = 32632, 680000, 5150000, 128  # pixels of 10 m
CLEAR = (0.04, 0.06, 0.05, 0.30)  # reflectance
COLLECTION = "sentinel-2-c1-l2a"
_DEGREES = Transformer.from_crs(EPSG, 4326, always_xy=True)


def make_dn():
    """Make DN (date, band, y, x) as baseline 04.00 stores them: fields, a cloud, an empty corner.

    Every pixel has noise, so that no part of a file can be lost unseen.
    """
    generator = np.random.default_rng(7)
    shape = (len(DATES), len(KEYS), SIZE, SIZE)
    reflectance = np.array(CLEAR)[:, None, None] * np.ones(shape)
    for date in range(len(DATES)):
        reflectance[date, :, 20 * date : 20 * date + 60, 30:90] = 0.6
    dn = np.round(reflectance * 10000 + generator.uniform(-150, 150, shape)) + 1000
    dn[:, :, -10:, -20:] = 0
    return dn.astype(np.uint16)


DN = make_dn()


def bbox():
    """A box in degrees, some pixels inside the scene."""
    west, south = _DEGREES.transform(LEFT + 50, TOP - 10 * SIZE + 50)
    east, north = _DEGREES.transform(LEFT + 10 * SIZE - 50, TOP - 50)
    return west, south, east, north


def item_id(date):
    """Name the item of a date as ESA names products."""
    day = date.replace("-", "")
    return f"S2A_MSIL2A_{day}T101601_N0400_R065_T32TPS_{day}T162001"


def make_item(date, url, *, suffix="tif"):
    """Make the item of a date, as Earth Search writes it."""
    name = item_id(date)
    west, south = _DEGREES.transform(LEFT, TOP - 10 * SIZE)
    east, north = _DEGREES.transform(LEFT + 10 * SIZE, TOP)
    ground = box(west, south, east, north)
    grid = {"proj:transform": [10, 0, LEFT, 0, -10, TOP], "proj:shape": [SIZE, SIZE]}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": name,
        "collection": COLLECTION,
        "geometry": mapping(ground),
        "bbox": list(ground.bounds),
        "properties": {
            "datetime": f"{date}T10:16:01Z",
            "platform": "sentinel-2a",
            "eo:cloud_cover": 20.0,
            "proj:epsg": EPSG,
            "s2:product_type": "S2MSI2A",
            "s2:processing_baseline": "04.00",
        },
        "assets": {
            key: {"href": f"{url}/{name}/{band}.{suffix}", "type": "image/tiff", **grid}
            for band, key in KEYS.items()
        },
        "links": [],
    }


def encode(values, *, left=LEFT, top=TOP, epsg=EPSG, **options):
    """Encode one band (y, x) as a COG."""
    height, width = values.shape
    grid = {"height": height, "width": width, "transform": from_origin(left, top, 10, 10)}
    pixels = {"count": 1, "dtype": values.dtype, "nodata": 0, "crs": epsg}
    options = {"compress": "DEFLATE", "blocksize": 128, "overviews": "NONE", **options}
    with MemoryFile() as memory:
        with memory.open(driver="COG", **grid, **pixels, **options) as raster:
            raster.write(values, 1)
        return bytes(memory.read())


def encode_jp2(values):
    """Encode one band (y, x) as a JP2 without loss; only a copy of a file keeps its place."""
    with TemporaryDirectory() as folder, MemoryFile(encode(values)) as memory:
        path = Path(folder) / "band.jp2"
        with memory.open() as raster:
            copy(raster, path, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
        return path.read_bytes()


@cache
def make_files(suffix="tif"):
    """Make all files: by path on the server, bytes."""
    encoder = {"tif": encode, "jp2": encode_jp2}[suffix]
    return {
        f"/{item_id(date)}/{band}.{suffix}": encoder(DN[i, j])
        for i, date in enumerate(DATES)
        for j, band in enumerate(KEYS)
    }
