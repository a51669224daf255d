"""A manager in a forked child, among threads, and beside another in another event loop."""

import contextlib
import itertools
import multiprocessing
import os
import ssl
import sys
import threading
import time
import traceback
from functools import partial

import anyio
import httpx
import openai
import pydantic
import pytest
import trustme
from anyio import to_thread
from children import forget_signals_of_parent, in_child
from support import ManualClock, ScriptedEndpoint, config, manager, settle

from revos import (
    RevosAuthenticationError,
    RevosClosedError,
    TokenManager,
    blocking,
    get_consecutive_failures,
    get_revos_token,
    get_token_info,
    invalidate_revos_token,
    list_remote_models,
    reset_token_manager,
    threads,
)
from revos.testing import serve_gateway

THREADS = 50
ON_DEMAND = {"enable_periodic_refresh": False}
IN_THE_CHILD = "this TokenManager was entered before a fork"

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


class Person(pydantic.BaseModel):
    name: str
    age: int


def as_coroutine(function):
    async def call(*args):
        return function(*args)

    return call


# Processes.

USES = {
    "get_token": lambda tm, ex: tm.get_token(),
    "force": lambda tm, ex: tm.get_token(force_refresh=True),
    "nowait": as_coroutine(lambda tm, ex: tm.get_token_nowait()),
    "refresh": lambda tm, ex: tm.refresh(),
    "subscribe": lambda tm, ex: tm.subscribe().__aenter__(),
    "invalidate": as_coroutine(lambda tm, ex: tm.invalidate()),
    "reset": as_coroutine(lambda tm, ex: tm.reset()),
    "list_models": lambda tm, ex: tm.list_models(),
    "extractor": lambda tm, ex: tm.extractor("gpt-4").__aenter__(),
    "extract": lambda tm, ex: ex.extract(Person, "{text}", text="Ada, 36"),
    "extractors": lambda tm, ex: tm.extractors().__aenter__(),
    "llm": as_coroutine(lambda tm, ex: send_by_llm(ex)),
    "auth": lambda tm, ex: send_by_auth(tm),
    "auth of a blocking client": as_coroutine(
        lambda tm, ex: httpx.Client(auth=tm.auth).get(tm.config.revos.base_url)
    ),
    "ambient": lambda tm, ex: get_revos_token(),
    "ambient info": as_coroutine(lambda tm, ex: invalidate_revos_token()),
    "ambient reset": as_coroutine(lambda tm, ex: reset_token_manager()),
    "ambient models": lambda tm, ex: list_remote_models(),
    "blocking": as_coroutine(lambda tm, ex: blocking.get_revos_token(manager=tm)),
}


async def send_by_auth(tm):
    async with httpx.AsyncClient(auth=tm.auth) as http:
        await http.get(tm.config.revos.base_url)


def send_by_llm(ex):
    try:
        ex.llm.invoke("Hello")
    except openai.APIConnectionError as error:
        raise error.__cause__ from None


@needs_fork
async def test_every_use_in_a_forked_child_says_so_and_the_parent_is_unharmed(run, revos_gateway):
    async with TokenManager(revos_gateway.config()) as tm, tm.extractor("gpt-4") as gpt4:
        before = await gpt4.extract(Person, "{text}", text="Ada, 36")
        connections = revos_gateway.connections
        said, harmed = {}, []
        for name, use in USES.items():
            # From a worker thread, since a child of Trio's thread could run no loop of its own.
            said[name] = await to_thread.run_sync(in_child, partial(run, use, tm, gpt4))
            await tm.refresh()
            after = await gpt4.extract(Person, "{text}", text="Ada, 36")
            if after != before or revos_gateway.connections != connections:
                harmed.append(name)

    assert {name for name, words in said.items() if IN_THE_CHILD not in words} == set()
    assert harmed == []


