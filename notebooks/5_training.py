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
# # Training on your own labels
#
# How labelled chips are laid out, how a run is started, and what it leaves. The chips here are cut from the
# embedded sample, and a handful of steps on a tiny network shows the mechanics only: **the result is useless
# as a mask**. What a real run takes is written in [Training](../training.md).

# %% [markdown]
# ## Chips
#
# A chip is a GeoTIFF of whole numbers, reflectance times 10000 with the offset taken off, 0 where there is no
# data, each band described by its name. `NAME_label.tif` beside it has the class codes: 1 clear, 2 shadow,
# 3 semi-transparent, 4 cloud, and 0 where you are unsure (nothing is learned there). `chips.csv` lists them.
#
# Draw labels of yours in QGIS, for instance, starting from a mask. Here the shipped network stands in for
# a person.

# %%
import csv
from pathlib import Path

import numpy as np
import rasterio

import kappamask as km
from kappamask.sample import SCENES, catalog_path

scene = SCENES[1]
items = km.search(scene.bbox, "2019-07", catalog=catalog_path(), level="L2A")
cube = km.load_cube(items, scene.bbox)
labels = km.predict_cube(cube).compute()
cube = cube.compute()


def write(path, layers, names):
    """Write (band, y, x) with the bands' names."""
    count, height, width = layers.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width}
    grid = {"crs": cube.rio.crs, "transform": cube.rio.transform()}
    with rasterio.open(path, "w", dtype=layers.dtype, **profile, **grid) as target:
        target.write(layers)
        for index, name in enumerate(names, start=1):
            target.set_band_description(index, name)


folder = Path("chips")
folder.mkdir()
with (folder / "chips.csv").open("w", newline="") as table:
    writer = csv.writer(table)
    writer.writerow(["file", "split", "label_kind", "level", "resolution_m"])
    for index, time in enumerate(cube.time.values):
        name, split = str(time)[:10], "val" if index == 2 else "train"
        dn = np.nan_to_num(cube.isel(time=index).values * 10000).clip(0, 65535).round()
        write(folder / f"{name}.tif", dn.astype("uint16"), list(cube.band.values))
        write(folder / f"{name}_label.tif", labels.isel(time=index).values[None], ["label"])
        writer.writerow([f"{name}.tif", split, "human", "L2A", 10])
print((folder / "chips.csv").read_text())

# %% [markdown]
# ## A run
#
# Everything that a run depends on is in one file. Leave `[settings]` out for the values that the shipped network
# was trained with.

# %%
Path("own.toml").write_text(
    """
[[data]]
format = "chips"
folder = "chips"

[settings]
widths = [8, 12, 16]
steps = 6
batch = 2
size = 64
warm_up = 2
validate_every = 3
workers = 0
"""
)

# %% [markdown]
# On a command line that is `kappamask train own.toml --out runs/own`; it says where it stands, and goes on
# where it stopped if it is given again. In Python:

# %%
from kappamask.train.fit import fit
from kappamask.train.settings import read_config

scores = fit(read_config(Path("own.toml")), Path("runs/own"), tell=print)
print(sorted(path.name for path in Path("runs/own").iterdir()))

# %% [markdown]
# ## What came of it
#
# `best.safetensors` are the weights that did best on the split `val`. Score them against other masks with
# `kappamask evaluate --weights runs/own/best.safetensors --data chips --out evaluation`, and look at the pictures:
# a dice is no picture.

# %%
from kappamask.evaluate.programs import network_from_file
from kappamask.train.chips import read_chips

network = network_from_file(Path("runs/own/best.safetensors"))
(chip,) = read_chips(folder, "val")
said = network.label(chip).codes
agree = (said == chip.label)[chip.label > 0].mean()
print(network.title)
print(f"after six steps it agrees on {agree:.0%} of {chip.name}: as said, useless")
