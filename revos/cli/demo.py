"""`revos demo`: the life of a token, against a gateway of its own, without credentials.

Each step is a line with its figures, which are what the gateway counted and a clock showed. The
step compares them with what the library promises; where one differs the line says so, and the exit
code is 1.

The gateway runs in a thread of its own, with an event loop of its own, as it stands for another
machine: its tasks are not among those that must be gone at the end, and it answers at its own pace
while the import of LangChain keeps this thread busy.

Neither keys nor proxies nor tracing of this machine may change what is shown, so the environment is
empty while the demo runs.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal

import anyio
from attrs import define, field, frozen
from rich.console import Console
from rich.table import Table
from rich.text import Text

from revos.broadcast import TokenStream
from revos.config import Config
from revos.errors import RevosError
from revos.extraction import Extractors, LangChainExtractor
from revos.loading import load_config
from revos.manager import TokenManager
from revos.testing import Gateway, serve_gateway_in_thread

__all__ = ["demo"]

PROMPT = "Extract the person: {text}"


@frozen
class Case:
    """What a model is given, and what it has to find there."""

    text: str
    found: dict[str, object]


CASES = {
    "gpt-4": Case(
        "Ada Lovelace, 36, London", {"name": "Ada Lovelace", "age": 36, "city": "London"}
    ),
    "claude-4": Case(
        "Grace Hopper is 45 years old and lives in New York",
        {"name": "Grace Hopper", "age": 45, "city": "New York"},
    ),
}
AT_ONCE = 20
HEALING_SECONDS = 0.2  # Of a token request: meanwhile all that were sent at once are refused.
LONGEST_EXIT_MS = 100
PATIENCE_SECONDS = 5  # For what takes milliseconds.
# Threads that wait for their next call in the pools of AnyIO, Trio and asyncio, by their names.
IDLE_WORKERS = ("AnyIO worker thread", "Trio thread ", "asyncio_")


def demo(*, backend: Literal["asyncio", "trio"] = "asyncio") -> int:
    """Show the life of a token, with a gateway on this machine: no credentials are needed.

    :param backend: The event loop that it runs on.
    """
    if find_spec(backend) is None:
        print(
            f'revos: --backend {backend} needs an extra: pip install "revos[{backend}]"',
            file=sys.stderr,
        )
        return 2
    started_at = time.monotonic()
    report = Report()
    # In debug mode asyncio tells of each slow import in the middle of the lines.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    with _bare_environment(), serve_gateway_in_thread() as gateway:
        report.head(f"revos {version('revos')} on {backend}, with a gateway at {gateway.url}")
        try:
            anyio.run(_live, report, gateway, backend=backend)
        except _EndedEarlyError:
            report.foot("The demo ends here: the other steps build on this one.")
            return 1
    if report.missed:
        report.foot(f"Not as promised: {', '.join(report.missed)}.")
        return 1
    report.foot(f"All as promised, in {time.monotonic() - started_at:.1f} s.")
    return 0


async def _live(report: Report, gateway: Gateway) -> None:
    before = Running.now()
    with report.step("configuration") as line:
        config = _configure(line, gateway)
    async with TokenManager(config) as tm, AsyncExitStack() as stack:
        tokens = await stack.enter_async_context(tm.subscribe())
        with report.step("token") as line:
            await _fetch(line, gateway, tm, tokens)
        with report.step("extractors", "importing LangChain") as line:
            extractors = await _open_extractors(line, gateway, tm, stack)
        for name in CASES:
            with report.step("object") as line:
                await _extract(line, name, extractors)
        with report.step("refresh") as line:
            await _refresh(line, gateway, tm, extractors)
        with report.step("revocation") as line:
            await _revoke(line, gateway, tokens, extractors)
        in_flight = await _leave_a_request_hanging(gateway, tm)
        left_at = time.monotonic()
    ms = _ms_since(left_at)
    with report.step("exit") as line:
        line.say(f"in {ms:.0f} ms, with {_count(in_flight, 'token request')} hanging;")
        line.expect(in_flight == 1, "1 token request hanging")
        line.expect(ms <= LONGEST_EXIT_MS, f"at most {LONGEST_EXIT_MS} ms")
        _expect_nothing_left(line, before)


def _configure(line: Line, gateway: Gateway) -> Config:
    variables = gateway.environ()
    config = load_config(environ=variables, env_file=None)
    models = [model.model for model in config.models.values()]
    line.say(f"{_count(len(variables), 'variable')}; models {', '.join(models)}")
    line.expect(sorted(models) == sorted(gateway.models), "the models of the gateway")
    return config


async def _fetch(line: Line, gateway: Gateway, tm: TokenManager, tokens: TokenStream) -> None:
    started_at = time.monotonic()
    await tm.get_token()
    ms = _ms_since(started_at)
    token = await tokens.receive()
    lifetime = (token.expires_at - datetime.now(UTC)).total_seconds()
    line.say(f"{token.fingerprint}, good for {lifetime:.0f} s, fetched in {ms:.0f} ms")
    line.expect(abs(lifetime - (gateway.lifetime or 0)) < PATIENCE_SECONDS, "its whole lifetime")
    line.expect(gateway.token_requests == 1, "1 token request")


async def _open_extractors(
    line: Line, gateway: Gateway, tm: TokenManager, stack: AsyncExitStack
) -> Extractors[LangChainExtractor]:
    started_at = time.monotonic()
    extractors = await stack.enter_async_context(tm.extractors(*CASES))
    ms = _ms_since(started_at)
    requests = gateway.token_requests
    line.say(f"{' and '.join(extractors)} ready in {ms:.0f} ms (LangChain's import);")
    line.say(f"{_count(requests, 'token request')} so far")
    line.expect(requests == 1, "1 token request for both")
    return extractors


async def _extract(line: Line, name: str, extractors: Extractors[LangChainExtractor]) -> None:
    case = CASES[name]
    started_at = time.monotonic()
    person = await extractors[name].extract(_person_type(), PROMPT, text=case.text)
    line.say(f"{name}: {person!r} in {_ms_since(started_at):.0f} ms")
    line.expect(person.model_dump() == case.found, f"{case.found}")


async def _refresh(
    line: Line, gateway: Gateway, tm: TokenManager, extractors: Extractors[LangChainExtractor]
) -> None:
    connections, requests = gateway.api_connections, gateway.token_requests
    started_at = time.monotonic()
    token = await tm.refresh()
    ms = _ms_since(started_at)
    for name, case in CASES.items():
        await extractors[name].extract(_person_type(), PROMPT, text=case.text)
    sent = [chat.token_fingerprint for chat in tuple(gateway.chat_log)[-len(CASES) :]]
    requests = gateway.token_requests - requests
    line.say(f"{token.fingerprint} in {ms:.0f} ms by {_count(requests, 'token request')},")
    line.say(f"sent by {sent.count(token.fingerprint)} of {len(CASES)} extractors;")
    line.say(f"connections {connections} before, {gateway.api_connections} after")
    line.expect(requests == 1, "1 token request")
    line.expect(sent.count(token.fingerprint) == len(CASES), "the new token from all extractors")
    line.expect(gateway.api_connections == connections, "no new connection")


async def _revoke(
    line: Line, gateway: Gateway, tokens: TokenStream, extractors: Extractors[LangChainExtractor]
) -> None:
    sent, refused, requests = gateway.api_requests, gateway.refusals, gateway.token_requests
    right: list[bool] = []

    async def extract(name: str) -> None:
        case = CASES[name]
        try:
            person = await extractors[name].extract(_person_type(), PROMPT, text=case.text)
        except RevosError:
            right.append(False)
        else:
            right.append(person.model_dump() == case.found)

    gateway.revoke()
    gateway.delay = HEALING_SECONDS
    names = list(CASES)
    async with anyio.create_task_group() as tasks:
        for number in range(AT_ONCE):
            tasks.start_soon(extract, names[number % len(names)])
    gateway.delay = 0

    refused, requests = gateway.refusals - refused, gateway.token_requests - requests
    replayed = gateway.api_requests - sent - AT_ONCE
    token = tokens.latest
    line.say(f"{token.fingerprint if token is not None else 'no token'}")
    line.say(f"by {_count(requests, 'token request')}, after {refused} of {AT_ONCE} extractions")
    line.say(f"had a 401; {replayed} replayed, {right.count(True)} right")
    line.expect(refused > 0, "a refusal")
    line.expect(requests == 1, "1 token request")
    line.expect(replayed == refused, "1 replay for each refusal")
    line.expect(right.count(True) == AT_ONCE, "the right person from each extraction")


async def _leave_a_request_hanging(gateway: Gateway, tm: TokenManager) -> int:
    """How many token requests are in flight when the block is left."""
    gateway.fail_next(hang=True)
    tm.invalidate()
    with anyio.move_on_after(PATIENCE_SECONDS):
        while not gateway.in_flight_token_requests:  # noqa: ASYNC110 - in another thread
            await anyio.sleep(0.001)
    return gateway.in_flight_token_requests


@frozen
class Running:
    """The tasks of this event loop, and the threads of this process but for idle workers."""

    tasks: frozenset[int]
    threads: frozenset[threading.Thread]

    @classmethod
    def now(cls) -> Running:
        return cls(
            frozenset(task.id for task in anyio.get_running_tasks()),
            frozenset(
                thread
                for thread in threading.enumerate()
                if not thread.name.startswith(IDLE_WORKERS)
            ),
        )


def _expect_nothing_left(line: Line, before: Running) -> None:
    now = Running.now()
    tasks, threads = now.tasks - before.tasks, now.threads - before.threads
    line.say(f"{_count(len(tasks), 'task')} and {_count(len(threads), 'thread')} left")
    line.expect(not tasks, "no task left")
    line.expect(not threads, "no thread left")


@cache
def _person_type() -> type[Any]:
    """Made late, as it needs pydantic, which the first extractor imports in a thread."""
    import pydantic

    class Person(pydantic.BaseModel):
        name: str
        age: int
        city: str

    return Person


@contextmanager
def _bare_environment() -> Iterator[None]:
    """No variable is set but for what a process needs, and one that forbids proxies."""
    kept = dict(os.environ)
    os.environ.clear()
    if "SYSTEMROOT" in kept:  # Windows opens no socket without it.
        os.environ["SYSTEMROOT"] = kept["SYSTEMROOT"]
    os.environ["NO_PROXY"] = "*"  # Macs and Windows have proxies in their settings, too.
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


class _EndedEarlyError(Exception):
    """A step failed that the others build on; its line has said so."""


@define
class Line:
    """What one step tells, and what of it is not as promised."""

    name: str
    told: list[str] = field(factory=list)
    missed: list[str] = field(factory=list)

    def say(self, words: str) -> None:
        self.told.append(words)

    def expect(self, is_so: bool, promised: str) -> None:
        if not is_so:
            self.missed.append(promised)


@define
class Report:
    """The lines: handsome on a terminal, plain text in a pipe."""

    console: Console = field(
        # The environment is another one later.
        factory=lambda: Console(highlight=False, _environ=dict(os.environ))
    )
    missed: list[str] = field(factory=list)

    def head(self, words: str) -> None:
        self._print(Text(words, "bold"))

    def foot(self, words: str) -> None:
        self._print(Text(words, "bold red" if self.missed else "bold"))

    @contextmanager
    def step(self, name: str, waiting: str | None = None) -> Iterator[Line]:
        """A line that is printed when its block ends.

        :param waiting: what a terminal shows meanwhile
        :raises _EndedEarlyError: the block raised a `RevosError`; the line says which
        """
        line = Line(name)
        try:
            if waiting is None or not self.console.is_terminal:
                yield line
            else:
                spinner = "line" if self.console.options.ascii_only else "dots"
                with self.console.status(Text(waiting, "dim"), spinner=spinner):
                    yield line
        except RevosError as error:
            line.say(f"{type(error).__name__}: {error}")
            line.missed.append("no error")
            self._print_line(line)
            raise _EndedEarlyError from error
        self._print_line(line)

    def _print_line(self, line: Line) -> None:
        if line.missed:
            self.missed.append(line.name)
        told = Text(" ".join(line.told))
        if line.missed:
            told.append(f" [promised: {'; '.join(line.missed)}]", "red")
        if not self.console.is_terminal:
            self._print(Text(f"{'FAILED' if line.missed else 'ok':<8}{line.name:<15}{told}"))
            return
        marks = ("ok", "NO") if self.console.options.ascii_only else ("\u2713", "\u2717")
        mark = Text(marks[1], "bold red") if line.missed else Text(marks[0], "green")
        columns = Table.grid(padding=(0, 2))
        columns.add_column(min_width=1)
        columns.add_column(min_width=13)
        columns.add_column(overflow="fold")
        columns.add_row(mark, Text(line.name, "bold"), told)
        self.console.print(columns)

    def _print(self, text: Text) -> None:
        self.console.print(text, soft_wrap=True)


def _ms_since(started_at: float) -> float:
    return (time.monotonic() - started_at) * 1000


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
