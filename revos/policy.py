"""When to ask for a token, by which method, how long to wait, and what a caller gets now.

This is a protocol without I/O: no clock is read here, nothing sleeps, nothing is random. The
refresher reports an *event*, with the time that both clocks show, and is told a *decision*:

    state, decision = step(state, event, now, rules)

All that changes the state lives here. A held token is one of three things to a caller (P3, P4):

=======  ==============================================  ==========================
held is  when                                            a caller gets
=======  ==============================================  ==========================
fresh    before it is due for refresh                    it, at once
stale    due, but usable                                 it, at once; a cycle starts
invalid  past expiry less the leeway, by either clock    the outcome of a cycle
=======  ==============================================  ==========================

A *cycle* is what stands between "a token is needed" and its outcome: attempts of the primary
method with pauses between them, then perhaps attempts of the fallback. Cycles have numbers, one
runs at a time, and whoever needs a token joins one (P1). A failed cycle is followed by a pause
(P8).

The refusals of the gateway are kept for each consumer apart (`Refusals`, P6), since one that is
refused for good must not slow the others.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from enum import Enum

from attrs import evolve, field, frozen

from revos.oauth2 import Failure, Grant
from revos.token import AccessToken

__all__ = [
    "Ask",
    "Attempt",
    "Decision",
    "Deny",
    "Event",
    "Failed",
    "Finished",
    "Give",
    "Granted",
    "Held",
    "Invalidate",
    "Join",
    "Kind",
    "Now",
    "Proceed",
    "Refusals",
    "Reset",
    "Rules",
    "State",
    "Turn",
    "Wait",
    "Way",
    "leeway_of",
    "replay_accepted",
    "replay_refused",
    "step",
    "untried_accepted",
]

NEVER = -math.inf
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
LONGEST_PAUSE_INVALID_CLIENT = 300.0
LONGEST_RETRY_AFTER_IN_CYCLE = 10.0
LONGEST_RETRY_AFTER = 300.0
FORCED_INTERVAL = 1.0


class Way(Enum):
    """The two complete ways to authenticate."""

    PRIMARY = "primary"
    FALLBACK = "fallback"


class Kind(Enum):
    """What a cycle may try."""

    NORMAL = "normal"
    FALLBACK_ONLY = "fallback only"


@frozen
class Now:
    """One moment, as both clocks show it: seconds."""

    monotonic: float
    time: float


@frozen
class Rules:
    """What the configuration says, in seconds.

    `fallback_after` is the number of failed primary cycles in a row, the running one included,
    after which a cycle goes on to the fallback; None where it never does.
    """

    refresh_interval: float
    buffer: float
    max_attempts: int
    request_timeout: float
    periodic: bool
    fallback_after: int | None


@frozen
class Held:
    """The token that is held, and its four moments on both clocks."""

    token: AccessToken
    by: Way
    due_at: float
    due_time: float
    unusable_at: float
    unusable_time: float

    def is_usable(self, now: Now) -> bool:
        return now.monotonic < self.unusable_at and now.time < self.unusable_time

    def is_due(self, now: Now) -> bool:
        return now.monotonic >= self.due_at or now.time >= self.due_time


@frozen
class Cycle:
    number: int
    kind: Kind
    way: Way
    deadline_at: float
    next_attempt_at: float
    attempts: int = 0
    attempts_this_way: int = 0


@frozen
class State:
    held: Held | None = None
    cycle: Cycle | None = None
    queue: tuple[Kind, ...] = ()
    begun: int = 0
    consecutive_failures: int = 0
    primary_failures: int = 0
    pause_until_at: float = NEVER
    told_to_wait_until_at: tuple[float, float] = (NEVER, NEVER)  # primary, fallback
    forced_until_at: tuple[float, float] = (NEVER, NEVER)  # normal, fallback only
    last_failure: Failure | None = None
    last_attempts: int = 0
    last_refresh_time: float | None = None


# Events: what happened, or who asks.


@frozen
class Ask:
    """A caller asks for a token.

    :ivar force: the held one won't do
    :ivar superseding: the held one won't do if it has this value
    :ivar fallback: only a token of the fallback will do
    :ivar not_before_at: until then this caller may not cause a cycle, nor wait for one (P6)
    """

    force: bool = False
    superseding: str | None = field(default=None, repr=False)
    fallback: bool = False
    not_before_at: float = NEVER


@frozen
class Turn:
    """The loop asks what to do now."""


@frozen
class Granted:
    """The attempt brought a token; `head` is when the response's head arrived."""

    grant: Grant
    head: Now
    method: str
    random: float


