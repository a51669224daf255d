"""P6: what the gateway refuses costs one refresh, is replayed once, and slows nobody else."""

import logging
import sys
import threading
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial

import anyio
import httpx
import httpx2
import pytest
from anyio import to_thread
from support import (
    BASE_URL,
    ManualClock,
    ScriptedApi,
    ScriptedEndpoint,
    SentOnce,
    config,
    manager,
    settle,
)

from revos import (
    BearerAuth,
    RevosClosedError,
    RevosConfigurationError,
    RevosError,
    TokenManager,
)
from revos.testing import serve_gateway

ON_DEMAND = {"enable_periodic_refresh": False}
LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])


@pytest.fixture(
    params=[(httpx, False), (httpx2, False), (httpx, True), (httpx2, True)],
    ids=["httpx", "httpx2", "httpx-in-threads", "httpx2-in-threads"],
)
def opened(request):
    """Opens a client of either library, asynchronous or in worker threads: `send(method, path)`."""
    library, in_threads = request.param

    @asynccontextmanager
    async def open_client(api, auth, **options):
        if in_threads:
            with api.sync_client(library, auth=auth, **options) as http:
                yield lambda *args, **kw: to_thread.run_sync(partial(http.request, *args, **kw))
        else:
            async with api.client(library, auth=auth, **options) as http:
                yield http.request

    return open_client


async def statuses_of(send, number, path="/models"):
    """What `number` requests at once are answered."""
    statuses = []

    async def one():
        statuses.append((await send("GET", path)).status_code)

    async with anyio.create_task_group() as tasks:
        for _ in range(number):
            tasks.start_soon(one)
    return statuses


# Healing.


async def test_a_thousand_requests_refused_with_one_token_cost_one_refresh():
    endpoint, api = ScriptedEndpoint(), ScriptedApi(lambda token: token != "token-1")

    async with manager(endpoint) as tm, api.client(auth=tm.auth) as http:
        await tm.get_token()
        statuses = await statuses_of(http.request, 1_000)

    assert statuses == [200] * 1_000
    assert endpoint.count == 2
    assert Counter(api.tokens) == {"token-1": 1_000, "token-2": 1_000}


async def test_requests_refused_with_one_token_cost_one_refresh_with_every_client(opened):
    endpoint, api = ScriptedEndpoint(), ScriptedApi(lambda token: token != "token-1")

    async with manager(endpoint) as tm, opened(api, tm.auth) as send:
        await tm.get_token()
        statuses = await statuses_of(send, 60)  # More than AnyIO has worker threads.

    assert statuses == [200] * 60
    assert endpoint.count == 2
    assert api.tokens.count("token-2") == 60


async def test_a_refused_request_is_sent_again_as_it_was(opened):
    endpoint, api = ScriptedEndpoint(), ScriptedApi(lambda token: token != "token-1")

    async with manager(endpoint, token=ON_DEMAND) as tm, opened(api, tm.auth) as send:
        response = await send("POST", "/chat", json={"a": 1}, headers={"x-mine": "7"})

    first, second = api.requests
    assert response.status_code == 200
    assert first.content == second.content == b'{"a":1}'
    assert first.headers["x-mine"] == second.headers["x-mine"] == "7"
    assert api.tokens == ["token-1", "token-2"]


async def test_each_further_revocation_costs_one_refresh(opened):
    endpoint = ScriptedEndpoint()
    api = ScriptedApi(lambda token: token not in revoked)
    revoked, counts = set(), []

    async with manager(endpoint) as tm, opened(api, tm.auth) as send:
        for _ in range(5):
            revoked.add(await tm.get_token())
            statuses = await statuses_of(send, 10)
            counts.append((set(statuses), endpoint.count))

    assert counts == [({200}, number) for number in range(2, 7)]


async def test_a_refusal_of_an_older_token_costs_no_refresh():
    endpoint = ScriptedEndpoint()
    answered = anyio.Event()
    seen = []

    async def answer(request):
        seen.append(request.headers["authorization"])
        if seen == ["Bearer token-1"]:
            await answered.wait()
            return httpx.Response(401)
        return httpx.Response(200)

    async with (
        manager(endpoint) as tm,
        httpx.AsyncClient(transport=httpx.MockTransport(answer), auth=tm.auth) as http,
    ):
        await tm.get_token()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(http.get, BASE_URL)
            await settle()
            await tm.refresh()
            answered.set()

    assert seen == ["Bearer token-1", "Bearer token-2"]
    assert endpoint.count == 2


