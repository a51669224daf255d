"""A world around one manager, on a simulated clock, in which anything happens in any order.

A schedule is a list of small frozen events; `EVENTS` has all, the more frequent ones several times.
`run` makes them happen one after the other, each once every task waits, or, after a `Hurry`, while
the one before is still having its effect. `schedule_books` says what must be so.
"""

from __future__ import annotations

import contextlib
import json
from contextvars import ContextVar
from email.utils import formatdate
from pathlib import Path
from random import Random

import anyio
import httpx
from anyio.lowlevel import checkpoint
from attrs import field, frozen
from schedule_books import FALLBACK, PRIMARY, Books, Caller, Consumer, Sent, Served, Subscriber
from support import BASE_URL, CLIENT_SECRET, ManualClock, bearer_of, config, settle

from revos import AccessToken, BearerAuth, TokenManager, policy
from revos.policy import Now

TICKS = 8  # of the loop, in which something that goes on shows in the books
HOPS = 6  # timers that one turn of the clock stops at
SECONDS_TO_HANG = 20.0  # real ones: a schedule takes some milliseconds

WORLD: ContextVar[World] = ContextVar("the world of this task")
CALLER: ContextVar[Caller | None] = ContextVar("the caller that this task is", default=None)

policy_step = policy.step


def noting_step(state, event, now, rules):
    """`policy.step`, with an entry in the books: to be put in its place."""
    state, decision = policy_step(state, event, now, rules)
    WORLD.get().books.noted(event, decision, CALLER.get())
    return state, decision


# What the token endpoint answers.


@frozen
class Answer:
    """One row of the table of failures, or a good answer where `lifetime` is set.

    :ivar told: the `Retry-After`, in seconds
    """

    status: int | None = 200
    said: object = field(factory=dict)
    error: Exception | None = None
    lifetime: float | None = None
    retryable: bool = False
    code: str | None = None
    told: float | None = None
    is_date: bool = False
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def means(self):
        return self.status, self.code, self.retryable

    def parts(self, value, time):
        """Headers, body, and the seconds of its `Retry-After`."""
        said = self.said(value) if callable(self.said) else self.said
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        headers, told = dict(self.headers), self.told
        if told is not None:
            headers["retry-after"] = str(told)
            if self.is_date:
                date = int(time) + told
                headers["retry-after"], told = formatdate(date, usegmt=True), date - time
        return headers, body, told


def granting(lifetime, expires_in):
    said = {} if expires_in is None else {"expires_in": expires_in}
    return Answer(
        said=lambda value: {"access_token": value, "token_type": "Bearer", **said},
        lifetime=float(lifetime),
    )


def passing(status, code=None, **more):
    said = {} if code is None else {"error": code}
    return Answer(status, said, retryable=True, code=code, **more)


def refusing(status, code=None, **more):
    return Answer(status, {} if code is None else {"error": code}, code=code, **more)


def unusable(said, **more):
    return Answer(200, said, **more)


def token_with(**more):
    return unusable(lambda value: {"access_token": value, "expires_in": 60, **more})


def no_answer(error):
    return Answer(None, error=error, retryable=True)


