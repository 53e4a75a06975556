"""Files on a server that is asked with patience, whole or in parts. Imports `buckets`, `base`."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

import requests
from fsspec.spec import AbstractBufferedFile

from kappamask.base.errors import ReadError
from kappamask.base.retry import (
    FILES,
    PASSING,
    guard_session,
    is_remote,
    seconds_asked,
    set_proxy,
)
from kappamask.scenes.buckets import address_of, find_keys

_METADATA = re.compile(r"(?:.*/)?(?:zarr\.json|\.zarray|\.zgroup|\.zattrs|\.zmetadata)")
_NOT_THERE = (404, 410)
# A bucket that may not be listed says so of what is not there.
_NOT_TOLD = (401, 403)
PART = 2**18  # bytes that are asked for beyond those wanted


def below(location: str, name: str) -> str:
    """Give the address of a file in a folder, with what signs that at its end.

    Examples
    --------
    >>> below("https://host/S2A.SAFE?sig=abc", "manifest.safe")
    'https://host/S2A.SAFE/manifest.safe?sig=abc'
    """
    address, mark, query = location.partition("?")
    return f"{address}/{name}{mark}{query}"


def shown(location: str) -> str:
    """Give an address as messages and logs show it, without what may sign it; paths stay.

    Examples
    --------
    >>> shown("https://host/S2A.zip?download"), shown("/data/what?.zip")
    ('https://host/S2A.zip', '/data/what?.zip')
    """
    return location.partition("?")[0] if is_remote(location) else location


class Sent(NamedTuple):
    """What a server sent."""

    status: int  # 200, or 206 for a part
    headers: Mapping[str, str]
    content: bytes


class Server:
    """The objects below one address, https or s3, asked for with patience.

    `proxy` "" is none, None the usual one.
    """

    def __init__(self, location: str, proxy: str | None = None) -> None:
        self.location = location
        self.session = requests.Session()
        set_proxy(self.session, proxy)
        guard_session(self.session)
        self.in_bucket = location.startswith("s3://")
        if self.in_bucket:
            self.location, self.session.auth = address_of(location), find_keys()

    def ask(
        self,
        key: str,
        span: str | None = None,
        *,
        whole: int | None = None,
        part: int | None = None,
    ) -> Sent | None:
        """Ask for an object, or `span` of it in the words of HTTP; None if there is none.

        No more than so many bytes and one are taken of all of it, or of a part of it, however
        much is sent.

        Raises
        ------
        ReadError
            If it is refused, or not to be had in the end.
        """
        name = quote(key) if self.in_bucket else key
        url = below(self.location, name) if key else self.location
        said = ""
        for tried in range(1, FILES.tries + 1):
            asked = None
            try:
                with self.session.get(
                    url,
                    headers={"Range": span} if span else {},
                    timeout=FILES.timeout_s,
                    allow_redirects=not self.in_bucket,  # signed for this host alone
                    stream=True,
                ) as answer:
                    status, headers = answer.status_code, answer.headers
                    content = b""
                    if status in (200, 206):
                        content = _content(answer, part if status == 206 else whole)
            except requests.RequestException as error:
                said = type(error).__name__
            else:
                if status in _NOT_THERE or (status in _NOT_TOLD and _METADATA.fullmatch(key)):
                    return None
                if status in (200, 206):
                    return Sent(status, headers, content)
                said, asked = f"HTTP {status}", seconds_asked(headers.get("Retry-After"))
                if status not in PASSING:
                    raise ReadError(
                        f"cannot read {shown(url)}: {said}: it is refused; leave its item "
                        "out, or search again where addresses are signed"
                    )
            if tried < FILES.tries:
                time.sleep(FILES.wait(tried, asked))
        raise ReadError(
            f"cannot read {shown(url)}: {said}, in {FILES.tries} tries: try again later"
        )

    def fetch(
        self, key: str, part: slice = slice(None), *, most: int | None = None
    ) -> bytes | None:
        """Get an object, or a part of it; None if there is none.

        Of a server that sends more than was asked for, or than `most` bytes, one byte more.
        """
        whole = sent = most
        first, span = part.start or 0, None
        if first < 0:
            span, sent = f"bytes={first}", -first  # so many at the end
        elif part != slice(None):
            span = f"bytes={first}-{'' if part.stop is None else part.stop - 1}"
            if part.stop is not None:
                whole, sent = part.stop, part.stop - first
        answer = self.ask(key, span, whole=whole, part=sent)
        if answer is None:
            return None
        return answer.content[part] if answer.status == 200 else answer.content  # all was sent


def _content(answer: requests.Response, most: int | None) -> bytes:
    content = bytearray()
    for piece in answer.iter_content(PART if most is None else min(PART, most + 1)):
        content += piece
        if most is not None and len(content) > most:
            break
    return bytes(content)


class RemoteFile(AbstractBufferedFile):  # type: ignore[misc]
    """One file on a server, read in parts: an archive is listed without all of it."""

    def __init__(self, address: str) -> None:
        self.server = Server(address)
        last = self.server.ask("", "bytes=0-0", whole=1, part=1)
        told = last and re.search(r"/(\d+)$", last.headers.get("Content-Range", ""))
        if not last or not told:
            raise ReadError(
                f"an archive is read in parts, {shown(address)} is not there or its "
                "server has no parts: download it first"
            )
        # fsspec logs what it takes for a path
        super().__init__(None, shown(address), block_size=PART, size=int(told[1]))

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.server.fetch("", slice(start, end)) or b""
