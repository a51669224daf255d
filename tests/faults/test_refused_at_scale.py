"""P6 by the thousand: refusals for good, in turn with accepted requests, over real sockets."""

import ssl
import time
from collections import Counter
from functools import partial
from urllib.parse import parse_qs

import anyio
import httpx
import httpx2
import pytest
from anyio import to_thread
from simulation import EventClock
from support import (
    BASE_URL,
    ManualClock,
    ScriptedApi,
    ScriptedEndpoint,
    SentOnce,
    bearer_of,
    config,
    manager,
    settle,
    token_response,
)

from revos import BearerAuth, RevosAPIError, TokenManager
from revos.testing import serve_gateway

ON_DEMAND = {"enable_periodic_refresh": False}
# Loading the certificate authorities would take longer than most of these tests.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
# A request by httpx takes eight times the CPU of one by httpx2.
CLIENTS = pytest.mark.parametrize(
    "opened_over_sockets",
    [(httpx, False, 60), (httpx2, False, 300), (httpx2, True, 60)],
    ids=["httpx", "httpx2", "httpx2-in-threads"],
    indirect=True,
)


@pytest.fixture
def opened_over_sockets(request):
    """Sends so many requests at once, from tasks or from threads; gives the statuses."""
    library, in_threads, number = request.param

    async def send_all(tm, url, number):
        statuses = []

        async def one(send):
            statuses.append((await send(url)).status_code)

        async with anyio.create_task_group() as tasks:
            if in_threads:
                http = await to_thread.run_sync(
                    partial(library.Client, auth=tm.auth, timeout=60, verify=NO_TLS)
                )
                send = partial(to_thread.run_sync, http.get)
            else:
                http = library.AsyncClient(auth=tm.auth, timeout=60, verify=NO_TLS)
                send = http.get
            for _ in range(number):
                tasks.start_soon(one, send)
        await (to_thread.run_sync(http.close) if in_threads else http.aclose())
        return statuses

    return send_all, number


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
            statuses.append((await http.post("/refused", content=SentOnce())).status_code)
            statuses.append((await http.get("/accepted")).status_code)
            clock.now_monotonic += 0.01

    assert statuses == [401, 200] * 1_000
    # The first delay is ended by the request that the token serves.
    assert endpoint.count - 1 <= most_refreshes(10) + 1


class ByPath(ScriptedApi):
    """Refuses what goes to `/refused` whatever its token is, and accepts the rest."""

    def _answer(self, response, request):
        self.accepts = lambda token: token is not None and not request.url.path.endswith("/refused")
        return super()._answer(response, request)


@LIBRARIES
@pytest.mark.parametrize("consumers", [1, 2])
async def test_a_thousand_pairs_of_a_refused_and_an_accepted_request(library, consumers):
    endpoint, clock, api, statuses = ScriptedEndpoint(1e6), ManualClock(), ByPath(), []

    async with (
        manager(endpoint, clock, token=ON_DEMAND) as tm,
        api.client(library) as http,
    ):
        auths = [tm.auth, BearerAuth(tm)][:consumers]
        for _ in range(1_000):
            statuses.append((await http.get("/refused", auth=auths[0])).status_code)
            statuses.append((await http.get("/accepted", auth=auths[-1])).status_code)
            clock.now_monotonic += 0.03

    assert statuses == [401, 200] * 1_000
    # Accepted first tries clear no delay.
    assert endpoint.count - 1 <= most_refreshes(30)
    assert len(api.requests) == 2_000 + endpoint.count - 1


async def test_an_accepted_first_try_does_not_clear_the_delay_of_its_consumer():
    endpoint, clock, api, counts = ScriptedEndpoint(1e6), ManualClock(), ByPath(), []

    async with (
        manager(endpoint, clock, token=ON_DEMAND) as tm,
        api.client(auth=tm.auth) as http,
    ):
        for passed in (0.0, 0.9, 0.2, 1.9, 0.2):
            clock.now_monotonic += passed
            await http.get("/accepted")
            await http.get("/refused")
            counts.append(endpoint.count)

    assert counts == [2, 2, 3, 3, 4]