TEN_YEARS = 10 * 365 * 86_400
GOOD = {
    "1 s": granting(1, 1),
    "2 s": granting(2, "2"),
    "1 min": granting(60, 60),
    "5 min": granting(300, 300.0),
    "1 h": granting(3600, 3600),
    "default": granting(3600, None),
    "ages": granting(TEN_YEARS, 10**12),
}
BAD = {
    "refused connection": no_answer(httpx.ConnectError("made up")),
    "lost connection": no_answer(httpx.ReadError("made up")),
    "not HTTP": no_answer(httpx.RemoteProtocolError("made up")),
    "timeout": no_answer(httpx.ReadTimeout("made up")),
    "408": passing(408),
    "425": passing(425),
    "429": passing(429, told=3),
    "500": passing(500, "server_error"),
    "503": passing(503),
    "503 at once": passing(503, told=0),
    "503 for 10 s": passing(503, told=10),
    "503 for 11 s": passing(503, told=11),
    "503 until": passing(503, told=20, is_date=True),
    "503 for an hour": passing(503, told=3600),
    "unavailable": passing(400, "temporarily_unavailable"),
    "invalid scope": refusing(400, "invalid_scope"),
    "invalid client": refusing(401, "invalid_client"),
    "forbidden for 2 s": refusing(403, "access_denied", told=2),
    "404": refusing(404),
    "redirect": refusing(302, headers=(("location", "https://other.example/"),)),
    "too large": unusable(b" " * (1 << 20) + b"{}"),
    "not JSON": unusable(b"<html>"),
    "a list": unusable([]),
    "no token": unusable({"expires_in": 60}),
    "a token with a newline": token_with(access_token="a\nb"),
    "another type": token_with(token_type="mac"),
    "too short": token_with(expires_in=0.5),
    "negative": token_with(expires_in=-1),
    "NaN": unusable(b'{"access_token": "a", "expires_in": NaN}'),
    "true": token_with(expires_in=True),
    "in words": token_with(expires_in="soon"),
    "encoded": unusable({}, headers=(("content-encoding", "gzip"),)),
}
ANSWERS = GOOD | BAD


class Gate:
    """Lets pass, or keeps who comes until it is opened."""

    def __init__(self):
        self._opened = None

    def shut(self):
        if self._opened is None:
            self._opened = anyio.Event()

    def open(self):
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.set()

    async def pass_through(self):
        if self._opened is not None:
            await self._opened.wait()


@frozen
class Transport(httpx.AsyncBaseTransport):
    """As `httpx.MockTransport`, but a streamed body is gone once it is sent."""

    answer: object

    async def handle_async_request(self, request):
        async for _ in request.stream:
            pass
        return await self.answer(request)


class Body(httpx.AsyncByteStream):
    """A body that comes once the gate lets it."""

    def __init__(self, world, served, body):
        self._world, self._served, self._parts = world, served, [body]

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self._parts:
            raise StopAsyncIteration
        await self._world.bodies.pass_through()
        self._served.is_whole = True
        return self._parts.pop()

    async def aclose(self):
        self._world.books.left(self._served)


class Clock(ManualClock):
    def now(self):
        return Now(self.now_monotonic, self.now_time)

    @property
    def next_at(self):
        """When the next timer is due, or None."""
        ahead = [at for at, _ in self._timers if at > self.now_monotonic]
        return min(ahead, default=None)

    def turn_to(self, monotonic):
        """Turn both clocks, and fire what is due."""
        self.now_time += monotonic - self.now_monotonic
        self.now_monotonic = monotonic
        for at, scope in self._timers:
            if at <= monotonic:
                scope.cancel()


@frozen
class Settings:
    periodic: bool = True
    has_fallback: bool = True
    enable_fallback: bool = True
    max_failures: int = 1
    max_retries: int = 2
    request_timeout: float = 30.0
    refresh_interval: float = 2700.0
    buffer: float = 300.0
    gateway: str = "accepts"  # what it does at first
    seed: int = 0  # of the manager's randomness, and of Trio's order of tasks

    @property
    def fallback_after(self):
        return self.max_failures if self.has_fallback and self.enable_fallback else None

    def config(self, secret_file):
        method = "client_secret_basic" if self.has_fallback else "client_secret_post"
        return config(
            client_secret=None,
            client_secret_file=str(secret_file),
            fallback_auth_method=method,
            max_retries=self.max_retries,
            request_timeout=self.request_timeout,
            token_buffer_minutes=self.buffer / 60,
            token={
                "enable_periodic_refresh": self.periodic,
                "enable_fallback": self.enable_fallback,
                "max_failures_before_fallback": self.max_failures,
                "refresh_interval_minutes": self.refresh_interval / 60,
            },
        )


class Bodily(Exception):  # noqa: N818 - what a body raises
    """Raised inside the block of a manager."""


