"""Zarr stores, in folders and on servers (`zarr_http`), and arrays read as DN. Imports `base`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kappamask.base.errors import InputError, KappaMaskError, ReadError
from kappamask.base.retry import is_remote, without_query
from kappamask.scenes.scene import BandFile, split_array

MOST_DN = 65535


def open_store(location: str, array: str = "", *, proxy: str | None = None) -> Any:
    """Open the root of a store, or an array in it, to be read. `proxy` "" is none.

    Raises
    ------
    InputError
        If there is no Zarr store, or zarr 3 is not installed.
    ReadError
        If it cannot be read, or holds no such array.
    """
    _check_zarr()
    import zarr

    with named(f"{location}/{array}" if array else location), _quietly():
        store = _store(location, proxy)
        try:
            if array:
                return zarr.open_array(store, path=array, mode="r")
            return zarr.open_group(store, mode="r")
        except (FileNotFoundError, KeyError):
            if not array:
                said = f"no Zarr store lies at {without_query(location)}: check it"
                raise InputError(said) from None
            raise ReadError(
                f"{without_query(location)} holds no array {array}: leave its item out, or get "
                "the product again"
            ) from None


@contextmanager
def named(location: str) -> Iterator[None]:
    """Turn what zarr and its codecs raise of damaged stores into an error that names them."""
    try:
        yield
    except (KappaMaskError, MemoryError):
        raise
    except (OSError, RuntimeError, ValueError, TypeError, LookupError) as error:
        said = without_query(" ".join(str(error).split())) or type(error).__name__
        raise ReadError(
            f"cannot read {without_query(location)}: {said:.200}: the store is damaged or no Zarr, "
            "get it again"
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Read old and new stores: zarr warns of types whose place in format 3 is not settled."""
    with warnings.catch_warnings(action="ignore", category=Warning):
        yield


def _check_zarr() -> None:
    try:
        from zarr import __version__
    except ImportError as error:
        raise InputError(
            f"EOPF Zarr products need the package zarr ({error}): pip install 'kappamask[formats]'"
        ) from None
    if int(__version__.partition(".")[0]) < 3:
        raise InputError(
            f"EOPF Zarr products need zarr 3, got {__version__}: "
            "pip install -U 'kappamask[formats]'"
        )


def _store(location: str, proxy: str | None) -> Any:
    if location.startswith(("http://", "https://", "s3://")):
        from kappamask.scenes.zarr_http import HttpStore

        return HttpStore(location, proxy)
    if is_remote(location):
        raise InputError(
            "a Zarr store lies in a folder or at an https or s3 address, got "
            f"{without_query(location)}: give that"
        )
    from zarr.storage import LocalStore

    return LocalStore(Path(location), read_only=True)


class ZarrBand:
    """The array of a band, read as DN under the offset and scale that its scene tells.

    `proxy` "" is none, None the usual one.
    """

    def __init__(self, file: BandFile, *, proxy: str | None) -> None:
        self.file = file
        self.array = open_store(*(split_array(file.href) or (file.href,)), proxy=proxy)
        self.shape: tuple[int, ...] = self.array.shape
        self.fill = self.array.attrs.get("fill_value", self.array.fill_value)
        attrs = self.array.attrs
        self.factor = float(attrs.get("scale_factor", 1.0))
        # Without an offset DN are wanted as they are stored: the caller knows what they mean.
        self.summand = float(attrs.get("add_offset", 0.0)) if file.dn_offset else 0.0
        stored = self.array.dtype
        plain = stored.kind == "u" and self.factor == 1 and stored != np.uint8  # that: classes
        if len(self.shape) != 2 or stored.kind not in "uf" or plain:
            raise InputError(
                f"{without_query(file.href)} must hold (y, x) DN with scale_factor, or floating "
                f"point, got {self.shape} of {self.array.dtype}: it is no EOPF product"
            )

    def close(self) -> None:
        """Hold nothing open: chunks are read one by one."""

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns that are compressed together."""
        rows, columns = getattr(self.array, "shards", None) or self.array.chunks
        return int(rows), int(columns)

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """Read DN (y, x) uint16 of a window, 0 = no data."""
        scale, offset = self.file.scale, self.file.dn_offset
        with named(self.file.href):
            stored = self.array[rows, columns]
        empty = ~np.isfinite(stored) if stored.dtype.kind == "f" else stored == (self.fill or 0)
        apart = self.summand / scale - offset
        if stored.dtype == np.uint16 and np.isclose(self.factor, scale) and abs(apart) < 0.5:
            dn: np.ndarray = stored
            return dn if not self.fill else np.where(empty, np.uint16(0), dn)
        with np.errstate(invalid="ignore"):
            physical = stored.astype(np.float64) * self.factor + self.summand
            dn = np.clip(np.rint(physical / scale - offset), 1, MOST_DN)
            return np.where(empty, 0, dn).astype(np.uint16)
