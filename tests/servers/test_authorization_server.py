"""Tokens of `oidc-provider`: each way to authenticate, each refusal, rotation, restart."""

import time

import anyio
import pytest
from anyio import to_thread
from attrs import evolve
from joserfc import jwk
from servers.real import ELSEWHERE, JWT, OPAQUE, PUNCTUATION, config, until

from revos import RevosAuthenticationError, TokenManager
from revos.clock import SystemClock

METHODS = pytest.mark.parametrize("method", ["client_secret_post", "client_secret_basic"])


class WrongClock(SystemClock):
    """The clock of a host whose time is off by some seconds."""

    def __init__(self, seconds):
        self.time = lambda: time.time() + seconds


@pytest.fixture(scope="session")
def keys():
    return {
        "RS256": jwk.RSAKey.generate_key(2048),
        "PS256": jwk.RSAKey.generate_key(2048),
        "ES256": jwk.ECKey.generate_key("P-256"),
        "EdDSA": jwk.OKPKey.generate_key("Ed25519"),
    }


@pytest.fixture
def signing(oidc, keys, tmp_path):
    """Registers a client with a key, and gives it with the settings that sign by that key."""

    def register(algorithm="RS256"):
        key, file = keys[algorithm], tmp_path / f"{algorithm}.pem"
        file.write_bytes(key.as_pem(private=True))
        public = {**key.as_dict(private=False), "kid": "key-1"}
        client = oidc.register(method="private_key_jwt", secret=None, jwks={"keys": [public]})
        settings = {
            "private_key_file": str(file),
            "private_key_id": "key-1",
            "assertion_algorithm": algorithm,
        }
        return client, settings

    return register


async def failure_of(configuration, **options):
    """The error of whoever asks for a token."""
    async with TokenManager(configuration, **options) as tm:
        with pytest.raises(RevosAuthenticationError) as caught:
            await tm.get_token()
    return caught.value


# Ways to authenticate.


@METHODS
async def test_a_token_is_what_the_server_says_it_is(oidc, method):
    client = oidc.register(method=method, lifetime=600)

    async with TokenManager(config(oidc, client)) as tm:
        token = await tm.refresh()
        told = await oidc.introspect(token.value)

    assert (told["active"], told["client_id"]) == (True, client.id)
    assert (token.scope, token.method) == ("models", method)
    assert told["exp"] == pytest.approx(token.expires_at.timestamp(), abs=2)


@METHODS
async def test_a_secret_full_of_punctuation_reaches_the_server_whole(oidc, method):
    client_id = f"app:{method}+%3A &='"
    client = oidc.register(client_id=client_id, secret=PUNCTUATION, method=method)

    async with TokenManager(config(oidc, client)) as tm:
        told = await oidc.introspect(await tm.get_token())

    assert told["client_id"] == client_id


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
async def test_a_signed_assertion_is_taken_each_time(oidc, signing, algorithm):
    client, settings = signing(algorithm)

    async with TokenManager(config(oidc, client, **settings)) as tm:
        # The server refuses a `jti` that it has seen, so each of these has its own.
        tokens = [await tm.get_token(force_refresh=True) for _ in range(3)]
        told = await oidc.introspect(tokens[-1])

    assert len(set(tokens)) == 3
    assert told["client_id"] == client.id
    assert oidc.events(event="refused") == []


async def test_a_signed_assertion_may_be_for_the_issuer(oidc, signing):
    client, settings = signing()

    async with TokenManager(config(oidc, client, assertion_audience=oidc.url, **settings)) as tm:
        told = await oidc.introspect(await tm.get_token())

    assert told["client_id"] == client.id


async def test_a_signed_assertion_for_another_audience_is_refused(oidc, signing):
    client, settings = signing()

    error = await failure_of(config(oidc, client, assertion_audience=ELSEWHERE, **settings))

    assert (error.error, error.method) == ("invalid_client", "private_key_jwt")
    assert "private key" in str(error)
    assert len(oidc.events(event="refused")) == 1


