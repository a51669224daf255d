"""What the guide of 0.3.0 shows, section by section, with the meaning that it has there.

Calls that wait are awaited; the last part does the same without an event loop (`revos.blocking`).
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import asynccontextmanager
from http import HTTPStatus

import anyio
import pytest
from pydantic import BaseModel
from support import ManualClock, ScriptedEndpoint, manager

import revos
from revos import (
    RevosAuthenticationError,
    RevosConfigurationError,
    RevosError,
    TokenManager,
    blocking,
    create_config_with_prefixes,
    get_consecutive_failures,
    get_langchain_extractor,
    get_revos_token,
    get_token_info,
    invalidate_revos_token,
    reset_token_manager,
)
from revos.token import fingerprint_of

PROMPT = "Extract the person: {text}"
KEYS = {
    "has_token",
    "expires_at",
    "time_until_expiry",
    "consecutive_failures",
    "last_refresh_at",
    "last_error",
    "is_using_fallback",
}


class PersonInfo(BaseModel):
    name: str
    age: int


ADA = PersonInfo(name="Ada", age=36)


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Sets the variables of a gateway's client, under other prefixes where some are given."""
    monkeypatch.chdir(tmp_path)

    def use(gateway, revo="REVOS_", llm="LLM_MODELS_", token="TOKEN_", **overrides):
        renamed = {"REVOS_": revo, "LLM_MODELS_": llm, "TOKEN_": token}
        for name, value in gateway.environ(**overrides).items():
            old = next(prefix for prefix in renamed if name.startswith(prefix))
            monkeypatch.setenv(renamed[old] + name.removeprefix(old), value)

    return use


async def until(condition):
    """Wait for what goes through sockets."""
    with anyio.fail_after(5):
        while not condition():
            await anyio.sleep(0.005)


# Basic token management: simple token usage.


async def test_the_current_token_is_given_again(revos_gateway):
    async with TokenManager(revos_gateway.config()):
        assert await get_revos_token() == await get_revos_token()
    assert revos_gateway.token_requests == 1


async def test_force_refresh_brings_another_token(revos_gateway):
    async with TokenManager(revos_gateway.config()):
        first = await get_revos_token()
        assert await get_revos_token(force_refresh=True) != first
        assert await get_revos_token() != first


async def test_use_fallback_gets_a_token_the_second_way(revos_gateway):
    async with TokenManager(revos_gateway.config()):
        await get_revos_token()
        token = await get_revos_token(force_refresh=True, use_fallback=True)
        assert revos_gateway.accepts(token)
        assert get_token_info()["is_using_fallback"] is True
    assert revos_gateway.token_log[-1].method == "client_secret_basic"


# Basic token management: the manager. Background refresh.


async def test_a_manager_reads_the_environment_when_it_starts(revos_gateway, environment):
    environment(revos_gateway)
    token_manager = TokenManager(refresh_interval_minutes=45)
    assert not token_manager.is_background_service_running()
    await token_manager.start_background_service()
    try:
        assert token_manager.is_background_service_running()
        assert token_manager.config.token.refresh_interval_minutes == 45
        await until(lambda: get_token_info()["has_token"])  # Nobody asked: it is in the background.
    finally:
        await token_manager.stop_background_service()
    assert not token_manager.is_background_service_running()


async def test_the_token_is_renewed_at_the_interval():
    endpoint, clock = ScriptedEndpoint(lifetime=7200), ManualClock()
    async with manager(endpoint, clock, token={"refresh_interval_minutes": 30}) as token_manager:
        assert await token_manager.get_token() == "token-1"
        await clock.advance(29 * 60)
        assert token_manager.get_token_nowait() == "token-1"
        await clock.advance(60)
        assert token_manager.get_token_nowait() == "token-2"


async def test_stopping_twice_does_no_harm(revos_gateway):
    token_manager = TokenManager(revos_gateway.config())
    await token_manager.start_background_service()
    await token_manager.stop_background_service()
    await token_manager.stop_background_service()


# Background refresh: custom settings. Advanced configuration. Deployment configuration.


@pytest.mark.parametrize("app", ["MYAPP", "PROD"])
async def test_settings_may_have_prefixes_of_their_own(revos_gateway, environment, app):
    environment(
        revos_gateway,
        revo=f"{app}_",
        llm=f"{app}_LLM_",
        token=f"{app}_TOKEN_",
        refresh_interval_minutes=30,
        max_failures_before_fallback=2,
        enable_periodic_refresh=True,
        enable_fallback=True,
    )
    config = create_config_with_prefixes(
        revo_prefix=f"{app}_",
        llm_prefix=f"{app}_LLM_",
        logging_prefix=f"{app}_LOG_",
        token_prefix=f"{app}_TOKEN_",
    )
    async with TokenManager(settings_instance=config) as token_manager:
        assert token_manager.config.token.refresh_interval_minutes == 30
        assert token_manager.config.token.max_failures_before_fallback == 2
        extractor = get_langchain_extractor("gpt-4")
        assert await extractor.extract(PersonInfo, PROMPT, text="Ada, 36") == ADA


