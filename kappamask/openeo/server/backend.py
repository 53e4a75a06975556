"""What all endpoints share: settings, stores, runner, engine, and how bodies are read. Row 6."""

from __future__ import annotations

import json
import threading
from functools import cached_property
from typing import Annotated, Any, NoReturn

from fastapi import Depends, Request
from starlette.requests import ClientDisconnect

from kappamask.base.errors import WriteError
from kappamask.openeo.server.database import Database
from kappamask.openeo.server.faults import ApiError
from kappamask.openeo.server.jobs import JobStore
from kappamask.openeo.server.runner import Runner
from kappamask.openeo.server.settings import Settings
from kappamask.openeo.server.udps import ProcessStore
from kappamask.openeo.server.worker import Engine, EngineFactory

JSON = dict[str, Any]


class Backend:
    """One server's parts.

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
        self.settings = settings
        self._factory = factory
        self._lock = threading.Lock()
        try:
            settings.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(
                f"the work folder must be makable, got {error}: choose another --workdir"
            ) from error
        self.database = Database(settings.workdir / "kappamask.sqlite")
        self.jobs = JobStore(self.database, settings.limits)
        self.processes = ProcessStore(self.database, most=settings.limits.processes)
        self.runner = Runner(settings, factory, self.jobs, self.processes)

    def close(self) -> None:
        """Stop computing, then let the database go."""
        self.runner.close()
        self.database.close()

    def engine(self) -> Engine:
        """Make an engine that knows what is stored now, for anything but computing."""
        return self._factory(
            catalog=self.settings.catalog, folder=None, log=None, udps=self.processes.all()
        )

    @cached_property
    def _predefined(self) -> list[JSON]:
        return self.engine().processes()

    @cached_property
    def _collections(self) -> list[JSON]:
        return self.engine().collections()

    def predefined(self) -> list[JSON]:
        """Describe the predefined processes."""
        with self._lock:
            return self._predefined

    def collections(self) -> list[JSON]:
        """Describe the collections; looked up once, since a catalogue may be far away."""
        with self._lock:
            return self._collections


def get_backend(request: Request) -> Backend:
    """Find the back end of the server that got a request."""
    found: Backend = request.app.state.backend
    return found


def get_url(request: Request) -> str:
    """Tell under which URL the client sees the server, without a slash at its end."""
    return str(request.base_url).rstrip("/")


async def read_body(request: Request) -> JSON:
    """Read a JSON object.

    Raises
    ------
    ApiError
        ContentTypeInvalid, RequestInvalid, RequestTooLarge.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # other kinds are what web pages can send without asking
        raise ApiError("ContentTypeInvalid", f"send application/json, got {kind[:80]!r}")
    try:
        body = json.loads(await request.body(), parse_constant=_refuse_constant)
        # Half characters (\ud800) and 1e999 are read, and can be neither stored nor answered.
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError, ClientDisconnect) as error:
        raise ApiError("RequestInvalid", f"the body must be JSON, got {error}") from None
    if not isinstance(body, dict):
        raise ApiError(
            "RequestInvalid", f"the body must be a JSON object, got {type(body).__name__}"
        )
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is no JSON")


def take_process(body: JSON) -> JSON:
    """Take the process out of the body of a job or synchronous request.

    Raises
    ------
    ApiError
        ProcessGraphMissing, ProcessGraphInvalid, ProcessInvalid.
    """
    process = body.get("process")
    if not isinstance(process, dict):
        raise ApiError(
            "ProcessGraphMissing", "the body needs process.process_graph, got no process"
        )
    return check_process(process)


def check_process(process: JSON) -> JSON:
    """Check the outer form of a process with its graph; the engine checks the rest.

    Raises
    ------
    ApiError
        ProcessGraphMissing, ProcessGraphInvalid, ProcessInvalid.

    Examples
    --------
    >>> check_process({"process_graph": {"add": {"process_id": 5, "arguments": {}}}})
    Traceback (most recent call last):
    kappamask.openeo.server.faults.ApiError: node 'add' of the process graph needs a process_id ...
    """
    graph = process.get("process_graph")
    if graph is None:
        raise ApiError("ProcessGraphMissing", "the process needs a process_graph, got none")
    if not isinstance(graph, dict) or not graph:
        raise ApiError(
            "ProcessGraphInvalid", f"a process graph is an object of nodes, got {str(graph)[:80]!r}"
        )
    for name, node in graph.items():
        known = node if isinstance(node, dict) else {}
        if not (
            isinstance(known.get("process_id"), str) and isinstance(known.get("arguments"), dict)
        ):
            raise ApiError(
                "ProcessGraphInvalid",
                f"node {name[:80]!r} of the process graph needs a process_id (text) and arguments "
                f"(object), got {str(node)[:80]!r}",
            )
    parameters = process.get("parameters") or []
    if not isinstance(parameters, list) or not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in parameters
    ):
        raise ApiError("ProcessInvalid", "parameters are a list of objects with a name each")
    return process


Here = Annotated[Backend, Depends(get_backend)]
Url = Annotated[str, Depends(get_url)]
Body = Annotated[JSON, Depends(read_body)]
