"""Runs batch jobs one at a time, and synchronous requests beside them. Row 6."""

from __future__ import annotations

import logging
import queue
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kappamask.base.errors import redact
from kappamask.openeo.server.faults import ApiError, of_exception
from kappamask.openeo.server.jobs import ACTIVE, Job, JobStore, is_job_id
from kappamask.openeo.server.settings import Settings
from kappamask.openeo.server.udps import ProcessStore
from kappamask.openeo.server.worker import EngineFactory, Task, Watch, Worker, folder_bytes

LOG = logging.getLogger(__name__)
RETRY_SECONDS = 10  # what a client that came in vain is told to wait
CANCELED = "JobCanceled"
STOPPED = "ServerStopped"


@dataclass
class Running:
    """The job that is computed now."""

    job: str
    reason: ApiError | None = None  # to stop it
    done: threading.Event = field(default_factory=threading.Event)


class Runner:
    """A thread that takes jobs from the queue, and processes that compute.

    Parameters
    ----------
    settings
        Folder, catalogue and limits.
    factory
        Makes engines.
    jobs, processes
        What is stored.
    """

    def __init__(
        self, settings: Settings, factory: EngineFactory, jobs: JobStore, processes: ProcessStore
    ) -> None:
        self._settings = settings
        self._limits = settings.limits
        self._jobs, self._processes = jobs, processes
        self._job_folders = settings.workdir / "jobs"
        self._sync_folders = settings.workdir / "sync"
        self._changed = threading.Condition()
        self._running: Running | None = None
        self._closing = False
        self._worker = Worker(factory)
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()  # the last one used is warm
        for _ in range(self._limits.sync_requests):
            self._idle.put(Worker(factory))
        self._thread = threading.Thread(target=self._loop, name="kappamask-jobs", daemon=True)

    def start(self) -> None:
        """Settle what a killed server left, and begin with the queue."""
        for folder in (self._job_folders, self._sync_folders):
            folder.mkdir(parents=True, exist_ok=True)
        for leftover in self._sync_folders.iterdir():
            if is_job_id(leftover.name):
                shutil.rmtree(leftover, ignore_errors=True)
        self._jobs.recover()
        self._thread.start()

    def close(self) -> None:
        """Stop everything; a running job is queued again for the next start."""
        with self._changed:
            self._closing = True
            if self._running is not None:
                self._running.reason = ApiError(STOPPED, "the server stops")
            self._changed.notify_all()
        self._thread.join()
        self._worker.end()
        for _ in range(self._limits.sync_requests):
            self._idle.get().end()  # waits for synchronous requests, which see `_closing`

    def folder(self, identifier: str) -> Path:
        """Where the results of a job lie."""
        return self._job_folders / self._jobs.job(identifier).id

    # --- batch jobs

    def submit(self, identifier: str) -> None:
        """Queue a job.

        Raises
        ------
        ApiError
            JobNotFound; StorageQuotaExceeded, if stored results take all the room;
            TooManyRequests, if too many jobs wait.
        """
        self._jobs.job(identifier)
        self._room()
        with self._changed:
            self._jobs.queue(identifier)
            self._changed.notify_all()

    def _room(self) -> int:
        """How many bytes a job may write now."""
        left = self._limits.stored_bytes - folder_bytes(self._job_folders)
        if left <= 0:
            raise ApiError(
                "StorageQuotaExceeded",
                f"results of batch jobs may take {self._limits.stored_bytes} bytes here and do: "
                "delete some jobs first",
            )
        return min(left, self._limits.result_bytes)

    def cancel(self, identifier: str) -> None:
        """Stop a job that is queued or running; returns when it has stopped.

        A queued job becomes `created` again, a running one `canceled`.
        """
        job = self._jobs.job(identifier)
        with self._changed:
            running = self._running
            if running is not None and running.job == job.id:
                running.reason = ApiError(CANCELED, "the job was canceled")
            else:
                running = None
                status = self._jobs.job(identifier).status
                if status in ACTIVE:  # "running" without running: its end could not be stored
                    self._jobs.set_status(
                        identifier, "created" if status == "queued" else "canceled"
                    )
        if running is not None:
            running.done.wait()

    def delete(self, identifier: str) -> None:
        """Stop a job and forget it, its logs and its results."""
        self.cancel(identifier)
        folder = self.folder(identifier)
        self._jobs.delete_job(identifier)
        shutil.rmtree(folder, ignore_errors=True)

    def _loop(self) -> None:
        while not self._closing:
            try:
                self._run_next()
            except Exception:  # a full disk, say: later jobs may have more luck
                LOG.exception("a job could not be brought to an end")
                time.sleep(1)

    def _run_next(self) -> None:
        with self._changed:
            job = None if self._closing else self._jobs.take_next()
            if job is None:
                if not self._closing:
                    self._changed.wait()
                return
            running = self._running = Running(job.id)
        try:
            self._run(job, running)
        finally:
            with self._changed:
                self._running = None
            running.done.set()

    def _run(self, job: Job, running: Running) -> None:
        folder = self._job_folders / job.id
        try:
            shutil.rmtree(folder, ignore_errors=True)
            room = self._room()
            folder.mkdir()
            watch = Watch(
                folder,
                most_bytes=room,
                most_seconds=self._limits.job_seconds,
                stopped=lambda: running.reason,
            )
            self._jobs.log(job.id, "info", f"started, attempt {job.attempts}")
            files = self._worker.run(
                self._task(job.process, folder),
                log=lambda level, text: self._jobs.log(job.id, level, text),
                watch=watch,
            )
            watch.check_size()
        except Exception as error:  # noqa: BLE001  whatever it was, the job must not stay "running"
            self._settle(job, of_exception(error))
            shutil.rmtree(folder, ignore_errors=True)
        else:
            self._jobs.log(job.id, "info", f"finished with {len(files)} files")
            self._jobs.set_status(job.id, "finished", files=files)

    def _settle(self, job: Job, fault: ApiError) -> None:
        if fault.code == STOPPED:
            self._jobs.put_back(job.id)
        elif fault.code == CANCELED:
            self._jobs.log(job.id, "info", str(fault), code=CANCELED)
            self._jobs.set_status(job.id, "canceled")
        else:
            self._jobs.log(job.id, "error", str(fault), code=fault.code)
            self._jobs.set_status(job.id, "error")

    def _task(self, process: dict[str, Any], folder: Path) -> Task:
        return Task(
            graph=process["process_graph"],
            parameters=default_parameters(process),
            catalog=self._settings.catalog,
            folder=str(folder),
            udps=self._processes.all(),
        )

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
        folder = self._sync_folders / str(uuid.uuid4())
        watch = Watch(
            folder,
            most_bytes=self._limits.result_bytes,
            most_seconds=self._limits.sync_seconds,
            stopped=lambda: self._stop_reason(is_gone=is_gone()),
        )
        with self._place() as worker:
            self._check_unsent()
            folder.mkdir()
            try:
                files = worker.run(self._task(process, folder), log=log_sync, watch=watch)
                watch.check_size()
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        return folder, files

    def _check_unsent(self) -> None:
        """Refuse to compute more while slow clients have not fetched what there is."""
        if folder_bytes(self._sync_folders) > self._limits.unsent_bytes:
            raise ApiError(
                "ServerBusy",
                "results of other requests are still being fetched and take the room: repeat the "
                f"request in {RETRY_SECONDS} s, or make it a batch job",
                retry_after=RETRY_SECONDS,
            )

    def _stop_reason(self, *, is_gone: bool) -> ApiError | None:
        if self._closing:
            text = f"the server stops: repeat the request in {RETRY_SECONDS} s"
            return ApiError(STOPPED, text, status=503, retry_after=RETRY_SECONDS)
        return ApiError("RequestInvalid", "the client is gone") if is_gone else None

    @contextmanager
    def _place(self) -> Iterator[Worker]:
        try:
            worker = self._idle.get_nowait()
        except queue.Empty:
            raise ApiError(
                "TooManyRequests",
                f"this server computes {self._limits.sync_requests} synchronous requests at a "
                f"time, got one more: repeat it in {RETRY_SECONDS} s, or make it a batch job",
                retry_after=RETRY_SECONDS,
            ) from None
        try:
            yield worker
        finally:
            self._idle.put(worker)


def log_sync(level: str, text: str) -> None:
    """Log for a synchronous request: the client has no log to look at."""
    LOG.log(logging.getLevelNamesMapping().get(level.upper(), logging.INFO), "%s", redact(text))


def default_parameters(process: dict[str, Any]) -> dict[str, Any]:
    """Take the default values of a process's parameters.

    Examples
    --------
    >>> default_parameters({"parameters": [{"name": "x", "default": 1}, {"name": "y"}]})
    {'x': 1}
    """
    return {
        parameter["name"]: parameter["default"]
        for parameter in process.get("parameters") or []
        if "default" in parameter
    }
