"""The clock of the simulations does what they rely on."""

import anyio
import pytest
from simulation import EventClock
from support import settle


async def test_the_clock_turns_from_timer_to_timer():
    clock, woken = EventClock(), []

    async def sleeper(seconds):
        await clock.sleep(seconds)
        woken.append((seconds, clock.now_monotonic))

    async with anyio.create_task_group() as tasks:
        for seconds in (0.1, 0.7, 30.3):
            tasks.start_soon(sleeper, seconds)
        await settle()
        before, wall = clock.now_monotonic, clock.now_time
        for _ in range(3):
            await clock.turn_to_next(2_000.0)
        none_left = clock.next_at
        await clock.turn_to_next(2_000.0)

    assert woken == [(seconds, before + seconds) for seconds in (0.1, 0.7, 30.3)]
    assert none_left is None
    assert clock.now_monotonic == 2_000.0
    assert clock.now_time == pytest.approx(wall + 1_000.0)


async def test_the_clock_never_turns_back():
    clock = EventClock(patience=1)

    await clock.turn_to(clock.now_monotonic - 5.0)

    assert clock.now_monotonic == 1_000.0


async def test_turning_until_something_ends_at_the_limit():
    clock = EventClock()

    await clock.turn_until(lambda: True)
    with pytest.raises(TimeoutError):
        await clock.turn_until(lambda: clock.now_monotonic > 1_100.0, limit=1_050.0)

    assert clock.now_monotonic == 1_050.0