async def test_pairs_over_sockets_and_many_at_once_cost_few_refreshes():
    statuses = []

    async def send_pairs(http):
        for path in ("models/refused", "models") * 20:
            response = await http.get(f"{gateway.base_url}/{path}")
            statuses.append(response.status_code)

    async with (
        serve_gateway() as gateway,
        TokenManager(gateway.config()) as tm,
        httpx2.AsyncClient(auth=tm.auth, timeout=60, verify=NO_TLS) as http,
    ):
        gateway.refuse_if = lambda request: request.path.endswith("/refused")
        async with anyio.create_task_group() as tasks:
            for _ in range(15):
                tasks.start_soon(send_pairs, http)

    assert Counter(statuses) == {401: 300, 200: 300}
    assert gateway.token_requests <= 10


# Over real sockets.


@CLIENTS
async def test_requests_refused_with_one_token_cost_one_refresh_over_sockets(opened_over_sockets):
    send_all, number = opened_over_sockets

    async with serve_gateway() as gateway, TokenManager(gateway.config()) as tm:
        gateway.revoke(await tm.get_token())
        statuses = await send_all(tm, f"{gateway.base_url}/models", number)

    assert statuses == [200] * number
    assert gateway.token_requests == 2
    assert gateway.max_token_requests_in_flight == 1


