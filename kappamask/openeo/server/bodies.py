"""What requests bring: JSON bodies and the processes in them.

May import `backend` and below, and `engine`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn

from fastapi import Depends, Request
from starlette.requests import ClientDisconnect

from kappamask.openeo.engine.flat_graph import check_shape
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


def check_process(process: Any) -> JSON:
    """Check the outer form of a process with its graph; the engine checks the rest.

    Raises
    ------
    KappaMaskError
        With the code ProcessGraphMissing, ProcessGraphInvalid or ProcessInvalid.

    Examples
    --------
    >>> check_process({"process_graph": {"add": {"process_id": 5, "arguments": {}}}})
    Traceback (most recent call last):
    kappamask.openeo.engine.flat_graph.GraphError: node 'add' needs a process_id, got ...
    """
    found: JSON = process if isinstance(process, dict) else {}
    graph = found.get("process_graph")
    if graph is None:
        raise ApiError("ProcessGraphMissing", "a process with a process_graph is needed, got none")
    if graph == {}:
        raise ApiError("ProcessGraphInvalid", "a process graph has nodes, got none")
    check_shape(graph)
    parameters = found.get("parameters") or []
    if not isinstance(parameters, list) or not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in parameters
    ):
        raise ApiError("ProcessInvalid", "parameters are a list of objects with a name each")
    return found


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
    """Take the process out of the body of a job or synchronous request; errors as above."""
    return check_process(body.get("process"))


Process = Annotated[JSON, Depends(take_process)]
