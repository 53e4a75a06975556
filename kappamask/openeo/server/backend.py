"""What computes: batch jobs one at a time, synchronous requests beside them.

May import `store`, `worker`, `gate`, `settings`, `faults` and `base`.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kappamask.base.errors import WriteError, redact
from kappamask.openeo.server.faults import RETRY_SECONDS, ApiError, of_exception
from kappamask.openeo.server.gate import Links
from kappamask.openeo.server.settings import Settings
from kappamask.openeo.server.store import ACTIVE, Job, Store, is_job_id
from kappamask.openeo.server.worker import EngineFactory, Log, Task, compute, folder_bytes

if TYPE_CHECKING:
    from kappamask.openeo.local import LocalEngine

LOG = logging.getLogger(__name__)


@dataclass
class Running:
    """The job that is computed now."""

    job: str
    reason: ApiError | None = None  # to stop it
    done: threading.Event = field(default_factory=threading.Event)


class Backend:
    """One server's store, its thread that takes jobs from the queue, and its engine.

    Parameters
    ----------
    settings
        Folder, catalogue and limits.
    factory
        Makes engines.

    Raises
    ------
    InputError
        If another server uses the folder, or the catalogue cannot be.
    WriteError
        If the folder cannot be written to.
    """

    def __init__(self, settings: Settings, factory: EngineFactory) -> None:
        self.settings, self.limits, self._factory = settings, settings.limits, factory
        self._job_folders = settings.workdir / "jobs"
        self._sync_folders = settings.workdir / "sync"
        try:
            settings.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(
                f"the work folder must be makable, got {error}: choose another --workdir"
            ) from error
        self.links = Links(self.limits.link_seconds, needed=settings.token is not None)
        self.store = Store(settings.workdir / "kappamask.sqlite", settings.limits)
        self._changed = threading.Condition()
        self._running: Running | None = None
        self._closing = False
        self._places = threading.Semaphore(self.limits.sync_requests)
        self._thread = threading.Thread(target=self._loop, name="kappamask-jobs", daemon=True)

    def start(self) -> None:
        """Settle what a killed server left, and begin with the queue."""
        for folder in (self._job_folders, self._sync_folders):
            folder.mkdir(parents=True, exist_ok=True)
        for leftover in self._sync_folders.iterdir():
            if is_job_id(leftover.name):
                shutil.rmtree(leftover, ignore_errors=True)
        self.store.recover()
        self._thread.start()

    def close(self) -> None:
        """Stop everything; a running job is queued again for the next start."""
        with self._changed:
            self._closing = True
            if self._running is not None:
                self._running.reason = ApiError("ServerStopped", "the server stops")
            self._changed.notify_all()
        self._thread.join()
        for _ in range(self.limits.sync_requests):
            self._places.acquire()  # waits for synchronous requests, which see `_closing`
        self.store.close()

    # --- what describes

    def engine(self) -> LocalEngine:
        """Make an engine that knows what is stored now, for anything but computing."""
        return self._factory(
            catalog=self.settings.catalog, folder=None, log=None, udps=self.store.processes()
        )

    @cached_property
    def predefined(self) -> list[dict[str, Any]]:
        """The predefined processes."""
        return self.engine().processes()

    @cached_property
    def collections(self) -> list[dict[str, Any]]:
        """The collections; looked up once, since a catalogue may be far away."""
        return self.engine().collections()

    # --- batch jobs

    def folder(self, identifier: str) -> Path:
        """Where the results of a job lie."""
        return self._job_folders / self.store.job(identifier).id

    def submit(self, identifier: str) -> None:
        """Queue a job.

        Raises
        ------
        ApiError
            JobNotFound; StorageQuotaExceeded, if stored results take all the room;
            TooManyRequests, if too many jobs wait.
        """
        self.store.job(identifier)
        self._room()
        with self._changed:
            self.store.queue(identifier)
            self._changed.notify_all()

    def _room(self) -> int:
        """How many bytes a job may write now."""
        left = self.limits.stored_bytes - folder_bytes(self._job_folders)
        if left <= 0:
            raise ApiError(
                "StorageQuotaExceeded",
                f"results of batch jobs may take {self.limits.stored_bytes} bytes here and do: "
                "delete some jobs first",
            )
        return min(left, self.limits.result_bytes)

    def cancel(self, identifier: str) -> None:
        """Stop a job that is queued or running; returns when it has stopped.

        A queued job becomes `created` again, a running one `canceled`.
        """
        with self._changed:
            job, running = self.store.job(identifier), self._running
            if running is not None and running.job == job.id:
                running.reason = ApiError("JobCanceled", "the job was canceled")
            else:
                running = None
                if job.status in ACTIVE:  # "running" without running: its end could not be stored
                    status = "created" if job.status == "queued" else "canceled"
                    self.store.set_status(job.id, status)
        if running is not None:
            running.done.wait()

    def change(self, identifier: str, **values: Any) -> None:
        """Change what a client told of a job; results of another process are dropped."""
        self.store.change_job(identifier, **values)
        if "process" in values:
            shutil.rmtree(self.folder(identifier), ignore_errors=True)

    def delete(self, identifier: str) -> None:
        """Stop a job and forget it, its logs and its results."""
        self.cancel(identifier)
        folder = self.folder(identifier)
        self.store.delete_job(identifier)
        shutil.rmtree(folder, ignore_errors=True)

    def _loop(self) -> None:
        while True:
            try:
                with self._changed:
                    if self._closing:
                        return
                    job = self.store.take_next()
                    if job is None:
                        self._changed.wait()
                        continue
                    running = self._running = Running(job.id)
                try:
                    self._run(job, running)
                finally:
                    with self._changed:
                        self._running = None
                    running.done.set()
            except Exception:  # a full disk, say: later jobs may have more luck
                LOG.exception("a job could not be brought to an end")
                time.sleep(1)

    def _run(self, job: Job, running: Running) -> None:
        def log(level: str, text: str, code: str | None = None) -> None:
            self.store.log(job.id, level, text, code=code)

        folder = self._job_folders / job.id
        shutil.rmtree(folder, ignore_errors=True)
        log("info", f"started, attempt {job.attempts}")
        try:
            files = self._compute(
                job.process,
                folder,
                most_bytes=self._room(),
                most_seconds=self.limits.job_seconds,
                log=log,
                stopped=lambda: running.reason,
            )
        except Exception as error:  # noqa: BLE001  whatever it was, the job must not stay "running"
            if error is running.reason and self._closing:
                self.store.put_back(job)
            elif error is running.reason:
                log("info", str(error), "JobCanceled")
                self.store.set_status(job.id, "canceled")
            else:
                fault = of_exception(error)
                log("error", str(fault), fault.code)
                self.store.set_status(job.id, "error")
        else:
            log("info", f"finished with {len(files)} files")
            self.store.set_status(job.id, "finished", files=files)

    # --- synchronous requests

    def compute_now(
        self, process: dict[str, Any], *, is_gone: Callable[[], bool]
    ) -> tuple[Path, list[dict[str, Any]]]:
        """Compute a graph at once.

        Parameters
        ----------
        process
            With a process_graph.
        is_gone
            Tells that nobody waits for the result any more.

        Returns
        -------
        folder : Path
            Holds the files; the caller removes it.
        files : list of dict
            What `results.collect_files` says of them.

        Raises
        ------
        ApiError
            TooManyRequests, if all places are taken; ServerBusy, if too many results are
            still being fetched; or what the graph ends in.
        """

        def log(level: str, text: str) -> None:  # the client has no log to look at
            severity = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
            LOG.log(severity, "%s", redact(text))

        def stopped() -> ApiError | None:
            if self._closing:
                text = f"the server stops: repeat the request in {RETRY_SECONDS} s"
                return ApiError("ServerStopped", text)
            return ApiError("RequestInvalid", "the client is gone") if is_gone() else None

        if not self._places.acquire(blocking=False):
            raise ApiError(
                "TooManyRequests",
                f"this server computes {self.limits.sync_requests} synchronous requests at a "
                f"time, got one more: repeat it in {RETRY_SECONDS} s, or make it a batch job",
            )
        try:
            if folder_bytes(self._sync_folders) > self.limits.unsent_bytes:  # slow clients
                raise ApiError(
                    "ServerBusy",
                    "results of other requests are still being fetched and take the room: repeat "
                    f"the request in {RETRY_SECONDS} s, or make it a batch job",
                )
            folder = self._sync_folders / str(uuid.uuid4())
            return folder, self._compute(
                process,
                folder,
                most_bytes=self.limits.result_bytes,
                most_seconds=self.limits.sync_seconds,
                log=log,
                stopped=stopped,
            )
        finally:
            self._places.release()

    # --- both

    def _compute(
        self,
        process: dict[str, Any],
        folder: Path,
        *,
        most_bytes: int,
        most_seconds: float,
        log: Log,
        stopped: Callable[[], ApiError | None],
    ) -> list[dict[str, Any]]:
        """Compute a graph into a new folder, which goes when anything goes wrong."""
        parameters = {
            parameter["name"]: parameter["default"]
            for parameter in process.get("parameters") or []
            if "default" in parameter
        }
        task = Task(
            graph=process["process_graph"],
            parameters=parameters,
            catalog=self.settings.catalog,
            folder=folder,
            most_bytes=most_bytes,
            most_seconds=most_seconds,
            udps=self.store.processes(),
        )
        folder.mkdir()
        try:
            secret = self.settings.token
            return compute(task, self._factory, log=log, stopped=stopped, secret=secret)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
