"""The policy: every rule of P3, P4, P6, P7, P8 and of section 5, then any order of events, then a
month.
"""

import math
from datetime import UTC, datetime
from itertools import pairwise
from random import Random

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from revos.oauth2 import Failure, Grant
from revos.policy import (
    Ask,
    Attempt,
    Deny,
    Failed,
    Finished,
    Give,
    Granted,
    Invalidate,
    Join,
    Now,
    Proceed,
    Refusals,
    Reset,
    Rules,
    State,
    Turn,
    Wait,
    Way,
    pause,
    replay_accepted,
    replay_refused,
    step,
    untried_accepted,
)

PRIMARY, FALLBACK = Way.PRIMARY, Way.FALLBACK
START = Now(100.0, 1_800_000_000.0)
HIGHEST = math.nextafter(1.0, 0.0)  # of what `random` may be
A_BIT = 0.001
RULES = Rules(
    refresh_interval=2700.0,
    buffer=300.0,
    max_attempts=3,
    request_timeout=30.0,
    periodic=True,
    fallback_after=None,
)
LIFETIME, LEEWAY, DUE = 3600.0, 30.0, 2700.0  # of the token that `Policy` is granted


def failure(reason="unavailable", *, retryable=True, error=None, retry_after=None):
    return Failure(
        reason,
        retryable=retryable,
        temporary=retryable,
        error=error,
        retry_after=retry_after,
        method="client_secret_post",
    )


UNAVAILABLE = failure()
REFUSED = failure("refused", retryable=False)
INVALID_CLIENT = failure("refused", retryable=False, error="invalid_client")


class Policy:
    """Reports events as the manager does, and turns both clocks."""

    def __init__(self, **rules):
        self.rules = evolve(RULES, **rules)
        self.state = State()
        self.now = START

    @property
    def elapsed(self):
        return self.now.monotonic - START.monotonic

    def later(self, seconds, *, wall=None):
        """`wall`: what the wall clock shows more, where it is not the same."""
        wall = seconds if wall is None else wall
        self.now = Now(self.now.monotonic + seconds, self.now.time + wall)

    def until(self, at):
        self.later(at - self.now.monotonic)

    def tell(self, event):
        self.state, decision = step(self.state, event, self.now, self.rules)
        return decision

    def ask(self, **how):
        return self.tell(Ask(**how))

    def turn(self):
        return self.tell(Turn())

    def grant(self, value="t1", lifetime=LIFETIME, random=0.0):
        granted = Granted(Grant(value, lifetime, "read"), self.now, "client_secret_post", random)
        return self.tell(granted)

    def fail(self, outcome=UNAVAILABLE, random=0.0):
        return self.tell(Failed(outcome, random))

    def cycle(self, *outcomes, random=0.0):
        """Turn until a cycle is over. Each attempt ends at once with the next outcome, a failure or
        the value of a token; the last one comes again and again.

        Gives the way and the time of each attempt, and how the cycle finished.
        """
        attempts = []
        while True:
            decision = self.turn()
            while isinstance(decision, Wait):
                self.until(decision.until_at)
                decision = self.turn()
            attempts.append((decision.way, self.elapsed))
            outcome = outcomes[min(len(attempts), len(outcomes)) - 1]
            if isinstance(outcome, str):
                decision = self.grant(outcome)
            else:
                decision = self.fail(outcome, random)
            if isinstance(decision, Finished):
                return attempts, decision


def holding(value="t1", lifetime=LIFETIME, random=0.0, **rules):
    """A policy that has just been granted a token."""
    policy = Policy(**rules)
    policy.ask()
    policy.turn()
    policy.grant(value, lifetime, random)
    return policy


def failed_at_once(outcome=REFUSED, **rules):
    """A policy whose first cycle has just failed."""
    policy = Policy(**rules)
    policy.ask()
    policy.turn()
    policy.fail(outcome)
    return policy


def ways(attempts):
    return [way for way, _ in attempts]


def pauses(attempts):
    return [after - before for (_, before), (_, after) in pairwise(attempts)]


# P4: never an expired token. P3: no waiting while one is usable.


@pytest.mark.parametrize(
    ("lifetime", "usable_for"), [(1, 0.9), (60, 54), (299, 269.1), (300, 270), (3600, 3570)]
)
def test_a_token_is_given_until_its_expiry_less_a_leeway(lifetime, usable_for):
    policy = holding(lifetime=lifetime)
    token = policy.state.held.token

    policy.later(usable_for - A_BIT)
    assert policy.ask() == Give(token)
    policy.later(2 * A_BIT)
    assert isinstance(policy.ask(), Join)


def test_a_token_is_not_given_at_the_moment_where_the_leeway_begins():
    by_monotonic, by_wall = holding(), holding()

    by_monotonic.later(LIFETIME - LEEWAY, wall=0.0)
    by_wall.later(0.0, wall=LIFETIME - LEEWAY)

    assert isinstance(by_monotonic.ask(), Join)
    assert isinstance(by_wall.ask(), Join)


def test_a_wall_clock_that_was_set_back_does_not_lengthen_a_token():
    policy = holding()

    policy.later(LIFETIME - LEEWAY, wall=-86_400.0)

    assert isinstance(policy.ask(), Join)


def test_a_monotonic_clock_that_stood_still_does_not_lengthen_a_token():
    policy = holding()

    policy.later(0.0, wall=86_400.0)

    assert isinstance(policy.ask(), Join)


def test_after_a_jump_of_the_wall_clock_a_new_token_lasts_as_long_as_any():
    policy = holding()
    policy.later(0.0, wall=86_400.0)
    policy.ask()
    policy.turn()
    policy.grant("t2")

    policy.later(LIFETIME - LEEWAY - A_BIT)

    assert policy.ask() == Give(policy.state.held.token)


def test_the_lifetime_counts_from_the_head_of_the_response():
    policy = Policy()
    policy.turn()
    head = policy.now
    policy.later(20.0)
    policy.tell(Granted(Grant("t1", 3600.0, None), head, "client_secret_post", 0.0))

    policy.until(head.monotonic + LIFETIME - LEEWAY)

    assert isinstance(policy.ask(), Join)


def test_a_token_says_when_it_expires_its_scope_and_its_method():
    token = holding().state.held.token

    assert token.value == "t1"
    assert token.expires_at == datetime.fromtimestamp(START.time + LIFETIME, UTC)
    assert token.expires_at.tzinfo is UTC
    assert (token.scope, token.method) == ("read", "client_secret_post")


def test_a_grant_finishes_the_cycle_with_the_token():
    policy = Policy()
    policy.turn()

    finished = policy.grant()

    assert finished == Finished(1, policy.state.held, 1, None)
    assert policy.state.last_refresh_time == START.time


def test_a_fresh_token_is_given_and_nothing_is_started():
    policy = holding()
    before = policy.state

    policy.later(DUE - A_BIT)

    assert policy.ask() == Give(before.held.token)
    assert policy.state is before


@pytest.mark.parametrize("clocks", [(DUE, 0.0), (0.0, DUE), (DUE, DUE)])
@pytest.mark.parametrize("periodic", [True, False])
def test_a_stale_token_by_either_clock_is_given_and_a_cycle_starts(clocks, periodic):
    policy = holding(periodic=periodic)
    monotonic, wall = clocks
    policy.later(monotonic, wall=wall)

    assert policy.ask() == Give(policy.state.held.token)
    assert policy.turn() == Attempt(PRIMARY, 30.0, 2)


