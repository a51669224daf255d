"""One HTTP/1.1 connection to an ASGI application, on any AnyIO byte stream.

h11 speaks the protocol; here is only what it does not do: read, write, and call the application,
which runs in the task of its connection. So cancelling that task ends both at once, and nothing is
left to stop in some order.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import anyio
import h11
from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import ByteStream

    from revos.testing.asgi import App, Message

__all__ = ["ClientGoneError", "serve_connection"]

_logger = logging.getLogger(__name__)
_CHUNK = 65536


class ClientGoneError(OSError):
    """The application sends to a client that has left."""


async def serve_connection(app: App, stream: ByteStream, scope: Mapping[str, Any]) -> None:
    """Answer requests until either side has enough. `scope` is what they have in common."""
    connection = _Connection(app, stream, scope)
    try:
        while await connection.exchange():
            pass
    except (ClientGoneError, anyio.BrokenResourceError, anyio.EndOfStream):
        return  # The client went away: there is nobody left to tell.


@define
class _Connection:
    app: App
    stream: ByteStream
    common: Mapping[str, Any]
    http: h11.Connection = field(factory=lambda: h11.Connection(h11.SERVER), init=False)
    unsent: bytes = field(default=b"", init=False)
    is_read: bool = field(default=False, init=False)
    is_bodiless: bool = field(default=False, init=False)
    is_gone: bool = field(default=False, init=False)

    async def exchange(self) -> bool:
        """One request and its response; whether another can follow."""
        try:
            request = await self._next()
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint)
            return False
        if not isinstance(request, h11.Request):
            return False
        self.is_read = False
        self.is_bodiless = request.method == b"HEAD"
        try:
            await self.app(self._scope(request), self.receive, self.send)
        except Exception:
            if not self.is_gone:
                _logger.exception("the application failed")
            await self._refuse(500)
            return False
        if self.http.our_state is not h11.DONE and self.http.our_state is not h11.MUST_CLOSE:
            await self._refuse(500)
        return await self._recycled()

    async def receive(self) -> Message:
        """The `receive` of ASGI."""
        if self.is_read:
            await self._left()
            return {"type": "http.disconnect"}
        try:
            event = await self._next()
        except (h11.RemoteProtocolError, anyio.BrokenResourceError):
            self.is_gone = True
            return {"type": "http.disconnect"}
        if isinstance(event, h11.Data):
            return {"type": "http.request", "body": bytes(event.data), "more_body": True}
        self.is_read = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        """The `send` of ASGI. The head waits for the first piece of the body: one write."""
        if self.is_gone:
            raise ClientGoneError("the client has left")
        if message["type"] == "http.response.start":
            status = message["status"]
            self.is_bodiless = self.is_bodiless or status in {204, 304}
            self._collect(h11.Response(status_code=status, headers=list(message["headers"])))
            return
        body = message.get("body", b"")
        if body and not self.is_bodiless:
            self._collect(h11.Data(data=body))
        if not message.get("more_body", False):
            self._collect(h11.EndOfMessage())
        await self._flush()

    async def _next(self) -> object:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            if self.http.they_are_waiting_for_100_continue:
                self._collect(h11.InformationalResponse(status_code=100, headers=[]))
                await self._flush()
            try:
                data = await self.stream.receive(_CHUNK)
            except anyio.EndOfStream:
                data = b""
            self.http.receive_data(data)
        return event

    async def _left(self) -> None:
        """Wait until the client is gone or has its response. What it sends meanwhile is kept."""
        while self.http.our_state in {h11.SEND_RESPONSE, h11.SEND_BODY} and not self.is_gone:
            try:
                self.http.receive_data(await self.stream.receive(_CHUNK))
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                self.is_gone = True

    async def _refuse(self, status: int) -> None:
        """An empty response, where none has begun."""
        if self.is_gone or self.http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        headers = [("content-length", "0"), ("connection", "close")]
        self._collect(h11.Response(status_code=status, headers=headers))
        self._collect(h11.EndOfMessage())
        await self._flush()

    async def _recycled(self) -> bool:
        while self.http.our_state is h11.DONE and self.http.their_state is h11.SEND_BODY:
            await self._next()
        if self.is_gone or self.http.our_state is not h11.DONE:
            return False
        if self.http.their_state is not h11.DONE:
            return False
        self.http.start_next_cycle()
        return True

    def _collect(self, event: Any) -> None:
        self.unsent += self.http.send(event) or b""

    async def _flush(self) -> None:
        data, self.unsent = self.unsent, b""
        try:
            await self.stream.send(data)
        except anyio.BrokenResourceError as error:
            self.is_gone = True
            raise ClientGoneError("the client has left") from error

    def _scope(self, request: h11.Request) -> dict[str, Any]:
        path, _, query = request.target.partition(b"?")
        return {
            **self.common,
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": request.http_version.decode(),
            "method": request.method.decode(),
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [(bytes(name), bytes(value)) for name, value in request.headers],
            "state": dict(self.common["state"]),
            "extensions": {},
        }
