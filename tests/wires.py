"""A network in memory for every client of httpx and httpx2, the same in each run.

Each call that a real network answers after a while is one checkpoint here, no more and no fewer, so
that the checkpoints of a whole request can be counted.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from unittest import mock

from anyio.lowlevel import checkpoint
from support import completion


class Wire:
    """What the clients inside `in_use()` are connected to.

    Tokens are numbered. `accepts` says of each whether the API takes it; a chat completion is
    answered with `completion`. Heads and bodies come in parts of their own.

    :ivar slowness: checkpoints before the answer of the token endpoint, beyond the one
    :ivar refusals: the statuses that the next requests of the API get in place of answers
    :ivar connections: those that are open
    :ivar asked: the path of each request that came
    """

    def __init__(self, accepts: Callable[[str], bool] = bool, completion: object = None) -> None:
        self.accepts = accepts
        self.completion = completion
        self.slowness = 0
        self.refusals: list[int] = []
        self.connections: set[_Connection] = set()
        self.asked: list[str] = []

    @property
    def token_requests(self) -> int:
        return self.asked.count("/token")

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Wire]:
        """Every pool that is made inside connects here."""
        with contextlib.ExitStack() as stack:
            for library in ("httpcore", "httpcore2"):
                pool = f"{library}._async.connection_pool.AutoBackend"
                stack.enter_context(mock.patch(pool, return_value=self))
            yield self

    async def connect_tcp(self, host: str, port: int, **_: object) -> _Connection:
        await checkpoint()
        return _Connection(self)

    def answer(self, request: bytes) -> tuple[bytes, bytes]:
        head, _, _ = request.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        path = first.split(" ")[1]
        self.asked.append(path)
        status, content = self._answer_to(path, headers.get("authorization", ""))
        body = json.dumps(content).encode()
        challenge = 'www-authenticate: Bearer error="invalid_token"\r\n' if status == 401 else ""
        return (
            f"HTTP/1.1 {status} As said\r\ncontent-type: application/json\r\n{challenge}"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode("ascii"), body

    def _answer_to(self, path: str, authorization: str) -> tuple[int, object]:
        if path == "/token":
            token = f"token-{self.token_requests}"
            return 200, {"access_token": token, "token_type": "Bearer", "expires_in": 3600}
        if not self.accepts(authorization.removeprefix("bearer ")):
            return 401, {"error": "refused"}
        if self.refusals:
            return self.refusals.pop(0), {"error": "not now"}
        if path.endswith("/models"):
            return 200, {"data": [{"id": "gpt-4"}]}
        return 200, completion({"content": json.dumps(self.completion)})


class _Connection:
    """A stream of httpcore's."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._received = b""
        self._parts: list[bytes] = []
        wire.connections.add(self)

    async def start_tls(self, *_: object, **__: object) -> _Connection:
        await checkpoint()
        return self

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await checkpoint()
        self._received += buffer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        await checkpoint()
        if not self._parts:
            request, self._received = self._received, b""
            for _ in range(self._wire.slowness if b" /token " in request else 0):
                await checkpoint()
            self._parts += self._wire.answer(request)
        return self._parts.pop(0)

    async def aclose(self) -> None:
        # As a socket: closed at once, and told to the loop.
        self._wire.connections.discard(self)
        await checkpoint()

    def get_extra_info(self, info: str) -> None:
        """Not readable while idle; nothing else is known."""