@CLIENTS
async def test_a_burst_refused_for_good_over_sockets_gets_its_401s(opened_over_sockets):
    send_all, number = opened_over_sockets

    async with serve_gateway() as gateway, TokenManager(gateway.config()) as tm:
        gateway.refuse_all = True
        started_at = time.monotonic()
        with anyio.fail_after(60):
            statuses = [
                status
                for _ in range(10)
                for status in await send_all(tm, f"{gateway.base_url}/models", number // 3)
            ]

    assert statuses == [401] * (number // 3) * 10
    # Five at most, unless the machine is so slow that the third delay is over.
    assert gateway.token_requests <= max(5, 1 + most_refreshes(time.monotonic() - started_at))


async def test_a_thousand_refused_over_minutes_cost_as_many_refreshes_as_the_delay_lets_through():
    endpoint, clock, api = ScriptedEndpoint(1e6), ManualClock(), ScriptedApi(lambda token: False)

    async with manager(endpoint, clock, token=ON_DEMAND) as tm, api.client(auth=tm.auth) as http:
        for _ in range(1_000):
            await http.get("/models")
            clock.now_monotonic += 0.5

    assert most_refreshes(500) - 2 <= endpoint.count - 1 <= most_refreshes(500)
    assert len(api.requests) == 1_000 + endpoint.count - 1


# What is a refusal of the token.


@pytest.mark.parametrize(
    ("challenges", "refreshes"),
    [
        (['Basic realm="x"', 'Bearer error="invalid_token"'], True),
        (['Bearer error="invalid_token"', 'Bearer error="insufficient_scope"'], False),
        (["Bearer", 'Bearer error="insufficient_scope"'], False),
        (['Negotiate, Bearer realm="a", error="invalid_request", Basic realm="b"'], False),
        (["NTLM TlRMTVNTUAAB==, Bearer error=insufficient_scope"], False),
        (['DPoP error="use_dpop_nonce", algs="ES256"'], True),
        (['DPoP error="use_dpop_nonce", Bearer error="invalid_token"'], True),
        (['BEARER Error = "INVALID_TOKEN"'], True),
        (['Bearer realm="error=\\"insufficient_scope\\""'], True),
        (['Bearer error_description="error=insufficient_scope", error="invalid_token"'], True),
        ([', ,Bearer , error="insufficient_scope"'], False),
        (["Bearer error="], True),
        ([""], True),
        (['Bearer scope="a b" error="insufficient_scope"'], False),
        (['Bearer error="in\\valid_token"'], True),
    ],
)
async def test_only_another_error_of_a_bearer_challenge_stops_the_refresh(challenges, refreshes):
    endpoint = ScriptedEndpoint()

    async def answer(request):
        headers = [("www-authenticate", challenge) for challenge in challenges]
        accepted = bearer_of(request) == "token-2"
        return httpx.Response(200 if accepted else 401, headers=headers, request=request)

    async with (
        manager(endpoint, token=ON_DEMAND) as tm,
        httpx.AsyncClient(transport=Answering(answer), auth=tm.auth) as http,
    ):
        response = await http.get(BASE_URL)

    assert response.status_code == (200 if refreshes else 401)
    assert endpoint.count == 1 + refreshes


# The token endpoint in a storm of refusals.


async def test_a_storm_while_the_endpoint_hangs_ends_with_the_gateways_401s_and_slows_nobody_else():
    endpoint, clock, statuses = ScriptedEndpoint(1e6), EventClock(150), []
    bad, good = ScriptedApi(lambda token: False), ScriptedApi()

    async def send(http):
        statuses.append((await http.get("/models")).status_code)

    async with (
        manager(endpoint, clock, request_timeout=30) as tm,
        bad.client(auth=tm.auth) as refused,
        good.client(auth=BearerAuth(tm)) as served,
    ):
        await tm.get_token()
        started_at = clock.now_monotonic
        with endpoint.hold():
            async with anyio.create_task_group() as tasks:
                for _ in range(200):
                    tasks.start_soon(send, refused)
                await settle()
                meanwhile = (await served.get("/models")).status_code, await tm.get_token()
                none_yet = len(statuses)
                await clock.turn_until(lambda: len(statuses) == 200)
        took = clock.now_monotonic - started_at
        again = (await refused.get("/models")).status_code

    assert meanwhile == (200, "token-1")
    assert none_yet == 0
    assert statuses == [401] * 200
    assert took <= 60.0
    assert again == 401
    assert len(bad.requests) == 201


@pytest.mark.parametrize("failure", [400, httpx.ConnectError("made up")], ids=str)
async def test_a_storm_while_the_endpoint_fails_costs_no_more_than_its_pauses_let_through(failure):
    endpoint, clock = ScriptedEndpoint(1e6), ManualClock()
    api = ScriptedApi(lambda token: token == "token-1" and not revoked)
    revoked, statuses = [], []

    async with (
        manager(endpoint, clock, max_retries=1, token=ON_DEMAND) as tm,
        api.client(auth=tm.auth) as http,
    ):
        await tm.get_token()
        revoked.append(True)
        endpoint.script = [failure] * 1_000
        for _ in range(1_000):
            statuses.append((await http.get("/models")).status_code)
            clock.now_monotonic += 0.1

    assert statuses == [401] * 1_000
    assert len(api.requests) == 1_000
    # Pauses of half of 1, 2, 4 ... 60 s, since `random` is 0.
    assert endpoint.count - 1 == 9


async def test_a_storm_that_is_refused_with_the_old_token_after_a_refresh_costs_no_request():
    endpoint, clock, released, statuses = ScriptedEndpoint(), ManualClock(), anyio.Event(), []

    async def answer(request):
        if bearer_of(request) == "token-1":
            await released.wait()
            return httpx.Response(401, request=request)
        return httpx.Response(200, request=request)

    async def send(http):
        statuses.append((await http.get("/models")).status_code)

    async with (
        manager(endpoint, clock) as tm,
        httpx.AsyncClient(transport=Answering(answer), auth=tm.auth, base_url=BASE_URL) as http,
        anyio.create_task_group() as tasks,
    ):
        await tm.get_token()
        for _ in range(300):
            tasks.start_soon(send, http)
        for _ in range(10):
            await settle()
        await clock.advance(2_700.0)  # The periodic refresh.
        refreshed = endpoint.count
        released.set()

    assert statuses == [200] * 300
    assert (refreshed, endpoint.count) == (2, 2)


async def test_a_storm_while_the_periodic_refresh_is_in_flight_joins_it():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    api, statuses = ScriptedApi(lambda token: token != "token-1"), []

    async def send(http):
        statuses.append((await http.get("/models")).status_code)

    async with manager(endpoint, clock) as tm, api.client(auth=tm.auth) as http:
        await tm.get_token()
        async with anyio.create_task_group() as tasks:
            with endpoint.hold():
                await clock.advance(2_700.0)
                for _ in range(100):
                    tasks.start_soon(send, http)
                await settle()
                in_flight = endpoint.in_flight

    assert in_flight == 1
    assert statuses == [200] * 100
    assert endpoint.count == 2


# Many managers.


async def test_a_hundred_managers_over_one_client_heal_apart():
    requests = Counter()

    def issue(request):
        (client_id,) = parse_qs(request.content.decode())["client_id"]
        requests[client_id] += 1
        return token_response(f"{client_id}-{requests[client_id]}")

    api = ScriptedApi(lambda token: token is not None and token not in revoked)
    revoked = {f"client-{number}-1" for number in range(0, 100, 2)}

    async def one(number, shared, http):
        settings = config(client_id=f"client-{number}")
        async with TokenManager(settings, http_client=shared) as tm:
            for _ in range(3):
                response = await http.get("/models", auth=tm.auth)
                statuses.append(response.status_code)

    statuses = []
    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(issue)) as shared,
        api.client() as http,
        anyio.create_task_group() as tasks,
    ):
        for number in range(100):
            tasks.start_soon(one, number, shared, http)

    assert statuses == [200] * 300
    assert requests == {f"client-{number}": 2 - number % 2 for number in range(100)}


