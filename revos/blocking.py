"""The same API for code without an event loop: `with` in place of `async with`, and no `await`.

A manager here runs the asynchronous one in an event loop in a thread of its own (AnyIO's blocking
portal). The functions work with any open manager, from any thread but that of its event loop.

>>> from revos.testing import serve_gateway_in_thread
>>> with serve_gateway_in_thread() as gateway, TokenManager(gateway.config()) as tm:
...     tm.get_token() == get_revos_token()
True
"""

from __future__ import annotations

import atexit
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import httpx
from anyio.from_thread import start_blocking_portal

from revos import ambient, manager, scope
from revos.ambient import open_manager
from revos.auth import BearerAuth
from revos.config import Config
from revos.errors import RevosClosedError
from revos.extraction import Extractors, LangChainExtractor, Strategy
from revos.status import Health, TokenStatus
from revos.token import AccessToken

if TYPE_CHECKING:
    from revos.extraction.answers import Extraction

__all__ = [
    "Extractor",
    "TokenManager",
    "get_consecutive_failures",
    "get_langchain_extractor",
    "get_revos_token",
    "get_token_info",
    "invalidate_revos_token",
    "list_remote_models",
    "reset_token_manager",
]

T = TypeVar("T")


class TokenManager:
    """`revos.TokenManager` as a context manager for threads; parameters and errors as there."""

    def __init__(
        self,
        config: Config | None = None,
        *,
        refresh_interval_minutes: float | None = None,
        settings_instance: Config | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        self._manager = manager.TokenManager(
            config,
            refresh_interval_minutes=refresh_interval_minutes,
            settings_instance=settings_instance,
            http_client=http_client,
        )
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal(name="revos-blocking"))
            stack.enter_context(portal.wrap_async_context_manager(self._manager))
            scope.push(self._manager)
            stack.callback(scope.remove, self._manager)
            # A script that never leaves would wait at its end for the portal's dead thread.
            atexit.register(self._leave)
            stack.callback(atexit.unregister, self._leave)
            self._stack = stack.pop_all()
        return self

    def _leave(self) -> None:
        if not self._manager._is_forked():
            self._stack.close()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    def start_background_service(self) -> None:
        """The same as entering the block."""
        self.__enter__()

    def stop_background_service(self) -> None:
        """The same as leaving the block."""
        self._leave()

    def is_background_service_running(self) -> bool:
        return self._manager.is_background_service_running()

    def get_token(self, *, force_refresh: bool = False, use_fallback: bool = False) -> str:
        return get_revos_token(force_refresh, use_fallback, manager=self)

    def get_token_nowait(self) -> str:
        return self._manager.get_token_nowait()

    def refresh(
        self, *, superseding: AccessToken | str | None = None, use_fallback: bool = False
    ) -> AccessToken:
        ask = manager.newer_than(superseding, use_fallback=use_fallback)
        del superseding  # What is raised from here takes this frame along.
        return _call(self._manager, partial(self._manager._obtain, ask))

    def refresh_extractor(self) -> bool:
        try:
            return _call(self._manager, self._manager.refresh_extractor)
        except RevosClosedError:
            return False

    def invalidate(self, token: AccessToken | str | None = None) -> None:
        event = manager.invalidation_of(token)
        del token
        self._manager._report(event)

    def reset(self) -> None:
        self._manager.reset()

    @contextmanager
    def extractor(
        self,
        model_name: str,
        *,
        strategy: Strategy = "auto",
        repairs: int = 1,
        max_concurrency: int = 16,
    ) -> Iterator[Extractor]:
        """An extractor whose `extract` needs no `await`."""
        inner = self._manager.extractor(
            model_name, strategy=strategy, repairs=repairs, max_concurrency=max_concurrency
        )
        # Not as a context manager of the portal: it would keep a task there until it is left.
        _call(self._manager, inner.__aenter__)
        try:
            yield Extractor(inner)
        finally:
            inner.close()

    @contextmanager
    def extractors(self, *names: str) -> Iterator[Extractors[Extractor]]:
        """As `revos.TokenManager.extractors`."""
        with ExitStack() as stack:
            wanted = names or self.config.models
            yield Extractors({name: stack.enter_context(self.extractor(name)) for name in wanted})

    def list_models(self) -> list[str]:
        return _call(self._manager, self._manager.list_models)

    @property
    def auth(self) -> BearerAuth:
        return self._manager.auth

    @property
    def config(self) -> Config:
        return self._manager.config

    @property
    def status(self) -> TokenStatus:
        return self._manager.status

    def health(self) -> Health:
        return self._manager.health()

    @property
    def consecutive_failures(self) -> int:
        return self._manager.consecutive_failures

    def __repr__(self) -> str:
        return f"<blocking {self._manager!r}>"


