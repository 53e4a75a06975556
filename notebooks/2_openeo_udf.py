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
# # The openEO UDF, here and on Copernicus
#
# One process graph, two back ends: the one that comes with kappamask runs it on this machine over the embedded
# sample; a Copernicus back end would run the same graph over its archive.

# %%
import openeo

from kappamask.openeo.graphs import cloud_mask
from kappamask.sample import SCENES, catalog_path

scene = SCENES[1]
west, south, east, north = scene.bbox
where = {"west": west, "south": south, "east": east, "north": north}
when = ["2019-07-01", "2019-08-01"]
bands = ["B02", "B03", "B04", "B08"]

# %% [markdown]
# ## The graph
#
# What the network sees and what is wanted are loaded apart, so that a back end can leave cloudy pixels unread.
# `cloud_mask` puts the text of the UDF into the graph: nothing has to be installed for building or sending it.


# %%
def load(bands):
    """Name what is wanted; without a connection, as here, nothing is asked of anybody."""
    return openeo.DataCube.load_collection(
        "SENTINEL2_L2A", spatial_extent=where, temporal_extent=when, bands=bands
    )


seen, optical = load(bands), load(["B04", "B08"])
clear = optical.mask(cloud_mask(seen))
monthly = clear.aggregate_temporal_period("month", "median")
print([node["process_id"] for node in monthly.flat_graph().values()])

# %% [markdown]
# ## On this machine
#
# `LocalEngine` evaluates graphs lazily, and gives the UDF the windows that Copernicus would give it.
# (`kappamask serve` puts the same engine behind HTTP, for clients in any language.)

# %%
from kappamask.openeo.local import LocalEngine

engine = LocalEngine(catalog=catalog_path())
result = engine.run(monthly.flat_graph()).compute()
print(result.dims, result.shape)
print(f"pixels never seen clear in July: {float(result.isel(bands=0).isnull().mean()):.1%}")

# %%
import matplotlib.pyplot as plt

red, nir = (result.isel(t=0, bands=index) for index in (0, 1))
figure, axes = plt.subplots(figsize=(5, 4.2))
shown = axes.imshow((nir - red) / (nir + red), vmin=0, vmax=1, cmap="YlGn")
axes.set(title="NDVI of July 2019, clouds masked", xticks=[], yticks=[])
figure.colorbar(shown)
plt.show()

# %% [markdown]
# ## On Copernicus
#
# The graph stays as it is; these lines take the place of the engine. They need an account and the two archives
# of `kappamask udf build`, so they are shown, not run:
#
# ```python
# from kappamask.openeo.graphs import job_options
#
# connection = openeo.connect("openeo.dataspace.copernicus.eu").authenticate_oidc()
# job = connection.create_job(
#     monthly.flat_graph(),
#     title="July",
#     job_options=job_options(
#         [
#             "https://files.example.org/LIBRARY.zip#kappamask_library",
#             "https://files.example.org/ENGINE.zip#kappamask_engine",
#         ]
#     ),
# )
# job.start_and_wait()
# ```
#
# No Copernicus back end could be reached while this was written.

# %% [markdown]
# ## The UDF alone
#
# The client can run a UDF on one chunk, as a back end would: useful to look into it. It takes digital numbers
# whose offset is already taken off, as Copernicus gives them.

# %%
from openeo.udf import execute_local_udf

import kappamask as km
from kappamask.openeo.graphs import udf_code

items = km.search(scene.bbox, "2019-07-16", catalog=catalog_path(), level="L2A")
cube = km.load_cube(items, scene.bbox, bands=bands)
chunk = (cube * 10000).reset_coords(drop=True).rename(time="t", band="bands").compute()
answer = execute_local_udf(udf_code(), chunk).get_datacube_list()[0].get_array()
print(answer.dims, list(answer.bands.values))

# %% [markdown]
# What it says is what `predict_cube` says.

# %%
labels = km.predict_cube(cube).compute()
same = (answer.isel(t=0, bands=0).values == labels.isel(time=0).values).mean()
print(f"{same:.1%} of the pixels have the same label")
