"""Where LangChain runs: one pool of connections for a manager, and an event loop for it under Trio.

A runtime is one task of the manager's task group, from the first extractor to the end of the block.
On asyncio its calls run where they are made. LangChain's coroutines know no other loop, so under
Trio they run in an asyncio loop in a thread that the runtime owns; calls cross by
`BlockingPortal.call_async`, which takes context variables and cancellation along and blocks
neither loop.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple
from weakref import WeakKeyDictionary

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from attrs import frozen

from revos.auth import BearerAuth, token_of
from revos.clients import CLOSING_SECONDS, hide_answer, make_client
from revos.config import ModelConfig, match_key
from revos.errors import RevosClosedError, RevosError, own_copy
from revos.extraction.idle import IdleGuard
from revos.extraction.kept_targets import KeptTargets
from revos.extraction.strategies import Step
from revos.redact import without_token
from revos.threads import run_in_thread

if TYPE_CHECKING:
    import httpx2
    from langchain_openai import ChatOpenAI

    from revos.extraction.targets import Target
    from revos.manager import TokenManager

__all__ = ["Runtime"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

JOINING_SECONDS = 1.0
# As the OpenAI client has them by default.
MAX_CONNECTIONS, MAX_KEEPALIVE = 1000, 100


@frozen(eq=False)
class _Opened:
    """What is there from the end of opening on."""

    http: httpx2.AsyncClient
    sync_http: httpx2.Client
    portal: BlockingPortal | None


class Runtime:
    """Opened by `run`, waited for by `opened`, used by extractors inside `while_open`."""

    def __init__(self, manager: TokenManager) -> None:
        self.manager = manager
        self.remembered: dict[ModelConfig, Step] = {}
        self.remembered_of_schemas: WeakKeyDictionary[Target, dict[ModelConfig, Step]]
        self.remembered_of_schemas = WeakKeyDictionary()
        self._ready = anyio.Event()
        self._opened: _Opened | None = None
        self._failure: RevosError | None = None
        self._users: set[anyio.CancelScope] = set()
        self._auths: dict[str, BearerAuth] = {}
        self._llms: dict[ModelConfig, ChatOpenAI] = {}
        self.target_of = KeptTargets().target_of

    async def run(self) -> None:
        """Open, and stay open until cancelled."""
        async with AsyncExitStack() as stack:
            try:
                self._opened = await self._open(stack)
            except RevosError as error:
                self._failure = error
                return
            finally:
                self._ready.set()
            stack.callback(self._cancel_users)
            await anyio.sleep_forever()

    async def opened(self) -> None:
        """Wait until it is open.

        :raises RevosError: it could not be opened
        """
        await self._ready.wait()
        if self._failure is not None:
            raise own_copy(self._failure)

    async def _open(self, stack: AsyncExitStack) -> _Opened:
        await run_in_thread(_import_langchain)
        portal = None
        if _is_under_trio():
            portal_manager = start_blocking_portal("asyncio", name="revos-langchain")
            portal = await run_in_thread(portal_manager.__enter__, abandon=False)
            stack.push_async_callback(_stop_portal, portal_manager)
        gateway = self.manager.config.revos
        http, sync_http = await run_in_thread(
            _open_clients, gateway.base_url, gateway.ca_file, self.manager
        )
        stack.push_async_callback(_close_clients, http, sync_http, portal)
        return _Opened(http, sync_http, portal)

    def _cancel_users(self) -> None:
        self._opened = None
        for scope in self._users:
            scope.cancel()

    def _parts(self) -> _Opened:
        if self._opened is None:
            raise _closed_error()
        return self._opened

    @contextmanager
    def while_open(self) -> Iterator[None]:
        """Leaving the manager ends what runs inside, in whatever task.

        :raises RevosClosedError: that happened
        """
        self._parts()
        is_ended = False
        with anyio.CancelScope() as scope:
            self._users.add(scope)
            try:
                yield
            except Exception:
                # What a call met on its way out, as its connection being closed; AnyIO gives that
                # of a call in a portal in place of the cancellation.
                if not scope.cancel_called:
                    raise
                is_ended = True
            finally:
                self._users.discard(scope)
        if is_ended or scope.cancelled_caught:
            raise _closed_error() from None

    async def call(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run an asyncio-only coroutine function where LangChain runs."""
        return await _call(self._parts().portal, function, *args)

    def callable_from_asyncio(
        self, function: Callable[[*Ts], Awaitable[T]]
    ) -> Callable[..., Awaitable[T]]:
        """For what `call` runs: calls a coroutine function in the manager's own loop."""
        if self._parts().portal is None:
            return function
        return partial(self.manager._portal.call_async, function)

    async def llm_for(self, name: str, config: ModelConfig) -> ChatOpenAI:
        """The chat model with these settings, built once."""
        llm = self._llms.get(config)
        if llm is None:
            made = await run_in_thread(self._make_llm, name, config)
            llm = self._llms.setdefault(config, made)
        return llm

    def _make_llm(self, name: str, config: ModelConfig) -> ChatOpenAI:
        from revos.extraction.chat import make_llm

        parts = self._parts()
        # All extractors of one model share what its refusals cost (P6).
        auth = self._auths.setdefault(match_key(name), BearerAuth(self.manager))
        base_url = self.manager.config.revos.base_url
        return make_llm(config, base_url, auth, parts.http, parts.sync_http)

    async def model_ids(self) -> list[str]:
        """The ids that the gateway accepts."""
        from revos.extraction.chat import model_ids

        with self.while_open():
            return await self.call(
                model_ids, self._parts().http, self.manager.config.revos.base_url
            )


