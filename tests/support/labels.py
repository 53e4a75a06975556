"""Label cubes, and the files made of them, as the tests of masks and pictures share them."""

import json
import resource
from contextlib import contextmanager

import dask.array as da
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (registers the .rio accessor)
import xarray as xr

NAMES = ["undefined", "clear", "cloud_shadow", "semi_transparent_cloud", "cloud", "missing"]
CORNER = (674990.0, 5154960.0)  # left, top: the Bolzano scene
FIRST = "2022-06-02T10:15:59.024"


def make_labels(codes, *, corner=CORNER, step=10.0, crs="EPSG:32632", first=FIRST, **attrs):
    """A label cube as predict_cube returns it, one date every five days."""
    codes = np.asarray(codes) if not isinstance(codes, da.Array) else codes
    count, rows, columns = codes.shape
    left, top = corner
    times = np.datetime64(first, "ns") + np.arange(count) * np.timedelta64(5, "D")
    return xr.DataArray(
        codes,
        dims=("time", "y", "x"),
        coords={
            "time": times,
            "y": top - step * (np.arange(rows) + 0.5),
            "x": left + step * (np.arange(columns) + 0.5),
        },
        attrs={
            "level": "L2A",
            "kappamask_model": "own-l2a",
            "kappamask_model_sha256": "ab" * 32,
            "transform": (step, 0.0, left, 0.0, -step, top),  # rioxarray makes a GeoTransform of it
            **attrs,
        },
    ).rio.write_crs(crs)


def make_pair(
    codes, reflectance=0.1, *, crs="EPSG:32632", level="L2A", bands=("B02", "B03", "B04")
):
    """A cube (time, band, y, x) of one reflectance and its labels (time, y, x)."""
    codes = np.asarray(codes, dtype=np.uint8)
    count, rows, columns = codes.shape
    step = 10 if crs == "EPSG:32632" else 1e-4
    coords = {
        "time": np.datetime64("2022-06-02T10:15:59", "ns")
        + np.arange(count) * np.timedelta64(1, "D"),
        "y": (5154955 if step == 10 else 46) - step * np.arange(rows),
        "x": (674995 if step == 10 else 11) + step * np.arange(columns),
    }
    values = np.full((count, len(bands), rows, columns), reflectance, dtype=np.float32)
    cube = xr.DataArray(
        values,
        dims=("time", "band", "y", "x"),
        coords={**coords, "band": list(bands)},
        attrs={"level": level},
    )
    labels = xr.DataArray(
        codes,
        dims=("time", "y", "x"),
        coords=coords,
        attrs={"level": level, "kappamask_model": "own"},
    )
    return cube.rio.write_crs(crs), labels.rio.write_crs(crs)


def random_codes(shape, *, seed=0):
    return np.random.default_rng(seed).integers(0, 6, shape, dtype=np.uint8)


def patchy_codes(shape, *, seed=0):
    """Codes in patches of 8 x 8 with some noise: overviews have something to decide."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 6, [-(-side // 8) for side in shape], dtype=np.uint8)
    codes = coarse.repeat(8, 0).repeat(8, 1)[: shape[0], : shape[1]]
    noisy = rng.random(shape) < 0.3
    return np.where(noisy, rng.integers(0, 6, shape, dtype=np.uint8), codes)


def make_item(name, when, **properties):
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": name,
        "geometry": None,
        "properties": {"datetime": when, **properties},
        "links": [{"rel": "self", "href": f"https://stac.example/items/{name}"}],
        "assets": {},
    }


def read_item(path):
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def derived_from(path):
    links = [link for link in read_item(path)["links"] if link["rel"] == "derived_from"]
    return [link["href"] for link in links if "model" not in link["href"]]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


SOURCE = make_item(
    "S2A_T32TPS_20220602T101559_L2A", "2022-06-02T10:15:59.024Z", platform="Sentinel-2A"
)


@contextmanager
def file_size_limit(size):
    """The system refuses to let any file grow beyond size: a full disk without a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def read_unreferenced(path):
    """label.tif says nothing of where it lies, and rasterio warns of that."""
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(path) as raster:
        return raster.read(1)
