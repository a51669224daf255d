"""Which manager the ambient functions find, and what they say where there is none."""

from __future__ import annotations

import contextvars
import json
import os
import threading
from datetime import datetime, timedelta

import anyio
import pytest
from anyio import to_thread
from support import ScriptedEndpoint, manager, token_response

import revos
import revos.blocking
from revos import RevosAuthenticationError, RevosClosedError, RevosConfigurationError
from revos.scope import innermost, using


def opened(name, **options):
    """A manager, not yet entered, whose token has this value."""
    endpoint = ScriptedEndpoint()
    endpoint.script = [token_response(name)]
    return manager(endpoint, **options)


def in_plain_thread(function):
    """What the function returns or raises in a thread that inherits no context."""
    outcome = []

    def run():
        try:
            outcome.append(function())
        except Exception as error:  # noqa: BLE001 - handed over
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return outcome[0]


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Sets the variables of a gateway's client, in a folder without a `.env`."""
    monkeypatch.chdir(tmp_path)

    def use(gateway, **overrides):
        for name, value in gateway.environ(**overrides).items():
            monkeypatch.setenv(name, value)

    return use


# Which one is found.


async def test_the_innermost_open_manager_is_used():
    async with opened("outer"):
        async with opened("inner"):
            assert await revos.get_revos_token() == "inner"
        assert await revos.get_revos_token() == "outer"


async def test_manager_passed_by_name_goes_before_the_one_around():
    async with opened("outer") as outer, opened("inner"):
        assert await revos.get_revos_token(manager=outer) == "outer"


async def test_child_tasks_inherit_the_manager():
    seen = []

    async def child():
        seen.append(await revos.get_revos_token())

    async with opened("outer"), anyio.create_task_group() as tasks:
        tasks.start_soon(child)
        tasks.start_soon(child)
    assert seen == ["outer", "outer"]


async def test_a_manager_entered_in_one_task_does_not_show_in_its_siblings():
    seen = []
    inner_is_open, sibling_has_looked = anyio.Event(), anyio.Event()

    async def opens_one():
        async with opened("inner"):
            seen.append(await revos.get_revos_token())
            inner_is_open.set()
            await sibling_has_looked.wait()

    async def sibling():
        await inner_is_open.wait()
        seen.append(await revos.get_revos_token())
        sibling_has_looked.set()

    async with opened("outer"), anyio.create_task_group() as tasks:
        tasks.start_soon(opens_one)
        tasks.start_soon(sibling)
    assert seen == ["inner", "outer"]


async def test_closed_managers_are_passed_over():
    async with opened("outer") as outer:
        async with opened("inner") as inner:
            context = contextvars.copy_context()  # As a task has it that was started here.
            assert context.run(innermost) is inner
        assert context.run(innermost) is outer
    assert context.run(innermost) is None


async def test_managers_may_close_in_any_order():
    contexts, ends = [], anyio.Event()

    async def longer(*, task_status):
        async with opened("longer") as tm:
            contexts.append(contextvars.copy_context())
            task_status.started(tm)
            await ends.wait()

    async with anyio.create_task_group() as tasks:
        async with opened("shorter"):
            tm = await tasks.start(longer)
        assert contexts[0].run(innermost) is tm
        ends.set()
    assert contexts[0].run(innermost) is None


async def test_leaving_an_inner_use_of_a_manager_keeps_the_outer_one():
    async with opened("outer") as tm:
        with using(tm):
            assert innermost() is tm
        assert innermost() is tm


async def test_an_inner_use_ends_by_an_exception_too_and_hides_no_outer_manager():
    async with opened("other") as other, opened("outer") as outer:
        with pytest.raises(ZeroDivisionError), using(other):
            raise ZeroDivisionError
        assert innermost() is outer
        async with opened("inner") as inner:
            pass
        with using(inner):
            assert innermost() is outer


async def test_worker_threads_of_anyio_inherit_the_manager():
    async with opened("outer") as tm:
        await tm.get_token()
        info = await to_thread.run_sync(revos.get_token_info)
        token = await to_thread.run_sync(revos.blocking.get_revos_token)
    assert (info["has_token"], token) == (True, "outer")


async def test_plain_threads_pass_the_manager():
    async with opened("outer") as tm:
        await tm.get_token()
        without = await to_thread.run_sync(in_plain_thread, revos.get_token_info)
        info = await to_thread.run_sync(in_plain_thread, lambda: revos.get_token_info(manager=tm))
    assert isinstance(without, RevosConfigurationError)
    assert info["has_token"] is True


# Where there is none.