@pytest.mark.parametrize("clocks", [(DUE - A_BIT, 0.0), (0.0, DUE - A_BIT)])
def test_no_cycle_starts_before_a_token_is_due_by_either_clock(clocks):
    policy = holding(periodic=False)
    monotonic, wall = clocks
    policy.later(monotonic, wall=wall)

    policy.ask()

    assert policy.turn() == Wait(None)


def test_a_stale_token_is_given_during_a_cycle_which_all_share():
    policy = holding()
    token = policy.state.held.token
    policy.later(DUE)
    policy.turn()
    before = policy.state

    assert [policy.ask(), policy.ask(fallback=True)] == [Give(token), Give(token)]
    assert policy.state is before


def test_asking_twice_for_a_stale_token_starts_one_cycle():
    policy = holding()
    policy.later(DUE)
    policy.ask()
    before = policy.state

    policy.ask()

    assert policy.state is before


def test_a_stale_token_is_given_during_an_outage_and_no_cycle_starts_before_the_pause_is_over():
    policy = holding(periodic=False)
    token = policy.state.held.token
    policy.later(DUE)
    policy.ask()
    policy.turn()
    policy.fail(REFUSED)

    policy.later(0.5 - A_BIT)
    assert (policy.ask(), policy.turn()) == (Give(token), Wait(None))
    policy.later(A_BIT)
    assert (policy.ask(), policy.turn()) == (Give(token), Attempt(PRIMARY, 30.0, 3))


def test_the_loop_does_not_wait_out_a_token_that_is_due_by_the_wall_clock():
    policy = holding()

    policy.later(0.0, wall=DUE)

    assert policy.turn() == Attempt(PRIMARY, 30.0, 2)


# P7: due early, spread out.


@pytest.mark.parametrize(
    ("interval", "buffer", "lifetime", "due"),
    [
        (2700, 300, 3600, 2700),  # the interval
        (9000, 300, 3600, 3270),  # the lifetime less leeway and buffer
        (9000, 0, 3600, 3570),
        (9000, 300, 600, 300),  # half of the lifetime
        (9000, 3600, 3600, 1800),
        (9000, 300, 60, 30),
        (9000, 5, 60, 49),  # the leeway is 10 %
        (20, 300, 60, 20),
    ],
)
def test_a_refresh_is_due_early(interval, buffer, lifetime, due):
    policy = holding(lifetime=lifetime, refresh_interval=interval, buffer=buffer)

    assert policy.turn() == Wait(START.monotonic + due)
    policy.later(due - A_BIT)
    assert policy.turn() == Wait(START.monotonic + due)
    policy.until(START.monotonic + due)
    assert policy.turn() == Attempt(PRIMARY, 30.0, 2)


@pytest.mark.parametrize(("random", "due"), [(0.0, 2700.0), (0.5, 2565.0), (HIGHEST, 2430.0)])
def test_a_refresh_is_due_up_to_a_tenth_earlier_at_random(random, due):
    policy = holding(random=random)

    assert policy.turn().until_at - START.monotonic == pytest.approx(due, abs=1e-6)
    policy.later(0.0, wall=due - A_BIT)
    assert policy.turn() == Wait(policy.state.held.due_at)
    policy.later(0.0, wall=2 * A_BIT)
    policy.ask()
    assert isinstance(policy.turn(), Attempt)


def test_the_loop_fetches_at_once_and_then_waits_with_one_timer():
    policy = Policy()

    assert policy.turn() == Attempt(PRIMARY, 30.0, 1)
    policy.grant()
    before = policy.state
    assert policy.turn() == Wait(START.monotonic + DUE)
    assert policy.state is before


def test_on_demand_the_loop_does_nothing_until_somebody_asks():
    policy = Policy(periodic=False)

    assert policy.turn() == Wait(None)
    assert policy.state == State()
    assert policy.ask() == Join(1)
    assert policy.turn() == Attempt(PRIMARY, 30.0, 1)


def test_on_demand_a_token_may_end_without_a_request():
    policy = holding(periodic=False)

    policy.later(86_400.0)

    assert policy.turn() == Wait(None)


# P1: cycles have numbers, one runs at a time, and whoever needs a token joins one.


def test_all_who_ask_without_a_token_join_one_cycle():
    policy = Policy()

    assert [policy.ask(), policy.ask(force=True), policy.ask(superseding="t0")] == 3 * [Join(1)]
    assert policy.turn() == Attempt(PRIMARY, 30.0, 1)
    assert [policy.ask(), policy.ask(force=True), policy.ask(superseding="t0")] == 3 * [Join(1)]
    assert policy.grant().number == 1
    assert policy.turn() == Wait(START.monotonic + DUE)


def test_callers_join_a_cycle_that_pauses_between_two_attempts():
    policy = Policy()
    policy.turn()
    policy.fail()

    assert [policy.ask(), policy.ask(force=True)] == 2 * [Join(1)]


def test_forcing_asks_for_a_new_token_although_the_held_one_is_fresh():
    policy = holding()

    assert policy.ask(force=True) == Join(2)
    assert policy.turn() == Attempt(PRIMARY, 30.0, 2)


def test_superseding_the_held_token_asks_for_a_new_one():
    policy = holding("t1")

    assert policy.ask(superseding="t1") == Join(2)
    assert policy.turn() == Attempt(PRIMARY, 30.0, 2)


def test_superseding_an_older_token_gives_the_held_one():
    policy = holding("t1")
    before = policy.state

    assert policy.ask(superseding="t0") == Give(before.held.token)
    assert policy.state is before


def test_superseding_an_older_token_does_not_make_an_expired_one_good():
    policy = holding("t1")
    policy.later(LIFETIME)

    assert policy.ask(superseding="t0") == Join(2)


def test_forcing_wins_over_superseding():
    policy = holding("t1")

    assert policy.ask(force=True, superseding="t0") == Join(2)


def test_the_fallback_is_asked_only_where_a_token_is_needed_or_forced():
    policy = holding()

    assert policy.ask(fallback=True) == Give(policy.state.held.token)
    assert policy.ask(fallback=True, force=True) == Join(2)
    assert policy.turn() == Attempt(FALLBACK, 30.0, 2)


def test_superseding_by_the_fallback_runs_a_cycle_of_the_fallback_alone():
    policy = holding("t1")

    assert policy.ask(superseding="t1", fallback=True) == Join(2)
    assert policy.turn() == Attempt(FALLBACK, 30.0, 2)


@pytest.mark.parametrize("outcome", ["t1", REFUSED])
def test_a_cycle_of_the_fallback_alone_runs_right_after_the_one_that_is_running(outcome):
    policy = Policy()
    policy.turn()

    assert policy.ask(fallback=True) == Join(2)
    assert policy.ask() == Join(1)
    policy.grant("t1") if outcome == "t1" else policy.fail(outcome)
    assert policy.turn() == Attempt(FALLBACK, 30.0, 2)


def test_those_who_need_the_fallback_share_its_cycle():
    policy = Policy()
    policy.turn()

    assert [policy.ask(fallback=True), policy.ask(fallback=True, force=True)] == 2 * [Join(2)]
    policy.grant()
    policy.turn()
    assert policy.ask(fallback=True, force=True) == Join(2)
    policy.grant("t2")
    assert policy.turn() == Wait(START.monotonic + DUE)


