"""P2: refreshing happens in the manager's task group; cancelling a caller touches nobody else."""

import asyncio

import anyio
import pytest
import uvloop
from anyio import to_thread
from anyio.from_thread import start_blocking_portal
from anyio.lowlevel import checkpoint
from support import ScriptedApi, ScriptedEndpoint, manager, settle

# Without the loop, a caller is the first to ask: what its cancellation does shows only there.
ON_DEMAND = {"enable_periodic_refresh": False}


async def test_cancelling_the_only_caller_does_not_cancel_the_request():
    endpoint = ScriptedEndpoint()

    async with manager(endpoint, token=ON_DEMAND) as tm:
        with endpoint.hold():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tm.get_token)
                await settle()
                tasks.cancel_scope.cancel()
            still_in_flight = endpoint.in_flight
        await settle()
        token = tm.get_token_nowait()

    assert still_in_flight == 1
    assert token == "token-1"
    assert endpoint.count == 1


@pytest.mark.parametrize("steps", range(8))
async def test_cancelling_the_only_caller_after_any_number_of_steps_costs_no_second_request(steps):
    endpoint = ScriptedEndpoint()

    async with manager(endpoint, token=ON_DEMAND) as tm:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tm.get_token)
            for _ in range(steps):
                await checkpoint()
            tasks.cancel_scope.cancel()
        token = await tm.get_token()

    assert token == "token-1"
    assert endpoint.count == 1


async def test_cancelling_the_first_caller_leaves_the_others_their_token():
    endpoint, got = ScriptedEndpoint(), []

    async with manager(endpoint, token=ON_DEMAND) as tm:

        async def ask():
            got.append(await tm.get_token())

        first = anyio.CancelScope()

        async def ask_first():
            with first:
                await ask()

        async with anyio.create_task_group() as tasks:
            with endpoint.hold():
                tasks.start_soon(ask_first)
                await settle()
                tasks.start_soon(ask)
                tasks.start_soon(ask)
                await settle()
                first.cancel()
                await settle()
                # Who comes after the cancellation joins the same request.
                tasks.start_soon(ask)
                await settle()

    assert first.cancelled_caught
    assert got == ["token-1"] * 3
    assert endpoint.count == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda tm: tm.get_token(),
        lambda tm: tm.get_token(force_refresh=True),
        lambda tm: tm.refresh(),
        lambda tm: tm.refresh(superseding="token-0"),
        lambda tm: tm.refresh_extractor(),
        lambda tm: tm.get_token(use_fallback=True),
    ],
    ids=["get", "force", "refresh", "supersede", "extractor", "fallback"],
)
async def test_a_cancelled_caller_returns_at_once_although_the_endpoint_never_answers(ask):
    endpoint = ScriptedEndpoint()

    async with manager(endpoint, token=ON_DEMAND, fallback_auth_method="client_secret_basic") as tm:
        with endpoint.hold():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, tm)
                await settle()
                tasks.cancel_scope.cancel()
            returned_before_the_answer = endpoint.in_flight == 1

    assert returned_before_the_answer


@pytest.mark.parametrize("ask", ["get_token", "refresh"])
async def test_asking_is_a_checkpoint_although_a_token_is_held(ask):
    async with manager(ScriptedEndpoint()) as tm:
        token = await tm.get_token()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await (tm.get_token() if ask == "get_token" else tm.refresh(superseding="an older one"))
        still = await tm.get_token()

    assert scope.cancelled_caught
    assert still == token


async def test_a_callers_own_deadline_is_its_own():
    endpoint = ScriptedEndpoint()

    async with manager(endpoint, token=ON_DEMAND) as tm:
        with endpoint.hold():
            with pytest.raises(TimeoutError), anyio.fail_after(0.01):
                await tm.get_token()
            await settle()
        token = await tm.get_token()

    assert token == "token-1"
    assert endpoint.count == 1


