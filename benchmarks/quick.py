"""What speed and silence cost, as counts and ratios, in one run of about a minute.

    python benchmarks/quick.py [PART ...]

The parts are counts, nowait, auth, broadcast, stalls, polling and imports; all where none is named.

Each prints rows with their targets; exit code 1 if one is missed. What is measured beside something
else is measured in turns with it, so that a noisy machine is as noisy to both, and the median
counts. Where noise only adds (stalls, imports), the least of some runs counts. Of a request the CPU
time counts; the gateway has a process of its own.

The other processes are this file again: `_serve` is a gateway, `_stall` looks at the event loop.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import anyio
import httpx
from attrs import define, field, frozen

import revos
from revos import TokenManager
from revos.testing import Gateway, serve_gateway_in_thread

ROOT = Path(__file__).parent.parent
TASKS, FORCED, EXTRACTORS, MANY_EXTRACTORS = 10_000, 100, 500, 10_000
REFRESH_SECONDS = 2
HEAVY = {
    *("langchain", "langchain_core", "langchain_openai", "langsmith", "openai", "tiktoken"),
    *("pydantic", "pydantic_core", "trio", "uvloop", "httpcore", "httpx2", "httpcore2", "cattrs"),
    *("dotenv", "yaml", "jwt", "cryptography", "cyclopts", "pytest"),
}
PROMPT = "Extract the person: {text}"


@frozen
class Row:
    what: str
    measured: str
    target: str
    is_met: bool | None  # None: told, not judged.


def at_most(what: str, measured: float, limit: float, unit: str = "") -> Row:
    return Row(what, f"{measured:.4g}{unit}", f"<= {limit:g}{unit}", measured <= limit)


def exactly(what: str, measured: int, promised: int) -> Row:
    return Row(what, str(measured), str(promised), measured == promised)


# Counts.


def counts() -> Iterator[Row]:
    for backend in ("asyncio", "trio"):
        with serve_gateway_in_thread() as gateway:
            yield from anyio.run(_counts, gateway, backend, backend=backend)


async def _counts(gateway: Gateway, backend: str) -> list[Row]:
    rows = []
    for periodic in (True, False):
        gateway.reset_counters()
        async with TokenManager(gateway.config(enable_periodic_refresh=periodic)) as tm:
            await _together(TASKS, tm.get_token)
        loop = "on" if periodic else "off"
        what = f"{backend}, loop {loop}: {TASKS:,} tasks find no token: token requests"
        rows.append(exactly(what, gateway.token_requests, 1))

    async with TokenManager(gateway.config()) as tm:
        await tm.get_token()
        gateway.reset_counters()
        await _together(FORCED, partial(tm.get_token, force_refresh=True))
        what = f"{backend}: {FORCED} forced refreshes together: token requests"
        rows.append(exactly(what, gateway.token_requests, 1))

        gateway.reset_counters()
        async with AsyncExitStack() as stack:
            for number in range(EXTRACTORS):
                name = gateway.models[number % len(gateway.models)]
                await stack.enter_async_context(tm.extractor(name))
        what = f"{backend}: {EXTRACTORS} extractors opened: token requests"
        rows.append(exactly(what, gateway.token_requests, 0))
    return rows


async def _together(number: int, call: Callable[[], Awaitable[object]]) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(number):
            tasks.start_soon(call)


# `get_token_nowait`.


@define
class Attribute:
    """The least that a cache of a token can be."""

    value: str
    expires_at: float

    def get(self) -> str:
        if time.monotonic() < self.expires_at:
            return self.value
        raise LookupError


def nowait() -> Iterator[Row]:
    with serve_gateway_in_thread() as gateway:
        ratio = anyio.run(_nowait, gateway)
    yield at_most("get_token_nowait() / a method that compares and returns", ratio, 2.5)


async def _nowait(gateway: Gateway, calls: int = 2_000) -> float:
    async with TokenManager(gateway.config()) as tm:
        least = Attribute(await tm.get_token(), time.monotonic() + 3600)

        async def timed(call: Callable[[], str]) -> None:
            for _ in range(calls):
                call()

        return await _ratio(partial(timed, tm.get_token_nowait), partial(timed, least.get), 200)


async def _ratio(
    one: Callable[[], Awaitable[object]], other: Callable[[], Awaitable[object]], rounds: int
) -> float:
    """How much more CPU time `one` takes than `other`: both medians; they take turns at being
    first."""
    times: dict[object, list[float]] = {one: [], other: []}
    for _ in range(rounds // 10):
        await one()
        await other()
    gc.collect()
    gc.disable()
    for number in range(rounds):
        for call in (one, other) if number % 2 else (other, one):
            started = time.thread_time()
            await call()
            times[call].append(time.thread_time() - started)
    gc.enable()
    return statistics.median(times[one]) / statistics.median(times[other])


# Requests.


def auth() -> Iterator[Row]:
    import httpx2

    for library in (httpx, httpx2):
        with _served() as url:
            ratios = [anyio.run(_auth, Gateway(url=url), library, order) for order in range(4)]
        what = f"CPU of a request of {library.__name__}: with tm.auth / with a fixed header"
        yield at_most(what, statistics.median(ratios), 1.03)


async def _auth(gateway: Gateway, library, order: int, requests: int = 400) -> float:
    url = f"{gateway.base_url}/models"
    async with TokenManager(gateway.config()) as tm, AsyncExitStack() as stack:
        fixed = {"Authorization": f"Bearer {await tm.get_token()}"}
        kinds = [{"auth": tm.auth}, {"headers": fixed}]
        calls = {}
        for kind in kinds if order % 2 else reversed(kinds):
            client = await stack.enter_async_context(library.AsyncClient(**kind))
            calls[kind is kinds[0]] = partial(client.get, url)
        (await calls[True]()).raise_for_status()
        return await _ratio(calls[True], calls[False], requests)


# A new token.


def broadcast() -> Iterator[Row]:
    with serve_gateway_in_thread() as gateway:
        yield from anyio.run(_broadcast, gateway)


async def _broadcast(gateway: Gateway) -> list[Row]:
    async with TokenManager(gateway.config()) as tm, AsyncExitStack() as stack:
        alone = tm.extractor("gpt-4")
        await stack.enter_async_context(alone)
        person = _person_type()
        await alone.extract(person, PROMPT, text="Ada, 36")

        async def timed() -> float:
            started = time.process_time()
            for _ in range(20):
                await tm.refresh()
            return time.process_time() - started

        await timed()
        with_one = [await timed() for _ in range(5)]

        extractors = [alone]
        for number in range(MANY_EXTRACTORS - 1):
            name = gateway.models[number % len(gateway.models)]
            extractors.append(await stack.enter_async_context(tm.extractor(name)))
        await alone.extract(person, PROMPT, text="Ada, 36")
        connections = gateway.api_connections
        gc.collect()
        with _constructions() as built:
            with_many = [await timed() for _ in range(5)]
            token = await tm.refresh()
            gateway.chat_log.clear()
            for extractor in extractors[:: MANY_EXTRACTORS // 100]:
                await extractor.extract(person, PROMPT, text="Ada, 36")
        told = {chat.token_fingerprint for chat in gateway.chat_log}
        what = f"{MANY_EXTRACTORS:,} extractors, 101 new tokens"
        return [
            exactly(f"{what}: models and clients built", len(built), 0),
            exactly(f"{what}: new connections", gateway.api_connections - connections, 0),
            exactly(f"{what}: tokens that a sample of 100 sends", len(told), 1),
            exactly(f"{what}: of these the newest", int(token.fingerprint in told), 1),
            at_most(
                f"CPU of a refresh with {MANY_EXTRACTORS:,} extractors / with 1",
                min(with_many) / min(with_one),
                1.2,
            ),
        ]


def _person_type():
    import pydantic

    return pydantic.create_model("Person", name=(str, ...), age=(int, ...))


@contextmanager
def _constructions() -> Iterator[list[str]]:
    """The names of the chat models and HTTP clients that are built meanwhile."""
    import httpx2
    import openai
    from langchain_openai import ChatOpenAI

    built: list[str] = []
    kinds = (
        *(ChatOpenAI, openai.OpenAI, openai.AsyncOpenAI),
        *(httpx2.Client, httpx2.AsyncClient, httpx.Client, httpx.AsyncClient),
    )
    originals = [kind.__init__ for kind in kinds]

    def counted(kind, original):
        def init(self, *args, **kwargs):
            built.append(kind.__name__)
            original(self, *args, **kwargs)

        return init

    for kind, original in zip(kinds, originals, strict=True):
        kind.__init__ = counted(kind, original)
    try:
        yield built
    finally:
        for kind, original in zip(kinds, originals, strict=True):
            kind.__init__ = original


# The event loop.


PHASES = {
    "start": "entering, the first token",
    "refresh": f"a refresh of {REFRESH_SECONDS} s",
    "use": "the first extractions",
    "exit": "leaving",
    "import": "the import of LangChain",
}
STALL_MS = 20


def stalls() -> Iterator[Row]:
    for backend in ("asyncio", "trio"):
        least: dict[str, float] = {}
        for _ in range(3):
            with _served("slow") as url:
                run = json.loads(_run(Path(__file__), "_stall", backend, url))
            least = {name: min(ms, least.get(name, ms)) for name, ms in run.items()}
            if all(least[name] <= STALL_MS for name in ("waited", "start", "refresh", "use")):
                break
        what = f"{backend}: a caller waits while a due token's refresh takes {REFRESH_SECONDS} s"
        yield at_most(what, least["waited"], STALL_MS, " ms")
        for phase, when in PHASES.items():
            what = f"{backend}: the event loop stands still: {when}"
            collection = least[f"{phase} collection"]
            if collection > 1:
                what += f" (garbage collection: {collection:.0f} ms)"
            if phase == "import":
                yield Row(what, f"{least[phase]:.4g} ms", "exempt", None)
            else:
                yield at_most(what, least[phase], STALL_MS, " ms")


def _stall(backend: str, url: str) -> None:
    os.environ.update(Gateway(url=url).environ(TOKEN_REFRESH_INTERVAL_MINUTES=0.01))
    print(json.dumps(anyio.run(_watched, backend=backend)))


async def _watched() -> dict[str, float]:
    """The longest of each in milliseconds: stalls and collections by phase, and a caller's wait."""
    longest = dict.fromkeys(["waited", *PHASES, *(f"{phase} collection" for phase in PHASES)], 0.0)
    phase = "idle"

    def note(name: str, seconds: float) -> None:
        longest[name] = max(longest.get(name, 0.0), seconds * 1000)

    async def watch() -> None:
        woken_at = time.perf_counter()
        while True:
            await anyio.sleep(0.001)
            slept, woken_at = time.perf_counter() - woken_at, time.perf_counter()
            note(phase, slept - 0.001)

    begun_at = 0.0

    def collected(step: str, _: object) -> None:
        nonlocal begun_at
        if step == "stop":
            note(f"{phase} collection", time.perf_counter() - begun_at)
        begun_at = time.perf_counter()

    gc.callbacks.append(collected)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await anyio.sleep(0.05)

        phase = "start"
        tm = TokenManager()
        await tm.start_background_service()
        first = await tm.get_token()
        await anyio.sleep(0.1)

        # The token is due within 0.6 s, and its refresh takes 2 s.
        phase = "refresh"
        token = first
        while token == first:
            asked_at = time.perf_counter()
            token = await tm.get_token()
            note("waited", time.perf_counter() - asked_at)
            await anyio.sleep(0.002)

        phase = "import"
        extractor = tm.extractor("gpt-4")
        await extractor.__aenter__()
        person = _person_type()
        await anyio.sleep(0.1)

        phase = "use"
        for _ in range(3):
            await extractor.extract(person, PROMPT, text="Ada, 36")

        phase = "exit"
        await tm.stop_background_service()
        await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()
    return longest