@needs_fork
async def test_what_a_forked_child_can_look_at_tells_that_there_is_no_token():
    async with manager(ScriptedEndpoint()) as tm, tm.subscribe() as stream:
        token = await stream.receive()

        def look():
            facts = tm.status.has_token, get_token_info()["has_token"], get_consecutive_failures()
            return *facts, tm.health().reason, repr(tm)

        seen = in_child(look)
        received = in_child(stream.receive_nowait), in_child(lambda: stream.latest)
        still = tm.get_token_nowait(), tm.status.has_token, tm.health().state

    assert seen.startswith(f"(False, False, 0, '{IN_THE_CHILD}")
    assert "'<TokenManager closed, token none>'" in seen
    assert token.fingerprint not in seen
    assert all(words.startswith(f"RevosClosedError: {IN_THE_CHILD}") for words in received)
    assert still == ("token-1", True, "healthy")


@needs_fork
async def test_a_child_that_leaves_the_block_closes_nothing_of_the_parents():
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async with serve_gateway(ssl=context) as gateway:
        with authority.cert_pem.tempfile() as ca_file:
            tm = TokenManager(gateway.config(ca_file=ca_file))
            async with tm:
                await tm.list_models()

                def leave():
                    with pytest.raises(StopIteration):
                        tm.__aexit__(None, None, None).send(None)

                # In the thread of the loop too: a child of a coroutine comes to the end of its
                # block.
                said = in_child(leave), await to_thread.run_sync(in_child, leave)
                with anyio.fail_after(5):
                    for _ in range(3):
                        await tm.refresh()
                        await tm.list_models()
                connections = gateway.connections

    assert said == ("None", "None")
    assert connections == 2  # One for tokens, one for models.


@needs_fork
async def test_a_process_of_multiprocessing_gets_the_clear_error_and_may_enter_its_own(
    run, revos_gateway
):
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    async def work(inherited):
        with pytest.raises(RevosClosedError, match=IN_THE_CHILD):
            await inherited.get_token()
        async with TokenManager(inherited.config) as own:
            answers.put((await own.get_token(), await get_revos_token()))
        with pytest.raises(RevosClosedError, match=IN_THE_CHILD):
            await get_revos_token()

    def child_of(tm):
        forget_signals_of_parent()
        run(work, tm)

    def in_process(tm):
        child = context.Process(target=child_of, args=(tm,), daemon=True)
        child.start()
        child.join(10)
        return child.exitcode

    async with TokenManager(revos_gateway.config()) as tm:
        token = await tm.get_token()
        code = await to_thread.run_sync(in_process, tm)
        assert code == 0
        theirs, ambient = answers.get()

    assert theirs == ambient != token
    assert revos_gateway.token_requests == 2


@needs_fork
async def test_a_manager_made_before_a_fork_and_entered_after_it_works(run, revos_gateway):
    tm = TokenManager(revos_gateway.config())

    async def work():
        async with tm:
            return len(await tm.get_token())

    said = await to_thread.run_sync(in_child, partial(run, work))

    assert said == str(len(revos_gateway.issue()))
    assert revos_gateway.token_requests == 1


@needs_fork
async def test_a_manager_that_was_closed_before_a_fork_is_passed_over_in_the_child():
    left, said = anyio.Event(), []

    async def outlive():
        await left.wait()
        said.append(in_child(get_token_info))

    async with anyio.create_task_group() as tasks:
        async with manager(ScriptedEndpoint()):
            tasks.start_soon(outlive)
        left.set()

    assert said[0].startswith(
        "RevosConfigurationError: get_token_info() found no open TokenManager"
    )


@needs_fork
async def test_a_fork_during_a_refresh_leaves_the_refresh_to_the_parent():
    endpoint = ScriptedEndpoint()

    async with manager(endpoint) as tm:
        with endpoint.hold():
            await endpoint.started.wait()
            said = in_child(tm.get_token_nowait)
            with pytest.raises(anyio.WouldBlock):
                tm.get_token_nowait()
        token = await tm.get_token()

    assert said.startswith(f"RevosClosedError: {IN_THE_CHILD}")
    assert (token, endpoint.count) == ("token-1", 1)


# Threads.


class Skewed(ManualClock):
    """Later by `ahead` in every thread but the one that made it."""

    def __init__(self, ahead):
        super().__init__()
        self.home, self.ahead = threading.get_ident(), ahead

    def monotonic(self):
        return super().monotonic() + self.ahead * (threading.get_ident() != self.home)

    def time(self):
        return super().time() + self.ahead * (threading.get_ident() != self.home)


