"""The manager for the handlers of a web application (ASGI: Starlette, FastAPI, Litestar ...).

A server starts the task of a request outside the task that entered the manager, so the request
inherits none. This middleware gives it one; it does not open or close it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from revos import scope
from revos.manager import TokenManager

__all__ = ["TokenManagerMiddleware"]

Message = MutableMapping[str, Any]
App = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]


class TokenManagerMiddleware:
    """Around an application: the ambient functions use `manager` in every request.

    With FastAPI: `app.add_middleware(TokenManagerMiddleware, manager=tm)`, and the manager's
    `async with` in the lifespan.

    >>> import anyio
    >>> from revos import get_token_info
    >>> from revos.testing import serve_gateway
    >>> async def app(scope, receive, send):
    ...     print(get_token_info()["has_token"])
    >>> async def main():
    ...     async with serve_gateway() as gateway, TokenManager(gateway.config()) as tm:
    ...         await tm.get_token()
    ...         await TokenManagerMiddleware(app, tm)({"type": "http"}, None, None)
    >>> anyio.run(main)
    True
    """

    def __init__(self, app: App, manager: TokenManager) -> None:
        self.app = app
        self.manager = manager

    async def __call__(
        self,
        asgi_scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        with scope.using(self.manager):
            await self.app(asgi_scope, receive, send)
