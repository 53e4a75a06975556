"""The gate before every request: who may ask, from where, and how much. Row 6: imports row 0."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
import uuid
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kappamask.openeo.server.faults import ApiError
from kappamask.openeo.server.settings import Settings, is_loopback

LOG = logging.getLogger(__name__)
PUBLIC = {"/", "/.well-known/openeo", "/conformance", "/credentials/basic"}
DRAIN_FACTOR = 16  # of a body that is too large, so much is read and dropped
RETRY_SECONDS = 5  # what a client is told to wait when too many are being answered


class Gate:
    """ASGI middleware that refuses before any other code sees the request.

    1. Without a token the server trusts everyone on this machine, and web pages run
       on this machine too. So the `Host` must be a loopback name (else a page could
       come in by DNS rebinding), and a request that a page of another origin sent
       is refused.
    2. With a token, everything but `PUBLIC` needs it: ``Bearer basic//TOKEN`` as the
       openEO clients send it, ``Bearer TOKEN``, or HTTP Basic with it as the password.
    3. A body is read up to the limit, whatever its headers promise, and must come in time.
    4. So many requests are answered at a time; one more is told when to come back.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.token = settings.token
        self.host = settings.host
        self.most = settings.limits.body_bytes
        self.patience = settings.limits.body_seconds
        self.places = settings.limits.requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on with a bounded body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            if self.places <= 0:
                raise _busy()
            if self.token is None:
                check_local(headers)
            elif scope["path"] not in PUBLIC:
                check_credentials(headers.get("authorization"), self.token)
            promised = headers.get("content-length", "")
            if promised.isdecimal() and int(promised) > self.most:
                await self._drain(receive)
                raise self._too_large()
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        self.places -= 1
        try:
            await self.app(scope, self._bounded(receive), send)
        finally:
            self.places += 1

    def _bounded(self, receive: Receive) -> Receive:
        """Read at most the limit and until the deadline; afterwards, wait for the client to go."""
        seen, more = 0, True
        deadline = asyncio.get_running_loop().time() + self.patience

        async def read() -> Message:
            nonlocal seen, more
            try:
                async with asyncio.timeout_at(deadline if more else None):
                    message = await receive()
            except TimeoutError:
                raise ApiError(
                    "RequestTimeout",
                    f"a request body comes within {self.patience:g} s, got {seen} bytes till then: "
                    "send it again",
                ) from None
            seen += len(message.get("body", b""))
            more = more and message.get("more_body", False)
            if seen > self.most:
                raise self._too_large()
            return message

        return read

    async def _drain(self, receive: Receive) -> None:
        """Read on for a while: a client that still sends would not see the answer."""
        seen, more = 0, True
        with suppress(TimeoutError):
            async with asyncio.timeout(self.patience):
                while more and seen < DRAIN_FACTOR * self.most:
                    message = await receive()
                    seen += len(message.get("body", b""))
                    more = message.get("more_body", False)

    def _too_large(self) -> ApiError:
        return ApiError(
            "RequestTooLarge",
            f"a request body has at most {self.most} bytes, got more: shorten the graph, "
            "for example by a simpler geometry",
        )


def _busy() -> ApiError:
    return ApiError(
        "ServerBusy",
        f"too many requests are being answered: repeat it in {RETRY_SECONDS} s",
        retry_after=RETRY_SECONDS,
    )


def check_local(headers: Headers) -> None:
    """Refuse what was not sent by a program on this machine.

    Raises
    ------
    ApiError
        PermissionsInsufficient (403), if `Host` is no loopback name or a web page of
        another origin sent the request.
    """
    host = headers.get("host", "")
    if not is_loopback(urlsplit(f"//{host}").hostname or ""):
        raise ApiError(
            "PermissionsInsufficient",
            f"without a token only this machine may ask, got a request for host {host!r}: "
            "connect to http://127.0.0.1:PORT, or start the server with a token",
        )
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        raise ApiError(
            "PermissionsInsufficient",
            f"without a token no web page may ask, got a request of a page of {origin!r}: "
            "start the server with a token",
        )


def check_credentials(authorization: str | None, token: str) -> None:
    """Compare what the client shows with the token, in constant time.

    Raises
    ------
    ApiError
        AuthenticationRequired (401), AuthenticationSchemeInvalid, TokenInvalid or
        CredentialsInvalid (403).

    Examples
    --------
    >>> check_credentials("Bearer basic//0123456789abcdef", "0123456789abcdef")
    >>> check_credentials("Bearer basic//guess", "0123456789abcdef")
    Traceback (most recent call last):
    kappamask.openeo.server.faults.ApiError: the token is not the one ...
    """
    scheme, _, shown = (authorization or "").strip().partition(" ")
    if not scheme:
        raise ApiError(
            "AuthenticationRequired",
            "this server needs its token, got a request without: call "
            "connection.authenticate_basic('any name', TOKEN) first",
        )
    if scheme.lower() == "bearer":
        if not _is_same(shown.strip().removeprefix("basic//"), token):
            raise ApiError(
                "TokenInvalid", "the token is not the one that the server was started with"
            )
    elif scheme.lower() == "basic":
        if not _is_same(read_password(shown), token):
            raise ApiError(
                "CredentialsInvalid",
                "the password is not the token that the server was started with",
            )
    else:
        raise ApiError(
            "AuthenticationSchemeInvalid", f"authenticate by Basic or Bearer, got {scheme[:20]!r}"
        )


def read_password(encoded: str) -> str:
    """Take the password out of the value of HTTP Basic (RFC 7617); empty if it is none.

    Examples
    --------
    >>> read_password("bWU6c2VjcmV0")
    'secret'
    """
    try:
        pair = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return pair.partition(":")[2]


def _is_same(shown: str, token: str) -> bool:
    return hmac.compare_digest(shown.encode(), token.encode())


def error_response(error: ApiError) -> JSONResponse:
    """Answer with an openEO error document; its id stands in the server's log too."""
    identifier = str(uuid.uuid4())
    content = {"id": identifier, **error.document()}
    log = LOG.error if error.status >= 500 else LOG.info
    log("answered %d %s (%s): %s", error.status, error.code, identifier, content["message"])
    return JSONResponse(content, status_code=error.status, headers=error.headers)
