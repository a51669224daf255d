"""Each operation, cancelled at each of its checkpoints in turn (P2, P9).

`everywhere` runs a trial once for each checkpoint of its operation, and on asyncio a second time
with `task.cancel()` in place of a cancel scope; stubbornly, that is called again at each checkpoint
of the unwinding. It sees to it that a cancellation is neither lost
nor turned into another exception, and that nothing is left behind. What else must hold afterwards
stands in the trials, and after them, where the operation was cancelled.
"""

from __future__ import annotations

import contextlib
import json
import ssl
from functools import partial
from unittest import mock

import anyio
import httpx
import httpx2
import pydantic
import pytest
import trustme
from anyio.lowlevel import checkpoint
from anyio.pytest_plugin import extract_backend_and_options
from checkpoints import PATIENCE
from leftovers import frozen_heap
from support import (
    BASE_URL,
    CLIENT_ID,
    CLIENT_SECRET,
    TOKEN_URL,
    ScriptedApi,
    ScriptedEndpoint,
    config,
    manager,
    settle,
)
from wires import Wire

from revos import (
    RevosClosedError,
    RevosConfigurationError,
    TokenManager,
    get_token_info,
)
from revos.clock import SystemClock
from revos.extraction.runtime import Runtime, _import_langchain
from revos.refresher import Refresher
from revos.testing import serve_gateway

# Without the loop, a caller is the first to ask: what its cancellation does shows only there.
ON_DEMAND = {"enable_periodic_refresh": False}
SECONDS_TO_LEAVE = 0.1
MODELS = BASE_URL + "/models"
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # Loading authorities would take most of the time.

BOTH_LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])


class Person(pydantic.BaseModel):
    name: str
    age: int


ADA = Person(name="Ada", age=36)


@pytest.fixture(autouse=True, scope="module")
def heap():
    _import_langchain()  # It takes longer than callers have patience, on a busy machine.
    with frozen_heap():
        yield


@pytest.fixture
def backend(anyio_backend):
    return extract_backend_and_options(anyio_backend)[0]


@contextlib.asynccontextmanager
async def others(*asks):
    """Callers in tasks of their own: each gets its answer, in time, whoever else is cancelled."""
    answers = []

    async def put(ask):
        await checkpoint()  # So that the other one is first.
        answers.append(await ask())

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for ask in asks:
                tasks.start_soon(put, ask)
            yield answers


def in_use(accepts=bool):
    return Wire(accepts, ADA.model_dump()).in_use()


@contextlib.contextmanager
def refusing(token):
    """A wire whose API takes every token but one."""
    with in_use(token.__ne__) as wire:
        # Slow enough for others to join a token request, however they are scheduled.
        wire.slowness = 20
        yield wire


async def extract(tm):
    async with tm.extractor("gpt-4") as gpt4:
        return await gpt4.extract(Person, "Extract the person: Ada, 36")


async def list_models(tm):
    return await tm.list_models()


async def ask_the_llm(tm):
    async with tm.extractor("gpt-4") as gpt4:
        return (await gpt4.run_asyncio(gpt4.llm.ainvoke, "Hello")).text


