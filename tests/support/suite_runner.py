"""Plugin for openeo-test-suite: its cases run on `LocalEngine`.

    pytest -p openeo_test_suite.lib.pytest_plugin -p support.suite_runner --runner=dask \
        --pyargs openeo_test_suite.tests.processes.processing

The suite knows its runners by name, so this one stands in for the one of
openeo-processes-dask; the folder of cases comes in the variable KAPPAMASK_SUITE_CASES.
"""

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
        del parent_process_id, parent_parameter
        return Callback(self.engine._evaluator, process["process_graph"], {}, "")

    def encode_datacube(self, data):
        cube = datacube_to_xarray(data)
        return cube.chunk(dict.fromkeys(cube.dims, 2)) if cube.size else cube

    def decode_data(self, data, expected):
        if isinstance(data, da.Array | xr.DataArray):
            data = data.compute()
        if isinstance(data, xr.DataArray):
            data = data.reset_coords(drop=True)
        data = xarray_to_datacube(numpy_to_native(data, expected))
        if isinstance(expected, bool) and data in (0, 1):
            data = bool(data)  # arrays hold true, false and no data as numbers
        return data

    def get_nodata_value(self):
        return float(np.nan)


module = types.ModuleType("openeo_test_suite.lib.process_runner.dask")
module.Dask = LocalRunner
sys.modules[module.__name__] = module
ProcessRegistry._guess_root = lambda _: Path(os.environ["KAPPAMASK_SUITE_CASES"])
