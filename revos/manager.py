"""`TokenManager`: the block, and what is reached through it.

It enters and leaves what a manager has (task group, portal for threads, refresher, the runtime of
the extractors), and checks who calls: inside the block, in its event loop, in its process. What a
call is answered with is the refresher's.
"""

from __future__ import annotations

import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self, TypeVar

import anyio
import httpx
from anyio import from_thread
from anyio.lowlevel import checkpoint, current_token
from attrs import evolve

from revos import policy, scope
from revos.auth import BearerAuth
from revos.broadcast import Broadcast, TokenStream
from revos.clock import SYSTEM_CLOCK, Clock
from revos.config import Config
from revos.credentials import credential_sources
from revos.endpoint import TokenEndpoint
from revos.errors import RevosClosedError, RevosConfigurationError, RevosError, RevosTokenError
from revos.extraction import Extractors, LangChainExtractor, Strategy
from revos.extraction.extractor import open_extractors
from revos.leaving import leave
from revos.loading import load_config
from revos.policy import Ask, Held, Now, Rules, State, Way
from revos.process import Birthplace, birthplace
from revos.redact import forget_values
from revos.refresher import Refresher
from revos.status import Health, TokenStatus, health_of, status_of
from revos.threads import run_in_thread
from revos.token import AccessToken

if TYPE_CHECKING:
    from revos.extraction.runtime import Runtime

__all__ = ["TokenManager"]

T = TypeVar("T")

# What `get_token_nowait` reads where no token is usable.
NO_TOKEN: tuple[AccessToken | None, float, float] = (None, policy.NEVER, policy.NEVER)