# Streams.


@LIBRARIES
async def test_a_stream_that_has_begun_outlives_its_token_and_the_next_request_is_healed(library):
    payload = {
        "model": "gpt-4",
        "messages": [{"role": "user", "content": "x" * 50}],
        "stream": True,
    }

    async with (
        serve_gateway() as gateway,
        TokenManager(gateway.config()) as tm,
        library.AsyncClient(auth=tm.auth, verify=NO_TLS) as http,
    ):
        gateway.stream_delay = 0.001
        url = f"{gateway.base_url}/chat/completions"
        async with http.stream("POST", url, json=payload) as response:
            lines = response.aiter_lines()
            first = await anext(lines)
            gateway.revoke()
            during = gateway.token_requests
            rest = [line async for line in lines]
        following = (await http.post(url, json=payload)).status_code

    assert first.startswith("data: ")
    assert "data: [DONE]" in rest
    assert during == 1
    assert following == 200
    assert gateway.token_requests == 2


@LIBRARIES
async def test_a_streamed_request_that_is_refused_is_healed_and_a_401_can_still_be_read(library):
    async with (
        serve_gateway() as gateway,
        TokenManager(gateway.config()) as tm,
        library.AsyncClient(auth=tm.auth, verify=NO_TLS) as http,
    ):
        url, seen = f"{gateway.base_url}/models", []
        gateway.revoke(await tm.get_token())
        for refuse_all in (False, True, True):
            gateway.refuse_all = refuse_all
            async with http.stream("GET", url) as response:
                parts = [part async for part in response.aiter_bytes()]
                seen.append((response.status_code, b"Incorrect API key" in b"".join(parts)))

    assert seen == [(200, False), (401, True), (401, True)]
    assert gateway.token_requests == 3


# Extractors.


@pytest.fixture
def person():
    pydantic = pytest.importorskip("pydantic")
    return pydantic.create_model("Person", name=(str, ...), age=(int, ...))


async def test_extractors_of_a_refused_and_an_accepted_model_in_turn(person):
    async with serve_gateway() as gateway, TokenManager(gateway.config()) as tm:
        gateway.refuse_models = {"gpt-4"}
        async with tm.extractor("gpt-4") as refused, tm.extractor("claude-4") as served:
            for _ in range(20):
                with pytest.raises(RevosAPIError, match="401"):
                    await refused.extract(person, "{text}", text="Ada, 36")
                assert (await served.extract(person, "{text}", text="Ada, 36")).name == "Ada"

    assert gateway.token_requests <= 10


async def test_one_extractor_whose_prompts_are_refused_and_accepted_in_turn(person):
    async with serve_gateway() as gateway, TokenManager(gateway.config()) as tm:
        gateway.refuse_if = lambda request: b"Eve" in request.body
        async with tm.extractor("gpt-4") as extractor:
            for _ in range(20):
                with pytest.raises(RevosAPIError, match="401"):
                    await extractor.extract(person, "{text}", text="Eve, 36")
                assert (await extractor.extract(person, "{text}", text="Ada, 36")).name == "Ada"

    assert gateway.token_requests <= 10


async def test_extracts_that_are_refused_with_one_token_cost_one_refresh(person):
    names = []

    async def extract(extractor):
        names.append((await extractor.extract(person, "{text}", text="Ada, 36")).name)

    async with (
        serve_gateway() as gateway,
        TokenManager(gateway.config()) as tm,
        tm.extractor("gpt-4") as one,
        tm.extractor("claude-4") as two,
    ):
        for _ in range(2):
            gateway.revoke(await tm.get_token())
            async with anyio.create_task_group() as tasks:
                for extractor in (one, two) * 20:
                    tasks.start_soon(extract, extractor)

    assert names == ["Ada"] * 80
    assert gateway.token_requests == 3
