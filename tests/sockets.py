"""TCP servers that do what no good server does, on loopback ports of the test's own loop."""

from __future__ import annotations

import contextlib
import socket

import anyio
from anyio.abc import SocketAttribute


@contextlib.asynccontextmanager
async def raw_server(handle):
    """A TCP server that does with a connection what `handle` does; gives its port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
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
