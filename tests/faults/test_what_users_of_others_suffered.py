"""What users of other libraries reported as bugs there, each as a test here.

The comment in each names the report: project#number on GitHub.
"""

import asyncio
import contextlib
import functools
import gc
import logging
import threading
import warnings

import anyio
import httpx
import httpx2
import pydantic
import pytest
import uvloop
from anyio import to_thread
from leftovers import leaving_nothing
from sockets import RawEndpoint, raw_server, then_for_ever
from support import (
    BASE_URL,
    ManualClock,
    ScriptedApi,
    ScriptedEndpoint,
    bearer_of,
    manager,
    manager_at,
    settle,
)

from revos import (
    RevosAPIError,
    RevosAuthenticationError,
    RevosClosedError,
    TokenManager,
)
from revos.extraction import runtime
from revos.testing import Answer, serve_gateway, serve_gateway_in_thread

ON_DEMAND = {"enable_periodic_refresh": False}
# Nothing waits so long where all is well.
PATIENCE = 10
NATIVE = pytest.mark.parametrize("native", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


class Person(pydantic.BaseModel):
    name: str
    age: int


@pytest.fixture
def complaints(caplog):
    """What event loops log of exceptions that reach nobody."""
    with caplog.at_level(logging.WARNING):
        yield caplog


# Auth flows.


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
async def test_a_request_that_is_cancelled_at_any_step_holds_nothing_from_the_next(library):
    # modelcontextprotocol/python-sdk#3382: the flow of a cancelled request is closed from another
    # task than the one that advanced it, and the lock that it held stayed held for ever.
    # encode/httpcore#1093: requests that are cancelled leak places of the pool.
    limits = library.Limits(max_connections=1)

    async with serve_gateway() as gateway:
        settings = gateway.config(request_timeout=5)
        async with (
            TokenManager(settings) as tm,
            library.AsyncClient(auth=tm.auth, limits=limits, verify=False, timeout=None) as http,
        ):
            for steps in range(0, 60, 2):
                gateway.revoke()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(http.get, f"{gateway.base_url}/models")
                    tasks.start_soon(tm.get_token)
                    for _ in range(steps):
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
                with anyio.fail_after(PATIENCE):
                    response = await http.get(f"{gateway.base_url}/models")

    assert response.status_code == 200


async def test_a_flow_that_nobody_closes_is_collected_and_holds_nothing(complaints):
    # NousResearch/hermes-agent#94070: who drives a flow by hand and drops it leaves it to the
    # collector, which finishes it in a task of its own.
    endpoint = ScriptedEndpoint()

    async with manager(endpoint) as tm:
        auth, request = tm.auth, httpx.Request("GET", BASE_URL)

        async def drop_half_way():
            await anext(auth.async_auth_flow(request))
            flow = auth.async_auth_flow(request)
            await anext(flow)
            await flow.asend(httpx.Response(401, request=request))

        with warnings.catch_warnings():
            # Trio warns of every async generator that is dropped.
            warnings.simplefilter("ignore", ResourceWarning)
            await drop_half_way()
            gc.collect()
        await settle()
        replays = dict(auth._consumer.replays)
        with anyio.fail_after(PATIENCE):
            async with contextlib.aclosing(auth.async_auth_flow(request)) as flow:
                sent = await anext(flow)

    assert bearer_of(sent) == "token-2"
    assert replays == {}
    assert complaints.records == []


async def test_a_request_that_waits_long_for_its_answer_keeps_no_other_waiting():
    # modelcontextprotocol/python-sdk#2660: one long poll held the lock of the auth for as long as
    # it lasted, and every other request with it.
    async with serve_gateway() as gateway, TokenManager(gateway.config()) as tm:
        gateway.chat_delay = 60
        body = {"model": "gpt-4", "messages": [{"role": "user", "content": "x"}]}
        async with httpx.AsyncClient(auth=tm.auth, verify=False, timeout=None) as http:
            post = functools.partial(http.post, json=body)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(post, f"{gateway.base_url}/chat/completions")
                while not gateway.in_flight_api_requests:
                    await anyio.sleep(0.001)
                gateway.revoke()
                with anyio.fail_after(PATIENCE):
                    response = await http.get(f"{gateway.base_url}/models")
                tasks.cancel_scope.cancel()

    assert response.status_code == 200
    assert gateway.token_requests == 2


async def test_many_requests_that_are_cancelled_under_contention_use_up_no_pool(monkeypatch):
    # encode/httpcore#1093, pydantic/httpx2#983: an extractor's pool is small against a burst, and
    # callers give up.
    monkeypatch.setattr(runtime, "MAX_CONNECTIONS", 2)

    async with (
        serve_gateway() as gateway,
        TokenManager(gateway.config()) as tm,
        tm.extractor("gpt-4") as gpt4,
    ):
        gateway.chat_delay = 60
        for _ in range(5):
            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as tasks:
                    for _ in range(20):
                        tasks.start_soon(extraction(gpt4))
                    while gateway.in_flight_api_requests < 2:
                        await anyio.sleep(0.001)
                    tasks.cancel_scope.cancel()
                while gateway.in_flight_api_requests:
                    await anyio.sleep(0.001)
        gateway.chat_delay = 0
        with anyio.fail_after(PATIENCE):
            person = await extraction(gpt4)()

    assert person.name == "Ada"


def extraction(extractor):
    return functools.partial(extractor.extract, Person, "{text}", text="Ada, 36")


# Those who wait.


async def test_a_waiter_cancelled_while_it_acquires_keeps_nothing_from_the_others():
    # bytedance/deer-flow#4240: a waiter that was cancelled in a thread got the lock later, and kept
    # it.
    endpoint, tokens = ScriptedEndpoint(), []

    async with manager(endpoint, token=ON_DEMAND) as tm:

        async def ask():
            tokens.append(await tm.get_token())

        def ask_in_thread():
            with httpx.Client(auth=tm.auth, transport=OK) as http:
                http.get(BASE_URL)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                with endpoint.hold():
                    with anyio.CancelScope() as scope:
                        async with anyio.create_task_group() as impatient:
                            for _ in range(5):
                                impatient.start_soon(tm.get_token)
                                impatient.start_soon(
                                    functools.partial(to_thread.run_sync, abandon_on_cancel=True),
                                    ask_in_thread,
                                )
                            await endpoint.started.wait()
                            tasks.start_soon(ask)
                            for _ in range(10):
                                await anyio.lowlevel.checkpoint()
                            scope.cancel()
                    await settle()
        with anyio.fail_after(PATIENCE):
            newer = await tm.refresh()

    assert (tokens, newer.value) == (["token-1"], "token-2")


OK = httpx.MockTransport(lambda request: httpx.Response(200))


@NATIVE
def test_a_cancelled_caller_cancels_none_that_come_later(native):
    # talkiq/gcloud-aio#500: all callers awaited one future; one that was cancelled with it made
    # every later call raise the same CancelledError.
    async def main():
        endpoint = ScriptedEndpoint()
        async with manager(endpoint, token=ON_DEMAND) as tm:
            with endpoint.hold():
                first = asyncio.create_task(tm.get_token())
                await endpoint.started.wait()
                first.cancel()
                await asyncio.wait([first])
                second = asyncio.create_task(tm.get_token())
                await asyncio.sleep(0)
            return await second, await tm.get_token(), endpoint.count

    assert native(main()) == ("token-1", "token-1", 1)


async def test_a_burst_at_expiry_is_one_request_even_where_it_fails():
    # microsoft/durabletask-python#192: each caller that found the token over sent a request of its
    # own.
    endpoint, clock, outcomes = ScriptedEndpoint(), ManualClock(), []

    async with manager(endpoint, clock, token=ON_DEMAND) as tm:
        await tm.get_token()
        await clock.advance(4000)
        endpoint.script = [400]

        async def ask():
            with pytest.raises(RevosAuthenticationError) as caught:
                await tm.get_token()
            outcomes.append(caught.value)

        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(ask)

    assert endpoint.count == 2
    assert len({id(error) for error in outcomes}) == 100


async def test_a_peer_that_dribbles_a_byte_in_every_read_window_meets_one_deadline():
    # ThalesGroup/fred#2309: timeouts for each phase are no deadline. It is the request's own, so a
    # waiter that comes late does not start it again, nor does one that leaves end it.
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
    clock, ended = ManualClock(), []
    endpoint = RawEndpoint([then_for_ever(head, b" ", 0.005)])

    async with raw_server(endpoint) as port, manager_at(port, clock, max_retries=1) as tm:
        began_at = clock.monotonic()

        async def ask():
            with pytest.raises(RevosAuthenticationError, match="no complete answer"):
                await tm.get_token()
            ended.append(clock.monotonic() - began_at)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await endpoint.asked.wait()
                clock.turn(15)
                with anyio.move_on_after(0.05):
                    await tm.get_token()
                tasks.start_soon(ask)
                await anyio.sleep(0.05)
                too_early = list(ended)
                clock.turn(15.1)

    assert (too_early, ended) == ([], pytest.approx([30.1, 30.1]))
    assert endpoint.count == 1


# Event loops, one after the other.


def test_a_second_run_in_one_process_works_and_so_do_runs_in_threads(run, complaints):
    # Unstructured-IO/unstructured-python-client#339: a client kept a lock, or a pool, of the first
    # loop. conductor-oss/python-sdk#507: "Event loop is closed" at the second `asyncio.run`.
    outcomes = []

    async def main():
        async with TokenManager(gateway.config()) as tm, tm.extractor("gpt-4") as gpt4:
            person = await extraction(gpt4)()
            async with httpx.AsyncClient(auth=tm.auth, verify=False) as http:
                response = await http.get(f"{gateway.base_url}/models")
            outcomes.append((person.name, response.status_code))

    with leaving_nothing(), serve_gateway_in_thread() as gateway:
        run(main)
        run(main)
        threads = [threading.Thread(target=run, args=(main,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

    assert outcomes == [("Ada", 200)] * 4
    assert complaints.records == []


def test_a_manager_that_is_kept_across_runs_says_so(run):
    # Unstructured-IO/unstructured-python-client#339, from the other side: a global client.
    tm = manager(ScriptedEndpoint())
    kept = tm.extractor("gpt-4"), tm.auth

    async def first():
        async with tm:
            return await tm.get_token()

    async def use(call):
        with pytest.raises(RevosClosedError, match=r"closed|entered before"):
            await call()

    async def second():
        await use(tm.get_token)
        await use(tm.refresh)
        await use(tm.__aenter__)
        await use(kept[0].__aenter__)
        async with ScriptedApi().client(auth=kept[1]) as http:
            await use(functools.partial(http.get, "/models"))

    assert run(first) == "token-1"
    run(second)


def test_an_llm_that_outlives_its_loop_is_collected_in_silence(run, complaints):
    # openai/openai-python#1254: a client that is collected starts a task that closes it, in
    # whatever loop runs then: "Task exception was never retrieved: Event loop is closed".
    kept = []

    async def first():
        async with TokenManager(gateway.config()) as tm, tm.extractor("gpt-4") as gpt4:
            await extraction(gpt4)()
            kept.append(gpt4.llm)

    async def second():
        kept.clear()
        gc.collect()
        await settle()

    with leaving_nothing(), serve_gateway_in_thread() as gateway:
        run(first)
        run(second)

    assert complaints.records == []


# Blocks that are left in another task.

ELSEWHERE = "left in another task than the one that entered it"


@NATIVE
@pytest.mark.parametrize("halves", ["fixture", "service"])
def test_a_fixture_whose_halves_run_in_tasks_of_their_own_is_told_so(native, halves, complaints):
    # langchain-ai/langchain-mcp-adapters#99, frankie567/httpx-ws#78: "Attempted to exit cancel
    # scope in a different task than it was entered in", of fixtures, dependency injection and exit
    # stacks.
    tm = manager(ScriptedEndpoint())

    @contextlib.asynccontextmanager
    async def fixture():
        async with tm:
            yield

    block = fixture()
    enter, leave = {
        "fixture": (block.__aenter__, functools.partial(block.__aexit__, None, None, None)),
        "service": (tm.start_background_service, tm.stop_background_service),
    }[halves]

    async def main():
        await asyncio.create_task(coroutine(enter))
        token = await asyncio.create_task(tm.get_token())
        with pytest.raises(RevosClosedError, match=ELSEWHERE):
            await asyncio.wait_for(asyncio.create_task(coroutine(leave)), PATIENCE)
        with pytest.raises(RevosClosedError):
            await tm.get_token()
        return token

    assert native(main()) == "token-1"
    assert complaints.records == []


@NATIVE
def test_a_manager_that_is_left_in_another_task_ends_its_own_tasks_in_mid_request(native):
    endpoint = ScriptedEndpoint()
    tm = manager(endpoint)

    async def main():
        await asyncio.create_task(coroutine(tm.__aenter__))
        with endpoint.hold():
            waiting = asyncio.create_task(tm.refresh())
            await settle()
            with pytest.raises(RevosClosedError, match=ELSEWHERE):
                await tm.__aexit__(None, None, None)
            with pytest.raises(RevosClosedError):
                await waiting
            await settle()
            return asyncio.all_tasks() - {asyncio.current_task()}

    assert native(main()) == set()


async def coroutine(function):
    return await function()


@NATIVE
def test_a_fixture_left_to_the_collector_is_told_so_in_the_log(native, complaints):
    # python-trio/trio#265: an async generator that is dropped is finished elsewhere.
    async def fixture():
        async with manager(ScriptedEndpoint()) as tm:
            yield tm

    async def use():
        generator = fixture()
        return await (await anext(generator)).get_token()

    async def main():
        token = await use()
        gc.collect()
        await asyncio.sleep(0.01)
        gc.collect()
        return token

    assert native(main()) == "token-1"
    assert ELSEWHERE in "".join(str(record.exc_info) for record in complaints.records)


async def test_extractors_and_subscriptions_may_be_left_in_another_task():
    # langchain-ai/langchain-mcp-adapters#99: of ours only the manager's block belongs to a task.
    async with serve_gateway() as gateway, TokenManager(gateway.config()) as tm:
        blocks = tm.subscribe(), tm.extractor("gpt-4"), tm.extractors()

        async def enter():
            for block in blocks:
                await block.__aenter__()

        async def leave():
            for block in blocks:
                await block.__aexit__(None, None, None)

        for half in (enter, leave):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(half)
        with pytest.raises(RevosClosedError):
            await extraction(blocks[1])()
        async with tm.extractor("gpt-4") as another:
            person = await extraction(another)()

    assert person.age == 36


# Retries.


@pytest.mark.parametrize("failure", [429, 503])
@pytest.mark.parametrize("attempts", [1, 3])
async def test_retries_of_an_extraction_are_those_of_one_layer(failure, attempts):
    # danny-avila/LibreChat#12666: a 503 was asked for again by two layers, and took two minutes to
    # tell.
    async with serve_gateway() as gateway:
        refusal = Answer(status=failure, headers={"retry-after": "0"})
        gateway.chat_script.extend([refusal] * 50)
        async with (
            TokenManager(gateway.config(max_retries=attempts)) as tm,
            tm.extractor("gpt-4") as gpt4,
        ):
            with pytest.raises(RevosAPIError):
                await extraction(gpt4)()
            with contextlib.suppress(Exception):
                await gpt4.run_asyncio(gpt4.llm.ainvoke, "Hello")

    # Of the model that is for the user's own chains, none but the user has retries.
    assert len(gateway.chat_log) == attempts + 1
    assert gateway.token_requests == 1


async def test_a_gateway_that_is_down_is_not_asked_by_every_layer():
    connections = []

    async def hang_up(stream):
        connections.append(stream)
        await stream.aclose()

    async with serve_gateway() as gateway, raw_server(hang_up) as port:
        settings = gateway.config(REVOS_BASE_URL=f"http://127.0.0.1:{port}/v1", max_retries=1)
        async with TokenManager(settings) as tm, tm.extractor("gpt-4") as gpt4:
            with pytest.raises(RevosAPIError) as caught:
                await extraction(gpt4)()

    assert caught.value.temporary
    assert len(connections) == 1