class World:
    """The manager, what is around it, and the books."""

    def __init__(self, settings, seen, directory):
        self.settings, self.seen = settings, seen
        self.secret_file = Path(directory) / "secret"
        self.random = Random(settings.seed)
        self.clock = Clock()
        self.answers = dict.fromkeys((PRIMARY, FALLBACK), ANSWERS["1 h"])
        self.heads, self.bodies, self.gateway_gate = Gate(), Gate(), Gate()
        self.issued = 0
        self.revoked = 0  # tokens up to this number
        self.modes = {0: settings.gateway, 1: "accepts"}
        self.ours = set()  # ids of tasks

    async def run(self, events):
        """Let them happen; raises what is not so, with the events until then.

        :raises AssertionError: with a note of what happened
        """
        WORLD.set(self)
        self.put_secret()
        failure, happened = None, []
        self.ours = {task.id for task in anyio.get_running_tasks()}
        with anyio.fail_after(SECONDS_TO_HANG):
            async with (
                httpx.AsyncClient(transport=Transport(self.grant)) as self.endpoint,
                httpx.AsyncClient(transport=Transport(self.serve), base_url=BASE_URL) as self.http,
                anyio.create_task_group() as self.tasks,
            ):
                try:
                    await self.go_through(events, happened)
                except AssertionError as error:
                    failure = error
                self.tasks.cancel_scope.cancel()
        if failure is not None:
            failure.add_note("\n".join(["after:", *map(str, happened)]))
            raise failure

    async def go_through(self, events, happened):
        await self.enter()
        await self.quiet()
        for event, follower in zip(events, [*events[1:], None], strict=True):
            happened.append(event)
            self.books.begin()
            await event.happen(self)
            if isinstance(follower, Hurry):
                for _ in range(follower.ticks):
                    await checkpoint()
            elif not isinstance(event, Hurry) or follower is None:
                await self.quiet()
        happened.append("the end")
        await self.heal_and_leave()

    async def let_run(self):
        """No more than is needed: there are many thousands of steps."""
        moves = None
        while moves != self.books.moves:
            moves = self.books.moves
            for _ in range(TICKS):
                await checkpoint()

    async def quiet(self):
        """Every task waits: what must be so then?"""
        await settle(self.let_run)
        self.books.quiet(self.tm)
        if self.books.is_leaving:
            self.check_that_it_has_left()
        self.books.check()

    async def heal_and_leave(self):
        """Once all servers do well, everybody is served in a bounded time, and it ends."""
        self.put_secret()
        self.answers = dict.fromkeys(self.answers, ANSWERS["1 h"])
        self.modes = dict.fromkeys(self.modes, "accepts")
        for gate in (self.heads, self.bodies, self.gateway_gate):
            gate.open()
        await self.quiet()
        for _ in range(2 * HOPS):
            if self.waiting(0) is not None and self.clock.next_at is not None:
                await self.go_on_to(self.clock.next_at)
        self.books.expect("P8: everybody is answered", self.waiting(0) is None)
        if not self.books.is_leaving:
            last = await self.ask_at_the_end()
            retry_after = getattr(last.outcome, "retry_after", None)
            if retry_after is not None:
                await self.go_on_to(self.clock.now_monotonic + retry_after + 0.001, hops=100)
                last = await self.ask_at_the_end()
            self.books.expect("P8: it heals", isinstance(last.outcome, str), last.outcome)
            self.leave("end")
        await self.quiet()

    async def ask_at_the_end(self):
        caller = self.call("get_token")
        await self.quiet()
        for _ in range(2 * HOPS):
            if not caller.is_done and self.clock.next_at is not None:
                await self.go_on_to(self.clock.next_at)
        return caller

    # Time.

    async def go_on_to(self, monotonic, hops=HOPS):
        """Turn the clock, and stop wherever a timer is due: at most that often."""
        for _ in range(hops):
            at = self.clock.next_at
            if at is None or at >= monotonic:
                self.clock.turn_to(max(monotonic, self.clock.now_monotonic))
                await self.quiet()
                return
            self.clock.turn_to(at)
            await self.quiet()

    # The manager.

    async def enter(self):
        settings, self.is_left, self.how = self.settings, anyio.Event(), None
        self.books = Books(settings, self.clock, self.seen)
        self.tm = TokenManager(
            settings.config(self.secret_file),
            http_client=self.endpoint,
            _clock=self.clock,
            _random=self.random.random,
        )
        self.books.consumers = [Consumer(self.tm.auth), Consumer(BearerAuth(self.tm))]
        self.life, self.outcome = anyio.CancelScope(), None
        entered = anyio.Event()
        self.tasks.start_soon(self.live, entered)
        await entered.wait()

    async def live(self, entered):
        self.ours.add(anyio.get_current_task().id)
        with self.life:
            try:
                async with self.tm:
                    entered.set()
                    await self.is_left.wait()
                    if self.how == "raise":
                        raise Bodily
                self.outcome = "end"
            except Bodily:
                self.outcome = "raise"
        if self.life.cancelled_caught:
            self.outcome = "cancel"

    def leave(self, how):
        self.books.is_leaving, self.how = True, how
        for caller in self.books.callers:
            # In a hurry it may have its outcome already; an answer of the gateway it still gets.
            waits = not caller.is_done and not (caller.sent and caller.sent[-1].verdict is None)
            caller.must_be_closed = self.books.hurried <= 1 and waits
        for subscriber in self.books.subscribers:
            subscriber.turn.set()
        if how == "cancel":
            self.life.cancel()
        else:
            self.is_left.set()

    def check_that_it_has_left(self):
        expect = self.books.expect
        expect("P9: it is left, by what left it", self.outcome == self.how, self.outcome)
        expect("P9: it is closed", not self.tm.is_background_service_running())
        left = [task for task in anyio.get_running_tasks() if task.id not in self.ours]
        expect("P9: no task is left", not left, left)

    # The token endpoint.

    def put_secret(self):
        if not self.secret_file.exists():
            self.secret_file.write_text(CLIENT_SECRET)

    async def grant(self, request):
        way = FALLBACK if "authorization" in request.headers else PRIMARY
        self.issued += 1
        answer, value = self.answers[way], f"token-{self.issued}"
        served = Served(way, answer, self.issued, self.clock.now_monotonic, value)
        self.books.arrived(served)
        try:
            await checkpoint()
            await self.heads.pass_through()
            served.head = self.clock.now()
            if answer.error is not None:
                served.is_whole = True
                raise answer.error
        except BaseException:
            self.books.left(served)
            raise
        headers, body, served.retry_after = answer.parts(value, served.head.time)
        return httpx.Response(answer.status, headers=headers, stream=Body(self, served, body))

    # The gateway.

    async def serve(self, request):
        caller = CALLER.get()
        books = self.books
        sent = Sent(caller, bearer_of(request), bool(caller.sent))
        books.sent(sent)
        try:
            await checkpoint()
            await self.gateway_gate.pass_through()
        except BaseException:
            caller.consumer.out.remove(sent)
            raise
        mode = (
            self.modes[books.consumers.index(caller.consumer)]
            if caller.consumer in (books.consumers)
            else "accepts"
        )
        is_revoked = int(sent.token.rpartition("-")[2]) <= self.revoked
        verdict = {
            "accepts": "refused" if is_revoked else "accepted",
            "refuses": "refused",
            "forbids": "forbidden",
        }[mode]
        books.answered(sent, verdict)
        if verdict == "accepted":
            return httpx.Response(200)
        error = "invalid_token" if verdict == "refused" else "insufficient_scope"
        return httpx.Response(401, headers={"www-authenticate": f'Bearer error="{error}"'})

    # Who asks.

    def call(self, what, superseding=None):
        caller = Caller(what, is_fallback_only=what.endswith("fallback"), superseding=superseding)
        serves = what in {"get_token", "get_token by fallback"} or (
            what.startswith("refresh superseding")
            and superseding != (self.books.held and self.books.held.value)
        )
        has_way = self.settings.has_fallback or not caller.is_fallback_only
        if serves and has_way and self.books.hurried <= 1 and not self.books.is_leaving:
            caller.must_get = self.books.usable_value()
        self.start(caller, METHODS[what], self.tm, superseding)
        return caller

    def request(self, number, *, is_streamed):
        consumer = self.books.consumers[number]
        caller = Caller("request", consumer=consumer, is_streamed=is_streamed)
        self.start(caller, self.send, consumer.auth, is_streamed)

    async def send(self, auth, is_streamed):
        content = once() if is_streamed else b"whole"
        response = await self.http.post("/chat", content=content, auth=auth)
        return response.status_code

    def start(self, caller, function, *args):
        self.books.callers.append(caller)
        self.tasks.start_soon(self._be, caller, function, *args)

    async def _be(self, caller, function, *args):
        CALLER.set(caller)
        self.ours.add(anyio.get_current_task().id)
        books, outcome = self.books, None
        with caller.scope:
            try:
                outcome = await function(*args)
            except Exception as error:  # noqa: BLE001 - the books judge it
                outcome = error
        if caller.scope.cancelled_caught:
            outcome = None
        books.ended(caller, outcome.value if isinstance(outcome, AccessToken) else outcome)

    def waiting(self, number):
        """One of those that wait, or None."""
        callers = [one for one in self.books.callers if not one.is_done and not one.is_cancelled]
        return callers[number % len(callers)] if callers else None

    # Who listens.

    async def listen(self, subscriber):
        self.ours.add(anyio.get_current_task().id)
        books = self.books
        with subscriber.scope, contextlib.suppress(anyio.ClosedResourceError):
            async with self.tm.subscribe() as stream:
                subscriber.stream = stream
                if subscriber.is_slow:
                    with contextlib.suppress(anyio.EndOfStream):
                        while True:
                            await self._turn_of(subscriber, stream)
                            books.received(subscriber, (await stream.receive()).value)
                else:
                    async for token in stream:
                        books.received(subscriber, token.value)
        subscriber.is_ended = True

    async def _turn_of(self, subscriber, stream):
        """Whoever is slow does something else until its turn, and then finds the stream ended."""
        if not self.books.is_leaving:
            await subscriber.turn.wait()
            subscriber.turn = anyio.Event()


