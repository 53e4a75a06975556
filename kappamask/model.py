"""A network with its inputs and its normalisation, loaded by name. Row 2: imports rows 0-1.

Torch is imported when a network is loaded, never before.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from kappamask.bands import NAMES, check_level, check_network_bands
from kappamask.errors import InputError, UnknownNameError, WeightsError
from kappamask.windows import Span, Window

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

PRECISIONS = ("auto", "bf16", "fp32")
_LOADING = Lock()


@dataclass(frozen=True)
class Normalisation:
    """Fixed normalisation: ``(sqrt(reflectance) - mean) / std`` per band slot.

    The square root spreads dark ground (water, shadow) over more of the range.
    Nothing is taken from the window itself: statistics of a window make large
    clouds vanish.
    """

    mean: tuple[float, ...]  # 13, in the order of `kappamask.bands.NAMES`
    std: tuple[float, ...]  # 13, each above 0

    def __post_init__(self) -> None:
        """Check the lengths and signs."""
        if len(self.mean) != len(NAMES) or len(self.std) != len(NAMES) or min(self.std) <= 0:
            raise InputError(
                f"a normalisation has {len(NAMES)} means and {len(NAMES)} positive spreads, "
                f"got {len(self.mean)} and {self.std}: correct the manifest"
            )

    def __call__(self, reflectance: Tensor) -> Tensor:
        """Normalise (n, 13, y, x) reflectance; NaN, an absent band or pixel, becomes 0."""
        import torch

        mean = torch.tensor(self.mean)[:, None, None]
        scale = 1 / torch.tensor(self.std)[:, None, None]
        return reflectance.clamp(min=0).sqrt_().sub_(mean).mul_(scale).nan_to_num_(0.0)

    def fill(
        self, slots: Tensor, reflectance: Sequence[np.ndarray], bands: Sequence[str], window: Window
    ) -> None:
        """Normalise band by band into `slots` (1, 13, y, x), and mirror them into the padding.

        The same arithmetic as calling it, with one band in the processor's cache at a time.
        Slots of absent bands stay as they are, zero.
        """
        import torch

        rows, columns = window.rows, window.columns
        inside = np_index(rows.pad_before, rows.read), np_index(columns.pad_before, columns.read)
        for name, values in zip(bands, reflectance, strict=True):
            slot = NAMES.index(name)
            band = torch.from_numpy(values).clamp(min=0).sqrt_()
            band.sub_(self.mean[slot]).mul_(1 / self.std[slot]).nan_to_num_(0.0)
            slots[0, slot][inside].copy_(band)
        for axis, span in ((2, rows), (3, columns)):
            mirror_edges(slots.movedim(axis, 0), span)


def has_data(values: np.ndarray) -> bool:
    """Tell whether any value is finite; a look at every eighth row and column mostly suffices."""
    import numpy as np

    return bool(np.isfinite(values[::8, ::8]).any() or np.isfinite(values).any())


def mirror_edges(lines: Tensor, span: Span) -> None:
    """Fill the padding of one axis, the first of `lines`, with a mirror image of what was read.

    A network that meets nothing beyond the edge of an array draws a line of thin cloud there.
    """
    import numpy as np

    size = span.read_stop - span.read_start
    order = np.pad(np.arange(size), (span.pad_before, span.pad_after), mode="symmetric")
    for padding in (slice(0, span.pad_before), slice(span.pad_before + size, span.size)):
        lines[padding] = lines[order[padding] + span.pad_before]


def np_index(before: int, read: slice) -> slice:
    """Where the pixels read stand in the padded window."""
    return slice(before, before + read.stop - read.start)


@dataclass(frozen=True)
class ModelEntry:
    """One entry of `registry.toml`: what a network is, needs and was measured to do."""

    name: str
    title: str
    file: str  # in `kappamask/weights/`
    sha256: str
    levels: tuple[str, ...]
    widths: tuple[int, ...]  # channels of the own network at each depth
    normalisation: Normalisation
    licence: str
    training_data: str
    metrics: dict[str, Any]  # measured figures, with what they were measured on

    @classmethod
    def from_table(cls, name: str, table: dict[str, Any]) -> ModelEntry:
        """Read one table of the manifest."""
        table = dict(table)
        normalisation = Normalisation(tuple(table.pop("mean")), tuple(table.pop("std")))
        for key in ("levels", "widths"):
            table[key] = tuple(table[key])
        return cls(name=name, normalisation=normalisation, **table)


def read_registry() -> tuple[dict[str, str], dict[str, ModelEntry]]:
    """Read the manifest: the default model of each level, and every model by name.

    Examples
    --------
    >>> default, models = read_registry()
    >>> default["L2A"] in models
    True
    """
    text = resources.files("kappamask").joinpath("registry.toml").read_text("utf-8")
    tables = tomllib.loads(text)
    models = {name: ModelEntry.from_table(name, table) for name, table in tables["models"].items()}
    return tables["default"], models


def find_entry(name: str, level: str) -> ModelEntry:
    """Look a model up; ``"default"`` is the shipped one of the level.

    Raises
    ------
    UnknownNameError
        If the manifest has no such model.
    InputError
        If the model was not made for this level.

    Examples
    --------
    >>> "L1C" in find_entry("default", "L1C").levels
    True
    """
    default, models = read_registry()
    entry = models.get(default[check_level(level)] if name == "default" else name)
    if entry is None:
        raise UnknownNameError.of("model", name, ["default", *models])
    if level not in entry.levels:
        raise InputError(
            f"model {name!r} was made for {' and '.join(entry.levels)}, the input is {level}: "
            "choose another model (see `kappamask models`)"
        )
    return entry


@dataclass(frozen=True, eq=False)
class Model:
    """A network ready to label: weights loaded, batch normalisation folded, precision chosen.

    Pickles as its name: no weights travel in a dask graph.
    """

    entry: ModelEntry
    level: str
    precision: str  # "bf16" or "fp32"
    network: nn.Module
    device: str

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a call of `load_model`."""
        return load_model, (self.entry.name, self.level, self.precision)

    def logits(
        self, reflectance: Sequence[np.ndarray], bands: Sequence[str], window: Window
    ) -> Tensor:
        """Run the network on one window.

        Parameters
        ----------
        reflectance
            One (y, x) float32 array per band, of the window's pixels read; NaN = no data.
        bands
            Their names.
        window
            Says how many mirrored pixels are put around them.

        Returns
        -------
        torch.Tensor
            (4, y, x) float32 logits of the window's core, in the order of
            `kappamask.legend.PREDICTED`, on the CPU.
        """
        import torch

        check_network_bands(bands, self.level)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        size = (window.rows.size, window.columns.size)
        slots = torch.zeros((1, len(NAMES), *size), dtype=dtype)
        self.entry.normalisation.fill(slots, reflectance, bands, window)
        held = {name for name, values in zip(bands, reflectance, strict=True) if has_data(values)}
        flags = torch.tensor([[*(name in held for name in NAMES), self.level == "L1C"]]).to(dtype)
        with torch.inference_mode():
            logits = self.network(slots.to(self.device), flags.to(self.device))[0]
        crop = (
            _shift(window.rows.crop, window.rows.pad_before),
            _shift(window.columns.crop, window.columns.pad_before),
        )
        return logits[:, *crop].cpu()


