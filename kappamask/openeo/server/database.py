"""The one SQLite file of a server. Row 6: imports row 0.

One server holds the file: SQLite's exclusive lock ends with the process that took
it, however that ends. Every change is one transaction, so a killed server leaves
the state of its last answer.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kappamask.base.errors import InputError
from kappamask.openeo.server.faults import ApiError

_FORMAT = 1  # PRAGMA user_version
_SCHEMA = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, created TEXT NOT NULL, updated TEXT NOT NULL, status TEXT NOT NULL,
    queued INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
    log_level TEXT NOT NULL, title TEXT, description TEXT,
    process TEXT NOT NULL, files TEXT NOT NULL DEFAULT '[]'
);
CREATE TABLE logs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE,
    time TEXT NOT NULL, level INTEGER NOT NULL, code TEXT, message TEXT NOT NULL
);
CREATE INDEX logs_of_job ON logs(job, id);
CREATE TABLE processes (id TEXT PRIMARY KEY, content TEXT NOT NULL);
"""


class Database:
    """An open database file, for any thread.

    Parameters
    ----------
    path
        Made if absent.

    Raises
    ------
    InputError
        If another server holds the file, or it is none of ours.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, timeout=1, check_same_thread=False)
        try:
            self._open()
        except sqlite3.Error as error:
            self._connection.close()
            raise InputError(
                f"one server at a time can use {path}, a database that it made itself, got "
                f"{error}: stop the other server, or choose another --workdir"
            ) from error

    def _open(self) -> None:
        self._connection.executescript("PRAGMA locking_mode=EXCLUSIVE; PRAGMA foreign_keys=ON;")
        self._connection.executescript("BEGIN EXCLUSIVE; COMMIT;")  # takes the lock and keeps it
        (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        if found == 0:
            script = f"BEGIN; {_SCHEMA} PRAGMA user_version={_FORMAT}; COMMIT;"
            self._connection.executescript(script)
        elif found != _FORMAT:
            raise sqlite3.DatabaseError(f"format {found} instead of {_FORMAT}")

    def close(self) -> None:
        """Let another server have the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection for one transaction."""
        with self._lock, self._connection:
            yield self._connection

    def read(self, query: str, *values: Any) -> list[Any]:
        """Give all rows of a query."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def check_count(self, table: str, most: int) -> None:
        """Raise if a table is full.

        Raises
        ------
        ApiError
            StorageQuotaExceeded.
        """
        ((count,),) = self.read(f"SELECT count(*) FROM {table}")  # noqa: S608  our own names
        if count >= most:
            raise ApiError(
                "StorageQuotaExceeded",
                f"this server keeps at most {most} {table}, got one more: delete some first",
            )


def timestamp() -> str:
    """Tell the time as RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
