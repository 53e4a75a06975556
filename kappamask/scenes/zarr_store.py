"""Zarr stores, in folders and on servers (`zarr_http`), and arrays read as DN. Imports `base`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kappamask.base.errors import InputError, KappaMaskError, ReadError
from kappamask.base.retry import is_remote, without_query

RAISED = -1000  # offset under which arrays are read as DN: values below 0 % are kept
MOST_DN = 65535
_ARRAY = re.compile(r"(.+?)/((?:measurements/reflectance|quality/atmosphere)/r\d+m/\w+)(\?.*)?")


def split_array(href: str) -> tuple[str, str] | None:
    """Split the address of an array of an EOPF store into those of the store and in it.

    Examples
    --------
    >>> split_array("https://host/S2A.zarr/measurements/reflectance/r10m/b02")
    ('https://host/S2A.zarr', 'measurements/reflectance/r10m/b02')
    >>> split_array("/data/B02.tif")
    """
    found = _ARRAY.fullmatch(href)
    return (found[1] + (found[3] or ""), found[2]) if found else None


def open_group(location: str) -> Any:
    """Open the root of a store to be read.

    Raises
    ------
    InputError
        If there is no Zarr store, or zarr 3 is not installed.
    ReadError
        If it cannot be read.
    """
    _check_zarr()
    import zarr

    with named(location), _quietly():
        try:
            return zarr.open_group(_store(location), mode="r")
        except (FileNotFoundError, KeyError):
            raise InputError(f"no Zarr store lies at {without_query(location)}: check it") from None


def open_array(location: str, path: str, *, proxy: str | None = None) -> Any:
    """Open one array of a store; errors as of `open_group`. `proxy` "" is none."""
    _check_zarr()
    import zarr

    with named(f"{location}/{path}"), _quietly():
        try:
            return zarr.open_array(_store(location, proxy), path=path, mode="r")
        except (FileNotFoundError, KeyError):
            raise ReadError(
                f"{without_query(location)} holds no array {path}: leave its item out, or get "
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


def _store(location: str, proxy: str | None = None) -> Any:
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
    """One array, read as DN under the offset and scale that its scene tells.

    Parameters
    ----------
    href
        Address of the array.
    dn_offset, scale
        ``(dn + dn_offset) * scale`` is the physical value.
    proxy
        "" is none, None the usual one.
    """

    def __init__(self, href: str, *, dn_offset: float, scale: float, proxy: str | None) -> None:
        self.href, self.dn_offset, self.scale = href, dn_offset, scale
        self.array = open_array(*(split_array(href) or (href, "")), proxy=proxy)
        self.shape: tuple[int, ...] = self.array.shape
        self.fill = self.array.attrs.get("fill_value", self.array.fill_value)
        attrs = self.array.attrs
        self.factor = float(attrs.get("scale_factor", 1.0))
        # Without an offset DN are wanted as they are stored: the caller knows what they mean.
        self.summand = float(attrs.get("add_offset", 0.0)) if dn_offset else 0.0
        stored = self.array.dtype.kind
        if len(self.shape) != 2 or stored not in "uf" or (stored == "u" and self.factor == 1):
            raise InputError(
                f"{without_query(href)} must hold (y, x) DN with scale_factor, or floating point, "
                f"got {self.shape} of {self.array.dtype}: it is no EOPF product"
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
        with named(self.href):
            stored = self.array[rows, columns]
        empty = ~np.isfinite(stored) if stored.dtype.kind == "f" else stored == (self.fill or 0)
        apart = self.summand / self.scale - self.dn_offset
        if stored.dtype == np.uint16 and np.isclose(self.factor, self.scale) and abs(apart) < 0.5:
            dn: np.ndarray = stored
            return dn if not self.fill else np.where(empty, np.uint16(0), dn)
        with np.errstate(invalid="ignore"):
            physical = stored.astype(np.float64) * self.factor + self.summand
            dn = np.clip(np.rint(physical / self.scale - self.dn_offset), 1, MOST_DN)
            return np.where(empty, 0, dn).astype(np.uint16)