async def test_an_interval_that_is_given_goes_before_the_configured_one(revos_gateway, environment):
    environment(revos_gateway, revo="MYAPP_", token="MYAPP_TOKEN_", refresh_interval_minutes=20)
    config = create_config_with_prefixes(revo_prefix="MYAPP_", token_prefix="MYAPP_TOKEN_")
    assert config.token.refresh_interval_minutes == 20
    token_manager = TokenManager(refresh_interval_minutes=30, settings_instance=config)
    assert token_manager.config.token.refresh_interval_minutes == 30
    await token_manager.start_background_service()
    try:
        assert revos_gateway.accepts(await token_manager.get_token())
    finally:
        await token_manager.stop_background_service()


async def test_without_periodic_refresh_tokens_come_on_demand(revos_gateway, environment):
    environment(revos_gateway, enable_periodic_refresh=False, enable_fallback=False)
    async with TokenManager() as token_manager:
        await anyio.wait_all_tasks_blocked()
        assert revos_gateway.token_requests == 0
        assert token_manager.is_background_service_running()
        assert revos_gateway.accepts(await get_revos_token())


# Automatic extractor updates.


async def test_extractors_cost_no_token_request_of_their_own(revos_gateway):
    token_manager = TokenManager(settings_instance=revos_gateway.config())
    early = get_langchain_extractor("gpt-4")  # Before there is a token.
    await token_manager.start_background_service()
    try:
        others = [get_langchain_extractor(name) for name in ("claude-4", "gpt-4", "gpt_4o_mini")]
        for extractor in (early, *others):
            assert await extractor.extract(PersonInfo, PROMPT, text="Ada, 36") == ADA
    finally:
        await token_manager.stop_background_service()
    assert revos_gateway.token_requests == 1


async def test_extractors_use_the_new_token_with_the_model_that_they_have(revos_gateway):
    async with (
        TokenManager(revos_gateway.config()) as token_manager,
        token_manager.extractors("gpt-4", "claude-4") as extractors,
    ):
        models = {name: extractor.llm for name, extractor in extractors.items()}
        for _ in range(2):
            token = await token_manager.refresh()
            for name, extractor in extractors.items():
                await extractor.extract(PersonInfo, PROMPT, text="Ada, 36")
                assert revos_gateway.chat_log[-1].token_fingerprint == token.fingerprint
                assert extractor.llm is models[name]


async def test_refresh_extractor_reaches_every_extractor(revos_gateway):
    config = revos_gateway.config()
    async with TokenManager(settings_instance=config) as token_manager:
        extractor = get_langchain_extractor("gpt_4", settings_instance=config)
        before = await token_manager.get_token()
        assert await token_manager.refresh_extractor() is True
        await extractor.extract(PersonInfo, PROMPT, text="Ada, 36")
        assert revos_gateway.chat_log[-1].token_fingerprint != fingerprint_of(before)


async def test_refresh_extractor_tells_of_a_failure_and_raises_nothing():
    endpoint = ScriptedEndpoint()
    endpoint.script = [200, 403]
    async with manager(endpoint) as token_manager:
        await token_manager.get_token()
        assert await token_manager.refresh_extractor() is False
        assert await token_manager.get_token() == "token-1"  # It is still good.


# FastAPI integration, health check endpoint. A server runs the lifespan in one task and handlers
# in others, which inherit nothing from it.


class App:
    """The parts of a web application that matter here."""

    def __init__(self, config):
        self.config = config

    @asynccontextmanager
    async def lifespan(self):
        async with TokenManager(settings_instance=self.config) as self.token_manager:
            self.extractors = {
                name: get_langchain_extractor(name, manager=self.token_manager)
                for name in ("gpt-4", "claude-4")
            }
            yield

    async def extract(self, data):
        return await self.extractors["gpt-4"].extract(PersonInfo, PROMPT, **data)

    async def token(self):
        return await get_revos_token(manager=self.token_manager)

    async def health(self):
        failures = get_consecutive_failures(manager=self.token_manager)
        if failures > 5:
            return HTTPStatus.SERVICE_UNAVAILABLE, {"failures": failures}
        return HTTPStatus.OK, get_token_info(manager=self.token_manager)


@asynccontextmanager
async def served(app):
    """The lifespan of the application, in a task of its own."""

    async def run(*, task_status):
        async with app.lifespan():
            task_status.started()
            await stop.wait()

    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        await tasks.start(run)
        yield app
        stop.set()


