"""A network with its inputs and its normalisation, loaded by name. Imports `base` and this room.

Torch or onnxruntime is imported when a network is loaded, never before; by a model that is only
announced, when it labels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from kappamask.base.bands import NAMES, check_network_bands
from kappamask.base.errors import InputError
from kappamask.base.windows import Window
from kappamask.networks.manifest import ModelEntry, check_entry, find_entry
from kappamask.networks.normalisation import has_data
from kappamask.networks.runners import (
    Runner,
    TorchRunner,
    choose_engine,
    find_engine,
    open_onnx,
    open_torch,
    prepare_torch,
)
from kappamask.networks.weights import read_file, weights_of

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

_LOADING = Lock()
if hasattr(os, "register_at_fork"):  # another thread may have held it when the process was forked
    os.register_at_fork(after_in_child=lambda: globals().update(_LOADING=Lock()))


@dataclass(frozen=True, eq=False)
class Model:
    """A network ready to label: weights loaded, batch normalisation folded, engine chosen.

    Pickles as its name: no weights travel in a dask graph.
    """

    entry: ModelEntry
    level: str
    start: Callable[[], Runner]  # gives the same engine whenever it is called
    threads: int | None = None  # what was asked for; None leaves it to the engine
    asked: str = "auto"  # device, as `load_model` takes it

    def __repr__(self) -> str:
        """Say which network it is and where it runs, not its layers."""
        runs = f"{self.engine} {self.precision} on {self.device}"
        return f"<Model {self.entry.name}, {self.level}, {runs}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a call of `load_model`."""
        arguments = (self.entry.name, self.level, self.precision, self.engine, self.threads)
        return load_model, (*arguments, self.asked)

    @property
    def runner(self) -> Runner:
        """The engine that holds the network, with its weights."""
        return self.start()

    @property
    def engine(self) -> str:
        """``"torch"`` or ``"onnx"``."""
        return self.runner.engine

    @property
    def precision(self) -> str:
        """``"bf16"`` or ``"fp32"``."""
        return self.runner.precision

    @property
    def device(self) -> str:
        """Where it computes, ``"cpu"`` or ``"cuda"``."""
        return self.runner.device

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that must all be there, in the network's order; none: any with RGB and NIR.

        ``load_cube(items, area, bands=model.bands or None)`` loads what the model needs.
        """
        return self.entry.bands

    @property
    def network(self) -> nn.Module:
        """The torch module, where the engine is torch."""
        if not isinstance(self.runner, TorchRunner):
            raise InputError(
                f"a model in {self.runner.version} has no torch module: engine='torch'"
            )
        return self.runner.network

    def batch_logits(
        self, batch: Sequence[tuple[Sequence[np.ndarray], Window]], bands: Sequence[str]
    ) -> list[Any]:
        """Run the network once on several windows, all of one size, each as `Slots.fill` takes it.

        Gives (4, y, x) float32 logits of each window's core, in the engine's own type and the
        order of `kappamask.base.legend.PREDICTED`, for `runner.softmax`.
        """
        return self._run(self.runner.run, batch, bands)

    def batch_largest(
        self, batch: Sequence[tuple[Sequence[np.ndarray], Window]], bands: Sequence[str]
    ) -> list[np.ndarray]:
        """Say as `batch_logits` which of the four is largest: (y, x) uint8 of each core."""
        return self._run(self.runner.find_largest, batch, bands)

    def _run(
        self,
        compute: Callable[[Any, list[list[float]]], Any],
        batch: Sequence[tuple[Sequence[np.ndarray], Window]],
        bands: Sequence[str],
    ) -> list[Any]:
        check_network_bands(bands, self.level)
        (size,) = {(window.rows.size, window.columns.size) for _, window in batch}
        slots, flags = self.runner.make_slots(len(batch), *size), []
        for place, (reflectance, window) in enumerate(batch):
            own = slots[place : place + 1]
            self.entry.normalisation.fill(own, reflectance, bands, window)
            held = {name for name, layer in zip(bands, reflectance, strict=True) if has_data(layer)}
            flags.append([*(float(name in held) for name in NAMES), float(self.level == "L1C")])
        return [
            one[
                ...,
                *(
                    slice(span.crop.start + span.pad_before, span.crop.stop + span.pad_before)
                    for span in (window.rows, window.columns)
                ),
            ]
            for one, (_, window) in zip(compute(slots, flags), batch, strict=True)
        ]


def load_model(
    name: str = "default",
    level: str = "L2A",
    precision: str = "auto",
    engine: str = "auto",
    threads: int | None = None,
    device: str = "auto",
) -> Model:
    """Load a network by name, once per process.

    Parameters
    ----------
    name
        A name of the manifest (`kappamask models` lists them), or ``"default"``.
    level
        ``"L1C"`` or ``"L2A"``: what the network will be fed.
    precision
        ``"bf16"``, ``"fp32"``, or ``"auto"``: bf16 where the engine is torch, the
        processor computes in it (AVX-512 BF16, AMX, CUDA) and the manifest says that
        both agree on 99.8 % of this model's labels; else fp32.
    engine
        ``"torch"``, ``"onnx"`` (onnxruntime, fp32), or ``"auto"``: torch if it is
        installed. Both in fp32 agree on 99.9 % of labels.
    threads
        How many the engine may use; None leaves it to the engine. Torch keeps one
        number for the whole process.
    device
        ``"cpu"``, ``"cuda"`` (torch only), or ``"auto"``: a GPU where torch finds one.

    Returns
    -------
    Model
        Ready to label; the same object for the same arguments.

    Raises
    ------
    UnknownNameError, InputError
        If there is no such model, level, precision, engine or device.
    WeightsError
        If the weights are absent or damaged, were not fetched (the message says how),
        or their hash is not the manifest's.

    Examples
    --------
    >>> load_model("default", level="L2A", precision="fp32").precision
    'fp32'
    """
    if threads is not None and threads < 1:
        raise InputError(f"a network needs at least one thread, got {threads}: pass threads=1")
    entry = find_entry(name, level)
    with _LOADING:
        engine, precision = choose_engine(
            weights_of(entry), engine=engine, precision=precision, device=device
        )
        return _load(entry.name, level, precision, engine, threads, device)


def announce_model(name: str, level: str, *, device: str = "auto") -> Model:
    """Give what `load_model` gives, with its engine started when the first window is labelled.

    To import torch takes longer than to read the pixels of a small area. What a user may have to
    mend is told here and not after that: a name, absent or damaged weights, an absent engine; so
    is an absent GPU, for which torch has to be asked.

    Raises
    ------
    UnknownNameError, InputError, WeightsError
        As `load_model`.

    Examples
    --------
    >>> announce_model("default", "L2A").entry.levels
    ('L1C', 'L2A')
    """
    start = partial(load_model, name, level, device=device)
    weights = weights_of(find_entry(name, level))
    if device == "cuda" or find_engine(weights, device=device) != "torch":
        return start()
    read_file(weights.path, weights.sha256)
    prepare_torch()  # now: to set variables beside threads that read them, as GDAL's do, may crash
    return Model(weights.entry, level, cache(lambda: start().runner), asked=device)


@cache
def _load(
    name: str, level: str, precision: str, engine: str, threads: int | None, device: str
) -> Model:
    return open_model(
        find_entry(name, level),
        level,
        precision=precision,
        engine=engine,
        threads=threads,
        device=device,
    )


def open_model(
    entry: ModelEntry,
    level: str,
    *,
    precision: str = "auto",
    engine: str = "auto",
    threads: int | None = None,
    device: str = "auto",
) -> Model:
    """Load the network of an entry, which need not be of the manifest; for `predict_array`.

    `load_model` does this once for each entry of the manifest. A model whose entry is
    not of the manifest cannot be pickled to another process.

    Parameters
    ----------
    entry
        What the network is, needs, and where its weights lie.
    level, precision, engine, threads, device
        As in `load_model`.

    Raises
    ------
    InputError, WeightsError
        As `load_model`.

    Examples
    --------
    >>> open_model(find_entry("default", "L1C"), "L1C", precision="fp32").level
    'L1C'
    """
    check_entry(entry, level)
    weights = weights_of(entry)
    engine, precision = choose_engine(weights, engine=engine, precision=precision, device=device)
    runner = (
        open_onnx(weights, threads=threads)
        if engine == "onnx"
        else open_torch(weights, precision=precision, threads=threads, device=device)
    )
    return Model(entry, level, lambda: runner, threads, device)
