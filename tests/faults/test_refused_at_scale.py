"""P6 by the thousand: refusals for good, in turn with accepted requests, over real sockets."""

import anyio
import httpx
from simulation import EventClock
from support import BASE_URL, ManualClock, ScriptedApi, ScriptedEndpoint, bearer_of, manager, settle

from revos import BearerAuth

ON_DEMAND = {"enable_periodic_refresh": False}


def most_refreshes(seconds):
    """The most refreshes that one consumer may cause in that time when all it sends is refused:
    one at once, then one after each delay (1 s, doubling to 60 s).
    """
    refreshes, at, delay = 1, 1.0, 1.0
    while at <= seconds:
        refreshes, delay = refreshes + 1, min(2 * delay, 60.0)
        at += delay
    return refreshes


def test_the_delays_double_in_the_bound_too():
    assert [most_refreshes(at) for at in (0, 1, 3, 7, 15, 31, 63, 123, 183)] == list(range(1, 10))


class Answering(httpx.AsyncBaseTransport):
    """A transport that leaves the request as it is, where a mock would read its body."""

    def __init__(self, answer):
        self.answer = answer

    async def handle_async_request(self, request):
        return await self.answer(request)


class Parts:
    """A body that can be sent only once."""

    def __init__(self):
        self._parts = [b"some", b"thing"]

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()


# Refused for good, spread over minutes.


async def test_the_same_token_again_and_again_is_asked_for_by_the_doubling_delay():
    endpoint, clock, api = ScriptedEndpoint(1e6), ManualClock(), ScriptedApi(lambda token: False)
    endpoint.name = lambda number: "always-the-same"

    async with manager(endpoint, clock, token=ON_DEMAND) as tm, api.client(auth=tm.auth) as http:
        for _ in range(1_000):
            await http.get("/models")
            clock.now_monotonic += 0.25

    assert len(api.requests) == 1_000
    assert most_refreshes(250) - 2 <= endpoint.count - 1 <= most_refreshes(250)


async def test_two_consumers_whose_replays_are_slow_do_not_drive_each_other():
    endpoint, clock, statuses, seen = ScriptedEndpoint(1e6), EventClock(150), [], set()

    async def answer(request):
        again = request.headers["x-number"] in seen
        seen.add(request.headers["x-number"])
        # Each consumer's first try is refused while the replay of the other is out.
        await clock.sleep(0.5 if again else 0.01)
        return httpx.Response(401, request=request)

    async def send(http, name, offset):
        auth = BearerAuth(tm)
        await clock.sleep(offset)
        for number in range(25):
            await clock.sleep(0.001)
            headers = {"x-number": f"{name}{number}"}
            statuses.append((await http.get("/models", auth=auth, headers=headers)).status_code)

    async with (
        manager(endpoint, clock, token=ON_DEMAND) as tm,
        httpx.AsyncClient(transport=Answering(answer), base_url=BASE_URL) as http,
    ):
        await tm.get_token()
        started_at = clock.now_monotonic
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, http, "one", 0.0)
            tasks.start_soon(send, http, "two", 0.02)
            await clock.turn_until(lambda: len(statuses) == 50)

    assert statuses == [401] * 50
    assert endpoint.count - 1 <= 2 * most_refreshes(clock.now_monotonic - started_at)


async def test_a_slow_replay_does_not_keep_a_revoked_token_longer_than_its_delay():
    endpoint, clock, released, statuses = ScriptedEndpoint(1e6), ManualClock(), anyio.Event(), []

    async def answer(request):
        token = bearer_of(request)
        if request.url.path == "/v1/slow" and token == "token-2":
            await released.wait()
            return httpx.Response(200, request=request)
        return httpx.Response(200 if token == "token-3" else 401, request=request)

    async with (
        manager(endpoint, clock, token=ON_DEMAND) as tm,
        httpx.AsyncClient(transport=Answering(answer), auth=tm.auth, base_url=BASE_URL) as http,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(http.get, "/slow")
        await settle()
        statuses.append((await http.get("/models")).status_code)
        await clock.advance(1.0)
        statuses.append((await http.get("/models")).status_code)
        released.set()

    assert statuses == [401, 200]
    assert endpoint.count == 3


# Refused for good in turn with accepted requests of the same consumer.


async def test_streamed_bodies_refused_in_turn_with_accepted_requests_cost_few_refreshes():
    endpoint, clock, statuses = ScriptedEndpoint(1e6), ManualClock(), []

    async def answer(request):
        return httpx.Response(401 if request.url.path == "/v1/refused" else 200, request=request)

    async with (
        manager(endpoint, clock, token=ON_DEMAND) as tm,
        httpx.AsyncClient(transport=Answering(answer), auth=tm.auth, base_url=BASE_URL) as http,
    ):
        for _ in range(1_000):
            statuses.append((await http.post("/refused", content=Parts())).status_code)
            statuses.append((await http.get("/accepted")).status_code)
            clock.now_monotonic += 0.01

    assert statuses == [401, 200] * 1_000
    # The first delay is ended by the request that the token serves.
    assert endpoint.count - 1 <= most_refreshes(10) + 1