# Polling.


@define
class TurnedClock:
    """Stands still until it is turned; counts whom it wakes."""

    now: float = 1_000.0
    woken: int = 0
    timers: list[tuple[float, anyio.CancelScope]] = field(factory=list)

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        with self.move_on_after(seconds):
            await anyio.sleep_forever()

    @contextmanager
    def move_on_after(self, seconds: float) -> Iterator[anyio.CancelScope]:
        with anyio.CancelScope() as scope:
            timer = (self.now + seconds, scope)
            self.timers.append(timer)
            try:
                yield scope
            finally:
                self.timers.remove(timer)

    async def turn(self, seconds: float) -> None:
        self.now += seconds
        for at, scope in self.timers:
            if at <= self.now and not scope.cancel_called:
                self.woken += 1
                scope.cancel()
        await anyio.wait_all_tasks_blocked()


def polling() -> Iterator[Row]:
    for backend in ("asyncio", "trio"):
        woken = anyio.run(_polling, backend=backend)
        yield at_most(f"{backend}: timers that fire in 45 minutes with a good token", woken, 1)
    with serve_gateway_in_thread() as gateway:
        turns = anyio.run(_idle_turns, gateway)
    yield exactly("asyncio: turns of the event loop in an idle second", turns, 0)


async def _polling() -> int:
    numbers, clock = count(), TurnedClock()

    def grant(_: httpx.Request) -> httpx.Response:
        answer = {"access_token": f"t{next(numbers)}", "token_type": "Bearer", "expires_in": 3600}
        return httpx.Response(200, json=answer)

    client = httpx.AsyncClient(transport=httpx.MockTransport(grant))
    manager = TokenManager(
        Gateway().config(), http_client=client, _clock=clock, _random=lambda: 0.0
    )
    async with client, manager as tm:
        await tm.get_token()
        await anyio.wait_all_tasks_blocked()
        for _ in range(45 * 60):
            await clock.turn(1)
        return clock.woken