class TokenManager:
    """Keeps one access token fresh inside an `async with` block and broadcasts each new one.

    Entering reads the configuration and starts the refresh loop; it never waits for the network.
    Leaving ends the loop, whatever it is doing; callers that wait get `RevosClosedError`. A manager
    is entered once.

    :param config: the configuration; `load_config()` where there is none
    :param refresh_interval_minutes: in place of the configured one, over 0 to 1440
    :param settings_instance: another name for `config`
    :param http_client: your own client for the token endpoint; it is not closed here
    :raises RevosConfigurationError: `config` and `settings_instance` are both given and differ, or
        the interval is out of bounds

    >>> import anyio
    >>> from revos.testing import serve_gateway
    >>> async def main():
    ...     async with serve_gateway() as gateway, TokenManager(gateway.config()) as tm:
    ...         first, second = await tm.get_token(), await tm.get_token()
    ...     print(first == second, gateway.token_requests)
    >>> anyio.run(main)
    True 1
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        refresh_interval_minutes: float | None = None,
        settings_instance: Config | None = None,
        http_client: httpx.AsyncClient | None = None,
        _clock: Clock = SYSTEM_CLOCK,
        _random: Callable[[], float] = random.random,
    ) -> None:
        if config is not None and settings_instance not in (None, config):
            raise RevosConfigurationError(
                "config and settings_instance are two names for one thing, and they differ: give "
                "one"
            )
        given = config if config is not None else settings_instance
        if given is not None and not isinstance(given, Config):
            raise RevosConfigurationError(
                f"config must be a Config, not {type(given).__name__}: load_config() makes one "
                "from the environment, load_config('revos.toml') from a file"
            )
        self._interval = refresh_interval_minutes
        self._config = None if given is None else self._with_interval(given)
        self._http_client = http_client
        self._clock = _clock
        self._random = _random
        self._monotonic, self._time = _clock.monotonic, _clock.time

        self._usable = NO_TOKEN
        self._broadcast: Broadcast[AccessToken] = Broadcast(self._has_usable)
        self._refresher: Refresher | None = None
        self._runtime: Runtime | None = None
        self._auth: BearerAuth | None = None
        self._here: Birthplace = (True,)
        self._crash: BaseException | None = None
        self._scopes: list[anyio.CancelScope] = []
        self._entered = False
        self._open = False

    def _with_interval(self, config: Config) -> Config:
        if self._interval is None:
            return config
        return evolve(config, token=evolve(config.token, refresh_interval_minutes=self._interval))

    # Entering and leaving.

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RevosClosedError(
                "this TokenManager has been entered before: make a new one for each block"
            )
        self._entered = True
        if self._config is None:
            loaded = await run_in_thread(load_config)
            self._config = self._with_interval(loaded)
        ways = credential_sources(self._config.revos)
        self._has_fallback = Way.FALLBACK in ways
        self._refresher = Refresher(
            _rules_of(self._config, ways), self._clock, self._random, self._on_held
        )
        self._here = birthplace()
        self._loop_token = current_token()
        self._thread_id = threading.get_ident()
        self._task_id = anyio.get_current_task().id
        async with AsyncExitStack() as stack:
            endpoint = await stack.enter_async_context(
                TokenEndpoint.opened(self._config.revos, self._clock, self._http_client)
            )
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(self._tasks.cancel_scope.cancel)
            self._portal = await stack.enter_async_context(from_thread.BlockingPortal())
            # What threads still wait for is cancelled: it may wait for a gateway that hangs.
            stack.push_async_callback(self._portal.stop, cancel_remaining=True)
            self._tasks.start_soon(self._supervise, partial(self._refresher.run, endpoint))
            self._open = True
            scope.push(self)
            stack.callback(self._close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_forked():
            return  # Nothing here is the child's to close.
        if self._refresher is None:
            raise self._closed_error()
        if anyio.get_current_task().id != self._task_id:
            self._close()
            # Nowhere else: where the task group is cancelled too, AnyIO would take one more
            # cancellation off the leaving task than it has put on it.
            for task_scope in self._scopes:
                task_scope.cancel()
            raise RevosClosedError(
                "this TokenManager is left in another task than the one that entered it; its "
                "task group can't be: enter and leave it in one task (a fixture or a framework "
                "that splits the two needs a task of its own for the block)"
            )
        await leave(self._stack, exc)
        if self._crash is not None:
            raise self._crash

    async def start_background_service(self) -> None:
        """The same as entering the block, for frameworks with startup and shutdown calls.

        Start and stop in one task, in `try`/`finally`, last started first stopped.
        """
        await self.__aenter__()

    async def stop_background_service(self) -> None:
        """The same as leaving the block; does nothing where it was left, or never got open."""
        if self._left():
            await checkpoint()
        else:
            await self.__aexit__(None, None, None)

    def is_background_service_running(self) -> bool:
        """Whether the block is entered and not left."""
        return self._is_open()

    def _is_open(self) -> bool:
        return self._open and not self._is_forked()

    def _is_forked(self) -> bool:
        """Whether all that is here belongs to the process that this one was forked from."""
        return not self._here[0]

    def _left(self) -> bool:
        return self._entered and not self._open and self._crash is None

    def _close(self) -> None:
        self._open = False
        self._broadcast.close()
        scope.remove(self)
        if self._refresher is not None:
            self._refresher.close(self._closed_error())

    async def _supervise(self, task: Callable[[], Awaitable[None]]) -> None:
        """A task of the manager; what it did not expect fails the waiters and leaves the block,
        bare.
        """
        with anyio.CancelScope() as task_scope:
            self._scopes.append(task_scope)
            try:
                await task()
            # `__aexit__` raises it. Trio raises the KeyboardInterrupt of a signal in any task.
            except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001
                forget_values(error)
                self._crash = error
                self._close()
                self._tasks.cancel_scope.cancel()

    def _has_usable(self) -> bool:
        if self._is_forked():
            raise self._closed_error()
        _, unusable_at, unusable_time = self._usable
        return self._monotonic() < unusable_at and self._time() < unusable_time

    def _on_held(self, held: Held | None) -> None:
        if held is None:
            self._usable = NO_TOKEN
        else:
            self._usable = (held.token, held.unusable_at, held.unusable_time)
            self._broadcast.publish(held.token)

    # Tokens.

    async def get_token(self, *, force_refresh: bool = False, use_fallback: bool = False) -> str:
        """A usable token: the held one at once, or the outcome of a refresh.

        :param force_refresh: a new one in any case; joins a request that is in flight
        :param use_fallback: where a token is needed or forced, get it the second way only
        :raises RevosAuthenticationError: none can be had now
        :raises RevosConfigurationError: there is no fallback
        :raises RevosClosedError: outside the block
        """
        token = await self._obtain(Ask(force=force_refresh, fallback=use_fallback))
        return token.value

    def get_token_nowait(self) -> str:
        """The held token, from any thread.

        :raises ~anyio.WouldBlock: there is none that is usable
        :raises RevosClosedError: outside the block
        """
        token, unusable_at, unusable_time = self._usable
        if (
            token is not None
            and self._monotonic() < unusable_at
            and self._time() < unusable_time
            and self._here[0]
        ):
            return token.value
        if not self._is_open():
            raise self._closed_error()
        raise anyio.WouldBlock

    async def refresh(
        self,
        *,
        superseding: AccessToken | str | None = None,
        use_fallback: bool = False,
    ) -> AccessToken:
        """A newer token.

        :param superseding: ask for one only if this is still the current one
        :param use_fallback: get it the second way only
        :raises: as `get_token`
        """
        ask = newer_than(superseding, use_fallback=use_fallback)
        del superseding  # What is raised from here takes this frame along.
        return await self._obtain(ask)

    async def refresh_extractor(self) -> bool:
        """Refresh now, for every extractor; true when it worked. Never raises `RevosError`."""
        try:
            await self.refresh()
        except RevosError:  # Its cycle has logged it, and the answer is the outcome.
            return False
        return True

    def invalidate(self, token: AccessToken | str | None = None) -> None:
        """Drop the held token; where `token` is given, only if it is that one. From any thread.

        :raises RevosClosedError: outside the block
        """
        event = invalidation_of(token)
        del token  # What is raised from here takes this frame along.
        self._report(event)

    def reset(self) -> None:
        """Drop the token, the counts and the pauses. From any thread.

        :raises RevosClosedError: outside the block
        """
        self._report(policy.Reset())

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[TokenStream]:
        """A stream of the tokens: the current one at once, then each newer one.

        :raises RevosClosedError: outside the block
        """
        self._check_here()
        stream = TokenStream(self._broadcast)
        try:
            yield stream
        finally:
            stream.close()

    # What stands on the tokens.

    @property
    def auth(self) -> BearerAuth:
        """An `httpx.Auth` (and, once `httpx2` is imported, an `httpx2.Auth`) over this manager."""
        self._auth = BearerAuth(self) if self._auth is None else self._auth.in_todays_form()
        return self._auth

    def extractor(
        self,
        model_name: str,
        *,
        strategy: Strategy = "auto",
        repairs: int = 1,
        max_concurrency: int = 16,
    ) -> LangChainExtractor:
        """An extractor for a configured model, for `async with`.

        :param strategy: how the gateway is asked for the shape: `json_schema`, `tools`,
            `json_text`, or `auto`, which uses the first of these that it takes
        :param repairs: how often an answer that does not fit is sent back with its problems
        :param max_concurrency: requests at once
        :raises RevosInputError: one of these can't be
        """
        return LangChainExtractor(
            model_name,
            manager=self,
            strategy=strategy,
            repairs=repairs,
            max_concurrency=max_concurrency,
        )

    def extractors(
        self, *names: str
    ) -> AbstractAsyncContextManager[Extractors[LangChainExtractor]]:
        """All configured extractors, or the named ones, for `async with`: a mapping whose keys
        match as model names do.
        """
        return open_extractors(self, names)

    async def list_models(self) -> list[str]:
        """The model ids that the gateway accepts (`GET {base_url}/models`).

        :raises RevosAPIError: the gateway refused, or could not be reached
        :raises RevosTokenError: no token could be had
        """
        runtime = await self._langchain()
        return await runtime.model_ids()

    async def _langchain(self) -> Runtime:
        """Where LangChain runs: opened with the first extractor, in a task of the manager's, so
        that no caller's cancellation takes it from the others.
        """
        self._check_here()
        if self._runtime is None:
            from revos.extraction.runtime import Runtime

            self._runtime = Runtime(self)
            self._tasks.start_soon(self._supervise, self._runtime.run)
        await self._runtime.opened()
        return self._runtime

    # What it knows, from any thread.

    @property
    def config(self) -> Config:
        """The configuration; read from the environment on entering where none was given."""
        if self._config is None:
            raise self._closed_error()
        return self._config

    @property
    def status(self) -> TokenStatus:
        """A snapshot, from any thread."""
        return status_of(self._state(), self._now())

    def health(self) -> Health:
        """A snapshot, from any thread."""
        if not self._is_open() or self._refresher is None:
            return Health("unhealthy", str(self._closed_error()))
        return health_of(self._state(), self._now(), periodic=self._refresher.rules.periodic)

    @property
    def consecutive_failures(self) -> int:
        """Failed cycles since the last success."""
        return self._state().consecutive_failures

    def _state(self) -> State:
        if self._refresher is None or self._is_forked():
            return State()
        return self._refresher.state

    def _now(self) -> Now:
        return Now(self._monotonic(), self._time())

    def __repr__(self) -> str:
        state = (
            "open" if self._is_open() else "not entered" if self._refresher is None else "closed"
        )
        held = self._state().held
        return f"<TokenManager {state}, token {'none' if held is None else held.token.fingerprint}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a TokenManager is not pickled: it belongs to one event loop")

    # Who calls, and from where.

    async def _obtain(self, ask: Ask) -> AccessToken:
        refresher = self._check_here()
        if ask.fallback and not self._has_fallback:
            raise RevosConfigurationError(
                "use_fallback needs a fallback: set REVOS_FALLBACK_AUTH_METHOD to another method "
                "than REVOS_AUTH_METHOD, or give it a token URL, client id or secret of its own "
                "(REVOS_FALLBACK_…), with a credential that fits the method"
            )
        return await refresher.obtain(ask)

    def _fresh_nowait(self) -> AccessToken | None:
        if self._refresher is None or self._is_forked():
            return None
        return self._refresher.fresh_nowait()

    async def _obtain_anywhere(self, ask: Ask) -> AccessToken:
        """As `_obtain`, from the task of any event loop: auth flows run where their client does."""
        if not self._is_open() or threading.get_ident() == self._thread_id:
            return await self._obtain(ask)
        try:
            return await self._portal.call_async(self._obtain, ask)
        except (RuntimeError, CancelledError) as error:
            self._raise_if_closed(error)
            raise

    def _call_from_thread(self, call: Callable[[], Awaitable[T]]) -> T:
        """Run `call` in the manager's event loop and wait for it, from a thread without a loop.

        :raises RevosClosedError: outside the block
        :raises RevosTokenError: in the thread of that event loop, which would wait for itself
        """
        if not self._is_open():
            raise self._closed_error()
        if threading.get_ident() == self._thread_id:
            raise RevosTokenError(
                "this call waits, and in the thread of the event loop it would wait for itself: "
                "use the async form, or run it in a worker thread (anyio.to_thread.run_sync)"
            )
        try:
            return self._portal.call(call)
        except (RuntimeError, CancelledError) as error:
            self._raise_if_closed(error)
            raise

    def _report(self, event: policy.Event) -> None:
        if not self._is_open() or self._refresher is None:
            raise self._closed_error()
        if threading.get_ident() == self._thread_id:
            self._refresher.report(event)
            return

        async def report(refresher: Refresher) -> None:
            refresher.report(event)

        self._call_from_thread(partial(report, self._refresher))

    def _check_here(self) -> Refresher:
        """The refresher, where this task may wait for it.

        :raises RevosClosedError: outside the block
        :raises RevosTokenError: in another event loop than the manager's
        """
        if not self._is_open() or self._refresher is None:
            raise self._closed_error()
        if current_token() != self._loop_token:
            raise RevosTokenError(
                "this TokenManager belongs to another event loop: enter one in each loop; from a "
                "thread use get_token_nowait() or revos.blocking"
            )
        return self._refresher

    def _raise_if_closed(self, error: Exception) -> None:
        """The portal of a manager that is left is not running, or has cancelled the call."""
        if not self._is_open() or isinstance(error, CancelledError):
            raise self._closed_error() from None

    def _closed_error(self) -> RevosClosedError:
        if self._refresher is None:
            return RevosClosedError(
                "this TokenManager is not entered yet: use it inside `async with`"
            )
        if self._is_forked():
            return RevosClosedError(
                "this TokenManager was entered before a fork, and its event loop stayed in the "
                "parent: enter one in the child"
            )
        return RevosClosedError("this TokenManager is closed: its block was left")


def newer_than(superseding: AccessToken | str | None, *, use_fallback: bool) -> Ask:
    """What `refresh` asks for; like `Invalidate`, it may stand in a frame as it is."""
    value = superseding.value if isinstance(superseding, AccessToken) else superseding
    return Ask(force=superseding is None, superseding=value, fallback=use_fallback)


def invalidation_of(token: AccessToken | str | None) -> policy.Invalidate:
    return policy.Invalidate(token.value if isinstance(token, AccessToken) else token)


def _rules_of(config: Config, ways: Mapping[Way, object]) -> Rules:
    gateway, token = config.revos, config.token
    falls_back = token.enable_fallback and Way.FALLBACK in ways
    return Rules(
        refresh_interval=token.refresh_interval_minutes * 60,
        buffer=gateway.token_buffer_minutes * 60,
        max_attempts=gateway.max_retries,
        request_timeout=gateway.request_timeout,
        periodic=token.enable_periodic_refresh,
        fallback_after=token.max_failures_before_fallback if falls_back else None,
    )
