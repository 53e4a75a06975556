"""What runs the network fastest: `python benchmarks/engines.py`.

Every engine and precision on the same pixels, its labels beside those of torch in fp32.
`torch.compile`, OpenVINO and 8-bit integers (static quantisation by onnxruntime, calibrated on the
same pixels, which favours them) are tried here only: the package does not offer them. OpenVINO is
left out where it is not installed, and bf16 where no hardware computes in it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from machine import median_seconds, print_machine, record
from pixels import make_cube

from kappamask import load_model
from kappamask.base.bands import NAMES
from kappamask.base.windows import Window, plan_windows
from kappamask.networks.model import Model
from kappamask.networks.runners import export_onnx, find_largest, has_bf16
from kappamask.networks.weights import weights_of

FLAGS = [1.0] * 14  # every band, L1C
CHOICES = (
    ("torch", "bf16"),
    ("torch", "fp32"),
    ("onnx", "fp32"),
)
Run = Callable[[], np.ndarray]


class Calibration:
    """What onnxruntime's quantisation reads: two feeds, one a crop of the scene, then nothing."""

    def __init__(self, slots: np.ndarray) -> None:
        flags = np.array([FLAGS], np.float32)
        crops = slots[..., :512, :512], slots[..., -512:, -512:]
        self.feeds = iter([{"slots": crop, "flags": flags} for crop in crops])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Give the next feed, or None."""
        return next(self.feeds, None)


def runs(size: int) -> Iterator[tuple[str, Run]]:
    """Yield the name of each way to run the network, and one run that gives labels (y, x)."""
    layers = list(make_cube(size).values[0])
    (window,) = plan_windows(size, size, origin=(0, 0))
    best = "bf16" if has_bf16() else "fp32"  # imitated bf16 would take minutes and say nothing
    for engine, precision in CHOICES:
        if precision not in ("fp32", best):
            continue
        model = load_model("default", "L1C", precision, engine)
        yield (
            f"{model.runner.version}, {precision}",
            lambda model=model: labels(model, layers, window),
        )
    yield (
        f"torch.compile, {best}",
        compiled(load_model("default", "L1C", best, "torch"), layers, window),
    )
    if find_spec("openvino") is None:
        print("OpenVINO and int8: not measured, openvino is not installed")
        return
    model = load_model("default", "L1C", "fp32", "onnx")
    for precision in ("bf16", "f32", "int8"):
        yield f"openvino, {precision}", in_openvino(model, layers, window, precision)


def labels(model: Model, layers: list[np.ndarray], window: Window) -> np.ndarray:
    """Run the network on pixels in memory."""
    return model.batch_largest([(layers, window)], NAMES)[0]


def compiled(model: Model, layers: list[np.ndarray], window: Window) -> Run:
    """Compile the network for one size; prints how long that takes."""
    import torch

    torch._inductor.config.freezing = True  # noqa: SLF001  no other way to say it
    network: Any = torch.compile(model.network.find_largest)
    slots = model.runner.make_slots(1, *sizes(window))
    flags = torch.tensor([FLAGS])

    def run() -> np.ndarray:
        slots.zero_()
        model.entry.normalisation.fill(slots, layers, NAMES, window)
        with torch.inference_mode():
            return np.asarray(network(slots, flags)[0][crop(window)])

    began = time.perf_counter()
    run()
    print(f"torch.compile took {time.perf_counter() - began:.0f} s for one size of window")
    return run


def in_openvino(model: Model, layers: list[np.ndarray], window: Window, precision: str) -> Run:
    """Let OpenVINO run the ONNX graph; int8: weights and activations quantised, the head too."""
    import openvino

    slots = model.runner.make_slots(1, *sizes(window))
    model.entry.normalisation.fill(slots, layers, NAMES, window)
    options = {} if precision == "int8" else {"INFERENCE_PRECISION_HINT": precision}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fp32.onnx")
        path.write_bytes(export_onnx(weights_of(model.entry)))
        path = quantise(path, slots) if precision == "int8" else path
        session: Any = openvino.Core().compile_model(str(path), "CPU", options)

    def run() -> np.ndarray:
        model.entry.normalisation.fill(slots, layers, NAMES, window)
        logits = session({"slots": slots, "flags": np.array([FLAGS], np.float32)})["logits"][0]
        return find_largest(logits[:, *crop(window)])

    return run


def quantise(path: Path, slots: np.ndarray) -> Path:
    """Quantise an ONNX file to 8 bits; return the new one beside it."""
    from onnxruntime import quantization

    small = path.with_name("int8.onnx")
    quantization.quantize_static(str(path), str(small), Calibration(slots), per_channel=True)
    return small


def sizes(window: Window) -> tuple[int, int]:
    """Rows and columns that the network sees."""
    return window.rows.size, window.columns.size


def crop(window: Window) -> tuple[slice, slice]:
    """Pixels labelled, in what the network sees."""
    return tuple(  # type: ignore[return-value]
        slice(span.crop.start + span.pad_before, span.crop.stop + span.pad_before)
        for span in (window.rows, window.columns)
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048, help="pixels per side")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print_machine()
    found = [
        (name, run(), options.size**2 / 1e6 / median_seconds(run, options.repeats))
        for name, run in runs(options.size)
    ]
    truth = next(
        labelled for name, labelled, _ in found if name.startswith("torch 2") and "fp32" in name
    )
    first = found[0][2]
    print(f"\n{'network only':32} {'Mpx/s':>8} {'of the first':>14} {'labels as torch fp32':>22}")
    for name, labelled, speed in found:
        same = float((labelled == truth).mean())
        print(f"{name:32} {speed:8.2f} {speed / first:13.2f}x {same:22.4%}")
        record("engines", name, speed=speed, ratio=speed / first, same=same)


if __name__ == "__main__":
    main()
