"""One window of reflectance to labels or probabilities. Row 3: imports rows 0-2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np

from kappamask.base.bands import NEAR_INFRARED, REQUIRED, check_level, check_network_bands, get_band
from kappamask.base.errors import InputError
from kappamask.base.legend import PREDICTED, Label
from kappamask.base.windows import LATTICE, Lattice, Span, Window
from kappamask.networks.model import Model, load_model

Output = Literal["labels", "probabilities"]
OUTPUTS = ("labels", "probabilities")
HIGHEST_REFLECTANCE = 10.0  # a uint16 DN / 10000 stays below 6.6
LOWEST_REFLECTANCE = -1.0  # the offset leads to -0.1, the correction of the atmosphere further
_NETWORK = Lock()  # the network uses every core: one window at a time per process


@dataclass(frozen=True)
class Task:
    """What to do with every window of a scene."""

    model: Model
    bands: tuple[str, ...]  # along the band axis of what is read
    output: Output

    @property
    def required(self) -> list[int]:
        """Where the bands stand without which a pixel has no data."""
        nir = next(name for name in NEAR_INFRARED if name in self.bands)
        return [self.bands.index(name) for name in (*REQUIRED, nir)]

    @property
    def leading(self) -> tuple[int, ...]:
        """Shape of the result before (y, x)."""
        return () if self.output == "labels" else (len(PREDICTED),)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the result."""
        return np.dtype(np.uint8 if self.output == "labels" else np.float32)


def make_task(bands: Sequence[str], *, level: str, model: str | Model, output: Output) -> Task:
    """Check what is asked for once, before any pixel is read."""
    if output not in OUTPUTS:
        raise InputError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
    level = check_level(level)
    given = check_network_bands(bands, level)
    loaded = load_model(model, level) if isinstance(model, str) else model
    if loaded.level != level:
        raise InputError(f"the model was loaded for {loaded.level}, the input is {level}")
    return Task(loaded, choose_bands(loaded, given), output)


def choose_bands(model: Model, given: Sequence[str]) -> tuple[str, ...]:
    """Choose what the network is fed: its own bands, or every band of reflectance.

    Raises
    ------
    InputError
        If the network needs bands that are not there.
    """
    if not model.bands:
        return tuple(name for name in given if get_band(name).is_reflectance)
    absent = [name for name in model.bands if name not in given]
    if absent:
        raise InputError(
            f"model {model.entry.name!r} needs {', '.join(model.bands)}; missing "
            f"{', '.join(absent)}, got {', '.join(given)}: load them too, "
            "load_cube(..., bands=load_model(...).bands), or choose the default model"
        )
    return model.bands


def check_reflectance_dtype(dtype: np.dtype[Any]) -> None:
    """Refuse integers: they are DN, whose scale and offset only the caller knows."""
    if dtype.kind != "f":
        raise InputError(
            f"reflectance is floating point with 1.0 = 100 %, got {dtype}, which looks like DN: "
            "pass (DN + offset) / 10000 with NaN for no data (offset -1000 from baseline 04.00)"
        )


def predict_window(task: Task, layers: Sequence[np.ndarray], window: Window) -> np.ndarray:
    """Label the core of one window.

    Parameters
    ----------
    task
        Model, band names and output.
    layers
        One (y, x) array per band of the pixels that `window` reads.
    window
        Core, margin and padding.

    Returns
    -------
    numpy.ndarray
        (y, x) uint8 or (4, y, x) float32 of the core.
    """
    with np.errstate(over="ignore"):  # beyond float32 is infinite: no data
        layers = [np.ascontiguousarray(layer, dtype=np.float32) for layer in layers]
    layers = [check_layer(*named) for named in zip(layers, task.bands, strict=True)]
    valid = find_valid(task, layers)
    core = valid[window.rows.crop, window.columns.crop]
    nothing = int(Label.MISSING) if task.output == "labels" else np.nan
    result = np.full((*task.leading, *core.shape), nothing, task.dtype)
    if not core.any():
        return result
    box = find_box(valid)
    lattice = task.model.entry.lattice
    inner = Window(
        trim_span(window.rows, box[0], lattice=lattice),
        trim_span(window.columns, box[1], lattice=lattice),
    )
    # Writable: torch warns of memory that is not, though nothing is written there.
    layers = [np.require(layer[box], requirements=("C", "W")) for layer in layers]
    runner = task.model.runner
    with _NETWORK:
        logits = task.model.logits(layers, task.bands, inner)
        if task.output == "probabilities":
            predicted = runner.softmax(logits)
        else:
            predicted = np.array(PREDICTED, np.uint8)[runner.argmax(logits)]
    rows = slice(inner.rows.start - window.rows.start, inner.rows.stop - window.rows.start)
    columns = slice(
        inner.columns.start - window.columns.start, inner.columns.stop - window.columns.start
    )
    result[..., rows, columns] = predicted
    result[..., ~core] = nothing
    return result


