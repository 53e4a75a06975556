"""One graph, one process. May import `base`, `faults` and `results`.

Graphs hold code of the client (UDFs). In a process of its own such code can end,
hang or run out of memory without taking the server along, and can be stopped; what
it changes in its process is gone with it. It is no sandbox: the code may do what the
user that started the server may do.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kappamask.base.errors import redact
from kappamask.openeo.server.faults import LONGEST, ApiError, of_exception
from kappamask.openeo.server.results import are_written, collect_files, write_result

if TYPE_CHECKING:
    from kappamask.openeo.local import LocalEngine

Log = Callable[[str, str], None]  # level, message
# As `LocalEngine`, of catalog, folder, log and udps; a new process imports it by its name.
EngineFactory = Callable[..., "LocalEngine"]
LOOK_SECONDS = 0.1  # between two looks whether to stop
MEASURE_SECONDS = 1.0  # between two looks at the size of a folder
MESSAGE_BYTES = 16 * 2**20  # of one line that a process says
# Threads of the server do not survive a fork, and libraries take seconds to load. So Linux
# forks workers from a process that has only loaded them; elsewhere that is not safe.
_CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
_LIBRARIES = ["kappamask.openeo.local", "kappamask.openeo.server.worker", "rioxarray", "torch"]
# glibc gives every thread a heap of its own otherwise, and each keeps what was freed in it.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}
_CHILDREN = threading.Lock()  # multiprocessing looks at all of them when it starts one


@dataclass(frozen=True)
class Task:
    """One graph to compute, and its bounds."""

    graph: dict[str, Any]  # flat process graph
    parameters: dict[str, Any]  # values of its `from_parameter`
    catalog: str
    folder: Path  # exists, is empty, gets the files
    most_bytes: int  # of these
    most_seconds: float
    udps: dict[str, Any] = field(default_factory=dict)  # user-defined processes by id


def prepare_workers() -> None:
    """Begin to load what workers need, so that the first one need not wait for it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if _CONTEXT.get_start_method() == "forkserver":
        from multiprocessing import forkserver

        _CONTEXT.set_forkserver_preload(_LIBRARIES)
        forkserver.ensure_running()


def compute(
    task: Task,
    factory: EngineFactory,
    *,
    log: Log,
    stopped: Callable[[], ApiError | None],
    secret: str | None = None,
) -> list[dict[str, Any]]:
    """Compute a graph in a process of its own; returns what `collect_files` says of its files.

    Parameters
    ----------
    task
        What to compute.
    factory
        Makes the engine in the process.
    log
        Called with level and message as the engine logs.
    stopped
        Asked several times a second for a reason to stop; None: go on.
    secret
        The server's token: what code of clients says never tells it.

    Raises
    ------
    ApiError
        Of the engine; the reason to stop; RequestTimeout or ResultTooLarge; Internal if
        the process ended by itself.
    """
    receiving, sending = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(
        target=_work, args=(sending, task, factory), daemon=True, name="kappamask-worker"
    )
    with receiving:
        try:
            with _CHILDREN, sending:
                process.start()
            began = measured = time.monotonic()
            lines = _listen(process, receiving)
            while True:
                kind, *content = _read_message(next(lines), task, secret)
                if kind == "done":
                    _check_size(task)
                    (files,) = content
                    if not are_written(files, task.folder):
                        raise ApiError(
                            "Internal",
                            "the process that computed the graph told of files that it did not "
                            "write: end the graph in save_result",
                        )
                    return list(files)
                if kind == "failed":
                    raise ApiError(*content)
                if kind == "log":
                    log(*content)
                if reason := stopped():
                    raise reason
                now = time.monotonic()
                if now - began > task.most_seconds:
                    raise ApiError(
                        "RequestTimeout",
                        f"a computation may take {task.most_seconds:g} s, got more: take a smaller "
                        "area or time span, or a batch job instead of a synchronous request",
                    )
                if now - measured > MEASURE_SECONDS:
                    measured = now
                    _check_size(task)
        finally:
            _end(process)


def _listen(process: BaseProcess, receiving: Connection) -> Iterator[bytes]:
    """Give each line that the process says, and an empty one whenever it says nothing for a while.

    What client code writes into the pipe neither blocks this nor fills the memory.
    """
    heard = bytearray()
    while True:
        # A child that client code left behind may hold the pipe open: look at the process too.
        wait([receiving, process.sentinel], LOOK_SECONDS)
        with _CHILDREN:
            has_ended = not process.is_alive()
        piece = b""
        if receiving.poll():
            piece = os.read(receiving.fileno(), 2**16)
            if not piece:  # closed, so that only the end of the process is left to wait for
                time.sleep(LOOK_SECONDS)
        heard += piece
        if b"\n" in piece:
            *lines, heard = heard.split(b"\n")
            yield from map(bytes, lines)
        if len(heard) > MESSAGE_BYTES:
            heard.clear()
        if has_ended and not piece:
            raise ApiError(
                "Internal",
                "the process that computed the graph ended by itself (exit code "
                f"{process.exitcode}): probably it ran out of memory, or the UDF ended it; try a "
                "smaller area",
            )
        yield b""


def _read_message(line: bytes, task: Task, secret: str | None) -> list[Any]:
    """Read a line that `_work` sent of a task; what is none says nothing."""
    if secret is not None:
        line = line.replace(secret.encode(), b"***")
    with contextlib.suppress(ValueError, RecursionError):
        match json.loads(line):
            case [str(job), *said] if job == task.folder.name:
                match said:
                    case ["log" | "failed", str(), str()] | ["done", list()]:
                        return said
    return ["nothing"]


def _check_size(task: Task) -> None:
    size = folder_bytes(task.folder)
    if size > task.most_bytes:
        raise ApiError(
            "ResultTooLarge",
            f"results may take {task.most_bytes} bytes here, got {size}: take a smaller area "
            "or fewer dates, or delete batch jobs",
        )


def _end(process: BaseProcess) -> None:
    """End a process and whatever it started."""
    if process.pid is None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with _CHILDREN:
        process.kill()
        process.join()


def folder_bytes(folder: Path) -> int:
    """Sum the sizes of all files below a folder; links count as themselves."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118
    return total


# --- in the process -------------------------------------------------------------------------


def _work(sending: Connection, task: Task, factory: EngineFactory) -> None:
    os.setsid()  # Ctrl-C is for the server; and what client code starts ends with this
    threading.Thread(target=_end_with_parent, daemon=True).start()
    lock = threading.Lock()  # dask logs from several threads

    def send(*message: Any) -> None:
        with lock, open(sending.fileno(), "wb", closefd=False) as pipe:
            pipe.write(json.dumps([task.folder.name, *message]).encode() + b"\n")

    def log(level: str, text: str) -> None:
        # The end of a traceback tells most; cut first, half a signed URL would pass for none.
        send("log", level, redact(text)[-LONGEST:])

    try:
        send("done", run_task(task, factory, log))
    except BaseException as error:  # noqa: BLE001  client code may raise anything, even SystemExit
        fault = of_exception(error)
        log("debug", "".join(traceback.format_exception(error)))
        send("failed", fault.code, str(fault)[:LONGEST])


def run_task(task: Task, factory: EngineFactory, log: Log) -> list[dict[str, Any]]:
    """Run a graph; describe the files that came of it."""
    engine = factory(catalog=task.catalog, folder=task.folder, log=log, udps=task.udps)
    result = engine.run(task.graph, parameters=task.parameters)
    return collect_files(write_result(result, task.folder), task.folder)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)
