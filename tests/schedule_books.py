"""What must be so while `schedule_world` drives a manager: P1 to P9, from books kept beside it.

The books know what the token endpoint and the gateway were asked and answered, what callers and
subscribers got and when, and every event that the policy was told with what it decided. Of those
they make a model of their own: which token is held and until when, which cycle runs and who waits
for it, which pauses stand. Whatever does not fit is a violation; `check` raises them.

Two kinds of moments: what is true *always* is checked where it happens (`noted`, `sent`, `ended`,
`received`); what is true only once every task waits is checked by `quiet`.
"""

from __future__ import annotations

import math
from collections import Counter

import anyio
from attrs import Factory, define, field, frozen

from revos import RevosAuthenticationError, RevosClosedError, RevosConfigurationError
from revos.oauth2 import Failure
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
    Proceed,
    Reset,
    Turn,
    Wait,
    Way,
)

EPSILON = 1e-5  # seconds: what sums of floats may be apart
NEVER = -math.inf
PRIMARY, FALLBACK = Way.PRIMARY, Way.FALLBACK
LONGEST_TOLD = 300.0  # seconds of a Retry-After that are kept
LONGEST_TOLD_IN_CYCLE = 10.0


def is_about(one, other):
    return abs(one - other) <= EPSILON


def doubled(times, longest):
    """1 s, doubled each time, up to `longest`."""
    return min(2.0 ** (times - 1), longest)


def usable_for(lifetime):
    return lifetime - min(30.0, lifetime / 10)


@define(eq=False)
class Served:
    """One request at the token endpoint: the answer that it gets, and how far that got."""

    way: Way
    answer: object
    number: int
    at: float
    value: str
    head: object = None
    retry_after: float | None = None
    was_quiet: bool = False  # All tasks waited since the head was sent.
    is_whole: bool = False
    is_given_up: bool = False
    is_wasted: bool = False  # Its token had expired before it was whole.

    def is_late(self, at):
        """Whether that is so at this moment; None where nobody can tell from here."""
        over = at - self.head.monotonic - usable_for(self.answer.lifetime)
        is_sure = abs(over) > EPSILON and (over < 0 or self.was_quiet)
        return over > 0 if is_sure else None


@define(eq=False)
class Held:
    """The token that is held, by the model."""

    served: Served
    order: int
    lifetime: float
    head: object
    due: float  # seconds from the head
    is_new: bool = True

    @property
    def value(self):
        return self.served.value

    @property
    def usable_for(self):
        return usable_for(self.lifetime)

    def is_past(self, seconds, now):
        """By either clock; None where rounding decides."""
        past = max(now.monotonic - self.head.monotonic, now.time - self.head.time) - seconds
        return None if abs(past) <= EPSILON else past > 0


@frozen
class Cause:
    """Why a cycle was queued: the ask of a caller, or None where the loop found it to be due."""

    ask: Ask | None = None

    @property
    def is_fallback_only(self):
        return self.ask is not None and self.ask.fallback

    @property
    def is_forced(self):
        return self.ask is not None and (self.ask.force or self.ask.fallback)


@define(eq=False)
class Try:
    way: Way
    at: float
    timeout: float
    served_before: int
    failed: Failed | None = None
    ended_at: float = NEVER


@define(eq=False)
class Cycle:
    number: int
    cause: Cause
    begun_at: float
    starved_before: float
    tries: list[Try] = Factory(list)

    def tries_by(self, way):
        return [one for one in self.tries if one.way is way]


@define(eq=False)
class Caller:
    """A task that asks: by a method of the manager, or by a request to the gateway."""

    what: str
    is_fallback_only: bool = False
    superseding: str | None = None
    consumer: Consumer | None = None
    is_streamed: bool = False
    decision: object = None  # the last that the policy told it, and when
    asked_at: float = NEVER
    starved_before: float = 0.0
    sent: list[Sent] = Factory(list)
    outcome: object = None
    is_done: bool = False
    is_old: bool = False
    is_cancelled: bool = False
    scope: anyio.CancelScope = Factory(anyio.CancelScope)
    must_get: str | None = None  # at once
    must_be_closed: bool = False


