"""Zarr stores, opened to be read, in folders and on servers (`zarr_http`). Imports `base`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kappamask.base.errors import InputError, KappaMaskError, ReadError
from kappamask.base.retry import is_remote, without_query

RAISED = -1000  # offset under which arrays are read as DN: values below 0 % are kept
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
    if location.startswith(("http://", "https://")):
        from kappamask.scenes.zarr_http import HttpStore

        return HttpStore(location, proxy)
    if is_remote(location):
        raise InputError(
            "a Zarr store lies in a folder or at an https address, got "
            f"{without_query(location)}: give its https address"
        )
    from zarr.storage import LocalStore

    return LocalStore(Path(location), read_only=True)