# Entering and leaving.


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setenv("REVOS_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("REVOS_CLIENT_SECRET", CLIENT_SECRET)
    monkeypatch.setenv("REVOS_TOKEN_URL", TOKEN_URL)
    monkeypatch.setenv("REVOS_BASE_URL", BASE_URL)


async def is_gone(tm, wire):
    """Whether a manager is closed, holds no connection, and is in nobody's way."""
    with pytest.raises(RevosClosedError):
        await tm.get_token()
    with pytest.raises(RevosConfigurationError, match="no open TokenManager"):
        get_token_info()
    async with TokenManager(config(token=ON_DEMAND)) as following:
        works = await following.get_token() == f"token-{wire.token_requests}"
    return works and not tm.is_background_service_running() and wire.connections == set()


def test_a_manager_that_is_cancelled_while_entered_or_left_is_gone(everywhere, environment):
    async def trial(attempt):
        with in_use() as wire:
            tm = TokenManager()

            async def live():
                async with tm:
                    await tm.get_token()

            await attempt(live)
            assert await is_gone(tm, wire)

    swept = everywhere(trial, stubbornly=True)

    entering, leaving = swept.count_in("__aenter__"), swept.count_in("TokenManager.__aexit__")
    assert entering + swept.count_in("get_token") + leaving == len(swept.places)
    assert swept.count_in("TokenEndpoint.opened", "run_in_thread") >= 2  # It makes the client.
    assert (
        swept.count_in("TokenManager.__aenter__", "run_in_thread") == entering
    )  # And load_config.
    assert entering == 2 * swept.count_in("TokenEndpoint.opened", "run_in_thread")
    assert swept.count_in("TokenManager.__aexit__", "TaskGroup.__aexit__") == leaving == 3
    assert swept.count_in("TokenManager.__aexit__", "BlockingPortal.__aexit__") == 1
    assert swept.count_in("TokenManager.__aexit__", "TokenEndpoint.opened") == 1
    assert swept.slowest < SECONDS_TO_LEAVE


def test_all_connections_are_closed_although_their_closing_is_cancelled(everywhere):
    settings = config(fallback_token_url="http://127.0.0.2:9/token", token=ON_DEMAND)

    async def trial(attempt):
        with in_use() as wire:

            async def live():
                async with TokenManager(settings) as tm:
                    await tm.refresh()
                    await tm.refresh(use_fallback=True)
                    assert len(wire.connections) == 2
                    attempt.count_from_here()

            attempt.count_later()
            await attempt(live)
            assert wire.connections == set()

    swept = everywhere(trial, stubbornly=True)

    assert swept.count_in("TokenManager.__aexit__") == len(swept.places)


def test_a_service_that_is_cancelled_while_started_or_stopped_is_gone(everywhere, environment):
    async def trial(attempt):
        with in_use() as wire:
            tm = TokenManager()

            async def live():
                try:
                    await tm.start_background_service()
                    await tm.get_token()
                finally:
                    await tm.stop_background_service()

            await attempt(live)
            assert await is_gone(tm, wire)

    swept = everywhere(trial)

    starting = swept.count_in("start_background_service", "__aenter__", "run_in_thread")
    stopping = swept.count_in("stop_background_service", "__aexit__")
    assert (starting >= 4, stopping) == (True, 3)
    assert starting + swept.count_in("get_token") + stopping == len(swept.places)
    assert swept.slowest < SECONDS_TO_LEAVE


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    path = tmp_path_factory.mktemp("tls") / "authority.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return str(path)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_block_is_cancelled_at_every_checkpoint_of_a_token_request(
    everywhere, authority, scheme
):
    settings = config(token_url=f"{scheme}://127.0.0.1:9/token", ca_file=authority)

    async def trial(attempt):
        run = attempt.watching(Refresher.run)
        with in_use() as wire, mock.patch.object(Refresher, "run", run):
            tm = TokenManager(settings)

            async def live():
                async with tm:
                    await tm.get_token()

            await attempt(live)
            assert await is_gone(tm, wire)

    swept = everywhere(trial)

    assert swept.count_in("Refresher.run") == len(swept.places)
    request = partial(swept.count_in, "TokenEndpoint.request_token")
    assert request("run_in_thread") >= 2  # It reads the secret.
    assert request("Wire.connect_tcp") == 1
    assert request("_Connection.start_tls") == (scheme == "https")
    assert request("_Connection.write") >= 2
    assert request("AsyncHTTP11Connection.handle_async_request", "_Connection.read") == 1
    assert request("_read", "_Connection.read") == 1
    assert request("Response.aclose") == 1
    assert swept.count_in("Refresher._wait") >= 1
    assert swept.slowest < SECONDS_TO_LEAVE


def test_the_block_is_cancelled_at_every_checkpoint_of_the_extractors_opening_and_closing(
    everywhere, backend
):
    async def trial(attempt):
        run = attempt.watching(Runtime.run)
        with in_use() as wire, mock.patch.object(Runtime, "run", run):
            tm = TokenManager(config(token=ON_DEMAND))

            async def live():
                async with tm, tm.extractor("gpt-4"):
                    pass

            await attempt(live)
            assert await is_gone(tm, wire)

    swept = everywhere(trial)

    threads = swept.count_in("Runtime._open", "run_in_thread")  # LangChain, portal, clients.
    assert threads == {"asyncio": 2 * 3, "trio": 3 * 2}[backend]
    assert swept.count_in("Runtime.run", "sleep_forever") == 1
    assert swept.count_in("_close_clients", "run_in_thread") >= 2
    assert swept.count_in("_close_clients", "BlockingPortal.call_async") == (backend == "trio")
    assert swept.count_in("_stop_portal", "run_in_thread") == 2 * (backend == "trio")
    assert swept.slowest < SECONDS_TO_LEAVE


