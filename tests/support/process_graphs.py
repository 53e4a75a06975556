"""Process graphs for tests: the synthetic scene as a client loads it, nodes and child graphs."""

import dask.array as da
import numpy as np
import openeo
import xarray as xr

from kappamask.openeo.local import LocalEngine
from support import synthetic

DATES = ["2022-06-01", "2022-08-01"]
DATA = {"data": {"from_parameter": "data"}}
X = {"x": {"from_parameter": "x"}}
NONE = "no-catalogue-is-asked"


def load(scene, bands=synthetic.BANDS, **changes):
    """The scene as a cube of the ordinary client."""
    arguments = {"spatial_extent": scene.extent, "temporal_extent": DATES}
    arguments |= {"collection_id": "SENTINEL2_L2A", "bands": bands and list(bands)} | changes
    return openeo.DataCube.load_collection(**arguments)


def given_cube(**coords):
    """A small lazy cube that a graph gets as the parameter `cube`."""
    return xr.DataArray(
        da.arange(24, dtype=np.float32, chunks=24).reshape(4, 1, 2, 3).rechunk((1, 1, 2, 2)),
        dims=("t", "bands", "y", "x"),
        coords={
            "t": np.array(["2022-06-01", "2022-06-20", "2022-07-03", "2022-07-31"], "M8[ns]"),
            "bands": ["B02"],
            "y": [20.0, 10.0],
            "x": [0.0, 10.0, 20.0],
            **coords,
        },
    )


def one_node(process_id, /, **arguments):
    """A graph of one node, over the parameter `cube` unless told."""
    arguments = {"data": {"from_parameter": "cube"}} | arguments
    return {"n": {"process_id": process_id, "arguments": arguments, "result": True}}


def child(**nodes):
    """A child graph of nodes (process, arguments); the last one is the result."""
    graph = {k: {"process_id": p, "arguments": a} for k, (p, a) in nodes.items()}
    graph[list(graph)[-1]]["result"] = True
    return {"process_graph": graph}


def pixels(*size, t=None):
    """Sizes of `apply_neighborhood` in x and y, and in t."""
    sizes = [{"dimension": d, "value": v, "unit": "px"} for d, v in zip("xy", size, strict=True)]
    return sizes + ([] if t is None else [{"dimension": "t", "value": t}])


def run(graph, log=None, **parameters):
    """Run a graph that needs no catalogue."""
    return LocalEngine(catalog=NONE, log=log).run(graph, parameters=parameters)
