"""What a manager is made of, and what it leaves in the context around it."""

import asyncio
import gc
import weakref

import anyio
import pytest
from anyio import to_thread
from attrs import evolve
from children import in_child
from support import ScriptedEndpoint, config, manager

from revos import RevosClosedError, RevosConfigurationError, RevosTokenError, TokenManager


def test_config_and_settings_instance_are_two_names_for_one_thing():
    one = config()

    assert TokenManager(one).config is one
    assert TokenManager(settings_instance=one).config is one
    assert TokenManager(one, settings_instance=evolve(one)).config is one
    with pytest.raises(RevosConfigurationError) as caught:
        TokenManager(one, settings_instance=config(scope="another"))
    assert str(caught.value) == (
        "config and settings_instance are two names for one thing, and they differ: give one"
    )


@pytest.mark.parametrize(
    ("given", "kind"), [("revos.toml", "str"), ({}, "dict"), (config().revos, "GatewayConfig")]
)
def test_a_configuration_of_another_type_is_an_error_that_says_how_to_make_one(given, kind):
    with pytest.raises(RevosConfigurationError) as one:
        TokenManager(given)
    with pytest.raises(RevosConfigurationError) as other:
        TokenManager(settings_instance=given)

    assert (
        str(one.value)
        == str(other.value)
        == (
            f"config must be a Config, not {kind}: load_config() makes one from the environment, "
            "load_config('revos.toml') from a file"
        )
    )


def test_an_interval_takes_the_place_of_the_configured_one_and_keeps_its_rule():
    tm = TokenManager(config(), refresh_interval_minutes=1)

    assert tm.config == evolve(config(), token=evolve(config().token, refresh_interval_minutes=1))
    with pytest.raises(RevosConfigurationError, match="refresh_interval_minutes"):
        TokenManager(config(), refresh_interval_minutes=0)


async def test_an_interval_takes_the_place_of_that_in_the_environment(monkeypatch, revos_gateway):
    for name, value in revos_gateway.environ().items():
        monkeypatch.setenv(name, value)

    async with TokenManager(refresh_interval_minutes=1) as tm:
        assert tm.config.token.refresh_interval_minutes == 1


def test_before_it_has_read_its_configuration_a_manager_says_so():
    with pytest.raises(RevosClosedError, match="not entered yet"):
        TokenManager().config  # noqa: B018 - it is a property


async def test_a_manager_shows_its_state_and_of_its_token_the_fingerprint():
    endpoint = ScriptedEndpoint()
    tm = manager(endpoint)

    shown = [repr(tm)]
    with endpoint.hold():
        async with tm:
            shown.append(repr(tm))
    async with manager(ScriptedEndpoint()) as other:
        token = await other.refresh(superseding="another")
        shown.append(repr(other))
    shown.append(repr(tm))

    assert shown == [
        "<TokenManager not entered, token none>",
        "<TokenManager open, token none>",
        f"<TokenManager open, token {token.fingerprint}>",
        "<TokenManager closed, token none>",
    ]


async def test_a_stream_outside_its_block_is_closed():
    async with manager(ScriptedEndpoint()) as tm:
        async with tm.subscribe() as stream:
            await stream.receive()
        with pytest.raises(anyio.ClosedResourceError):
            stream.receive_nowait()


async def test_a_closed_manager_is_kept_by_nothing():
    tm = manager(ScriptedEndpoint())
    async with tm:
        await tm.get_token()
    kept = weakref.ref(tm)

    del tm
    gc.collect()

    assert kept() is None


# What it says of a wrong use, to the letter.


async def test_a_second_block_is_told_to_make_a_manager_of_its_own():
    async with manager(ScriptedEndpoint()) as tm:
        pass

    with pytest.raises(RevosClosedError) as caught:
        await tm.__aenter__()
    assert str(caught.value) == (
        "this TokenManager has been entered before: make a new one for each block"
    )


async def test_a_manager_that_is_not_open_says_which_of_three_things_it_is():
    tm = manager(ScriptedEndpoint())

    with pytest.raises(RevosClosedError) as before:
        tm.get_token_nowait()
    async with tm:
        inside = in_child(tm.get_token_nowait)
    with pytest.raises(RevosClosedError) as after:
        tm.get_token_nowait()

    assert str(before.value) == "this TokenManager is not entered yet: use it inside `async with`"
    assert inside == (
        "RevosClosedError: this TokenManager was entered before a fork, and its event loop stayed "
        "in the parent: enter one in the child"
    )
    assert str(after.value) == "this TokenManager is closed: its block was left"


async def test_a_fallback_that_is_none_is_told_how_to_become_one():
    async with manager(ScriptedEndpoint()) as tm:
        with pytest.raises(RevosConfigurationError) as caught:
            await tm.get_token(use_fallback=True)

    assert str(caught.value) == (
        "use_fallback needs a fallback: set REVOS_FALLBACK_AUTH_METHOD to another method than "
        "REVOS_AUTH_METHOD, or give it a token URL, client id or secret of its own "
        "(REVOS_FALLBACK_…), with a credential that fits the method"
    )


async def test_another_event_loop_is_told_to_enter_a_manager_of_its_own(run):
    async with manager(ScriptedEndpoint()) as tm:
        with pytest.raises(RevosTokenError) as caught:
            await to_thread.run_sync(run, tm.get_token)

    assert str(caught.value) == (
        "this TokenManager belongs to another event loop: enter one in each loop; from a thread "
        "use get_token_nowait() or revos.blocking"
    )


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_block_that_is_left_in_another_task_is_told_what_it_needs(anyio_backend):
    tm = manager(ScriptedEndpoint())

    await asyncio.create_task(tm.__aenter__())
    with pytest.raises(RevosClosedError) as caught:
        await asyncio.create_task(tm.__aexit__(None, None, None))

    assert str(caught.value) == (
        "this TokenManager is left in another task than the one that entered it; its task group "
        "can't be: enter and leave it in one task (a fixture or a framework that splits the two "
        "needs a task of its own for the block)"
    )