def test_the_block_is_cancelled_at_every_checkpoint_of_an_extraction(everywhere):
    async def trial(attempt):
        send = attempt.watching(httpx2.AsyncClient.send)
        with refusing("token-1") as wire, mock.patch.object(httpx2.AsyncClient, "send", send):
            tm = TokenManager(config(token=ON_DEMAND))

            async def live():
                async with tm:
                    await extract(tm)

            await attempt(live)
            assert await is_gone(tm, wire)

    swept = everywhere(trial)

    assert swept.count_in("AsyncClient.send") == len(swept.places)
    assert swept.count_in("_obtain_anywhere", "wait") == 2
    assert swept.count_in("async_auth_flow", "aread", "_Connection.read") == 1
    assert swept.count_in("_Connection.read") == 4
    assert swept.slowest < SECONDS_TO_LEAVE


def test_leaving_is_cancelled_while_others_wait(everywhere):
    async def trial(attempt):
        endpoint, api, outcomes = ScriptedEndpoint(), ScriptedApi(), []

        async def wait_with(call):
            try:
                await call()
            except (RevosClosedError, anyio.EndOfStream) as error:
                outcomes.append(type(error))

        async def receive(tm):
            async with tm.subscribe() as stream:
                await stream.receive()

        async with api.client() as http, anyio.create_task_group() as tasks:

            async def live():
                async with manager(endpoint) as tm, tm.extractor("gpt-4"):
                    get = partial(http.get, "/models", auth=tm.auth)
                    bound = [partial(one, tm) for one in (receive, extract, list_models)]
                    for call in (tm.get_token, tm.refresh, get, *bound):
                        tasks.start_soon(wait_with, call)
                    await settle()
                    attempt.count_from_here()

            attempt.count_later()
            with endpoint.hold(), anyio.fail_after(PATIENCE):
                await attempt(live)
                await settle()
        assert outcomes.count(RevosClosedError) == 5
        assert outcomes.count(anyio.EndOfStream) == 1

    # Under Trio it is up to a thread whether its calls have come before the portal is closed.
    swept = everywhere(trial, exact=False)

    assert swept.count_in("TokenManager.__aexit__") == len(swept.places)
    assert swept.count_in("TaskGroup.__aexit__") >= 2
    assert swept.slowest < SECONDS_TO_LEAVE


# Callers.

FORCED = {
    "force": lambda tm: tm.get_token(force_refresh=True),
    "refresh": lambda tm: tm.refresh(),
    "supersede": lambda tm: tm.refresh(superseding="token-1"),
    "extractor": lambda tm: tm.refresh_extractor(),
}
WITHOUT_TOKEN = FORCED | {
    "get": lambda tm: tm.get_token(),
    "fallback": lambda tm: tm.get_token(use_fallback=True),
}
TO_ASK_AND_TO_WAIT = 2


def assert_asked_and_waited(swept):
    assert swept.count_in("Refresher.obtain", "checkpoint") == 1
    assert swept.count_in("Refresher.obtain", "Event.wait") == 1
    assert len(swept.places) == TO_ASK_AND_TO_WAIT
    assert swept.too_late == []


@pytest.mark.parametrize("ask", WITHOUT_TOKEN.values(), ids=WITHOUT_TOKEN)
def test_the_only_caller_costs_one_request(everywhere, ask):
    async def trial(attempt):
        endpoint = ScriptedEndpoint()
        settings = config(token=ON_DEMAND, fallback_auth_method="client_secret_basic")
        async with manager(endpoint, config=settings) as tm:
            await attempt(ask, tm)
            with anyio.fail_after(PATIENCE):
                assert await tm.get_token() == "token-1"
        assert endpoint.count == 1

    assert_asked_and_waited(everywhere(trial))


