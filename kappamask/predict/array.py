"""Reflectance in memory to labels or probabilities, window by window. Imports `networks`, `base`.

One window is one call of the network; small ones of one size go together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Literal, get_args

import numpy as np

from kappamask.base.bands import NEAR_INFRARED, REQUIRED, check_level, check_network_bands, get_band
from kappamask.base.errors import InputError
from kappamask.base.legend import PREDICTED, Label, Snow
from kappamask.base.windows import Lattice, Span, Window, plan_chip, plan_windows
from kappamask.networks.model import Model, load_model
from kappamask.predict.doubts import warn_of_doubts, without_fill
from kappamask.predict.snow import find_snow, snow_bands

Output = Literal["labels", "probabilities", "snow"]
WITH_SNOW = "labels, snow"  # both as planes of one array: what the loop over dates asks for
HIGHEST_REFLECTANCE = 10.0  # a uint16 DN / 10000 stays below 6.6
LOWEST_REFLECTANCE = -1.0  # the offset leads to -0.1, the correction of the atmosphere further
PIXELS_AT_ONCE = 8 * 288**2  # of small windows fed together; more outgrow a processor's caches
_NETWORK = Lock()  # the network uses every core: one call at a time per process
if hasattr(os, "register_at_fork"):  # another thread may have held it when the process was forked
    os.register_at_fork(after_in_child=lambda: globals().update(_NETWORK=Lock()))


@dataclass(frozen=True)
class Task:
    """What to do with every window of a scene."""

    model: Model
    bands: tuple[str, ...]  # along the band axis of what is read
    output: str  # one of `Output`, or `WITH_SNOW`

    def with_snow(self) -> Task:
        """Ask for labels and snow, or for labels alone where the bands do not tell snow."""
        return replace(self, output=WITH_SNOW if snow_bands(self.bands) else "labels")

    @property
    def required(self) -> list[int]:
        """Where the bands stand without which a pixel has no data."""
        nir = next(name for name in NEAR_INFRARED if name in self.bands)
        return [self.bands.index(name) for name in (*REQUIRED, nir)]

    @property
    def leading(self) -> tuple[int, ...]:
        """Shape of the result before (y, x)."""
        return {"probabilities": (len(PREDICTED),), WITH_SNOW: (2,)}.get(self.output, ())

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the result."""
        return np.dtype(np.float32 if self.output == "probabilities" else np.uint8)

    @property
    def told_by(self) -> tuple[int, ...]:
        """Where the bands stand that tell snow; none where nobody asks for it."""
        asked = self.output in ("snow", WITH_SNOW)
        return tuple(self.bands.index(name) for name in snow_bands(self.bands) or () if asked)

    def nothing(self, height: int, width: int) -> np.ndarray:
        """Make the result of pixels without data."""
        codes = {"probabilities": np.nan, "snow": int(Snow.MISSING)}
        missing = codes.get(self.output, int(Label.MISSING))
        result = np.full((*self.leading, height, width), missing, self.dtype)
        if self.output == WITH_SNOW:
            result[1] = Snow.MISSING
        return result


def make_task(bands: Sequence[str], *, level: str, model: str | Model, output: Output) -> Task:
    """Check what is asked for once, before any pixel is read.

    The network is fed its own bands, or, where it takes any, every band of reflectance.

    Raises
    ------
    InputError
        If the output, the level or the model's level is wrong, or bands are missing, B11 for
        snow among them.
    """
    if output not in get_args(Output):
        raise InputError(f"output must be one of {', '.join(get_args(Output))}, got {output!r}")
    level = check_level(level)
    given = check_network_bands(bands, level)
    loaded = load_model(model, level) if isinstance(model, str) else model
    if loaded.level != level:
        raise InputError(f"the model was loaded for {loaded.level}, the input is {level}")
    absent = [name for name in loaded.bands if name not in given]
    if absent:
        raise InputError(
            f"model {loaded.entry.name!r} needs {', '.join(loaded.bands)}; missing "
            f"{', '.join(absent)}, got {', '.join(given)}: load them too, "
            "load_cube(..., bands=load_model(...).bands), or choose the default model"
        )
    fed = loaded.bands or tuple(name for name in given if get_band(name).is_reflectance)
    if output == "snow" and snow_bands(fed) is None:
        raise InputError(
            f"snow is told from other ground by B11 (1.6 micrometres), got {', '.join(fed)}: "
            "load B11 too, or ask for labels, where ground with snow is clear"
        )
    return Task(loaded, fed, output)


