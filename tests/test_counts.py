"""What the library costs, as counts; `benchmarks/quick.py` has the figures that need a clock."""

import subprocess
import sys
from contextlib import AsyncExitStack
from functools import partial

import anyio
import httpx
import pydantic
import pytest
from support import ManualClock, ScriptedEndpoint, manager, settle

from revos import TokenManager

BOTH_MODES = pytest.mark.parametrize("periodic", [True, False], ids=["loop", "on-demand"])
MINUTE = 60


class Person(pydantic.BaseModel):
    name: str
    age: int


async def together(number, call):
    async with anyio.create_task_group() as tasks:
        for _ in range(number):
            tasks.start_soon(call)


@BOTH_MODES
async def test_ten_thousand_tasks_that_find_no_token_cost_one_request(periodic):
    endpoint = ScriptedEndpoint()

    async with manager(endpoint, token={"enable_periodic_refresh": periodic}) as tm:
        await together(10_000, tm.get_token)

    assert endpoint.count == 1


async def test_a_hundred_forced_refreshes_together_cost_one_request():
    endpoint = ScriptedEndpoint()

    async with manager(endpoint) as tm:
        await tm.get_token()
        await together(100, partial(tm.get_token, force_refresh=True))

    assert endpoint.count == 2


async def test_five_hundred_extractors_cost_no_token_request(revos_gateway):
    async with TokenManager(revos_gateway.config()) as tm, AsyncExitStack() as stack:
        await tm.get_token()
        for _ in range(250):
            await stack.enter_async_context(tm.extractor("gpt-4"))
            await stack.enter_async_context(tm.extractor("claude-4"))

        assert revos_gateway.token_requests == 1


async def test_a_new_token_reaches_ten_thousand_extractors_without_building_anything(
    revos_gateway, monkeypatch
):
    async with TokenManager(revos_gateway.config()) as tm, AsyncExitStack() as stack:
        extractors = [await stack.enter_async_context(tm.extractor("gpt-4")) for _ in range(10_000)]
        extract = [extractor.extract for extractor in extractors[::500]]
        await extract[0](Person, "Extract the person: {text}", text="Ada, 36")
        connections = revos_gateway.connections
        built = constructions(monkeypatch)

        newest = await tm.refresh()
        revos_gateway.chat_log.clear()
        for one in extract:
            await one(Person, "Extract the person: {text}", text="Ada, 36")

        assert built == []
        assert revos_gateway.connections == connections
        assert revos_gateway.token_requests == 2
        sent = [chat.token_fingerprint for chat in revos_gateway.chat_log]
        assert sent == [newest.fingerprint] * len(extract)


async def test_a_manager_with_a_good_token_sets_one_timer_for_its_45_minutes():
    clock, endpoint = ManualClock(), ScriptedEndpoint()

    async with manager(endpoint, clock) as tm:
        await tm.get_token()
        await settle()
        timers = clock.timers_set
        for _ in range(44):
            await clock.advance(MINUTE)

        assert clock.timers_set == timers
        assert endpoint.count == 1

        await clock.advance(MINUTE)

        assert endpoint.count == 2


async def test_a_manager_on_demand_sets_no_timer():
    clock, endpoint = ManualClock(), ScriptedEndpoint()

    async with manager(endpoint, clock, token={"enable_periodic_refresh": False}) as tm:
        await tm.get_token()
        await settle()
        timers = clock.timers_set
        await clock.advance(45 * MINUTE)

        assert clock.timers_set == timers


def test_importing_revos_loads_nothing_heavy():
    heavy = {
        *("langchain", "langchain_core", "langchain_openai", "langsmith", "openai", "tiktoken"),
        *("pydantic", "pydantic_core", "trio", "uvloop", "httpcore", "httpx2", "httpcore2"),
        *("cattrs", "dotenv", "yaml", "jwt", "cryptography", "cyclopts", "pytest"),
    }

    light = {"revos", "sniffio", "typing_extensions"}  # The last two are AnyIO's.
    ours, base = loaded_by("revos"), loaded_by("anyio, httpx, attrs")

    assert not ours & heavy
    assert ours - base <= light | sys.stdlib_module_names


def loaded_by(names):
    """The top-level packages that a fresh interpreter has after this import."""
    code = f"import {names}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    return set(done.stdout.split())


def constructions(monkeypatch):
    """A list that gets the name of each chat model and HTTP client that is built from now on."""
    import httpx2
    import openai
    from langchain_openai import ChatOpenAI

    built = []

    def count(kind):
        original = kind.__init__

        def init(self, *args, **kwargs):
            built.append(kind.__name__)
            original(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", init)

    for kind in (ChatOpenAI, openai.OpenAI, openai.AsyncOpenAI):
        count(kind)
    for library in (httpx, httpx2):
        count(library.Client)
        count(library.AsyncClient)
    return built