async def _idle_turns(gateway: Gateway) -> int:
    """How often a second's sleep finds the loop turning, less the turns of the sleep itself."""
    loop = asyncio.get_running_loop()
    turn, turns = loop._run_once, 0

    def counted() -> None:
        nonlocal turns
        turns += 1
        turn()

    async def slept() -> int:
        before = turns
        await asyncio.sleep(1)
        return turns - before

    loop._run_once = counted
    alone = await slept()
    async with TokenManager(gateway.config()) as tm:
        await tm.get_token()
        await anyio.sleep(0.1)
        return await slept() - alone


# The import.


def imports() -> Iterator[Row]:
    base = "anyio, httpx, attrs, cattrs"
    code = "import sys, time; t = time.process_time(); import {}; print(time.process_time() - t)"
    with tempfile.TemporaryDirectory() as cache:
        run = partial(_run, "-X", f"pycache_prefix={cache}", "-c")
        run(code.format("revos")), run(code.format(base))
        pairs = [
            (float(run(code.format("revos"))), float(run(code.format(base)))) for _ in range(12)
        ]
        ours, theirs = (min(times) for times in zip(*pairs, strict=True))
        what = f"import revos ({ours * 1000:.0f} ms) / import {base} ({theirs * 1000:.0f} ms)"
        yield at_most(what, ours / theirs, 1.5)

        told = "import {}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
        loaded = set(run(told.format("revos")).split())
        more = loaded - set(run(told.format(base)).split()) - {"revos", *sys.stdlib_module_names}
        yield exactly("import revos: heavy packages that it loads", len(loaded & HEAVY), 0)
        yield Row(f"import revos: packages that {base} do not load", " ".join(more), "", None)


