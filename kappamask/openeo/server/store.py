"""What a server keeps, in one SQLite file: batch jobs, their logs, user-defined processes.

One server holds the file: SQLite's exclusive lock ends with the process that took
it, however that ends. Every change is one transaction, so a killed server leaves
the state of its last answer. May import `base`, `faults` and `settings`.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from kappamask.base.errors import InputError, redact
from kappamask.openeo.server.faults import RETRY_SECONDS, ApiError
from kappamask.openeo.server.settings import Limits

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[str, ...] = get_args(Level)
ACTIVE = ("queued", "running")
MOST_ATTEMPTS = 2  # of a job whose server was killed meanwhile: it may be what killed it
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


@dataclass(frozen=True)
class Job:
    """One batch job as stored."""

    id: str  # uuid4
    created: str  # RFC 3339, UTC
    updated: str  # the last change of status
    status: str  # created, queued, running, finished, error or canceled
    attempts: int  # times that it was started since it was queued
    log_level: str  # least severe level that is kept
    title: str | None
    description: str | None
    process: dict[str, Any]  # with process_graph
    files: list[dict[str, Any]]  # what `results.collect_files` found

    def document(self, *, full: bool = True) -> dict[str, Any]:
        """Give the metadata as the openEO API words them."""
        names = ["id", "status", "created", "updated", "title"]
        names += ["description", "process", "log_level"] if full else []
        known = {name: getattr(self, name) for name in names}
        if self.status in {"created", "queued", "finished"}:
            known["progress"] = 100 if self.status == "finished" else 0
        return {key: value for key, value in known.items() if value is not None}


_COLUMNS = ", ".join(field.name for field in fields(Job))


class Store:
    """An open file, for any thread.

    Parameters
    ----------
    path
        Made if absent.
    limits
        Bounds on jobs, logs and processes.

    Raises
    ------
    InputError
        If another server holds the file, or it is none of ours.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self._limits = limits
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
    def _changing(self) -> Iterator[None]:
        """One transaction."""
        with self._lock, self._connection:
            yield

    def _query(self, query: str, *values: Any) -> list[Any]:
        """Give all rows of a query; one that changes something belongs into `_changing`."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def _check_count(self, table: str, most: int) -> None:
        ((count,),) = self._query(f"SELECT count(*) FROM {table}")  # noqa: S608  our own names
        if count >= most:
            raise ApiError(
                "StorageQuotaExceeded",
                f"this server keeps at most {most} {table}, got one more: delete some first",
            )

    # --- batch jobs

    def add_job(
        self, process: dict[str, Any], *, title: Any, description: Any, log_level: Any
    ) -> Job:
        """Store a job that waits for its start.

        Raises
        ------
        ApiError
            StorageQuotaExceeded, if there are as many as there may be.
        """
        level = log_level if log_level in LEVELS else "info"
        texts = [None if text is None else str(text) for text in (title, description)]
        now, identifier = _now(), str(uuid.uuid4())
        with self._changing():
            self._check_count("jobs", self._limits.jobs)
            self._query(
                "INSERT INTO jobs (id, created, updated, status, log_level, title, description,"
                " process) VALUES (?, ?, ?, 'created', ?, ?, ?, ?)",
                *(identifier, now, now, level, *texts, json.dumps(process)),
            )
        return self.job(identifier)

    def change_job(self, identifier: str, **values: Any) -> None:
        """Change what a client told of a job; with another process it is as if just created.

        Raises
        ------
        ApiError
            JobLocked, while it waits or runs.
        """
        with self._changing():
            status = self.job(identifier).status
            if status in ACTIVE:
                raise ApiError("JobLocked", f"batch job {identifier} is {status}: stop it first")
            if "process" in values:
                values |= {"process": json.dumps(values["process"]), "status": "created"}
                values["files"] = "[]"
            if values:
                self._update(identifier, **values)

    def job(self, identifier: str) -> Job:
        """Find a job.

        Raises
        ------
        ApiError
            JobNotFound, also for what is no uuid4.
        """
        found = self._find_jobs("WHERE id = ?", identifier) if is_job_id(identifier) else []
        if not found:
            raise ApiError("JobNotFound", f"the batch job {identifier[:80]!r} does not exist")
        return found[0]

    def jobs(self, *, limit: int, skip: int = 0) -> list[Job]:
        """List jobs, the latest first."""
        return self._find_jobs("ORDER BY rowid DESC LIMIT ? OFFSET ?", limit, skip)

    def _find_jobs(self, which: str, *values: Any) -> list[Job]:
        rows = self._query(f"SELECT {_COLUMNS} FROM jobs {which}", *values)  # noqa: S608  our own names
        found = [dict(zip(_COLUMNS.split(", "), row, strict=True)) for row in rows]
        texts = ("process", "files")
        return [Job(**job | {name: json.loads(job[name]) for name in texts}) for job in found]

    def queue(self, identifier: str) -> None:
        """Put a job at the end of the queue, without its former logs and files.

        One that is queued or running already stays as it is.

        Raises
        ------
        ApiError
            TooManyRequests, if as many wait as there may be.
        """
        with self._changing():
            if self.job(identifier).status in ACTIVE:
                return
            ((waiting, last),) = self._query(
                "SELECT count(*) FILTER (WHERE status = 'queued'), max(queued) FROM jobs"
            )
            if waiting >= self._limits.queued:
                raise ApiError(
                    "TooManyRequests",
                    f"{waiting} batch jobs wait already: start this one in {RETRY_SECONDS} s",
                )
            self._query("DELETE FROM logs WHERE job = ?", identifier)
            self._update(identifier, status="queued", files="[]", attempts=0, queued=last + 1)

    def take_next(self) -> Job | None:
        """Mark the first job of the queue as running and give it."""
        with self._changing():
            for job in self._find_jobs("WHERE status = 'queued' ORDER BY queued LIMIT 1"):
                self._update(job.id, status="running", attempts=job.attempts + 1)
                return self.job(job.id)
        return None

    def set_status(
        self, identifier: str, status: str, *, files: Iterable[dict[str, Any]] = ()
    ) -> None:
        """Note what became of a job; one that is gone meanwhile stays gone."""
        with self._changing():
            self._update(identifier, status=status, files=json.dumps(list(files)))

    def _update(self, identifier: str, **values: Any) -> None:
        names = ", ".join(f"{name} = ?" for name in values)
        query = f"UPDATE jobs SET {names}, updated = ? WHERE id = ?"  # noqa: S608  our own names
        self._query(query, *values.values(), _now(), identifier)

    def delete_job(self, identifier: str) -> None:
        """Forget a job and its logs."""
        with self._changing():
            self._query("DELETE FROM jobs WHERE id = ?", identifier)

    def recover(self) -> None:
        """Settle jobs that ran when the server was killed.

        It may have been killed by the job (memory), so such a job is tried once more
        and then marked as an error.
        """
        for job in self._find_jobs("WHERE status = 'running'"):
            if job.attempts < MOST_ATTEMPTS:
                status, level = "queued", "warning"
                text = "the server was killed while the job ran: the job is tried once more"
            else:
                status = level = "error"
                text = (
                    f"the server was killed {MOST_ATTEMPTS} times while the job ran: it is not "
                    "tried again. Take a smaller area, or start it again"
                )
            self.set_status(job.id, status)
            self.log(job.id, level, text, code="ServerRestarted")

    def put_back(self, job: Job) -> None:
        """Queue a running job again, at its old place: the server stops in good order."""
        with self._changing():
            self._update(job.id, status="queued", attempts=job.attempts - 1)
        text = "the server was stopped while the job ran: it starts again with the server"
        self.log(job.id, "warning", text, code="ServerRestarted")

    # --- logs

    def log(self, identifier: str, level: str, message: str, *, code: str | None = None) -> None:
        """Add to the log of a job, unless it is below the job's level or the log is full.

        What the server itself says, with a code, is kept in a full log too: it ends the job.
        """
        severity = LEVELS.index(level) if level in LEVELS else LEVELS.index("info")
        text = redact(message)[: self._limits.log_characters]
        with self._changing():
            rows = self._query(
                "SELECT log_level, (SELECT count(*) FROM logs WHERE job = jobs.id) FROM jobs"
                " WHERE id = ?",
                identifier,
            )
            if not rows or severity < LEVELS.index(rows[0][0]):
                return
            room = self._limits.log_entries - rows[0][1]
            if code is None and room <= 0:
                return
            if code is None and room == 1:
                severity, text = LEVELS.index("warning"), "the log is full: only errors follow"
            self._query(
                "INSERT INTO logs (job, time, level, code, message) VALUES (?, ?, ?, ?, ?)",
                *(identifier, _now(), severity, code, text),
            )

    def logs(
        self, identifier: str, *, level: str = "debug", offset: str = "", limit: int = -1
    ) -> list[dict[str, Any]]:
        """List log entries of a level and above, after the one with the id `offset`."""
        rows = self._query(
            "SELECT id, time, level, code, message FROM logs"
            " WHERE job = ? AND level >= ? AND id > ? ORDER BY id LIMIT ?",
            identifier,
            LEVELS.index(level),
            int(offset) if re.fullmatch(r"[0-9]{1,18}", offset) else 0,
            limit,
        )
        return [
            {"id": str(number), "time": time, "level": LEVELS[severity], "message": message}
            | ({"code": code} if code else {})
            for number, time, severity, code, message in rows
        ]

    # --- user-defined processes

    def put_process(self, identifier: str, content: dict[str, Any]) -> None:
        """Store or replace a process.

        Raises
        ------
        ApiError
            ProcessInvalid for a bad name, StorageQuotaExceeded.
        """
        if not re.fullmatch(r"\w{1,255}", identifier, re.ASCII):
            raise ApiError(
                "ProcessInvalid",
                "a process id is 1 to 255 letters, digits or underscores, got "
                f"{identifier[:80]!r}: rename it",
            )
        with self._changing():
            if identifier not in self.processes():
                self._check_count("processes", self._limits.processes)
            self._query(
                "INSERT OR REPLACE INTO processes VALUES (?, ?)",
                *(identifier, json.dumps({**content, "id": identifier})),
            )

    def processes(self) -> dict[str, dict[str, Any]]:
        """Give every process by id."""
        rows = self._query("SELECT id, content FROM processes ORDER BY id")
        return {identifier: json.loads(content) for identifier, content in rows}

    def process(self, identifier: str) -> dict[str, Any]:
        """Find a process.

        Raises
        ------
        ApiError
            ProcessGraphNotFound.
        """
        for (content,) in self._query("SELECT content FROM processes WHERE id = ?", identifier):
            found: dict[str, Any] = json.loads(content)
            return found
        raise ApiError(
            "ProcessGraphNotFound", f"the user-defined process {identifier[:80]!r} does not exist"
        )

    def delete_process(self, identifier: str) -> None:
        """Forget a process.

        Raises
        ------
        ApiError
            ProcessGraphNotFound.
        """
        with self._changing():
            self.process(identifier)
            self._query("DELETE FROM processes WHERE id = ?", identifier)


def _now() -> str:
    """Tell the time as RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def is_job_id(text: str) -> bool:
    """Tell whether a text is a uuid4 in its usual spelling: nothing else names a job folder.

    Examples
    --------
    >>> is_job_id("0c8cbb43-6d5c-4f4a-8e25-d8a4b7c5a3f1"), is_job_id("../../etc")
    (True, False)
    """
    try:
        found = uuid.UUID(text)
    except ValueError:
        return False
    return found.version == 4 and str(found) == text
