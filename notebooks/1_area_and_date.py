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
# # From an area and a date to a mask
#
# The scenes here are those of the embedded sample, so that this runs without the internet: a forest in
# Romania in the summer of 2019. With `catalog="earth-search"` in place of the sample's path, the same lines
# work anywhere on Earth.

# %%
import kappamask as km
from kappamask.sample import SCENES, catalog_path

scene = SCENES[1]
print(scene.title)
print(scene.credit)

# %% [markdown]
# ## Search
#
# An area (a bbox in degrees here) and dates, both ends included.

# %%
items = km.search(scene.bbox, "2019-07", catalog=catalog_path(), level="L2A")
for item in items:
    print(item.datetime.date(), f"{item.properties['eo:cloud_cover']:3.0f} %", item.id)

# %% [markdown]
# ## Cube
#
# Reflectance, 1.0 is 100 %, with every offset taken off. Nothing has been read yet: the cube is lazy.

# %%
cube = km.load_cube(items, scene.bbox)
print(dict(cube.sizes), cube.dtype, cube.attrs["level"], cube.rio.crs)
print(list(cube.band.values))

# %% [markdown]
# ## Labels
#
# Still lazy. `.compute()` reads the pixels and runs the network.

# %%
labels = km.predict_cube(cube).compute()
print(labels.attrs["flag_meanings"])

# %% [markdown]
# How much of each date is clear?

# %%
pixels = labels.sizes["y"] * labels.sizes["x"]
for date in labels.time:
    one = labels.sel(time=date)
    shares = {label.name.lower(): int((one == label).sum()) / pixels for label in km.Label}
    said = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005)
    print(str(date.values)[:10], said)

# %% [markdown]
# ## A picture to check it by
#
# True colour, labels, and true colour with the outlines of cloud (yellow) and shadow (pink). Look at the
# pictures before you trust any mask.

# %%
from IPython.display import Image

path = km.quicklook(cube.isel(time=2), labels.isel(time=2), "third.png", title=scene.title)
Image(path)

# %% [markdown]
# ## Keep what is clear

# %%
clear = cube.where(labels == km.Label.CLEAR)
red, nir = clear.sel(band="B04"), clear.sel(band="B08")
ndvi = ((nir - red) / (nir + red)).median(["y", "x"]).compute()
for date, value in zip(ndvi.time.values, ndvi.values, strict=True):
    print(str(date)[:10], f"NDVI {value:.2f}")

# %% [markdown]
# ## Files
#
# A GeoTIFF and a STAC item per date; the item says which items and which network it was made from.

# %%
for path in km.write_mask(labels, "masks", source_items=items):
    print(path.name, path.stat().st_size, "bytes")