def test_whoever_takes_any_token_joins_a_cycle_of_the_fallback():
    policy = Policy()

    assert [policy.ask(fallback=True), policy.ask()] == 2 * [Join(1)]
    assert policy.turn() == Attempt(FALLBACK, 30.0, 1)
    assert [policy.ask(), policy.ask(force=True)] == 2 * [Join(1)]


def test_the_fallback_is_queued_behind_a_cycle_that_has_not_begun():
    policy = Policy()

    assert [policy.ask(), policy.ask(fallback=True)] == [Join(1), Join(2)]
    assert [policy.ask(), policy.ask(fallback=True)] == [Join(1), Join(2)]
    assert policy.turn() == Attempt(PRIMARY, 30.0, 1)
    assert policy.grant().number == 1
    assert policy.turn() == Attempt(FALLBACK, 30.0, 2)


# Section 5: one cycle.


def test_a_retryable_failure_is_tried_again_up_to_max_attempts():
    policy = Policy(max_attempts=4, request_timeout=300.0)

    attempts, finished = policy.cycle(UNAVAILABLE)

    assert attempts == [(PRIMARY, 0.0), (PRIMARY, 0.5), (PRIMARY, 1.5), (PRIMARY, 3.5)]
    assert finished == Finished(1, UNAVAILABLE, 4, 0.5)


def test_with_one_attempt_nothing_is_tried_again():
    attempts, finished = Policy(max_attempts=1).cycle(UNAVAILABLE)

    assert attempts == [(PRIMARY, 0.0)]
    assert finished.attempts == 1


def test_a_failure_that_is_not_retryable_ends_the_cycle():
    attempts, finished = Policy().cycle(REFUSED)

    assert attempts == [(PRIMARY, 0.0)]
    assert finished == Finished(1, REFUSED, 1, 0.5)


def test_a_later_attempt_may_bring_the_token():
    policy = Policy()

    attempts, finished = policy.cycle(UNAVAILABLE, UNAVAILABLE, "t1")

    assert ways(attempts) == [PRIMARY] * 3
    assert finished == Finished(1, policy.state.held, 3, None)


def test_a_later_failure_that_is_not_retryable_ends_the_cycle():
    attempts, finished = Policy().cycle(UNAVAILABLE, REFUSED)

    assert len(attempts) == 2
    assert finished.outcome == REFUSED


@pytest.mark.parametrize("random", [0.0, 0.25, HIGHEST])
def test_pauses_are_uniform_between_half_of_d_and_d_and_d_doubles_up_to_a_minute(random):
    share = 0.5 + random / 2
    doubled = [1, 2, 4, 8, 16, 32, 60, 60, 60]

    assert [pause(number, random) for number in range(1, 10)] == [d * share for d in doubled]


def test_pauses_are_bounded_after_years_of_failures():
    assert [pause(10**9, HIGHEST), pause(10**9, 0.0, 300.0)] == [pytest.approx(60.0), 150.0]


@pytest.mark.parametrize("random", [0.0, 0.5, HIGHEST])
def test_pauses_within_a_cycle_double_too(random):
    policy = Policy(max_attempts=10, request_timeout=300.0)

    attempts, _ = policy.cycle(UNAVAILABLE, random=random)

    expected = [pause(number, random) for number in range(1, 10)]
    assert pauses(attempts) == pytest.approx(expected)


def test_the_loop_waits_for_the_pause_within_a_cycle():
    policy = Policy()
    policy.turn()

    assert policy.fail() == Proceed()
    assert policy.turn() == Wait(START.monotonic + 0.5)
    policy.later(0.5 - A_BIT)
    assert policy.turn() == Wait(START.monotonic + 0.5)
    policy.until(START.monotonic + 0.5)
    assert policy.turn() == Attempt(PRIMARY, 30.0, 1)


@pytest.mark.parametrize("seconds", [0.0, 0.125, 3.0, 10.0])
def test_a_retry_after_up_to_ten_seconds_is_waited_for_in_place_of_the_pause(seconds):
    policy = Policy()

    attempts, _ = policy.cycle(failure(retry_after=seconds), random=0.75)

    assert pauses(attempts) == [seconds, seconds]


def test_a_longer_retry_after_ends_the_attempts_of_this_way():
    policy = Policy(fallback_after=1)

    attempts, finished = policy.cycle(failure(retry_after=10.5), "t1")

    assert attempts == [(PRIMARY, 0.0), (FALLBACK, 0.0)]
    assert finished.attempts == 2


def test_a_retry_after_does_not_make_a_failure_retryable():
    attempts, _ = Policy().cycle(failure(retryable=False, retry_after=1.0))

    assert len(attempts) == 1


# The fallback.


def test_the_cycle_in_which_the_primary_fails_goes_on_to_the_fallback():
    policy = Policy(fallback_after=1)

    attempts, finished = policy.cycle(UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, "t1")

    assert ways(attempts) == [PRIMARY, PRIMARY, PRIMARY, FALLBACK]
    assert pauses(attempts)[-1] == 0.0
    assert finished == Finished(1, policy.state.held, 4, None)
    assert policy.state.held.by is FALLBACK


def test_a_token_of_the_primary_is_known_as_such():
    assert holding().state.held.by is PRIMARY


def test_the_fallback_has_max_attempts_and_pauses_of_its_own():
    policy = Policy(fallback_after=1, max_attempts=2)

    attempts, finished = policy.cycle(UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, REFUSED)

    assert attempts == [(PRIMARY, 0.0), (PRIMARY, 0.5), (FALLBACK, 0.5), (FALLBACK, 1.0)]
    assert finished == Finished(1, REFUSED, 4, 0.5)


def test_without_a_fallback_no_cycle_goes_on():
    policy = Policy(fallback_after=None)

    assert [ways(policy.cycle(REFUSED)[0]) for _ in range(12)] == 12 * [[PRIMARY]]


def test_the_fallback_follows_after_so_many_failed_primary_cycles_this_one_included():
    policy = Policy(fallback_after=3)

    tried = [ways(policy.cycle(REFUSED)[0]) for _ in range(4)]

    assert tried == [[PRIMARY], [PRIMARY], [PRIMARY, FALLBACK], [PRIMARY, FALLBACK]]


def test_a_success_of_the_fallback_does_not_reset_the_count_of_the_primary():
    policy = Policy(fallback_after=3)
    for _ in range(2):
        policy.cycle(REFUSED)

    tried = [ways(policy.cycle(REFUSED, "t1")[0]) for _ in range(4)]

    assert tried == 4 * [[PRIMARY, FALLBACK]]


def test_a_success_of_the_primary_resets_its_count():
    policy = Policy(fallback_after=2)
    policy.cycle(REFUSED)
    policy.cycle("t1")

    tried = [ways(policy.cycle(REFUSED)[0]) for _ in range(2)]

    assert tried == [[PRIMARY], [PRIMARY, FALLBACK]]


def test_cycles_of_the_fallback_alone_say_nothing_about_the_primary():
    policy = Policy(fallback_after=3)
    policy.ask(fallback=True)
    policy.cycle(REFUSED)

    tried = [ways(policy.cycle(REFUSED)[0]) for _ in range(3)]

    assert tried == [[PRIMARY], [PRIMARY], [PRIMARY, FALLBACK]]


