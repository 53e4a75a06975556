"""Files that appear whole or not at all. Row 1: imports `errors` only."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kappamask.errors import WriteError


@contextmanager
def staging(folder: Path, name: str) -> Iterator[Path]:
    """Lend a hidden folder inside `folder`, which is made if absent; remove it on any end.

    `name` is what is to be written, as an error says it.

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
        with tempfile.TemporaryDirectory(prefix=".kappamask-", dir=folder) as aside:
            yield Path(aside)
    except OSError as error:
        raise WriteError(
            "the output folder must exist or be makable, be writable and have space, got "
            f"{error.strerror or error} for {name} in {folder}: free some space or choose "
            "another folder (nothing half-written is left)"
        ) from error


def publish(aside: Path, contents: Mapping[Path, bytes]) -> None:
    """Write all files to the folder `aside`, then move each to its path.

    Of several files the last one vouches for the others: an old one goes before any
    is replaced, and the new one comes when all are there.
    """
    for path, content in contents.items():
        (aside / path.name).write_bytes(content)
    *others, seal = contents
    if others:
        seal.unlink(missing_ok=True)
    for path in contents:
        (aside / path.name).replace(path)