async def once():
    yield b"streamed"


async def refresh(tm, superseding):
    return await tm.refresh(superseding=superseding)


async def refresh_by_fallback(tm, superseding):
    return await tm.refresh(superseding=superseding, use_fallback=True)


METHODS = {
    "get_token": lambda tm, _: tm.get_token(),
    "get_token by fallback": lambda tm, _: tm.get_token(use_fallback=True),
    "force": lambda tm, _: tm.get_token(force_refresh=True),
    "force the fallback": lambda tm, _: tm.get_token(force_refresh=True, use_fallback=True),
    "refresh": refresh,
    "refresh by fallback": refresh_by_fallback,
    "refresh superseding": refresh,
    "refresh superseding by fallback": refresh_by_fallback,
    "refresh_extractor": lambda tm, _: tm.refresh_extractor(),
}


# What happens.


@frozen
class Hurry:
    """The next event does not wait for quiet: it comes so many ticks of the loop later."""

    ticks: int

    async def happen(self, world):
        """Nothing by itself."""


@frozen
class Call:
    what: str
    times: int = 1

    async def happen(self, world):
        for _ in range(self.times):
            world.call(self.what)


@frozen
class Together:
    """Different calls in the same tick, before the loop takes its turn."""

    calls: tuple[str, ...]

    async def happen(self, world):
        for what in self.calls:
            world.call(what)


