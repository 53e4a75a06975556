"""Endpoints that describe: capabilities, collections, processes, stored processes.

openEO API 1.2.0, https://api.openeo.org/. May import `bodies` and below.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from importlib.util import find_spec

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from kappamask import __version__
from kappamask.base.errors import KappaMaskError
from kappamask.openeo.server.bodies import JSON, Body, Here, Url, check_process
from kappamask.openeo.server.faults import ApiError, of_exception
from kappamask.openeo.server.gate import check_credentials
from kappamask.openeo.server.worker import folder_bytes

API_VERSION = "1.2.0"
CONFORMANCE = ["https://api.openeo.org/1.2.0", "https://api.stacspec.org/v1.0.0/collections"]
NO_TOKEN = "none-needed-on-this-machine"  # noqa: S105  no secret: any will do
UDF_LIBRARIES = ("kappamask", "numpy", "onnxruntime", "openeo", "scipy", "torch", "xarray")
router = APIRouter()


@router.get("/")
def show_capabilities(request: Request, url: Url) -> JSON:
    """Tell what the server can do; the endpoints are those that it has."""
    methods: dict[str, set[str]] = {}
    for route in request.app.routes:
        if isinstance(route, APIRoute) and route.path not in {"/", "/.well-known/openeo"}:
            path = route.path.replace(":path}", "}")
            methods.setdefault(path, set()).update(route.methods - {"HEAD"})
    return {
        "api_version": API_VERSION,
        "backend_version": __version__,
        "stac_version": "1.1.0",
        "type": "Catalog",
        "id": "kappamask",
        "title": "kappamask serve",
        "description": "openEO on your own machine, with cloud masks for Sentinel-2.",
        "conformsTo": CONFORMANCE,
        "production": True,
        "endpoints": [
            {"path": path, "methods": sorted(found)} for path, found in sorted(methods.items())
        ],
        "links": [
            {"rel": "version-history", "href": f"{url}/.well-known/openeo"},
            {"rel": "conformance", "href": f"{url}/conformance"},
            {"rel": "data", "href": f"{url}/collections"},
        ],
    }


@router.get("/.well-known/openeo")
def show_versions(url: Url) -> JSON:
    """Tell where which version of the API is."""
    return {"versions": [{"url": url, "api_version": API_VERSION, "production": True}]}


@router.get("/conformance")
def show_conformance() -> JSON:
    """List conformance classes."""
    return {"conformsTo": CONFORMANCE}


@router.get("/credentials/basic")
def authenticate(request: Request, here: Here) -> JSON:
    """Exchange name and password for the token; without one, any will do."""
    token = here.settings.token
    if token is None:
        return {"access_token": NO_TOKEN}
    check_credentials(request.headers.get("authorization"), token)
    return {"access_token": token}


@router.get("/me")
def describe_user(here: Here) -> JSON:
    """Tell who asks, which is always the same, and how much room is left."""
    quota = here.settings.limits.stored_bytes
    free = max(0, quota - folder_bytes(here.settings.workdir / "jobs"))
    return {
        "user_id": "local",
        "name": "Whoever started the server",
        "storage": {"free": free, "quota": quota},
    }


@router.get("/file_formats")
def list_formats() -> JSON:
    """List what `save_result` writes."""
    from kappamask.openeo.engine.save import FORMATS

    return {"input": {}, "output": {name: one.document() for name, one in FORMATS.items()}}


@router.get("/service_types")
def list_service_types() -> JSON:
    """List secondary web services: none."""
    return {}


@router.get("/udf_runtimes")
def list_runtimes() -> JSON:
    """Describe the Python that runs UDFs: the server's own."""
    python = platform.python_version()
    libraries = {name: {"version": version(name)} for name in UDF_LIBRARIES if find_spec(name)}
    runtime = {
        "title": f"Python {python}",
        "type": "language",
        "default": python,
        "versions": {python: {"libraries": libraries}},
    }
    return {"Python": runtime}


# --- collections and processes --------------------------------------------------------------


@router.get("/collections")
def list_collections(here: Here, url: Url) -> JSON:
    """List the collections."""
    found = [_link_collection(one, url) for one in here.collections]
    return {"collections": found, "links": []}


@router.get("/collections/{collection_id}")
def describe_collection(collection_id: str, here: Here, url: Url) -> JSON:
    """Describe a collection."""
    for one in here.collections:
        if one["id"] == collection_id:
            return _link_collection(one, url)
    known = ", ".join(one["id"] for one in here.collections)
    raise ApiError(
        "CollectionNotFound", f"the collection {collection_id[:80]!r} does not exist: use {known}"
    )


def _link_collection(collection: JSON, url: str) -> JSON:
    own = {"self", "root", "parent"}
    links = [link for link in collection.get("links", []) if link.get("rel") not in own]
    links += [
        {"rel": "self", "href": f"{url}/collections/{collection['id']}"},
        {"rel": "root", "href": f"{url}/"},
        {"rel": "parent", "href": f"{url}/collections"},
    ]
    return {**collection, "links": links}


@router.get("/processes")
def list_processes(here: Here) -> JSON:
    """Describe the predefined processes."""
    return {"processes": here.predefined, "links": []}


@router.post("/validation")
def validate(body: Body, here: Here) -> JSON:
    """Tell what is wrong with a process graph, without running it."""
    try:
        process = check_process(body)
    except KappaMaskError as error:
        fault = of_exception(error)
        if fault.code == "ProcessGraphMissing":
            raise
        return {"errors": [fault.document()]}
    named = dict.fromkeys(one["name"] for one in process.get("parameters") or [])
    faults = here.engine().validate(process["process_graph"], parameters=named)
    # The API forbids to complain of parameters: who uses the process gives their values.
    return {"errors": [fault for fault in faults if fault["code"] != "ProcessParameterMissing"]}


# --- user-defined processes -----------------------------------------------------------------


@router.get("/process_graphs")
def list_stored(here: Here) -> JSON:
    """List stored processes without their graphs."""
    found = [
        {key: value for key, value in one.items() if key != "process_graph"}
        for one in here.store.processes().values()
    ]
    return {"processes": found, "links": []}


@router.get("/process_graphs/{process_graph_id}")
def describe_stored(process_graph_id: str, here: Here) -> JSON:
    """Describe a stored process."""
    return here.store.process(process_graph_id)


@router.put("/process_graphs/{process_graph_id}")
def store(process_graph_id: str, body: Body, here: Here) -> JSON:
    """Store or replace a process; its graph is checked when it is used."""
    if any(one["id"] == process_graph_id for one in here.predefined):
        raise ApiError(
            "PredefinedProcessExists",
            f"a predefined process is called {process_graph_id!r} too: choose another id",
        )
    here.store.put_process(process_graph_id, check_process(body))
    return {}


@router.delete("/process_graphs/{process_graph_id}")
def forget(process_graph_id: str, here: Here) -> Response:
    """Delete a stored process."""
    here.store.delete_process(process_graph_id)
    return Response(status_code=204)
