"""The one error family, and which limit of the machine is behind an error of another.

Every message says four things: the rule, what was got, where, and the remedy. Memory and
threads run out in many words: Python's, numpy's, torch's, GDAL's, the operating system's. A
user needs one: what to make smaller. Imports nothing of the package.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

CLOSE = 0.6  # how alike two names are of which one is taken for the other misspelt
_SECRETS = (
    (
        re.compile(
            r"(?i)([?&](?:x-amz-[a-z-]+|[\w.-]*(?:sig|signature|token|key|secret|password))=)"
            r"[^&\s'\"]+"
        ),
        1,
    ),
    (re.compile(r"(?i)(\b(?:bearer|basic)\s+)[\w./+=~-]{16,}"), 1),
    (re.compile(r"(://)[^/\s:@]+:[^/\s@]+(?=@)"), 1),
)
# Under which `openeo/engine/gateway` gives a file of the internet to GDAL: with a secret, and
# no word to the one who reads.
_GATEWAY = re.compile(r"http://127\.0\.0\.1:\d+/gateway-[\w-]+/(https?)/")


def redact(text: str) -> str:
    """Take signatures, tokens and passwords out of a text that is shown or stored.

    Examples
    --------
    >>> redact("cannot read https://host/B02.tif?sv=1&sig=abc%3D (403)")
    'cannot read https://host/B02.tif?sv=1&sig=*** (403)'
    >>> redact("https://me:secret@host/")
    'https://***@host/'
    >>> redact("cannot read http://127.0.0.1:8082/gateway-s3cret/https/host/B02.tif")
    'cannot read https://host/B02.tif'
    """
    text = _GATEWAY.sub(r"\1://", text)
    for pattern, kept in _SECRETS:
        text = pattern.sub(rf"\{kept}***", text)
    return text.encode("utf-8", "backslashreplace").decode()  # lone surrogates break JSON


class KappaMaskError(Exception):
    """Base of every error that kappamask raises on purpose.

    Examples
    --------
    >>> print(KappaMaskError("cannot read https://host/B02.tif?sig=abc (403): try later"))
    cannot read https://host/B02.tif?sig=*** (403): try later
    """

    def __str__(self) -> str:
        """Give the message without what signs the URLs in it."""
        return redact(super().__str__())


class KappaMaskWarning(UserWarning):
    """What is done all the same, though it is hardly meant: a scale, the order of bands."""


class InputError(KappaMaskError, ValueError):
    """An argument, array or cube that breaks a stated rule."""


class UnknownNameError(KappaMaskError, LookupError):
    """A band, model or catalogue name that no table holds.

    Examples
    --------
    >>> print(UnknownNameError.of("band", "B99", ["B02", "B03"]))
    unknown band 'B99': expected one of B02, B03
    >>> print(UnknownNameError.of("engine", "stackstack", ["stackstac", "odc"]))
    unknown engine 'stackstack': expected one of stackstac, odc: did you mean stackstac?
    """

    @classmethod
    def of(cls, kind: str, got: str, known: list[str]) -> UnknownNameError:
        """Name the table, what was asked of it and what it holds."""
        near = get_close_matches(got.lower(), [name.lower() for name in known], 1, CLOSE)
        meant = [name for name in known if name.lower() in near]
        asked = f": did you mean {meant[0]}?" if meant else ""
        return cls(f"unknown {kind} {got!r}: expected one of {', '.join(known)}{asked}")


class NoItemsError(KappaMaskError, LookupError):
    """A search or an area that no item answers."""


class ItemError(KappaMaskError, ValueError):
    """A STAC item that cannot be read as Sentinel-2; the message names it."""


class CatalogError(KappaMaskError, OSError):
    """A catalogue that does not answer, or answers with something else."""


class ReadError(KappaMaskError, OSError):
    """A raster that cannot be read; the message names the file."""


class WriteError(KappaMaskError, OSError):
    """An output that cannot be written; nothing half-written is left."""


class ResourceError(KappaMaskError, RuntimeError):
    """Memory or threads that this machine does not grant; see `find_limit`."""


class ArchiveError(KappaMaskError, OSError):
    """An archive for openEO workers that cannot be made."""


class ExtraError(KappaMaskError, ImportError):
    """Something was asked for that needs packages of an extra, which are not installed."""


class WeightsError(KappaMaskError, ValueError):
    """A weights file that is absent, damaged, or not what the manifest says."""


# What libraries say in a RuntimeError or ImportError of their own, in lower case.
NO_MEMORY = (
    "can't allocate memory",  # torch
    "not enough memory",  # torch on Windows
    "cannot allocate memory",  # the operating system, when a library is loaded
    "out of memory",  # CUDA
    "bad_alloc",  # C++ through torch
    "bad allocation",  # C++ through onnxruntime
    "failed to allocate memory",  # onnxruntime
    "could not create a memory",  # oneDNN
)
NO_THREAD = ("can't start new thread", "resource temporarily unavailable")
GDAL_NO_MEMORY = "CPLE_OutOfMemoryError"  # this room does not import rasterio


def find_limit(error: BaseException) -> ResourceError | None:
    """Tell which limit of the machine an error comes from.

    Parameters
    ----------
    error
        Looked at with its causes, and what was being handled when it came.

    Returns
    -------
    ResourceError or None
        What to raise in its place; None if no limit is behind it.

    Examples
    --------
    >>> print(find_limit(MemoryError("Unable to allocate 9 GiB")))
    the work must fit into memory, got 'Unable to allocate 9 GiB': choose a smaller area...
    >>> find_limit(RuntimeError("shapes do not match"))
    """
    seen: set[int] = set()
    here: BaseException | None = error
    while here is not None and id(here) not in seen:
        seen.add(id(here))
        if isinstance(here, ResourceError):
            return here
        if _lacks_memory(here):
            return ResourceError(
                f"the work must fit into memory, got {_first_words(here)}: choose a smaller area "
                "(--bbox, --area), smaller chunks or a coarser --resolution, end other programs, "
                "or allow more memory"
            )
        if _lacks_threads(here):
            return ResourceError(
                f"a thread must start where one is needed, got {_first_words(here)}: end other "
                "programs, or allow more (`ulimit -u`, the container's limit of processes, memory)"
            )
        here = here.__cause__ or here.__context__
    return None


def refuse_limit(error: BaseException) -> None:
    """Raise what `find_limit` finds; nothing without.

    Raises
    ------
    ResourceError
        If a limit is behind the error.

    Examples
    --------
    >>> refuse_limit(ValueError("no limit"))
    """
    limit = find_limit(error)
    if limit is not None and limit is not error:
        raise limit from error


@contextmanager
def limits_named() -> Iterator[None]:
    """Raise a `ResourceError` where memory or threads run out.

    Examples
    --------
    >>> with limits_named():
    ...     raise RuntimeError("can't start new thread")
    Traceback (most recent call last):
    ...
    kappamask.base.errors.ResourceError: a thread must start where one is needed, got...
    """
    try:
        yield
    except Exception as error:
        refuse_limit(error)
        raise


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Import what an extra brings; say so where it is not installed.

    Raises
    ------
    ExtraError
        In place of ImportError.

    Examples
    --------
    >>> with needs_extra("serve", "a server"):
    ...     import no_such_package
    Traceback (most recent call last):
    kappamask.base.errors.ExtraError: a server needs the package no_such_package, ...
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ExtraError(
            f"{what} needs the package {error.name}, which is not installed: "
            f"pip install 'kappamask[{extra}]'"
        ) from error


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError | ImportError):
        return any(words in str(error).lower() for words in NO_MEMORY)
    return isinstance(error, MemoryError) or type(error).__name__ == GDAL_NO_MEMORY


def _lacks_threads(error: BaseException) -> bool:
    """Count processes as threads: EAGAIN is what a fork gives."""
    if isinstance(error, BlockingIOError):
        return error.errno == errno.EAGAIN
    return isinstance(error, RuntimeError) and any(
        words in str(error).lower() for words in NO_THREAD
    )


def _first_words(error: BaseException) -> str:
    """Quote what a library said, as far as a line of it tells."""
    lines = str(error).strip().splitlines()
    return repr(lines[0][:200]) if lines else "no more"