def _closed_error() -> RevosClosedError:
    return RevosClosedError("this TokenManager is closed: its block was left")


async def _call(
    portal: BlockingPortal | None, function: Callable[[*Ts], Awaitable[T]], *args: *Ts
) -> T:
    if portal is None:
        return await function(*args)
    return await portal.call_async(function, *args)


async def _close_clients(
    http: httpx2.AsyncClient, sync_http: httpx2.Client, portal: BlockingPortal | None
) -> None:
    with anyio.move_on_after(CLOSING_SECONDS, shield=True):
        await _call(portal, http.aclose)
        await run_in_thread(sync_http.close)


def _is_under_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()


def _import_langchain() -> None:
    """Takes seconds, and holds the interpreter's lock for part of it."""
    import revos.extraction.asking
    import revos.extraction.bodies
    import revos.extraction.chat
    import revos.extraction.many
    import revos.extraction.prompts
    import revos.extraction.repairs
    import revos.extraction.streaming
    import revos.extraction.targets  # noqa: F401


def _open_clients(
    base_url: str, ca_file: str | None, manager: TokenManager
) -> tuple[httpx2.AsyncClient, httpx2.Client]:
    import httpx2

    limits = httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_KEEPALIVE)
    auth: Any = manager.auth
    shared: dict[str, Any] = {"limits": limits, "auth": auth}
    hooks = {"request": [_guard], "response": [_hide_token, _end_as_a_whole]}
    sync_hooks = {"request": [_guard_sync], "response": [_hide_token_sync]}
    return (
        make_client(httpx2.AsyncClient, [base_url], ca_file, event_hooks=hooks, **shared),
        make_client(httpx2.Client, [base_url], ca_file, event_hooks=sync_hooks, **shared),
    )


async def _guard(request: httpx2.Request) -> None:
    request.extensions["trace"] = IdleGuard()


def _guard_sync(request: httpx2.Request) -> None:
    request.extensions["trace"] = hide_answer


async def _end_as_a_whole(response: httpx2.Response) -> None:
    from revos.extraction.bodies import Body

    response.stream = Body(response.stream)


async def _hide_token(response: httpx2.Response) -> None:
    _hide_token_sync(response)


def _hide_token_sync(response: httpx2.Response) -> None:
    """The OpenAI client logs at DEBUG what an answer has in its headers."""
    headers, token = response.headers, token_of(response.request)
    hidden = [(key, without_token(value, token)) for key, value in headers.multi_items()]
    response.headers = type(headers)(hidden, encoding=headers.encoding)


async def _stop_portal(portal_manager: Any) -> None:
    # Joining the thread blocks. The calls in it are cancelled, so that takes no time, unless one
    # does not heed its cancellation.
    with anyio.move_on_after(JOINING_SECONDS, shield=True):
        await run_in_thread(portal_manager.__exit__, None, None, None)