@LIBRARIES
async def test_refused_requests_do_not_block_a_small_pool_of_connections(library):
    async with serve_gateway() as gateway, TokenManager(gateway.config()) as tm:
        limits = library.Limits(max_connections=2)
        async with library.AsyncClient(auth=tm.auth, limits=limits) as http:
            gateway.revoke(await tm.get_token())
            with anyio.fail_after(10):
                statuses = await statuses_of(http.request, 30, f"{gateway.base_url}/models")

    assert statuses == [200] * 30
    assert gateway.token_requests == 2


class OneConnection:
    """Clients of a real server whose pools have room for one connection."""

    def __init__(self, gateway):
        self.base_url = gateway.base_url

    def client(self, library, **options):
        limits = library.Limits(max_connections=1)
        return library.AsyncClient(base_url=self.base_url, limits=limits, **options)

    def sync_client(self, library, **options):
        limits = library.Limits(max_connections=1)
        return library.Client(base_url=self.base_url, limits=limits, **options)


async def test_a_refused_request_holds_no_connection_while_it_waits_for_a_token(opened):
    endpoint = ScriptedEndpoint()

    async with (
        serve_gateway() as gateway,
        manager(endpoint, base_url=gateway.base_url) as tm,
        opened(OneConnection(gateway), tm.auth) as send,
        anyio.create_task_group() as tasks,
    ):
        await tm.get_token()
        endpoint.started = anyio.Event()
        with endpoint.hold():
            tasks.start_soon(send, "GET", "/models")
            await endpoint.started.wait()
            other = await send("GET", "/models", auth=None)

    assert other.status_code == 401
    assert endpoint.count == 2


@LIBRARIES
async def test_a_body_that_is_streamed_is_not_sent_again_and_the_next_request_is_healed(library):
    async with (
        serve_gateway() as gateway,
        TokenManager(gateway.config()) as tm,
        library.AsyncClient(auth=tm.auth) as http,
    ):
        gateway.revoke(await tm.get_token())
        refused = await http.post(f"{gateway.base_url}/echo", content=SentOnce())
        requests = gateway.api_requests
        served = await http.post(f"{gateway.base_url}/echo", content=SentOnce())

    assert refused.status_code == 401
    assert requests == 1
    assert served.status_code == 200
    assert gateway.token_requests == 2


@LIBRARIES
async def test_a_body_streamed_from_a_thread_is_not_sent_again(library):
    async with serve_gateway() as gateway, TokenManager(gateway.config()) as tm:

        def send():
            with library.Client(auth=tm.auth) as http:
                return http.post(f"{gateway.base_url}/echo", content=iter([b"a", b"b"])).status_code

        gateway.revoke(await tm.get_token())
        refused = await to_thread.run_sync(send)
        requests = gateway.api_requests
        served = await to_thread.run_sync(send)

    assert (refused, served) == (401, 200)
    assert requests == 1
    assert gateway.token_requests == 2


async def test_streamed_bodies_refused_for_good_cost_few_refreshes():
    async with serve_gateway() as gateway, TokenManager(gateway.config()) as tm:
        gateway.refuse_all = True
        async with httpx.AsyncClient(auth=tm.auth) as http:
            for _ in range(50):
                await http.post(f"{gateway.base_url}/echo", content=SentOnce())

    assert gateway.api_requests == 50
    assert gateway.token_requests <= 5


# Refused for good.


async def test_a_thousand_requests_refused_for_good_cost_at_most_five_token_requests(opened):
    endpoint, clock, api = ScriptedEndpoint(), ManualClock(), ScriptedApi(lambda token: False)

    async with manager(endpoint, clock) as tm, opened(api, tm.auth) as send:
        statuses = []
        for _ in range(20):
            statuses += await statuses_of(send, 50)
            clock.now_monotonic += 0.1
            clock.now_time += 0.1

    assert statuses == [401] * 1_000
    assert endpoint.count <= 5


