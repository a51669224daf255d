"""P4: past expiry less the leeway a token is not handed out, by whichever clock says so first."""

import logging
from datetime import UTC, datetime

import anyio
import httpx
import pytest
from anyio import to_thread
from support import ManualClock, ScriptedApi, ScriptedEndpoint, manager, settle, token_response

from revos import RevosAuthenticationError

ON_DEMAND = {"enable_periodic_refresh": False}
LIFETIMES = pytest.mark.parametrize(
    ("lifetime", "leeway"), [(3600, 30), (300, 30), (299, 29.9), (100, 10), (1, 0.1)]
)


@LIFETIMES
async def test_a_token_is_given_until_its_leeway_begins_and_not_after(lifetime, leeway):
    endpoint, clock = ScriptedEndpoint(lifetime), ManualClock()

    async with manager(endpoint, clock) as tm:
        await tm.get_token()
        with endpoint.hold():
            await clock.advance(lifetime - leeway - 0.01)
            last = tm.get_token_nowait()
            await clock.advance(0.02)
            with pytest.raises(anyio.WouldBlock):
                tm.get_token_nowait()
            has_token = tm.status.has_token

    assert last == "token-1"
    assert not has_token


@pytest.mark.parametrize("token", [{}, ON_DEMAND], ids=["loop", "on-demand"])
@pytest.mark.parametrize("jump", [(3600, 0), (0, 3600), (3570, 0), (0, 3570)], ids=str)
async def test_the_first_clock_that_says_expired_wins(token, jump):
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock, token=token) as tm, tm.subscribe() as stream:
        await tm.get_token()
        clock.now_monotonic += jump[0]
        clock.now_time += jump[1]
        with pytest.raises(anyio.WouldBlock):
            tm.get_token_nowait()
        latest = stream.latest
        token = await tm.get_token()

    assert latest is None
    assert token == "token-2"


async def test_a_wall_clock_that_is_set_back_prolongs_nothing():
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock, token=ON_DEMAND) as tm:
        await tm.get_token()
        clock.now_time -= 86_400
        await clock.advance(3570)
        token = await tm.get_token()

    assert token == "token-2"


async def test_an_expired_token_is_not_given_when_the_endpoint_is_down():
    endpoint, clock, api = ScriptedEndpoint(), ManualClock(), ScriptedApi()

    async with (
        manager(endpoint, clock, max_retries=1) as tm,
        api.client(auth=tm.auth) as http,
    ):
        await tm.get_token()
        endpoint.script = [503] * 1_000
        for _ in range(120):
            await clock.advance(30)
        with pytest.raises(RevosAuthenticationError):
            await tm.get_token()
        with pytest.raises(RevosAuthenticationError):
            await http.get("/models")

        def send():
            with api.sync_client(auth=tm.auth) as http:
                http.get("/models")

        with pytest.raises(RevosAuthenticationError):
            await to_thread.run_sync(send)

    assert api.requests == []


async def test_a_subscriber_is_not_given_an_expired_token():
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock) as tm:
        await tm.get_token()
        with endpoint.hold():
            await clock.advance(3571)
            async with tm.subscribe() as stream:
                latest = stream.latest
                with pytest.raises(anyio.WouldBlock):
                    stream.receive_nowait()

    assert latest is None


async def test_a_subscriber_is_not_given_a_token_that_the_wall_clock_has_ended():
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock, token=ON_DEMAND) as tm, tm.subscribe() as stream:
        await tm.get_token()
        clock.now_time += 3600
        latest = stream.latest
        with pytest.raises(anyio.WouldBlock):
            stream.receive_nowait()

    assert latest is None


async def test_the_lifetime_counts_from_the_head_of_the_response():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    body = _SlowBody(token_response("token-1", 100).content)
    endpoint.script = [httpx.Response(200, stream=body)]

    async with manager(endpoint, clock, token=ON_DEMAND) as tm, anyio.create_task_group() as tasks:
        asked_at = clock.time()
        tasks.start_soon(tm.get_token)
        await settle()
        await clock.advance(20)
        body.rest_comes.set()
        await settle()
        expires_at = tm.status.expires_at
        await clock.advance(69)
        last = tm.get_token_nowait()
        await clock.advance(2)
        with pytest.raises(anyio.WouldBlock):
            tm.get_token_nowait()

    assert expires_at == datetime.fromtimestamp(asked_at + 100, UTC)
    assert last == "token-1"


async def test_a_token_that_is_unusable_on_arrival_is_given_to_nobody():
    endpoint, clock, got = ScriptedEndpoint(), ManualClock(), []
    body = _SlowBody(token_response("token-1", 10).content)
    endpoint.script = [httpx.Response(200, stream=body)]

    async with manager(endpoint, clock, token=ON_DEMAND) as tm:

        async def ask():
            got.append(await tm.get_token())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await settle()
            await clock.advance(20)
            body.rest_comes.set()
            await settle()
            await clock.advance(1)  # The pause after an answer that came too late.

    assert got == ["token-2"]


@pytest.mark.parametrize("token", [None, "token-1"])
async def test_an_invalidated_token_is_not_given_again(token):
    endpoint = ScriptedEndpoint()

    async with manager(endpoint, ManualClock(), token=ON_DEMAND) as tm:
        await tm.get_token()
        tm.invalidate(token)
        with pytest.raises(anyio.WouldBlock):
            tm.get_token_nowait()
        newer = await tm.get_token()
        tm.invalidate("token-1")
        kept = tm.get_token_nowait()

    assert (newer, kept) == ("token-2", "token-2")


async def test_a_token_is_invalidated_as_the_object_that_a_refresh_or_a_stream_gave():
    async with manager(ScriptedEndpoint(), ManualClock(), token=ON_DEMAND) as tm:
        token = await tm.refresh()
        tm.invalidate(token)
        newer = await tm.get_token()
        tm.invalidate(token)
        kept = tm.get_token_nowait()

    assert (newer, kept) == ("token-2", "token-2")


async def test_a_token_invalidated_from_a_thread_is_not_given_again():
    endpoint = ScriptedEndpoint()

    async with manager(endpoint, token=ON_DEMAND) as tm:
        held = await tm.refresh()
        await to_thread.run_sync(tm.invalidate, held)
        with pytest.raises(anyio.WouldBlock):
            tm.get_token_nowait()
        newer = await tm.get_token()

    assert newer == "token-2"


class _SlowBody(httpx.AsyncByteStream):
    """A body whose second half comes when `rest_comes` is set."""

    def __init__(self, body):
        self.rest_comes = anyio.Event()
        self._parts = [body[:10], body[10:]]

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self._parts:
            raise StopAsyncIteration
        if len(self._parts) == 1:
            await self.rest_comes.wait()
        return self._parts.pop(0)


async def test_a_token_that_expires_before_its_waiter_runs_is_not_given(caplog):
    endpoint, clock, late = ScriptedEndpoint(), ManualClock(), iter([4_000])

    def turn(record):
        clock.turn(next(late, 0))
        return True

    with caplog.at_level(logging.DEBUG, logger="revos.refresher"):
        caplog.handler.addFilter(turn)  # It hears of a token just before who waits for it.
        try:
            async with manager(endpoint, clock, token=ON_DEMAND) as tm:
                assert await tm.get_token() == "token-2"
        finally:
            caplog.handler.removeFilter(turn)
