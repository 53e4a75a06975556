"""Files on a server that is asked with patience, whole or in parts. Imports `buckets`, `base`."""

from __future__ import annotations

import io
import os
import re
import time
from urllib.parse import quote

import requests

from kappamask.base.errors import ReadError
from kappamask.base.retry import FILES, GUARD, PASSING, seconds_asked
from kappamask.scenes.buckets import address_of, find_keys

_METADATA = re.compile(r"(?:.*/)?(?:zarr\.json|\.zarray|\.zgroup|\.zattrs|\.zmetadata)")
_NOT_THERE = (404, 410)
# A bucket that may not be listed says so of what is not there.
_NOT_TOLD = (401, 403)
PART = 2**18  # bytes that are asked for at once


class Server:
    """The objects below one address, https or s3, asked for with patience."""

    def __init__(self, location: str, proxy: str | None) -> None:
        self.address, _, self.query = location.partition("?")
        self.session = _session(proxy)
        self.in_bucket = location.startswith("s3://")
        if self.in_bucket:
            self.address, self.query = address_of(location), ""
            self.session.auth = find_keys()

    def ask(self, key: str, span: str | None = None) -> requests.Response | None:
        """Ask for an object, or `span` of it in the words of HTTP; None if there is none.

        Raises
        ------
        ReadError
            If it is refused, or not to be had in the end.
        """
        url = f"{self.address}/{quote(key) if self.in_bucket else key}"
        url += f"?{self.query}" if self.query else ""
        said = ""
        for tried in range(1, FILES.tries + 1):
            asked = None
            try:
                answer = self.session.get(
                    url,
                    headers={"Range": span} if span else {},
                    timeout=FILES.timeout_s,
                    allow_redirects=not self.in_bucket,  # signed for this host alone
                )
            except requests.RequestException as error:
                said = type(error).__name__
            else:
                status = answer.status_code
                if status in _NOT_THERE or (status in _NOT_TOLD and _METADATA.fullmatch(key)):
                    return None
                if status in (200, 206):
                    return answer
                said, asked = f"HTTP {status}", seconds_asked(answer.headers.get("Retry-After"))
                if status not in PASSING:
                    raise ReadError(
                        f"cannot read {self.address}/{key}: {said}: it is refused; leave its item "
                        "out, or search again where addresses are signed"
                    )
            if tried < FILES.tries:
                time.sleep(FILES.wait(tried, asked))
        raise ReadError(
            f"cannot read {self.address}/{key}: {said}, in {FILES.tries} tries: try again later"
        )

    def fetch(self, key: str, span: str | None, cut: slice) -> bytes | None:
        """Get an object, or a part of it; None if there is none.

        `cut` is the same span in Python's words, for a server that sends all of it.
        """
        answer = self.ask(key, span)
        if answer is None:
            return None
        content: bytes = answer.content
        return content[cut] if answer.status_code == 200 else content


class RemoteFile(io.RawIOBase):
    """One file on a server, read in parts: an archive is listed without all of it."""

    def __init__(self, address: str) -> None:
        super().__init__()
        folder, _, self.name = address.partition("?")[0].rpartition("/")
        query = address.partition("?")[2]
        self.server = Server(folder + (f"?{query}" if query else ""), None)
        self.size, self.place = self._measure(), 0

    def _measure(self) -> int:
        last = self.server.ask(self.name, "bytes=0-0")
        told = last and re.search(r"/(\d+)$", last.headers.get("Content-Range", ""))
        if not last or not told:
            raise ReadError(
                f"an archive is read in parts, {self.server.address}/{self.name} is not there or "
                "its server has no parts: download it first"
            )
        return int(told[1])

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that any part of it can be read."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        self.place = max(0, start + offset)
        return self.place

    def tell(self) -> int:
        """Tell the byte that comes next."""
        return self.place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read the next bytes."""
        stop = min(self.place + len(buffer), self.size)
        if stop <= self.place:
            return 0
        span, cut = f"bytes={self.place}-{stop - 1}", slice(self.place, stop)
        content = self.server.fetch(self.name, span, cut) or b""
        buffer[: len(content)] = content
        self.place += len(content)
        return len(content)


def _session(proxy: str | None) -> requests.Session:
    session = requests.Session()
    if proxy is not None:
        session.trust_env = False  # proxies of the environment would win
        session.proxies = {"http": proxy, "https": proxy}
    if guard := GUARD.get():
        session.trust_env = False
        session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        for scheme in ("http://", "https://"):
            session.mount(scheme, guard())
    return session
