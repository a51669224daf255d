"""Where LangChain runs: one pool of connections for a manager, and an event loop for it under Trio.

A runtime is one task of the manager's task group, from the first extractor to the end of the block.
On asyncio its calls run where they are made. LangChain's coroutines know no other loop, so under
Trio they run in an asyncio loop in a thread that the runtime owns; calls cross by
`BlockingPortal.call_async`, which takes context variables and cancellation along and blocks
neither loop.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from revos.auth import BearerAuth
from revos.clients import CLOSING_SECONDS, HandshakeGuard, make_client
from revos.config import ModelConfig, match_key
from revos.errors import RevosClosedError, RevosError, own_copy
from revos.extraction.strategies import Step
from revos.threads import run_in_thread

if TYPE_CHECKING:
    import httpx2
    from langchain_openai import ChatOpenAI

    from revos.extraction.targets import Target
    from revos.manager import TokenManager

__all__ = ["Runtime"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# As the OpenAI client has them by default.
MAX_CONNECTIONS, MAX_KEEPALIVE = 1000, 100


class Runtime:
    """Opened by `run`, used through `call`, `llm_for` and `target_of`."""

    def __init__(self, manager: TokenManager) -> None:
        self.manager = manager
        self.remembered: dict[ModelConfig, Step] = {}
        self._ready = anyio.Event()
        self._failure: RevosError | None = None
        self._portal: BlockingPortal | None = None
        self._http: httpx2.AsyncClient | None = None
        self._sync_http: httpx2.Client | None = None
        self._auths: dict[str, BearerAuth] = {}
        self._llms: dict[ModelConfig, ChatOpenAI] = {}
        self._targets: dict[Any, Target] = {}

    async def run(self) -> None:
        """Open, and stay open until cancelled."""
        async with AsyncExitStack() as stack:
            try:
                await self._open(stack)
            except RevosError as error:
                self._failure = error
                return
            finally:
                self._ready.set()
            await anyio.sleep_forever()

    async def opened(self) -> None:
        """Wait until it is open.

        :raises RevosError: it could not be opened
        """
        await self._ready.wait()
        if self._failure is not None:
            raise own_copy(self._failure)

    async def _open(self, stack: AsyncExitStack) -> None:
        await run_in_thread(_import_langchain)
        if _is_under_trio():
            portal_manager = start_blocking_portal("asyncio", name="revos-langchain")
            self._portal = await run_in_thread(portal_manager.__enter__, abandon=False)
            stack.push_async_callback(_stop_portal, self._portal, portal_manager)
        gateway = self.manager.config.revos
        clients = await run_in_thread(
            _open_clients, gateway.base_url, gateway.ca_file, self.manager
        )
        self._http, self._sync_http = clients
        stack.push_async_callback(self._close_clients)

    async def _close_clients(self) -> None:
        assert self._http is not None  # noqa: S101 - pushed after it was set
        assert self._sync_http is not None  # noqa: S101
        with anyio.move_on_after(CLOSING_SECONDS, shield=True):
            self._sync_http.close()
            await self.call(self._http.aclose)

    async def call(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run an asyncio-only coroutine function where LangChain runs.

        :raises RevosClosedError: the manager is closed
        """
        if self._portal is None:
            return await function(*args)
        try:
            return await self._portal.call_async(function, *args)
        except (RuntimeError, CancelledError):
            if self.manager.is_background_service_running():
                raise
            raise RevosClosedError("this TokenManager is closed: its block was left") from None

    async def llm_for(self, name: str, config: ModelConfig) -> ChatOpenAI:
        """The chat model with these settings, built once."""
        llm = self._llms.get(config)
        if llm is None:
            made = await run_in_thread(self._make_llm, name, config)
            llm = self._llms.setdefault(config, made)
        return llm

    def _make_llm(self, name: str, config: ModelConfig) -> ChatOpenAI:
        from revos.extraction.chat import make_llm

        assert self._http is not None  # noqa: S101 - `opened` comes first
        assert self._sync_http is not None  # noqa: S101
        # All extractors of one model share what its refusals cost (P6).
        auth = self._auths.setdefault(match_key(name), BearerAuth(self.manager))
        return make_llm(
            config, self.manager.config.revos.base_url, auth, self._http, self._sync_http
        )

    def target_of(self, type_: Any) -> Target:
        """The target for a type; its schema is built once."""
        from revos.extraction.targets import target_of

        target = self._targets.get(type_)
        if target is None:
            target = self._targets[type_] = target_of(type_)
        return target

    async def model_ids(self) -> list[str]:
        from revos.extraction.chat import model_ids

        assert self._http is not None  # noqa: S101 - `opened` comes first
        return await self.call(model_ids, self._http, self.manager.config.revos.base_url)


def _is_under_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()


def _import_langchain() -> None:
    """Takes seconds, and holds the interpreter's lock for part of it."""
    import revos.extraction.chat
    import revos.extraction.prompts
    import revos.extraction.targets  # noqa: F401


def _open_clients(
    base_url: str, ca_file: str | None, manager: TokenManager
) -> tuple[httpx2.AsyncClient, httpx2.Client]:
    import httpx2

    limits = httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_KEEPALIVE)
    auth: Any = manager.auth
    hooks = {"request": [_guard_handshake]}
    return (
        make_client(
            httpx2.AsyncClient, [base_url], ca_file, limits=limits, auth=auth, event_hooks=hooks
        ),
        make_client(httpx2.Client, [base_url], ca_file, limits=limits, auth=auth),
    )


async def _guard_handshake(request: httpx2.Request) -> None:
    request.extensions["trace"] = HandshakeGuard()


async def _stop_portal(portal: BlockingPortal, portal_manager: Any) -> None:
    def stop() -> None:
        with suppress(RuntimeError):  # It is not running any more.
            portal.call(portal.stop, True)
        portal_manager.__exit__(None, None, None)

    # Joining the thread blocks; the calls in it are cancelled, so it does not take long.
    with anyio.CancelScope(shield=True):
        await run_in_thread(stop, abandon=False)
