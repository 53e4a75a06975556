"""A Zarr store on a server that is asked with patience. Imports zarr and `base`.

Read with zarr alone: what fsspec would need beside it for addresses (aiohttp) is one dependency
more, and it has tries of its own.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import requests
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

from kappamask.base.errors import ReadError
from kappamask.base.retry import FILES, GUARD, PASSING, seconds_asked

_METADATA = re.compile(r"(?:.*/)?(?:zarr\.json|\.zarray|\.zgroup|\.zattrs|\.zmetadata)")
_NOT_THERE = (404, 410)
# A bucket that may not be listed says so of what is not there.
_NOT_TOLD = (401, 403)


class Server:
    """The objects below one address, asked for with patience."""

    def __init__(self, location: str, proxy: str | None) -> None:
        self.address, _, self.query = location.partition("?")
        self.session = _session(proxy)

    def fetch(self, key: str, span: str | None, cut: slice) -> bytes | None:
        """Get an object, or `span` of it in the words of HTTP; None if there is none.

        `cut` is the same span in Python's words, for a server that sends all of it.

        Raises
        ------
        ReadError
            If it is refused, or not to be had in the end.
        """
        url = f"{self.address}/{key}" + (f"?{self.query}" if self.query else "")
        said = ""
        for tried in range(1, FILES.tries + 1):
            asked = None
            try:
                answer = self.session.get(
                    url, headers={"Range": span} if span else {}, timeout=FILES.timeout_s
                )
            except requests.RequestException as error:
                said = type(error).__name__
            else:
                status = answer.status_code
                if status in _NOT_THERE or (status in _NOT_TOLD and _METADATA.fullmatch(key)):
                    return None
                if status in (200, 206):
                    return answer.content[cut] if status == 200 else answer.content
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


class HttpStore(Store):
    """The store below one address, as zarr asks for it."""

    supports_writes = supports_deletes = supports_listing = False

    def __init__(self, location: str, proxy: str | None) -> None:
        super().__init__(read_only=True)
        self.server = Server(location, proxy)
        self._is_open = True

    def __eq__(self, other: object) -> bool:
        """Compare addresses."""
        return isinstance(other, HttpStore) and other.server.address == self.server.address

    __hash__ = None  # type: ignore[assignment]

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """Get an object or a part of it; None if there is none."""
        prototype = prototype or default_buffer_prototype()
        content = await asyncio.to_thread(self.server.fetch, key, *_span(byte_range))
        return None if content is None else prototype.buffer.from_bytes(content)

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> list[Any]:
        """Get parts of several objects."""
        return [await self.get(key, prototype, span) for key, span in key_ranges]

    async def exists(self, key: str) -> bool:
        """Tell whether there is an object."""
        return await self.get(key) is not None

    async def set(self, key: str, value: Any) -> None:
        """Refuse: it is only read."""
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        """Refuse: it is only read."""
        raise NotImplementedError

    async def list(self) -> AsyncIterator[str]:
        """List nothing: servers do not tell."""
        for key in ():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """List nothing."""
        for key in (prefix,)[:0]:
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List nothing."""
        for key in (prefix,)[:0]:
            yield key


def _span(asked: Any) -> tuple[str | None, slice]:
    """Say a part of an object in the words of HTTP and of Python."""
    match asked:
        case RangeByteRequest(start, end):
            return f"bytes={start}-{end - 1}", slice(start, end)
        case OffsetByteRequest(offset):
            return f"bytes={offset}-", slice(offset, None)
        case SuffixByteRequest(suffix):
            return f"bytes=-{suffix}", slice(-suffix, None)
    return None, slice(None)


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
