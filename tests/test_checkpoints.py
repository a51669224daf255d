"""The harness finds each kind of hole that it looks for, or the sweeps could not fail."""

from __future__ import annotations

import contextlib
import socket
import threading

import anyio
import pytest
from anyio import to_thread
from anyio.from_thread import start_blocking_portal
from anyio.lowlevel import checkpoint
from checkpoints import Attempt, cancel_everywhere, is_in


async def step():
    await checkpoint()


async def walk():
    await step()
    event = anyio.Event()
    event.set()
    await event.wait()
    await step()


async def test_an_operation_is_cancelled_at_each_of_its_checkpoints_and_then_gets_through():
    stopped = []

    async def trial(attempt):
        await attempt(walk)
        stopped.append(len(attempt.places) if attempt.cancelled_in else None)

    swept = await cancel_everywhere(trial)

    assert stopped == [None, None, 1, 2, 3, None]
    assert [is_in(place, "walk", "step", "checkpoint") for place in swept.places] == [
        True,
        False,
        True,
    ]
    assert swept.count_in("walk", "Event.wait") == 1
    assert swept.count_in("step", "walk") == 0
    assert swept.too_late == []
    assert (swept.count_in("walk", "step"), swept.raised_in("walk", "step")) == (2, 2)
    assert 0 < swept.slowest < 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_it_can_be_cancelled_as_asyncio_does_it():
    async def shielded():
        with anyio.CancelScope(shield=True):
            await step()

    async def trial(attempt):
        await attempt(shielded)
        assert attempt.finished is not attempt.cancel_called

    swept = await cancel_everywhere(trial, native=True)

    assert swept.count_in("shielded", "step") == len(swept.places) == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("how", "steps"), [("native", 3), ("stubborn", 0)])
async def test_a_stubborn_one_cancels_the_unwinding_too(how, steps):
    unwound = []

    async def unwind():
        try:
            await step()
        finally:
            unwound.append(0)
            for _ in range(3):
                await step()
                unwound[-1] += 1

    async def trial(attempt):
        await attempt(unwind)

    await cancel_everywhere(trial, **{how: True})

    assert unwound[:3] == [3, 3, steps]  # The third run is cancelled first.


async def test_a_cancellation_behind_a_shield_comes_too_late():
    async def shielded():
        with anyio.CancelScope(shield=True):
            await step()

    async def trial(attempt):
        await attempt(shielded)

    swept = await cancel_everywhere(trial)

    assert [is_in(place, "shielded", "step") for place in swept.too_late] == [True]
    assert (swept.count_in("shielded"), swept.raised_in("shielded")) == (1, 0)


async def swallow():
    with contextlib.suppress(anyio.get_cancelled_exc_class()):
        await step()


async def turn_into_another_exception():
    try:
        await step()
    except anyio.get_cancelled_exc_class():
        raise ZeroDivisionError from None


async def leave_a_descriptor(cleanup):
    left = socket.socket()
    cleanup.callback(left.close)
    await step()
    left.close()


async def leave_a_thread(cleanup):
    event = threading.Event()
    cleanup.callback(event.set)
    threading.Thread(target=event.wait, daemon=True).start()
    await step()
    event.set()


@pytest.mark.parametrize("operation", [swallow, turn_into_another_exception])
async def test_a_cancellation_that_is_not_passed_on_is_found(operation):
    async def trial(attempt):
        await attempt(operation)

    with pytest.raises((AssertionError, ZeroDivisionError)) as caught:
        await cancel_everywhere(trial)

    assert "cancelled 1th" in caught.value.__notes__[0]
    assert operation.__name__ in caught.value.__notes__[0]


@pytest.mark.parametrize("operation", [leave_a_descriptor, leave_a_thread])
async def test_what_only_a_cancelled_run_leaves_behind_is_found(operation, monkeypatch):
    monkeypatch.setattr("checkpoints.PATIENCE", 0.1)

    async with contextlib.AsyncExitStack() as cleanup:

        async def trial(attempt):
            await attempt(operation, cleanup)

        with pytest.raises(AssertionError) as caught:
            await cancel_everywhere(trial)

    assert "cancelled 1th" in caught.value.__notes__[0]


async def test_a_task_that_only_a_cancelled_run_leaves_behind_is_found(monkeypatch):
    monkeypatch.setattr("checkpoints.PATIENCE", 0.1)

    async with anyio.create_task_group() as tasks:

        async def wait_for(event):
            await event.wait()

        async def leave_a_task():
            event = anyio.Event()
            tasks.start_soon(wait_for, event)
            await step()
            event.set()

        async def trial(attempt):
            await attempt(leave_a_task)

        with pytest.raises(AssertionError) as caught:
            await cancel_everywhere(trial)
        tasks.cancel_scope.cancel()

    assert "cancelled 1th" in caught.value.__notes__[0]


async def test_runs_that_differ_are_found():
    runs = []

    async def differ():
        runs.append(None)
        for _ in runs:
            await step()

    async def trial(attempt):
        await attempt(differ)

    with pytest.raises(AssertionError):
        await cancel_everywhere(trial)


async def test_counting_may_begin_in_the_middle():
    async def trial(attempt):
        async def operation():
            await step()
            attempt.count_from_here()
            await walk()

        attempt.count_later()
        await attempt(operation)

    swept = await cancel_everywhere(trial)

    assert swept.count_in("walk") == len(swept.places) == 3


async def test_a_part_of_the_operation_is_watched_in_another_task_and_in_another_event_loop():
    async def trial(attempt):
        watched = attempt.watching(walk)

        async def operation():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watched)
            with start_blocking_portal() as portal:
                await portal.call_async(watched)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watched)  # By somebody else: this does not count.
            await attempt(operation)

    swept = await cancel_everywhere(trial)

    assert swept.count_in("walk") == len(swept.places) == 6
    assert len(swept.attempts) == 6
    assert swept.too_late == []


async def test_a_part_that_goes_on_after_the_operation_is_found():
    async with anyio.create_task_group() as tasks:

        async def trial(attempt):
            async def leave_behind():
                tasks.start_soon(attempt.watching(walk))
                await step()

            await attempt(leave_behind)

        with pytest.raises(AssertionError, match="goes on without it"):
            await cancel_everywhere(trial)


async def test_a_place_shows_through_async_generators():
    async def numbers():
        await step()
        yield 1

    async def trial(attempt):
        async def read():
            async with contextlib.aclosing(numbers()) as found:
                return [number async for number in found]

        await attempt(read)

    swept = await cancel_everywhere(trial)

    assert swept.count_in("read", "numbers", "step", "checkpoint") == len(swept.places) == 1


async def test_an_exception_of_the_operation_comes_out():
    async def fail():
        await step()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Attempt()(fail)


async def test_a_thread_of_a_worker_pool_is_nobodys():
    async def trial(attempt):
        await attempt(to_thread.run_sync, int)

    swept = await cancel_everywhere(trial)

    assert swept.count_in("run_sync") == len(swept.places) >= 2