def test_a_cycle_of_the_fallback_alone_keeps_the_rules_of_a_cycle():
    policy = Policy(fallback_after=1)
    policy.ask(fallback=True)

    attempts, finished = policy.cycle(UNAVAILABLE)

    assert attempts == [(FALLBACK, 0.0), (FALLBACK, 0.5), (FALLBACK, 1.5)]
    assert finished == Finished(1, UNAVAILABLE, 3, 0.5)


def test_any_success_resets_the_count_of_failed_cycles():
    policy = Policy(fallback_after=3)

    counts = []
    for outcomes in [(REFUSED,), (REFUSED,), (REFUSED,), (REFUSED, "t1"), (REFUSED,), ("t2",)]:
        policy.cycle(*outcomes)
        counts.append(policy.state.consecutive_failures)

    assert counts == [1, 2, 3, 0, 1, 0]


# No cycle outlasts 2 x request_timeout.


def test_an_attempt_has_the_request_timeout_and_no_more_than_the_rest_of_the_cycle():
    policy = Policy()

    first = policy.turn()
    policy.later(30.0)
    policy.fail()
    policy.later(0.5)
    second = policy.turn()
    policy.later(second.timeout)

    assert (first.timeout, second.timeout) == (30.0, 29.5)
    assert policy.fail() == Finished(1, UNAVAILABLE, 2, 0.5)
    assert policy.elapsed == 60.0


def test_a_primary_that_hangs_leaves_the_fallback_a_whole_request():
    policy = Policy(fallback_after=1)

    primary = policy.turn()
    policy.later(30.0)
    policy.fail()
    fallback = policy.turn()
    policy.later(30.0)

    assert primary == Attempt(PRIMARY, 30.0, 1)
    assert fallback == Attempt(FALLBACK, 30.0, 1)
    assert isinstance(policy.fail(), Finished)


def test_attempts_of_a_primary_share_the_first_half_where_a_fallback_follows():
    policy = Policy(fallback_after=1)
    policy.turn()
    policy.later(20.0)
    policy.fail()
    policy.later(0.5)

    assert policy.turn() == Attempt(PRIMARY, 9.5, 1)


def test_a_fallback_that_follows_later_does_not_shorten_this_cycle():
    policy = Policy(fallback_after=2)
    policy.turn()
    policy.later(30.0)
    policy.fail()
    policy.later(0.5)

    assert policy.turn() == Attempt(PRIMARY, 29.5, 1)


@pytest.mark.parametrize(("spent", "goes_on"), [(59.5 - A_BIT, True), (59.5, False)])
def test_a_pause_that_would_outlast_the_cycle_is_not_begun(spent, goes_on):
    policy = Policy()
    policy.turn()
    policy.later(spent)

    assert (policy.fail() == Proceed()) is goes_on


def test_a_retry_after_that_would_outlast_the_cycle_is_not_waited_for_in_it():
    policy = Policy()
    policy.turn()
    policy.later(51.0)

    assert policy.fail(failure(retry_after=9.5)).retry_after == 9.5


def test_an_attempt_that_comes_too_late_has_no_time_left_and_never_less():
    policy = Policy()
    policy.turn()
    policy.fail()
    policy.later(3600.0)

    assert policy.turn().timeout == 0.0


@pytest.mark.parametrize(("late", "goes_on"), [(60.0 - A_BIT, True), (60.0, False)])
def test_the_fallback_is_not_begun_after_the_end_of_the_cycle(late, goes_on):
    policy = Policy(fallback_after=1)
    policy.turn()
    policy.later(late)

    assert (policy.fail() == Proceed()) is goes_on


# P8: between two cycles.


@pytest.mark.parametrize("random", [0.0, 0.5, HIGHEST])
def test_the_loop_pauses_after_failed_cycles_up_to_a_minute_and_for_ever(random):
    policy = Policy()

    waits = [policy.cycle(REFUSED, random=random)[1].retry_after for _ in range(9)]

    share = 0.5 + random / 2
    assert waits == pytest.approx([d * share for d in [1, 2, 4, 8, 16, 32, 60, 60, 60]])
    assert isinstance(policy.turn(), Wait)


def test_the_loop_pauses_up_to_five_minutes_for_invalid_client():
    policy = Policy()

    waits = [policy.cycle(INVALID_CLIENT)[1].retry_after for _ in range(11)]

    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 150, 150]


def test_the_failure_of_the_last_attempt_decides_how_long_the_pause_may_be():
    policy = Policy(fallback_after=1)
    for _ in range(9):
        policy.cycle(INVALID_CLIENT, REFUSED)

    assert policy.cycle(INVALID_CLIENT, REFUSED)[1].retry_after == 30.0
    assert policy.cycle(REFUSED, INVALID_CLIENT)[1].retry_after == 150.0


def test_the_loop_does_nothing_during_the_pause():
    policy = failed_at_once()
    until_at = START.monotonic + 0.5

    assert policy.turn() == Wait(until_at)
    policy.later(0.5 - A_BIT)
    assert policy.turn() == Wait(until_at)
    policy.until(until_at)
    assert policy.turn() == Attempt(PRIMARY, 30.0, 2)


def test_the_loop_waits_for_the_pause_although_the_held_token_is_due():
    policy = holding()
    policy.later(DUE)
    policy.turn()
    policy.fail(REFUSED)

    assert policy.turn() == Wait(policy.now.monotonic + 0.5)


@pytest.mark.parametrize(
    ("asked", "waited"), [(0.125, 0.5), (7.0, 7.0), (120.0, 120.0), (300.0, 300.0), (301.0, 300.0)]
)
def test_a_retry_after_lengthens_the_pause_up_to_five_minutes(asked, waited):
    policy = Policy(max_attempts=1)

    _, finished = policy.cycle(failure(retry_after=asked))

    assert finished.retry_after == waited
    assert policy.turn() == Wait(START.monotonic + waited)


@pytest.mark.parametrize(
    ("primary", "fallback", "waited"), [(120.0, 60.0, 120.0), (60.0, 120.0, 120.0)]
)
def test_the_longer_retry_after_of_both_ways_counts(primary, fallback, waited):
    policy = Policy(fallback_after=1)

    _, finished = policy.cycle(failure(retry_after=primary), failure(retry_after=fallback))

    assert finished.retry_after == waited


def test_the_retry_after_of_the_primary_counts_from_its_answer():
    policy = Policy(fallback_after=1)
    policy.turn()
    policy.fail(failure(retry_after=60.0))
    policy.turn()
    policy.later(20.0)

    assert policy.fail(REFUSED).retry_after == 40.0


def test_a_retry_after_that_was_waited_for_in_the_cycle_is_done_with():
    policy = Policy(max_attempts=2)

    _, finished = policy.cycle(failure(retry_after=9.0), REFUSED)

    assert finished.retry_after == 0.5


def test_during_the_pause_callers_get_the_error_of_the_whole_cycle_with_the_time_that_is_left():
    policy = Policy(fallback_after=1, max_attempts=2)
    policy.cycle(UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, REFUSED)
    before = policy.state

    policy.later(0.375)

    assert policy.ask() == Deny(REFUSED, 4, 0.125)
    assert policy.ask(superseding="t0") == Deny(REFUSED, 4, 0.125)
    assert policy.state is before


@pytest.mark.parametrize("periodic", [True, False])
def test_after_the_pause_callers_join_the_next_cycle(periodic):
    policy = failed_at_once(periodic=periodic)

    policy.later(0.5 - A_BIT)
    assert isinstance(policy.ask(), Deny)
    policy.until(START.monotonic + 0.5)
    assert policy.ask() == Join(2)
    assert policy.turn() == Attempt(PRIMARY, 30.0, 2)