@frozen
class Supersede:
    """Ask for another than the held one, or than one that is not held."""

    is_held: bool = True
    fallback: bool = False
    times: int = 1

    async def happen(self, world):
        held = world.books.held
        value = held.value if self.is_held and held is not None else "no such token"
        what = "refresh superseding by fallback" if self.fallback else "refresh superseding"
        for _ in range(self.times):
            world.call(what, value)


@frozen
class Request:
    """Requests to the gateway by one consumer: `tm.auth`, or a `BearerAuth` of its own."""

    consumer: int
    times: int = 1
    is_streamed: bool = False

    async def happen(self, world):
        for _ in range(self.times):
            world.request(self.consumer, is_streamed=self.is_streamed)


@frozen
class Cancel:
    """Cancel one of those that wait; everything else stays as it is (P2)."""

    number: int

    async def happen(self, world):
        books, caller = world.books, world.waiting(self.number)
        if caller is None:
            return
        was_quiet = books.hurried <= 1
        others = [one for one in books.callers if one is not caller and not one.is_done]
        before = len(books.served), list(books.in_flight), world.clock.timers_waiting
        caller.is_cancelled = True
        caller.must_get = None
        caller.scope.cancel()
        if was_quiet:
            await settle(world.let_run)
            after = len(books.served), list(books.in_flight), world.clock.timers_waiting
            books.expect("P2: the flight goes on", before == after, before, after)
            books.expect("P2: the others wait on", not any(one.is_done for one in others))