@frozen
class Failed:
    """The attempt brought none."""

    failure: Failure
    random: float


@frozen
class Invalidate:
    """The held token is dropped; if `value` is given, only where that is the one."""

    value: str | None = field(default=None, repr=False)


@frozen
class Reset:
    """Token, counts and pauses are dropped."""


Event = Ask | Turn | Granted | Failed | Invalidate | Reset


# Decisions: what the caller gets, or what the loop does.


@frozen
class Give:
    """The token, at once."""

    token: AccessToken


@frozen
class Join:
    """The outcome of the cycle with this number."""

    number: int


@frozen
class Deny:
    """The error of the last cycle, at once; the next one runs in `retry_after` seconds."""

    failure: Failure | None
    attempts: int
    retry_after: float


@frozen
class Attempt:
    """Send one token request, and give it no more than `timeout` seconds."""

    way: Way
    timeout: float
    number: int


@frozen
class Wait:
    """Nothing to do until this moment (None: until something happens)."""

    until_at: float | None


@frozen
class Proceed:
    """Noted; the next `Turn` tells more."""


@frozen
class Finished:
    """The cycle with this number is over: a token, or the failure of its last attempt."""

    number: int
    outcome: Held | Failure
    attempts: int
    retry_after: float | None


Decision = Give | Join | Deny | Attempt | Wait | Proceed | Finished


def step(state: State, event: Event, now: Now, rules: Rules) -> tuple[State, Decision]:  # noqa: PLR0911 - one way out for each event
    """The state after the event, and what to do about it."""
    match event:
        case Ask():
            return _ask(state, event, now)
        case Turn():
            return _turn(state, now, rules)
        case Granted():
            return _granted(state, event, rules)
        case Failed():
            return _failed(state, event, now, rules)
        case Invalidate():
            held = state.held
            if held is None or event.value not in (None, held.token.value):
                return state, Proceed()
            return evolve(state, held=None), Proceed()
        case Reset():
            return State(cycle=state.cycle, queue=state.queue, begun=state.begun), Proceed()


def _ask(state: State, ask: Ask, now: Now) -> tuple[State, Decision]:
    held = state.held
    if held is not None and held.is_usable(now) and not ask.force:
        if ask.superseding is None:
            return _started_if_stale(state, held, now), Give(held.token)
        if ask.superseding != held.token.value:
            return state, Give(held.token)
    if now.monotonic < ask.not_before_at:
        return state, Deny(
            state.last_failure, state.last_attempts, ask.not_before_at - now.monotonic
        )

    kind = Kind.FALLBACK_ONLY if ask.fallback else Kind.NORMAL
    joined = _cycle_for(state, kind)
    if joined is not None:
        return state, Join(joined)
    skips_pause = ask.force or ask.fallback
    free_at = _forced_at(state, kind) if skips_pause else state.pause_until_at
    if now.monotonic < free_at:
        next_at = max(free_at, state.pause_until_at)
        return state, Deny(state.last_failure, state.last_attempts, next_at - now.monotonic)
    return _queued(_forced(state, kind, now) if skips_pause else state, kind)


def _started_if_stale(state: State, held: Held, now: Now) -> State:
    idle = state.cycle is None and not state.queue
    if idle and held.is_due(now) and now.monotonic >= state.pause_until_at:
        return _queued(state, Kind.NORMAL)[0]
    return state


def _cycle_for(state: State, kind: Kind) -> int | None:
    """The number of the cycle whose outcome serves, or None where one must be queued."""
    running = state.cycle
    if running is not None and (kind is Kind.NORMAL or running.kind is kind):
        return running.number
    for place, queued in enumerate(state.queue, start=1):
        if kind is Kind.NORMAL or queued is kind:
            return state.begun + place
    return None


def _queued(state: State, kind: Kind) -> tuple[State, Join]:
    queue = (*state.queue, kind)
    return evolve(state, queue=queue), Join(state.begun + len(queue))


def _forced_at(state: State, kind: Kind) -> float:
    """When a cycle that does not wait for the pause may run: after failures not more often than
    once a second, and never before a `Retry-After`.
    """
    if not state.consecutive_failures:
        return NEVER
    if kind is Kind.FALLBACK_ONLY:
        return max(state.forced_until_at[1], state.told_to_wait_until_at[1])
    return max(state.forced_until_at[0], *state.told_to_wait_until_at)