async def test_after_a_refused_replay_the_delay_doubles_from_one_second_to_sixty(opened):
    endpoint, clock, api = ScriptedEndpoint(1e6), ManualClock(), ScriptedApi(lambda token: False)
    counts = []

    async with (
        manager(endpoint, clock, token=ON_DEMAND) as tm,
        opened(api, tm.auth) as send,
    ):
        await send("GET", "/models")
        for delay in (1, 2, 4, 8, 16, 32, 60, 60):
            await clock.advance(delay - 0.01)
            await statuses_of(send, 5)
            too_soon = endpoint.count
            await clock.advance(0.02)
            await send("GET", "/models")
            counts.append((too_soon, endpoint.count))

    assert counts == [(number, number + 1) for number in range(2, 10)]


async def test_a_request_during_the_delay_gets_its_401_at_once_while_the_endpoint_hangs():
    endpoint, clock, api = ScriptedEndpoint(), ManualClock(), ScriptedApi(lambda token: False)

    async with manager(endpoint, clock) as tm, api.client(auth=tm.auth) as http:
        await http.get("/models")
        with endpoint.hold():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tm.refresh)
                await settle()
                in_flight = endpoint.in_flight
                response = await http.get("/models")
                tasks.cancel_scope.cancel()

    assert in_flight == 1
    assert response.status_code == 401


async def test_an_accepted_replay_clears_the_delay(opened):
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    api = ScriptedApi(lambda token: token not in refused)
    refused = {f"token-{number}" for number in range(1, 4)}

    async with manager(endpoint, clock) as tm, opened(api, tm.auth) as send:
        await send("GET", "/models")  # token-2 is refused too: a delay of 1 s
        await clock.advance(1.1)
        await send("GET", "/models")  # and token-3: 2 s
        await clock.advance(2.1)
        healed = (await send("GET", "/models")).status_code
        refused.add("token-4")
        at_once = (await send("GET", "/models")).status_code

    assert (healed, at_once) == (200, 200)
    assert endpoint.count == 5


async def test_one_consumer_refused_for_good_slows_no_other_and_is_not_cleared_by_it():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    revoked = set()
    bad_api = ScriptedApi(lambda token: False)
    good_api = ScriptedApi(lambda token: token not in revoked)
    good_statuses = []

    async with (
        manager(endpoint, clock, token=ON_DEMAND) as tm,
        bad_api.client(auth=BearerAuth(tm)) as bad,
        good_api.client(auth=tm.auth) as good,
    ):
        await bad.get("/models")  # token-1, token-2; its delay of 1 s starts
        for _ in range(5):
            revoked.add(await tm.get_token())
            good_statuses.append((await good.get("/models")).status_code)
            await bad.get("/models")
        healed_by = endpoint.count
        await clock.advance(1.1)
        await bad.get("/models")
        after_the_delay = endpoint.count

    assert good_statuses == [200] * 5
    assert healed_by == 7
    assert after_the_delay == 8


async def test_replays_that_are_refused_together_count_once():
    endpoint, clock, api = ScriptedEndpoint(), ManualClock(), ScriptedApi(lambda token: False)

    async with manager(endpoint, clock) as tm, api.client(auth=tm.auth) as http:
        await statuses_of(http.request, 200)
        first = endpoint.count
        await clock.advance(1.01)
        await statuses_of(http.request, 200)

    assert first == 2
    assert endpoint.count == 3


async def test_replays_that_are_slow_to_be_refused_do_not_let_each_new_request_cost_a_refresh():
    endpoint, seen, released = ScriptedEndpoint(), set(), anyio.Event()

    async def answer(request):
        if request.headers["x-number"] in seen:
            await released.wait()
        seen.add(request.headers["x-number"])
        return httpx.Response(401)

    transport = httpx.MockTransport(answer)
    async with (
        manager(endpoint, ManualClock()) as tm,
        httpx.AsyncClient(transport=transport, auth=tm.auth) as http,
        anyio.create_task_group() as tasks,
    ):
        for number in range(20):
            tasks.start_soon(lambda n=number: http.get(BASE_URL, headers={"x-number": str(n)}))
            await settle()
        released.set()

    assert endpoint.count <= 5


