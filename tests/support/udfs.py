"""Small UDFs for tests, as texts: a back end gets them as texts too."""

HEAD = """
import numpy as np
import xarray
from openeo.udf import inspect
"""

# Bright blue is cloud; mask as the real UDF gives it: explicit 0 and 1, missing is 1.
BRIGHT_IS_CLOUD = (
    HEAD
    + """
def apply_datacube(cube: xarray.DataArray, context: dict) -> xarray.DataArray:
    blue = cube.sel(bands="B02")
    mask = ((blue > 7000) | np.isnan(blue)).astype("float32")
    inspect(message="labelled", data=list(cube.shape), level="debug")
    return mask.expand_dims(bands=["cloud_mask"]).transpose(*cube.dims)


def apply_metadata(metadata, context: dict):
    return metadata.rename_labels(dimension="bands", target=["cloud_mask"])
"""
)

ECHO = (
    HEAD
    + """
def apply_datacube(cube: xarray.DataArray, context: dict) -> xarray.DataArray:
    return cube
"""
)

# Tells about the chunk through the log, and hands it back.
TELL = (
    HEAD
    + """
def apply_datacube(cube: xarray.DataArray, context: dict) -> xarray.DataArray:
    told = {
        "dims": list(cube.dims), "shape": list(cube.shape), "dtype": str(cube.dtype),
        "y": str(cube.y.dtype), "date": str(cube.attrs.get("t")), "context": context,
        "first": float(cube.x[0]), "nan": int(np.isnan(cube.values).sum()),
        "bands": [str(b) for b in cube.bands.values],
    }
    inspect(data=told, message="chunk", level="info")
    return cube
"""
)

# Each pixel gets the value of its left and upper neighbour.
SHIFT = (
    HEAD
    + """
def apply_datacube(cube: xarray.DataArray, context: dict) -> xarray.DataArray:
    return cube.shift(x=1, y=1)
"""
)

# Over all dates: what is above the mean of the pixel's own series.
ABOVE_MEAN = (
    HEAD
    + """
def apply_datacube(cube: xarray.DataArray, context: dict) -> xarray.DataArray:
    above = (cube > cube.mean("t")).any("bands").astype("float32")
    return above.expand_dims(bands=["above"]).transpose("t", "bands", "y", "x")


def apply_metadata(metadata, context: dict):
    return metadata.rename_labels(dimension="bands", target=["above"])
"""
)


def failing(line: str) -> str:
    """A UDF whose body is one line."""
    return (
        HEAD
        + "def apply_datacube(cube: xarray.DataArray, context: dict) -> xarray.DataArray:\n"
        + f"    {line}\n"
    )