def _forced(state: State, kind: Kind, now: Now) -> State:
    normal, fallback_only = state.forced_until_at
    again_at = now.monotonic + FORCED_INTERVAL
    if kind is Kind.FALLBACK_ONLY:
        return evolve(state, forced_until_at=(normal, again_at))
    return evolve(state, forced_until_at=(again_at, fallback_only))


def _turn(state: State, now: Now, rules: Rules) -> tuple[State, Decision]:
    if state.cycle is None:
        if not state.queue:
            if not rules.periodic:
                return state, Wait(None)
            held = state.held
            due_at = NEVER if held is None or held.is_due(now) else held.due_at
            begin_at = max(due_at, state.pause_until_at)
            if now.monotonic < begin_at:
                return state, Wait(begin_at)
            state, _ = _queued(state, Kind.NORMAL)
        elif state.last_failure is not None and state.queue[0] is Kind.FALLBACK_ONLY:
            # While it was queued the fallback may have failed in the cycle before.
            failure, rest = state.last_failure, state.told_to_wait_until_at[1] - now.monotonic
            if rest > 0:
                number = state.begun + 1
                state = evolve(state, queue=state.queue[1:], begun=number)
                return state, Finished(number, failure, state.last_attempts, rest)
        state = _begun(state, now, rules)
    cycle = state.cycle
    assert cycle is not None  # noqa: S101 - `_begun` has just set it, which mypy can't see
    if now.monotonic < cycle.next_attempt_at:
        return state, Wait(cycle.next_attempt_at)
    timeout = min(rules.request_timeout, _limit_at(state, cycle, rules) - now.monotonic)
    return state, Attempt(cycle.way, max(timeout, 0.0), cycle.number)


def _begun(state: State, now: Now, rules: Rules) -> State:
    kind, *rest = state.queue
    if kind is Kind.FALLBACK_ONLY:  # It may have been queued for long.
        state = _forced(state, kind, now)
    cycle = Cycle(
        number=state.begun + 1,
        kind=kind,
        way=Way.FALLBACK if kind is Kind.FALLBACK_ONLY else Way.PRIMARY,
        deadline_at=now.monotonic + 2 * rules.request_timeout,
        next_attempt_at=now.monotonic,
    )
    return evolve(state, cycle=cycle, queue=tuple(rest), begun=cycle.number)


def _fallback_follows(state: State, cycle: Cycle, rules: Rules) -> bool:
    return (
        cycle.way is Way.PRIMARY
        and rules.fallback_after is not None
        and state.primary_failures + 1 >= rules.fallback_after
    )


def _limit_at(state: State, cycle: Cycle, rules: Rules) -> float:
    """Until when this way may try: a primary that hangs leaves the fallback one whole request."""
    if _fallback_follows(state, cycle, rules):
        return cycle.deadline_at - rules.request_timeout
    return cycle.deadline_at


def leeway_of(lifetime: float) -> float:
    """How long before its end a token counts as expired (P4), in seconds."""
    return min(30.0, lifetime / 10)


def _granted(state: State, event: Granted, rules: Rules) -> tuple[State, Decision]:
    cycle = state.cycle
    assert cycle is not None  # noqa: S101 - an attempt belongs to a cycle
    lifetime = event.grant.lifetime
    leeway = leeway_of(lifetime)
    due = min(rules.refresh_interval, max(lifetime - leeway - rules.buffer, lifetime / 2))
    due *= 1 - event.random / 10
    head = event.head
    held = Held(
        token=AccessToken(
            event.grant.value,
            datetime.fromtimestamp(head.time + lifetime, UTC),
            event.grant.scope,
            event.method,
        ),
        by=cycle.way,
        due_at=head.monotonic + due,
        due_time=head.time + due,
        unusable_at=head.monotonic + lifetime - leeway,
        unusable_time=head.time + lifetime - leeway,
    )
    state = evolve(
        state,
        held=held,
        cycle=None,
        consecutive_failures=0,
        primary_failures=0 if cycle.way is Way.PRIMARY else state.primary_failures,
        pause_until_at=NEVER,
        told_to_wait_until_at=(NEVER, NEVER),
        last_failure=None,
        last_attempts=0,
        last_refresh_time=head.time,
    )
    return state, Finished(cycle.number, held, cycle.attempts + 1, None)


