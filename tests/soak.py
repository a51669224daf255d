"""Faults over real sockets for as long as one likes, while it is looked at that nothing breaks.

    python tests/soak.py [MINUTES] [--seed N] [--backend asyncio] [--backend trio]

Managers live and end, one after the other in each of some lanes, with callers that are cancelled
now and then. Their token endpoint and their gateway are sockets here on loopback which refuse,
reset, close one half, drip, hang or answer, as the seed has it; which request meets which fault
depends on the clock, so a seed brings back the mixture and not the order of every byte.

What must be so all the time is in `Life` (tokens, errors, waiting, leaving), `TokenServer` (one
request in flight) and `soak` (what is left after each turn). The first violation ends the run with
exit code 1, and its seed.
"""

# ruff: noqa: T201 - it is run by hand, and tells what it saw.

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import logging
import os
import resource
import socket
import struct
import sys
import threading
import time
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from random import Random

import anyio
import httpx
from anyio.lowlevel import checkpoint
from attrs import define
from leftovers import is_idle_worker
from support import config

from revos import BearerAuth, RevosClosedError, RevosError, TokenManager

SECONDS_OF_TURN = 10.0
LANES, CALLERS = 2, 6
REQUEST_TIMEOUT = 0.5  # seconds; a cycle may take twice that, and the one that it waits for
SECONDS_TO_LEAVE = 0.1
SECONDS_TO_NOTICE = 0.5  # that the other end of a connection was closed
LIFETIMES = (1, 1, 2, 2, 5, 60, 3600)
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


class Violation(Exception):  # noqa: N818 - what it is
    """Something that must be so was not."""


class Lag:
    """How late the event loop is, on a machine that has other things to do as well."""

    STEP = 0.01

    def __init__(self):
        self._late = deque(maxlen=1000)

    async def watch(self):
        while True:
            before = time.monotonic()
            await anyio.sleep(self.STEP)
            now = time.monotonic()
            self._late.append((now, now - before - self.STEP))

    def since(self, at):
        """Seconds of all of it since then; what it is late right now counts too."""
        rest = 0.0
        if self._late:
            rest = max(0.0, time.monotonic() - self._late[-1][0] - self.STEP)
        return rest + sum(late for noted_at, late in self._late if noted_at >= at)

    def most_in(self, at, seconds):
        """The longest that it was late, from a moment on."""
        until = at + seconds
        return max((late for noted_at, late in self._late if at <= noted_at <= until), default=0.0)


class Connection:
    """One end of a TCP connection, with what a stream class would hide."""

    def __init__(self, raw):
        self.raw = raw
        raw.setblocking(False)
        self._received = b""

    async def receive(self):
        """Some bytes, or none at all at the end."""
        while True:
            try:
                return self.raw.recv(65_536)
            except BlockingIOError:
                await anyio.wait_readable(self.raw)

    async def send(self, data):
        while data:
            try:
                data = data[self.raw.send(data) :]
            except BlockingIOError:
                await anyio.wait_writable(self.raw)
        await checkpoint()

    async def request(self):
        """The head of the next request, once its body has come too; None at the end."""
        while True:
            head, found, rest = self._received.partition(b"\r\n\r\n")
            length = next(
                (
                    int(line.partition(b":")[2])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                ),
                0,
            )
            if found and len(rest) >= length:
                self._received = rest[length:]
                return head.decode("latin-1")
            data = await self.receive()
            if not data:
                return None
            self._received += data

    async def is_left(self, seconds):
        """Whether the other end closes within that time."""
        with anyio.move_on_after(seconds):
            while await self.receive():
                pass
            return True
        return False

    def half_close(self):
        self.raw.shutdown(socket.SHUT_WR)

    def reset(self):
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.close()

    def close(self):
        if self.raw.fileno() != -1:
            anyio.notify_closing(self.raw)
            self.raw.close()


@define(eq=False)
class Exchange:
    """One request at a server, and the answer that it would get.

    :ivar on_head: called when the head of that answer is sent
    :ivar overtaken_at: when another request arrived before this one was over
    """

    connection: Connection
    random: Random
    head: bytes
    body: bytes
    on_head: Callable[[], None]
    is_over: bool = False
    overtaken_at: float | None = None


# What a server does with a request: true where the connection takes another one. An exchange is
# over as soon as its last byte is handed out, since the next request may be here before that
# returns.


async def answer(to):
    random, connection = to.random, to.connection
    if random.random() < 0.3 and await connection.is_left(random.uniform(0, 0.3)):
        return False
    to.on_head()
    if random.random() < 0.3:
        await connection.send(to.head)
        if await connection.is_left(random.uniform(0, 0.2)):
            return False
        to.is_over = True
        await connection.send(to.body)
    else:
        to.is_over = True
        await connection.send(to.head + to.body)
    return True


