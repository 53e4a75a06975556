"""Process graphs: sound ones with fields changed, sums that Python can check, and any JSON."""

from __future__ import annotations

import copy
import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import xarray as xr
from hypothesis import strategies as st
from openeo import DataCube

from fuzz.mutate import HOSTILE, mutated, nested
from kappamask.openeo.graphs import cloud_free_composite, cloud_mask

ROOT = Path(__file__).resolve().parents[2]
AREA = (22.146, 45.201, 22.156, 45.206)  # in the embedded sample
DATES = "2019-07"
# No text here may look like an address: nothing is to be asked, and nothing that is code.
TARGETS = {
    "process_id": ["add", "min", "nothing", "", "load_collection", "reduce_dimension", "run_udf",
                   "save_result", "array_element", "if", "apply", "mask", 5, None, "merge_cubes",
                   "filter_bands", "filter_bbox", "resample_spatial", "aggregate_spatial",
                   "divide"],
    "namespace": [None, "user", "backend", [], {}, 5, "https://x", ["user"], "predefined"],
    "from_node": ["one", "nothing", "", None, [], {}, 5, "result"],
    "from_parameter": ["data", "x", "nothing", "", None, [], {}, 5],
    "result": [True, False, None, 1, "true", []],
    "dimension": ["t", "bands", "x", "y", "nothing", "", 5],
    "bands": [[], ["B02"], ["B02", "B02"], ["B99"], "B02", [None], [["B02"]], [5], {"a": 1}],
    "index": [0, -1, 99, 1.5, 10**30, None],
    "spatial_extent": [None, {}, {"west": 1}, {"west": 22, "south": 45, "east": 23, "north": "46"},
                       {"west": 1e308, "south": 0, "east": 1, "north": 1},
                       {"west": 22.146, "south": 45.201, "east": 22.156, "north": 45.206, "crs": 5},
                       {"west": 0, "south": 0, "east": 1, "north": 1, "crs": "nonsense"},
                       {"type": "Point", "coordinates": [1, 2]}, {"type": "FeatureCollection"}],
    "temporal_extent": [None, [], ["2019-07-01"], ["x", "y"], [None, None], ["2019-07-02",
    "2019-07-01"],
                        ["9999-12-31", None], ["0001-01-01T00:00:00+23:59", "2019-08-01"],
                        [10**30, 1], ["2019", "2020"], [[], []]],
    "period": ["month", "week", "nothing", "", 5, None, "decade"],
    "size": [[], [{}], [{"dimension": "x"}], [{"dimension": "x", "value": 10**400, "unit": "px"}],
             [{"dimension": d, "value": -1, "unit": "px"} for d in "xy"], "x", [None],
             [{"dimension": d, "value": 1, "unit": "px"} for d in "xy"]],
    "overlap": [[], [{"dimension": d, "value": 10**9, "unit": "px"} for d in "xy"], None],
    "kernel": [[], [[]], [[1]], [[1, 2], [3]], [["x"]], [[1e308] * 3] * 3, 5],
    "runtime": ["Python", "R", "", 5],
    "udf": ["", "x", "def", 5, "../../etc/passwd", None, "def apply_datacube(:\n  pass"],
    "format": ["GTiff", "netCDF", "PNG", "", 5, "../x"],
    "context": [None, {}, [], 5, {"output": "mask", "buffer_px": -1}],
    "schema": [5, None, {}, [], {"type": "banana"}, {"type": ["number", 5]}, {"pattern": "("},
               {"$ref": "http://127.0.0.1:9/x.json"}, {"$ref": "#/nothing"}, {"minimum": "x"},
               {"type": "number"}, {"parameters": 5}, {"parameters": [5]}, {"enum": 5},
               {"properties": 5}, {"additionalProperties": {"parameters": [{}]}},
               {"pattern": "(a+)+$"}],
    "parameters": [None, [], [5], [{}], [{"name": 5}], [{"name": "x"}], {"x": 1}],
    "process_graph": [None, {}, [], {"a": None}, {"a": {}}, {"a": {"process_id": "add"}}],
}  # fmt: skip
TEXTS = [value for value in HOSTILE if not (isinstance(value, str) and "//" in value)]


@cache
def cube():
    """A cube that a graph may get as its parameter `data`."""
    import rioxarray  # noqa: F401  registers .rio

    values = np.random.default_rng(3).random((3, 4, 6, 5)).astype(np.float32)
    return (
        xr.DataArray(
            values,
            dims=("t", "bands", "y", "x"),
            coords={
                "t": np.array(["2019-07-01", "2019-07-11", "2019-08-05"], "M8[ns]"),
                "bands": ["B02", "B03", "B04", "B08"],
                "y": 5000055.0 - 10 * np.arange(6),
                "x": 600005.0 + 10 * np.arange(5),
            },
        )
        .rio.write_crs(32632)
        .chunk()
    )


def node(process, /, *, result=False, **arguments):
    made = {"process_id": process, "arguments": arguments}
    return made | ({"result": True} if result else {})


def one(process, /, **arguments):
    return {"one": node(process, result=True, **arguments)}


def child(process, /, **arguments):
    return {"process_graph": one(process, **arguments)}


