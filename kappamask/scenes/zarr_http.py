"""A Zarr store on a server that is asked with patience. Imports zarr and `base`.

Read with zarr alone: what fsspec would need beside it for addresses (aiohttp) is one dependency
more, and it has tries of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

from kappamask.scenes.http import Server

_NOTHING: tuple[str, ...] = ()


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
        for key in _NOTHING:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:  # noqa: ARG002  zarr's name
        """List nothing."""
        for key in _NOTHING:
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:  # noqa: ARG002
        """List nothing."""
        for key in _NOTHING:
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
