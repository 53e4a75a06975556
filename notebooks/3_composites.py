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
# # Images without clouds
#
# Search, label, compose: each step takes what the last one gave, and nothing is read before the end.

# %%
import numpy as np

import kappamask as km
from kappamask.sample import SCENES, catalog_path

scene = SCENES[1]
items = km.search(scene.bbox, "2019-07-11/2019-09-14", catalog=catalog_path(), level="L2A")
cube = km.load_cube(items, scene.bbox)
labels = km.predict_cube(cube).persist()  # labelled once, used several times below
print(len(items), "dates,", scene.credit)

# %% [markdown]
# ## One image per month
#
# 60 m around clouds and 40 m around shadows are not used either (the default): masks are least sure at edges.

# %%
months = km.composite(cube, labels, method="median", period="month").compute()
print(dict(months.sizes))
for month in months.time.values:
    one = months.sel(time=month)
    print(
        str(month)[:7],
        f"{int(one.date_count)} dates,",
        f"{float(one.observations.mean()):.1f} of them clear in the mean pixel,",
        f"{int(one.never_clear)} pixels never clear",
    )

# %% [markdown]
# What was never clear is no data: nothing is invented. A longer period or a smaller buffer leaves fewer holes.

# %%
from IPython.display import Image

july = slice("2019-07-01", "2019-07-31")
image = km.composite(
    cube.sel(time=july), labels.sel(time=july), buffer_m={"cloud": 20, "shadow": 20}
)
Image(
    km.plot.plot_before_after(
        cube.sel(time=july), labels.sel(time=july), image, "july.png", title="Romania, July 2019"
    )
)

# %% [markdown]
# ## One date per pixel
#
# `best-pixel` takes all bands of a pixel from one date: far from clouds, near the date asked for. The
# composite says which date that was.

# %%
from kappamask.composites.ranking import Ranking

best = km.composite(
    cube, labels, method="best-pixel", ranking=Ranking(target="2019-08-15")
).compute()
days = best.date.values.astype("M8[D]")
for day in np.unique(days[~np.isnat(days)]):
    print(day, f"{(days == day).mean():.0%}")

# %% [markdown]
# ## Files

# %%
for path in km.write_composite(best, "composites", source_items=items):
    print(path.name, path.stat().st_size, "bytes")

# %% [markdown]
# ## How good is it here?
#
# A clear date that is kept out shows what a composite of the others should look like. The same for your own area:
# `kappamask evaluate --bbox ... --date ... --out report`.

# %%
from kappamask.evaluate.dates import keep_out, to_table

rows = keep_out(cube, labels, held_out=["2019-08-25"], methods=("median", "first-clear"))
print(to_table(rows))
