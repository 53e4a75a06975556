"""What requests bring: JSON bodies and the processes in them. May import `backend` and below."""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn

from fastapi import Depends, Request
from starlette.requests import ClientDisconnect

from kappamask.openeo.server.backend import Backend
from kappamask.openeo.server.faults import ApiError

JSON = dict[str, Any]


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
    return check_object(body, "the body")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is no JSON")


def check_object(value: Any, name: str) -> JSON:
    """Refuse what is no JSON object.

    Raises
    ------
    ApiError
        RequestInvalid.
    """
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise ApiError("RequestInvalid", f"{name} must be a JSON object, got {kind}")
    return value


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


def _get_backend(request: Request) -> Backend:
    found: Backend = request.app.state.backend
    return found


def _get_url(request: Request) -> str:
    """Tell under which URL the client sees the server, without a slash at its end."""
    return str(request.base_url).rstrip("/")


Here = Annotated[Backend, Depends(_get_backend)]
Url = Annotated[str, Depends(_get_url)]
Body = Annotated[JSON, Depends(read_body)]


def take_process(body: Body) -> JSON:
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


Process = Annotated[JSON, Depends(take_process)]
