"""What a manager is made of, and what it leaves in the context around it."""

import gc
import weakref

import anyio
import pytest
from attrs import evolve
from support import ScriptedEndpoint, config, manager

from revos import RevosClosedError, RevosConfigurationError, TokenManager


def test_config_and_settings_instance_are_two_names_for_one_thing():
    one = config()

    assert TokenManager(one).config is one
    assert TokenManager(settings_instance=one).config is one
    assert TokenManager(one, settings_instance=evolve(one)).config is one
    with pytest.raises(RevosConfigurationError, match="two names for one thing, and they differ"):
        TokenManager(one, settings_instance=config(scope="another"))


@pytest.mark.parametrize("given", ["revos.toml", {}, config().revos])
def test_a_configuration_of_another_type_is_an_error_that_says_how_to_make_one(given):
    with pytest.raises(RevosConfigurationError, match=r"must be a Config, not .* load_config"):
        TokenManager(given)
    with pytest.raises(RevosConfigurationError, match=r"must be a Config, not .* load_config"):
        TokenManager(settings_instance=given)


def test_an_interval_takes_the_place_of_the_configured_one_and_keeps_its_rule():
    tm = TokenManager(config(), refresh_interval_minutes=1)

    assert tm.config == evolve(config(), token=evolve(config().token, refresh_interval_minutes=1))
    with pytest.raises(RevosConfigurationError, match="refresh_interval_minutes"):
        TokenManager(config(), refresh_interval_minutes=0)


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
