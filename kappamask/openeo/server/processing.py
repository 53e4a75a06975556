"""Endpoints that compute: synchronous results and batch jobs.

openEO API 1.2.0, https://api.openeo.org/. May import `bodies` and below.
"""

# ruff: noqa: FAST003  what a path names is taken by `find_job` and `find_file`

from __future__ import annotations

import asyncio
import shutil
import tarfile
import threading
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from kappamask.openeo.server.bodies import (
    JSON,
    Body,
    Here,
    Process,
    Url,
    check_object,
    check_process,
)
from kappamask.openeo.server.faults import ApiError
from kappamask.openeo.server.results import MEDIA_TYPES, find_inside, to_collection, to_item
from kappamask.openeo.server.store import LEVELS, Job, Level

LOOK_SECONDS = 0.5  # between two looks whether the client still waits
MOST = 10_000  # entries of a page
Limit = Annotated[int, Query(ge=1, le=MOST)]
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
    remove = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
    if not files:
        await remove()
        raise ApiError("NoDataAvailable", "the graph ended without a file: end it in save_result")
    path, kind = folder / files[0]["name"], files[0]["type"]
    if len(files) > 1:  # as the API recommends
        path, kind = folder / "results.tar", MEDIA_TYPES[".tar"]

        def pack() -> None:
            with tarfile.open(path, "w") as archive:
                for file in files:
                    archive.add(folder / file["name"], arcname=file["name"], recursive=False)

        await run_in_threadpool(pack)
    headers = {"OpenEO-Identifier": folder.name}
    return FileResponse(
        path, media_type=kind, filename=path.name, headers=headers, background=remove
    )


# --- batch jobs -----------------------------------------------------------------------------


def find_job(job_id: str, here: Here) -> Job:
    """Find the job that a path names."""
    return here.store.job(job_id)


def find_finished(job: Annotated[Job, Depends(find_job)]) -> Job:
    """Find the job that a path names, with its results.

    Raises
    ------
    ApiError
        JobNotFinished, JobNotStarted.
    """
    if job.status in {"queued", "running"}:
        raise ApiError("JobNotFinished", f"batch job {job.id} is {job.status}: ask again later")
    if job.status != "finished":
        raise ApiError("JobNotStarted", f"batch job {job.id} is {job.status}: start it first")
    return job


def find_file(name: str, job: Annotated[Job, Depends(find_finished)]) -> JSON:
    """Find a file by its exact name among those that the job wrote: no path is ever made of it.

    Raises
    ------
    ApiError
        FileNotFound.
    """
    for file in job.files:
        if file["name"] == name:
            return file
    raise ApiError("FileNotFound", f"batch job {job.id} has no file {name[:80]!r}")


OneJob = Annotated[Job, Depends(find_job)]
Finished = Annotated[Job, Depends(find_finished)]
OneFile = Annotated[JSON, Depends(find_file)]


def _to_next(found: Sequence[Any], url: str, limit: int, **parameters: Any) -> list[JSON]:
    """Link to the next page, if one more than the limit was found."""
    query = urlencode({"limit": limit, **parameters})
    return [{"rel": "next", "href": f"{url}?{query}"}] if len(found) > limit else []


@router.get("/jobs")
def list_jobs(
    here: Here, url: Url, limit: Limit = MOST, skip: Annotated[int, Query(ge=0, le=2**31)] = 0
) -> JSON:
    """List batch jobs, the latest first."""
    found = here.store.jobs(limit=limit + 1, skip=skip)
    listed = [job.document(full=False) for job in found[:limit]]
    return {"jobs": listed, "links": _to_next(found, f"{url}/jobs", limit, skip=skip + limit)}


@router.post("/jobs")
def create_job(body: Body, process: Process, here: Here, url: Url) -> Response:
    """Store a batch job; its graph is checked when it runs, since processes may be stored later."""
    given = body.get("job_options")
    options = check_object({} if given is None else given, "job_options")
    told = {name: body.get(name) for name in ("title", "description", "log_level")}
    job = here.store.add_job(process, **told)
    if options:
        text = f"job options have no effect on this server: {', '.join(options)}"
        here.store.log(job.id, "info", text)
    headers = {"Location": f"{url}/jobs/{job.id}", "OpenEO-Identifier": job.id}
    return Response(status_code=201, headers=headers)


