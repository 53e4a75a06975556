"""The lowest gate: how many connections, and how long they may say nothing. Row 6: `settings`."""

from __future__ import annotations

import asyncio
from typing import Any

from kappamask.openeo.server.settings import Limits

HEAD_SECONDS = 20  # from the first byte of a request, or the connection, to the end of its headers


def bounded_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Give uvicorn's protocol of one connection, with bounds that uvicorn lacks.

    A connection too many is closed at once; so is one whose request does not come to
    the end of its headers in time. Else idle connections would take every descriptor.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Bounded(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
        """One connection."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            """Count it."""
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
            else:
                self._wait()

        def data_received(self, data: bytes) -> None:
            """Look whether the headers are complete: then a request is being answered."""
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._wait()
            else:
                self._stop_waiting()

        def connection_lost(self, exc: Exception | None) -> None:
            """Forget it."""
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self._timer is None:  # more bytes give no more time
                self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Bounded