async def test_handlers_use_the_manager_of_the_lifespan(revos_gateway):
    async with served(App(revos_gateway.config())) as app:
        with pytest.raises(RevosConfigurationError, match="found no open TokenManager"):
            get_token_info()
        assert await app.extract({"text": "Ada, 36"}) == ADA
        assert revos_gateway.accepts(await app.token())
        code, info = await app.health()
        assert (code, info["has_token"]) == (HTTPStatus.OK, True)
    assert revos_gateway.token_requests == 1


async def test_requests_at_once_share_one_token_request(revos_gateway):
    revos_gateway.delay = 0.1
    async with served(App(revos_gateway.config())) as app, anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(app.token)
    assert revos_gateway.token_requests == 1


async def test_the_health_endpoint_answers_503_after_too_many_failures():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [403] * 7
    async with manager(endpoint, clock) as token_manager:
        app = App(None)
        app.token_manager = token_manager
        for _ in range(7):
            await clock.advance(60)
        assert await app.health() == (HTTPStatus.SERVICE_UNAVAILABLE, {"failures": 7})
        assert token_manager.health().state == "unhealthy"
        await clock.advance(60)
        assert (await app.health())[0] == HTTPStatus.OK


# Token lifecycle management.


async def test_token_information(revos_gateway):
    async with TokenManager(revos_gateway.config()):
        assert get_token_info()["has_token"] is False
        token = await get_revos_token()
        info = get_token_info()
        assert set(info) == KEYS
        assert info["has_token"] is True
        assert info["expires_at"].endswith("+00:00")
        assert 0 < info["time_until_expiry"] <= 3600
        assert token not in json.dumps(info)
        assert get_consecutive_failures() == 0


async def test_invalidation_and_reset(revos_gateway):
    async with TokenManager(revos_gateway.config()):
        first = await get_revos_token()
        invalidate_revos_token()
        second = await get_revos_token()
        reset_token_manager()
        third = await get_revos_token()
    assert len({first, second, third}) == 3


# Error handling and recovery.


async def test_retry_loop_with_force_refresh_gets_a_token_in_the_end():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [403, 403, 403]
    delays = []

    async def get_token_with_retry():
        for attempt in range(5):
            try:
                return await get_revos_token(force_refresh=True)
            except RevosError:
                delays.append(2**attempt)
                await clock.advance(delays[-1])
        return None

    async with manager(endpoint, clock):
        token = await get_token_with_retry()
    assert token == f"token-{endpoint.count}"
    assert delays


async def test_retry_loop_raises_the_last_error_when_it_gives_up():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [403] * 9
    async with manager(endpoint, clock):
        for delay in (1, 2, 4):
            with pytest.raises(RevosAuthenticationError) as caught:
                await get_revos_token(force_refresh=True)
            await clock.advance(delay)
    assert caught.value.status_code == 403


async def test_fallback_flow_tries_the_first_way_and_then_the_second(revos_gateway):
    revos_gateway.auth_methods = {"client_secret_basic"}
    async with TokenManager(revos_gateway.config(enable_fallback=False)):
        with pytest.raises(RevosAuthenticationError, match="invalid_client"):
            await get_revos_token(use_fallback=False)
        token = await get_revos_token(use_fallback=True)
        assert revos_gateway.accepts(token)
        assert get_token_info()["is_using_fallback"] is True


async def test_fallback_flow_raises_when_both_ways_fail(revos_gateway):
    revos_gateway.auth_methods = set()
    async with TokenManager(revos_gateway.config(enable_fallback=False)):
        with pytest.raises(RevosAuthenticationError):
            await get_revos_token(use_fallback=False)
        with pytest.raises(RevosAuthenticationError) as caught:
            await get_revos_token(use_fallback=True)
    assert caught.value.method == "client_secret_basic"


async def test_the_fallback_needs_no_asking_where_it_is_enabled(revos_gateway):
    revos_gateway.auth_methods = {"client_secret_basic"}
    async with TokenManager(revos_gateway.config(enable_fallback=True)):
        assert revos_gateway.accepts(await get_revos_token())
        assert revos.get_consecutive_failures() == 0


# Monitoring.


async def test_a_monitor_sees_the_status_change():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [200, 403, 403, 403, 403]
    seen = []

    async def monitor():
        while True:
            seen.append((get_token_info()["has_token"], get_consecutive_failures()))
            await clock.sleep(60)

    async with manager(endpoint, clock) as token_manager, anyio.create_task_group() as tasks:
        await token_manager.get_token()
        tasks.start_soon(monitor)
        await anyio.wait_all_tasks_blocked()
        for _ in range(50):
            await clock.advance(60)
        tasks.cancel_scope.cancel()
    assert seen[0] == (True, 0)
    assert {failures for _, failures in seen} >= {1, 2}
    assert all(has_token for has_token, _ in seen)  # A failed refresh costs nobody the old token.