def test_while_a_token_is_usable_a_failed_cycle_is_nobodys_error():
    policy = holding()
    policy.later(DUE)
    policy.cycle(REFUSED)

    assert policy.ask() == Give(policy.state.held.token)
    assert isinstance(policy.ask(superseding="t1"), Deny)


def test_a_success_ends_every_pause_and_forgets_the_failure():
    policy = Policy()
    for _ in range(9):
        policy.cycle(REFUSED)
    policy.ask(fallback=True)
    policy.cycle("t1")

    assert (policy.state.last_failure, policy.state.last_attempts) == (None, 0)
    policy.tell(Invalidate())
    assert policy.ask() == Join(11)
    assert policy.turn() == Attempt(PRIMARY, 30.0, 11)


def test_a_token_of_the_fallback_ends_the_retry_after_of_the_primary_too():
    policy = failed_at_once(failure(retry_after=100.0))
    policy.ask(fallback=True)
    policy.cycle("t1")
    policy.ask(force=True)

    attempts, finished = policy.cycle(REFUSED)

    assert attempts == [(PRIMARY, 0.0)]
    assert finished.retry_after == 0.5


# P8: forced cycles after a failure.


def test_forcing_does_not_wait_for_the_pause():
    policy = failed_at_once()

    assert policy.ask(force=True) == Join(2)
    assert policy.turn() == Attempt(PRIMARY, 30.0, 2)


@pytest.mark.parametrize("how", [{"force": True}, {"fallback": True}])
def test_forcing_does_not_wait_for_the_pause_after_a_success_either(how):
    policy = holding()
    policy.tell(Invalidate())
    policy.cycle(REFUSED)

    assert policy.ask(**how) == Join(3)


def test_the_fallback_does_not_wait_for_the_pause():
    policy = failed_at_once()

    assert policy.ask(fallback=True) == Join(2)
    assert policy.turn() == Attempt(FALLBACK, 30.0, 2)


def test_superseding_waits_for_the_pause():
    assert isinstance(failed_at_once().ask(superseding="t0"), Deny)


@pytest.mark.parametrize("how", [{"force": True}, {"fallback": True}])
def test_after_a_failure_forced_cycles_run_once_a_second(how):
    policy = Policy()
    for _ in range(5):
        policy.cycle(REFUSED)
    policy.ask(**how)
    policy.cycle(REFUSED)

    policy.later(1.0 - A_BIT)
    assert policy.ask(**how) == Deny(REFUSED, 1, pytest.approx(15.0 + A_BIT))
    policy.later(A_BIT)
    assert policy.ask(**how) == Join(7)


def test_forced_cycles_that_never_failed_are_not_slowed():
    policy = holding()

    for number in range(2, 12):
        assert policy.ask(force=True) == Join(number)
        policy.turn()
        policy.grant()


def test_a_forced_cycle_counts_although_the_failure_came_after_it():
    policy = holding()
    policy.ask(force=True)
    policy.turn()
    policy.fail(REFUSED)

    assert isinstance(policy.ask(force=True), Deny)


def test_forcing_the_fallback_and_forcing_any_token_are_told_apart():
    policy = failed_at_once()
    policy.ask(force=True)
    policy.cycle(REFUSED)

    assert policy.ask(force=True, fallback=True) == Join(3)
    policy.cycle(REFUSED)
    assert isinstance(policy.ask(force=True), Deny)
    assert isinstance(policy.ask(fallback=True), Deny)


def test_forcing_the_fallback_does_not_hold_back_whoever_forces_any_token():
    policy = failed_at_once()
    policy.ask(fallback=True)
    policy.cycle(REFUSED)

    assert policy.ask(force=True) == Join(3)


def test_forcing_does_not_override_a_retry_after():
    policy = failed_at_once(failure(retry_after=100.0))

    policy.later(100.0 - A_BIT)
    assert isinstance(policy.ask(force=True), Deny)
    policy.later(A_BIT)
    assert policy.ask(force=True) == Join(2)


def test_forcing_does_not_override_a_retry_after_of_the_fallback_which_may_follow():
    policy = Policy(fallback_after=1)
    policy.cycle(REFUSED, failure(retry_after=100.0))

    policy.later(100.0 - A_BIT)
    assert isinstance(policy.ask(force=True), Deny)
    policy.later(A_BIT)
    assert policy.ask(force=True) == Join(2)


def test_the_fallback_does_not_override_its_own_retry_after():
    policy = Policy()
    policy.ask(fallback=True)
    policy.cycle(failure(retry_after=100.0))

    policy.later(100.0 - A_BIT)
    assert policy.ask(fallback=True) == Deny(failure(retry_after=100.0), 1, pytest.approx(A_BIT))
    policy.later(A_BIT)
    assert policy.ask(fallback=True) == Join(2)


def test_the_fallback_may_be_asked_while_the_primary_told_us_to_wait():
    policy = failed_at_once(failure(retry_after=100.0))

    assert policy.ask(fallback=True) == Join(2)


def test_a_queued_cycle_of_the_fallback_does_not_override_its_retry_after():
    told = failure(retry_after=120.0)
    policy = Policy(fallback_after=1)
    policy.turn()
    policy.ask(fallback=True)
    policy.fail(REFUSED)
    policy.turn()
    policy.fail(told)

    policy.later(20.0)

    assert policy.turn() == Finished(2, told, 2, 100.0)
    assert policy.turn() == Wait(START.monotonic + 120.0)
    assert policy.ask(fallback=True) == Deny(told, 2, 100.0)
    policy.later(100.0)
    assert policy.ask(fallback=True) == Join(3)


@pytest.mark.parametrize(("waited", "runs"), [(120.0 - A_BIT, False), (120.0, True)])
def test_a_queued_cycle_of_the_fallback_runs_once_its_retry_after_is_over(waited, runs):
    policy = Policy(fallback_after=1)
    policy.turn()
    policy.ask(fallback=True)
    policy.fail(REFUSED)
    policy.turn()
    policy.fail(failure(retry_after=120.0))

    policy.later(waited)

    assert (policy.turn() == Attempt(FALLBACK, 30.0, 2)) is runs


def test_the_retry_after_of_the_primary_does_not_stop_a_queued_cycle_of_the_fallback():
    policy = Policy()
    policy.turn()
    policy.ask(fallback=True)
    policy.fail(failure(retry_after=120.0))

    assert policy.turn() == Attempt(FALLBACK, 30.0, 2)


def test_cycles_of_the_fallback_run_once_a_second_although_one_was_queued_for_long():
    policy = Policy()
    policy.turn()
    policy.ask(fallback=True)
    policy.later(5.0)
    policy.fail(REFUSED)
    policy.turn()
    policy.fail(REFUSED)

    policy.later(A_BIT)

    assert isinstance(policy.ask(fallback=True), Deny)


@pytest.mark.parametrize("how", [{"force": True}, {"fallback": True}])
def test_a_forced_caller_who_comes_too_soon_is_told_when_to_come_again(how):
    policy = Policy(periodic=False)
    policy.ask(**how)
    policy.cycle(REFUSED)
    policy.later(0.75)

    assert policy.ask(**how) == Deny(REFUSED, 1, 0.25)
    policy.later(0.25)
    assert policy.ask(**how) == Join(2)


