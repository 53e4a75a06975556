"""What `kappamask composite` takes over many dates: `python benchmarks/composite.py [--dates 60]`.

The dates of ../shared/data/bolzano (705 x 935 px, four bands, COGs) stand in a static catalogue,
again and again under new days, and the command composes all of them: masks first, then images of
masks that are there. Every figure comes from a process of its own. `BUSY` concerns seconds only:
processor time and memory are little changed by what else runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from machine import peak_gb, print_machine

ROOT = Path(__file__).parents[1]
BOLZANO = ROOT.parent / "shared/data/bolzano"
FIRST, EVERY = np.datetime64("2022-01-02"), 5  # days
TARGET = 2.0  # GB, of 60 dates
RUNS = {
    "median, and masks of all dates": ("--method", "median"),
    "best-pixel": ("--method", "best-pixel"),
    "best-pixel, not refined": ("--method", "best-pixel", "--no-refine"),
    "best-pixel, haze is used": ("--method", "best-pixel", "--no-quality"),
}


def write_dates(folder: Path, dates: int) -> tuple[Path, str]:
    """Write a catalogue of so many dates; return it and the area, as the command takes it."""
    sys.path.append(str(ROOT / "tests"))
    from support.bolzano import BBOX, write_catalog

    real = sorted(path for path in BOLZANO.iterdir() if path.is_dir())
    scenes = folder / "scenes"
    scenes.mkdir()
    for number in range(dates):
        day = str(FIRST + number * EVERY).replace("-", "")
        (scenes / f"S2_L2A_{day}").symlink_to(real[number % len(real)])
    return write_catalog(folder / "catalog", scenes), ",".join(map(str, BBOX))


def run_only(arguments: Sequence[str]) -> None:
    """Run the command in this process; print processor seconds and peak GB."""
    from kappamask.cli import main as command

    if code := command(list(arguments)):
        raise SystemExit(code)
    print(time.process_time(), peak_gb())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dates", type=int, nargs="+", default=[12, 60])
    parser.add_argument("--only", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        run_only(options.only)
        return
    print_machine()
    if not BOLZANO.is_dir():
        print("composites: not measured, they need dates of Bolzano, which are not shipped")
        return
    print(f"\n{'composite':32} {'dates':>6} {'CPU s/date':>11} {'peak GB':>8}")
    for dates in options.dates:
        with tempfile.TemporaryDirectory() as scratch:
            catalog, box = write_dates(Path(scratch), dates)
            for name, how in RUNS.items():
                command = [sys.executable, __file__, "--only", "composite", "--bbox", box]
                command += ["--date", "2022/2032", "--catalog", str(catalog), *how]
                command += ["--out", f"{scratch}/out", "--no-pictures"]
                said = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
                seconds, peak = map(float, said.stdout.split()[-2:])
                print(f"{name:32} {dates:>6} {seconds / dates:11.2f} {peak:8.2f}", flush=True)
    print(f"target: 60 dates at most {TARGET:g} GB")


if __name__ == "__main__":
    main()