@frozen
class Subscribe:
    is_slow: bool = False

    async def happen(self, world):
        books = world.books
        subscriber = Subscriber(self.is_slow)
        if books.hurried <= 1 and not self.is_slow and not books.is_leaving:
            subscriber.must_get = books.usable_value()
        books.subscribers.append(subscriber)
        world.tasks.start_soon(world.listen, subscriber)


@frozen
class Read:
    """Those that are slow take one token each, or wait for it."""

    async def happen(self, world):
        for subscriber in world.books.subscribers:
            subscriber.turn.set()


@frozen
class Unsubscribe:
    async def happen(self, world):
        for subscriber in world.books.subscribers[:1]:
            subscriber.is_cancelled, subscriber.must_get = True, None
            subscriber.scope.cancel()


@frozen
class Answers:
    """From now on the token endpoint answers so."""

    name: str
    ways: str = "both"

    async def happen(self, world):
        for way in world.answers:
            if self.ways in {"both", way.value}:
                world.answers[way] = ANSWERS[self.name]


@frozen
class Hold:
    """The token endpoint keeps the heads or the bodies of its answers."""

    part: str

    async def happen(self, world):
        {"head": world.heads, "body": world.bodies}[self.part].shut()


@frozen
class Release:
    async def happen(self, world):
        world.heads.open()
        world.bodies.open()


@frozen
class LoseSecret:
    async def happen(self, world):
        world.secret_file.unlink(missing_ok=True)


@frozen
class FindSecret:
    async def happen(self, world):
        world.put_secret()


@frozen
class Gateway:
    """How the gateway treats one consumer from now on."""

    mode: str
    consumer: int

    async def happen(self, world):
        world.modes[self.consumer] = self.mode


@frozen
class Revoke:
    """No token that was issued so far is accepted."""

    async def happen(self, world):
        world.revoked = world.issued


@frozen
class HoldGateway:
    async def happen(self, world):
        world.gateway_gate.shut()


@frozen
class ReleaseGateway:
    async def happen(self, world):
        world.gateway_gate.open()


@frozen
class Drop:
    """Invalidate the held token, whatever it is, by its value, or one that is not held."""

    what: str

    async def happen(self, world):
        held = world.books.held
        value = {
            "any": None,
            "held": held.value if held is not None else "no such token",
            "other": "no such token",
        }[self.what]
        if world.tm.is_background_service_running():
            world.tm.invalidate(value)


@frozen
class StartAgain:
    async def happen(self, world):
        if world.tm.is_background_service_running():
            world.tm.reset()


@frozen
class Pass:
    """Time passes by both clocks."""

    seconds: float

    async def happen(self, world):
        await world.go_on_to(world.clock.now_monotonic + self.seconds)


@frozen
class PassToTimer:
    """Time passes until the next timer is due."""

    async def happen(self, world):
        if world.clock.next_at is not None:
            world.clock.turn_to(world.clock.next_at)


@frozen
class PassToEnd:
    """Time passes until the held token is not usable any more, or nearly so."""

    more: float

    async def happen(self, world):
        held = world.books.held
        if held is not None:
            now = world.clock.now_monotonic
            at = held.head.monotonic + held.usable_for + self.more
            await world.go_on_to(max(at, now))


@frozen
class Starve:
    """Time passes in which no task runs."""

    seconds: float

    async def happen(self, world):
        world.books.starved += self.seconds
        world.clock.turn_to(world.clock.now_monotonic + self.seconds)