async def test_replays_of_threads_that_are_slow_to_be_refused_cost_no_more():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    sent, done, released = Counter(), Counter(), threading.Event()

    def answer(request):
        number = request.headers["x-number"]
        sent[number] += 1
        if sent[number] == 2:
            released.wait(10)
        return httpx.Response(401)

    def get(number):
        http.get("/models", headers={"x-number": number})
        done[number] += 1

    transport = httpx.MockTransport(answer)
    async with manager(endpoint, clock) as tm:
        with httpx.Client(transport=transport, auth=tm.auth, base_url=BASE_URL) as http:
            async with anyio.create_task_group() as tasks:
                for number in map(str, range(20)):
                    tasks.start_soon(to_thread.run_sync, get, number)
                    while sent[number] < 2 and not done[number]:
                        await anyio.sleep(0.001)
                released.set()

    assert endpoint.count <= 5


async def test_a_replay_that_is_cancelled_counts_as_neither_refused_nor_accepted():
    endpoint, api = (
        ScriptedEndpoint(),
        ScriptedApi(lambda token: token not in ("token-1", "token-2")),
    )
    request = httpx.Request("GET", BASE_URL)

    async with manager(endpoint, ManualClock()) as tm, api.client(auth=tm.auth) as http:
        flow = tm.auth.async_auth_flow(request)
        await flow.__anext__()
        await flow.asend(httpx.Response(401, request=request))
        await flow.aclose()
        response = await http.get("/models")

    assert api.tokens == ["token-2", "token-3"]
    assert response.status_code == 200


async def test_other_requests_that_are_accepted_do_not_end_the_delay():
    endpoint = ScriptedEndpoint()

    def answer(request):
        return httpx.Response(200 if request.url.path.endswith("accepted") else 401)

    transport = httpx.MockTransport(answer)
    async with (
        manager(endpoint, ManualClock()) as tm,
        httpx.AsyncClient(transport=transport, auth=tm.auth, base_url=BASE_URL) as http,
    ):
        for _ in range(50):
            await http.get("/refused")
            await http.get("/accepted")

    assert endpoint.count == 2


async def test_a_late_answer_to_an_older_token_does_not_end_the_delay():
    endpoint, api = ScriptedEndpoint(), ScriptedApi(lambda token: False)
    streamed = httpx.Request("POST", BASE_URL, content=SentOnce())
    early, late = httpx.Request("GET", BASE_URL), httpx.Request("GET", BASE_URL)

    async with manager(endpoint, ManualClock()) as tm, api.client(auth=tm.auth) as http:
        flow = tm.auth.async_auth_flow(streamed)
        await flow.__anext__()
        await end(flow, httpx.Response(401, request=streamed))
        flows = [tm.auth.async_auth_flow(request) for request in (early, late)]
        for flow in flows:
            await flow.__anext__()
        await end(flows[0], httpx.Response(200, request=early))
        await http.get("/models")
        await end(flows[1], httpx.Response(200, request=late))
        await http.get("/models")

    assert api.tokens == ["token-2", "token-3", "token-3"]


async def test_a_late_answer_to_a_token_that_was_cleared_ends_no_delay_of_a_newer_one():
    endpoint, api = ScriptedEndpoint(), ScriptedApi(lambda token: token == "token-3")
    streamed = httpx.Request("POST", BASE_URL, content=SentOnce())
    early, late = httpx.Request("GET", BASE_URL), httpx.Request("GET", BASE_URL)

    async with manager(endpoint, ManualClock()) as tm, api.client(auth=tm.auth) as http:
        flow = tm.auth.async_auth_flow(streamed)
        await flow.__anext__()
        await end(flow, httpx.Response(401, request=streamed))
        flows = [tm.auth.async_auth_flow(request) for request in (early, late)]
        for flow in flows:
            await flow.__anext__()
        await end(flows[0], httpx.Response(200, request=early))
        await http.get("/models")
        api.accepts = lambda token: False
        await http.get("/models")
        await end(flows[1], httpx.Response(200, request=late))
        await http.get("/models")

    assert api.tokens == ["token-2", "token-3", "token-3", "token-4", "token-4"]


async def end(flow, response):
    with pytest.raises(StopAsyncIteration):
        await flow.asend(response)


async def test_a_server_that_issues_the_same_token_again_gets_no_replay_and_few_requests(opened):
    endpoint, clock, api = ScriptedEndpoint(), ManualClock(), ScriptedApi(lambda token: False)
    endpoint.name = lambda number: "always-the-same"

    async with manager(endpoint, clock) as tm, opened(api, tm.auth) as send:
        statuses = [(await send("GET", "/models")).status_code for _ in range(10)]

    assert statuses == [401] * 10
    assert len(api.requests) == 10
    assert endpoint.count == 2


