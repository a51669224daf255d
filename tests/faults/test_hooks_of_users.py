"""A client of the user's whose hooks read, drop or judge what the token endpoint answers."""

from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
from sockets import RawEndpoint, http_answer, raw_server, token_body
from support import ManualClock, manager_at

from revos import RevosAuthenticationError

REFUSED = http_answer(b'{"error": "invalid_client"}', "401 Unauthorized")
BUSY = http_answer(b"busy", "503 Service Unavailable")


async def read(response):
    await response.aread()


async def read_without_keeping(response):
    async for _ in response.aiter_raw():
        pass


async def let_go(response):
    await response.aclose()


async def judge(response):
    response.raise_for_status()


async def read_and_judge(response):
    await response.aread()
    response.raise_for_status()


@asynccontextmanager
async def hooked(hook, *answers, **settings):
    """A manager over a client with this hook, and the endpoint that answers so."""
    endpoint = RawEndpoint(answers)
    async with (
        raw_server(endpoint) as port,
        httpx.AsyncClient(event_hooks={"response": [hook]}) as http,
        manager_at(port, ManualClock(), http_client=http, **settings) as tm,
    ):
        with anyio.fail_after(5):
            yield tm, endpoint


@pytest.mark.parametrize("hook", [read, judge, read_and_judge])
async def test_a_token_comes_through_a_hook(hook):
    async with hooked(hook, http_answer(token_body(1))) as (tm, endpoint):
        assert await tm.get_token() == "token-1"

    assert endpoint.count == 1


@pytest.mark.parametrize(
    ("hook", "error"),
    [(read, "invalid_client"), (read_and_judge, "invalid_client"), (judge, None), (let_go, None)],
)
async def test_a_refusal_is_told_as_one_and_not_sent_again(hook, error):
    async with hooked(hook, REFUSED) as (tm, endpoint):
        with pytest.raises(RevosAuthenticationError) as caught:
            await tm.get_token()

    assert (caught.value.status_code, caught.value.error) == (401, error)
    assert (caught.value.attempts, endpoint.count) == (1, 1)
    assert not caught.value.temporary
    assert "check client id, client secret" in str(caught.value)


@pytest.mark.parametrize("hook", [read, judge, read_and_judge])
async def test_an_outage_is_told_as_one(hook):
    async with hooked(hook, BUSY, max_retries=1) as (tm, _):
        with pytest.raises(RevosAuthenticationError, match="did not serve") as caught:
            await tm.get_token()

    assert (caught.value.status_code, caught.value.temporary) == (503, True)


@pytest.mark.parametrize("hook", [let_go, read_without_keeping])
async def test_an_answer_whose_body_a_hook_kept_from_us_is_no_token(hook):
    async with hooked(hook, http_answer(token_body(1))) as (tm, endpoint):
        with pytest.raises(RevosAuthenticationError, match="the body is not JSON"):
            await tm.get_token()

    assert endpoint.count == 1