@pytest.mark.parametrize(
    "function",
    [
        revos.get_token_info,
        revos.get_consecutive_failures,
        revos.invalidate_revos_token,
        revos.reset_token_manager,
        revos.blocking.list_remote_models,
    ],
)
def test_without_an_open_manager_the_error_says_what_to_do(function):
    with pytest.raises(RevosConfigurationError) as caught:
        function()
    assert str(caught.value) == (
        f"{function.__name__}() found no open TokenManager around it: call it inside "
        "`async with TokenManager(...)`, or pass manager=... (a plain thread inherits none)"
    )


async def test_without_an_open_manager_models_are_not_listed():
    with pytest.raises(RevosConfigurationError, match=r"list_remote_models\(\) found no open"):
        await revos.list_remote_models()


async def test_an_extractor_says_the_same_at_its_first_use():
    extractor = revos.get_langchain_extractor("gpt-4")
    with pytest.raises(RevosConfigurationError, match="found no open TokenManager around it"):
        await extractor.extract(object, "{text}", text="Ada")


async def test_a_closed_manager_that_is_passed_is_no_open_one():
    async with opened("outer") as tm:
        pass
    with pytest.raises(RevosClosedError, match="its block was left"):
        await revos.get_revos_token(manager=tm)
    with pytest.raises(RevosClosedError, match="its block was left"):
        revos.invalidate_revos_token(manager=tm)
    assert revos.get_token_info(manager=tm)["has_token"] is False


async def test_get_revos_token_opens_one_from_the_environment_for_that_call(
    revos_gateway, environment
):
    environment(revos_gateway)
    first = await revos.get_revos_token()
    assert revos_gateway.accepts(first)
    assert innermost() is None
    assert await revos.get_revos_token(force_refresh=True) != first
    assert revos_gateway.token_requests == 2


async def test_that_call_can_ask_for_the_fallback(revos_gateway, environment):
    environment(revos_gateway, enable_periodic_refresh=False)
    revos_gateway.auth_methods = {"client_secret_basic"}
    assert revos_gateway.accepts(await revos.get_revos_token(use_fallback=True))
    assert [record.method for record in revos_gateway.token_log] == ["client_secret_basic"]


async def test_an_open_manager_is_asked_for_a_new_token(revos_gateway):
    async with revos.TokenManager(revos_gateway.config()) as tm:
        first = await tm.get_token()

        assert await revos.get_revos_token() == first
        assert await revos.get_revos_token(force_refresh=True) != first


async def test_that_call_says_what_the_environment_lacks(environment, monkeypatch):
    for name in [name for name in os.environ if name.startswith("REVOS_")]:
        monkeypatch.delenv(name)
    with pytest.raises(RevosConfigurationError, match="REVOS_CLIENT_ID is missing"):
        await revos.get_revos_token()


# What they do with the one that is found.


async def test_token_info_is_plain_json_without_the_token():
    async with opened("hush-hush"):
        await revos.get_revos_token()
        info = revos.get_token_info()
    assert set(info) == {
        "has_token",
        "expires_at",
        "time_until_expiry",
        "consecutive_failures",
        "last_refresh_at",
        "last_error",
        "is_using_fallback",
    }
    assert "hush-hush" not in json.dumps(info)
    assert datetime.fromisoformat(info["expires_at"]).utcoffset() == timedelta(0)
    assert 3590 < info["time_until_expiry"] <= 3600


async def test_an_invalidated_token_is_not_given_again():
    async with opened("first"):
        await revos.get_revos_token()
        revos.invalidate_revos_token()
        assert revos.get_token_info()["has_token"] is False
        assert await revos.get_revos_token() == "token-2"


async def test_reset_drops_token_counts_and_pauses():
    endpoint = ScriptedEndpoint()
    endpoint.script = [403]
    async with manager(endpoint):
        with pytest.raises(RevosAuthenticationError):
            await revos.get_revos_token()
        assert revos.get_consecutive_failures() == 1
        revos.reset_token_manager()
        assert revos.get_consecutive_failures() == 0
        assert revos.get_token_info()["last_error"] is None
        assert await revos.get_revos_token() == "token-2"  # At once: there is no pause any more.


async def test_two_managers_share_nothing():
    failing = ScriptedEndpoint()
    failing.script = [403]
    async with opened("sound") as sound, manager(failing) as other:
        with pytest.raises(RevosAuthenticationError):
            await other.get_token()
        assert await sound.get_token() == "sound"
        revos.invalidate_revos_token(manager=other)
        assert revos.get_consecutive_failures(manager=sound) == 0
        assert sound.get_token_nowait() == "sound"