async def test_the_same_token_again_that_serves_another_request_ends_no_delay():
    endpoint, api = ScriptedEndpoint(), ScriptedApi(lambda token: False)
    endpoint.name = lambda number: "always-the-same"

    async with manager(endpoint, ManualClock()) as tm, api.client(auth=tm.auth) as http:
        await http.get("/refused")
        api.accepts = bool
        await http.get("/accepted")
        api.accepts = lambda token: False
        await http.get("/refused")

    assert endpoint.count == 2


async def test_a_replay_may_be_refused_when_no_token_is_held_any_more():
    endpoint, api = ScriptedEndpoint(), ScriptedApi()

    async with manager(endpoint, ManualClock()) as tm, api.client(auth=tm.auth) as http:

        def refuse_and_drop(token):
            tm.invalidate(token)
            return False

        api.accepts = refuse_and_drop
        response = await http.get("/models")

    assert response.status_code == 401
    assert api.tokens == ["token-1", "token-2"]


async def test_extractors_of_one_model_share_a_delay_and_another_model_is_not_slowed():
    pydantic = pytest.importorskip("pydantic")
    person = pydantic.create_model("Person", name=(str, ...), age=(int, ...))

    async with serve_gateway() as gateway, TokenManager(gateway.config()) as tm:
        gateway.refuse_models = {"gpt-4"}
        async with (
            tm.extractor("gpt-4") as one,
            tm.extractor("GPT_4") as two,
            tm.extractor("claude-4") as other,
        ):
            for _ in range(10):
                for refused in (one, two):
                    with pytest.raises(RevosError):
                        await refused.extract(person, "{text}", text="Ada, 36")
            token_requests = gateway.token_requests
            gateway.revoke()
            found = await other.extract(person, "{text}", text="Ada, 36")

    assert token_requests <= 5
    assert found.name == "Ada"


@pytest.mark.parametrize("call", ["ainvoke", "invoke"])
async def test_a_refused_llm_of_an_extractor_does_not_slow_the_auth_of_the_manager(call):
    pytest.importorskip("langchain_openai")

    async with (
        serve_gateway() as gateway,
        TokenManager(gateway.config()) as tm,
        tm.extractor("gpt-4") as refused,
        httpx.AsyncClient(auth=tm.auth) as http,
    ):
        calls = {
            "ainvoke": partial(refused.run_asyncio, refused.llm.ainvoke, "Hello"),
            "invoke": partial(to_thread.run_sync, refused.llm.invoke, "Hello"),
        }
        gateway.refuse_models = {"gpt-4"}
        for _ in range(3):
            with pytest.raises(Exception, match="401"):
                await calls[call]()
        gateway.revoke()
        response = await http.get(f"{gateway.base_url}/models")

    assert response.status_code == 200


# No newer token can be had.


async def test_with_the_token_endpoint_down_the_caller_sees_the_401(opened):
    endpoint, clock, api = ScriptedEndpoint(), ManualClock(), ScriptedApi(lambda token: False)

    async with manager(endpoint, clock, max_retries=1) as tm, opened(api, tm.auth) as send:
        await tm.get_token()
        endpoint.script = [503] * 100
        statuses = await statuses_of(send, 50)
        statuses += await statuses_of(send, 50)

    assert statuses == [401] * 100
    assert len(api.requests) == 100
    assert endpoint.count == 2


async def test_a_manager_that_closes_meanwhile_leaves_the_caller_the_401():
    endpoint, api, statuses = ScriptedEndpoint(), ScriptedApi(lambda token: False), []

    async with anyio.create_task_group() as tasks, manager(endpoint) as tm:

        async def send():
            async with api.client(auth=tm.auth) as http:
                statuses.append((await http.get("/models")).status_code)

        await tm.get_token()
        with endpoint.hold():
            tasks.start_soon(send)
            await settle()
            await tm.stop_background_service()

    assert statuses == [401]


