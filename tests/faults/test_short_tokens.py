"""Tokens of a few seconds from an endpoint that takes nearly as long to answer (P1, P3, P4, P7)."""

from random import Random

import anyio
import httpx
import pytest
from simulation import EventClock
from support import ManualClock, ScriptedEndpoint, manager, settle, token_response

from revos import RevosAuthenticationError, TokenManager
from revos.testing import Gateway, serve_gateway

ON_DEMAND = {"enable_periodic_refresh": False}


class SlowEndpoint:
    """Answers after a while of its choice; keeps until when each token is good."""

    def __init__(self, clock, random):
        self.clock, self.random = clock, random
        self.count = self.in_flight = self.most_in_flight = 0
        self.ends_at = {}

    def client(self):
        return httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    async def _answer(self, request):
        self.count += 1
        name = f"token-{self.count}"
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await self.clock.sleep(self.random.uniform(0.5, 3.0))
        self.in_flight -= 1
        lifetime = self.random.uniform(1.0, 5.0)
        self.ends_at[name] = self.clock.now_monotonic + lifetime
        return token_response(name, lifetime)


class LateBody(httpx.AsyncByteStream):
    """A body that is there so many seconds after its head, with a token of one second."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    async def __aiter__(self):
        self.clock.turn(self.seconds)
        yield token_response("late", 1).content


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nobody_waits_while_a_short_token_is_usable_and_nobody_gets_one_that_is_not(seed):
    clock, random, seconds = EventClock(), Random(seed), 120.0
    endpoint = SlowEndpoint(clock, random)
    end_at, waited, asked = clock.now_monotonic + seconds, [], 0

    async def ask():
        asked_at = clock.now_monotonic
        token = await tm.get_token()
        assert clock.now_monotonic < endpoint.ends_at[token]
        waited.append(clock.now_monotonic - asked_at)

    async def somebody():
        while clock.now_monotonic < end_at:
            await clock.sleep(random.uniform(0.05, 0.4))
            tasks.start_soon(ask)

    async with manager(endpoint, clock) as tm, anyio.create_task_group() as tasks:
        tm._refresher.random = random.random
        tasks.start_soon(somebody)
        await settle()
        while clock.now_monotonic < end_at:
            await clock.turn_to_next(end_at)
            answered = len(waited)
            try:
                token = tm.get_token_nowait()
            except anyio.WouldBlock:
                continue
            assert clock.now_monotonic < endpoint.ends_at[token]
            await ask()
            asked += 1
            assert len(waited) == answered + 1
            assert waited[-1] == 0.0
        tasks.cancel_scope.cancel()

    assert asked > 100
    assert endpoint.most_in_flight == 1
    assert max(waited) <= 3.0
    # A request takes half a second at least, and the shortest token is due after 0.45 s.
    assert endpoint.count <= seconds / (0.5 + 0.45) + 1


async def test_a_token_that_expires_before_its_answer_is_all_there_fails_the_cycle():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [lambda: httpx.Response(200, stream=LateBody(clock, 0.95))]

    async with manager(endpoint, clock, max_retries=1, token=ON_DEMAND) as tm:
        with pytest.raises(RevosAuthenticationError, match="expired before all of its") as caught:
            await tm.get_token()
        asked = endpoint.count
        clock.turn(caught.value.retry_after)
        token = await tm.get_token()

    assert asked == 1
    assert caught.value.temporary
    assert "no answer in time" in str(caught.value)
    assert token == "token-2"


async def test_a_token_that_is_still_good_when_its_answer_is_all_there_is_given():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [lambda: httpx.Response(200, stream=LateBody(clock, 0.85))]

    async with manager(endpoint, clock, token=ON_DEMAND) as tm:
        assert await tm.get_token() == "late"


@pytest.mark.parametrize(("lifetime", "delay"), [(1, 0.5), (3, 0.2)])
async def test_short_tokens_of_a_slow_endpoint_over_sockets(lifetime, delay):
    got, seconds = [], 1.2
    gateway = Gateway(lifetime=lifetime, delay=delay)

    async def ask():
        while True:
            asked_at = anyio.current_time()
            value = await tm.get_token()
            got.append((anyio.current_time() - asked_at, gateway.accepts(value)))
            await anyio.sleep(0.02)

    async with (
        serve_gateway(gateway),
        TokenManager(gateway.config()) as tm,
        httpx.AsyncClient(auth=tm.auth) as http,
    ):
        with anyio.move_on_after(delay + seconds):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(ask)
        counted = gateway.token_requests
        await tm.refresh()  # Else the token may end on its way, where the machine is busy.
        status = (await http.get(f"{gateway.base_url}/models")).status_code

    assert status == 200
    assert {good for _, good in got} == {True}
    assert gateway.refusals == 0
    assert gateway.max_token_requests_in_flight == 1
    assert counted <= seconds / (delay + 0.45 * lifetime) + 2
