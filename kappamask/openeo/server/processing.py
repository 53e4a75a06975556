"""Endpoints that compute: synchronous results and batch jobs.

openEO API 1.2.0, https://api.openeo.org/. May import `bodies` and below.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from kappamask.openeo.server.bodies import JSON, Body, Here, Process, Url, check_object
from kappamask.openeo.server.faults import ApiError
from kappamask.openeo.server.results import MEDIA_TYPES, find_inside, pack, to_collection, to_item

LOOK_SECONDS = 0.5  # between two looks whether the client still waits
Level = Literal["debug", "info", "warning", "error"]
Limit = Annotated[int | None, Query(ge=1, le=10_000)]
router = APIRouter()


@router.post("/result")
async def compute_result(request: Request, process: Process, here: Here) -> Response:
    """Compute a graph and send its file; several files go as one tar archive."""
    gone = threading.Event()
    computing = asyncio.ensure_future(
        run_in_threadpool(here.compute_now, process, is_gone=gone.is_set)
    )
    while not computing.done():
        await asyncio.wait({computing}, timeout=LOOK_SECONDS)
        if await request.is_disconnected():
            gone.set()
    folder, files = computing.result()
    return await run_in_threadpool(_send, folder, files)


def _send(folder: Path, files: list[JSON]) -> Response:
    remove = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
    if len(files) == 1:
        path, kind = folder / files[0]["name"], files[0]["type"]
    elif files:
        path, kind = pack(folder, files, folder / "results.tar"), MEDIA_TYPES[".tar"]
    else:
        shutil.rmtree(folder, ignore_errors=True)
        raise ApiError("NoDataAvailable", "the graph ended without a file: end it in save_result")
    headers = {"OpenEO-Identifier": folder.name}
    return FileResponse(
        path, media_type=kind, filename=path.name, headers=headers, background=remove
    )


# --- batch jobs -----------------------------------------------------------------------------


@router.get("/jobs")
def list_jobs(
    here: Here, url: Url, limit: Limit = None, skip: Annotated[int, Query(ge=0, le=2**31)] = 0
) -> JSON:
    """List batch jobs, the latest first."""
    most = here.limits.jobs if limit is None else limit
    found = here.store.jobs(limit=most + 1, skip=skip)
    links = []
    if len(found) > most:
        links.append(_next_link(f"{url}/jobs", limit=most, skip=skip + most))
    return {"jobs": [job.document(full=False) for job in found[:most]], "links": links}


def _next_link(url: str, **parameters: Any) -> JSON:
    return {"rel": "next", "href": f"{url}?{urlencode(parameters)}"}


@router.post("/jobs")
def create_job(body: Body, process: Process, here: Here, url: Url) -> Response:
    """Store a batch job; its graph is checked when it runs, since processes may be stored later."""
    options = check_object(body.get("job_options") or {}, "job_options")
    job = here.store.add_job(
        process,
        title=body.get("title"),
        description=body.get("description"),
        log_level=body.get("log_level"),
    )
    if options:
        text = f"job options have no effect on this server: {', '.join(options)}"
        here.store.log(job.id, "info", text)
    headers = {"Location": f"{url}/jobs/{job.id}", "OpenEO-Identifier": job.id}
    return Response(status_code=201, headers=headers)


@router.get("/jobs/{job_id}")
def describe_job(job_id: str, here: Here, url: Url) -> JSON:
    """Describe a batch job."""
    job = here.store.job(job_id)
    links = [{"rel": "monitor", "href": f"{url}/jobs/{job.id}/logs"}]
    if job.status == "finished":
        links.append({"rel": "result", "href": f"{url}/jobs/{job.id}/results"})
    return {**job.document(), "links": links}


@router.delete("/jobs/{job_id}")
def delete_job(job_id: str, here: Here) -> Response:
    """Stop a batch job and delete all that belongs to it."""
    here.delete(job_id)
    return Response(status_code=204)


@router.get("/jobs/{job_id}/logs")
def list_logs(
    job_id: str,
    here: Here,
    url: Url,
    offset: str = "",
    level: Level = "debug",
    limit: Limit = None,
) -> JSON:
    """List log entries after the one with the id `offset`."""
    job = here.store.job(job_id)
    entries = here.store.logs(
        job.id, level=level, offset=offset, limit=None if limit is None else limit + 1
    )
    links = []
    if limit is not None and len(entries) > limit:
        entries = entries[:limit]
        links.append(
            _next_link(
                f"{url}/jobs/{job.id}/logs", limit=limit, level=level, offset=entries[-1]["id"]
            )
        )
    return {"level": level, "logs": entries, "links": links}


@router.post("/jobs/{job_id}/results")
def start_job(job_id: str, here: Here) -> Response:
    """Queue a batch job; what it computed before is dropped."""
    here.submit(job_id)
    return Response(status_code=202)


@router.delete("/jobs/{job_id}/results")
def stop_job(job_id: str, here: Here) -> Response:
    """Stop a batch job that is queued or running."""
    here.cancel(job_id)
    return Response(status_code=204)


@router.get("/jobs/{job_id}/results")
def list_results(job_id: str, here: Here, url: Url) -> Response:
    """Describe the files of a finished job as a STAC collection."""
    job = here.store.job(job_id)
    if job.status == "error":
        entry = here.store.logs(job.id, level="error")[-1]
        return JSONResponse({"code": "Internal", **entry}, status_code=424)
    files = _finished(here, job_id)
    return JSONResponse(to_collection(job.document(), files, _results(url, job_id)))


def _results(url: str, job_id: str) -> str:
    return f"{url}/jobs/{job_id}/results"


def _finished(here: Here, job_id: str) -> list[JSON]:
    """Files of a finished job."""
    job = here.store.job(job_id)
    if job.status in {"queued", "running"}:
        raise ApiError("JobNotFinished", f"batch job {job.id} is {job.status}: ask again later")
    if job.status != "finished":
        raise ApiError("JobNotStarted", f"batch job {job.id} is {job.status}: start it first")
    return job.files


@router.get("/jobs/{job_id}/results/items/{name:path}")
def describe_result(job_id: str, name: str, here: Here, url: Url) -> Response:
    """Describe one file as a STAC item."""
    file = _find_file(here, job_id, name)
    item = to_item(here.store.job(job_id).document(), file, _results(url, job_id))
    return JSONResponse(item, media_type="application/geo+json")


@router.api_route("/jobs/{job_id}/results/assets/{name:path}", methods=["GET", "HEAD"])
def download_result(request: Request, job_id: str, name: str, here: Here) -> Response:
    """Send one file, or one range of it."""
    file = _find_file(here, job_id, name)
    if "," in request.headers.get("range", ""):  # joining many ranges is slow (CVE-2025-62727)
        raise ApiError("RequestInvalid", "ask for one range at a time", status=416)
    path = find_inside(here.folder(job_id), file["name"])
    if path is None:
        raise ApiError(
            "FileNotFound", f"{name[:80]!r} was removed from job {job_id}: start it again"
        )
    return FileResponse(path, media_type=file["type"], filename=quote(path.name))


def _find_file(here: Here, job_id: str, name: str) -> JSON:
    """Find a file by its exact name among those that the job wrote: no path is ever made of it."""
    for file in _finished(here, job_id):
        if file["name"] == name:
            found: JSON = file
            return found
    raise ApiError("FileNotFound", f"batch job {job_id} has no file {name[:80]!r}")