class Extractor:
    """A `LangChainExtractor` whose `extract` waits."""

    def __init__(self, inner: LangChainExtractor) -> None:
        self._inner = inner

    @property
    def model_name(self) -> str:
        return self._inner.model_name

    @overload
    def extract(self, target: type[T], prompt: Any, /, **variables: Any) -> T: ...

    @overload
    def extract(self, target: Any, prompt: Any, /, **variables: Any) -> Any: ...

    def extract(self, target: Any, prompt: Any, /, **variables: Any) -> Any:
        """As `LangChainExtractor.extract`."""
        return self.extract_result(target, prompt, **variables).value

    @overload
    def extract_result(
        self, target: type[T], prompt: Any, /, **variables: Any
    ) -> Extraction[T]: ...

    @overload
    def extract_result(self, target: Any, prompt: Any, /, **variables: Any) -> Extraction[Any]: ...

    def extract_result(self, target: Any, prompt: Any, /, **variables: Any) -> Extraction[Any]:
        """As `LangChainExtractor.extract_result`."""
        return _call(
            self._inner._bound_manager(),
            partial(self._inner.extract_result, target, prompt, **variables),
        )


Managers = TokenManager | manager.TokenManager


def _asynchronous(given: Managers | None) -> manager.TokenManager | None:
    return given._manager if isinstance(given, TokenManager) else given


def _call(inner: manager.TokenManager, function: Callable[[], Awaitable[T]]) -> T:
    return inner._call_from_thread(function)


def get_revos_token(
    force_refresh: bool = False, use_fallback: bool = False, *, manager: Managers | None = None
) -> str:
    """As `revos.get_revos_token`, without `await`."""
    found = _asynchronous(manager) or scope.innermost()
    if found is None:
        with TokenManager() as own:
            return own.get_token(use_fallback=use_fallback)
    return _call(
        found, partial(found.get_token, force_refresh=force_refresh, use_fallback=use_fallback)
    )


def get_token_info(*, manager: Managers | None = None) -> dict[str, object]:
    """As `revos.get_token_info`."""
    return ambient.get_token_info(manager=_asynchronous(manager))


def get_consecutive_failures(*, manager: Managers | None = None) -> int:
    """As `revos.get_consecutive_failures`."""
    return ambient.get_consecutive_failures(manager=_asynchronous(manager))


def invalidate_revos_token(*, manager: Managers | None = None) -> None:
    """As `revos.invalidate_revos_token`."""
    ambient.invalidate_revos_token(manager=_asynchronous(manager))


def reset_token_manager(*, manager: Managers | None = None) -> None:
    """As `revos.reset_token_manager`."""
    ambient.reset_token_manager(manager=_asynchronous(manager))


def get_langchain_extractor(
    model_name: str, settings_instance: Config | None = None, *, manager: Managers | None = None
) -> Extractor:
    """As `revos.get_langchain_extractor`; its `extract` needs no `await`."""
    return Extractor(
        ambient.get_langchain_extractor(
            model_name, settings_instance, manager=_asynchronous(manager)
        )
    )


def list_remote_models(*, manager: Managers | None = None) -> list[str]:
    """As `revos.list_remote_models`, without `await`."""
    found = open_manager(_asynchronous(manager), "list_remote_models()")
    return _call(found, found.list_models)