async def test_an_assertion_that_another_clients_key_signed_is_refused(oidc, signing):
    client, _ = signing("ES256")
    _, settings = signing("RS256")

    error = await failure_of(config(oidc, client, **settings))

    assert error.error == "invalid_client"
    assert error.attempts == 1


@pytest.mark.parametrize("seconds", [-45, 600])
async def test_an_assertion_of_a_host_whose_clock_is_wrong_is_taken_within_its_lifetime(
    oidc, signing, seconds
):
    client, settings = signing()

    async with TokenManager(config(oidc, client, **settings), _clock=WrongClock(seconds)) as tm:
        told = await oidc.introspect(await tm.get_token())

    assert told["active"]


async def test_an_assertion_of_a_host_whose_clock_is_a_minute_behind_is_refused(oidc, signing):
    client, settings = signing()

    error = await failure_of(config(oidc, client, **settings), _clock=WrongClock(-60))

    assert error.error == "invalid_client"


async def test_a_hundred_callers_at_once_cost_the_server_one_request(oidc):
    client = oidc.register()
    tokens = set()

    async def ask(tm):
        tokens.add(await tm.get_token())

    async with TokenManager(config(oidc, client)) as tm, anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(ask, tm)

    assert len(tokens) == oidc.granted(client) == 1


# What a token is for.


async def test_an_opaque_token_for_a_resource_has_it_as_its_audience(oidc):
    client = oidc.register()

    async with TokenManager(config(oidc, client, resource=OPAQUE, audience=OPAQUE)) as tm:
        told = await oidc.introspect(await tm.get_token())

    assert (told["aud"], told["scope"]) == (OPAQUE, "models")


async def test_a_token_may_be_a_jwt(oidc):
    client = oidc.register()

    async with TokenManager(config(oidc, client, resource=JWT)) as tm:
        token = await tm.refresh()

    assert token.value.count(".") == 2
    assert token.scope == "models"


@pytest.mark.parametrize(
    ("settings", "code", "check"),
    [
        ({"resource": "https://unknown.example/"}, "invalid_target", "resource"),
        ({"resource": "no URI"}, "invalid_target", "resource"),
        ({"scope": "models admin"}, "invalid_scope", "scope"),
    ],
)
async def test_what_the_client_may_not_have_is_told(oidc, settings, code, check):
    client = oidc.register()

    error = await failure_of(config(oidc, client, **settings))

    assert (error.error, error.status_code, error.temporary) == (code, 400, False)
    assert f"with {code}" in str(error)
    assert check in str(error).partition("check ")[2]
    assert error.error_description in str(error)
    assert len(oidc.events(event="refused")) == 1


async def test_a_client_without_the_grant_is_told(oidc):
    client = oidc.register(grants=())

    error = await failure_of(config(oidc, client))

    assert (error.error, error.status_code) == ("invalid_request", 400)
    assert "grant type is not allowed for this client" in str(error)


# A credential that is not right.


@METHODS
async def test_a_wrong_secret_is_told_without_the_secret(oidc, method):
    client = oidc.register(method=method)

    error = await failure_of(config(oidc, evolve(client, secret="not the right one")))

    assert (error.error, error.status_code, error.method) == ("invalid_client", 401, method)
    assert (error.attempts, error.temporary) == (1, False)
    assert error.retry_after > 0
    assert str(error).startswith(f"the token endpoint {oidc.token_url} refused client id")
    assert f"'{client.id}' with invalid_client (HTTP 401): check client id, client" in str(error)
    assert "not the right one" not in str(error)
    assert len(oidc.events(event="refused")) == 1


async def test_an_unknown_client_is_told(oidc):
    client = evolve(oidc.register(), id="nobody")

    error = await failure_of(config(oidc, client))

    assert error.error == "invalid_client"
    assert "client id 'nobody'" in str(error)


