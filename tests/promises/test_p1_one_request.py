"""P1: at most one token request is in flight, and all who ask get its outcome."""

import gc

import anyio
import httpx
import pytest
from anyio import to_thread
from anyio.from_thread import start_blocking_portal
from support import ManualClock, ScriptedApi, ScriptedEndpoint, manager, settle

from revos import RevosAuthenticationError, refresher

ON_DEMAND = {"enable_periodic_refresh": False}
BOTH_MODES = pytest.mark.parametrize("token", [{}, ON_DEMAND], ids=["loop", "on-demand"])


async def test_ten_thousand_callers_of_whom_half_give_up_cause_one_request():
    endpoint, got = ScriptedEndpoint(), []

    async with manager(endpoint, token=ON_DEMAND) as tm:

        async def ask():
            got.append(await tm.get_token())

        async with anyio.create_task_group() as patient, anyio.create_task_group() as hasty:
            with endpoint.hold():
                for _ in range(5_000):
                    hasty.start_soon(ask)
                    patient.start_soon(ask)
                await settle()
                hasty.cancel_scope.cancel()
                await settle()

    assert got == ["token-1"] * 5_000
    assert endpoint.count == 1


async def test_forcing_joins_the_request_in_flight():
    endpoint, got = ScriptedEndpoint(), []

    async with manager(endpoint) as tm, anyio.create_task_group() as tasks:

        async def ask(**options):
            got.append(await tm.get_token(**options))

        async def refresh(**options):
            got.append((await tm.refresh(**options)).value)

        with endpoint.hold():
            await settle()
            tasks.start_soon(ask)
            tasks.start_soon(lambda: ask(force_refresh=True))
            tasks.start_soon(refresh)
            tasks.start_soon(lambda: refresh(superseding="token-0"))
            await settle()

    assert got == ["token-1"] * 4
    assert endpoint.count == 1


@BOTH_MODES
async def test_those_who_force_a_refresh_together_share_one(token):
    endpoint, got = ScriptedEndpoint(), []

    async with manager(endpoint, token=token) as tm:
        await tm.get_token()

        async def force():
            got.append(await tm.get_token(force_refresh=True))

        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(force)

    assert got == ["token-2"] * 100
    assert endpoint.count == 2


@BOTH_MODES
async def test_all_who_wait_get_the_failure_of_the_one_request(token):
    endpoint, errors = ScriptedEndpoint(), []
    endpoint.script = [400]

    async with manager(endpoint, ManualClock(), token=token) as tm:

        async def ask():
            with pytest.raises(RevosAuthenticationError) as caught:
                await tm.get_token()
            errors.append(caught.value)

        async with anyio.create_task_group() as tasks:
            with endpoint.hold():
                for _ in range(100):
                    tasks.start_soon(ask)
                await settle()

    assert len(errors) == 100
    assert {error.attempts for error in errors} == {1}
    assert endpoint.count == 1


async def test_who_wants_the_fallback_waits_until_the_request_in_flight_is_over():
    endpoint, got = ScriptedEndpoint(), []

    async with (
        manager(endpoint, fallback_auth_method="client_secret_basic") as tm,
        anyio.create_task_group() as tasks,
    ):

        async def ask(**options):
            got.append(await tm.get_token(**options))

        with endpoint.hold():
            await settle()
            tasks.start_soon(lambda: ask(use_fallback=True, force_refresh=True))
            tasks.start_soon(ask)
            await settle()
            in_flight = endpoint.count

    assert in_flight == 1
    assert sorted(got) == ["token-1", "token-2"]
    assert endpoint.most_in_flight == 1
    assert [request.headers.get("authorization", "none")[:5] for request in endpoint.requests] == [
        "none",
        "Basic",
    ]


