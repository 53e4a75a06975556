"""A Zarr store on a server that is asked with patience. Imports zarr and `base`.

Read with zarr alone: what fsspec would need beside it for addresses (aiohttp) is one dependency
more, and it has tries of its own.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from kappamask.scenes.http import Server


class HttpStore(MemoryStore):
    """The store below one address, as zarr asks for it.

    One in memory that holds nothing, cannot be written to, and asks its server instead.
    """

    supports_writes = supports_deletes = supports_listing = False

    def __init__(self, location: str, proxy: str | None) -> None:
        super().__init__(read_only=True)
        self.server = Server(location, proxy)

    def __eq__(self, other: object) -> bool:
        """Compare addresses."""
        return isinstance(other, HttpStore) and other.server.location == self.server.location

    __hash__ = None  # type: ignore[assignment]

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        """Get an object or a part of it; None if there is none."""
        content = self.server.fetch(key, _part(byte_range))
        buffer = (prototype or default_buffer_prototype()).buffer
        return None if content is None else buffer.from_bytes(content)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """Get the same while others do."""
        get = partial(self.get_sync, prototype=prototype, byte_range=byte_range)
        return await asyncio.to_thread(get, key)

    async def exists(self, key: str) -> bool:
        """Tell whether there is an object."""
        return await self.get(key) is not None


def _part(asked: Any) -> slice:
    """Say a part of an object as a slice."""
    match asked:
        case RangeByteRequest(start, end):
            return slice(start, end)
        case OffsetByteRequest(offset):
            return slice(offset, None)
        case SuffixByteRequest(suffix):
            return slice(-suffix, None)
    return slice(None)
