"""P1 to P9 in any schedule: whatever happens to a manager, in whatever order.

`schedule_world` says what can happen, `schedule_books` what must be so after each step.

The suite goes through the same schedules each time. To go through others, or more of them:

    SCHEDULES=20000 SCHEDULES_SEED=7 pytest tests/faults/test_any_schedule.py

A failure shows its seed and its schedule, made as short as can be. The same seed and number find it
again; `play(settings, events)` with what is shown plays it alone.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from typing import get_args

import anyio
import hypothesis
import pytest
from anyio.pytest_plugin import extract_backend_and_options
from hypothesis import HealthCheck
from hypothesis import strategies as st
from schedule_world import (
    EVENTS,
    Answers,
    Call,
    Cancel,
    Drop,
    Gateway,
    Hold,
    HoldGateway,
    Leave,
    Pass,
    Release,
    ReleaseGateway,
    Request,
    Revoke,
    Settings,
    SetWallClock,
    Subscribe,
    World,
    noting_step,
)

from revos import auth, policy
from revos.broadcast import Broadcast
from revos.refresher import Refresher

NUMBER = int(os.environ.get("SCHEDULES", "680"))  # for each backend
SEED = int(os.environ.get("SCHEDULES_SEED", "1"))

SETTINGS = st.builds(
    Settings,
    periodic=st.sampled_from([True, True, True, False]),
    has_fallback=st.sampled_from([True, True, True, False]),
    enable_fallback=st.sampled_from([True, True, True, False]),
    max_failures=st.sampled_from([1, 1, 1, 2]),
    max_retries=st.sampled_from([1, 2, 3, 10]),
    request_timeout=st.sampled_from([30.0, 5.0, 0.25, 300.0]),
    refresh_interval=st.sampled_from([2700.0, 30.0, 86_400.0]),
    buffer=st.sampled_from([300.0, 0.0]),
    gateway=st.sampled_from(["accepts", "accepts", "refuses"]),
    seed=st.integers(0, 1000),
)
SCHEDULE = st.lists(st.sampled_from(EVENTS), min_size=1, max_size=60)
# A cycle of the fallback that ends before it begins: rare, and it has to occur in each run.
TOLD_OFF = [
    *(Answers("503 for an hour"), Hold("head")),
    *(Call("force"), Call("force the fallback"), Release()),
]
# Delays of 1 s and 2 s.
REFUSED = [Request(0), Pass(1.5), Request(0), Pass(1.5), Request(0), Pass(1.0), Request(0)]
# A token that has expired by the time that its answer is whole.
EXPIRED = [Hold("body"), Drop("any"), Call("get_token"), SetWallClock(86_400.0), Release()]
# The same by the clock that does not jump, so asking once more would be for ever.
LATE = [Answers("1 s"), Hold("body"), Drop("any"), Call("get_token"), Pass(1.0), Release()]
# A delay that is cleared by a replay which is accepted while it runs.
CLEARED = [
    *(Request(0), Gateway("accepts", 0), Revoke(), HoldGateway(), Request(0), Call("force")),
    *(ReleaseGateway(), Revoke(), Request(0)),
]
# An event, and what the policy may decide on it: each of them has to occur.
DECIDED = {
    (policy.Ask, policy.Give),
    (policy.Ask, policy.Join),
    (policy.Ask, policy.Deny),
    (policy.Turn, policy.Attempt),
    (policy.Turn, policy.Wait),
    (policy.Turn, policy.Finished),
    (policy.Granted, policy.Finished),
    (policy.Failed, policy.Proceed),
    (policy.Failed, policy.Finished),
    (policy.Invalidate, policy.Proceed),
    (policy.Reset, policy.Proceed),
}


def test_no_event_and_no_decision_of_the_policy_is_left_out():
    events, decisions = zip(*DECIDED, strict=True)

    assert set(events) == set(get_args(policy.Event))
    assert set(decisions) == set(get_args(policy.Decision))


@pytest.fixture
def play(anyio_backend, monkeypatch, tmp_path, caplog):
    """Plays a schedule in an event loop of its own, and counts what the policy decides."""
    name, options = extract_backend_and_options(anyio_backend)
    monkeypatch.setattr(policy, "step", noting_step)
    caplog.set_level(logging.CRITICAL, logger="revos")  # There are thousands of failures.
    if name == "trio":
        import trio

        # Else Trio's tasks run in an order that no seed brings back; pytest-trio does the same.
        monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    seen = Counter()

    def play(settings, events):
        if name == "trio":
            trio._core._run._r.seed(settings.seed)
        play.times += 1
        world = World(settings, seen, tmp_path)
        anyio.run(world.run, events, backend=name, backend_options=options)

    play.seen, play.times = seen, 0
    return play


@pytest.mark.timeout(60 + NUMBER)
def test_in_any_schedule_every_promise_is_kept_and_every_decision_occurs(play):
    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=NUMBER,
        deadline=None,  # The first one imports.
        database=None,  # What failed is replayed by its seed.
        suppress_health_check=[HealthCheck.too_slow],  # On a loaded machine.
        print_blob=False,
    )
    @hypothesis.example(Settings(), TOLD_OFF)
    @hypothesis.example(Settings(), EXPIRED)
    @hypothesis.example(Settings(), LATE)
    @hypothesis.example(Settings(gateway="refuses"), REFUSED)
    @hypothesis.example(Settings(gateway="refuses"), CLEARED)
    @hypothesis.given(SETTINGS, SCHEDULE)
    def keep(settings, events):
        play(settings, events)

    try:
        keep()
    except BaseException as error:
        error.add_note(f"SCHEDULES={NUMBER} SCHEDULES_SEED={SEED}")
        raise

    decided = {(event.__name__, decision.__name__) for event, decision in DECIDED}
    assert set(play.seen) == decided
    assert play.times >= NUMBER


# The books find what is planted, or the test above could not fail.


def none(*args, **kwargs):
    """Whatever is asked for, there is none."""


async def obtain_with_the_flight_in_hand(self, ask, obtain=Refresher.obtain):
    try:
        return await obtain(self, ask)
    except anyio.get_cancelled_exc_class():
        self._flights.clear()
        raise


async def obtain_after_the_cycle(self, ask, obtain=Refresher.obtain):
    if not ask.force and self.state.cycle is not None:
        await self.clock.sleep(1.0)
    return await obtain(self, ask)


def publish_the_first(self, value, publish=Broadcast.publish):
    publish(self, self._value or value)


def close_without_a_word(self, error):
    self.closed = error


HELD = (Hold("head"), Drop("any"))
PLANTED = {
    "P1": ((policy, "_cycle_for", none), (*HELD, Call("get_token"))),
    "P2": (
        (Refresher, "obtain", obtain_with_the_flight_in_hand),
        (*HELD, Call("get_token", times=2), Cancel(0), Release()),
    ),
    "P3": (
        (Refresher, "obtain", obtain_after_the_cycle),
        (Hold("head"), Call("force"), Call("get_token")),
    ),
    "P4": (
        (policy.Held, "is_usable", lambda held, now: now.monotonic < held.unusable_at),
        (SetWallClock(3600.0), Call("get_token")),
    ),
    "P5": ((Broadcast, "publish", publish_the_first), (Subscribe(), Call("force"))),
    "P6": (
        (auth, "replay_refused", lambda refusals, *_: refusals),
        (Gateway("refuses", 0), Request(0), Request(0)),
    ),
    "P7": (
        (policy.Held, "is_due", lambda held, now: now.monotonic > held.due_at - 1000),
        (Pass(2000.0), Call("get_token")),
    ),
    "P8": ((policy, "pause", lambda *_: 0.01), (Answers("503"), Drop("any"))),
    "P9": ((Refresher, "close", close_without_a_word), (*HELD, Call("get_token"), Leave("end"))),
}


@pytest.mark.parametrize("promise", PLANTED)
def test_a_promise_that_is_broken_on_purpose_is_named(play, monkeypatch, promise):
    broken, events = PLANTED[promise]
    play(Settings(), events)

    monkeypatch.setattr(*broken)

    with pytest.raises(AssertionError, match=promise):
        play(Settings(), events)
