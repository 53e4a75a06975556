"""Three chained steps after the mask on a cube of 1 GB; prints the peak memory in MB.

python tests/support/peak_memory.py FOLDER

A process of its own, since peak memory never falls. The cube is made block by block, and
the UDF is a stand-in: what is measured is the engine.
"""

import json
import resource
import sys
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import openeo
import xarray as xr
from openeo.internal.graph_building import PGNode

from kappamask.openeo import graphs
from kappamask.openeo.local import LocalEngine
from support import udfs

DAYS = ["2022-06-02", "2022-06-12", "2022-06-20", "2022-07-05", "2022-07-15", "2022-07-25"]
BANDS = ["B02", "B03", "B04", "B08"]
THREADS = 2  # each holds a window
SIZE, BLOCK = 3264, 384  # 6 dates x 4 bands x 3264^2 x 4 bytes = 1.02 GB


def make_cube() -> xr.DataArray:
    """Bright discs for clouds over a smooth ground; each block is made when it is read."""

    def block(block_info=None) -> np.ndarray:
        (t, _), _, (top, bottom), (left, right) = block_info[None]["array-location"]
        y, x = np.ogrid[top:bottom, left:right]
        ground = 800 + 500 * np.sin(y / 90 + t) * np.cos(x / 130)
        cloud = (x - 97 * t) % 400 + (y + 55 * t) % 500 < 240
        values = np.where(cloud, 8000, ground).astype(np.float32)
        return np.stack([values * (1 + band / 10) for band in range(len(BANDS))])[None]

    pixels = tuple(min(BLOCK, SIZE - start) for start in range(0, SIZE, BLOCK))
    data = da.map_blocks(
        block, chunks=((1,) * len(DAYS), (len(BANDS),), pixels, pixels), dtype=np.float32
    )
    coords = {
        "t": np.array(DAYS, "M8[ns]"),
        "bands": BANDS,
        "y": 5200000.0 - 5 - 10 * np.arange(SIZE),
        "x": 600000.0 + 5 + 10 * np.arange(SIZE),
    }
    cube = xr.DataArray(data, dims=("t", "bands", "y", "x"), coords=coords)
    return cube.rio.write_crs(32632)


def make_graph() -> dict:
    """Masked NDVI, its monthly median, and the best pixel of each month by NDVI."""
    graphs.udf_code = lambda: udfs.BRIGHT_IS_CLOUD
    cube = openeo.DataCube(
        PGNode("filter_bands", data={"from_parameter": "cube"}, bands=BANDS), connection=None
    )
    masked = cube.mask(graphs.cloud_mask(cube))
    ndvi = masked.ndvi(nir="B08", red="B04")
    monthly = ndvi.aggregate_temporal_period("month", "median")
    size = [{"dimension": dim, "value": 1, "unit": "px"} for dim in ("x", "y")]

    def is_not_highest(data):
        highest = data.max()
        return data.array_apply(lambda x: x != highest)

    rank = ndvi.apply_neighborhood(
        is_not_highest, size=[*size, {"dimension": "t", "value": "month"}], overlap=[]
    )
    best = masked.mask(rank).aggregate_temporal_period("month", "first")
    saved = [
        monthly.save_result("GTiff", options={"filename_prefix": "ndvi"}),
        best.save_result("GTiff", options={"filename_prefix": "best"}),
    ]
    graph = openeo.internal.graph_building.MultiLeafGraph(saved).flat_graph()
    next(n for n in reversed(graph.values()) if n["process_id"] == "save_result")["result"] = True
    return graph


def peak_mb() -> float:
    """Peak memory of this process.

    Not getrusage where /proc tells: its figure begins with that of the process that started
    this one, which is pytest.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 2**10
    )


def main(folder: str) -> None:
    """Run it and print what it took."""
    cube, graph = make_cube(), make_graph()
    before = peak_mb()
    start = time.monotonic()
    with dask.config.set(num_workers=THREADS):
        paths = LocalEngine(catalog="earth-search", folder=folder).run(
            graph, parameters={"cube": cube}
        )
    told = {
        "cube_mb": cube.nbytes / 1e6,
        "imports_mb": before,
        "peak_mb": peak_mb(),
        "seconds": time.monotonic() - start,
        "files": [str(Path(path).name) for path in paths],
    }
    print(json.dumps(told))  # noqa: T201  read by the test


if __name__ == "__main__":
    main(*sys.argv[1:])
