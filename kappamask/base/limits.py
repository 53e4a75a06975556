"""Limits of the machine, told in the package's own error. Row 1: imports `errors` only.

Memory and threads run out in many words: Python's, numpy's, torch's, GDAL's, the
operating system's. A user needs one: what to make smaller.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from kappamask.base.errors import ResourceError

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