async def test_without_any_token_the_request_is_not_sent(opened):
    endpoint, clock, api = ScriptedEndpoint(), ManualClock(), ScriptedApi()
    endpoint.script = [400]

    async with manager(endpoint, clock) as tm, opened(api, tm.auth) as send:
        with pytest.raises(RevosError):
            await send("GET", "/models")

    assert api.requests == []


# What is a refusal of the token.


@pytest.mark.parametrize(
    ("status", "challenge", "refreshes"),
    [
        (401, None, True),
        (401, "Bearer", True),
        (401, 'Bearer realm="gateway"', True),
        (401, 'Bearer error="invalid_token"', True),
        (401, "bearer error=invalid_token", True),
        (401, 'Basic realm="x"', True),
        (401, 'Bearer error="insufficient_scope"', False),
        (401, 'Bearer realm="a, b", error="invalid_request"', False),
        (401, 'Basic realm="x", Bearer error="insufficient_scope"', False),
        (403, None, False),
        (403, "Bearer", False),
        (403, 'Bearer error="insufficient_scope"', False),
        (403, 'Bearer error="invalid_token"', True),
        (400, 'Bearer error="invalid_token"', False),
        (407, 'Bearer error="invalid_token"', False),
        (500, 'Bearer error="invalid_token"', False),
    ],
)
async def test_only_a_refusal_of_the_token_causes_a_refresh(status, challenge, refreshes):
    endpoint, api = ScriptedEndpoint(), ScriptedApi(lambda token: token != "token-1")
    api.status, api.challenge = status, challenge

    async with manager(endpoint, token=ON_DEMAND) as tm, api.client(auth=tm.auth) as http:
        response = await http.get("/models")

    assert response.status_code == (200 if refreshes else status)
    assert endpoint.count == 1 + refreshes


# Where the token goes.


OTHER_ORIGINS = [
    "http://other.example/v1/models",
    "http://127.0.0.1:10/v1/models",
    "http://127.0.0.1/v1/models",
    "https://127.0.0.1:9/v1/models",
    "http://127.0.0.1.example:9/v1/models",
    "http://localhost:9/v1/models",
    "http://127.0.0.1:9@other.example/v1/models",
]


@pytest.mark.parametrize("url", OTHER_ORIGINS)
@LIBRARIES
async def test_another_origin_never_gets_the_token_and_costs_no_refresh(library, url):
    endpoint, api = ScriptedEndpoint(), ScriptedApi(lambda token: False)

    async with manager(endpoint, token=ON_DEMAND) as tm, api.client(library, auth=tm.auth) as http:
        response = await http.get(url)

    assert response.status_code == 401
    assert api.tokens == [None]
    assert endpoint.count == 0


async def test_there_is_one_warning_for_each_other_origin(opened, caplog):
    endpoint, api = ScriptedEndpoint(), ScriptedApi()

    async with manager(endpoint) as tm, opened(api, tm.auth) as send:
        for url in ("http://one.example/a", "https://two.example/a") * 3:
            await send("GET", url)

    warnings = [
        r for r in caplog.records if r.name == "revos.auth" and r.levelno >= logging.WARNING
    ]
    assert len(warnings) == 2
    assert "http://one.example:80 " in warnings[0].getMessage()
    assert "https://two.example:443 " in warnings[1].getMessage()


@pytest.mark.parametrize(
    "url", ["https://GW.example:443/other/path", "https://gw.example/", "https://gw.example/v1/x?y"]
)
@LIBRARIES
async def test_the_whole_origin_of_base_url_gets_the_token(library, url):
    endpoint, api = ScriptedEndpoint(), ScriptedApi()

    async with (
        manager(endpoint, base_url="https://gw.example/v1") as tm,
        api.client(library, auth=tm.auth) as http,
    ):
        await http.get(url)

    assert api.tokens == ["token-1"]


async def test_origins_replace_that_of_base_url(opened):
    endpoint, api = ScriptedEndpoint(), ScriptedApi(lambda token: True)

    async with (
        manager(endpoint) as tm,
        opened(
            api, BearerAuth(tm, origins=["https://one.example", "http://two.example:81"])
        ) as send,
    ):
        for url in ("https://one.example/a", "http://two.example:81/b", BASE_URL):
            await send("GET", url)

    assert api.tokens == ["token-1", "token-1", None]


