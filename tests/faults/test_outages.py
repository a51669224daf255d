"""Thirty days with outages of every length: what callers get, and how many requests it costs.

At every step there is a usable token at once, or the outcome of the cycle that runs, or an error
that tells when the next try is; and then there is one. Two bounds on the requests, from section 5:

- While the endpoint serves, a refresh comes no earlier than 0.9 of when it is due.
- In an outage a cycle has no more than so many requests and lasts no less than so long. The pause
  after the nth in a row is at least half of min(2^(n-1), longest) s, and what the server told.
"""

from random import Random

import anyio
import httpx
import pytest
from attrs import field, frozen
from simulation import EventClock
from support import manager, settle, token_response

from revos import RevosAuthenticationError
from revos.oauth2 import Failure, Grant
from revos.policy import (
    Ask,
    Attempt,
    Deny,
    Failed,
    Give,
    Granted,
    Join,
    Now,
    Rules,
    State,
    Turn,
    Wait,
    step,
)

HOUR, DAY = 3600.0, 86_400.0
MONTH = 30 * DAY
TIMEOUT, RETRIES, BUFFER = 30.0, 3, 300.0
A_BIT = 0.001


@frozen
class Kind:
    """How requests fail.

    :ivar answer: status, headers and body; None: it never comes
    :ivar attempts: the most requests of a cycle
    :ivar cycle_seconds: the least that a cycle lasts
    :ivar longest: of the pauses between cycles, before they are made shorter at random
    :ivar told: the pause that the server asks for
    """

    answer: tuple[int, dict[str, str], bytes] | None
    attempts: int
    cycle_seconds: float = 0.0
    longest: float = 60.0
    told: float = 0.0
    failure: Failure = field(kw_only=True)

    def most_requests(self, seconds):
        """The most requests that an outage of this length can see."""
        requests, at, pause = 0, 0.0, 1.0
        while at <= seconds:
            requests += self.attempts
            at += self.cycle_seconds + max(pause / 2, self.told)
            pause = min(2 * pause, self.longest)
        return requests


def failure(*, retryable, error=None, retry_after=None):
    return Failure(
        "made up", retryable=retryable, temporary=retryable, error=error, retry_after=retry_after,
        method="client_secret_post",
    )  # fmt: skip


UNAVAILABLE = Kind((503, {}, b""), RETRIES, 1.5, failure=failure(retryable=True))
HANGING = Kind(None, 2, 2 * TIMEOUT, failure=failure(retryable=True))
UNUSABLE = Kind((200, {}, b"sorry"), 1, failure=failure(retryable=False))
INVALID_CLIENT = Kind(
    (401, {}, b'{"error": "invalid_client"}'),
    1,
    longest=300.0,
    failure=failure(retryable=False, error="invalid_client"),
)
TOLD_BRIEFLY = Kind(
    (429, {"retry-after": "5"}, b""),
    RETRIES,
    10.0,
    told=5.0,
    failure=failure(retryable=True, retry_after=5.0),
)
TOLD_LONG = Kind(
    (429, {"retry-after": "290"}, b""),
    1,
    told=290.0,
    failure=failure(retryable=True, retry_after=290.0),
)
KINDS = (UNAVAILABLE, HANGING, UNUSABLE, INVALID_CLIENT, TOLD_BRIEFLY, TOLD_LONG)


class Weather:
    """Outages on their days, in seconds from the start, none over another."""

    def __init__(self, outages):
        self.outages = sorted(outages, key=lambda outage: outage[0])

    @classmethod
    def from_seed(cls, random, days=30):
        """One outage begins on every other day, of any length from a second to a day and a half."""
        return cls(
            (
                day * DAY + random.uniform(0.0, 10 * HOUR),
                10 ** random.uniform(0.0, 5.11),
                random.choice(KINDS),
            )
            for day in range(0, days, 2)
        )

    def at(self, elapsed):
        """The kind of the outage that it is in, or None."""
        return next(
            (kind for begin, length, kind in self.outages if 0 <= elapsed - begin < length), None
        )

    def most_requests(self, seconds, shortest_due):
        """The bound: refreshes, one after each outage, and what fails in each."""
        healthy = seconds / (0.9 * shortest_due) + 1 + len(self.outages)
        return healthy + sum(kind.most_requests(length) for _, length, kind in self.outages)