def test_a_token_ends_every_retry_after():
    policy = failed_at_once(failure(retry_after=100.0))
    policy.ask(fallback=True)
    policy.cycle("t1")

    policy.later(1.0)
    policy.ask(force=True)

    assert policy.turn() == Attempt(PRIMARY, 30.0, 3)


# Reset and invalidate.


def test_invalidating_drops_the_token_and_the_loop_fetches_at_once():
    policy = holding()

    assert policy.tell(Invalidate()) == Proceed()
    assert policy.state.held is None
    assert policy.turn() == Attempt(PRIMARY, 30.0, 2)


def test_invalidating_a_token_drops_that_one_only():
    policy = holding("t1")
    before = policy.state

    assert policy.tell(Invalidate("t0")) == Proceed()
    assert policy.state is before
    policy.tell(Invalidate("t1"))
    assert policy.state == evolve(before, held=None)


@pytest.mark.parametrize("value", [None, "t1"])
def test_invalidating_nothing_changes_nothing(value):
    policy = Policy()
    before = policy.state

    assert policy.tell(Invalidate(value)) == Proceed()
    assert policy.state is before


def test_invalidating_does_not_shorten_a_pause():
    policy = holding()
    policy.later(DUE)
    policy.cycle(REFUSED)
    policy.tell(Invalidate())

    assert policy.turn() == Wait(policy.now.monotonic + 0.5)
    assert isinstance(policy.ask(), Deny)


def test_invalidating_leaves_the_running_cycle_alone():
    policy = holding()
    policy.ask(force=True)
    policy.turn()

    policy.tell(Invalidate())

    assert policy.ask() == Join(2)
    assert policy.grant("t2") == Finished(2, policy.state.held, 1, None)


def test_resetting_drops_token_counts_and_pauses():
    policy = holding(fallback_after=2)
    policy.later(DUE)
    policy.cycle(failure(retry_after=100.0))
    policy.ask(force=True)

    assert policy.tell(Reset()) == Proceed()

    assert policy.state == State(begun=2)
    assert policy.ask() == Join(3)
    assert ways(policy.cycle(REFUSED)[0]) == [PRIMARY]


def test_resetting_leaves_those_who_wait_alone():
    policy = Policy()
    policy.turn()
    policy.ask(fallback=True)

    policy.tell(Reset())

    assert policy.ask() == Join(1)
    assert policy.grant().number == 1
    assert policy.turn() == Attempt(FALLBACK, 30.0, 2)


# P6: refusals of the gateway.


def test_until_its_delay_is_over_a_consumer_causes_no_cycle_and_waits_for_none():
    policy = holding("t1")
    until_at = policy.now.monotonic + 2.0
    policy.later(0.5)
    before = policy.state

    assert policy.ask(superseding="t1", not_before_at=until_at) == Deny(None, 0, 1.5)
    assert policy.state is before
    policy.ask(force=True)
    assert policy.ask(superseding="t1", not_before_at=until_at) == Deny(None, 0, 1.5)
    policy.until(until_at)
    assert policy.ask(superseding="t1", not_before_at=until_at) == Join(2)


def test_a_delayed_consumer_without_a_failure_is_told_none():
    assert Policy().ask(not_before_at=START.monotonic + 1.5) == Deny(None, 0, 1.5)


def test_a_delayed_consumer_is_told_the_last_failure():
    policy = holding("t1")
    policy.ask(force=True)
    policy.cycle(REFUSED)

    denied = policy.ask(superseding="t1", not_before_at=policy.now.monotonic + 2.0)

    assert denied == Deny(REFUSED, 1, 2.0)


def test_a_delayed_consumer_gets_a_newer_token_and_a_usable_one():
    policy = holding("t1")
    token, later_at = policy.state.held.token, policy.now.monotonic + 60.0

    assert policy.ask(superseding="t0", not_before_at=later_at) == Give(token)
    assert policy.ask(not_before_at=later_at) == Give(token)


def test_a_consumer_that_was_never_refused_has_no_delay():
    assert Refusals() == Refusals(delay=0.0, until_at=-math.inf, counted=None)


def test_refused_replays_double_the_delay_from_a_second_to_a_minute():
    refusals, delays = Refusals(), []

    for number in range(9):
        refusals = replay_refused(refusals, f"t{number}", f"t{number}", 100.0 * number)
        delays.append(refusals.delay)
        assert refusals.until_at == 100.0 * number + refusals.delay

    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_replays_that_are_refused_together_count_once():
    once = replay_refused(Refusals(), "t1", "t1", 100.0)

    assert replay_refused(once, "t1", "t1", 100.5) is once


@pytest.mark.parametrize("current", ["t2", None])
def test_during_the_delay_the_refusal_of_a_token_that_is_not_held_any_more_says_nothing(current):
    refusals = replay_refused(Refusals(), "t0", "t0", 100.0)

    assert replay_refused(refusals, "t1", current, 100.5) is refusals


@pytest.mark.parametrize("current", ["t2", None])
def test_the_refusal_of_a_token_that_others_have_replaced_starts_a_delay(current):
    assert replay_refused(Refusals(), "t1", current, 100.0) == Refusals(1.0, 101.0, "t1")


def test_the_same_token_that_is_refused_after_the_delay_counts_again():
    refusals, delays = Refusals(), []

    for _ in range(8):
        refusals = replay_refused(refusals, "t1", "t1", max(refusals.until_at, 100.0))
        delays.append(refusals.delay)

    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]


def test_an_accepted_replay_clears_the_delay():
    refused = replay_refused(Refusals(), "t1", "t1", 100.0)

    assert replay_accepted() == Refusals()
    assert replay_refused(replay_accepted(), "t1", "t1", 200.0) == evolve(refused, until_at=201.0)


def test_a_token_that_no_replay_could_try_ends_the_first_delay_and_no_other():
    first = replay_refused(Refusals(), "t1", "t1", 100.0)
    ended = untried_accepted(first)
    second = replay_refused(ended, "t2", "t2", 100.0)

    assert ended == evolve(first, until_at=-math.inf)
    assert (second.delay, second.until_at) == (2.0, 102.0)
    assert untried_accepted(second) is second


# P10: secrets stay inside.


def test_no_event_decision_or_state_shows_a_token():
    policy = holding("s3cret")
    granted = Granted(Grant("s3cret", 60.0, None), START, "client_secret_post", 0.0)
    finished = Finished(1, policy.state.held, 1, None)
    refusals = Refusals(counted="s3cret")
    events = [Ask(superseding="s3cret"), Invalidate("s3cret"), granted]

    assert "s3cret" not in repr([*events, policy.state, policy.ask(), finished, refusals])


# Any order of events.

SOON = (A_BIT, 0.125, 0.25, 0.5, 0.75, 1.0, 3.0, 10.0)
LATER = (30.0, 60.0, 300.0, 2700.0, 86_400.0)
JUMPS = (-86_400.0, -60.0, 60.0, 86_400.0)
VALUES = ("t1", "t2", "t3")
LIFETIMES = (1.0, 2.0, 60.0, 300.0, 3600.0, 315_360_000.0)
ERRORS = (None, "invalid_client", "invalid_scope")
RETRY_AFTERS = (None, None, 0.0, 3.0, 10.0, 11.0, 300.0, 31_536_000.0)


