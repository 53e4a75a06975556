"""How fast labels come, on this machine: `make bench` or `python benchmarks/throughput.py`.

Network-only is one call of the network on pixels in memory; the doors around it
add checks, windows, dask and xarray. All in one run, medians, ratios beside them.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
import xarray as xr

from kappamask import load_model, predict_array, predict_cube
from kappamask.bands import NAMES
from kappamask.windows import plan_windows


def make_cube(size: int) -> xr.DataArray:
    """13 bands of noise on a UTM grid, (1, 13, size, size), aligned with the lattice."""
    rng = np.random.default_rng(0)
    scene = rng.random((1, len(NAMES), size, size), dtype=np.float32) * 0.4
    start = 1536 * 10
    cube = xr.DataArray(
        scene,
        dims=("time", "band", "y", "x"),
        coords={
            "time": np.array(["2022-06-02"], "M8[ns]"),
            "band": list(NAMES),
            "y": 300 * start - 5 - 10.0 * np.arange(size),
            "x": 30 * start + 5 + 10.0 * np.arange(size),
        },
        attrs={"level": "L1C"},
    )
    return cube.rio.write_crs(32632)


def measure(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of `repeats` runs after one to warm up."""
    work()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def import_seconds() -> tuple[float, bool]:
    """Seconds of `import kappamask` beyond the interpreter's start, and whether torch came too."""
    code = (
        "import sys, time; t = time.perf_counter(); import kappamask; "
        "print(time.perf_counter() - t, 'torch' in sys.modules)"
    )
    said = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    return float(said[0]), said[1] == "True"


def processor() -> str:
    """Name of the processor, as Linux tells it."""
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123  a device, not a file
            return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048, help="pixels per side")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    import rioxarray  # noqa: F401  registers .rio

    print(f"{processor()}, {torch.get_num_threads()} threads, Python {platform.python_version()}")
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "xarray", "dask")))
    model = load_model("default", "L1C")
    print(f"{model.entry.name}, {model.precision} on {model.device}")
    size = options.size
    cube = make_cube(size)
    layers = list(cube.values[0])
    (window,) = plan_windows(size, size, origin=(0, 0))
    chunked = cube.chunk({"y": 1536, "x": 1536})
    large = make_cube(2 * size)
    rows: list[tuple[str, int, Callable[[], object]]] = [
        ("network only", size, lambda: model.logits(layers, NAMES, window)),
        ("predict_array", size, lambda: predict_array(cube.values[0], NAMES, level="L1C")),
        ("predict_cube", size, lambda: predict_cube(cube).compute()),
        ("predict_cube, chunks of 1536", size, lambda: predict_cube(chunked).compute()),
        ("predict_cube, cut into windows", 2 * size, lambda: predict_cube(large).compute()),
    ]
    print(f"\n{'what':32} {'pixels':>12} {'Mpx/s':>7} {'of network only':>16}")
    first = 0.0
    for what, side, work in rows:
        speed = side * side / 1e6 / measure(work, options.repeats)
        first = first or speed
        print(f"{what:32} {f'{side} x {side}':>12} {speed:7.2f} {speed / first:16.0%}")
    seconds, torch_came = import_seconds()
    print(f"\nimport kappamask: {seconds:.3f} s, torch imported: {torch_came}")


if __name__ == "__main__":
    main()
