"""P5: a subscriber gets the current token at once and then each newer one; a slow one skips."""

import anyio
import pytest
from support import ManualClock, ScriptedEndpoint, manager, settle

from revos import RevosClosedError

ON_DEMAND = {"enable_periodic_refresh": False}


async def test_a_subscriber_gets_the_current_token_at_once_and_then_each_newer_one():
    endpoint, got = ScriptedEndpoint(), []

    async with manager(endpoint) as tm:
        await tm.get_token()
        async with tm.subscribe() as stream:
            got.append(stream.receive_nowait().value)
            for _ in range(3):
                await tm.refresh()
                got.append((await stream.receive()).value)
            with pytest.raises(anyio.WouldBlock):
                stream.receive_nowait()

    assert got == ["token-1", "token-2", "token-3", "token-4"]


async def test_a_subscriber_that_comes_first_waits_for_the_first_token():
    endpoint = ScriptedEndpoint()

    async with manager(endpoint, token=ON_DEMAND) as tm, tm.subscribe() as stream:
        nothing_yet = stream.latest
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tm.get_token)
            token = await stream.receive()

    assert nothing_yet is None
    assert token.value == "token-1"


async def test_a_slow_subscriber_skips_to_the_newest_and_delays_nobody():
    endpoint, quick_got = ScriptedEndpoint(), []

    async with manager(endpoint) as tm:
        await tm.get_token()
        async with tm.subscribe() as slow, tm.subscribe() as quick, tm.subscribe():
            first = await slow.receive()
            for _ in range(50):
                await tm.refresh()
                quick_got.append((await quick.receive()).value)
            newest = await slow.receive()
            with pytest.raises(anyio.WouldBlock):
                slow.receive_nowait()

    assert first.value == "token-1"
    assert quick_got == [f"token-{number}" for number in range(2, 52)]
    assert newest.value == "token-51"


async def test_no_subscriber_gets_an_older_token_after_a_newer_one():
    endpoint, clock, got = ScriptedEndpoint(), ManualClock(), {}

    async with anyio.create_task_group() as tasks, manager(endpoint, clock) as tm:
        opened = [anyio.Event() for _ in range(10)]

        async def read(number):
            async with tm.subscribe() as stream:
                opened[number].set()
                async for token in stream:
                    got.setdefault(number, []).append(int(token.value.removeprefix("token-")))

        for number, event in enumerate(opened):
            tasks.start_soon(read, number)
            await event.wait()
            await clock.advance(2700)
            await tm.refresh()
            tm.invalidate()
            await tm.get_token()
        await settle()

    assert len(got) == 10
    assert all(numbers == sorted(set(numbers)) for numbers in got.values())
    assert {numbers[-1] for numbers in got.values()} == {endpoint.count}


async def test_the_stream_ends_when_the_manager_closes():
    endpoint, got = ScriptedEndpoint(), []

    async with anyio.create_task_group() as tasks, manager(endpoint) as tm:

        async def read():
            async with tm.subscribe() as stream:
                got.extend([token.value async for token in stream])
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
                got.append(stream.latest)

        tasks.start_soon(read)
        await tm.get_token()
        await settle()

    assert got == ["token-1", None]


async def test_a_cancelled_receive_loses_no_token():
    endpoint = ScriptedEndpoint()

    async with manager(endpoint) as tm, tm.subscribe() as stream:
        await stream.receive()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stream.receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.receive)
            await settle()
            tasks.cancel_scope.cancel()
        await tm.refresh()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stream.receive()
        token = await stream.receive()

    assert token.value == "token-2"


async def test_two_tasks_on_one_stream_get_each_token_once():
    endpoint, got = ScriptedEndpoint(), []

    async with manager(endpoint) as tm, tm.subscribe() as stream:
        await stream.receive()

        async def receive():
            got.append((await stream.receive()).value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            tasks.start_soon(receive)
            await settle()
            await tm.refresh()
            await settle()
            after_one = list(got)
            await tm.refresh()

    assert after_one == ["token-2"]
    assert got == ["token-2", "token-3"]


async def test_a_closed_stream_says_so_and_leaves_the_others_alone():
    endpoint, ended = ScriptedEndpoint(), []

    async with manager(endpoint) as tm, tm.subscribe() as other:
        await other.receive()
        async with anyio.create_task_group() as tasks, tm.subscribe() as stream:
            await stream.receive()

            async def wait():
                with pytest.raises(anyio.ClosedResourceError):
                    await stream.receive()
                ended.append(True)

            tasks.start_soon(wait)
            await settle()
            await stream.aclose()
            await settle()
        await tm.refresh()
        token = await other.receive()

    assert ended == [True]
    assert token.value == "token-2"


async def test_a_dropped_token_is_not_the_latest_and_the_next_one_is():
    endpoint = ScriptedEndpoint()

    async with manager(endpoint, token=ON_DEMAND) as tm, tm.subscribe() as stream:
        await tm.get_token()
        tm.invalidate()
        dropped = stream.latest
        with pytest.raises(anyio.WouldBlock):
            stream.receive_nowait()
        await tm.get_token()
        newer = stream.latest
        received = stream.receive_nowait()

    assert dropped is None
    assert newer == received
    assert received.value == "token-2"


async def test_a_failed_refresh_sends_subscribers_nothing():
    endpoint = ScriptedEndpoint()

    async with manager(endpoint, ManualClock()) as tm, tm.subscribe() as stream:
        await stream.receive()
        endpoint.script = [400]
        await tm.refresh_extractor()
        with pytest.raises(anyio.WouldBlock):
            stream.receive_nowait()
        latest = stream.latest

    assert latest.value == "token-1"


async def test_subscribing_outside_the_block_is_an_error():
    endpoint = ScriptedEndpoint()
    tm = manager(endpoint)

    with pytest.raises(RevosClosedError):
        await tm.subscribe().__aenter__()
    async with tm:
        await tm.get_token()
    with pytest.raises(RevosClosedError):
        await tm.subscribe().__aenter__()


async def test_a_subscriber_that_never_reads_delays_no_refresh():
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock) as tm, tm.subscribe() as stream:
        await tm.get_token()
        for _ in range(20):
            await clock.advance(2700)
        newest = stream.receive_nowait()

    assert endpoint.count == 21
    assert newest.value == "token-21"