@pytest.mark.parametrize(
    "origin", ["", "gw.example", "//gw.example", "ftp://gw.example", "https://", "https://gw:port"]
)
def test_an_origin_that_is_no_url_of_http_is_an_error(origin):
    tm = manager(ScriptedEndpoint())

    with pytest.raises(RevosConfigurationError, match="is not an absolute http"):
        BearerAuth(tm, origins=["https://gw.example", origin])


async def test_a_redirect_to_another_origin_does_not_carry_the_token(opened):
    endpoint, api = ScriptedEndpoint(), ScriptedApi()
    api.redirects = {"/v1/away": "http://other.example/landing"}

    async with (
        manager(endpoint) as tm,
        opened(api, tm.auth, follow_redirects=True) as send,
    ):
        response = await send("GET", "/away")

    assert response.status_code == 401
    assert api.tokens == ["token-1", None]
    assert endpoint.count == 1


async def test_a_redirect_within_the_origin_carries_the_token(opened):
    endpoint, api = ScriptedEndpoint(), ScriptedApi()
    api.redirects = {"/v1/old": "/v1/new"}

    async with (
        manager(endpoint) as tm,
        opened(api, tm.auth, follow_redirects=True) as send,
    ):
        response = await send("GET", "/old")

    assert response.status_code == 200
    assert api.tokens == ["token-1", "token-1"]


async def test_a_redirect_that_comes_back_without_the_token_costs_no_refresh(opened):
    endpoint, api = ScriptedEndpoint(), ScriptedApi()
    api.redirects = {
        "/v1/away": "http://other.example/back",
        "/back": "http://127.0.0.1:9/v1/models",
    }

    async with (
        manager(endpoint) as tm,
        opened(api, tm.auth, follow_redirects=True) as send,
    ):
        response = await send("GET", "/away")

    assert response.status_code == 401
    assert api.tokens == ["token-1", None, None]
    assert endpoint.count == 1


# Flows, and the life of the manager.


async def test_a_flow_closed_from_another_task_holds_nothing():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    request = httpx.Request("GET", BASE_URL)
    refusal = httpx.Response(401, request=request)

    async with manager(endpoint, clock) as tm:
        before_the_answer = tm.auth.async_auth_flow(request)
        before_the_replay = tm.auth.async_auth_flow(request)

        async def advance():
            await before_the_answer.__anext__()
            await before_the_replay.__anext__()
            await before_the_replay.asend(refusal)

        async def close():
            await before_the_answer.aclose()
            await before_the_replay.aclose()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(advance)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(close)
        token = await tm.get_token(force_refresh=True)

    assert token == "token-3"


def test_auth_may_be_handed_out_before_the_configuration_is_read():
    assert isinstance(TokenManager().auth, httpx.Auth)


async def test_auth_may_be_handed_out_before_its_manager_is_entered(opened):
    endpoint, api = ScriptedEndpoint(), ScriptedApi()
    tm = manager(endpoint)

    async with opened(api, tm.auth) as send:
        with pytest.raises(RevosClosedError):
            await send("GET", "/models")
        async with tm:
            response = await send("GET", "/models")
        with pytest.raises(RevosClosedError):
            await send("GET", "/models")

    assert response.status_code == 200
    assert api.tokens == ["token-1"]


async def test_auth_that_was_handed_out_before_httpx2_was_imported_is_the_same_consumer(
    monkeypatch,
):
    endpoint, api = ScriptedEndpoint(), ScriptedApi(lambda token: False)
    monkeypatch.delitem(sys.modules, "httpx2")

    async with manager(endpoint, ManualClock()) as tm:
        before = tm.auth
        again = tm.auth
        async with api.client(auth=before) as http:
            await http.get("/models")
        monkeypatch.undo()
        after = tm.auth
        async with api.client(httpx2, auth=after) as http:
            await http.get("/models")

        and_again = tm.auth

    assert [isinstance(auth, httpx2.Auth) for auth in (before, after)] == [False, True]
    assert [isinstance(auth, httpx.Auth) for auth in (before, after)] == [True, True]
    # With what it has warned of, it stays one object.
    assert (again, and_again) == (before, after)
    assert endpoint.count == 2


