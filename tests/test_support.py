"""The stand-ins of `support`: what the tests of the promises rely on."""

import anyio
import httpx
import httpx2
import pytest
from anyio import to_thread
from support import HungDisk, ManualClock, ScriptedApi, ScriptedEndpoint, SentOnce, settle

from revos import credentials


async def test_the_manual_clock_wakes_who_is_due_and_nobody_else():
    clock, woken = ManualClock(), []

    async def sleep(seconds):
        await clock.sleep(seconds)
        woken.append(seconds)

    async with anyio.create_task_group() as tasks:
        for seconds in (3, 1, 2):
            tasks.start_soon(sleep, seconds)
        await settle()
        waiting = [clock.timers_waiting]
        await clock.advance(2)
        due = sorted(woken)
        waiting.append(clock.timers_waiting)
        await clock.advance(1)

    assert due == [1, 2]
    assert woken[-1] == 3
    assert waiting == [3, 1]
    assert (clock.timers_set, clock.timers_waiting) == (3, 0)
    assert (clock.monotonic(), clock.time()) == (1_003, 1_800_000_003)


async def test_a_hung_disk_gives_a_file_only_once_it_is_released(tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("s3cret")
    disk = HungDisk(monkeypatch)

    with anyio.move_on_after(0.02) as hung:
        await to_thread.run_sync(
            credentials.read_secret_file, str(tmp_path / "secret"), abandon_on_cancel=True
        )
    disk.release()
    text, _ = await to_thread.run_sync(credentials.read_secret_file, str(tmp_path / "secret"))

    assert hung.cancelled_caught
    assert text == "s3cret"


async def test_a_time_of_nought_does_not_wait():
    clock = ManualClock()

    with clock.move_on_after(0) as scope:
        await anyio.sleep_forever()

    assert scope.cancelled_caught


async def test_settling_waits_for_worker_threads_that_a_task_waits_for():
    seen = []

    async def work():
        seen.append(await to_thread.run_sync(lambda: "from the thread"))
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await settle()
        tasks.cancel_scope.cancel()

    assert seen == ["from the thread"]


async def test_a_scripted_endpoint_answers_by_script_and_then_with_numbered_tokens():
    endpoint = ScriptedEndpoint()
    endpoint.script = [503, httpx.ConnectError("made up"), lambda: httpx.Response(418)]

    async with endpoint.client() as http:
        unavailable = await http.post("http://127.0.0.1/token")
        with pytest.raises(httpx.ConnectError):
            await http.post("http://127.0.0.1/token")
        teapot = await http.post("http://127.0.0.1/token")
        granted = await http.post("http://127.0.0.1/token")

    assert (unavailable.status_code, teapot.status_code) == (503, 418)
    assert granted.json()["access_token"] == "token-4"
    assert endpoint.count == 4


async def test_a_scripted_endpoint_holds_its_requests_until_it_is_let_go():
    endpoint, answered = ScriptedEndpoint(), []

    async with endpoint.client() as http, anyio.create_task_group() as tasks:

        async def post():
            answered.append((await http.post("http://127.0.0.1/token")).status_code)

        with endpoint.hold():
            tasks.start_soon(post)
            tasks.start_soon(post)
            await settle()
            held = (endpoint.in_flight, list(answered))

    assert held == (2, [])
    assert answered == [200, 200]
    assert (endpoint.in_flight, endpoint.most_in_flight) == (0, 2)


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
async def test_a_scripted_api_tells_accepted_tokens_from_refused_ones(library):
    api = ScriptedApi(lambda token: token == "good")
    api.redirects = {"/v1/old": "/v1/new"}

    async with api.client(library) as http:
        statuses = [
            (await http.get(path, headers={"authorization": f"Bearer {token}"})).status_code
            for path, token in (("/a", "good"), ("/a", "bad"), ("/old", "good"))
        ]
    with api.sync_client(library) as http:
        statuses.append(http.get("/a").status_code)

    assert statuses == [200, 401, 307, 401]
    assert api.tokens == ["good", "bad", "good", None]


async def test_a_body_that_is_sent_once_is_empty_the_second_time():
    body = SentOnce()

    sent = [[part async for part in body] for _ in range(2)]

    assert sent == [[b"some", b"thing"], []]