@frozen
class SetWallClock:
    """By hand, or by a machine that sleeps: then the monotonic clock stands still meanwhile."""

    seconds: float

    async def happen(self, world):
        world.clock.now_time += self.seconds
        if world.books.hurried > 1 and world.books.held is not None:
            # Who was to be told of it may have looked while it counted as expired.
            world.books.held.is_new = False


@frozen
class Leave:
    """The manager is left; mostly another one is entered."""

    how: str
    and_enter: bool = True

    async def happen(self, world):
        if not world.books.is_leaving:
            world.leave(self.how)
        if self.and_enter:
            await world.quiet()
            await world.enter()


@frozen
class Enter:
    async def happen(self, world):
        if world.books.is_leaving:
            await world.quiet()
            await world.enter()


EVENTS = (
    # Who asks.
    *(Call("get_token"),) * 8,
    *(Call("get_token", times=5),) * 2,
    *(Call("get_token by fallback"),) * 3,
    *(Call("force"),) * 4,
    Call("force", times=3),
    *(Call("force the fallback"),) * 4,
    *(Call("refresh"), Call("refresh by fallback"), Call("refresh_extractor")) * 2,
    *(Supersede(), Supersede(times=4)) * 2,
    Supersede(is_held=False),
    Supersede(fallback=True),
    *(Together(("force", "force the fallback")), Together(("force the fallback", "force"))) * 3,
    *(Together(("get_token", "get_token by fallback", "refresh")),) * 3,
    *(Request(0), Request(0), Request(0, times=5), Request(1, times=3)) * 5,
    Request(0, is_streamed=True),
    *(Cancel(0), Cancel(1), Cancel(-1)) * 3,
    # Who listens.
    *(Subscribe(), Subscribe(is_slow=True)) * 3,
    *(Read(),) * 4,
    Unsubscribe(),
    # The token endpoint.
    *(Answers(name) for name in GOOD),
    *(Answers(name) for name in ("1 s", "1 min", "1 h")),
    *(Answers(name, ways) for name in ("1 min", "1 h") for ways in ("primary", "fallback")),
    *map(Answers, BAD),
    *(Answers(name, "primary") for name in ("503", "429", "503 for an hour", "invalid client")),
    *(Answers(name, "fallback") for name in ("503", "503 for 11 s", "invalid client")),
    *(Answers(name) for name in ("503 for 11 s", "503 for an hour", "forbidden for 2 s") * 3),
    *(Hold("head"), Hold("body"), Hold("body")) * 5,
    *(Release(),) * 12,
    *(LoseSecret(), FindSecret(), FindSecret()),
    # The gateway.
    *(Gateway("refuses", 0), Gateway("refuses", 1)) * 3,
    *(Gateway("accepts", 0), Gateway("accepts", 1)),
    Gateway("forbids", 0),
    *(Revoke(),) * 5,
    *(HoldGateway(), ReleaseGateway(), ReleaseGateway()) * 2,
    # The user.
    *(Drop("any"), Drop("any"), Drop("held"), Drop("other")) * 2,
    *(StartAgain(),) * 3,
    # Time.
    *map(Pass, (0.001, 0.25, 0.5, 1.0, 3.0, 10.0, 30.0, 60.0, 300.0, 2700.0, 86_400.0)),
    *map(Pass, (0.5, 1.0, 3.0, 10.0, 60.0, 2700.0)),
    *(PassToTimer(),) * 10,
    *(PassToEnd(-0.001), PassToEnd(0.001)) * 4,
    *(Starve(5.0), Starve(120.0)) * 2,
    *map(SetWallClock, (-86_400.0, -3600.0, -60.0, 60.0, 3600.0, 86_400.0)),
    # The block.
    *(Leave("end"), Leave("raise"), Leave("cancel")),
    *(Leave("end", and_enter=False), Leave("cancel", and_enter=False), Enter(), Enter()),
    # How close they come.
    *map(Hurry, (0, 0, 1, 1, 2, 3, 4, 5, 7, 10, 15, 25)),
    *map(Hurry, (0, 1, 2, 3, 5, 8)),
)
