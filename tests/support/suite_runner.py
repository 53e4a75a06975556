"""Plugin for openeo-test-suite: its cases run on `LocalEngine`.

    pytest -p openeo_test_suite.lib.pytest_plugin -p support.suite_runner --runner=dask \
        --pyargs openeo_test_suite.tests.processes.processing

The suite knows its runners by name, so this one stands in for the one of
openeo-processes-dask; the folder of cases comes in the variable KAPPAMASK_SUITE_CASES.
"""

import json
import os
import sys
import types
from pathlib import Path

import dask.array as da
import numpy as np
import xarray as xr
from openeo_test_suite.lib.process_registry import ProcessRegistry
from openeo_test_suite.lib.process_runner.base import ProcessTestRunner
from openeo_test_suite.lib.process_runner.util import (
    datacube_to_xarray,
    numpy_to_native,
    xarray_to_datacube,
)

from kappamask.openeo.engine.evaluate import Callback
from kappamask.openeo.local import LocalEngine


class LocalRunner(ProcessTestRunner):
    """Each case is a graph of one node; cubes are lazy, in small blocks."""

    def __init__(self):
        self.engine = LocalEngine(catalog="no-catalogue-is-asked")

    def list_processes(self):
        return self.engine.processes()

    def execute(self, id, arguments):  # noqa: A002  as the suite names it
        node = {
            "process_id": id,
            "arguments": {name: {"from_parameter": name} for name in arguments},
            "result": True,
        }
        # Not `run`: it would refuse NaN, which no JSON graph can hold, as an argument.
        return self.engine._evaluator.run({"case": node}, arguments)["case"]

    def encode_process_graph(self, process, parent_process_id=None, parent_parameter=None):
        """Twelve cases say from_argument, a word that openEO never had, for from_parameter."""
        del parent_process_id, parent_parameter
        text = json.dumps(process["process_graph"]).replace("from_argument", "from_parameter")
        return Callback(self.engine._evaluator, json.loads(text), {}, "")

    def encode_labeled_array(self, data):
        pairs = data["data"]
        values = [self.get_nodata_value() if isinstance(p["value"], dict) else p["value"]
                  for p in pairs]  # fmt: skip
        return xr.DataArray(values, {"labels": [p["key"] for p in pairs]}, ["labels"])

    def encode_datacube(self, data):
        """Of a number for no data the engine's cubes have NaN."""
        cube = datacube_to_xarray(data)
        if isinstance(cube.attrs.get("nodata"), int):
            cube = cube.where(cube != cube.attrs["nodata"])
        return cube.chunk(dict.fromkeys(cube.dims, 2)) if cube.size else cube

    def decode_data(self, data, expected):
        if isinstance(data, da.Array | xr.DataArray):
            data = data.compute()
        if isinstance(data, xr.DataArray):
            data = decode_cube(data.reset_coords(drop=True), expected)
        data = numpy_to_native(data, expected)
        if isinstance(expected, bool) and data in (0, 1):
            data = bool(data)  # arrays hold true, false and no data as numbers
        if expected is None and isinstance(data, float) and np.isnan(data):
            data = None  # no data is NaN in the engine, null in JSON
        return data

    def get_nodata_value(self):
        return float(np.nan)


def decode_cube(cube, expected):
    """A cube or a labeled array in the suite's form."""
    values = cube.to_numpy().tolist()
    if cube.dims == ("labels",):
        pairs = zip(cube["labels"].to_numpy().tolist(), values, strict=True)
        labeled = {"type": "labeled-array", "data": [{"key": k, "value": v} for k, v in pairs]}
        return values if isinstance(expected, list) else labeled
    if isinstance(expected, dict) and isinstance(expected.get("nodata"), int):
        cube = cube.fillna(expected["nodata"])
    data, told = xarray_to_datacube(cube), {}
    if isinstance(expected, dict) and isinstance(expected.get("dimensions"), dict):
        told = expected["dimensions"]
    for name, dim in data["dimensions"].items():
        if name in told and "axis" not in told[name]:  # five cases forgot it
            dim.pop("axis", None)
    return data


module = types.ModuleType("openeo_test_suite.lib.process_runner.dask")
module.Dask = LocalRunner
sys.modules[module.__name__] = module
ProcessRegistry._guess_root = lambda _: Path(os.environ["KAPPAMASK_SUITE_CASES"])