class Walk:
    """Reports events in any order that the manager could, and keeps books of its own about what
    must come of them.
    """

    def __init__(self, random):
        self.random = random
        self.pick = random.choice
        self.rules = Rules(
            refresh_interval=self.pick([10.0, 2700.0, 86_400.0]),
            buffer=self.pick([0.0, 300.0]),
            max_attempts=random.randint(1, 10),
            request_timeout=self.pick([0.25, 5.0, 30.0, 300.0]),
            periodic=self.pick([True, False]),
            fallback_after=self.pick([None, 1, 1, 2, 10]),
        )
        self.state, self.now, self.events = State(), START, []
        self.held = None  # the value, and until when it may be given, by each clock
        self.told = {PRIMARY: -math.inf, FALLBACK: -math.inf}  # by a Retry-After: not before
        self.failed_cycles = self.failed_primaries = 0

        self.in_flight = None  # the attempt that has no outcome yet
        self.running = self.finished = 0  # numbers of cycles
        self.tried = []  # the ways of the attempts of this cycle
        self.ends_at = -math.inf
        self.joined = set()
        self.fallback_only = set()

    def go(self, steps):
        anything = [self.ask] * 3 + [self.ask_for_another] * 3 + [self.sleep] * 2
        anything += [self.jump, self.invalidate, self.reset]
        between = anything + [self.turn] * 3 + [self.turn_when_it_is_time] * 3
        during = anything + [self.granted] + [self.failed] * 5
        try:
            for _ in range(steps):
                self.pick(between if self.in_flight is None else during)()
                self.check_state()
            self.go_on_until_all_are_served()
        except AssertionError as error:
            lines = (f"{now}: {event} -> {decision}" for now, event, decision in self.events)
            error.add_note("\n".join([repr(self.rules), *lines]))
            raise

    # What happens.

    def tell(self, event):
        """A step, which is a function of its arguments."""
        before = evolve(self.state)
        state, decision = step(self.state, event, self.now, self.rules)
        self.events.append((self.now, event, decision))
        assert step(before, event, self.now, self.rules) == (state, decision)
        assert self.state == before
        self.state = state
        return decision

    def ask(self):
        fallback, wait = self.pick([True, False]), self.pick([-math.inf, -1.0, 0.0, 5.0])
        not_before_at = self.now.monotonic + wait

        decision = self.tell(Ask(fallback=fallback, not_before_at=not_before_at))

        assert isinstance(decision, Give) is self.is_usable()
        if wait > 0.0 and not self.is_usable():
            assert decision.retry_after == pytest.approx(wait)
        else:
            self.check_answer(decision, skips_pause=fallback, fallback=fallback)

    def ask_for_another(self):
        force, fallback = self.pick([True, False]), self.pick([True, False])
        superseding = self.pick([None, *VALUES])
        held_serves = self.is_usable() and not force and superseding != self.held[0]

        decision = self.tell(Ask(force, superseding, fallback))

        assert isinstance(decision, Give) is held_serves
        self.check_answer(decision, skips_pause=force or fallback, fallback=fallback)

    def turn(self):
        decision = self.tell(Turn())

        if isinstance(decision, Attempt):
            self.check_attempt(decision)
            self.in_flight = decision
            self.tried.append(decision.way)
        elif isinstance(decision, Finished):
            assert decision.number in self.fallback_only
            assert decision.retry_after == self.told[FALLBACK] - self.now.monotonic > 0.0
            self.running += 1
            self.check_finished(decision)
        else:
            self.check_wait(decision)

    def turn_when_it_is_time(self):
        _, decision = step(self.state, Turn(), self.now, self.rules)
        if isinstance(decision, Wait) and decision.until_at is not None:
            self.pass_by(decision.until_at - self.now.monotonic)
        self.turn()

    def granted(self):
        head, attempt, self.in_flight = self.now, self.in_flight, None
        value, lifetime, random = self.pick(VALUES), self.pick(LIFETIMES), self.random.random()
        self.pass_by(self.pick([0.0, 0.0, 1.0]))  # from the head of the response to its end

        finished = self.tell(
            Granted(Grant(value, lifetime, None), head, "client_secret_post", random)
        )

        self.check_finished(finished)
        assert finished.outcome is self.state.held
        assert finished.outcome.by is attempt.way
        assert finished.retry_after is None
        usable_for = lifetime - min(30.0, lifetime / 10)
        self.held = value, head.monotonic + usable_for, head.time + usable_for
        self.told = dict.fromkeys(self.told, -math.inf)
        self.failed_cycles = 0
        self.failed_primaries *= attempt.way is FALLBACK

    def failed(self, share=None):
        """`share`: of the time that the attempt had."""
        attempt, self.in_flight = self.in_flight, None
        self.pass_by(attempt.timeout * (self.pick([0.0, 0.1, 1.0]) if share is None else share))
        outcome = failure(
            retryable=self.pick([True, False]),
            error=self.pick(ERRORS),
            retry_after=self.pick(RETRY_AFTERS),
        )

        decision = self.tell(Failed(outcome, self.random.random()))

        gave_up = self.state.cycle is None or self.state.cycle.way is not attempt.way
        if outcome.retry_after is not None:
            self.told[attempt.way] = self.now.monotonic + min(outcome.retry_after, 300.0)
        if gave_up and attempt.way is PRIMARY:
            self.failed_primaries += 1
            fallback_follows = self.failed_primaries >= (self.rules.fallback_after or math.inf)
            has_time = self.now.monotonic < self.ends_at
            assert (decision == Proceed()) is (fallback_follows and has_time)
        if isinstance(decision, Finished):
            assert decision.outcome == outcome
            told = max(self.told.values()) - self.now.monotonic
            longest = 300.0 if outcome.error == "invalid_client" else 60.0
            assert max(0.5, told) - 1e-6 <= decision.retry_after <= max(longest, told) + 1e-6
            self.failed_cycles += 1
            self.check_finished(decision)
        else:
            assert decision == Proceed()

    def invalidate(self):
        value = self.pick([None, *VALUES])

        assert self.tell(Invalidate(value)) == Proceed()

        if self.held is not None and value in (None, self.held[0]):
            self.held = None

    def reset(self):
        assert self.tell(Reset()) == Proceed()

        self.held = None
        self.told = dict.fromkeys(self.told, -math.inf)
        self.failed_cycles = self.failed_primaries = 0

    def sleep(self):
        self.pass_by(self.pick([self.pick(SOON), self.pick(LATER), 2 * self.random.random()]))

    def pass_by(self, seconds):
        self.now = Now(self.now.monotonic + seconds, self.now.time + seconds)

    def jump(self):
        self.now = Now(self.now.monotonic, self.now.time + self.pick(JUMPS))

    def go_on_until_all_are_served(self):
        for _ in range(100):
            if self.in_flight is not None:
                self.failed(share=1.0)
            elif self.joined:
                self.turn_when_it_is_time()
        assert not self.joined

    # What must be so.

    def is_usable(self):
        if self.held is None:
            return False
        _, until_at, until_time = self.held
        return self.now.monotonic < until_at and self.now.time < until_time

    def check_answer(self, decision, *, skips_pause, fallback):
        is_running = self.running > self.finished
        match decision:
            case Give(token):
                assert self.is_usable()
                assert token.value == self.held[0]
            case Join(number):
                self.joined.add(number)
                if fallback:
                    self.fallback_only.add(number)
                if is_running and not fallback:
                    assert number == self.running
                assert self.finished < number <= self.running + 2
            case Deny():
                assert decision.failure is not None
                assert decision.attempts == len(self.tried)
                assert 0.0 < decision.retry_after <= 300.0 + 1e-6
                assert skips_pause or self.is_served_after(decision.retry_after)

    def is_served_after(self, seconds):
        later = Now(self.now.monotonic + seconds + 1e-6, self.now.time + seconds)
        return not isinstance(step(self.state, Ask(), later, self.rules)[1], Deny)

    def check_attempt(self, attempt):
        if self.running == self.finished:
            self.running += 1
            self.tried = []
            self.ends_at = self.now.monotonic + 2 * self.rules.request_timeout
        rest = max(self.ends_at - self.now.monotonic, 0.0)
        assert attempt.number == self.running
        assert 0.0 <= attempt.timeout <= min(self.rules.request_timeout, rest)
        assert self.now.monotonic >= self.told[attempt.way]
        assert self.tried.count(attempt.way) < self.rules.max_attempts
        if not self.tried:
            assert (attempt.way is FALLBACK) is (attempt.number in self.fallback_only)
        elif attempt.way is PRIMARY:
            assert FALLBACK not in self.tried

    def check_wait(self, wait):
        seconds = math.inf if wait.until_at is None else wait.until_at - self.now.monotonic
        assert seconds > 0.0
        if self.running > self.finished:
            assert wait.until_at < self.ends_at
        else:
            assert not self.joined
            assert (wait.until_at is None) is not self.rules.periodic
            assert (
                wait.until_at is None or seconds <= max(self.rules.refresh_interval, 300.0) + 1e-6
            )

    def check_finished(self, finished):
        assert finished.number == self.running == self.finished + 1
        assert finished.attempts == len(self.tried)
        self.finished += 1
        self.joined.discard(finished.number)

    def check_state(self):
        held = self.state.held
        assert (held and held.token.value) == (self.held and self.held[0])
        assert self.state.consecutive_failures == self.failed_cycles