# Security: access logging. Debug mode.


async def test_each_token_request_is_in_the_access_log(revos_gateway, caplog):
    caplog.set_level(logging.INFO, logger="revos.audit")
    async with TokenManager(revos_gateway.config()):
        token = await get_revos_token()
    (record,) = [record for record in caplog.records if record.name == "revos.audit"]
    assert "client_secret_post" in record.getMessage()
    assert fingerprint_of(token) in record.getMessage()


async def test_debug_logs_hold_no_secret_and_no_prompt(revos_gateway, caplog):
    caplog.set_level(logging.DEBUG)
    async with TokenManager(revos_gateway.config(), refresh_interval_minutes=45) as token_manager:
        tokens = [await token_manager.get_token(), (await token_manager.refresh()).value]
        extractor = get_langchain_extractor("gpt-4")
        await extractor.extract(PersonInfo, PROMPT, text="Zaphod, 200")
        revos_gateway.fail_next(status=400, body={"error": revos_gateway.client_secret})
        await token_manager.refresh_extractor()
    assert "revos" in caplog.text
    for secret in (*tokens, revos_gateway.client_secret, "Zaphod"):
        assert secret not in caplog.text


# Performance.


async def test_token_requests_share_a_connection(revos_gateway):
    async with TokenManager(revos_gateway.config()) as token_manager:
        for _ in range(3):
            await token_manager.refresh()
    assert revos_gateway.token_connections == 1


# The same without an event loop.


def test_blocking_simple_token_usage(revos_gateway_sync, environment):
    environment(revos_gateway_sync)
    with blocking.TokenManager(refresh_interval_minutes=45) as token_manager:
        first = blocking.get_revos_token()
        assert blocking.get_revos_token() == first
        assert blocking.get_revos_token(force_refresh=True) != first
        blocking.get_revos_token(force_refresh=True, use_fallback=True)
        assert token_manager.status.is_using_fallback
        assert token_manager.is_background_service_running()
    assert not token_manager.is_background_service_running()


def test_blocking_start_and_stop_with_prefixes(revos_gateway_sync, environment):
    environment(revos_gateway_sync, revo="MYAPP_", llm="MYAPP_LLM_", token="MYAPP_TOKEN_")
    config = create_config_with_prefixes(
        revo_prefix="MYAPP_", llm_prefix="MYAPP_LLM_", token_prefix="MYAPP_TOKEN_"
    )
    token_manager = blocking.TokenManager(settings_instance=config)
    extractor = blocking.get_langchain_extractor("gpt-4")
    token_manager.start_background_service()
    try:
        assert token_manager.is_background_service_running()
        assert extractor.extract(PersonInfo, PROMPT, text="Ada, 36") == ADA
        assert token_manager.refresh_extractor() is True
        extractor.extract(PersonInfo, PROMPT, text="Ada, 36")
    finally:
        token_manager.stop_background_service()
    assert not token_manager.is_background_service_running()
    assert revos_gateway_sync.token_requests == 2
    assert len({record.token_fingerprint for record in revos_gateway_sync.chat_log}) == 2


def test_blocking_token_lifecycle(revos_gateway_sync):
    with blocking.TokenManager(revos_gateway_sync.config()):
        first = blocking.get_revos_token()
        info = blocking.get_token_info()
        assert set(info) == KEYS
        assert info["has_token"] is True
        assert blocking.get_consecutive_failures() == 0
        blocking.invalidate_revos_token()
        second = blocking.get_revos_token()
        blocking.reset_token_manager()
        assert len({first, second, blocking.get_revos_token()}) == 3


def test_blocking_retry_loop(revos_gateway_sync):
    revos_gateway_sync.fail_next(2, status=403)
    with blocking.TokenManager(revos_gateway_sync.config(enable_fallback=False)):
        for attempt in range(9):
            try:
                token = blocking.get_revos_token(force_refresh=True)
                break
            except RevosError:
                time.sleep(0.1 * 2**attempt)
        assert revos_gateway_sync.accepts(token)


def test_blocking_fallback_flow(revos_gateway_sync):
    revos_gateway_sync.auth_methods = {"client_secret_basic"}
    with blocking.TokenManager(revos_gateway_sync.config(enable_fallback=False)):
        with pytest.raises(RevosAuthenticationError):
            blocking.get_revos_token(use_fallback=False)
        assert blocking.get_consecutive_failures() == 1
        assert revos_gateway_sync.accepts(blocking.get_revos_token(use_fallback=True))
        assert blocking.get_consecutive_failures() == 0