def _failed(state: State, event: Failed, now: Now, rules: Rules) -> tuple[State, Decision]:
    cycle, failure = state.cycle, event.failure
    assert cycle is not None  # noqa: S101 - an attempt belongs to a cycle
    cycle = evolve(
        cycle,
        attempts=cycle.attempts + 1,
        attempts_this_way=cycle.attempts_this_way + 1,
    )
    again_at = _next_attempt_at(cycle, failure, event.random, now, rules)
    if again_at is not None and again_at < _limit_at(state, cycle, rules):
        return evolve(state, cycle=evolve(cycle, next_attempt_at=again_at)), Proceed()

    # This way is done. Its Retry-After outlives the cycle.
    told = list(state.told_to_wait_until_at)
    if failure.retry_after is not None:
        told[cycle.way is Way.FALLBACK] = now.monotonic + min(
            failure.retry_after, LONGEST_RETRY_AFTER
        )
    goes_on = _fallback_follows(state, cycle, rules) and now.monotonic < cycle.deadline_at
    state = evolve(
        state,
        told_to_wait_until_at=(told[0], told[1]),
        primary_failures=state.primary_failures + (cycle.way is Way.PRIMARY),
    )
    if goes_on:
        cycle = evolve(cycle, way=Way.FALLBACK, attempts_this_way=0)
        return evolve(state, cycle=cycle), Proceed()

    failures = state.consecutive_failures + 1
    longest = LONGEST_PAUSE_INVALID_CLIENT if failure.error == "invalid_client" else LONGEST_PAUSE
    pause_until_at = max(now.monotonic + pause(failures, event.random, longest), *told)
    state = evolve(
        state,
        cycle=None,
        consecutive_failures=failures,
        pause_until_at=pause_until_at,
        last_failure=failure,
        last_attempts=cycle.attempts,
    )
    return state, Finished(cycle.number, failure, cycle.attempts, pause_until_at - now.monotonic)


def _next_attempt_at(
    cycle: Cycle, failure: Failure, random: float, now: Now, rules: Rules
) -> float | None:
    """When the same way tries again within the cycle, or None."""
    if not failure.retryable or cycle.attempts_this_way >= rules.max_attempts:
        return None
    if failure.retry_after is None:
        return now.monotonic + pause(cycle.attempts_this_way, random)
    if failure.retry_after > LONGEST_RETRY_AFTER_IN_CYCLE:
        return None
    return now.monotonic + failure.retry_after


def pause(failures: int, random: float, longest: float = LONGEST_PAUSE) -> float:
    """Seconds to wait after that many failures in a row: uniform in [d/2, d], where d is 1 s,
    doubled each time, up to `longest`; `random` is in [0, 1).

    >>> [pause(n, 0.0) for n in (1, 2, 3, 100)]
    [0.5, 1.0, 2.0, 30.0]
    """
    doubled: float = min(FIRST_PAUSE * 2.0 ** min(failures - 1, 30), longest)
    return doubled * (1 + random) / 2


@frozen
class Refusals:
    """How often the gateway refused one consumer although its token was new (P6).

    :ivar delay: seconds of the delay that runs, 0 where none does
    :ivar until_at: its end; before it this consumer causes no refresh
    :ivar counted: the value of the last token whose refusal was counted
    """

    delay: float = 0.0
    until_at: float = NEVER
    counted: str | None = field(default=None, repr=False)


def replay_refused(refusals: Refusals, value: str, current: str | None, now_at: float) -> Refusals:
    """A replay with the token `value` was refused: the delay starts, or doubles.

    While it runs, only the refusal of a newer token says more: a thousand replays that are refused
    together count once. When it is over each counts: the endpoint may give the same token again,
    and others may have replaced the refused one before its replay was answered.
    """
    if now_at < refusals.until_at and (value != current or value == refusals.counted):
        return refusals
    delay = min(2 * refusals.delay or FIRST_PAUSE, LONGEST_PAUSE)
    return Refusals(delay, now_at + delay, value)


def replay_accepted() -> Refusals:
    """A replay of this consumer was accepted: nothing stands against it any more."""
    return Refusals()


def untried_accepted(refusals: Refusals) -> Refusals:
    """The token that no replay could try serves a request: the first delay ends early.

    Only the first, and the next is double: a gateway may refuse one kind of request for good and
    accept others in turn.
    """
    return evolve(refusals, until_at=NEVER) if refusals.delay <= FIRST_PAUSE else refusals
