"""Batch jobs and their logs. Row 6."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kappamask.base.errors import redact
from kappamask.openeo.server.database import Database, timestamp
from kappamask.openeo.server.faults import ApiError
from kappamask.openeo.server.settings import Limits

LEVELS = ("debug", "info", "warning", "error")
ACTIVE = ("queued", "running")
RETRY_SECONDS = 30  # what a client is told to wait for a place in the queue
MOST_ATTEMPTS = 2  # of a job whose server was killed meanwhile: it may be what killed it


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
        known: dict[str, Any] = {
            "id": self.id,
            "status": self.status,
            "created": self.created,
            "updated": self.updated,
            "title": self.title,
        }
        if self.status in {"created", "queued", "finished"}:
            known["progress"] = 100 if self.status == "finished" else 0
        if full:
            known |= {"description": self.description, "process": self.process}
            known["log_level"] = self.log_level
        return {key: value for key, value in known.items() if value is not None}


_COLUMNS = "id, created, updated, status, attempts, log_level, title, description, process, files"


class JobStore:
    """The batch jobs of one server.

    Parameters
    ----------
    database
        Where they are kept.
    limits
        Bounds on jobs and logs.
    """

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits

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
        now, identifier = timestamp(), str(uuid.uuid4())
        with self._database.changing() as database:
            self._database.check_count("jobs", self._limits.jobs)
            database.execute(
                "INSERT INTO jobs (id, created, updated, status, log_level, title, description,"
                " process) VALUES (?, ?, ?, 'created', ?, ?, ?, ?)",
                (identifier, now, now, level, *texts, json.dumps(process)),
            )
        return self.job(identifier)

    def job(self, identifier: str) -> Job:
        """Find a job.

        Raises
        ------
        ApiError
            JobNotFound, also for what is no uuid4.
        """
        rows = []
        if is_job_id(identifier):
            rows = self._database.read(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", identifier)  # noqa: S608  our own names
        if not rows:
            raise ApiError("JobNotFound", f"the batch job {identifier[:80]!r} does not exist")
        return _to_job(rows[0])

    def jobs(self, *, limit: int, skip: int = 0) -> list[Job]:
        """List jobs, the latest first."""
        query = f"SELECT {_COLUMNS} FROM jobs ORDER BY rowid DESC LIMIT ? OFFSET ?"  # noqa: S608  our own names
        return [_to_job(row) for row in self._database.read(query, limit, skip)]

    def queue(self, identifier: str) -> bool:
        """Put a job at the end of the queue, without its former logs and files.

        Returns
        -------
        bool
            False if it is queued or running already.

        Raises
        ------
        ApiError
            TooManyRequests, if as many wait as there may be.
        """
        with self._database.changing() as database:
            if self.job(identifier).status in ACTIVE:
                return False
            ((waiting,),) = self._database.read("SELECT count(*) FROM jobs WHERE status = 'queued'")
            if waiting >= self._limits.queued:
                raise ApiError(
                    "TooManyRequests",
                    f"{waiting} batch jobs wait already: start this one in {RETRY_SECONDS} s",
                    retry_after=RETRY_SECONDS,
                )
            database.execute("DELETE FROM logs WHERE job = ?", [identifier])
            database.execute(
                "UPDATE jobs SET status = 'queued', updated = ?, files = '[]', attempts = 0,"
                " queued = (SELECT max(queued) + 1 FROM jobs) WHERE id = ?",
                [timestamp(), identifier],
            )
        return True

    def take_next(self) -> Job | None:
        """Mark the first job of the queue as running and give it."""
        with self._database.changing() as database:
            rows = self._database.read(
                "SELECT id FROM jobs WHERE status = 'queued' ORDER BY queued LIMIT 1"
            )
            if not rows:
                return None
            database.execute(
                "UPDATE jobs SET status = 'running', updated = ?, attempts = attempts + 1"
                " WHERE id = ?",
                [timestamp(), rows[0][0]],
            )
            return self.job(rows[0][0])

    def set_status(
        self, identifier: str, status: str, *, files: Iterable[dict[str, Any]] = ()
    ) -> None:
        """Note what became of a job; one that is gone meanwhile stays gone."""
        with self._database.changing() as database:
            database.execute(
                "UPDATE jobs SET status = ?, updated = ?, files = ? WHERE id = ?",
                [status, timestamp(), json.dumps(list(files)), identifier],
            )

    def delete_job(self, identifier: str) -> None:
        """Forget a job and its logs."""
        with self._database.changing() as database:
            database.execute("DELETE FROM jobs WHERE id = ?", [identifier])

    def recover(self) -> None:
        """Settle jobs that ran when the server was killed.

        It may have been killed by the job (memory), so such a job is tried once more
        and then marked as an error.
        """
        for (identifier,) in self._database.read("SELECT id FROM jobs WHERE status = 'running'"):
            if self.job(identifier).attempts < MOST_ATTEMPTS:
                self.set_status(identifier, "queued")
                text = "the server was killed while the job ran: the job is tried once more"
                self.log(identifier, "warning", text, code="ServerRestarted")
            else:
                self.set_status(identifier, "error")
                text = (
                    f"the server was killed {MOST_ATTEMPTS} times while the job ran: it is not "
                    "tried again. Take a smaller area, or start it again"
                )
                self.log(identifier, "error", text, code="ServerRestarted")

    def put_back(self, identifier: str) -> None:
        """Queue a running job again, at its old place: the server stops in good order."""
        with self._database.changing() as database:
            database.execute(
                "UPDATE jobs SET status = 'queued', updated = ?, attempts = attempts - 1"
                " WHERE id = ?",
                [timestamp(), identifier],
            )
        text = "the server was stopped while the job ran: it starts again with the server"
        self.log(identifier, "warning", text, code="ServerRestarted")

    # --- logs

    def log(self, identifier: str, level: str, message: str, *, code: str | None = None) -> None:
        """Add to the log of a job, unless it is below the job's level or the log is full.

        An error is kept in a full log too: it ends the job.
        """
        severity = LEVELS.index(level) if level in LEVELS else LEVELS.index("info")
        text = redact(message)[: self._limits.log_characters]
        with self._database.changing() as database:
            rows = self._database.read(
                "SELECT log_level, (SELECT count(*) FROM logs WHERE job = jobs.id) FROM jobs"
                " WHERE id = ?",
                identifier,
            )
            if not rows or severity < LEVELS.index(rows[0][0]):
                return
            room = self._limits.log_entries - rows[0][1]
            if level != "error" and room <= 0:
                return
            if level != "error" and room == 1:
                severity, text = LEVELS.index("warning"), "the log is full: only errors follow"
            database.execute(
                "INSERT INTO logs (job, time, level, code, message) VALUES (?, ?, ?, ?, ?)",
                [identifier, timestamp(), severity, code, text],
            )

    def logs(
        self, identifier: str, *, level: str = "debug", offset: str = "", limit: int | None = None
    ) -> list[dict[str, Any]]:
        """List log entries of a level and above, after the one with the id `offset`."""
        rows = self._database.read(
            "SELECT id, time, level, code, message FROM logs"
            " WHERE job = ? AND level >= ? AND id > ? ORDER BY id LIMIT ?",
            identifier,
            LEVELS.index(level),
            int(offset) if re.fullmatch(r"[0-9]{1,18}", offset) else 0,
            -1 if limit is None else limit,
        )
        return [
            {
                "id": str(number),
                "time": time,
                "level": LEVELS[severity],
                "message": message,
                **({"code": code} if code else {}),
            }
            for number, time, severity, code, message in rows
        ]


def _to_job(row: tuple[Any, ...]) -> Job:
    known = dict(zip(_COLUMNS.split(", "), row, strict=True))
    return Job(**{**known, **{key: json.loads(known[key]) for key in ("process", "files")}})


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