@pytest.mark.parametrize("steps", [5, 10, 20, 40, 80])
def test_in_any_order_of_events_every_rule_is_kept(steps):
    for seed in range(10_000 // steps):
        Walk(Random(f"{steps} {seed}")).go(steps)


# A month.

DAY = 86_400.0
MONTH = 30 * DAY
HANGING = failure("no answer in time")
TOLD_TO_WAIT = failure(retry_after=200.0)
SHORT_AND_LONG = ((2, 5.0), (5, 600.0), (9, 7200.0), (13, DAY), (20, 3 * DAY))  # day, seconds


class Simulation:
    """The loop over days: what it did, and the moments at which a caller would get no token.

    `outages`: the begin and the length of each, in seconds, and how every request fails meanwhile
    """

    def __init__(self, lifetime, outages=(), *, seconds=MONTH):
        self.policy = policy = Policy()
        self.requests = self.turns = 0
        self.without_token = []
        random = Random(7)
        while policy.elapsed < seconds:
            decision = policy.turn()
            self.turns += 1
            if isinstance(decision, Wait):
                self.wait(decision.until_at)
                continue
            self.requests += 1
            self.look(policy.now.monotonic)
            now = policy.elapsed
            reason = next(
                (why for begin, length, why in outages if 0 <= now - begin < length), None
            )
            if reason is None:
                policy.later(0.2)
                policy.grant("t1", lifetime, random.random())
            else:
                policy.later(decision.timeout if reason is HANGING else 0.05)
                policy.fail(reason, random.random())

    def wait(self, until_at):
        """What a caller gets changes meanwhile only where the held token ends."""
        policy, held = self.policy, self.policy.state.held
        self.look(until_at)
        if held is not None and policy.now.monotonic < held.unusable_at < until_at:
            policy.until(held.unusable_at)
            self.look(until_at)
        policy.until(until_at)

    def look(self, until_at):
        """A token, or an error that tells when the loop tries again, or the cycle that runs."""
        policy = self.policy
        _, decision = step(policy.state, Ask(), policy.now, policy.rules)
        match decision:
            case Give():
                return
            case Deny(reason, _, retry_after):
                assert reason is not None
                assert policy.now.monotonic + retry_after == pytest.approx(until_at, abs=1e-6)
            case Join(number):
                assert number == policy.state.cycle.number
        self.without_token.append(policy.elapsed)

    def had_token_but_in(self, outages, longest_pause):
        """Besides the first fetch, and until the loop can notice that an outage is over."""
        healed = 2 * RULES.request_timeout + longest_pause
        excused = [(0.0, 0.0), *((begin, begin + length + healed) for begin, length, _ in outages)]
        return all(any(begin <= at <= end for begin, end in excused) for at in self.without_token)


@pytest.mark.parametrize(
    ("lifetime", "due", "seconds"), [(60.0, 30.0, DAY), (3600.0, 2700.0, MONTH)]
)
def test_healthy_days_have_a_token_always_and_two_turns_for_a_refresh(lifetime, due, seconds):
    simulation = Simulation(lifetime, seconds=seconds)

    assert simulation.without_token == [0.0]
    assert seconds / (due + 0.2) <= simulation.requests <= seconds / (0.9 * due) + 1
    assert simulation.turns <= 2 * simulation.requests


@pytest.mark.parametrize(
    ("reason", "attempts", "shortest", "longest"),  # of the pauses, once they are at their longest
    [
        (UNAVAILABLE, 3, 30.0, 60.0),
        (HANGING, 3, 30.0, 60.0),
        (REFUSED, 1, 30.0, 60.0),
        (INVALID_CLIENT, 1, 150.0, 300.0),
        (TOLD_TO_WAIT, 1, 200.0, 200.0),
    ],
    ids=["unavailable", "hanging", "refused", "invalid client", "told to wait"],
)
def test_a_month_with_outages_has_bounded_requests(reason, attempts, shortest, longest):
    outages = [(day * DAY, length, reason) for day, length in SHORT_AND_LONG]

    month = Simulation(LIFETIME, outages)

    # Ten pauses until they are at their longest, and in each cycle that many attempts.
    more = sum(attempts * (10 + length / shortest) for _, length, _ in outages)
    assert month.requests <= MONTH / (0.9 * DUE) + 1 + more
    assert month.turns <= 2 * month.requests
    assert month.had_token_but_in(outages, longest)


def test_a_month_of_short_lived_tokens_with_outages_of_all_kinds():
    reasons = [UNAVAILABLE, HANGING, TOLD_TO_WAIT, REFUSED, INVALID_CLIENT]
    outages = [
        (day * DAY, length, why) for (day, length), why in zip(SHORT_AND_LONG, reasons, strict=True)
    ]

    month = Simulation(60.0, outages)

    more = sum(3 * (10 + length / 30.0) for _, length, _ in outages)
    assert month.requests <= MONTH / (0.9 * 30.0) + 1 + more
    assert month.turns <= 2 * month.requests
    assert month.had_token_but_in(outages, 300.0)


def test_an_outage_that_is_shorter_than_the_rest_of_a_token_is_nobodys_error():
    shorter = LIFETIME - LEEWAY - DUE - 60.0  # the last pause

    month = Simulation(LIFETIME, [(day * DAY, shorter, UNAVAILABLE) for day in range(1, 30)])

    assert month.without_token == [0.0]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_in_any_order_that_hypothesis_finds_every_rule_is_kept(random):
    Walk(random).go(25)
