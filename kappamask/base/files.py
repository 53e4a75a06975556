"""Files that appear whole or not at all. Imports `errors` only."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import stat
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import Any

from kappamask.base.errors import KappaMaskError, ReadError, WriteError

MOST_TEXT = 64 * 2**20  # bytes of a document
_LENT: set[Path] = set()  # hidden folders that `staging` made and has not removed yet


def check_regular(path: Path) -> None:
    """Refuse what is no ordinary file before it is opened: a pipe or a device may never end.

    What is not there passes: whoever opens it says so.

    Raises
    ------
    ReadError
        If it is a folder, pipe, device or socket.

    Examples
    --------
    >>> check_regular(Path("/dev/zero"))
    Traceback (most recent call last):
    ...
    kappamask.base.errors.ReadError: an ordinary file is needed, /dev/zero is a device: ...
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(mode), "device")
        raise ReadError(
            f"an ordinary file is needed, {path} is a {kind}: give a file, or write what comes "
            "from there to one first"
        )


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Read a whole file that strangers may have made.

    Raises
    ------
    ReadError
        If it is no ordinary file, or larger.
    OSError
        If it is not there or cannot be read.

    Examples
    --------
    >>> read_bounded(Path(__file__), 10)
    Traceback (most recent call last):
    ...
    kappamask.base.errors.ReadError: such a file has at most 10 bytes, ...
    """
    check_regular(path)
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ReadError(f"such a file has at most {most_bytes} bytes, {path} has more: check it")
    return content


class NestedError(ValueError):
    """A text whose lists and objects lie in one another too often."""


def read_json(path: Path) -> Any:
    """Read a JSON file that strangers may have made.

    Raises
    ------
    ReadError
        If it is no ordinary file, or larger than 64 MB.
    ValueError
        If it is no JSON, or nested too deeply.
    OSError
        If it is not there or cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w+") as file:
    ...     _ = file.write("[" * 100_000), file.flush()
    ...     read_json(Path(file.name))
    Traceback (most recent call last):
    ...
    kappamask.base.files.NestedError: it is nested too deeply
    """
    return _read_text(path, json.loads)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; errors as of `read_json`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w+") as file:
    ...     _ = file.write("a = 1"), file.flush()
    ...     read_toml(Path(file.name))
    {'a': 1}
    """
    table: dict[str, Any] = _read_text(path, tomllib.loads)
    return table


def _read_text(path: Path, parse: Callable[[str], Any]) -> Any:
    text = read_bounded(path, MOST_TEXT).decode()
    try:
        return parse(text)
    except RecursionError:
        raise NestedError("it is nested too deeply") from None


def is_nested_deeper(value: Any, most: int) -> bool:
    """Tell whether lists and objects of JSON lie in one another more than so many times.

    Examples
    --------
    >>> is_nested_deeper({"a": [[1]]}, 3), is_nested_deeper({"a": [[1]]}, 2)
    (False, True)
    """
    layer = [value]
    for _ in range(most + 1):
        inner: list[Any] = []
        for one in layer:
            if isinstance(one, Mapping):
                inner += one.values()
            elif isinstance(one, list | tuple):
                inner += one
        if not inner:
            return False
        layer = inner
    return True


@contextmanager
def staging(folder: Path, name: str) -> Iterator[Path]:
    """Lend a hidden folder inside `folder`, which is made if absent; remove it on any end.

    `name` is what is to be written, as an error says it. What a process that was killed
    left in `folder` is removed too.

    Raises
    ------
    WriteError
        In place of every OSError that says no more: a folder that is none or is read-only, a
        full disk.

    Examples
    --------
    >>> import tempfile
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
        with _lend(folder) as aside:
            yield aside
    except KappaMaskError:
        raise  # a file that cannot be read is an OSError too, and no fault of this folder
    except OSError as error:
        raise WriteError(
            "the output folder must exist or be makable, be writable and have space, got "
            f"{error.strerror or error} for {name} in {folder}: free some space or choose "
            "another folder (nothing half-written is left)"
        ) from error


def check_folder(folder: Path, name: str) -> None:
    """Find out whether a folder can be written to, before any work is done for `name`.

    Raises
    ------
    WriteError
        As `staging`.

    Examples
    --------
    >>> check_folder(Path("/dev/null/masks"), "masks")
    Traceback (most recent call last):
    ...
    kappamask.base.errors.WriteError: the output folder must exist or be makable...
    """
    with staging(folder, name):
        pass


@contextmanager
def _lend(folder: Path) -> Iterator[Path]:
    """Make a hidden folder; remove it, even where Ctrl-C comes while it is made or removed."""
    aside = folder / f"{_host_prefix()}{os.getpid()}-{token_hex(4)}"
    _LENT.add(aside)
    try:
        aside.mkdir(mode=0o700)
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        _LENT.discard(aside)


@atexit.register
def clear_staging() -> None:
    """Remove what an interruption kept `staging` from removing.

    Examples
    --------
    >>> clear_staging()  # nothing is lent: nothing to do
    """
    for aside in list(_LENT):
        if f"-{os.getpid()}-" in aside.name:  # a forked process knows its parent's too
            shutil.rmtree(aside, ignore_errors=True)
        _LENT.discard(aside)


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


def spelled(path: Path) -> Path:
    """Give a path that libraries can spell, to a file or folder whose name is no UTF-8.

    Archives of other systems leave such names (Latin-1). Then it is a link in a folder of its
    own, which goes when the process ends.

    Examples
    --------
    >>> spelled(Path("/data/M\u00e4sk"))
    PosixPath('/data/Mäsk')
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return _link(path)
    return path


@cache
def _link(path: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="kappamask-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    link = folder / f"product{path.suffix}"
    link.symlink_to(path)
    return link