@router.get("/jobs/{job_id}")
def describe_job(job: OneJob, url: Url) -> JSON:
    """Describe a batch job."""
    links = [{"rel": "monitor", "href": f"{url}/jobs/{job.id}/logs"}]
    if job.status == "finished":
        links.append({"rel": "result", "href": f"{url}/jobs/{job.id}/results"})
    return {**job.document(), "links": links}


@router.patch("/jobs/{job_id}")
def change_job(job_id: str, body: Body, here: Here) -> Response:
    """Change title, description, log level or process of a job that does not wait or run."""
    told = {name: body[name] for name in ("title", "description") if name in body}
    values: JSON = {name: None if text is None else str(text) for name, text in told.items()}
    if body.get("log_level") in LEVELS:
        values["log_level"] = body["log_level"]
    if "process" in body:
        values["process"] = check_process(body["process"])
    here.change(job_id, **values)
    return Response(status_code=204)


@router.get("/jobs/{job_id}/estimate")
def estimate_job(job: OneJob) -> JSON:
    """Tell what a job costs, which is nothing; how long it takes nobody knows before."""
    del job
    return {"costs": 0}


@router.delete("/jobs/{job_id}")
def delete_job(job_id: str, here: Here) -> Response:
    """Stop a batch job and delete all that belongs to it."""
    here.delete(job_id)
    return Response(status_code=204)


@router.get("/jobs/{job_id}/logs")
def list_logs(
    job: OneJob,
    here: Here,
    url: Url,
    offset: str = "",
    level: Level = "debug",
    limit: Limit = MOST,
) -> JSON:
    """List log entries after the one with the id `offset`."""
    entries = here.store.logs(job.id, level=level, offset=offset, limit=limit + 1)
    listed = entries[:limit]
    page = {"level": level, "offset": listed[-1]["id"] if listed else ""}
    links = _to_next(entries, f"{url}/jobs/{job.id}/logs", limit, **page)
    return {"level": level, "logs": listed, "links": links}


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
def list_results(job: OneJob, here: Here, url: Url) -> Response:
    """Describe the files of a finished job as a STAC collection, by links that need no token."""
    if job.status == "error":
        entry = here.store.logs(job.id, level="error")[-1]
        return JSONResponse({"code": "Internal", **entry}, status_code=424)
    place = f"{url}/jobs/{job.id}/results"
    sign = partial(here.links.sign, url=url)
    described = to_collection(job.document(), find_finished(job).files, place, sign)
    until = {"expires": here.links.until()} if here.links.needed else {}
    return JSONResponse({**described, **until})


@router.get("/jobs/{job_id}/results/items/{name:path}")
def describe_result(job: Finished, file: OneFile, here: Here, url: Url) -> Response:
    """Describe one file as a STAC item, by a link that needs no token."""
    place, sign = f"{url}/jobs/{job.id}/results", partial(here.links.sign, url=url)
    item = to_item(job.document(), file, place, sign)
    return JSONResponse(item, media_type="application/geo+json")


@router.api_route("/jobs/{job_id}/results/assets/{name:path}", methods=["GET", "HEAD"])
def download_result(request: Request, job: Finished, file: OneFile, here: Here) -> Response:
    """Send one file, or one range of it."""
    if "," in request.headers.get("range", ""):  # joining many ranges is slow (CVE-2025-62727)
        raise ApiError("RequestInvalid", "ask for one range at a time", status=416)
    path = find_inside(here.folder(job.id), file["name"])
    if path is None:
        raise ApiError(
            "FileNotFound", f"{file['name'][:80]!r} was removed from job {job.id}: start it again"
        )
    return FileResponse(path, media_type=file["type"], filename=quote(path.name))
