"""How fast labels come, on this machine: `make bench` or `python benchmarks/throughput.py`.

Network-only is one call of the network on pixels in memory; the doors around it add
checks, windows, dask and xarray. Beside it, in the same run on the same pixels, stand
programs that others made. Medians of several runs after one to warm up; a process of its
own for peak memory, and for the time from nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from machine import measure_by_turns, median_seconds, peak_gb, print_machine, record
from pixels import make_cube

from kappamask import load_model, predict_array, predict_batch, predict_cube
from kappamask.base.bands import NAMES
from kappamask.base.windows import plan_windows

SERIES = (3, 12)  # dates of one cube
TARGET = 6.0  # Mpx/s of the network alone
CHIP = 256  # pixels per side of a chip
CHIPS_TARGET = 0.9  # of the speed of the network on one large window


def print_doors(size: int, repeats: int) -> None:
    """Print how fast the network is, alone and behind each door."""
    model = load_model("default", "L1C")
    print(f"{model.entry.name}, {model.precision} on {model.device}")
    record("model", model.entry.name, precision=model.precision, device=model.device)
    cube, large = make_cube(size), make_cube(2 * size)
    layers = list(cube.values[0])
    (window,) = plan_windows(size, size, origin=(0, 0))
    chunked = cube.chunk({"y": 1536, "x": 1536})
    sides = {
        "network only": (size, lambda: model.batch_largest([(layers, window)], NAMES)),
        "predict_array": (size, lambda: predict_array(cube.values[0], NAMES, level="L1C")),
        "predict_cube": (size, lambda: predict_cube(cube).compute()),
        "predict_cube, chunks of 1536": (size, lambda: predict_cube(chunked).compute()),
        "predict_array, twice the side": (
            2 * size,
            lambda: predict_array(large.values[0], NAMES, level="L1C"),
        ),
        "predict_cube, twice the side": (2 * size, lambda: predict_cube(large).compute()),
    }
    works = {what: (side**2, work) for what, (side, work) in sides.items()}
    speeds = measure_by_turns(works, repeats, time.perf_counter)
    print(f"\n{'doors, by turns':32} {'pixels':>14} {'Mpx/s':>8} {'of network only':>16}")
    first = speeds["network only"]
    for what, (side, _) in sides.items():
        speed = speeds[what]
        print(f"{what:32} {f'{side} x {side}':>14} {speed:8.2f} {speed / first:16.0%}", flush=True)
        record("doors", what, pixels=f"{side} x {side}", speed=speed, share=speed / first)
    print(f"target: network only at least {TARGET:g} Mpx/s: {verdict(first >= TARGET)}")


def print_chips(count: int, size: int, repeats: int, clock: Callable[[], float]) -> None:
    """Print how fast many chips are labelled, beside the network alone on one large window.

    Both count the pixels that are labelled, not the mirrored ones that the network sees beside
    them.
    """
    model = load_model("default", "L1C")
    large = make_cube(size).values[0]
    (window,) = plan_windows(size, size, origin=(0, 0))
    chips = np.stack([large[:, :CHIP, :CHIP]] * count)
    works: dict[str, tuple[float, Callable[[], object]]] = {
        f"network only, {size} x {size}": (
            size**2,
            lambda: model.batch_largest([(list(large), window)], NAMES),
        ),
        f"predict_batch, {count} x {CHIP} x {CHIP}": (
            count * CHIP**2,
            lambda: predict_batch(chips, NAMES, level="L1C", model=model),
        ),
    }
    speeds = measure_by_turns(works, repeats, clock)
    print(f"\n{'chips, by turns':36} {'Mpx/s':>8} {'of network only':>16}")
    first, last = speeds.values()
    for what, speed in speeds.items():
        print(f"{what:36} {speed:8.2f} {speed / first:16.0%}")
        record("chips", what, speed=speed, share=speed / first)
    reached = last / first >= CHIPS_TARGET
    print(f"target: at least {CHIPS_TARGET:.0%} of the network: {verdict(reached)}")


def print_peers(size: int, repeats: int, clock: Callable[[], float]) -> None:
    """Print other programs beside our network, all on the same pixels of one size."""
    from peers import measure_peers

    model = load_model("default", "L1C")
    layers = list(make_cube(size).values[0])
    (window,) = plan_windows(size, size, origin=(0, 0))
    ours = size * size, lambda: model.batch_largest([(layers, window)], NAMES)
    speed = ours[0] / 1e6 / median_seconds(ours[1], repeats, clock)
    print(f"\n{'on the same pixels':32} {'pixels':>20} {'Mpx/s':>8} {'ours is':>10} {'target':>8}")
    name = f"{model.entry.name}, {model.precision}"
    print(f"{name:32} {f'{size} x {size}':>20} {speed:8.2f}", flush=True)
    record("peers", name, pixels=f"{size} x {size}", speed=speed)
    for answer in measure_peers(make_cube(size).values[0], ours, repeats=repeats, clock=clock):
        if answer.reason:
            print(f"{answer.name:32} not measured: {answer.reason}", flush=True)
            record("peers", answer.name, reason=answer.reason)
            continue
        record(
            "peers",
            answer.name,
            pixels=answer.pixels,
            speed=answer.speed,
            ratio=answer.ratio,
            target=answer.target,
        )
        print(
            f"{answer.name:32} {answer.pixels:>20} {answer.speed:8.3f} {answer.ratio:8.1f} x"
            f" {answer.target:6.0f} x  {verdict(answer.ratio >= answer.target)}",
            flush=True,
        )


def print_series(size: int) -> None:
    """Print time and peak memory of cubes of several dates, each in a new process."""
    print(f"\n{'cube of dates':32} {'pixels':>20} {'first':>8} {'again':>8} {'peak GB':>8}")
    for dates in SERIES:
        command = [sys.executable, __file__, "--only", str(dates), str(size)]
        said = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        first, again, share, peak = map(float, said.stdout.split()[-4:])
        pixels = f"{dates} x {size} x {size}"
        record("series", pixels, first=first, again=again, peak=peak, share=share)
        print(
            f"{f'predict_cube, {dates} dates':32} {pixels:>20} {first:6.2f} s {again:6.2f} s"
            f" {peak:8.2f} {share:.0%} of network only, by turns",
            flush=True,
        )


def run_series(dates: int, size: int) -> None:
    """Label a lazy cube: print seconds of the first time, of later ones, their share, peak GB."""
    cube = make_cube(size, dates=dates)
    labels = predict_cube(cube)
    began = time.perf_counter()
    labels.compute()
    first, peak = time.perf_counter() - began, peak_gb()
    model = load_model("default", "L1C")
    layers = list(make_cube(2 * size).values[0])
    (window,) = plan_windows(2 * size, 2 * size, origin=(0, 0))
    pixels = dates * size**2
    works: dict[str, tuple[float, Callable[[], object]]] = {
        "cube": (pixels, labels.compute),
        "network": (4 * size**2, lambda: model.batch_largest([(layers, window)], NAMES)),
    }
    speeds = measure_by_turns(works, 3, time.perf_counter)
    print(first, pixels / 1e6 / speeds["cube"], speeds["cube"] / speeds["network"], peak)


def verdict(reached: bool) -> str:
    """Say whether a target was reached."""
    return "reached" if reached else "MISSED"


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


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048, help="pixels per side")
    parser.add_argument("--peer-size", type=int, default=1024, help="the same for the programs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--chips", type=int, default=512, help=f"of {CHIP} px per side")
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="programs and chips only, Mpx per second of processor time: for a machine that others "
        "use, held to one core (`OMP_NUM_THREADS=1 taskset -c 0`), as waiting threads burn time",
    )
    parser.add_argument("--only", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--programs", action="store_true", help="other programs only")
    options = parser.parse_args()
    if options.only:
        run_series(*options.only)
        return
    if options.programs:
        print_peers(options.peer_size, options.repeats, time.perf_counter)
        return
    print_machine()
    if options.cpu:
        print_chips(options.chips, options.size, options.repeats, time.process_time)
        print_peers(options.peer_size, options.repeats, time.process_time)
        return
    print_doors(options.size, options.repeats)
    print_chips(options.chips, options.size, options.repeats, time.perf_counter)
    # In a process of its own: what doors to large cubes leave of the memory slows every network.
    sys.stdout.flush()
    words = ["--programs", f"--peer-size={options.peer_size}", f"--repeats={options.repeats}"]
    subprocess.run([sys.executable, "-W", "ignore", __file__, *words], check=True)  # noqa: S603
    print_series(options.peer_size)
    seconds, torch_came = import_seconds()
    record("import", "import kappamask", seconds=seconds, torch=torch_came)
    print(f"\nimport kappamask: {seconds:.3f} s, torch imported: {torch_came}")


if __name__ == "__main__":
    main()
