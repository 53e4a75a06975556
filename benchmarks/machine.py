"""What figures of speed are worth nothing without: the machine, the versions, how busy it was."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kappamask.networks.runners import available_threads

BUSY = 0.5  # load beyond this before a run: other programs took part of the cores
PACKAGES = (
    "kappamask", "torch", "onnxruntime", "numpy", "xarray", "dask", "s2cloudless", "ukis-csmask",
)  # fmt: skip


def processor() -> str:
    """Name of the processor, as Linux tells it."""
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123  a device, not a file
            return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def version_of(package: str) -> str:
    """Find the installed version, or say that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def record(table: str, row: str, **figures: Any) -> None:
    """Add a row to the file that BENCH_JSON names, if any: `docs/tools/performance.py` reads it."""
    if path := os.environ.get("BENCH_JSON"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"table": table, "row": row, **figures}) + "\n")


def print_machine() -> None:
    """Print processor, versions and load; say so if the figures below cannot be trusted."""
    load = os.getloadavg()[0]
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    print(
        f"{processor()}, {available_threads()} threads, Python {platform.python_version()}, {when}"
    )
    print(", ".join(f"{name} {version_of(name)}" for name in PACKAGES))
    cores = f"{available_threads()} threads"
    record(
        "machine",
        processor(),
        cores=cores,
        load=load,
        when=when,
        versions={name: version_of(name) for name in PACKAGES},
    )
    print(f"load {load:.1f} before" + ("" if load <= BUSY else ": BUSY, timings are not valid"))


def median_seconds(
    work: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median of `repeats` runs after one to warm up."""
    work()
    seconds = []
    for _ in range(repeats):
        began = clock()
        work()
        seconds.append(clock() - began)
    return statistics.median(seconds)


def peak_gb() -> float:
    """Most memory that this process ever held, GB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**20


def measure_by_turns(
    works: dict[str, tuple[float, Callable[[], object]]],
    repeats: int,
    clock: Callable[[], float],
) -> dict[str, float]:
    """Mpx/s of each work (its pixels, what it does), medians.

    They take turns, so that what else the machine does slows all of them; each runs once untimed
    in its turn, so that it finds its own memory and caches and not those of the one before.
    """
    speeds: dict[str, list[float]] = {what: [] for what in works}
    for _ in range(repeats):
        for what, (pixels, work) in works.items():
            work()
            began = clock()
            work()
            speeds[what].append(pixels / 1e6 / (clock() - began))
    return {what: statistics.median(found) for what, found in speeds.items()}