# Other processes.


def _run(*args: object) -> str:
    done = subprocess.run(  # noqa: PLW1510 - check below, with its words
        [sys.executable, *map(str, args)],
        env={"PYTHONPATH": str(ROOT), "PATH": os.defpath},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{args} failed:\n{done.stderr}")
    return done.stdout


@contextmanager
def _served(*args: str) -> Iterator[str]:
    """The URL of a gateway in another process; it ends with its standard input."""
    command = [sys.executable, __file__, "_serve", *args]
    env = {"PYTHONPATH": str(ROOT), "PATH": os.defpath}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True
    ) as server:
        yield server.stdout.readline().strip()
        server.stdin.close()


def _serve(*, slow: bool) -> None:
    gateway = Gateway()
    if slow:
        # From the second token request on.
        gateway.delay = REFRESH_SECONDS
        gateway.sleep = lambda seconds: anyio.sleep(seconds if gateway.token_requests > 1 else 0)
    with serve_gateway_in_thread(gateway):
        print(gateway.url, flush=True)
        sys.stdin.read()


# The table.

WIDTH = 92
PARTS: tuple[Callable[[], Iterator[Row]], ...] = (
    counts,
    nowait,
    auth,
    broadcast,
    stalls,
    polling,
    imports,
)


def main(names: list[str]) -> int:
    parts = {part.__name__: part for part in PARTS}
    if unknown := set(names) - set(parts):
        sys.exit(f"no such part: {', '.join(unknown)}; there are {', '.join(parts)}")
    started_at = time.monotonic()
    missed = 0
    print(f"{f'revos from {Path(revos.__file__).parent}':<{WIDTH}}{'measured':>10}  target")
    for name in names or parts:
        for row in parts[name]():
            missed += row.is_met is False
            verdict = "MISSED" if row.is_met is False else ""
            print(f"{row.what:<{WIDTH}}{row.measured:>10}  {row.target:<10}{verdict}", flush=True)
    print(f"{missed or 'none'} missed, in {time.monotonic() - started_at:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["_serve", *how]:
            _serve(slow="slow" in how)
        case ["_stall", backend, url]:
            _stall(backend, url)
        case names:
            sys.exit(main(names))
