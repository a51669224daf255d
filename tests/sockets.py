"""TCP servers that do what no good server does, on loopback ports of the test's own loop."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import ssl
import struct
import time

import anyio
from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteStream
from anyio.streams.tls import TLSStream


@contextlib.asynccontextmanager
async def raw_server(handle, port=0):
    """A TCP server that does with a connection what `handle` does; gives its port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


class Hostile:
    """A server that reads, sends `answer` and then nothing more; counts connections and ends."""

    def __init__(self, answer=b""):
        self.answer = answer
        self.asked = anyio.Event()
        self.ended = anyio.Event()
        self._serving = anyio.CancelScope()

    async def give_up_after(self, seconds):
        await anyio.sleep(seconds)
        self._serving.cancel()

    async def __call__(self, stream):
        async with stream:
            with self._serving:
                await self._serve(stream)

    async def _serve(self, stream):
        await stream.receive()
        if self.answer:
            await stream.send(self.answer)
        self.asked.set()
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await stream.receive()
        self.ended.set()


@contextlib.contextmanager
def full_backlog():
    """The port of a server that takes no more connections, so that connecting waits."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


class RawEndpoint:
    """A token endpoint by script, byte for byte; numbered tokens where the script says nothing.

    `script` holds what the next requests get: bytes, behind which the connection stays open, or a
    callable that does with the stream what it likes, behind which it is closed.

    :ivar requests: head and body of each request
    :ivar connections: the number of the connection that each came by
    :ivar moments: when each came, by `clock`
    """

    def __init__(self, script=(), clock=time):
        self.script = list(script)
        self.clock = clock
        self.requests = []
        self.connections = []
        self.moments = []
        self.accepted = 0
        self.ended = 0
        self.asked = anyio.Event()

    @property
    def count(self):
        return len(self.requests)

    @property
    def methods(self):
        """How each request authenticated the client."""
        basic = b"\r\nauthorization: basic "
        return ["basic" if basic in one.lower() else "post" for one in self.requests]

    @property
    def pauses(self):
        return [later - before for before, later in itertools.pairwise(self.moments)]

    async def __call__(self, stream):
        self.accepted += 1
        connection = self.accepted
        async with stream:
            with contextlib.suppress(*GONE):
                buffered = BufferedByteStream(stream)
                while await self._serve(buffered, connection):
                    pass
        self.ended += 1

    async def _serve(self, stream, connection):
        """Serve one request; whether another may come by this connection."""
        head = await stream.receive_until(b"\r\n\r\n", 65_536)
        length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
        body = await stream.receive_exactly(int(length[1]) if length else 0)
        self.requests.append(head + b"\r\n\r\n" + body)
        self.connections.append(connection)
        self.moments.append(self.clock.monotonic())
        answer = self.script.pop(0) if self.script else http_answer(token_body(self.count))
        self.asked.set()
        if callable(answer):
            await answer(stream)
            return False
        await stream.send(answer)
        return True


# What reading and writing raise once the client is gone, or where it does not speak HTTP.
GONE = (
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.DelimiterNotFound,
    anyio.EndOfStream,
    anyio.IncompleteRead,
)


def http_answer(body=b"", status="200 OK", *headers):
    """An answer over HTTP/1.1 that says how long it is."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def token_body(number):
    return b'{"access_token": "token-%d", "token_type": "Bearer", "expires_in": 3600}' % number


def then_closed(answer):
    async def send(stream):
        await stream.send(answer)

    return send


def then_reset(answer=b""):
    """Bytes, and an RST behind them."""

    async def send(stream):
        if answer:
            await stream.send(answer)
            await anyio.sleep(0.01)  # Else the RST may overtake them.
        linger = struct.pack("ii", 1, 0)
        raw_socket = stream.extra(SocketAttribute.raw_socket)
        raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    return send


def then_for_ever(answer, piece, seconds=0.0):
    """Bytes, and a piece that follows again and again, each so many seconds after the last."""

    async def send(stream):
        await stream.send(answer)
        while True:
            await stream.send(piece)
            await anyio.sleep(seconds)

    return send


async def then_nothing(stream):
    await anyio.sleep_forever()


def closed_port():
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class ConnectProxy:
    """A proxy whose tunnels all lead to one port of this machine, wherever they are to go.

    :ivar asked: the head of each request
    """

    def __init__(self, port):
        self.port = port
        self.asked = []

    async def __call__(self, stream):
        with contextlib.suppress(*GONE):
            async with stream:
                buffered = BufferedByteStream(stream)
                self.asked.append(await buffered.receive_until(b"\r\n\r\n", 65_536))
                async with await anyio.connect_tcp("127.0.0.1", self.port) as server:
                    await stream.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(_pipe, stream, server, tasks.cancel_scope)
                        tasks.start_soon(_pipe, server, stream, tasks.cancel_scope)


async def _pipe(source, sink, both):
    with contextlib.suppress(*GONE):
        while True:
            await sink.send(await source.receive())
    both.cancel()


def over_tls(handle, certificate):
    """A handler of connections that speaks TLS with this certificate of `trustme`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    async def serve(stream):
        with contextlib.suppress(*GONE, ssl.SSLError):
            async with stream:
                await handle(
                    await TLSStream.wrap(
                        stream, server_side=True, ssl_context=context, standard_compatible=False
                    )
                )

    return serve
