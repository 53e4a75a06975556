# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A Copernicus notebook, here
#
# What many notebooks for the Copernicus Data Space do: mask clouds by dilated scene classes, take the greenest
# date of every pixel, follow a field over time. The cells between the two lines run there as they stand; here they
# ask `kappamask serve` on this machine, over the embedded sample. Then the mask of kappamask takes the place of
# the scene classes.

# %%
import subprocess
import sys
import tempfile
from pathlib import Path

import openeo

from kappamask.sample import SCENES, catalog_path

folder = Path(tempfile.mkdtemp())
command = [
    sys.executable,
    "-m",
    "kappamask",
    "serve",
    "--port",
    "0",
    "--workdir",
    str(folder / "work"),
]
server = subprocess.Popen(  # noqa: S603  this Python
    [*command, "--catalog", str(catalog_path())],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
)
url = next(word for word in server.stdout.readline().split() if word.startswith("http"))
connection = openeo.connect(url)  # there: openeo.connect("openeo.dataspace.copernicus.eu")...
west, south, east, north = SCENES[1].bbox
area = {"west": west, "south": south, "east": east, "north": north}
dates = ["2019-07-01", "2019-09-01"]
x, y = (west + east) / 2, (south + north) / 2
field = {
    "type": "Polygon",
    "coordinates": [[[x, y], [x + 0.002, y], [x + 0.002, y + 0.002], [x, y + 0.002], [x, y]]],
}

# %% [markdown]
# ---
# ## Scene classes, dilated


# %%
def load(bands):
    return connection.load_collection("SENTINEL2_L2A", area, dates, bands=bands, max_cloud_cover=95)


scl = load(["SCL"])
mask = scl.process(
    "to_scl_dilation_mask",
    data=scl,
    kernel1_size=17,
    kernel2_size=77,
    mask1_values=[2, 4, 5, 6, 7],
    mask2_values=[3, 8, 9, 10, 11],
    erosion_kernel_size=3,
)

# %% [markdown]
# ## The greenest date of every month and pixel


# %%
def is_not_greenest(ndvi):
    highest = ndvi.max()
    return ndvi.array_apply(lambda x: x != highest)


def compose(mask):
    ndvi = load(["B04", "B08"]).mask(mask).ndvi(nir="B08", red="B04")
    rank = ndvi.apply_neighborhood(
        is_not_greenest,
        size=[
            {"dimension": "x", "unit": "px", "value": 1},
            {"dimension": "y", "unit": "px", "value": 1},
            {"dimension": "t", "value": "month"},
        ],
        overlap=[],
    )
    image = load(["B02", "B03", "B04"]).mask(rank)
    return image.aggregate_temporal_period("month", "first"), ndvi


composite, ndvi = compose(mask)
composite.download(folder / "theirs.nc", format="netCDF")

# %% [markdown]
# ## A field over time

# %%
from openeo.rest.conversions import timeseries_json_to_pandas

series = ndvi.aggregate_spatial(field, reducer="mean").execute()
print(timeseries_json_to_pandas(series).round(2))

# %% [markdown]
# ---
# ## The same with our mask
#
# One line differs. The network sees all bands that the collection holds.

# %%
from kappamask.openeo.graphs import cloud_mask

held = connection.collection_metadata("SENTINEL2_L2A").band_names
ours = cloud_mask(load([name for name in held if name != "SCL"]))
composite, ndvi = compose(ours)
composite.download(folder / "ours.nc", format="netCDF")
print(timeseries_json_to_pandas(ndvi.aggregate_spatial(field, reducer="mean").execute()).round(2))

# %%
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

figure, axes = plt.subplots(1, 2, figsize=(9, 4.5))
for axis, name in zip(axes, ("theirs", "ours"), strict=True):
    with xr.open_dataset(folder / f"{name}.nc") as found:
        july = found.isel(t=0)
        rgb = np.dstack([july[band] for band in ("B04", "B03", "B02")]) / 3000
    seen = np.isfinite(rgb).all(axis=-1).mean()
    print(f"{name}: {seen:.0%} of the pixels seen in July")
    axis.imshow(np.clip(np.nan_to_num(rgb), 0, 1))
    axis.set(title=name, xticks=[], yticks=[])
plt.show()

# %%
server.terminate()
print("the server ended with", server.wait())