# The policy alone, for many months.


class PolicyMonth:
    """The loop over days, and what a caller would get at each step."""

    def __init__(self, seed, seconds=MONTH):
        random = Random(seed)
        self.weather = Weather.from_seed(random, int(seconds / DAY))
        self.rules = Rules(
            refresh_interval=random.choice([5, 45, 240, 1440]) * 60.0,
            buffer=BUFFER,
            max_attempts=RETRIES,
            request_timeout=TIMEOUT,
            periodic=True,
            fallback_after=None,
        )
        self.lifetimes = sorted(random.uniform(900.0, DAY) for _ in range(2))
        self.state, self.now = State(), Now(0.0, 1.8e9)
        self.requests, self.without_token = 0, 0.0
        self.most_requests = self.weather.most_requests(seconds, self.shortest_due)
        while self.now.monotonic < seconds and self.requests <= self.most_requests:
            decision = self.tell(Turn())
            if isinstance(decision, Wait):
                self.wait(decision.until_at)
            else:
                assert isinstance(decision, Attempt)
                self.attempt(decision, random)

    def tell(self, event):
        self.state, decision = step(self.state, event, self.now, self.rules)
        return decision

    def later(self, seconds):
        self.now = Now(self.now.monotonic + seconds, self.now.time + seconds)

    def attempt(self, attempt, random):
        self.requests += 1
        assert isinstance(self.asked(), Give | Join)
        kind = self.weather.at(self.now.monotonic)
        if kind is None:
            self.later(random.uniform(0.01, 2.0))
            grant = Grant("t", random.uniform(*self.lifetimes), None)
            self.tell(Granted(grant, self.now, "client_secret_post", random.random()))
        else:
            self.later(0.0 if kind.answer else attempt.timeout)
            self.tell(Failed(kind.failure, random.random()))

    def wait(self, until_at):
        """What a caller gets changes meanwhile only where the held token ends."""
        held = self.state.held
        if held is not None and self.now.monotonic < held.unusable_at < until_at:
            assert isinstance(self.asked(), Give)
            self.later(held.unusable_at - self.now.monotonic)
        decision = self.asked()
        if not isinstance(decision, Give):
            self.without_token += until_at - self.now.monotonic
        if isinstance(decision, Deny):
            assert decision.failure is not None
            assert self.now.monotonic + decision.retry_after == pytest.approx(until_at, abs=A_BIT)
        self.now = Now(until_at, self.now.time + until_at - self.now.monotonic)

    def asked(self):
        decision = step(self.state, Ask(), self.now, self.rules)[1]
        assert not isinstance(decision, Join) or self.state.cycle.number == decision.number
        return decision

    @property
    def shortest_due(self):
        lifetime = self.lifetimes[0]
        return min(self.rules.refresh_interval, max(lifetime - 30.0 - BUFFER, lifetime / 2))


@pytest.mark.parametrize("first_seed", [0, 5, 10])
def test_in_any_month_the_requests_are_bounded_and_every_caller_is_served_or_told(first_seed):
    months = [PolicyMonth(seed) for seed in range(first_seed, first_seed + 5)]

    assert [m.requests for m in months if m.requests > m.most_requests] == []
    assert sum(month.without_token for month in months) > DAY  # The outages were felt.


# A whole manager.