def _shift(span: slice, by: int) -> slice:
    return slice(span.start + by, span.stop + by)


def load_model(name: str = "default", level: str = "L2A", precision: str = "auto") -> Model:
    """Load a network by name, once per process.

    Parameters
    ----------
    name
        A name of the manifest (`kappamask models` lists them), or ``"default"``.
    level
        ``"L1C"`` or ``"L2A"``: what the network will be fed.
    precision
        ``"bf16"``, ``"fp32"``, or ``"auto"``: bf16 where the processor computes in
        it (AVX-512 BF16, AMX, CUDA), else fp32. Both agree on 99.8 % of labels.

    Raises
    ------
    UnknownNameError, InputError
        If there is no such model, level or precision.
    WeightsError
        If the weights are absent or damaged, or their hash is not the manifest's.

    Examples
    --------
    >>> load_model("default", level="L2A", precision="fp32").precision
    'fp32'
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    entry = find_entry(name, level)
    with _LOADING:
        return _load(entry.name, level, _resolve_precision(precision))


@cache
def _load(name: str, level: str, precision: str) -> Model:
    # Large pages save the network from one page fault per 4 KiB of activations: 1.5 times faster.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import torch

    from kappamask.networks.unet import UNet

    entry = find_entry(name, level)
    path = Path(str(resources.files("kappamask").joinpath("weights", entry.file)))
    network = UNet(entry.widths)
    try:
        network.load_state_dict(read_weights(path, entry.sha256))
    except RuntimeError as error:
        raise WeightsError(
            f"{path.name} does not hold the network that the manifest describes "
            f"({error}): reinstall kappamask"
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.fold().to(device, memory_format=torch.channels_last)
    if precision == "bf16":
        head = network.head
        network.to(torch.bfloat16)
        network.head = head.float()  # see UNet.forward
    return Model(entry, level, precision, network.requires_grad_(requires_grad=False), device)


def _resolve_precision(precision: str) -> str:
    if precision != "auto":
        return precision
    import torch

    native = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if torch.cuda.is_available() or any(
        getattr(torch.cpu, probe, lambda: False)() for probe in native
    ):
        return "bf16"
    return "fp32"


def read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read a safetensors file whose hash is known; nothing else is ever loaded.

    Parameters
    ----------
    path
        A safetensors file. A pickle or a zip (what `torch.save` writes) is refused unread.
    sha256
        64 hexadecimal digits.

    Raises
    ------
    WeightsError
        If the file is absent, is another format, is damaged, or has another hash.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"cannot read the weights {path} ({error.strerror}): reinstall kappamask"
        ) from error
    if content[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise WeightsError(
            f"{path} is a pickle or a zip, which can run code when loaded: "
            "only safetensors are read, convert it first"
        )
    got = hashlib.sha256(content).hexdigest()
    if got != sha256:
        raise WeightsError(
            f"{path} has sha256 {got}, the manifest says {sha256}: "
            "the file was changed or cut short, get it again"
        )
    try:
        return load(content)
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is no valid safetensors file ({error}): get it again"
        ) from error
