"""What several tests share: a clock turned by hand, a token endpoint and an API by script,
configurations.
"""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType

import anyio
import httpx
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from revos import (
    Config,
    GatewayConfig,
    ModelConfig,
    RevosTokenError,
    TokenConfig,
    TokenManager,
    credentials,
)

CLIENT_ID = "client-7"
CLIENT_SECRET = "s3cret/with+punctuation&="
TOKEN_URL = "http://127.0.0.1:9/token"
BASE_URL = "http://127.0.0.1:9/v1"


async def let_run() -> None:
    for _ in range(30):
        await checkpoint()


async def settle(let_run: Callable[[], Awaitable[None]] = let_run) -> None:
    """Let every task run until it waits for something else than a worker thread.

    Not for tests that keep worker threads busy: it would wait for them.
    """
    while True:
        # On asyncio AnyIO naps for 0.1 s where a task can still run, so let most run before.
        await let_run()
        await anyio.wait_all_tasks_blocked()
        if no_thread_is_waited_for():
            return
        await anyio.sleep(0.0005)


def no_thread_is_waited_for() -> bool:
    """Whether no task waits for a worker thread."""
    return not any(_waits_for_thread(task.coro) for task in anyio.get_running_tasks())


def _waits_for_thread(awaited: object) -> bool:
    while awaited is not None:
        if getattr(awaited, "cr_code", None) is to_thread.run_sync.__code__:
            return True
        awaited = getattr(awaited, "cr_await", None)
    return False


class ManualClock:
    """Stands still until `advance`; the wall clock can be set apart from the monotonic one."""

    def __init__(self) -> None:
        self.now_monotonic = 1_000.0
        self.now_time = 1_800_000_000.0
        self.timers_set = 0
        self._timers: list[tuple[float, anyio.CancelScope]] = []

    def monotonic(self) -> float:
        return self.now_monotonic

    def time(self) -> float:
        return self.now_time

    async def sleep(self, seconds: float) -> None:
        with self.move_on_after(seconds):
            await anyio.sleep_forever()

    @property
    def timers_waiting(self) -> int:
        return len(self._timers)

    @contextmanager
    def move_on_after(self, seconds: float) -> Iterator[anyio.CancelScope]:
        self.timers_set += 1
        with anyio.CancelScope() as scope:
            timer = (self.now_monotonic + seconds, scope)
            self._timers.append(timer)
            if seconds <= 0:
                scope.cancel()
            try:
                yield scope
            finally:
                self._timers.remove(timer)

    def turn(self, seconds: float) -> None:
        """Turn both clocks, and fire what is due."""
        self.now_monotonic += seconds
        self.now_time += seconds
        for at, scope in self._timers:
            if at <= self.now_monotonic:
                scope.cancel()

    async def advance(self, seconds: float) -> None:
        """`turn`, and let every task run until it waits again."""
        self.turn(seconds)
        await settle()


def manager_at(
    endpoint: int | str,
    clock: ManualClock,
    *,
    random: float = 0.5,
    http_client: httpx.AsyncClient | None = None,
    **settings: object,
) -> TokenManager:
    """A manager of a real endpoint, by its port or URL; it asks only when it is asked."""
    url = endpoint if isinstance(endpoint, str) else f"http://127.0.0.1:{endpoint}/token"
    settings = {"token": {"enable_periodic_refresh": False}, "token_url": url} | settings
    return TokenManager(
        config(**settings), http_client=http_client, _clock=clock, _random=lambda: random
    )


async def outcome_over_sockets(tm: TokenManager, clock: ManualClock) -> str | RevosTokenError:
    """What one cycle brings, where the traffic is real and the clock is turned over its pauses.

    It can't be turned before they begin, and nothing else tells when that is.
    """
    outcomes: list[str | RevosTokenError] = []

    async def ask() -> None:
        try:
            outcomes.append(await tm.get_token())
        except RevosTokenError as error:
            outcomes.append(error)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            while not outcomes:
                _turn_over_pause(tm, clock)
                await anyio.sleep(0.0005)
    return outcomes[0]


def _turn_over_pause(tm: TokenManager, clock: ManualClock) -> None:
    cycle = tm._state().cycle
    if cycle is not None and cycle.next_attempt_at > clock.monotonic():
        clock.turn(cycle.next_attempt_at - clock.monotonic())


