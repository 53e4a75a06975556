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
# # Reading masks elsewhere
#
# A mask is an ordinary GeoTIFF with one byte per pixel. Nothing of kappamask is needed to read it. First, some
# masks (the embedded sample, two dates):

# %%
from pathlib import Path

import kappamask as km
from kappamask.sample import SCENES, catalog_path

scene = SCENES[1]
items = km.search(scene.bbox, "2019-07-11/2019-07-16", catalog=catalog_path(), level="L2A")
labels = km.predict_cube(km.load_cube(items, scene.bbox))
masks = km.write_mask(labels, "masks", source_items=items)
print(*sorted(path.name for path in Path("masks").iterdir()), sep="\n")

# %% [markdown]
# ## rasterio
#
# Codes, colours, and what made them.

# %%
import numpy as np
import rasterio

with rasterio.open(masks[1]) as source:
    codes = source.read(1)
    print(source.crs, source.res, source.nodata, source.overviews(1))
    print({name: source.tags()[name] for name in ("model", "level", "datetime", "source_items")})
    print(source.tags(1)["flag_meanings"])
    print("cloud is drawn in", source.colormap(1)[4][:3])
print(dict(zip(*(values.tolist() for values in np.unique(codes, return_counts=True)), strict=True)))

# %% [markdown]
# Only a part of it, straight from the file (or from a web address: it is cloud-optimised):

# %%
with rasterio.open(masks[1]) as source:
    corner = source.read(1, window=((0, 20), (0, 30)))
print(corner.shape)

# %% [markdown]
# ## xarray
#
# `mask_and_scale=False` keeps the codes as bytes; otherwise 5 (missing) becomes NaN and everything a float.

# %%
import rioxarray

one = rioxarray.open_rasterio(masks[1], mask_and_scale=False).squeeze("band", drop=True)
print(one.dtype, one.rio.crs, f"clear: {float((one == 1).mean()):.0%}")

# %% [markdown]
# Laid over another raster: `reproject_match` with nearest neighbour. Codes have no mean, so never interpolate.

# %%
from rasterio.enums import Resampling

coarse = one.rio.reproject(one.rio.crs, resolution=30, resampling=Resampling.nearest)
print(one.shape, "->", coarse.shape, np.unique(coarse).tolist())

# %% [markdown]
# ## The STAC item
#
# Shares of the classes, checksum, grid and origin stand beside each mask. Any STAC library reads them.

# %%
import pystac

item = pystac.Item.from_file(str(masks[1].with_suffix(".json")))
print(item.id, item.properties["eo:cloud_cover"], "% cloud")
for entry in item.assets["mask"].extra_fields["classification:classes"]:
    print(entry["value"], entry["name"], f"{entry['percentage']:.1f} %")

# %% [markdown]
# ## QGIS and GDAL
#
# Drag `NAME.tif` into QGIS: colours come from the palette inside, class names from `NAME.tif.aux.xml` (keep it
# beside the file). To use a mask there:
#
# - *Raster calculator*: `"NAME@1" = 1` is 1 where the ground is clear.
# - *Layer properties, Transparency*: class 5 is already no data.
# - On a command line: `gdal_calc.py -A scene.tif -B NAME.tif --calc="A*(B==1)" --outfile=clear.tif`.
#
# What GDAL sees:

# %%
from defusedxml import ElementTree

names = ElementTree.parse(f"{masks[1]}.aux.xml").iter("Category")
print([name.text for name in names])

# %% [markdown]
# ## NetCDF
#
# All dates in one file, with the classes named as the CF conventions want them (extra `formats`).

# %%
import xarray as xr

path = km.write_netcdf(labels, "masks.nc")
back = xr.open_dataset(path, decode_coords="all")
print(back.labels.dims, back.labels.dtype, back.labels.attrs["flag_meanings"])
