"""`kappamask serve`: an openEO 1.2 back end on your own machine.

`create_app` puts the rooms together: the gate (`gate`), what describes
(`discovery`), what computes (`processing`, `backend`), the store (`store`).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from kappamask.base.errors import InputError, KappaMaskError
from kappamask.openeo.server import discovery, processing
from kappamask.openeo.server.backend import Backend
from kappamask.openeo.server.faults import ApiError, answer
from kappamask.openeo.server.gate import HEAD_BYTES, Bounded, Gate
from kappamask.openeo.server.settings import Limits, Settings, allowed_hosts, is_loopback
from kappamask.openeo.server.worker import EngineFactory, prepare_workers
from kappamask.scenes.catalogs import PROFILES

if TYPE_CHECKING:
    from kappamask.openeo.local import LocalEngine

LOG = logging.getLogger(__name__)
GRACE_SECONDS = 5  # that open requests get when the server stops


def make_engine(**settings: Any) -> LocalEngine:
    """Make the engine of this package."""
    from kappamask.openeo.local import LocalEngine

    return LocalEngine(**settings)


def create_app(settings: Settings, engine_factory: EngineFactory | None = None) -> FastAPI:
    """Build the ASGI application of an openEO back end.

    Parameters
    ----------
    settings
        Catalogue, work folder, where it listens, limits.
    engine_factory
        Called as ``engine_factory(catalog=, folder=, log=, udps=)``, here and in the
        processes that compute. None: `LocalEngine`, whose `load_stac` reads what the
        settings allow.

    Raises
    ------
    InputError
        If another server uses the work folder.
    WriteError
        If that folder cannot be made.
    """
    if engine_factory is None:
        prepare_workers()
        engine_factory = partial(make_engine, load_stac_hosts=allowed_hosts(settings))
    # Code of clients may leave the folder that its process started in.
    catalog, workdir = Path(settings.catalog), settings.workdir.resolve()
    is_path = settings.catalog not in PROFILES and catalog.exists()
    name = str(catalog.resolve()) if is_path else settings.catalog
    settings = replace(settings, workdir=workdir, catalog=name)
    # Its libraries take seconds to load: before the first request.
    engine_factory(catalog=settings.catalog, folder=None, log=None, udps=None)
    backend = Backend(settings, engine_factory)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        backend.start()
        yield
        backend.close()

    # No OpenAPI pages: they load scripts from elsewhere.
    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.state.backend = backend
    app.include_router(discovery.router)
    app.include_router(processing.router)
    for kind in (KappaMaskError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer_error)
    app.add_middleware(Gate, settings=settings, links=backend.links)
    # Pages cannot know the token: with one, any may ask; without, those that are named.
    origins = ["*"] if settings.token is not None else list(settings.origins)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Link", "Location", "OpenEO-Costs", "OpenEO-Identifier"],
        )
    return app


async def answer_error(_: Request, error: Exception) -> Response:
    """Answer any exception with an openEO error document."""
    if isinstance(error, RequestValidationError):
        faults = "; ".join(f"{fault['loc'][-1]}: {fault['msg']}" for fault in error.errors())
        return answer(ApiError("RequestInvalid", f"a parameter is wrong: {faults}"))
    return answer(error)


def serve(
    settings: Settings,
    *,
    engine_factory: EngineFactory | None = None,
    say: Callable[[str], object] = LOG.info,
) -> None:
    """Serve until interrupted.

    Parameters
    ----------
    settings
        As for `create_app`.
    engine_factory
        As for `create_app`.
    say
        Gets the line that tells the URL, and beyond this machine one that warns.

    Raises
    ------
    InputError
        If the address cannot be listened on.
    """
    with listen(settings) as listening:
        server = make_server(create_app(settings, engine_factory), settings.limits)
        host, port = listening.getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        say(f"openEO back end: http://{name}:{port}  (results in {settings.workdir.resolve()})")
        if not is_loopback(host):
            say(
                "whoever has the token may do what this account may; without TLS in front, it can "
                "be read on its way: docs/security.md"
            )
        server.run(sockets=[listening])


def make_server(app: FastAPI, limits: Limits | None = None) -> uvicorn.Server:
    """Give the HTTP server of an application, which logs no addresses of requests."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=type("Bounded", (Bounded,), {"most": (limits or Limits()).connections}),
            h11_max_incomplete_event_size=HEAD_BYTES,
            ws="none",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )


def listen(settings: Settings) -> socket.socket:
    """Open the listening socket.

    Raises
    ------
    InputError
        If another program has the port, or the address is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(128)  # who comes before the application is ready waits
    except OSError as error:
        listening.close()
        raise InputError(
            f"the server must be able to listen on {settings.host} port {settings.port}, got "
            f"{error.strerror or error}: stop what uses it, or choose another --port"
        ) from error
    return listening
