"""P3: between "due for refresh" and expiry the held token is given at once, whatever happens."""

import threading
from functools import partial

import httpx
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint
from support import ManualClock, ScriptedApi, ScriptedEndpoint, manager, settle

ON_DEMAND = {"enable_periodic_refresh": False}
BOTH_MODES = pytest.mark.parametrize("token", [{}, ON_DEMAND], ids=["loop", "on-demand"])
DUE, UNUSABLE = 2700, 3570  # of a token of one hour, with the default settings and no randomness


@BOTH_MODES
async def test_a_due_token_is_given_at_once_while_the_endpoint_is_slow(token):
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock, token=token) as tm:
        await tm.get_token()
        with endpoint.hold():
            await clock.advance(DUE)
            first = await tm.get_token()
            await settle()
            in_flight = endpoint.in_flight
            second = await tm.get_token()
            at_once = tm.get_token_nowait()
        await settle()
        newer = await tm.get_token()

    assert (first, second, at_once) == ("token-1",) * 3
    assert in_flight == 1
    assert newer == "token-2"
    assert endpoint.count == 2


@BOTH_MODES
async def test_a_due_token_is_given_at_once_between_retries_and_during_an_outage(token):
    endpoint, clock, got = ScriptedEndpoint(), ManualClock(), []

    async with manager(endpoint, clock, token=token) as tm:
        await tm.get_token()
        endpoint.script = [503] * 1_000
        for _ in range(DUE // 30):
            await clock.advance(30)
        for _ in range(260):
            got.append(await tm.get_token())
            await clock.advance(3)
        failures = tm.consecutive_failures

    assert got == ["token-1"] * 260
    assert failures > 3


async def test_a_due_token_is_given_up_to_the_last_moment_before_it_is_unusable():
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock) as tm:
        await tm.get_token()
        with endpoint.hold():
            await clock.advance(UNUSABLE - 0.001)
            token = await tm.get_token()

    assert token == "token-1"


@BOTH_MODES
async def test_http_requests_go_out_with_a_due_token_while_its_refresh_hangs(token):
    endpoint, clock, api = ScriptedEndpoint(), ManualClock(), ScriptedApi()

    async with (
        manager(endpoint, clock, token=token) as tm,
        api.client(auth=tm.auth) as http,
    ):
        await tm.get_token()
        with endpoint.hold():
            await clock.advance(DUE)
            response = await http.get("/models")
            await settle()
            in_flight = endpoint.in_flight

    assert response.status_code == 200
    assert api.tokens == ["token-1"]
    assert in_flight == 1


@BOTH_MODES
async def test_threads_send_with_a_due_token_while_its_refresh_hangs(token):
    endpoint, clock, api = ScriptedEndpoint(), ManualClock(), ScriptedApi()

    async with manager(endpoint, clock, token=token) as tm:
        await tm.get_token()

        def send():
            with api.sync_client(auth=tm.auth) as http:
                return http.get("/models").status_code

        with endpoint.hold():
            await clock.advance(DUE)
            status = await to_thread.run_sync(send)

    assert status == 200
    assert api.tokens == ["token-1"]


async def test_on_demand_the_use_of_a_due_token_starts_its_refresh():
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock, token=ON_DEMAND) as tm:
        await tm.get_token()
        await clock.advance(DUE + 100)
        unasked = endpoint.count
        first = await tm.get_token()
        await settle()
        second = await tm.get_token()

    assert unasked == 1
    assert (first, second) == ("token-1", "token-2")


async def test_on_demand_an_http_request_with_a_due_token_starts_its_refresh():
    endpoint, clock, api = ScriptedEndpoint(), ManualClock(), ScriptedApi()

    async with (
        manager(endpoint, clock, token=ON_DEMAND) as tm,
        api.client(auth=tm.auth) as http,
    ):
        await tm.get_token()
        await clock.advance(DUE)
        await http.get("/models")
        await settle()
        await http.get("/models")

    assert api.tokens == ["token-1", "token-2"]


async def test_use_fallback_gives_the_usable_token_without_a_request():
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock, fallback_auth_method="client_secret_basic") as tm:
        await tm.get_token()
        token = await tm.get_token(use_fallback=True)

    assert token == "token-1"
    assert endpoint.count == 1


async def test_a_failed_forced_refresh_leaves_the_usable_token_to_everybody():
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock) as tm:
        await tm.get_token()
        endpoint.script = [400]
        worked = await tm.refresh_extractor()
        token = await tm.get_token()

    assert not worked
    assert token == "token-1"


@pytest.mark.parametrize("kind", [httpx.AsyncClient, httpx.Client])
async def test_a_request_in_another_thread_waits_for_nothing_of_the_managers_loop(kind, run):
    transport = httpx.MockTransport(lambda request: httpx.Response(200, request=request))
    sent = []

    async def send():
        async with httpx.AsyncClient(transport=transport, auth=tm.auth) as http:
            sent.append(await http.get(tm.config.revos.base_url))

    def send_blocking():
        with httpx.Client(transport=transport, auth=tm.auth) as http:
            sent.append(http.get(tm.config.revos.base_url))

    async with manager(ScriptedEndpoint(), ManualClock()) as tm:
        await tm.get_token()
        work = partial(run, send) if kind is httpx.AsyncClient else send_blocking
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(10)  # Nothing turns this loop meanwhile.
        is_over = not thread.is_alive()

    assert is_over
    assert [one.request.headers["authorization"] for one in sent] == ["Bearer token-1"]


async def test_entering_waits_for_no_network():
    endpoint = ScriptedEndpoint()

    with endpoint.hold():
        async with manager(endpoint) as tm:
            running = tm.is_background_service_running()
            await checkpoint()

    assert running
    assert endpoint.count <= 1


async def test_a_transport_that_never_comes_back_does_not_keep_a_usable_token_from_anybody():
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock) as tm:
        await tm.get_token()
        endpoint.script = [httpx.ConnectTimeout("made up")] * 100
        await clock.advance(DUE)
        token = await tm.get_token()
        last_error = tm.status.last_error

    assert token == "token-1"
    assert last_error is None  # The cycle goes on; nothing has failed yet.