class HungDisk:
    """In place of the reading of secret files: each read hangs until `release`.

    :ivar begun: the files whose reading began
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[str] = []
        self._released = threading.Event()
        self._read = credentials.read_secret_file
        monkeypatch.setattr(credentials, "read_secret_file", self)

    def __call__(self, path: str) -> object:
        self.begun.append(path)
        self._released.wait()
        return self._read(path)

    async def until_begun(self) -> None:
        """One that has not begun when its test is over would hang in the disk of the next test."""
        with anyio.fail_after(10):
            while not self.begun:
                await anyio.sleep(0.001)

    def release(self) -> None:
        self._released.set()


class ScriptedEndpoint:
    """A token endpoint as an `httpx.MockTransport`: numbered tokens unless a script says otherwise.

    `script` holds answers for the next requests: a status, an `httpx.Response`, an exception to
    raise, or a callable that makes one of these. `hold()` keeps requests waiting inside its block.
    `name` makes the token of the request with this number.
    """

    def __init__(self, lifetime: float = 3600.0) -> None:
        self.lifetime = lifetime
        self.name: Callable[[int], str] = "token-{}".format
        self.script: list[object] = []
        self.requests: list[httpx.Request] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._gate: anyio.Event | None = None
        self.started = anyio.Event()

    @property
    def count(self) -> int:
        return len(self.requests)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    @contextmanager
    def hold(self) -> Iterator[None]:
        gate = self._gate = anyio.Event()
        try:
            yield
        finally:
            self._gate = None
            gate.set()

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        number = self.count
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.started.set()
        try:
            answer: object = self.script.pop(0) if self.script else 200
            if self._gate is not None:
                await self._gate.wait()
            if isinstance(answer, Callable):  # type: ignore[arg-type]
                answer = answer()
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, httpx.Response):
                return answer
            if answer != 200:
                return httpx.Response(answer, json={"error": "made_up"})
            return token_response(self.name(number), self.lifetime)
        finally:
            self.in_flight -= 1


class ScriptedApi:
    """The gateway's API as a mock transport of httpx or httpx2, by a rule for the tokens.

    `accepts` says whether a token (None: none was sent) is accepted; a refusal has `status` and
    `challenge`. `redirects` maps paths to the addresses that they redirect to.
    """

    def __init__(self, accepts: Callable[[str | None], bool] = bool) -> None:
        self.accepts = accepts
        self.status = 401
        self.challenge: str | None = 'Bearer error="invalid_token"'
        self.redirects: dict[str, str] = {}
        self.requests: list[httpx.Request] = []
        self.tokens: list[str | None] = []  # At arrival: an auth flow changes its request later.

    def client(self, library: ModuleType = httpx, **options: object) -> httpx.AsyncClient:
        transport = library.MockTransport(partial(self._answer, library.Response))
        return library.AsyncClient(transport=transport, base_url=BASE_URL, **options)

    def sync_client(self, library: ModuleType = httpx, **options: object) -> httpx.Client:
        transport = library.MockTransport(partial(self._answer, library.Response))
        return library.Client(transport=transport, base_url=BASE_URL, **options)

    def _answer(self, response: Callable[..., httpx.Response], request: httpx.Request) -> object:
        self.requests.append(request)
        self.tokens.append(bearer_of(request))
        if target := self.redirects.get(request.url.path):
            return response(307, headers={"location": target})
        if self.accepts(bearer_of(request)):
            return response(200, json={"served": len(self.requests)})
        challenge = {"www-authenticate": self.challenge} if self.challenge is not None else {}
        return response(self.status, headers=challenge, json={"error": "refused"})


class SentOnce:
    """A request's body that can be sent only once: an asynchronous iterator, no generator."""

    def __init__(self) -> None:
        self._parts = [b"some", b"thing"]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop(0)


def bearer_of(request: httpx.Request) -> str | None:
    """The token that a request carries."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme == "Bearer" else None


def token_response(value: str, lifetime: object = 3600.0) -> httpx.Response:
    body = {"access_token": value, "token_type": "Bearer", "expires_in": lifetime}
    return httpx.Response(200, content=json.dumps(body).encode())


def completion(message: dict[str, object], reason: str = "stop") -> dict[str, object]:
    """A chat completion as the API gives it, with this message of the assistant's in it."""
    said = {"role": "assistant", "content": None} | message
    choice = {"index": 0, "finish_reason": reason, "message": said}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "x", "choices": [choice]}


def config(*, token: dict[str, object] | None = None, **gateway: object) -> Config:
    """A configuration without a fallback; `fallback_auth_method="client_secret_basic"` adds one."""
    settings: dict[str, object] = {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "token_url": TOKEN_URL,
        "base_url": BASE_URL,
        "fallback_auth_method": "client_secret_post",
    }
    return Config(
        revos=GatewayConfig(**(settings | gateway)),
        token=TokenConfig(**(token or {})),
        models={"gpt-4": ModelConfig(model="gpt-4"), "claude-4": ModelConfig(model="claude-4")},
    )


def manager(
    endpoint: ScriptedEndpoint,
    clock: ManualClock | None = None,
    random: float = 0.0,
    **options: object,
) -> TokenManager:
    """A manager over a scripted endpoint; with a clock, time stands still and `random` is fixed."""
    settings = options.pop("config", None) or config(**options)
    extra = {} if clock is None else {"_clock": clock, "_random": lambda: random}
    return TokenManager(settings, http_client=endpoint.client(), **extra)
