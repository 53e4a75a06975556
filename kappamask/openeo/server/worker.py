"""A process that computes process graphs. Row 6: imports rows 0 and `results`.

Graphs hold code of the client (UDFs). In a process of its own such code can end,
hang or run out of memory without taking the server along, and can be stopped.
It is no sandbox: the code may do what the user that started the server may do.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from kappamask.base.errors import redact
from kappamask.openeo.server.faults import LONGEST, ApiError, of_exception
from kappamask.openeo.server.results import collect_files, write_result

Log = Callable[[str, str], None]  # level, message
POLL_SECONDS = 0.1
MEASURE_SECONDS = 1.0  # between two looks at the size of a folder


class Engine(Protocol):
    """What runs process graphs; `kappamask.openeo.local.LocalEngine` is one."""

    def processes(self) -> list[dict[str, Any]]:
        """Describe every predefined process."""

    def collections(self) -> list[dict[str, Any]]:
        """Describe every collection as a STAC collection."""

    def validate(
        self, flat_graph: dict[str, Any], *, parameters: Mapping[str, Any] | None = None
    ) -> list[dict[str, str]]:
        """Tell what is wrong with a graph: code and message of each fault."""

    def run(
        self, flat_graph: dict[str, Any], *, parameters: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute a graph; a DataArray, or the paths that its save_result wrote."""


class EngineFactory(Protocol):
    """Makes an engine; must be importable by name, since a new process imports it again."""

    def __call__(
        self, *, catalog: str, folder: Path | None, log: Log | None, udps: Mapping[str, Any] | None
    ) -> Engine:
        """Make an engine that writes into `folder` and knows `udps`."""


@dataclass(frozen=True)
class Task:
    """One graph to compute."""

    graph: dict[str, Any]  # flat process graph
    parameters: dict[str, Any]  # values of its `from_parameter`
    catalog: str
    folder: str  # exists, is empty, gets the files
    udps: dict[str, Any] = field(default_factory=dict)  # user-defined processes by id


def compute(task: Task, factory: EngineFactory, log: Log) -> list[dict[str, Any]]:
    """Run a graph; describe the files that came of it."""
    folder = Path(task.folder)
    engine = factory(catalog=task.catalog, folder=folder, log=log, udps=task.udps)
    result = engine.run(task.graph, parameters=task.parameters)
    return collect_files(write_result(result, folder), folder)


# --- in the process -------------------------------------------------------------------------


def serve_tasks(connection: Connection, factory: EngineFactory) -> None:
    """Compute what comes through a pipe until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sending = threading.Lock()  # dask logs from several threads

    def send(*message: Any) -> None:
        with sending:
            connection.send_bytes(json.dumps(message).encode())

    def log(level: str, text: str) -> None:
        # The end of a traceback tells most; cut first, half a signed URL would pass for none.
        send("log", level, redact(text)[-LONGEST:])

    while True:
        try:
            task = Task(**json.loads(connection.recv_bytes()))
        except EOFError:
            return
        try:
            send("done", compute(task, factory, log))
        except BaseException as error:  # noqa: BLE001  client code may raise anything, even SystemExit
            fault = of_exception(error)
            log("debug", "".join(traceback.format_exception(error)))
            send("failed", fault.code, str(fault)[:LONGEST], fault.status)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


# --- in the server --------------------------------------------------------------------------


class Worker:
    """Keeps one such process: started with the first task, warm for the next, ended on trouble.

    Parameters
    ----------
    factory
        Makes the engine in the process.
    """

    def __init__(self, factory: EngineFactory) -> None:
        self._factory = factory
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def run(self, task: Task, *, log: Log, watch: Callable[[], None]) -> list[dict[str, Any]]:
        """Compute a task; returns what `collect_files` says of its files.

        Parameters
        ----------
        task
            What to compute.
        log
            Called with level and message as the engine logs.
        watch
            Called several times a second; what it raises ends the process.

        Raises
        ------
        ApiError
            Of the engine, of `watch`, or Internal if the process ended by itself.
        """
        connection = self._connect()
        try:
            connection.send_bytes(json.dumps(asdict(task)).encode())
            while True:
                if connection.poll(POLL_SECONDS):
                    kind, *content = json.loads(connection.recv_bytes())
                    if kind != "log":
                        break
                    log(*content)
                watch()
        except (EOFError, OSError):
            code = self.end(grace=2.0)
            raise ApiError(
                "Internal",
                f"the process that computed the graph ended by itself (exit code {code}): "
                "probably it ran out of memory, or the UDF ended it; try a smaller area",
            ) from None
        except BaseException:
            self.end()
            raise
        if kind == "failed":
            code, message, status = content
            raise ApiError(code, message, status=status)
        return list(*content)

    def _connect(self) -> Connection:
        if self._process is None or not self._process.is_alive() or self._connection is None:
            self.end()
            context = multiprocessing.get_context("spawn")  # threads of the server do not fork
            self._connection, inner = context.Pipe()
            self._process = context.Process(
                target=serve_tasks,
                args=(inner, self._factory),
                daemon=True,
                name="kappamask-worker",
            )
            self._process.start()
            inner.close()
        return self._connection

    def end(self, *, grace: float = 0.0) -> int | None:
        """End the process, if there is one; returns its exit code."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            connection.close()
        if process is None:
            return None
        process.join(grace)  # one that ends by itself has a code to tell
        process.kill()
        process.join()
        return process.exitcode


class Watch:
    """Raises when a computation was stopped, takes too long or writes too much.

    Parameters
    ----------
    folder
        Where the computation writes.
    most_bytes, most_seconds
        Its bounds.
    stopped
        Gives the reason to stop, or None.
    """

    def __init__(
        self,
        folder: Path,
        *,
        most_bytes: int,
        most_seconds: float,
        stopped: Callable[[], ApiError | None],
    ) -> None:
        self.folder, self.most_bytes, self.most_seconds = folder, most_bytes, most_seconds
        self.stopped = stopped
        self._start = self._measured = time.monotonic()

    def __call__(self) -> None:
        """Look once."""
        reason = self.stopped()
        if reason is not None:
            raise reason
        now = time.monotonic()
        if now - self._start > self.most_seconds:
            raise ApiError(
                "RequestTimeout",
                f"a computation may take {self.most_seconds:g} s, got more: take a smaller area "
                "or time span, or a batch job instead of a synchronous request",
            )
        if now - self._measured > MEASURE_SECONDS:
            self._measured = now
            self.check_size()

    def check_size(self) -> None:
        """Raise if the folder holds too much.

        Raises
        ------
        ApiError
            ResultTooLarge.
        """
        size = folder_bytes(self.folder)
        if size > self.most_bytes:
            raise ApiError(
                "ResultTooLarge",
                f"results may take {self.most_bytes} bytes here, got {size}: take a smaller area "
                "or fewer dates, or delete batch jobs",
            )


def folder_bytes(folder: Path) -> int:
    """Sum the sizes of all files below a folder; links count as themselves."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118
    return total