@pytest.mark.parametrize("ask", FORCED.values(), ids=FORCED)
def test_a_caller_who_wants_a_newer_token_leaves_it_to_the_others(everywhere, ask):
    async def trial(attempt):
        endpoint = ScriptedEndpoint()
        async with manager(endpoint, token=ON_DEMAND) as tm:
            await tm.get_token()
            async with others(partial(tm.refresh, superseding="token-1")) as answers:
                await attempt(ask, tm)
            assert [token.value for token in answers] == ["token-2"]
            assert await tm.get_token() == "token-2"
        assert endpoint.count == 2

    assert_asked_and_waited(everywhere(trial))


def test_a_caller_who_joins_a_request_in_flight_leaves_it_to_the_others(everywhere):
    async def trial(attempt):
        endpoint = ScriptedEndpoint()
        async with manager(endpoint, token=ON_DEMAND) as tm:
            with contextlib.ExitStack() as held:

                async def answer_later():
                    for _ in range(5):
                        await checkpoint()
                    held.close()

                held.enter_context(endpoint.hold())
                async with others(tm.get_token) as answers:
                    await endpoint.started.wait()
                    async with others(answer_later):
                        await attempt(tm.get_token)
            assert answers == ["token-1"]
            assert await tm.get_token() == "token-1"
        assert endpoint.count == 1

    assert_asked_and_waited(everywhere(trial))


def test_a_caller_who_need_not_wait(everywhere):
    async def trial(attempt):
        endpoint = ScriptedEndpoint()
        async with manager(endpoint, token=ON_DEMAND) as tm:
            await tm.get_token()
            await attempt(tm.get_token)
            assert await tm.get_token() == "token-1"
        assert endpoint.count == 1

    swept = everywhere(trial)

    assert swept.count_in("Refresher.obtain", "checkpoint") == len(swept.places) == 1
    assert swept.too_late == []


def test_a_cancelled_receive_takes_no_token(everywhere):
    async def trial(attempt):
        endpoint = ScriptedEndpoint()
        async with (
            manager(endpoint, token=ON_DEMAND) as tm,
            tm.subscribe() as stream,
            tm.subscribe() as other_stream,
        ):
            async with others(other_stream.receive, tm.get_token) as answers:
                await attempt(stream.receive)
            assert [getattr(answer, "value", answer) for answer in answers] == ["token-1"] * 2
            await tm.refresh()
            assert (await stream.receive()).value == "token-2"
            assert (await other_stream.receive()).value == "token-2"

    swept = everywhere(trial)

    assert swept.count_in("LatestStream.receive", "checkpoint") == 1
    assert swept.count_in("LatestStream.receive", "Broadcast._wait", "Event.wait") == 1
    assert len(swept.places) == 2
    assert swept.too_late == []


def test_a_subscriber_that_is_cancelled_anywhere_is_missed_by_nobody(everywhere):
    async def trial(attempt):
        endpoint = ScriptedEndpoint()
        async with manager(endpoint, token=ON_DEMAND) as tm:

            async def subscribe():
                async with tm.subscribe() as stream, stream:
                    await stream.receive()

            async with others(tm.get_token) as answers:
                await attempt(subscribe)
            async with tm.subscribe() as stream:
                assert (await stream.receive()).value == "token-1"
            assert answers == ["token-1"]

    swept = everywhere(trial)

    assert swept.count_in("LatestStream.receive") == 2
    assert swept.count_in("LatestStream.aclose", "checkpoint") == 1
    assert len(swept.places) == 3
    assert swept.too_late == []


# Requests.


class Body(httpx.AsyncByteStream, httpx2.AsyncByteStream):
    """The body of a request. That of httpx is an async generator, which a cancelled send leaves to
    the collector, and Trio warns of those.
    """

    def __init__(self, content):
        self._parts = [content]

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()


async def in_one_part(request):
    request.stream = Body(request.content)


def client_of(library, tm, **options):
    hooks = {"request": [in_one_part]}
    return library.AsyncClient(auth=tm.auth, verify=NO_TLS, event_hooks=hooks, **options)


def assert_replayed(swept):
    assert swept.count_in("async_auth_flow", "Refresher.obtain", "Event.wait") == 2
    assert swept.count_in("async_auth_flow", "aread", "_Connection.read") == 1
    assert swept.count_in("_send_single_request", "_Connection.read") == 2
    assert swept.count_in("AsyncClient.send", "_Connection.read") == 4
    assert swept.count_in("_send_single_request", "_Connection.write") >= 4


