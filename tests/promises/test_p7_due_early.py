"""P7: a refresh is due early, spread out, and nothing polls."""

import pytest
from support import ManualClock, ScriptedEndpoint, config, manager, settle

from revos import TokenManager

ON_DEMAND = {"enable_periodic_refresh": False}

# lifetime (s), refresh interval (min), buffer (min) -> due after (s), by the formula of P7
DUE = [
    (3600, 45, 5, 2700),  # the interval
    (3600, 60, 5, 3270),  # lifetime less leeway and buffer
    (3600, 1440, 0, 3570),  # less leeway alone
    (600, 45, 5, 300),  # half the lifetime
    (60, 45, 5, 30),
    (100, 1440, 0, 90),
    (7200, 0.5, 60, 30),
    (1, 45, 5, 0.5),
]


@pytest.mark.parametrize(("lifetime", "interval", "buffer", "due"), DUE)
@pytest.mark.parametrize("random", [0.0, 0.5, 0.999999])
async def test_a_refresh_is_due_by_the_formula_less_up_to_a_tenth(
    lifetime, interval, buffer, due, random
):
    endpoint, clock = ScriptedEndpoint(lifetime), ManualClock()
    settings = {"token": {"refresh_interval_minutes": interval}, "token_buffer_minutes": buffer}
    due *= 1 - random / 10

    async with manager(endpoint, clock, random, **settings) as tm:
        await tm.get_token()
        await clock.advance(due - 0.01)
        before = endpoint.count
        await clock.advance(0.02)

    assert before == 1
    assert endpoint.count == 2


async def test_the_interval_of_the_constructor_counts():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    tm = TokenManager(
        config(),
        refresh_interval_minutes=1,
        http_client=endpoint.client(),
        _clock=clock,
        _random=lambda: 0.0,
    )

    async with tm:
        await tm.get_token()
        await clock.advance(59.9)
        before = endpoint.count
        await clock.advance(0.2)

    assert (before, endpoint.count) == (1, 2)


async def test_replicas_do_not_ask_in_step():
    clock, asked = ManualClock(), []
    endpoints = [ScriptedEndpoint() for _ in range(40)]

    async def open_next(rest):
        if rest:
            tm = TokenManager(config(), http_client=rest[0].client(), _clock=clock)
            async with tm:
                await open_next(rest[1:])
        else:
            await settle()
            for seconds in (2429.9, 135.1, 135.1):
                await clock.advance(seconds)
                asked.append(sum(endpoint.count == 2 for endpoint in endpoints))

    await open_next(endpoints)

    assert asked[0] == 0
    assert 0 < asked[1] < 40
    assert asked[2] == 40


async def test_between_two_refreshes_there_is_one_timer_and_no_polling():
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock) as tm:
        await tm.get_token()
        await settle()
        timers = clock.timers_set
        for _ in range(100):
            await clock.advance(20)
            await tm.get_token()
        waiting = clock.timers_waiting

    assert clock.timers_set == timers
    assert waiting == 1
    assert endpoint.count == 1


async def test_on_demand_there_is_no_timer_and_no_refresh_that_nobody_asked_for():
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock, token=ON_DEMAND) as tm:
        await settle()
        unasked = endpoint.count
        await tm.get_token()
        await settle()
        waiting = clock.timers_waiting
        timers = clock.timers_set
        for _ in range(10):
            await clock.advance(3600)

    assert unasked == 0
    assert waiting == 0
    assert clock.timers_set == timers
    assert endpoint.count == 1


async def test_a_week_of_refreshes_asks_as_often_as_the_interval_says():
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock) as tm:
        for _ in range(7 * 24 * 60 // 45):
            await tm.get_token()
            await clock.advance(45 * 60)

    assert endpoint.count == 7 * 24 * 60 // 45 + 1