@define(eq=False)
class Sent:
    """One request to the gateway."""

    caller: Caller
    token: str
    is_replay: bool
    verdict: str | None = None


@define(eq=False)
class Consumer:
    """The model of one consumer's delay after refused replays (P6).

    It knows the plain case: replays that are answered while none else is out. In any other, `vague`
    is set until a replay is accepted, and less is checked.
    """

    auth: object
    delay: float = 0.0
    until_at: float = NEVER
    counted: str | None = None
    is_vague: bool = False
    is_clean: bool = True  # Nothing was refused that could start a delay.
    is_hurt: bool = False  # Something was, since the last quiet moment.
    out: list[Sent] = Factory(list)
    answered: list[Sent] = Factory(list)  # since the last quiet moment
    caused: int = 0  # cycles, since then

    @property
    def values_out(self):
        return {one.token for one in self.out if one.is_replay}


@define(eq=False)
class Subscriber:
    is_slow: bool
    scope: anyio.CancelScope = Factory(anyio.CancelScope)
    turn: anyio.Event = Factory(anyio.Event)
    stream: object = None
    got: list[str] = Factory(list)
    last_order: int = 0
    must_get: str | None = None  # at once
    is_ended: bool = False
    is_cancelled: bool = False


@define(eq=False)
class Books:
    """The books of one manager.

    :ivar settings: what it is configured with
    :ivar seen: how often each event had each decision, over all managers of a run
    :ivar starved: seconds that the clocks went on at once, with no task running
    :ivar hurried: things done since the last quiet moment
    :ivar moves: grows with everything that goes on
    """

    settings: object
    clock: object
    seen: Counter
    violations: list[str] = field(factory=list)
    starved: float = 0.0
    hurried: int = 0
    moves: int = 0
    is_leaving: bool = False
    is_closed: bool = False

    served: list[Served] = field(factory=list)
    in_flight: list[Served] = field(factory=list)
    callers: list[Caller] = field(factory=list)
    subscribers: list[Subscriber] = field(factory=list)
    consumers: list[Consumer] = field(factory=list)

    held: Held | None = None
    granted: dict[str, Held] = field(factory=dict)
    cycle: Cycle | None = None
    queued: dict[int, Cause] = field(factory=dict)
    finished: dict[int, Finished] = field(factory=dict)
    gave_stale: bool = False
    failures: int = 0
    primary_failures: int = 0
    last_failed: Finished | None = None
    pause_until_at: float = NEVER
    told: dict[Way, float] = field(factory=lambda: {PRIMARY: NEVER, FALLBACK: NEVER})
    forced_at: dict[bool, float] = field(factory=lambda: {False: NEVER, True: NEVER})

    def expect(self, promise, is_so, *facts):
        if not is_so:
            self.violations.append(" ".join(map(str, (promise, *facts))))

    def check(self):
        if self.violations:
            raise AssertionError("; ".join(self.violations))

    def is_usable(self):
        """Whether there is a token to hand out now; None where rounding decides."""
        if self.held is None:
            return False
        past = self.held.is_past(self.held.usable_for, self.clock.now())
        return None if past is None else not past

    def usable_value(self):
        return self.held.value if self.is_usable() else None

    def begin(self):
        """One more thing is done; before quiet, it may change what the one before had to bring."""
        self.hurried += 1
        if self.hurried > 1:
            for one in (*self.callers, *self.subscribers):
                one.must_get = None
            for one in self.callers:
                one.must_be_closed = False

    # What the servers see.

    def arrived(self, served):
        self.moves += 1
        self.served.append(served)
        self.in_flight.append(served)
        self.expect("P1: one token request in flight", len(self.in_flight) == 1)
        self.expect("P9: no token request of a closed manager", not self.is_closed)

    def left(self, served):
        self.moves += 1
        self.in_flight.remove(served)
        if not served.is_whole:
            served.is_given_up = True
            self._expect_timeout()

    def _expect_timeout(self):
        """P2: nobody but the clock and the end of the manager ends a request."""
        last = self.cycle.tries[-1] if self.cycle is not None and self.cycle.tries else None
        ran = 0.0 if last is None else self.clock.monotonic() - last.at
        self.expect(
            "P2: only its timeout ends a token request",
            self.is_leaving or (last is not None and ran >= last.timeout - EPSILON),
            "after",
            ran,
        )

    def sent(self, sent):
        """A request arrives at the gateway."""
        self.moves += 1
        caller, earlier = sent.caller, sent.caller.sent
        token = self.granted.get(sent.token)
        self.expect("the gateway gets tokens that were issued", token is not None, sent.token)
        if token is not None:
            past = token.is_past(token.usable_for, self.clock.now())
            self.expect("P4: the gateway gets no expired token", not past, sent.token)
        self.expect("P6: a request is replayed once", len(earlier) <= 1)
        self.expect("a streamed body is not replayed", not (earlier and caller.is_streamed))
        if earlier and token is not None:
            older = self.granted[earlier[0].token]
            self.expect("P6: the replay has a newer token", older.order < token.order)
        earlier.append(sent)
        caller.consumer.out.append(sent)

    def answered(self, sent, verdict):
        self.moves += 1
        consumer = sent.caller.consumer
        sent.verdict = verdict
        consumer.out.remove(sent)
        consumer.answered.append(sent)
        if verdict != "refused":
            return
        twin_is_out = not sent.is_replay and sent.token in consumer.values_out
        if sent.is_replay or sent.caller.is_streamed or twin_is_out:
            consumer.is_clean, consumer.is_hurt = False, True
        if sent.caller.is_streamed or twin_is_out:
            consumer.is_vague = True

    # What the policy is told, and what it decides.

    def noted(self, event, decision, caller):
        self.moves += 1
        self.seen[type(event).__name__, type(decision).__name__] += 1
        now = self.clock.monotonic()
        match event:
            case Ask():
                self._asked(event, decision, caller, now)
            case Turn():
                self._turned(decision, now)
            case Granted():
                self._granted(event, decision, now)
            case Failed():
                self._failed(event, decision, now)
            case Invalidate():
                self.expect("an invalidation is noted", decision == Proceed())
                if self.held is not None and event.value in {None, self.held.value}:
                    self.held = None
            case Reset():
                self.expect("a reset is noted", decision == Proceed())
                self.held = self.last_failed = None
                self.failures = self.primary_failures = 0
                self._drop_pauses()
                self.forced_at = dict.fromkeys(self.forced_at, NEVER)
        self._check_the_ask_of_a_request(event, decision, caller, now)

    def _drop_pauses(self):
        self.pause_until_at = NEVER
        self.told = dict.fromkeys(self.told, NEVER)

    def _asked(self, ask, decision, caller, now):
        if caller is not None:
            caller.decision, caller.asked_at = decision, now
            caller.starved_before = self.starved
        held_serves = self.held is not None and not ask.force and ask.superseding != self.held.value
        usable = self.is_usable()
        if isinstance(decision, Give):
            self.expect("P4: what is given is usable", held_serves and usable is not False)
            self.expect("what is given is held", decision.token.value == self.held.value)
            self.gave_stale |= ask.superseding is None
            return
        self.expect("P3: a usable token is given", not (held_serves and usable), ask, decision)
        if now < ask.not_before_at:
            rest = ask.not_before_at - now
            self.expect("P6: in its delay a consumer is denied", isinstance(decision, Deny))
            self.expect("P6: until its end", is_about(decision.retry_after, rest))
        elif isinstance(decision, Join):
            self._joined(ask, decision.number, caller, now)
        else:
            self._denied(ask, decision, now)

    def _joined(self, ask, number, caller, now):
        running = self.cycle
        if running is not None and (not ask.fallback or running.cause.is_fallback_only):
            self.expect("P1: who asks joins the running cycle", number == running.number)
            return
        known = {key: cause for key, cause in self.queued.items() if number == key}
        if known:
            fits = not ask.fallback or known[number].is_fallback_only
            self.expect("only a cycle of the fallback serves who asks for that", fits)
            return
        cause = Cause(ask)
        last = max([*self.finished, *self.queued, 0 if running is None else running.number, 0])
        self.expect("cycles have numbers in a row", number == last + 1, number, last)
        self.expect("P8: no cycle in a pause", now >= self._free_at(cause) - EPSILON, ask)
        if cause.is_forced:
            self.forced_at[cause.is_fallback_only] = now
        self.queued[number] = cause
        if caller is not None and caller.consumer is not None and ask.superseding is not None:
            caller.consumer.caused += 1

    def _free_at(self, cause):
        """When the next cycle with this cause may be queued (P8)."""
        if not cause.is_forced:
            return self.pause_until_at
        if not self.failures:
            return NEVER
        told = self.told[FALLBACK] if cause.is_fallback_only else max(self.told.values())
        return max(self.forced_at[cause.is_fallback_only] + 1.0, told)

    def _denied(self, ask, deny, now):
        cause = Cause(ask)
        failed = self.last_failed
        self.expect("P8: only after a failed cycle is anybody denied", self.failures > 0, ask)
        self.expect("P8: and only in a pause", now < self._free_at(cause) + EPSILON, ask)
        runs = self.cycle is not None and (not ask.fallback or self.cycle.cause.is_fallback_only)
        self.expect("P1: nobody is denied what runs", not runs)
        if failed is not None:
            self.expect("P8: the held error", deny.failure == failed.outcome)
            self.expect("P8: with all attempts", deny.attempts == failed.attempts)
            next_at = max(self._free_at(cause), self.pause_until_at)
            self.expect("P8: until the pause ends", is_about(deny.retry_after, next_at - now))

    def _turned(self, decision, now):
        match decision:
            case Attempt(way, timeout, number):
                if self.cycle is None:
                    self._begun(way, number, now)
                self._attempted(way, timeout, number, now)
            case Wait(until_at):
                self.expect("P8: no cycle is forgotten", self.cycle is not None or not self.queued)
                if until_at is None:
                    self.expect("P8: the loop goes on for ever", not self.settings.periodic)
                    self.expect("a cycle goes on", self.cycle is None)
                else:
                    self.expect("a wait is for later", until_at > now)
            case Finished(number, _, _, retry_after):
                cause = self.queued.pop(number, Cause())
                rest = self.told[FALLBACK] - now
                self.expect("only a fallback is told off", cause.is_fallback_only and rest > 0)
                self.expect("P8: until its Retry-After ends", is_about(retry_after, rest))
                self._finish(decision)

    def _begun(self, way, number, now):
        cause = self.queued.pop(number, Cause())
        self.expect("cycles run in order", number == len(self.finished) + 1)
        self.cycle = Cycle(number, cause, now, self.starved)
        self.expect("what a cycle tries first", (way is FALLBACK) is cause.is_fallback_only)
        if cause.is_fallback_only:
            self.forced_at[True] = now
        if cause.ask is None:
            may = self.settings.periodic or self.gave_stale
            self.expect("without a loop a cycle needs somebody who asks", may)
            due = self.held is None or self.held.is_past(self.held.due, self.clock.now())
            may_be_over = self.gave_stale and self.hurried > 1  # The clock was set back since.
            self.expect("P7: a refresh is not early", due is not False or may_be_over)
            self.expect("P8: no cycle in a pause", now >= self.pause_until_at - EPSILON)
        self.gave_stale = False

    def _attempted(self, way, timeout, number, now):
        cycle, settings = self.cycle, self.settings
        leaves_time = way is PRIMARY and self._would_fall_back()
        limit = cycle.begun_at + (1 if leaves_time else 2) * settings.request_timeout
        self.expect("P1: one cycle at a time", number == cycle.number)
        self.expect("P1: no request is in flight yet", not self.in_flight)
        expected = max(0.0, min(settings.request_timeout, limit - now))
        self.expect("P8: one deadline", is_about(timeout, expected), timeout, expected)
        self.expect("P8: a Retry-After is kept", now >= self.told[way] - EPSILON, way)
        self.expect("P8: max_retries", len(cycle.tries_by(way)) < settings.max_retries)
        last = cycle.tries[-1] if cycle.tries else None
        if last is not None and last.way is way:
            told = last.failed.failure.retry_after
            random = last.failed.random
            pause = doubled(len(cycle.tries_by(way)), 60.0) * (1 + random) / 2
            again_at = last.ended_at + (pause if told is None else told)
            self.expect("P8: only what may pass is tried again", last.failed.failure.retryable)
            self.expect("P8: after its pause", now >= again_at - EPSILON, now, again_at)
        elif last is not None:
            self.expect("from primary to fallback", way is FALLBACK)
            self.expect("the fallback, once it may", self._falls_back(), self.primary_failures)
        cycle.tries.append(Try(way, now, timeout, len(self.served)))

    def _falls_back(self):
        after = self.settings.fallback_after
        return after is not None and self.primary_failures >= after

    def _granted(self, event, decision, now):
        served = next((one for one in self.served if one.value == event.grant.value), None)
        self.expect("what is granted was served", served is not None and served.is_whole)
        if served is None or self.cycle is None:
            return
        lifetime = served.answer.lifetime
        self.expect("with its lifetime", event.grant.lifetime == lifetime, lifetime)
        self.expect("before it expires", served.is_late(now) is not True)
        head = served.head
        self.expect("from its head", head.monotonic <= event.head.monotonic <= now)
        if served.was_quiet:
            self.expect("exactly", event.head == head)
        latest = max(usable_for(lifetime) - self.settings.buffer, lifetime / 2)
        due = min(self.settings.refresh_interval, latest)
        due *= 1 - event.random / 10
        self.held = Held(served, len(self.granted) + 1, lifetime, event.head, due)
        self.granted[served.value] = self.held
        self.failures = 0
        if served.way is PRIMARY:
            self.primary_failures = 0
        self._drop_pauses()
        self.last_failed = None
        self.expect("a grant ends its cycle", isinstance(decision, Finished))
        self.expect("with its token", decision.outcome.token.value == served.value)
        self._end_cycle(decision, now)

    def _failed(self, event, decision, now):
        cycle, failure = self.cycle, event.failure
        self.expect("what fails was tried", cycle is not None and cycle.tries)
        if cycle is None or not cycle.tries:
            return
        last = cycle.tries[-1]
        last.failed, last.ended_at = event, now
        served = next(iter(self.served[last.served_before :]), None)
        self._check_failure(failure, served, last)

        mine = cycle.tries_by(last.way)
        falls_back = last.way is PRIMARY and self._would_fall_back()
        limit_at = cycle.begun_at + (1 if falls_back else 2) * self.settings.request_timeout
        pause = doubled(len(mine), 60.0) * (1 + event.random) / 2
        told = failure.retry_after
        again_at = now + (pause if told is None else told)
        retries = (
            failure.retryable
            and len(mine) < self.settings.max_retries
            and (told is None or told <= LONGEST_TOLD_IN_CYCLE)
            and (again_at < limit_at)
        )
        if told is not None:
            self.told[last.way] = now + min(told, LONGEST_TOLD)
        if retries:
            self.expect("P8: what may pass is tried again", decision == Proceed(), failure)
            return
        if last.way is PRIMARY:
            self.primary_failures += 1
        has_time = now < cycle.begun_at + 2 * self.settings.request_timeout
        if last.way is PRIMARY and self._falls_back() and has_time:
            self.expect("P8: the fallback follows", decision == Proceed(), failure)
            return
        self.expect("P8: a failed cycle ends", isinstance(decision, Finished), failure)
        if isinstance(decision, Finished):
            self.failures += 1
            longest = 300.0 if failure.error == "invalid_client" else 60.0
            pause = doubled(self.failures, longest) * (1 + event.random) / 2
            self.pause_until_at = max(now + pause, *self.told.values())
            rest = self.pause_until_at - now
            self.expect("P8: the pause", is_about(decision.retry_after, rest), failure)
            self.expect("with its failure", decision.outcome == failure)
            self.last_failed = decision
            self._end_cycle(decision, now)

    def _would_fall_back(self):
        after = self.settings.fallback_after
        return after is not None and self.primary_failures + 1 >= after

    def _check_failure(self, failure, served, last):
        """That it is the one that the endpoint, the clock or the secret file made."""
        now = self.clock.monotonic()
        if served is None:
            built = failure.retryable
            in_time = now < last.at + last.timeout - EPSILON
            self.expect("no request without a reason", not (built and in_time), failure)
        elif served.is_whole and served.answer.lifetime is not None:
            served.is_wasted = True
            self.expect("a good answer is no failure", served.is_late(now) is not False, failure)
            self.expect(
                "but where it is late", (failure.status_code, failure.retryable) == (None, True)
            )
        elif served.is_whole:
            answer = served.answer
            got = failure.status_code, failure.error, failure.retryable
            self.expect("what was answered", got == answer.means, got, answer)
            if served.was_quiet:
                told = failure.retry_after
                self.expect("Retry-After", told == served.retry_after, told, served.retry_after)
        else:
            self.expect("no answer may pass", failure.retryable, failure)
            self.expect("no answer has no status", failure.status_code is None, failure)

    def _end_cycle(self, decision, now):
        cycle, self.cycle = self.cycle, None
        starved = self.starved - cycle.starved_before
        took = now - cycle.begun_at
        limit = 2 * self.settings.request_timeout + starved + EPSILON
        self.expect("P8: no cycle over twice the timeout", took <= limit, took)
        self.expect("the cycle that ran", decision.number == cycle.number)
        self.expect("all its attempts", decision.attempts == len(cycle.tries))
        self._finish(decision)

    def _finish(self, decision):
        self.expect("each cycle ends once", decision.number not in self.finished)
        self.finished[decision.number] = decision

    def _check_the_ask_of_a_request(self, event, decision, caller, now):
        """P6, where the refusal of a request makes it ask."""
        if not isinstance(event, Ask) or caller is None or caller.consumer is None:
            return
        self.expect("P6: a request forces nothing", not event.force)
        if event.superseding is None:
            return
        consumer = caller.consumer
        self.expect("P6: only a refusal asks", caller.sent[-1].verdict == "refused")
        if not consumer.is_vague and now < consumer.until_at - EPSILON:
            self.expect("P6: no refresh in a delay", not isinstance(decision, Join))
        if consumer.is_clean:
            self.expect("P6: no delay without cause", event.not_before_at <= now)

    # What callers and subscribers get.

    def ended(self, caller, outcome):
        self.moves += 1
        caller.outcome, caller.is_done = outcome, True
        if caller.is_cancelled:
            return
        if caller.consumer is not None:
            self._request_ended(caller, outcome)
        elif isinstance(outcome, BaseException):
            self._raised(caller, outcome)
        elif isinstance(outcome, bool):
            self._told(caller, is_refreshed=outcome)
        else:
            self._got(caller, outcome)
        if caller.must_be_closed:
            is_closed = isinstance(outcome, RevosClosedError) or outcome in {False, 401}
            self.expect("P9: who waits is told that it is closed", is_closed, outcome)
        if caller.must_get is not None:
            self.expect("P3: what is usable, at once", outcome == caller.must_get, caller)

    def _got(self, caller, value):
        token = self.granted.get(value)
        self.expect("callers get tokens that were issued", token is not None)
        if token is None:
            return
        self.expect("P4: never expired", not token.is_past(token.usable_for, self.clock.now()))
        match caller.decision:
            case Give(given):
                self.expect("the token that was given", given.value == value)
            case Join(number):
                finished = self.finished.get(number)
                fits = finished is not None and not isinstance(finished.outcome, Failure)
                self.expect("P1: the one outcome", fits and finished.outcome.token.value == value)
            case other:
                self.expect("a token was decided on", False, other)
        if caller.is_fallback_only and isinstance(caller.decision, Join):
            self.expect("by the fallback", token.served.way is FALLBACK)
        self.expect("a token of another value", value != caller.superseding)

    def _told(self, caller, *, is_refreshed):
        finished = None
        if isinstance(caller.decision, Join):
            finished = self.finished.get(caller.decision.number)
        has_token = finished is not None and not isinstance(finished.outcome, Failure)
        fits = is_refreshed is has_token or (self.is_leaving and not is_refreshed)
        self.expect("P8: refresh_extractor tells whether it worked", fits, caller)

    def _raised(self, caller, error):
        if isinstance(error, RevosClosedError):
            self.expect("P9: closed only when left", self.is_leaving)
            return
        kind = type(error) is RevosAuthenticationError
        self.expect("P8: typed", kind or self._is_of_no_fallback(caller, error), repr(error))
        if not kind:
            return
        after = error.retry_after
        in_bounds = after is not None and 0 <= after <= LONGEST_TOLD + EPSILON
        self.expect("P8: with the time of the next try", in_bounds, after)
        match caller.decision:
            case Deny(failure, attempts, retry_after):
                self._check_error(error, failure, attempts, retry_after)
            case Join(number) if number in self.finished:
                finished = self.finished[number]
                is_failure = isinstance(finished.outcome, Failure)
                self.expect("P1: the one outcome", is_failure)
                if is_failure:
                    self._check_error(
                        error, finished.outcome, finished.attempts, finished.retry_after
                    )
            case other:
                self.expect("an error was decided on", False, other)
        others = (one.outcome for one in self.callers if one is not caller)
        self.expect("an exception of its own", all(error is not other for other in others))

    def _check_error(self, error, failure, attempts, retry_after):
        same = failure is not None and str(error) == failure.reason
        self.expect("P8: the error of that cycle", same, repr(error))
        self.expect("P8: its attempts", error.attempts == attempts)
        self.expect("P8: its pause", error.retry_after == retry_after)
        self.expect("P8: its cause", failure is None or error.__cause__ is failure.cause)

    def _is_of_no_fallback(self, caller, error):
        asks = caller.is_fallback_only and not self.settings.has_fallback
        return asks and isinstance(error, RevosConfigurationError)

    def _request_ended(self, caller, outcome):
        if not caller.sent:
            self._raised(caller, outcome)
            return
        last = caller.sent[-1]
        statuses = {"accepted": 200, "refused": 401, "forbidden": 401}
        fits = outcome == statuses[last.verdict]
        self.expect("P6: the gateway's answer", fits, outcome, last.verdict)

    def received(self, subscriber, value):
        self.moves += 1
        subscriber.got.append(value)
        token = self.granted.get(value)
        self.expect("subscribers get tokens that were issued", token is not None)
        if token is None:
            return
        self.expect("P4: never expired", not token.is_past(token.usable_for, self.clock.now()))
        self.expect("P5: never an older", token.order > subscriber.last_order, subscriber.got)
        is_newest = self.held is not None and self.held.value == value
        self.expect("P5: the newest", is_newest or self.is_leaving)
        subscriber.last_order = token.order

    # What is so once every task waits.

    def quiet(self, manager):
        for served in self.in_flight:
            served.was_quiet = served.head is not None
        self._check_cycle()
        self._check_callers()
        self._check_subscribers(manager)
        self._check_snapshots(manager)
        self._check_consumers()
        if self.held is not None:
            self.held.is_new = False
        self.hurried = 0
        self.is_closed = self.is_leaving

    def _check_cycle(self):
        now = self.clock.monotonic()
        if self.is_leaving:
            self.expect("P9: no request is left", not self.in_flight)
            self.expect("P9: no timer is left", self.clock.timers_waiting == 0)
            return
        self.expect("P9: no request is forgotten", len(self.in_flight) <= 1)
        good = [one for one in self.served if one.is_whole and one.answer.lifetime is not None]
        kept = [one for one in good if not one.is_wasted]
        self.expect("no token is lost", all(one.value in self.granted for one in kept))
        if self.cycle is None:
            self.expect("P8: no cycle is forgotten", not self.queued, self.queued)
            due_at = NEVER if self.held is None else self.held.head.monotonic + self.held.due
            due_at = max(due_at, self.pause_until_at) + EPSILON
            self.expect("P7: a refresh is not late", not (self.settings.periodic and now > due_at))
        else:
            starved = self.starved - self.cycle.starved_before
            took = now - self.cycle.begun_at
            limit = 2 * self.settings.request_timeout + starved + EPSILON
            self.expect("P8: no cycle over twice the timeout", took <= limit, took)
            goes_on = self.in_flight or self.clock.timers_waiting
            self.expect("a cycle goes on", goes_on)

    def _check_callers(self):
        now = self.clock.monotonic()
        for caller in self.callers:
            if caller.is_done:
                continue
            self.expect("P2: who is cancelled returns", not caller.is_cancelled, caller)
            self.expect("P3: what is usable, at once", caller.must_get is None, caller)
            if caller.sent and caller.sent[-1].verdict is None:
                continue  # The gateway has it.
            self.expect("P9: nobody waits for a closed manager", not self.is_leaving, caller)
            match caller.decision:
                case Join(number):
                    self.expect("P2: an outcome wakes", number not in self.finished, caller)
                case other:
                    self.expect("who waits has joined a cycle", False, other, caller)
            starved = self.starved - caller.starved_before
            limit = 4 * self.settings.request_timeout
            waited = now - caller.asked_at
            self.expect("P8: nobody waits for long", waited <= limit + starved + EPSILON, caller)
        # Those that are done stay for one more step, whose exceptions must not be theirs.
        self.callers = [one for one in self.callers if not one.is_old]
        for caller in self.callers:
            caller.is_old = caller.is_done

    def _check_subscribers(self, manager):
        held = self.held
        is_new = held is not None and held.is_new and self.is_usable()
        for one in self.subscribers:
            self.expect("P5: streams end with the manager", one.is_ended or not self.is_leaving)
            self.expect("P2: who is cancelled returns", one.is_ended or not one.is_cancelled)
            if one.is_ended:
                continue
            if one.must_get is not None:
                self.expect("P5: the current one, at once", one.got[:1] == [one.must_get])
                one.must_get = None
            if is_new and not one.is_slow:
                self.expect("P5: each newer one", one.got[-1:] == [held.value], one.got)
            if one.stream is not None:
                latest = one.stream.latest
                value = None if latest is None else latest.value
                same = value == self.usable_value() or self.is_usable() is None
                self.expect("P5: latest", same, value)
        self.subscribers = [one for one in self.subscribers if not one.is_ended]

    def _check_snapshots(self, manager):
        usable = self.is_usable()
        if usable is None:
            return
        try:
            value = manager.get_token_nowait()
        except (anyio.WouldBlock, RevosClosedError) as error:
            value = None
            is_closed = isinstance(error, RevosClosedError)
            self.expect("P9: closed is closed", is_closed is self.is_leaving)
        expected = None if self.is_leaving else self.usable_value()
        self.expect("P3, P4: get_token_nowait", value == expected, value, expected)
        status, state = manager.status, manager.health().state
        self.expect("P3, P4: the status has it", status.has_token is (expected is not None))
        self.expect("P8: failures are counted", status.consecutive_failures == self.failures)
        self.expect("P8: and told", (status.last_error is not None) is (self.failures > 0))
        by_fallback = expected is not None and self.held.served.way is FALLBACK
        self.expect("the status has the way", status.is_using_fallback is by_fallback)
        if self.is_leaving:
            health = "unhealthy"
        elif expected is not None:
            health = "degraded" if self.failures or by_fallback else "healthy"
        else:
            is_idle = not self.failures and not self.settings.periodic
            health = "healthy" if is_idle else "unhealthy"
        self.expect("P8: health", state == health, state, health)

    def _check_consumers(self):
        for consumer in self.consumers:
            most = max(1, self.hurried)
            self.expect("P6: a 401 costs one refresh", consumer.caused <= most, consumer.caused)
            consumer.caused = 0
            answered, consumer.answered = consumer.answered, []
            replays = [sent for sent in answered if sent.is_replay]
            refused = [sent for sent in answered if sent.verdict == "refused"]
            taken = [sent for sent in replays if sent.verdict != "refused"]
            untried = consumer.is_vague and any(one.verdict != "refused" for one in answered)
            if taken or untried:
                consumer.delay, consumer.until_at, consumer.counted = 0.0, NEVER, None
                consumer.is_clean = bool(taken) and not consumer.is_hurt and not consumer.out
                consumer.is_vague = not consumer.is_clean
            elif not consumer.is_vague:
                self._count_refusals(consumer, [one for one in refused if one.is_replay])
            consumer.is_hurt = False

    def _count_refusals(self, consumer, refused):
        values = {sent.token for sent in refused}
        current = self.held.value if self.held is not None else None
        if current in values and current != consumer.counted:
            consumer.delay = min(2 * consumer.delay or 1.0, 60.0)
            consumer.until_at = self.clock.monotonic() + consumer.delay
            consumer.counted = current