async def test_the_request_runs_in_none_of_the_callers_tasks():
    endpoint = ScriptedEndpoint()
    tasks_of_requests, callers = set(), set()

    def note_task():
        tasks_of_requests.add(anyio.get_current_task().id)
        return 200

    async with manager(endpoint, token=ON_DEMAND) as tm:
        endpoint.script = [note_task, note_task, note_task]

        async def ask():
            callers.add(anyio.get_current_task().id)
            await tm.get_token(force_refresh=True)

        for _ in range(3):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                tasks.start_soon(ask)

    assert endpoint.count == 3
    assert len(tasks_of_requests) == 1
    assert not tasks_of_requests & callers


async def test_cancelling_an_http_request_that_waits_for_its_token_does_not_cancel_the_refresh():
    endpoint, api = ScriptedEndpoint(), ScriptedApi()

    async with (
        manager(endpoint, token=ON_DEMAND) as tm,
        api.client(auth=tm.auth) as http,
    ):
        with endpoint.hold():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(http.get, "/models")
                await settle()
                tasks.cancel_scope.cancel()
        await settle()
        response = await http.get("/models")

    assert response.status_code == 200
    assert api.tokens == ["token-1"]
    assert endpoint.count == 1


async def test_cancelling_a_refused_request_that_waits_does_not_cancel_the_refresh():
    endpoint, api = ScriptedEndpoint(), ScriptedApi(lambda token: token != "token-1")

    async with (
        manager(endpoint, token=ON_DEMAND) as tm,
        api.client(auth=tm.auth) as http,
    ):
        await tm.get_token()
        with endpoint.hold():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(http.get, "/models")
                await settle()
                tasks.cancel_scope.cancel()
        await settle()
        token = tm.get_token_nowait()

    assert token == "token-2"
    assert api.tokens == ["token-1"]


async def test_a_thread_that_gives_up_does_not_cancel_the_request():
    endpoint, api = ScriptedEndpoint(), ScriptedApi()

    async with manager(endpoint, token=ON_DEMAND) as tm:

        def send():
            with api.sync_client(auth=tm.auth) as http:
                http.get("/models")

        async def in_thread():
            await to_thread.run_sync(send, abandon_on_cancel=True)

        with endpoint.hold():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(in_thread)
                await endpoint.started.wait()
                tasks.cancel_scope.cancel()
            still_in_flight = endpoint.in_flight
        token = await tm.get_token()

    assert still_in_flight == 1
    assert token == "token-1"
    assert endpoint.count == 1


@pytest.mark.parametrize("other_loop", ["asyncio", "trio"])
async def test_a_caller_in_another_event_loop_that_gives_up_does_not_cancel_the_request(other_loop):
    endpoint, api = ScriptedEndpoint(), ScriptedApi()

    async with manager(endpoint, token=ON_DEMAND) as tm:

        async def send():
            async with api.client(auth=tm.auth) as http, anyio.create_task_group() as tasks:
                tasks.start_soon(http.get, "/models")
                while not endpoint.in_flight:
                    await anyio.sleep(0.001)
                tasks.cancel_scope.cancel()
            return tasks.cancel_scope.cancel_called

        def other_thread():
            with start_blocking_portal(other_loop) as portal:
                return portal.call(send)

        with endpoint.hold():
            gave_up = await to_thread.run_sync(other_thread)
            still_in_flight = endpoint.in_flight
        token = await tm.get_token()

    assert gave_up
    assert still_in_flight == 1
    assert token == "token-1"
    assert endpoint.count == 1


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_native_cancellation_of_a_caller_on_asyncio_touches_nobody_else(run):
    endpoint = ScriptedEndpoint()

    async def main():
        async with manager(endpoint, token=ON_DEMAND) as tm:
            with endpoint.hold():
                first = asyncio.create_task(tm.get_token())
                second = asyncio.create_task(tm.get_token())
                await settle()
                first.cancel()
                await asyncio.wait([first])
                still_in_flight = endpoint.in_flight
            return first.cancelled(), still_in_flight, await second

    assert run(main()) == (True, 1, "token-1")
    assert endpoint.count == 1