class Endpoint:
    """A token endpoint in that weather; keeps when it was asked and what it gave until when."""

    def __init__(self, clock, weather, random, lifetimes):
        self.clock, self.weather, self.random, self.lifetimes = clock, weather, random, lifetimes
        self.started_at = clock.now_monotonic
        self.asked_at, self.ends_at = [], {}

    def client(self):
        return httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    async def _answer(self, request):
        self.asked_at.append(self.clock.now_monotonic)
        kind = self.weather.at(self.clock.now_monotonic - self.started_at)
        if kind is None:
            lifetime = self.random.uniform(*self.lifetimes)
            name = f"token-{len(self.asked_at)}"
            self.ends_at[name] = self.clock.now_monotonic + lifetime
            return token_response(name, lifetime)
        if kind.answer is None:
            await anyio.sleep_forever()
        status, headers, body = kind.answer
        return httpx.Response(status, headers=headers, content=body)


async def live_through(weather, seconds, lifetimes, seed=1):
    """Asks at every step of a manager's days; gives the endpoint, and who was told to come when."""
    clock, random = EventClock(), Random(seed)
    endpoint = Endpoint(clock, weather, random, lifetimes)
    end_at = clock.now_monotonic + seconds
    told, waited = [], []

    async def ask():
        asked_at = clock.now_monotonic
        try:
            token = await tm.get_token()
        except RevosAuthenticationError as error:
            told.append(clock.now_monotonic + error.retry_after)
        else:
            assert clock.now_monotonic < endpoint.ends_at[token]
        waited.append(clock.now_monotonic - asked_at)

    async with (
        manager(
            endpoint, clock, max_retries=RETRIES, request_timeout=TIMEOUT,
            token={"refresh_interval_minutes": 1440},
        ) as tm,
        anyio.create_task_group() as tasks,
    ):  # fmt: skip
        tm._random = tm._refresher.random = random.random
        while clock.now_monotonic < end_at:
            try:
                token = tm.get_token_nowait()
            except anyio.WouldBlock:
                tasks.start_soon(ask)
                await settle()
            else:
                assert clock.now_monotonic < endpoint.ends_at[token]
                assert await tm.get_token() == token
            await clock.turn_to_next(end_at)
        tasks.cancel_scope.cancel()
    return endpoint, [at for at in told if at < end_at], waited


def hours(*outages):
    """Weather from (hour, seconds, kind)."""
    return Weather((hour * HOUR, seconds, kind) for hour, seconds, kind in outages)


EVERY_LENGTH = hours(
    (5, 1.0, UNAVAILABLE), (24, 10.0, HANGING), (48, 60.0, TOLD_BRIEFLY), (72, 600.0, UNUSABLE),
    (96, 1800.0, UNAVAILABLE), (120, HOUR, INVALID_CLIENT), (200, HOUR, TOLD_BRIEFLY),
    (300, 2 * HOUR, HANGING), (400, 5 * HOUR, UNUSABLE), (500, DAY, INVALID_CLIENT),
    (600, 2 * DAY, TOLD_LONG),
)  # fmt: skip


def check(endpoint, told, waited, seconds, shortest_due):
    # Whoever was told when to come again found that there was a try.
    tries = [round(at, 3) for at in endpoint.asked_at]
    assert {round(at, 3) for at in told} <= set(tries)
    assert max(waited) <= 2 * TIMEOUT + A_BIT
    assert len(tries) <= endpoint.weather.most_requests(seconds, shortest_due)


def test_thirty_days_of_a_manager_with_outages_of_every_length():
    lifetimes = (2 * HOUR, 8 * HOUR)

    endpoint, told, waited = anyio.run(live_through, EVERY_LENGTH, MONTH, lifetimes)

    check(endpoint, told, waited, MONTH, lifetimes[0] - 30.0 - BUFFER)
    assert len(told) > 500


async def test_a_day_of_a_manager_with_an_outage_of_each_kind():
    weather = hours(*((2 + 3 * n, 1200.0, kind) for n, kind in enumerate(KINDS)))
    lifetimes = (900.0, HOUR)

    endpoint, told, waited = await live_through(weather, DAY, lifetimes)

    check(endpoint, told, waited, DAY, 900.0 - 30.0 - BUFFER)
    assert len(told) > 10