@cache
def sound_graphs():
    """Graphs that run: what users send, small."""
    data, x = {"from_parameter": "data"}, {"from_parameter": "x"}
    extent = dict(zip(("west", "south", "east", "north"), AREA, strict=True))
    loaded = DataCube.load_collection(
        "SENTINEL2_L2A", None, extent, ["2019-07-01", "2019-07-12"], ["B04", "B08"]
    )
    udp = json.loads((ROOT / "udf/kappamask.json").read_text("utf-8"))
    pixel = [{"dimension": d, "value": 1, "unit": "px"} for d in "xy"]
    mean, median = child("mean", data=data), child("median", data=data)
    first = child("array_element", data=data, index=0)
    add = child("add", x=x, y=1)
    each = child("array_apply", data=data, process=add)
    before = {"from_node": "before"}
    graphs = [
        {"before": node("add", x=1, y=2), **one("multiply", x=before, y=3)},
        {
            "before": node("reduce_dimension", data=data, dimension="t", reducer=mean),
            **one("reduce_dimension", data=before, dimension="bands", reducer=first),
        },
        one("apply", data=data, process=add),
        one("apply_kernel", data=data, kernel=[[1, 2, 1]] * 3, factor=0.1),
        {
            "before": node("filter_bands", data=data, bands=["B02"]),
            **one("mask", data=data, mask=before, replacement=0),
        },
        one("aggregate_temporal_period", data=data, period="month", reducer=median),
        one("apply_neighborhood", data=data, process=each, size=pixel, overlap=[]),
        {
            "before": node("ndvi", data=data, nir="B08", red="B04"),
            **one("save_result", data=before, format="GTiff"),
        },
        one("array_element", data=[1, 2, 3], index=1),
        one("filter_temporal", data=data, extent=["2019-07-01", "2019-08-01"]),
        one("filter_bbox", data=data, extent=extent),
        one("rename_labels", data=data, dimension="bands", target=list("abcd")),
        loaded.ndvi(nir="B08", red="B04").reduce_dimension("t", "max").flat_graph(),
        cloud_mask(loaded).flat_graph(),
        cloud_free_composite(None, AREA, DATES).flat_graph(),
        udp["process_graph"],
    ]
    return copy.deepcopy(graphs)  # some parts are in several places


def no_code(path):
    """Leave the text of a UDF as it is: what is changed there would be run."""
    return 0 if path[-1] == "udf" else 3 if path[-1] in TARGETS else 1


def changed_graphs(graphs=None):
    """Sound graphs with one to three fields changed; code in them is taken out."""
    return st.sampled_from(graphs or sound_graphs()).flatmap(
        lambda graph: mutated(graph, targets=TARGETS, values=TEXTS, weights=no_code)
    )


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([v for v in TEXTS if isinstance(v, str)]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)
any_node = st.fixed_dictionaries(
    {},
    optional={
        "process_id": st.sampled_from(TARGETS["process_id"]) | json_values,
        "arguments": st.dictionaries(
            st.sampled_from(["x", "y", "data", "process", "index", "id", "bands"]),
            json_values
            | st.builds(lambda n: {"from_node": n}, st.sampled_from(["a", "b", "c", 5])),
            max_size=4,
        ),
        "result": st.booleans() | json_values,
        "namespace": json_values,
    },
)
any_graphs = json_values | st.dictionaries(
    st.sampled_from(["a", "b", "c", ""]), any_node, max_size=3
)


@st.composite
def odd_graphs(draw):
    """Graphs whose form is the trouble: circles, depth, width, chains, lists of all kinds."""
    size = draw(st.sampled_from([2, 30, 300, 1500]))
    data = {"from_parameter": "data"}

    def nodes(process, count, follow):
        """Give nodes that each take one or more others."""
        made = {f"n{n}": node(process, **follow(n)) for n in range(count)}
        made["n0"]["result"] = True
        return made

    def after(number, keys="x"):
        return {"y": 1} | {key: {"from_node": f"n{number}"} for key in keys}

    def children():
        graph = child("add", x={"from_parameter": "x"}, y=1)
        for _ in range(min(size, 300)):
            graph = child("array_apply", data=[1], process=graph)
        return graph["process_graph"]

    last, few = {f"n{size}": node("add", x=0, y=1)}, min(size, 60)
    made = {
        "self": lambda: one("add", x={"from_node": "one"}, y=1),
        "circle": lambda: nodes("add", size, lambda n: after((n + 1) % size)),
        "deep": lambda: one("array_element", data=nested(size), index=0),
        "wide": lambda: nodes("add", size, lambda n: {"x": 1, "y": n}),
        "chain": lambda: nodes("add", size, lambda n: after(n + 1)) | last,
        # every path of it: two to the power of its length
        "forks": lambda: (
            nodes("multiply", few, lambda n: after(n + 1, "xy"))
            | {f"n{few}": node("add", x=0, y=1)}
        ),
        "children": children,
        "mixed": lambda: one(
            "filter_bands",
            data=data,
            bands=[None, True, {"a": 1}, "x", 1.5] * (size // 2) + list(range(size)),
        ),
    }
    return made[draw(st.sampled_from(sorted(made)))]()


OPERATIONS = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
}


@st.composite
def sums(draw):
    """A graph of plain arithmetic, and what it must give; None where it must be refused."""
    number = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6)
    graph, values = {}, {}
    for place in range(draw(st.integers(1, 8))):
        name, arguments, numbers = f"n{place}", {}, []
        for key in "xy":
            if values and draw(st.booleans()):
                other = draw(st.sampled_from(sorted(values)))
                arguments[key], value = {"from_node": other}, values[other]
            else:
                arguments[key] = value = draw(number)
            numbers.append(value)
        process = draw(st.sampled_from(sorted(OPERATIONS)))
        if process == "divide" and numbers[1] == 0:
            process = "subtract"
        graph[name], values[name] = node(process, **arguments), OPERATIONS[process](*numbers)
    graph[name]["result"] = True
    if not math.isfinite(values[name]):
        values[name] = None
    shuffled = draw(st.permutations(sorted(graph)))
    return {key: graph[key] for key in shuffled}, values[name]
