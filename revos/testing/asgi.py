"""What the gateway reads and writes as an ASGI 3 application: one request, one answer.

No state and no decision of the gateway lives here.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

import anyio
from attrs import field, frozen

__all__ = [
    "Answer",
    "App",
    "Message",
    "Receive",
    "Request",
    "Scope",
    "Send",
    "client_left",
    "openai_error",
    "read_request",
    "run_lifespan",
    "send_answer",
    "stay",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@frozen
class Request:
    """One HTTP request, read to its end. Header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    client: tuple[str, int] | None


@frozen(kw_only=True)
class Answer:
    """An answer as a script gives it.

    :ivar status: the HTTP status
    :ivar body: bytes or text as they are; anything else is sent as JSON
    :ivar headers: sent besides `content-length` and, for JSON, `content-type`
    :ivar delay: seconds before it is sent
    :ivar hang: it is never sent: the connection stays open until the client leaves
    :ivar truncate: the connection ends in the middle of the body
    :ivar method: at the token endpoint, for requests with this client authentication method only

    >>> Answer(status=503, headers={"retry-after": "7"}).status
    503
    >>> Answer(status=400, body={"error": "invalid_scope"}).content
    b'{"error": "invalid_scope"}'
    """

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(factory=dict)
    delay: float = 0
    hang: bool = False
    truncate: bool = False
    method: str | None = None

    @property
    def content(self) -> bytes:
        """The body as it is sent."""
        if isinstance(self.body, bytes):
            return self.body
        if isinstance(self.body, str):
            return self.body.encode()
        return json.dumps(self.body).encode()

    @property
    def header_list(self) -> list[tuple[bytes, bytes]]:
        """The headers as ASGI wants them, the length not among them."""
        named = {name.lower(): value for name, value in self.headers.items()}
        if not isinstance(self.body, bytes | str):
            named.setdefault("content-type", "application/json")
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]


def openai_error(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """A refusal in the shape of the OpenAI API."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return Answer(status=status, body={"error": error}, headers=headers or {})


async def read_request(scope: Scope, receive: Receive) -> Request | None:
    """The whole request, or None where the client left before its end."""
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    client = scope.get("client")
    return Request(
        method=scope["method"],
        path=scope["path"],
        query=dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)),
        headers={n.decode("latin-1").lower(): v.decode("latin-1") for n, v in scope["headers"]},
        body=body,
        client=(client[0], client[1]) if client else None,
    )


async def send_answer(send: Send, answer: Answer) -> None:
    content = answer.content
    length = len(content) + (100 if answer.truncate else 0)
    headers = [*answer.header_list, (b"content-length", b"%d" % length)]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send(
        {"type": "http.response.body", "body": content, "more_body": answer.truncate},
    )


async def client_left(receive: Receive) -> None:
    """Wait for the client to go away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def stay(seconds: float, sleep: Callable[[float], Awaitable[None]], receive: Receive) -> bool:
    """Wait that long; false where the client left meanwhile, at once."""
    left = False
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            nonlocal left
            await client_left(receive)
            left = True
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        await sleep(seconds)
        tasks.cancel_scope.cancel()
    return not left


async def run_lifespan(receive: Receive, send: Send) -> None:
    """Answer the lifespan protocol: nothing has to be started or stopped."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