@BOTH_LIBRARIES
def test_a_request_in_its_replay_leaves_the_token_and_the_next_refresh_to_the_others(
    everywhere, library
):
    async def trial(attempt):
        with refusing("token-1") as wire:
            async with TokenManager(config(token=ON_DEMAND)) as tm:

                async def get():
                    async with client_of(library, tm) as http:
                        return (await http.get(MODELS)).status_code

                async with others(get) as answers:
                    await attempt(get)
                assert (answers, wire.token_requests) == ([200], 2)
                # Nobody's replay was refused: a second revocation costs a refresh at once.
                wire.accepts = "token-3".__eq__
                assert (await get(), wire.token_requests) == (200, 3)
            assert wire.connections == set()

    assert_replayed(everywhere(trial))


@BOTH_LIBRARIES
def test_a_request_in_its_replay_leaves_the_only_connection_to_the_others(everywhere, library):
    async def trial(attempt):
        limits = library.Limits(max_connections=1)
        with refusing("token-1") as wire:
            async with (
                TokenManager(config(token=ON_DEMAND)) as tm,
                client_of(library, tm, limits=limits) as http,
            ):
                get = partial(http.get, MODELS)
                async with others(get) as answers:
                    await attempt(get)
                assert [answer.status_code for answer in answers] == [200]
            assert wire.connections == set()

    # httpcore shields the end of a response from cancel scopes only: `task.cancel()` makes it keep
    # the connection for ever, with this auth or without.
    assert_replayed(everywhere(trial, natively=False))


def test_a_request_over_a_socket_leaves_no_socket_behind(everywhere):
    async def trial(attempt):
        async with serve_gateway() as gateway:
            gateway.refuse_if = lambda _: gateway.token_requests == 1
            settings = gateway.config(TOKEN_ENABLE_PERIODIC_REFRESH="false")
            async with TokenManager(settings) as tm:

                async def get():
                    async with client_of(httpx, tm) as http:
                        return (await http.get(f"{gateway.base_url}/models")).status_code

                async with others(get) as answers:
                    await attempt(get)
                assert answers == [200]

    swept = everywhere(trial, exact=False)

    assert swept.count_in("async_auth_flow", "Refresher.obtain") >= 2
    assert swept.count_in("connect_tcp") >= 1
    assert swept.count_in("_send_single_request", "read") >= 1


# Extractors.


def test_the_first_extractor_is_entered_by_the_others(everywhere):
    async def trial(attempt):
        with in_use() as wire:
            async with TokenManager(config(token=ON_DEMAND)) as tm:

                async def enter():
                    async with tm.extractor("gpt-4"):
                        pass

                async with others(partial(extract, tm)) as answers:
                    await attempt(enter)
                assert answers == [ADA]
                assert await extract(tm) == ADA
            assert wire.connections == set()

    swept = everywhere(trial)

    assert swept.count_in("LangChainExtractor.__aenter__", "Runtime.opened", "Event.wait") == 1
    assert swept.count_in("LangChainExtractor.__aenter__", "Runtime.llm_for", "run_in_thread") >= 2
    assert swept.count_in("LangChainExtractor.__aenter__") == len(swept.places)
    assert swept.too_late == []


def test_later_extractors_are_entered_by_the_others(everywhere):
    async def trial(attempt):
        with in_use() as wire:
            async with TokenManager(config(token=ON_DEMAND)) as tm, tm.extractor("gpt-4"):

                async def enter():
                    async with tm.extractors():
                        pass

                async with others(partial(extract, tm)) as answers:
                    await attempt(enter)
                assert answers == [ADA]
                async with tm.extractors() as extractors:
                    assert len(extractors) == 2
            assert wire.connections == set()

    swept = everywhere(trial)

    assert swept.count_in("open_extractors", "Runtime.opened", "Event.wait") == 2
    assert swept.count_in("open_extractors", "Runtime.llm_for", "run_in_thread") >= 2
    assert swept.count_in("open_extractors") == len(swept.places)
    assert swept.too_late == []


