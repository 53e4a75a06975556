"""What is tried again, when, how often: files on servers that fail, catalogues, dates of a job.

Imports nothing of the package.

GDAL says little of what a server answered. So a server whose file could not be read is asked
for one byte of it: what it says decides whether, and when, the read is tried again.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that may be others a little later
_REMOTE = re.compile(r"^(?:/vsi(?!mem|zip|tar)\w+[/?]|(?!file:)\w{2,}://)")
# For what strangers name: makes the adapter, of sessions of requests, that checks each connection.
# Files are then read from a gateway on this machine, without a proxy; see `openeo/engine/gateway`.
GUARD: ContextVar[Callable[..., Any] | None] = ContextVar("GUARD", default=None)


@dataclass(frozen=True)
class Patience:
    """How patiently something is asked for."""

    tries: int  # the first included
    wait_s: float  # before the second; doubled for each further one
    longest_wait_s: float = 60.0  # at most this is granted where Retry-After asks for more
    timeout_s: float = 10.0  # to connect, and between two parts of an answer

    def wait(self, tried: int, asked: float | None = None) -> float:
        """Seconds to wait after so many tries, where a server may ask for so many.

        Up to half as long again, so that many readers do not come back at once.

        Examples
        --------
        >>> 2 <= Patience(tries=3, wait_s=1).wait(2) <= 3
        True
        """
        usual = self.wait_s * 2.0 ** (tried - 1) * random.uniform(1, 1.5)  # noqa: S311  no secret
        return max(usual, min(asked or 0, self.longest_wait_s))


# All that is tried again: whatever reads or asks has no tries of its own beside these.
FILES = Patience(
    tries=3, wait_s=1.0
)  # one window of a file; the time-out is of asking what ails it
CATALOGUES = Patience(tries=5, wait_s=0.5, timeout_s=30.0)  # one request
DATES = Patience(tries=3, wait_s=5.0)  # rounds of a job over the dates that could not be read


@dataclass(frozen=True)
class Reply:
    """What a server says of a file that could not be read."""

    status: int | None = None  # of HTTP; None: it cannot be asked, or gives no answer
    retry_after_s: float | None = None  # what it asks for in Retry-After
    remote: bool = True  # False: the file lies on this machine
    silent: bool = False  # it was asked and gives no answer

    @property
    def may_change(self) -> bool:
        """Tell whether reading again may help: a damaged file may have been damaged on its way."""
        whole = self.status is None or self.status < 400
        return self.remote and (whole or self.status in PASSING)

    @property
    def may_be_cached(self) -> bool:
        """Tell whether what was read may have been damaged or refused, and be remembered."""
        return self.remote and not self.silent and self.status not in PASSING

    def remedy(self, tries: int) -> str:
        """Say what ails the file and what to do."""
        if self.silent:
            return f"no answer from its server, in {tries} tries: try again later"
        if self.status is None or self.status < 400:
            return "the file is damaged, gone or not allowed: try again or leave its item out"
        told = f"HTTP {self.status}"
        if self.status in (401, 403):
            return (
                f"{told}, not allowed: credentials are missing, or the address was signed and has "
                "expired; search again"
            )
        if self.status in (404, 410):
            return f"{told}, the file is gone: leave its item out, or search again"
        if self.status in PASSING:
            return f"{told}, the server is busy or failing, in {tries} tries: try again later"
        return f"{told}, the request was refused: leave its item out"


def is_remote(href: str) -> bool:
    """Tell whether a file lies on a server.

    Examples
    --------
    >>> [is_remote(href) for href in ("s3://eodata/B02.jp2", "/data/B02.tif", "C:/data/B02.tif")]
    [True, False, False]
    """
    return bool(_REMOTE.match(href))


def without_query(text: str) -> str:
    """Leave out what stands behind ``?`` in addresses: signatures are secrets.

    Examples
    --------
    >>> without_query("cannot open 'https://host/B02.tif?sig=abc&se=1' twice")
    "cannot open 'https://host/B02.tif' twice"
    """
    return re.sub(r"(?<=\w)\?[\w.~%&=+:/;,-]*=[^\s'\"]*", "", text)


def ask(href: str, *, proxy: str | None = None) -> Reply:
    """Ask the server of a file for one byte of it, once; `proxy` "" is none, None the usual one.

    Examples
    --------
    >>> ask("/data/B02.tif")
    Reply(status=None, retry_after_s=None, remote=False, silent=False)
    """
    if not is_remote(href):
        return Reply(remote=False)
    address = href.removeprefix("/vsicurl/")
    if not address.startswith(("http://", "https://")):
        return Reply()  # a bucket: its protocol is GDAL's matter
    import requests

    try:
        with requests.Session() as session:
            set_proxy(session, proxy)
            response = session.get(
                address,
                headers={"Range": "bytes=0-0"},
                stream=True,  # a server without ranges would send all of it
                timeout=FILES.timeout_s,
            )
            response.close()
            asked = response.headers.get("Retry-After")
            return Reply(response.status_code, seconds_asked(asked))
    except (requests.RequestException, OSError):
        return Reply(silent=True)


def set_proxy(session: Any, proxy: str | None) -> None:
    """Have a session of requests go through a proxy; "" is none, None the usual one."""
    if proxy is not None:
        session.trust_env = False  # proxies of the environment would win
        session.proxies = {"http": proxy, "https": proxy}


def guard_session(session: Any) -> None:
    """Have a session of requests check each connection, where strangers name addresses."""
    if guard := GUARD.get():
        session.trust_env = False  # proxies of the environment would win
        session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        for scheme in ("http://", "https://"):
            session.mount(scheme, guard())


def seconds_asked(retry_after: str | None) -> float | None:
    """Read Retry-After, which is a number of seconds or a date."""
    from urllib3 import Retry
    from urllib3.exceptions import InvalidHeader

    if retry_after is None:
        return None
    try:
        return float(Retry().parse_retry_after(retry_after))
    except InvalidHeader:
        return None


def reason_of(error: BaseException, answer: Reply) -> str:
    """Say in one line, without secrets, what was wrong: the first cause knows best."""
    if answer.status is not None and answer.status >= 400:
        return ""  # that says it
    while error.__cause__ is not None:
        error = error.__cause__
    return (without_query(" ".join(str(error).split())) or type(error).__name__) + "; "
