"""The gates before every request: who may ask, from where, and how much.

May import `faults` and `settings`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from h11 import LocalProtocolError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from kappamask.openeo.server.faults import RETRY_SECONDS, ApiError, answer
from kappamask.openeo.server.settings import Settings, is_loopback

HEAD_BYTES = 16 * 1024  # of the headers of one request
HEAD_SECONDS = 20  # from the first byte of a request, or the connection, to the end of its headers
DRAIN_FACTOR = 16  # of a body that is too large, so much is read and dropped
PUBLIC = {"/", "/.well-known/openeo", "/conformance", "/credentials/basic"}


class Bounded(H11Protocol):
    """uvicorn's protocol of one connection, with bounds that uvicorn lacks.

    A connection too many is closed at once; so is one whose request does not come to
    the end of its headers in time. Else idle connections would take every descriptor.
    (`limit_concurrency` answers without an openEO document and when to come back, and
    `timeout_keep_alive` counts from the end of an answer only.) h11 counts the bytes of headers
    that have not ended, so that all connections together hold `connections` times `HEAD_BYTES`,
    and a part of a quarter of a MiB each at the most.
    """

    most: int  # connections
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Count it."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Look whether the headers are complete: then a request is being answered."""
        super().data_received(data)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request; a request before it is not answered any more."""
        if self.cycle and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        with suppress(LocalProtocolError):  # its answer has begun
            super().send_400_response(msg)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        self._watch(is_over=True)

    def _watch(self, *, is_over: bool = False) -> None:
        if is_over or (self.cycle and not self.cycle.response_complete):
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None:  # more bytes give no more time
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)


@dataclass(frozen=True)
class Links:
    """Links to results that work by themselves: signs paths, and knows its own signatures.

    Browsers and other people's programs fetch what a results document names without the token of
    the server. So the document, whom the server knows to have the token, gets links that stand
    for it: each opens one path, for reading, until it expires. They go with their job, and with
    the server: the key is made at its start and stored nowhere.
    """

    seconds: float  # from the signing to the end
    needed: bool  # without a token whoever may ask needs none
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def sign(self, href: str, url: str) -> str:
        """Sign an address below `url`, that of the server.

        Examples
        --------
        >>> links = Links(3600, needed=True)
        >>> href = links.sign("http://h/jobs/1/results/assets/a.tif", "http://h")
        >>> links.opens("/jobs/1/results/assets/a.tif", href.partition("?")[2])
        True
        >>> links.opens("/jobs/1/results/assets/b.tif", href.partition("?")[2])
        False
        """
        if not self.needed:
            return href
        # By a clock that nobody sets: one that jumps neither ends a link nor lets it live on.
        expires = str(int(time.monotonic() + self.seconds))
        told = {
            "expires": expires,
            "signature": self._code(unquote(href.removeprefix(url)), expires),
        }
        return f"{href}?{urlencode(told)}"

    def opens(self, path: str, query: str) -> bool:
        """Tell whether a query holds a signature for a path.

        Raises
        ------
        ApiError
            ResultLinkExpired, if it held one.
        """
        given = parse_qs(query)
        expires, shown = (given.get(name, [""])[0] for name in ("expires", "signature"))
        if not shown or not hmac.compare_digest(shown.encode(), self._code(path, expires).encode()):
            return False
        if int(expires) < time.monotonic():
            raise ApiError(
                "ResultLinkExpired",
                "this link has expired: ask for the results of the job again, which gives new ones",
            )
        return True

    def until(self) -> str:
        """Tell until when what is signed now will work."""
        end = datetime.fromtimestamp(int(time.time() + self.seconds), UTC)
        return end.isoformat().replace("+00:00", "Z")

    def _code(self, path: str, expires: str) -> str:
        return hmac.new(self.key, f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()


class Gate:
    """ASGI middleware that refuses before any other code sees the request.

    1. Without a token the server trusts everyone on this machine, and web pages run
       on this machine too. So the `Host` must be a loopback name (else a page could
       come in by DNS rebinding), and a request that a page of another origin sent
       is refused, unless the server was told to trust that origin.
    2. With a token, everything but `PUBLIC` needs it: ``Bearer basic//TOKEN`` as the
       openEO clients send it, ``Bearer TOKEN``, or HTTP Basic with it as the password.
       A signed link reads one result without it.
    3. A body is read up to the limit, whatever its headers promise, and must come in time.
    4. Headers are bounded too.
    5. So many requests are answered at a time; one more is told when to come back.
    """

    def __init__(self, app: ASGIApp, settings: Settings, links: Links) -> None:
        self.app = app
        self.token = settings.token
        self.origins = settings.origins
        self.links = links
        self.limits = settings.limits
        self.places = settings.limits.requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on with a bounded body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope, Headers(scope=scope))
        except ApiError as error:
            await answer(error)(scope, receive, send)
            return
        self.places -= 1
        try:
            await self.app(scope, self._bounded(receive), send)
        finally:
            self.places += 1

    def _check(self, scope: Scope, headers: Headers) -> None:
        # h11 bounds headers that have not ended, not those that came in one piece.
        if sum(len(name) + len(value) for name, value in headers.raw) > HEAD_BYTES:
            text = f"the headers of a request have at most {HEAD_BYTES} bytes, got more"
            raise ApiError("RequestTooLarge", text, status=431)
        if self.places <= 0:
            raise ApiError(
                "ServerBusy",
                f"too many requests are being answered: repeat it in {RETRY_SECONDS} s",
            )
        if self.token is None:
            check_local(headers, self.origins)
        elif scope["path"] not in PUBLIC:
            reads, query = scope["method"] in {"GET", "HEAD"}, scope["query_string"]
            if not (reads and self.links.opens(scope["path"], query.decode("latin-1"))):
                check_credentials(headers.get("authorization"), self.token)

    def _bounded(self, receive: Receive) -> Receive:
        """Read at most the limit and until the deadline; afterwards, wait for the client to go."""
        seen, more, most = 0, True, self.limits.body_bytes
        deadline = asyncio.get_running_loop().time() + self.limits.body_seconds

        async def read() -> Message:
            nonlocal seen, more
            try:
                async with asyncio.timeout_at(deadline if more else None):
                    while True:
                        message = await receive()
                        seen += len(message.get("body", b""))
                        more = more and message.get("more_body", False)
                        # A client that still sends would not see the answer: read on for a while.
                        if seen <= most or not more or seen > DRAIN_FACTOR * most:
                            break
            except TimeoutError:
                raise ApiError(
                    "RequestTimeout",
                    f"a request body comes within {self.limits.body_seconds:g} s, got {seen} bytes "
                    "till then: send it again",
                ) from None
            if seen > most:
                raise ApiError(
                    "RequestTooLarge",
                    f"a request body has at most {most} bytes, got more: shorten the graph, "
                    "for example by a simpler geometry",
                )
            return message

        return read


def check_local(headers: Headers, origins: Collection[str] = ()) -> None:
    """Refuse what was not sent by a program on this machine, or a page of these origins.

    Raises
    ------
    ApiError
        PermissionsInsufficient (403), if `Host` is no loopback name or a web page of
        another origin sent the request.
    """
    host, origin = headers.get("host", ""), headers.get("origin")
    try:
        is_local = is_loopback(urlsplit(f"//{host}").hostname or "")
        is_own = origin is None or origin in origins or urlsplit(origin).netloc == host
    except ValueError:  # brackets that hold no address
        is_local = is_own = False
    if not is_local:
        raise ApiError(
            "PermissionsInsufficient",
            f"without a token only this machine may ask, got a request for host {host!r}: "
            "connect to http://127.0.0.1:PORT, or start the server with a token",
        )
    if not is_own:
        raise ApiError(
            "PermissionsInsufficient",
            f"without a token no web page may ask, got a request of a page of {origin!r}: "
            "start the server with a token, or with --allow-origin if you trust that page",
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
    shown = shown.strip()
    if not scheme:
        raise ApiError(
            "AuthenticationRequired",
            "this server needs its token, got a request without: call "
            "connection.authenticate_basic('any name', TOKEN) first",
        )
    if scheme.lower() == "bearer":
        shown, code, what = shown.removeprefix("basic//"), "TokenInvalid", "token is not the one"
    elif scheme.lower() == "basic":
        encoded, shown = shown, ""  # RFC 7617
        with suppress(ValueError):
            shown = base64.b64decode(encoded, validate=True).decode().partition(":")[2]
        code, what = "CredentialsInvalid", "password is not the token"
    else:
        raise ApiError(
            "AuthenticationSchemeInvalid", f"authenticate by Basic or Bearer, got {scheme[:20]!r}"
        )
    if not hmac.compare_digest(shown.encode(), token.encode()):
        raise ApiError(code, f"the {what} that the server was started with")
