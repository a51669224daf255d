"""Where extractions run: what opens, is shared, and ends with the manager or with an extractor."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
import time
import traceback
from functools import partial

import anyio
import httpx2
import pydantic
import pytest
from anyio import to_thread
from extracting import Said, ScriptedModel
from sockets import Hostile, raw_server
from support import ManualClock

from revos import (
    Config,
    ModelConfig,
    RevosAPIError,
    RevosClosedError,
    RevosConfigurationError,
    RevosInputError,
    RevosTokenError,
    TokenManager,
    get_langchain_extractor,
)
from revos.extraction import runtime
from revos.testing import Answer
from revos.token import fingerprint_of

PROMPT = "Extract the person: {text}"


class Person(pydantic.BaseModel):
    name: str
    age: int


ADA = Person(name="Ada", age=36)


async def extract(extractor):
    return await extractor.extract(Person, PROMPT, text="Ada, 36")


# Opening.


async def test_each_opener_gets_an_error_of_its_own_where_nothing_can_be_opened(revos_gateway):
    config = revos_gateway.config(
        base_url="https://gateway.example/v1", ca_file="/nowhere/certificates.pem"
    )
    errors = []

    async with TokenManager(config) as tm:
        for _ in range(2):
            with pytest.raises(RevosConfigurationError, match="REVOS_CA_FILE") as caught:
                await tm.extractor("gpt-4").__aenter__()
            errors.append(caught.value)

    assert errors[0] is not errors[1]


async def test_openers_that_come_together_get_the_same_chat_model(tm):
    models = []

    async def open_one():
        async with tm.extractor("gpt-4") as extractor:
            models.append(extractor.llm)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(open_one)

    assert len(models) == 5
    assert len(set(map(id, models))) == 1


# To which manager an extractor belongs.


async def test_first_users_that_come_together_share_the_room_of_the_extractor(tm, monkeypatch):
    model = ScriptedModel(monkeypatch)
    extractor = tm.extractor("gpt-4", max_concurrency=1)  # It is entered by nobody.

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(extractor.extract, Said, "Say it")

    assert (len(model.asked), model.most_in_flight) == (3, 1)


async def test_an_extractor_of_a_manager_is_not_that_of_the_innermost_one(tm, revos_gateway):
    extractor = tm.extractor("gpt-4")

    async with TokenManager(revos_gateway.config()) as inner:
        await inner.get_token()
        await extract(extractor)

    sent = revos_gateway.chat_log[-1].token_fingerprint
    assert sent == fingerprint_of(await tm.get_token())


async def test_an_extractor_stays_with_the_manager_of_its_first_use(revos_gateway):
    extractor = get_langchain_extractor("gpt-4")

    async with TokenManager(revos_gateway.config()):
        await extract(extractor)

    async with TokenManager(revos_gateway.config()):
        with pytest.raises(RevosClosedError):
            await extract(extractor)


@pytest.mark.parametrize("is_bound", [True, False])
async def test_an_extractor_in_another_event_loop_is_a_clear_error(tm, gpt4, run, is_bound):
    extractor = gpt4 if is_bound else tm.extractor("gpt-4")

    with pytest.raises(RevosTokenError, match="another event loop"):
        await to_thread.run_sync(run, partial(extract, extractor))


async def test_extractors_of_a_manager_that_was_left_are_not_opened(revos_gateway):
    async with TokenManager(revos_gateway.config()) as tm:
        pass

    with pytest.raises(RevosClosedError):
        async with tm.extractors():
            pytest.fail("entered")


async def test_an_extractor_with_settings_of_its_own_shares_the_delay_of_its_model(
    tm, gpt4, revos_gateway
):
    settings = Config(
        revos=tm.config.revos, models={"GPT.4": ModelConfig(model="gpt-4", temperature=0.5)}
    )
    revos_gateway.refuse_models = {"gpt-4"}

    async with get_langchain_extractor("GPT.4", settings, manager=tm) as other:
        for extractor in (gpt4, other):
            with pytest.raises(RevosAPIError):
                await extract(extractor)

    assert revos_gateway.token_requests == 2


@pytest.mark.parametrize(
    "setting",
    [{"max_concurrency": 0}, {"max_concurrency": True}, {"max_concurrency": 1.5}, {"repairs": -1}],
    ids=str,
)
async def test_what_an_extractor_is_made_with_must_be_a_whole_number(tm, setting):
    ((name, value),) = setting.items()

    with pytest.raises(
        RevosInputError, match=f"^{name} must be a whole number of at least .*: {value}"
    ):
        tm.extractor("gpt-4", **setting)


# Leaving.


async def test_extractors_are_closed_after_their_block_however_it_ends(tm):
    kept = []

    async def fail_inside():
        async with tm.extractors("gpt-4", "claude-4") as extractors:
            kept.extend(extractors.values())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_inside()

    for extractor in kept:
        with pytest.raises(RevosClosedError):
            await extract(extractor)


@pytest.mark.parametrize("call", ["extract", "run_asyncio", "list_models"])
async def test_what_hangs_in_another_task_ends_when_the_manager_is_left(revos_gateway, call):
    server, errors = Hostile(), []

    async with raw_server(server) as port, anyio.create_task_group() as tasks:
        config = revos_gateway.config(base_url=f"http://127.0.0.1:{port}/v1", max_retries=1)
        async with TokenManager(config) as tm:
            extractor = await tm.extractor("gpt-4").__aenter__()
            calls = {
                "extract": partial(extract, extractor),
                "run_asyncio": partial(extractor.run_asyncio, extractor.llm.ainvoke, "Hello"),
                "list_models": tm.list_models,
            }

            async def use():
                try:
                    await calls[call]()
                except Exception as error:  # noqa: BLE001 - it is looked at afterwards
                    errors.append(type(error))

            tasks.start_soon(use)
            await server.asked.wait()
        with anyio.fail_after(2):
            while not errors:
                await anyio.sleep(0.001)

    assert errors == [RevosClosedError]


async def test_a_call_that_fails_on_its_way_out_when_the_manager_is_left_is_ended_too(
    revos_gateway,
):
    errors, started = [], threading.Event()

    async def fail_when_cancelled():
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError from None

    async def use(extractor):
        try:
            await extractor.run_asyncio(fail_when_cancelled)
        except Exception as error:  # noqa: BLE001 - it is looked at afterwards
            errors.append(error)

    async with anyio.create_task_group() as tasks, TokenManager(revos_gateway.config()) as tm:
        extractor = await tm.extractor("gpt-4").__aenter__()
        tasks.start_soon(use, extractor)
        while not started.is_set():
            await anyio.sleep(0.001)

    assert [type(error) for error in errors] == [RevosClosedError]
    assert "ConnectionError" not in "".join(traceback.format_exception(errors[0]))


async def test_extractions_leave_no_cancel_scope_behind(gpt4):
    kind = type(anyio.CancelScope())
    await extract(gpt4)
    gc.collect()
    before = sum(type(one) is kind for one in gc.get_objects())

    for _ in range(20):
        await extract(gpt4)
    gc.collect()

    assert sum(type(one) is kind for one in gc.get_objects()) < before + 10


async def hold_a_thread_of_the_loop(seconds):
    asyncio.get_running_loop().run_in_executor(None, time.sleep, seconds)


def threads_of_revos():
    return [one.name for one in threading.enumerate() if one.name.startswith("revos")]


async def test_a_loop_that_takes_its_time_to_end_is_gone_with_the_manager_and_blocks_nobody(
    revos_gateway,
):
    ticks = []

    async def tick():
        while True:
            ticks.append(time.monotonic())
            await anyio.sleep(0.005)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        async with TokenManager(revos_gateway.config()) as tm, tm.extractor("gpt-4") as extractor:
            await extractor.run_asyncio(hold_a_thread_of_the_loop, 0.4)
            ticks[:] = [time.monotonic()]
        left = threads_of_revos()
        ticks.append(time.monotonic())
        tasks.cancel_scope.cancel()

    longest = max(after - before for before, after in itertools.pairwise(ticks))
    assert left == []
    assert longest < 0.3


async def test_a_loop_that_does_not_end_keeps_the_block_for_a_second_at_most(revos_gateway):
    async with TokenManager(revos_gateway.config()) as tm, tm.extractor("gpt-4") as extractor:
        await extractor.run_asyncio(hold_a_thread_of_the_loop, 2.0)
        started = time.monotonic()
    seconds = time.monotonic() - started
    while threads_of_revos():  # Its end is awaited for the sake of the tests that follow.
        await anyio.sleep(0.01)

    assert seconds < 1.8


async def test_a_client_that_never_closes_does_not_keep_the_block(revos_gateway, monkeypatch):
    async def hang(client):
        await anyio.sleep(5)

    async with TokenManager(revos_gateway.config()) as tm, tm.extractor("gpt-4"):
        monkeypatch.setattr(httpx2.AsyncClient, "aclose", hang)
        started = time.monotonic()

    assert time.monotonic() - started < 3


async def test_leaving_while_the_loop_behind_the_extractors_opens_leaves_no_thread(revos_gateway):
    opened = anyio.Event()

    async def open_one(tm):
        with contextlib.suppress(RevosClosedError):
            await tm.extractor("gpt-4").__aenter__()
        opened.set()

    for _ in range(3):
        async with anyio.create_task_group() as tasks, TokenManager(revos_gateway.config()) as tm:
            tasks.start_soon(open_one, tm)
            while not (threads_of_revos() or opened.is_set()):
                await anyio.sleep(0)

        assert threads_of_revos() == []


async def test_a_loop_behind_the_extractors_that_opens_late_is_closed_though_the_manager_is_left(
    anyio_backend_name, monkeypatch, revos_gateway
):
    steps, opening, start = [], threading.Event(), runtime.start_blocking_portal

    @contextlib.contextmanager
    def late(*args, **options):
        opening.set()
        time.sleep(0.1)
        with start(*args, **options) as portal:
            steps.append("opened")
            yield portal
        steps.append("closed")

    async def open_one(tm):
        with contextlib.suppress(RevosClosedError):
            await tm.extractor("gpt-4").__aenter__()
        opening.set()

    monkeypatch.setattr(runtime, "start_blocking_portal", late)

    async with anyio.create_task_group() as tasks, TokenManager(revos_gateway.config()) as tm:
        tasks.start_soon(open_one, tm)
        while not opening.is_set():
            await anyio.sleep(0.001)

    assert steps == ["opened", "closed"] * (anyio_backend_name == "trio")


async def test_the_loop_behind_the_extractors_is_not_awaited_in_the_thread_of_the_manager(
    anyio_backend_name, monkeypatch, revos_gateway
):
    waiting, start = [], runtime.start_blocking_portal

    @contextlib.contextmanager
    def noted(*args, **options):
        waiting.append(threading.get_ident())
        with start(*args, **options) as portal:
            yield portal

    monkeypatch.setattr(runtime, "start_blocking_portal", noted)

    async with TokenManager(revos_gateway.config()) as tm, tm.extractor("gpt-4"):
        assert threading.get_ident() not in waiting
    assert len(waiting) == (anyio_backend_name == "trio")


# Retries.


@pytest.mark.parametrize(
    ("headers", "seconds"), [({"retry-after": "7"}, 7.0), ({}, 0.75)], ids=["told", "not told"]
)
async def test_a_retry_waits_as_long_as_the_gateway_says_or_the_policy(
    revos_gateway, headers, seconds
):
    clock, people = ManualClock(), []
    revos_gateway.chat_script.append(Answer(status=503, headers=headers))
    config = revos_gateway.config(max_retries=2, enable_periodic_refresh=False)

    async def keep(extractor):
        people.append(await extract(extractor))

    async with (
        TokenManager(config, _clock=clock, _random=lambda: 0.5) as tm,
        tm.extractor("gpt-4") as extractor,
        anyio.create_task_group() as tasks,
    ):
        await tm.get_token()
        tasks.start_soon(keep, extractor)
        with anyio.fail_after(5):
            while not clock.timers_waiting:
                await anyio.sleep(0.001)
        clock.turn(seconds - 0.01)
        await anyio.sleep(0.05)
        early = len(revos_gateway.chat_log)
        clock.turn(0.02)

    assert early == 1
    assert people == [ADA]


async def test_the_error_of_an_unknown_model_has_the_gateways_refusal_as_its_cause(revos_gateway):
    config = revos_gateway.config(LLM_MODELS_NEW_MODEL="gpt-99")

    async with TokenManager(config) as tm, tm.extractor("new") as extractor:
        with pytest.raises(RevosAPIError) as caught:
            await extract(extractor)

    assert "gpt-99" in str(caught.value.__cause__)