async def test_a_method_that_is_not_the_registered_one_is_told(oidc):
    client = oidc.register(method="private_key_jwt", secret=None, jwks={"keys": []})

    error = await failure_of(
        config(oidc, evolve(client, method="client_secret_basic", secret="s3cret"))
    )

    assert error.error == "invalid_client"
    assert "authentication method client_secret_basic" in str(error)


async def test_the_fallback_gives_the_token_that_the_primary_is_refused(oidc):
    primary, fallback = oidc.register(), oidc.register(method="client_secret_basic")
    settings = {
        "fallback_auth_method": fallback.method,
        "fallback_client_id": fallback.id,
        "fallback_client_secret": fallback.secret,
    }

    async with TokenManager(config(oidc, evolve(primary, secret="wrong"), **settings)) as tm:
        told = await oidc.introspect(await tm.get_token())
        health, using_fallback = tm.health(), tm.status.is_using_fallback

    assert told["client_id"] == fallback.id
    assert (health.state, using_fallback) == ("degraded", True)
    assert len(oidc.events(event="refused", client=primary.id)) == 1
    assert oidc.granted(fallback) == 1


async def test_a_signed_assertion_is_a_fallback_too(oidc, signing):
    primary = oidc.register()
    fallback, settings = signing("ES256")

    async with TokenManager(
        config(
            oidc,
            evolve(primary, secret="wrong"),
            fallback_auth_method="private_key_jwt",
            fallback_client_id=fallback.id,
            **settings,
        )
    ) as tm:
        told = await oidc.introspect(await tm.get_token())

    assert told["client_id"] == fallback.id


async def test_a_secret_that_is_rotated_while_running_is_picked_up(oidc, tmp_path):
    client, file = oidc.register(secret="the old one"), tmp_path / "secret"
    file.write_text("the old one\n")
    settings = config(oidc, evolve(client, secret=None), client_secret_file=str(file))

    async with TokenManager(settings) as tm:
        first = await tm.get_token()
        oidc.rotate_secret(client, "the new one")
        with pytest.raises(RevosAuthenticationError) as caught:
            await tm.refresh()
        meanwhile = await tm.get_token()
        file.write_text("the new one\n")
        await anyio.sleep(1)  # So long after a failure nobody may force a request.
        second = await tm.refresh()

    assert caught.value.error == "invalid_client"
    assert meanwhile == first
    assert second.value != first
    assert oidc.granted(client) == 2


# Time.


async def test_tokens_of_three_seconds_are_renewed_before_the_server_lets_them_expire(oidc):
    client = oidc.register(lifetime=3)
    held = []

    async with TokenManager(config(oidc, client)) as tm:
        with anyio.move_on_after(4.5):
            while True:
                token = await tm.get_token()
                held.append((token, (await oidc.introspect(token))["active"]))
                await anyio.sleep(0.05)

    assert {active for _, active in held} == {True}
    assert 3 <= len(dict(held)) <= 5
    assert not (await oidc.introspect(held[0][0]))["active"]


async def test_an_outage_is_nobodys_error_until_the_token_ends_and_heals_by_itself(oidc):
    client = oidc.register(lifetime=3)

    async with TokenManager(config(oidc, client, max_retries=1)) as tm:
        first = await tm.get_token()
        await to_thread.run_sync(oidc.kill)
        await until(lambda: tm.status.consecutive_failures)
        during = await tm.get_token()
        await until(lambda: not tm.status.has_token)
        with anyio.fail_after(10), pytest.raises(RevosAuthenticationError) as caught:
            await tm.get_token()
        await to_thread.run_sync(oidc.start)
        await until(lambda: tm.status.has_token)
        after = await tm.get_token()
        told, health = await oidc.introspect(after), tm.health()

    assert during == first != after
    assert caught.value.temporary
    assert caught.value.status_code is None
    assert "gave client id" in str(caught.value)
    assert told["active"]
    assert health.state == "healthy"
