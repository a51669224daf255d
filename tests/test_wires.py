"""The network in memory answers as a gateway does, and tells what is open."""

import httpx
import httpx2
import pytest
from wires import Wire

URL = "http://127.0.0.1:9"


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
async def test_a_wire_is_the_network_of_each_library(library):
    with Wire("token-1".__ne__, {"name": "Ada"}).in_use() as wire:
        async with library.AsyncClient(base_url=URL) as http:
            token = (await http.post("/token")).json()["access_token"]
            refused = await http.get("/v1/models", headers={"authorization": f"Bearer {token}"})
            other = {"authorization": "Bearer token-2"}
            models = (await http.get("/v1/models", headers=other)).json()
            said = (await http.post("/v1/chat/completions", headers=other, json={})).json()
            wire.refusals = [429, 503]
            busy = [await http.get("/v1/models", headers=other) for _ in range(3)]
            inside = len(wire.connections)
        after = len(wire.connections)

    assert (token, refused.status_code) == ("token-1", 401)
    assert "invalid_token" in refused.headers["www-authenticate"]
    assert models["data"] == [{"id": "gpt-4"}]
    assert said["choices"][0]["message"]["content"] == '{"name": "Ada"}'
    assert [answer.status_code for answer in busy] == [429, 503, 200]
    assert wire.asked[:4] == ["/token", "/v1/models", "/v1/models", "/v1/chat/completions"]
    assert wire.token_requests == 1
    assert (inside, after) == (1, 0)