def check_reflectance_dtype(dtype: np.dtype[Any]) -> None:
    """Refuse integers: they are DN, whose scale and offset only the caller knows."""
    if dtype.kind != "f":
        raise InputError(
            f"reflectance is floating point with 1.0 = 100 %, got {dtype}, which looks like DN: "
            "pass (DN + offset) / 10000 with NaN for no data (offset -1000 from baseline 04.00)"
        )


def predict_array(
    reflectance: np.ndarray,
    bands: Sequence[str],
    *,
    level: str,
    model: str | Model = "default",
    output: Output = "labels",
    origin: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """Label one scene held in memory.

    Parameters
    ----------
    reflectance
        (band, y, x) floating point, 1.0 = 100 %, offsets applied, NaN = no data (or what a
        `numpy.ma.MaskedArray` masks), one resolution, best at 10 m.
    bands
        Names along the first axis, in any order; B02, B03, B04 and B08 (or B8A)
        at least, more is better. A published model needs all of `Model.bands`; AOT
        is in 1, WVP in cm.
    level
        ``"L1C"`` or ``"L2A"``.
    model
        Name of a model of the manifest, or one that `load_model` gave.
    output
        ``"labels"``; ``"probabilities"`` of the four classes clear, cloud shadow,
        semi-transparent, cloud; or ``"snow"``, which needs B11 (`kappamask.predict.snow`):
        what of the clear ground is covered by it.
    origin
        Row and column of the first pixel on the projected pixel grid
        (`lattice_origin` of a cube). Windows are anchored to that grid, so that
        a shifted area gets the same labels.

    Returns
    -------
    numpy.ndarray
        Labels (y, x) uint8, codes of `Label`; or probabilities (4, y, x) float32
        that sum to 1, NaN where data is missing; or snow (y, x) uint8, codes of
        `kappamask.base.legend.Snow`: 0 none, 100 snow, 205 hidden, 255 missing. A pixel is
        missing where B02, B03, B04 or the near infrared (B08, else B8A) has no data, and where
        all bands are 0 or all -0.1, which is what a DN of 0 becomes.

    Raises
    ------
    InputError
        If the shape, type, bands or level is wrong, or values above 10 or below -1 show
        that DN, or what stands for no data, were passed as reflectance.
    UnknownNameError
        If a band or model is unknown.
    WeightsError
        If the model's weights were not fetched (`kappamask models fetch NAME`), or
        are damaged.

    Examples
    --------
    >>> import numpy as np
    >>> scene = np.full((4, 64, 64), 0.05, dtype="float32")
    >>> scene[:, :, 32:] = np.nan
    >>> labels = predict_array(scene, ["B02", "B03", "B04", "B08"], level="L2A")
    >>> labels.shape, labels.dtype, set(labels[:, 32:].ravel().tolist())
    ((64, 64), dtype('uint8'), {5})
    """
    reflectance = _as_reflectance(reflectance, bands, dims="(band, y, x)")
    if any(int(first) != first for first in origin):
        raise InputError(f"an origin is a whole row and column, got {origin}: see lattice_origin")
    task = make_task(bands, level=level, model=model, output=output)
    lattice, size = task.model.entry.lattice, reflectance.shape[1:]
    windows = plan_windows(*size, origin=origin, lattice=lattice)
    return _label_chips(task, reflectance[None], bands, windows)[0]  # type: ignore[no-any-return]


def predict_batch(
    chips: np.ndarray,
    bands: Sequence[str],
    *,
    level: str,
    model: str | Model = "default",
    output: Output = "labels",
) -> np.ndarray:
    """Label many chips held in memory, several in one call of the network.

    Parameters
    ----------
    chips
        (n, band, y, x) floating point, each as `predict_array` takes it: 1.0 = 100 %, NaN = no
        data. Best of 256 px or more; beyond its edges each one is mirrored. Above 2048 px they
        are cut into windows, as there.
    bands, level, model, output
        As `predict_array` takes them.

    Returns
    -------
    numpy.ndarray
        (n, y, x) uint8, or (n, 4, y, x) float32 of probabilities; of each chip the same in any
        batch. `predict_array`, which mirrors twice as much, differs in some pixels at the edges.

    Raises
    ------
    InputError, UnknownNameError, WeightsError
        As `predict_array`.

    Examples
    --------
    >>> import numpy as np
    >>> chips = np.full((3, 4, 64, 64), 0.05, dtype="float32")
    >>> predict_batch(chips, ["B02", "B03", "B04", "B08"], level="L2A").shape
    (3, 64, 64)
    """
    chips = _as_reflectance(chips, bands, dims="(n, band, y, x)")
    task = make_task(bands, level=level, model=model, output=output)
    lattice, size = task.model.entry.lattice, chips.shape[2:]
    small = 0 < min(size) <= max(size) <= lattice.whole
    windows = [plan_chip(*size, lattice=lattice)] if small else plan_windows(*size, lattice=lattice)
    return _label_chips(task, chips, bands, windows)


def _label_chips(
    task: Task, chips: np.ndarray, bands: Sequence[str], windows: Iterable[Window]
) -> np.ndarray:
    """Label checked chips (n, band, y, x), a window of several in one call of the network."""
    kept = [list(bands).index(name) for name in task.bands]
    result = np.empty((len(chips), *task.leading, *chips.shape[2:]), task.dtype)
    for window in windows:
        waiting: dict[tuple[int, int], list[tuple[int, _Input]]] = {}

        def label(group: list[tuple[int, _Input]], window: Window = window) -> None:
            for (index, _), found in zip(
                group, _label(task, [one for _, one in group]), strict=True
            ):
                result[index, ..., window.rows.core, window.columns.core] = found

        for index, chip in enumerate(chips):
            layers = [chip[band, window.rows.read, window.columns.read] for band in kept]
            one = _prepare(task, layers, window)
            group = waiting.setdefault(one.size, [])
            group.append((index, one))
            if len(group) * max(one.size[0] * one.size[1], 1) >= PIXELS_AT_ONCE:
                label(waiting.pop(one.size))
        for group in waiting.values():
            label(group)
    return result


def _as_reflectance(values: np.ndarray, bands: Sequence[str], *, dims: str) -> np.ndarray:
    """Check shape and type of reflectance in memory; what a mask hides is NaN."""
    if isinstance(values, np.ma.MaskedArray) and values.dtype.kind == "f":
        values = values.filled(np.nan)  # the values below a mask are no data
    values = np.asarray(values)
    if values.ndim != dims.count(",") + 1 or values.shape[-3] != len(bands):
        raise InputError(
            f"reflectance must be {dims} with one name per band, got shape "
            f"{values.shape} and {len(bands)} names: transpose it or name every band"
        )
    check_reflectance_dtype(values.dtype)
    return values


def most_probable(probabilities: np.ndarray) -> np.ndarray:
    """Labels (...) of probabilities (4, ...), codes of `Label`; MISSING where they are NaN.

    Examples
    --------
    >>> shares = np.array([[0.7, np.nan], [0.1, np.nan], [0.1, np.nan], [0.1, np.nan]])
    >>> most_probable(shares[:, None]).tolist()
    [[1, 5]]
    """
    there = np.isfinite(probabilities[0])
    best = np.array(PREDICTED, np.uint8)[np.nan_to_num(probabilities).argmax(0)]
    return np.where(there, best, np.uint8(Label.MISSING))


def predict_window(task: Task, layers: Sequence[np.ndarray], window: Window) -> np.ndarray:
    """Label the core of one window: as the task's output, `leading` and `dtype` say.

    `layers` are one (y, x) array per band of the task, of the pixels that `window` reads.
    """
    return _label(task, [_prepare(task, layers, window)])[0]


@dataclass(frozen=True)
class _Input:
    """One window as the network is fed it: checked, without what was read beside the pixels."""

    layers: Sequence[np.ndarray]
    window: Window  # of these layers
    core: np.ndarray  # (y, x) bool: pixels that are labelled, True = with data
    place: tuple[slice, slice]  # in the core, of what the network labels
    seen: Sequence[np.ndarray] = ()  # of the core, the bands that tell snow

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns that the network sees; none where there is nothing to label."""
        return (self.window.rows.size, self.window.columns.size) if self.layers else (0, 0)


def _prepare(task: Task, layers: Sequence[np.ndarray], window: Window) -> _Input:
    """Check the layers of a window, and leave out what was read beside the valid pixels."""
    with np.errstate(over="ignore"):  # beyond float32 is infinite: no data
        layers = [np.asarray(layer, dtype=np.float32) for layer in layers]
    layers = [_check_layer(*named) for named in zip(layers, task.bands, strict=True)]
    layers = without_fill(layers, task.bands)
    valid = np.isfinite(layers[task.required[0]])
    for index in task.required[1:]:
        valid &= np.isfinite(layers[index])
    here = window.rows.crop, window.columns.crop
    core = valid[here]
    if not core.any():
        return _Input((), window, core, (slice(0), slice(0)))
    seen = [layers[index][here] for index in task.told_by]
    warn_of_doubts([layers[index] for index in task.required])
    lattice = task.model.entry.lattice
    (rows, inside_rows), (columns, inside_columns) = (
        _trim_span(span, np.flatnonzero(valid.any(axis)), lattice)
        for span, axis in ((window.rows, 1), (window.columns, 0))
    )
    layers = [_for_torch(layer[inside_rows, inside_columns]) for layer in layers]
    top, left = rows.start - window.rows.start, columns.start - window.columns.start
    place = (
        slice(top, top + rows.stop - rows.start),
        slice(left, left + columns.stop - columns.start),
    )
    return _Input(layers, Window(rows, columns), core, place, seen)


def _for_torch(layer: np.ndarray) -> np.ndarray:
    """Copy a view (y, x) only where torch would not take it, or warn of it.

    It goes along no axis backwards, and warns of memory that is not writable, though nothing is
    written there.
    """
    if min(layer.strides) < 0 or not layer.flags.writeable:
        return layer.copy()
    return layer


def _label(task: Task, inputs: Sequence[_Input]) -> list[np.ndarray]:
    """Label windows that are of one size to the network, in one call of it."""
    runner = task.model.runner
    labelled = [task.nothing(*one.core.shape) for one in inputs]
    if not inputs[0].layers:
        return labelled
    run = task.model.batch_largest
    if task.output == "probabilities":
        run = task.model.batch_logits
    with _NETWORK:
        batch = run([(one.layers, one.window) for one in inputs], task.bands)
        for result, one, found in zip(labelled, inputs, batch, strict=True):
            if task.output == "probabilities":
                result[..., *one.place] = runner.softmax(found)
                result[..., ~one.core] = np.nan
                continue
            labels = np.full(one.core.shape, Label.MISSING, np.uint8)
            labels[one.place] = np.array(PREDICTED, np.uint8)[found]
            labels[~one.core] = Label.MISSING
            planes = [labels, find_snow(labels, *one.seen)] if one.seen else [labels]
            result[...] = planes[-1] if not task.leading else np.stack(planes)
    return labelled


def _trim_span(span: Span, valid: np.ndarray, lattice: Lattice) -> tuple[Span, slice]:
    """Leave out what was read beside the valid pixels, and mirror there as at an array's edge.

    A network that meets no data draws a line of thin cloud along it. The grid of the
    network stays where it was. `valid` are indices among the pixels read; what is left of
    these comes with the span.
    """
    inside = slice(int(valid[0]), int(valid[-1]) + 1)
    before, after = inside.start, span.read_stop - span.read_start - inside.stop
    read_start, read_stop = span.read_start + before, span.read_stop - after
    pad_before, pad_after = span.pad_before, span.pad_after
    if before:
        pad_before = (pad_before + before) % lattice.stride + lattice.mirror
    if after:
        pad_after = (pad_after + after) % lattice.stride + lattice.mirror
    start, stop = max(span.start, read_start), min(span.stop, read_stop)
    return Span(start, stop, read_start, read_stop, pad_before, pad_after), inside


def _check_layer(layer: np.ndarray, name: str) -> np.ndarray:
    """Refuse finite values that no reflectance has; give NaN for infinite ones.

    Of every band: a value far out in one spoils what the network says of all pixels around.
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
