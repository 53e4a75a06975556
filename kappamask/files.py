"""Files that appear whole or not at all. Row 1: imports `errors` only."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kappamask.errors import WriteError


@contextmanager
def staging(folder: Path, name: str) -> Iterator[Path]:
    """Lend a hidden folder inside `folder`, which is made if absent; remove it on any end.

    `name` is what is to be written, as an error says it. What a process that was killed
    left in `folder` is removed too.

    Raises
    ------
    WriteError
        In place of every OSError: a folder that is none or is read-only, a full disk.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.txt"
    ...     with staging(path.parent, path.name) as aside:
    ...         publish(aside, {path: b"all of it"})
    ...     [found.name for found in Path(folder).iterdir()]
    ['a.txt']
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        prefix = f"{_host_prefix()}{os.getpid()}-"
        with tempfile.TemporaryDirectory(prefix=prefix, dir=folder) as aside:
            yield Path(aside)
    except OSError as error:
        raise WriteError(
            "the output folder must exist or be makable, be writable and have space, got "
            f"{error.strerror or error} for {name} in {folder}: free some space or choose "
            "another folder (nothing half-written is left)"
        ) from error


def _host_prefix() -> str:
    return f".kappamask-{socket.gethostname()}-"  # on a shared disk, pids are another machine's


def _sweep(folder: Path) -> None:
    """Remove the hidden folders of processes of this machine that are no more."""
    for left in folder.glob(f"{_host_prefix()}*-*"):
        pid = left.name.removeprefix(_host_prefix()).split("-")[0]
        if pid.isdecimal() and not _lives(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _lives(pid: int) -> bool:
    if os.name != "posix":
        return True  # there, asking is killing
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def publish(aside: Path, contents: Mapping[Path, bytes]) -> None:
    """Write all files to the folder `aside`, then move each to its path.

    Of several files the last one vouches for the others: an old one goes before any
    is replaced, and the new one comes when all are there.
    """
    for path, content in contents.items():
        (aside / path.name).write_bytes(content)
    move_in(aside, list(contents))


def move_in(aside: Path, paths: Sequence[Path]) -> None:
    """Move files that lie in the folder `aside` to their paths, the last one vouching for all."""
    *others, seal = paths
    if others:
        seal.unlink(missing_ok=True)
    for path in paths:
        (aside / path.name).replace(path)
