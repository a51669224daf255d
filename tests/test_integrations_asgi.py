"""The manager in the handlers of a web application."""

from __future__ import annotations

from contextvars import Context

import anyio
import httpx
import pytest
from support import ScriptedEndpoint, manager

from revos import RevosConfigurationError, get_revos_token, get_token_info
from revos.integrations.asgi import TokenManagerMiddleware
from revos.testing import serve


async def answer_with_the_token(scope, receive, send):
    if scope["type"] == "http":
        token = await get_revos_token()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": token.encode()})


async def test_a_handler_finds_the_manager_of_the_middleware():
    tm = manager(ScriptedEndpoint())
    app = TokenManagerMiddleware(answer_with_the_token, tm)

    async with serve(app) as server, tm, httpx.AsyncClient() as http:
        response = await http.get(server.url)

    assert response.text == "token-1"


async def test_the_manager_is_gone_after_the_request():
    found = []

    async def look(scope, receive, send):
        found.append(get_token_info()["has_token"])

    async def request():
        await TokenManagerMiddleware(look, tm)({"type": "http"}, None, None)
        with pytest.raises(RevosConfigurationError):
            get_token_info()

    async with manager(ScriptedEndpoint()) as tm:
        await tm.get_token()
        async with anyio.create_task_group() as tg:
            Context().run(tg.start_soon, request)

    assert found == [True]