async def test_what_fifty_threads_read_during_refreshes_and_invalidations_is_never_torn():
    # To the threads every odd token is over when it comes: one that had the end of an even one, or
    # the other way round, would show. The odd ones are of the primary, the even ones of the
    # fallback, so the facts of a status fit together only if they are of one token.
    endpoint, clock = ScriptedEndpoint(), Skewed(100)
    endpoint.name = lambda number: "odd" if number % 2 else "even"
    values, facts, words, errors, stop = set(), set(), set(), [], threading.Event()

    def read(tm):
        status = tm.status
        facts.add((status.has_token, status.time_until_expiry, status.is_using_fallback))
        words.update([tm.health().state, repr(tm).partition(",")[0]])
        with contextlib.suppress(anyio.WouldBlock):
            values.add(tm.get_token_nowait())

    settings = config(token=ON_DEMAND, fallback_auth_method="client_secret_basic")
    async with manager(endpoint, clock, config=settings) as tm:
        with many_threads(partial(read, tm), stop, errors):
            for drop in [tm.invalidate, tm.reset] * 15:
                endpoint.lifetime = 60.0
                await tm.refresh()
                endpoint.lifetime = 7200.0
                await tm.refresh(use_fallback=True)
                await anyio.sleep(0.001)
                drop()
                await settle()

    assert errors == []
    assert values == {"even"}
    assert facts == {(False, None, False), (True, 7100.0, True)}
    assert words == {"healthy", "degraded", "<TokenManager open"}


class Interleaved:
    """Calls a function of revos and does something else before its step number `at`, as another
    thread would: a step is an opcode.
    """

    def __init__(self, at, act):
        self.at, self.act, self.steps = at, act, 0

    def __call__(self, function):
        tracing = sys.gettrace()
        sys.settrace(self._trace)
        try:
            return function()
        finally:
            sys.settrace(tracing)

    def _trace(self, frame, event, _):
        frame.f_trace_opcodes = frame.f_globals["__name__"].startswith("revos.")
        self.steps += event == "opcode"
        if event == "opcode" and self.steps == self.at:
            self.act()
        return self._trace


def steps_of(function):
    # Python 3.12 tells the first tracer of a process of no opcode.
    for _ in range(2):
        counted = Interleaved(0, None)
        counted(function)
    assert counted.steps > 0
    return range(1, counted.steps + 1)


async def test_whatever_comes_between_two_steps_of_a_reader_it_sees_one_token():
    endpoint, clock = ScriptedEndpoint(), Skewed(0)
    values, facts = set(), set()
    settings = config(token=ON_DEMAND, fallback_auth_method="client_secret_basic")

    async with manager(endpoint, clock, config=settings) as tm:
        endpoint.lifetime = 60.0
        await tm.refresh()
        over = tm._state()
        endpoint.lifetime = 7200.0
        await tm.refresh(use_fallback=True)
        usable = tm._state()

        def hold(state):
            tm._refresher.state = state
            tm._on_held(state.held)

        def read_value():
            try:
                return tm.get_token_nowait()
            except anyio.WouldBlock:
                return None

        def read_facts():
            status = tm.status
            return status.has_token, status.time_until_expiry, status.is_using_fallback

        await clock.advance(100)
        for reads, seen in ((read_value, values), (read_facts, facts)):
            hold(usable)
            for step in steps_of(reads):
                for before, after in ((over, usable), (usable, over)):
                    hold(before)
                    seen.add(Interleaved(step, partial(hold, after))(reads))

    assert values == {"token-2", None}
    assert facts == {(False, None, False), (True, 7100.0, True)}


@contextlib.contextmanager
def many_threads(function, stop, errors):
    """Threads that call it again and again; they change places within the shortest function."""

    def work():
        try:
            while not stop.is_set():
                function()
                time.sleep(0.01)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    try:
        for thread in threads:
            thread.start()
        yield
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join(5)