async def test_a_due_refresh_and_callers_who_force_share_one_request():
    endpoint, clock, got = ScriptedEndpoint(), ManualClock(), []

    async with manager(endpoint, clock) as tm:
        await tm.get_token()

        async def force():
            got.append(await tm.get_token(force_refresh=True))

        async with anyio.create_task_group() as tasks:
            with endpoint.hold():
                await clock.advance(2700)
                for _ in range(10):
                    tasks.start_soon(force)
                await settle()

    assert got == ["token-2"] * 10
    assert endpoint.count == 2


@BOTH_MODES
async def test_threads_with_a_blocking_client_share_the_request_of_the_tasks(token):
    endpoint, api, got = ScriptedEndpoint(), ScriptedApi(), []

    async with manager(endpoint, token=token) as tm:

        def send():
            with api.sync_client(auth=tm.auth) as http:
                return http.get("/models").status_code

        async def in_thread():
            got.append(await to_thread.run_sync(send))

        async with anyio.create_task_group() as tasks:
            with endpoint.hold():
                for _ in range(20):
                    tasks.start_soon(in_thread)
                    tasks.start_soon(tm.get_token)
                await endpoint.started.wait()
                await anyio.sleep(0.02)  # Threads: there is nothing that tells that they wait.

    assert got == [200] * 20
    assert set(api.tokens) == {"token-1"}
    assert endpoint.count == 1


async def test_threads_get_the_token_without_waiting_and_without_a_request():
    endpoint = ScriptedEndpoint()

    async with manager(endpoint) as tm:
        with endpoint.hold():
            await settle()
            with pytest.raises(anyio.WouldBlock):
                await to_thread.run_sync(tm.get_token_nowait)
        await tm.get_token()
        got = []

        async def in_thread():
            got.append(await to_thread.run_sync(tm.get_token_nowait))

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(in_thread)

    assert got == ["token-1"] * 50
    assert endpoint.count == 1


@BOTH_MODES
@pytest.mark.parametrize("other_loop", ["asyncio", "trio"])
async def test_clients_in_another_event_loop_share_the_request(token, other_loop):
    endpoint, api, got = ScriptedEndpoint(), ScriptedApi(), []

    async with manager(endpoint, token=token) as tm:

        async def send():
            async with api.client(auth=tm.auth) as http:
                got.append((await http.get("/models")).status_code)

        async def send_ten():
            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(send)

        def other_thread():
            with start_blocking_portal(other_loop) as portal:
                portal.call(send_ten)

        async with anyio.create_task_group() as tasks:
            with endpoint.hold():
                tasks.start_soon(to_thread.run_sync, other_thread)
                tasks.start_soon(tm.get_token)
                await endpoint.started.wait()
                await anyio.sleep(0.02)

    assert got == [200] * 10
    assert set(api.tokens) == {"token-1"}
    assert endpoint.count == 1


async def test_a_cycle_that_is_over_is_forgotten():
    def flights():
        return sum(type(found) is refresher._Flight for found in gc.get_objects())

    gc.collect()
    before = flights()
    async with manager(ScriptedEndpoint()) as tm:
        for _ in range(50):
            await tm.get_token(force_refresh=True)
        after = flights()

    assert after <= before + 2


async def test_two_managers_never_share_a_request():
    endpoint, other = ScriptedEndpoint(), ScriptedEndpoint()

    async with manager(endpoint) as tm, manager(other) as second:
        await tm.get_token()
        await second.get_token()
        await second.get_token(force_refresh=True)

    assert (endpoint.count, other.count) == (1, 2)


async def test_refused_requests_of_the_gateway_join_the_request_in_flight():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    api = ScriptedApi(lambda token: token == "token-2")
    answers: list[httpx.Response] = []

    async with manager(endpoint, clock) as tm, api.client(auth=tm.auth) as http:
        await tm.get_token()

        async def send():
            answers.append(await http.get("/models"))

        async with anyio.create_task_group() as tasks:
            with endpoint.hold():
                await clock.advance(2700)
                for _ in range(10):
                    tasks.start_soon(send)
                await settle()

    assert [answer.status_code for answer in answers] == [200] * 10
    assert endpoint.count == 2