def find_box(valid: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the smallest rectangle that holds every valid pixel.

    Examples
    --------
    >>> find_box(np.eye(4, dtype=bool)[1:3])
    (slice(0, 2, None), slice(1, 3, None))
    """
    rows, columns = (np.flatnonzero(valid.any(axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def trim_span(span: Span, inner: slice, *, lattice: Lattice = LATTICE) -> Span:
    """Leave out what was read beside `inner`, and mirror there as at the edge of an array.

    A network that meets no data draws a line of thin cloud along it. The grid of the
    network stays where it was.

    Parameters
    ----------
    span
        One axis of a window.
    inner
        Part of the pixels read, counted from `span.read_start`.
    lattice
        Sizes of stride and mirror.

    Examples
    --------
    >>> from kappamask.base.windows import plan_axis
    >>> span = plan_axis(64)[0]
    >>> trim_span(span, slice(0, 64)) == span
    True
    >>> trimmed = trim_span(span, slice(3, 64))
    >>> trimmed.start, trimmed.pad_before, trimmed.size % 32
    (3, 35, 0)
    """
    before, after = inner.start, span.read_stop - span.read_start - inner.stop
    read_start, read_stop = span.read_start + before, span.read_stop - after
    pad_before, pad_after = span.pad_before, span.pad_after
    if before:
        pad_before = (pad_before + before) % lattice.stride + lattice.mirror
    if after:
        pad_after = (pad_after + after) % lattice.stride + lattice.mirror
    start, stop = max(span.start, read_start), min(span.stop, read_stop)
    return Span(start, stop, read_start, read_stop, pad_before, pad_after)


def find_valid(task: Task, layers: Sequence[np.ndarray]) -> np.ndarray:
    """Find pixels with data, (y, x) bool."""
    valid = np.ones(layers[0].shape, bool)
    for index in task.required:
        valid &= np.isfinite(layers[index])
    return valid


def check_layer(layer: np.ndarray, name: str) -> np.ndarray:
    """Refuse finite values that no reflectance has; give NaN for infinite ones.

    Of every band: a value far out in one spoils what the network says of all pixels around.

    Raises
    ------
    InputError
        If there are any.

    Examples
    --------
    >>> check_layer(np.array([[0.1, -9999.0]]), "B02")
    Traceback (most recent call last):
    kappamask.base.errors.InputError: reflectance lies between 0 and about 2 ...
    """
    limited = get_band(name).is_reflectance
    for find, limit in ((np.fmax, HIGHEST_REFLECTANCE), (np.fmin, LOWEST_REFLECTANCE)):
        found = find.reduce(layer, axis=None)
        if np.isinf(found):
            layer = np.where(np.isfinite(layer), layer, np.float32(np.nan))
            found = find.reduce(layer, axis=None)
        if limited and abs(found) > abs(limit) and found * limit > 0:
            looks = (
                "looks like DN: pass (DN + offset) / 10000 "
                "(offset -1000 from baseline 04.00, else 0)"
                if limit > 0
                else "looks like a number for no data: pass NaN there"
            )
            raise InputError(
                f"reflectance lies between 0 and about 2 (1.0 = 100 %), got {found:g} in {name}, "
                f"which {looks}"
            )
    return layer
