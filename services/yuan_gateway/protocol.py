"""HTTP connections whose clients must say what they want in time; uvicorn itself waits for ever."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_SECONDS = 30.0
"""How long the head of a request may take, from the connection or from its first byte on."""


MOST_DISCARDED_BYTES = 256 * 1024 * 1024
"""Of a body that was refused: read and thrown away, since most clients read no answer before they have sent all."""


class ImpatientProtocol(HttpToolsProtocol):
    """Closes a connection whose request's head does not come to its end, or whose refused body has none."""

    _timer: asyncio.TimerHandle | None = None
    _discarded = 0

    def connection_made(self, transport: Any) -> None:
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begins to wait for the rest of a head."""
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        """Ends waiting: what comes is the body, which the application waits for."""
        self._stop_waiting()
        self._discarded = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Counts what nobody reads any more."""
        super().on_body(body)
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > MOST_DISCARDED_BYTES:
                self._give_up()

    def _wait(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