async def test_the_delay_doubles_where_a_token_that_came_meanwhile_is_refused_too():
    endpoint, clock, slow = ScriptedEndpoint(), ManualClock(), anyio.Event()

    async def refuse(request):
        if request.url.path.endswith("/slow") and request.headers["authorization"].endswith("-2"):
            await slow.wait()
        return httpx.Response(401, headers={"www-authenticate": "Bearer"})

    async with (
        manager(endpoint, clock) as tm,
        httpx.AsyncClient(
            transport=httpx.MockTransport(refuse), auth=tm.auth, base_url=tm.config.revos.base_url
        ) as http,
    ):
        await http.get("/models")  # With token-1 and token-2: a delay of a second.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(http.get, "/slow")
            await settle()
            await tm.get_token(force_refresh=True)
            slow.set()  # It is replayed with token-3: two seconds.
        counts = []
        for seconds in (1.5, 1):
            await clock.advance(seconds)
            await http.get("/models")
            counts.append(endpoint.count)

    assert counts == [3, 4]


async def test_auth_of_a_kind_of_ones_own_stays_of_that_kind():
    class OwnAuth(BearerAuth):
        pass

    async with manager(ScriptedEndpoint(), ManualClock()) as tm:
        assert type(OwnAuth(tm)) is OwnAuth
        assert isinstance(BearerAuth(tm), httpx2.Auth)


@LIBRARIES
async def test_a_blocking_client_in_the_thread_of_the_event_loop_is_an_error_and_no_deadlock(
    library,
):
    endpoint, api = ScriptedEndpoint(), ScriptedApi()

    async with manager(endpoint) as tm:
        with api.sync_client(library, auth=tm.auth) as http:
            with pytest.raises(RevosError, match="thread"):
                http.get("/models")
            await tm.get_token()
            response = http.get("/models")

    assert response.status_code == 200


async def test_two_managers_heal_apart():
    endpoint, other = ScriptedEndpoint(), ScriptedEndpoint()
    api = ScriptedApi(lambda token: token != "token-1")

    async with (
        manager(endpoint) as tm,
        TokenManager(config(), http_client=other.client()) as second,
        api.client(auth=tm.auth) as http,
    ):
        await second.get_token()
        response = await http.get("/models")

    assert response.status_code == 200
    assert (endpoint.count, other.count) == (2, 1)


@LIBRARIES
async def test_a_token_that_no_replay_of_a_thread_could_try_is_cleared_by_a_request_too(library):
    async with serve_gateway() as gateway, TokenManager(gateway.config()) as tm:
        url, statuses = f"{gateway.base_url}/echo", []

        def send(content):
            with library.Client(auth=tm.auth) as http:
                statuses.append(http.post(url, content=content).status_code)

        gateway.revoke(await tm.get_token())
        await to_thread.run_sync(send, iter([b"gone once it is sent"]))
        await to_thread.run_sync(send, b"served")
        gateway.revoke(await tm.get_token())
        await to_thread.run_sync(send, b"served after a refresh")

    assert statuses == [401, 200, 200]
    assert gateway.token_requests == 3


async def test_a_token_that_no_replay_could_try_is_cleared_by_a_request_that_it_serves():
    async def streamed():
        yield b"gone once it is sent"

    async with (
        serve_gateway() as gateway,
        TokenManager(gateway.config()) as tm,
        httpx.AsyncClient(auth=tm.auth) as http,
    ):
        url = f"{gateway.base_url}/echo"
        gateway.revoke(await tm.get_token())
        statuses = [(await http.post(url, content=streamed())).status_code]
        statuses.append((await http.get(url)).status_code)
        gateway.revoke(await tm.get_token())
        statuses.append((await http.get(url)).status_code)

    assert statuses == [401, 200, 200]
    assert gateway.token_requests == 3


async def test_of_the_tokens_that_were_sent_the_latest_are_known_and_no_more():
    """An answer may quote one of them: then it is masked."""
    transport = httpx.MockTransport(lambda _: httpx.Response(200))
    async with (
        manager(ScriptedEndpoint()) as tm,
        httpx.AsyncClient(auth=tm.auth, transport=transport) as http,
    ):
        sent = []
        for _ in range(100):
            sent.insert(0, await tm.refresh())
            await http.get(BASE_URL)
            await http.get(BASE_URL)

        assert list(tm.auth.sent()) == sent[: len(tm.auth.sent())]
        assert 10 < len(tm.auth.sent()) < 100