async def reset_at_once(to):
    to.is_over = True
    to.connection.reset()


async def reset_in_mid_header(to):
    await to.connection.send(to.head[: len(to.head) // 2])
    to.is_over = True
    to.connection.reset()


async def reset_in_mid_body(to):
    await to.connection.send(to.head + to.body[: len(to.body) // 2])
    to.is_over = True
    to.connection.reset()


async def half_close_at_once(to):
    to.is_over = True
    to.connection.half_close()
    await to.connection.is_left(60)


async def half_close_in_mid_body(to):
    await to.connection.send(to.head + to.body[: len(to.body) // 2])
    to.is_over = True
    to.connection.half_close()
    await to.connection.is_left(60)


async def drip_a_byte_a_second(to):
    for byte in to.head + to.body:
        await to.connection.send(bytes([byte]))
        if await to.connection.is_left(1.0):
            return


async def drip_a_byte_in_every_read_window(to):
    for byte in to.head + to.body:
        await to.connection.send(bytes([byte]))
        if await to.connection.is_left(0.02):
            return


async def never_answer(to):
    await to.connection.is_left(60)


async def send_garbage(to):
    to.is_over = True
    await to.connection.send(b"\x16\x03\x01 this is no HTTP\r\n\r\n" * 3)


FAULTS = (
    reset_at_once,
    reset_in_mid_header,
    reset_in_mid_body,
    half_close_at_once,
    half_close_in_mid_body,
    drip_a_byte_a_second,
    drip_a_byte_in_every_read_window,
    never_answer,
    send_garbage,
)


class Server:
    """An HTTP server that mistreats a share of its requests, and at times is not there at all.

    A subclass decides what the others are answered.
    """

    name = "server"
    FAULTY = 0.4
    SECONDS_THERE = (0.5, 4.0)

    def __init__(self, run, random):
        self.run, self.random = run, random
        self.port = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def decide(self, request):
        """Status, headers, body, and what to call when the head is sent."""
        raise NotImplementedError

    def arrived(self, exchange):
        """It is in flight now."""

    def ended(self, exchange):
        """It is not any more: it was answered, or the client left."""

    def _listen(self):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(100)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        return listener

    async def serve(self, *, task_status):
        """Until cancelled."""
        is_started = False
        while True:
            with contextlib.closing(self._listen()) as listener:
                if not is_started:
                    is_started = True
                    task_status.started()
                with anyio.move_on_after(self.random.uniform(*self.SECONDS_THERE)):
                    async with anyio.create_task_group() as tasks:
                        await self._accept(listener, tasks)
            self.run.counts[f"{self.name}: refused for a while"] += 1
            await anyio.sleep(self.random.uniform(0.02, 0.3))

    async def _accept(self, listener, tasks):
        while True:
            try:
                raw, _ = listener.accept()
            except BlockingIOError:
                await anyio.wait_readable(listener)
            else:
                tasks.start_soon(self._take, Connection(raw))

    async def _take(self, connection):
        try:
            with contextlib.suppress(OSError):
                while True:
                    request = await connection.request()
                    if request is None or not await self._respond(connection, request):
                        return
        finally:
            connection.close()

    async def _respond(self, connection, request):
        status, headers, body, on_head = self.decide(request)
        lines = [f"HTTP/1.1 {status} .", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode()
        exchange = Exchange(connection, self.random, head, body, on_head)
        take = self.random.choice(FAULTS) if self.random.random() < self.FAULTY else answer
        words = take.__name__.replace("_", " ")
        self.run.counts[f"{self.name}: {words}{f' {status}' if take is answer else ''}"] += 1
        self.run.counts[f"{self.name}: requests"] += 1
        self.arrived(exchange)
        try:
            return await take(exchange)
        finally:
            self.ended(exchange)


@define(eq=False)
class Issued:
    number: int
    lifetime: float
    head_at: float | None = None

    @property
    def usable_for(self):
        return self.lifetime - min(30.0, self.lifetime / 10)


class TokenServer(Server):
    """Issues numbered tokens, and looks that one request is in flight (P1)."""

    name = "token endpoint"

    def __init__(self, run, random):
        super().__init__(run, random)
        self.issued = {}
        self._open = []

    def decide(self, request):
        kind = self.random.random()
        if kind < 0.8:
            number = len(self.issued) + 1
            issued = Issued(number, self.random.choice(LIFETIMES))
            value = f"token-{number}-{self.port}"
            self.issued[value] = issued

            def on_head():
                issued.head_at = time.monotonic()

            body = {"access_token": value, "token_type": "Bearer", "expires_in": issued.lifetime}
            return 200, {}, json.dumps(body).encode(), on_head
        status, headers, said = self.random.choice(
            [
                (503, {"retry-after": "1"}, {}),
                (500, {}, {}),
                (429, {"retry-after": "0"}, {}),
                (400, {}, {"error": "invalid_scope"}),
                (401, {}, {"error": "invalid_client"}),
                (302, {"location": "http://127.0.0.1:1/"}, {}),
                (200, {}, {"token_type": "mac", "access_token": "no-token"}),
            ]
        )
        return status, headers, json.dumps(said).encode(), lambda: None

    def arrived(self, exchange):
        now = time.monotonic()
        for earlier in self._open:
            if earlier.overtaken_at is None:
                earlier.overtaken_at = now
            self._look_at(earlier, now)
        self._open.append(exchange)

    def ended(self, exchange):
        self._open.remove(exchange)
        if exchange.overtaken_at is None:
            return
        # Who left before the other asked is noticed a moment later.
        if exchange.is_over:
            self.run.expect(False, "P1: a request was answered while another was in flight")
        self._look_at(exchange, time.monotonic())

    def _look_at(self, exchange, now):
        seconds = now - exchange.overtaken_at
        allowed = SECONDS_TO_NOTICE + self.run.lag.since(exchange.overtaken_at)
        self.run.expect(exchange.is_over or seconds < allowed, "P1: two requests in flight")


class Gateway(Server):
    """Accepts the tokens that were issued and not revoked."""

    name = "gateway"
    FAULTY = 0.2

    def __init__(self, run, random, tokens):
        super().__init__(run, random)
        self._tokens = tokens
        self._revoked = 0
        self._refuses_until = 0.0

    def decide(self, request):
        line = next(one for one in request.split("\r\n") if one.lower().startswith("authorization"))
        value = line.rpartition(" ")[2]
        self.run.expect(value in self._tokens.issued, "the gateway gets tokens that were issued")
        self.run.check_token(self._tokens, value)
        if self.random.random() < 0.01:
            self._revoked = len(self._tokens.issued)
        if self.random.random() < 0.005:
            self._refuses_until = time.monotonic() + self.random.uniform(0.1, 2.0)
        number = self._tokens.issued[value].number
        if number <= self._revoked or time.monotonic() < self._refuses_until:
            challenge = {"www-authenticate": 'Bearer error="invalid_token"'}
            return 401, challenge, b"{}", lambda: None
        return 200, {}, b"{}", lambda: None


class Run:
    """One turn on one backend, and what is counted in it."""

    def __init__(self, seed, counts):
        self.random = Random(seed)
        self.counts = counts
        self.lag = Lag()

    def expect(self, is_so, promise):
        if not is_so:
            raise Violation(promise)

    def check_token(self, tokens, value):
        """P4, by the time at which the head of its answer was sent."""
        issued = tokens.issued.get(value)
        self.expect(issued is not None and issued.head_at is not None, f"{value} was not issued")
        age = time.monotonic() - issued.head_at
        # The client counts from when it got that head, some steps of a loop that may be late.
        allowed = issued.usable_for + 0.05 + 4 * self.lag.most_in(issued.head_at, 1.0)
        self.expect(age <= allowed, f"P4: a token of {issued.lifetime} s after {age:.2f} s")

    async def turn(self, seconds):
        """Lives of managers for that long; afterwards no task is left."""
        before = {task.id for task in anyio.get_running_tasks()}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.lag.watch)
            async with anyio.create_task_group() as lanes:
                for _ in range(LANES):
                    lanes.start_soon(self._lane, Random(self.random.random()), seconds)
            tasks.cancel_scope.cancel()
        left = [task for task in anyio.get_running_tasks() if task.id not in before]
        self.expect(not left, f"P9: tasks are left: {left}")

    async def _lane(self, random, seconds):
        ends_at = time.monotonic() + seconds
        tokens = TokenServer(self, Random(random.random()))
        gateway = Gateway(self, Random(random.random()), tokens)
        async with anyio.create_task_group() as tasks:
            await tasks.start(tokens.serve)
            await tasks.start(gateway.serve)
            while time.monotonic() < ends_at:
                await Life(self, random, tokens, gateway).live(ends_at)
            tasks.cancel_scope.cancel()


WEIGHTS = {
    "get": 6.0,
    "get_nowait": 3,
    "force": 2,
    "force_fallback": 1,
    "supersede": 2,
    "refresh_extractor": 1,
    "request": 6,
    "invalidate": 0.5,
    "reset": 2,
}
CALM = WEIGHTS | dict.fromkeys(("force", "force_fallback", "supersede", "refresh_extractor"), 0.0)
CALM |= {"invalidate": 0.0, "reset": 0.05}  # Tokens grow old.
# Seconds: the cycle that it may have to wait for and its own; a request to the gateway may wait for
# a token and for another one, and be sent twice.
CYCLES = 2 * 2 * REQUEST_TIMEOUT
LONGEST_WAIT = dict.fromkeys(WEIGHTS, CYCLES)
LONGEST_WAIT |= {"supersede": 2 * CYCLES, "request": 2 * (CYCLES + 4 * REQUEST_TIMEOUT)}


class Bodily(Exception):  # noqa: N818 - what a body raises
    """Raised inside the block of a manager."""


class Life:
    """One manager, from entering to leaving, and its callers."""

    def __init__(self, run, random, tokens, gateway):
        self.run, self.random, self.tokens = run, random, tokens
        self.tm = TokenManager(
            config(
                token_url=f"{tokens.url}/token",
                base_url=f"{gateway.url}/v1",
                fallback_auth_method=random.choice(["client_secret_basic", "client_secret_post"]),
                request_timeout=REQUEST_TIMEOUT,
                max_retries=random.choice([1, 2, 3]),
                token={"enable_periodic_refresh": random.random() < 0.8},
            )
        )
        self.weights = random.choice([CALM, WEIGHTS])
        self.is_left = False
        self.gateway_url = f"{gateway.url}/v1/models"

    async def live(self, ends_at):
        run, random = self.run, self.random
        run.counts["managers"] += 1
        seconds = min(
            random.choice([0.0, 0.05, 0.5, 2.0, 5.0]), max(0.0, ends_at - time.monotonic())
        )
        how = random.choice(["end", "raise", "cancel"])
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                try:
                    async with self.tm:
                        for _ in range(CALLERS):
                            tasks.start_soon(self._call_again_and_again, Random(random.random()))
                        tasks.start_soon(self._subscribe)
                        await anyio.sleep(seconds)
                        self.is_left, started = True, time.monotonic()
                        if how == "raise":
                            raise Bodily
                        if how == "cancel":
                            scope.cancel()
                            await checkpoint()
                except Bodily:
                    how += "d"
            took = time.monotonic() - started
            run.counts["slowest exit, ms"] = max(
                run.counts["slowest exit, ms"], round(1000 * (took - run.lag.since(started)))
            )
            run.expect(
                took < SECONDS_TO_LEAVE + run.lag.since(started), f"P9: left in {took:.3f} s"
            )
            with anyio.move_on_after(SECONDS_TO_NOTICE + REQUEST_TIMEOUT + 1.0) as late:
                while self._callers:
                    await anyio.sleep(0.01)
            lag = run.lag.since(started)
            run.expect(not late.cancelled_caught or lag > 1.0, "P9: callers wait on")
            tasks.cancel_scope.cancel()

    _callers = 0

    async def _subscribe(self):
        """P5: never an older one after a newer; the stream ends with the manager."""
        self._callers += 1
        last = 0
        with contextlib.suppress(RevosClosedError):
            async with self.tm.subscribe() as stream:
                async for token in stream:
                    self._check(token.value)
                    number = self.tokens.issued[token.value].number
                    self.run.expect(number > last, "P5: an older token after a newer")
                    last = number
                    if self.random.random() < 0.3:
                        await anyio.sleep(self.random.uniform(0, 0.5))
        self.run.expect(self.is_left, "P5: the stream ends with the manager")
        self._callers -= 1

    async def _call_again_and_again(self, random):
        self._callers += 1
        auth = self.tm.auth if random.random() < 0.7 else BearerAuth(self.tm)
        async with httpx.AsyncClient(auth=auth, timeout=REQUEST_TIMEOUT) as http:
            while not self.is_left:
                patience = random.uniform(0, 0.1) if random.random() < 0.3 else 60.0
                with anyio.move_on_after(patience) as scope:
                    await self._call(random, http)
                self.run.counts["calls that were cancelled"] += scope.cancelled_caught
                with anyio.move_on_after(random.uniform(0, 0.2)):
                    while not self.is_left:
                        await anyio.sleep(0.05)
        self._callers -= 1

    async def _call(self, random, http):
        started = time.monotonic()
        what = random.choices(list(self.weights), list(self.weights.values()))[0]
        self.run.counts["calls"] += 1
        try:
            await getattr(self, f"_{what}")(http)
        except RevosClosedError:
            self.run.expect(self.is_left, "P9: closed only when left")
        except RevosError:
            self.run.counts["calls that failed"] += 1
        except httpx.TransportError:
            self.run.expect(what == "request", "P8: only errors of revos")
        took = time.monotonic() - started
        allowed = LONGEST_WAIT[what] + 0.2 + self.run.lag.since(started)
        self.run.expect(took < allowed, f"P8: {what} waited {took:.2f} s")

    async def _get(self, http):
        self._check(await self.tm.get_token())

    async def _get_nowait(self, http):
        with contextlib.suppress(anyio.WouldBlock):
            self._check(self.tm.get_token_nowait())

    async def _force(self, http):
        self._check(await self.tm.get_token(force_refresh=True))

    async def _force_fallback(self, http):
        self._check(await self.tm.get_token(force_refresh=True, use_fallback=True))

    async def _supersede(self, http):
        before = await self.tm.get_token()
        token = await self.tm.refresh(superseding=before)
        self._check(token.value)
        self.run.expect(token.value != before, "what supersedes is another")

    async def _refresh_extractor(self, http):
        await self.tm.refresh_extractor()

    async def _request(self, http):
        response = await http.get(self.gateway_url)
        self.run.expect(response.status_code in (200, 401), "P6: the answer of the gateway")

    async def _invalidate(self, http):
        self.tm.invalidate()

    async def _reset(self, http):
        self.tm.reset()

    def _check(self, value):
        self.run.check_token(self.tokens, value)


# What is left after a turn.


def descriptors():
    return len(list(Path("/dev/fd").iterdir()))


def other_threads():
    return [
        one
        for one in threading.enumerate()
        if one is not threading.main_thread() and not is_idle_worker(one)
    ]


def soak(seed, seconds, backends, counts):
    """Turns on one backend after the other.

    :raises Violation: something was not so
    """
    noticed, hook = [], sys.unraisablehook
    sys.unraisablehook = lambda found: noticed.append(f"{found.exc_value!r} in {found.object!r}")
    before, threads_before = {}, set(other_threads())
    ends_at, number = time.monotonic() + seconds, 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            while (rest := ends_at - time.monotonic()) > 0 or number < len(backends):
                backend = backends[number % len(backends)]
                length = min(SECONDS_OF_TURN, max(rest, 0.0), seconds / len(backends))
                run = Run(f"{seed} {number}", counts)
                number += 1
                _run_turn(run, length, backend)
                gc.collect()
                left = set(other_threads()) - threads_before
                run.expect(not left, f"P9: threads are left: {left}")
                run.expect(not noticed, f"P9: {noticed}")
                limit = before.setdefault(backend, descriptors())
                run.expect(descriptors() <= limit, "P9: descriptors are left")
    finally:
        sys.unraisablehook = hook
    return number


def _run_turn(run, seconds, backend):
    name, options = ("asyncio", {"use_uvloop": True}) if backend == "uvloop" else (backend, {})
    run.counts[f"turns on {backend}"] += 1
    try:
        anyio.run(run.turn, seconds, backend=name, backend_options=options)
    except BaseExceptionGroup as group:
        raise _first_of(group) from group


def _first_of(group):
    """The violation in it, where there is one."""
    leaves = [group]
    while any(isinstance(one, BaseExceptionGroup) for one in leaves):
        leaves = [inner for one in leaves for inner in getattr(one, "exceptions", (one,))]
    return next((one for one in leaves if isinstance(one, Violation)), leaves[0])


def main(arguments=None):
    """Exit code 1 where something was not so."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("minutes", nargs="?", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--backend", action="append", choices=["asyncio", "uvloop", "trio"])
    given = parser.parse_args(arguments)
    counts, violation = Counter(), None
    print(f"seed {given.seed}", flush=True)
    try:
        soak(given.seed, 60 * given.minutes, given.backend or ["asyncio", "trio"], counts)
    except Exception as error:  # noqa: BLE001 - whatever it is, it breaks the run
        violation = error
    for what, number in sorted(counts.items()):
        print(f"{number:9,}  {what}")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:9,}  most memory, KiB")
    if violation is not None:
        traceback.print_exception(violation)
        print(f"seed {given.seed}: {violation!r}")
        return 1
    print(f"seed {given.seed}: nothing broke")
    return 0


if __name__ == "__main__":
    logging.getLogger("revos").setLevel(logging.CRITICAL)  # Most requests fail, on purpose.
    sys.exit(main())