CALLS = pytest.mark.parametrize(
    ("call", "answer"),
    [(extract, ADA), (list_models, ["gpt-4"]), (ask_the_llm, json.dumps(ADA.model_dump()))],
    ids=["extract", "list_models", "run_asyncio"],
)


@CALLS
def test_a_call_of_the_model_leaves_the_others_theirs(everywhere, backend, call, answer):
    async def trial(attempt):
        with refusing("token-1") as wire:
            async with TokenManager(config(token=ON_DEMAND)) as tm, tm.extractor("gpt-4"):
                # The same call: the OpenAI client asks in a thread where it is, and how long that
                # takes must not decide which of them has which connection.
                async with others(partial(call, tm)) as answers:
                    await attempt(call, tm)
                assert answers == [answer]
                assert await call(tm) == answer
            assert (wire.token_requests, wire.connections) == (2, set())

    swept = everywhere(trial)

    waits_in = {
        ("asyncio", extract): ("Runtime.call", "complete", "BaseChatModel.ainvoke"),
        ("asyncio", list_models): ("Runtime.call", "model_ids", "AsyncClient.get"),
        ("asyncio", ask_the_llm): ("run_asyncio", "Runtime.call", "BaseChatModel.ainvoke"),
        ("trio", extract): ("Runtime.call", "BlockingPortal.call_async", "Event.wait"),
        ("trio", list_models): ("Runtime.call", "BlockingPortal.call_async", "Event.wait"),
        ("trio", ask_the_llm): ("run_asyncio", "BlockingPortal.call_async", "Event.wait"),
    }
    assert swept.count_in(*waits_in[backend, call]) >= 1
    assert swept.too_late == []


class ShortPauses(SystemClock):
    """One whose pauses are as many checkpoints long, after which their time has gone by."""

    CHECKPOINTS = 3

    def __init__(self):
        self.passed = 0.0

    def monotonic(self):
        return super().monotonic() + self.passed

    async def sleep(self, seconds):
        until = self.monotonic() + seconds
        for _ in range(self.CHECKPOINTS):
            await checkpoint()
        self.passed += max(0.0, until - self.monotonic())


@pytest.mark.parametrize("status", [429, 503])
def test_an_extraction_in_its_retry_pause_leaves_the_others_theirs(everywhere, status):
    async def trial(attempt):
        with in_use() as wire:
            async with (
                TokenManager(config(token=ON_DEMAND), _clock=ShortPauses()) as tm,
                tm.extractor("gpt-4"),
            ):
                # The OpenAI client asks a thread for the platform before its first request.
                await extract(tm)
                wire.refusals = [status, status]  # One for each, or both for the other.
                async with others(partial(extract, tm)) as answers:
                    await attempt(extract, tm)
                assert (answers, wire.refusals) == ([ADA], [])
                assert await extract(tm) == ADA
            assert (wire.token_requests, wire.connections) == (1, set())

    swept = everywhere(trial)

    pause = ("Asking._with_retries", "ShortPauses.sleep")
    assert swept.count_in(*pause) == swept.raised_in(*pause) == ShortPauses.CHECKPOINTS
    assert swept.too_late == []


@CALLS
def test_the_request_behind_such_a_call_is_cancelled_in_the_loop_that_it_runs_in(
    everywhere, backend, call, answer
):
    async def trial(attempt):
        send = attempt.watching(httpx2.AsyncClient.send)
        with refusing("token-1") as wire, mock.patch.object(httpx2.AsyncClient, "send", send):
            async with TokenManager(config(token=ON_DEMAND)) as tm, tm.extractor("gpt-4"):
                async with tm.subscribe() as stream, others(stream.receive) as received:
                    await attempt(call, tm)
                    assert await call(tm) == answer
                assert len(received) == 1
            assert (wire.token_requests, wire.connections) == (2, set())

    swept = everywhere(trial)

    crossing = {"asyncio": "Refresher.obtain", "trio": "BlockingPortal.call_async"}[backend]
    assert swept.count_in("async_auth_flow", crossing, "Event.wait") == 2
    assert swept.count_in("async_auth_flow", "aread", "_Connection.read") == 1
    assert swept.count_in("Wire.connect_tcp") == 1
    assert swept.count_in("AsyncClient.send") == len(swept.places)