async def test_threads_that_drop_the_token_while_others_ask_cost_no_caller_an_error():
    endpoint, tokens, errors, stop = ScriptedEndpoint(), [], [], threading.Event()

    async with manager(endpoint) as tm:
        drops = itertools.cycle([tm.invalidate, tm.reset, partial(tm.invalidate, "token-1")])

        def drop():
            next(drops)()

        async def ask():
            tokens.extend([await tm.get_token() for _ in range(20)])

        def drop_for_long():
            with many_threads(drop, stop, errors):
                time.sleep(0.3)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(to_thread.run_sync, drop_for_long)
                for _ in range(50):
                    tasks.start_soon(ask)
        last = await tm.get_token()

    assert errors == []
    assert len(tokens) == 1_000
    assert endpoint.most_in_flight == 1
    assert last == f"token-{endpoint.count}"


async def test_reading_from_many_threads_keeps_the_loop_from_nothing():
    endpoint, errors, stop = ScriptedEndpoint(), [], threading.Event()

    async with manager(endpoint) as tm:
        await tm.get_token()
        with many_threads(tm.get_token_nowait, stop, errors):
            with anyio.fail_after(5):
                tokens = [await tm.get_token(force_refresh=True) for _ in range(100)]

    assert errors == []
    assert tokens == [f"token-{number}" for number in range(2, 102)]


# No threads.


class NoThreads:
    """A system that has none left, until `given`."""

    def __init__(self, monkeypatch):
        self.given, self._run_sync = False, to_thread.run_sync
        monkeypatch.setattr(threads.to_thread, "run_sync", self)

    async def __call__(self, *args, **options):
        if not self.given:
            raise RuntimeError("can't start new thread")
        return await self._run_sync(*args, **options)


async def test_a_system_without_threads_fails_a_cycle_and_not_the_manager(monkeypatch):
    clock, endpoint = ManualClock(), ScriptedEndpoint()
    async with manager(endpoint, clock, token=ON_DEMAND) as tm:
        system = NoThreads(monkeypatch)
        with pytest.raises(RevosAuthenticationError, match="can't start new thread") as caught:
            await tm.get_token()
        told = "".join(traceback.format_exception(caught.value))
        assert "RuntimeError" not in told
        system.given = True
        clock.turn(caught.value.retry_after)

        assert await tm.get_token() == "token-1"


async def test_a_runtime_error_of_what_runs_in_a_thread_is_told_as_itself():
    def broken():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await threads.run_in_thread(broken)


# Two event loops.


@pytest.mark.parametrize(
    "backends", [("asyncio", "asyncio"), ("asyncio", "trio"), ("trio", "trio")], ids="-".join
)
def test_two_loops_in_two_threads_each_have_a_manager_of_their_own(backends):
    together, outcomes = threading.Barrier(2, timeout=10), []

    async def work():
        async with (
            serve_gateway() as gateway,
            TokenManager(gateway.config()) as tm,
            tm.extractor("gpt-4") as gpt4,
            httpx.AsyncClient(auth=tm.auth, base_url=gateway.base_url) as http,
        ):
            await tm.get_token()  # Or the first one to be revoked may not be there yet.
            await to_thread.run_sync(together.wait)
            for _ in range(10):
                gateway.revoke()
                response = await http.get("/models")
                person = await gpt4.extract(Person, "{text}", text="Ada, 36")
            accepted = gateway.accepts(tm.get_token_nowait())
            outcomes.append((response.status_code, person.age, gateway.token_requests, accepted))
            # Neither leaves while the other is at work.
            await to_thread.run_sync(together.wait)

    threads = [
        threading.Thread(target=anyio.run, args=(work,), kwargs={"backend": b}) for b in backends
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert outcomes == [(200, 36, 11, True)] * 2


async def test_a_thread_that_is_not_abandoned_has_ended_when_its_cancelled_caller_goes_on():
    begun, gone_on, was_left = threading.Event(), threading.Event(), []

    def work():
        begun.set()
        was_left.append(gone_on.wait(0.1))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(threads.run_in_thread, work, abandon=False))
            while not begun.is_set():
                await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
    gone_on.set()

    assert was_left == [False]
