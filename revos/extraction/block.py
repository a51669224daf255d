"""A block with a task of its own, whose results are taken inside."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from revos.errors import RevosClosedError
from revos.leaving import leave

__all__ = ["Block"]

T = TypeVar("T")


class Block(ABC, Generic[T]):
    """An async context manager, to be entered once; leaving it cancels its task.

    What the body raises leaves it bare, and so does what its task did not expect. A result stays
    here until it is taken, so that no cancellation of a taker can lose one.

    :param what: how users call it
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._tasks: TaskGroup | None = None
        self._crash: BaseException | None = None
        self._given: deque[T] = deque()
        self._changed = anyio.Event()
        self._was_entered = self._was_left = self._has_ended = self._is_whole = False

    @abstractmethod
    async def _prepare(self) -> Callable[[], Awaitable[None]]:
        """Check what can be checked before anything is sent; the work that then runs."""

    async def __aenter__(self) -> Self:
        if self._was_entered:
            raise RevosClosedError(f"this block of {self._what} was entered before: make another")
        self._was_entered = True
        work = await self._prepare()
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._supervise, work)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        tasks = self._entered()
        tasks.cancel_scope.cancel()
        self._was_left = True
        self._wake()
        await leave(tasks, exc)
        if self._crash is not None:
            raise self._crash

    async def _supervise(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
            self._is_whole = True
        except BaseExceptionGroup as errors:
            unexpected = errors.split(anyio.get_cancelled_exc_class())[1]
            if unexpected is None:
                raise
            self._crash = _first_of(unexpected)
        # Trio raises the KeyboardInterrupt of a signal in any task.
        except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001
            self._crash = error
        finally:
            self._has_ended = True
            self._wake()

    def _give(self, result: T) -> None:
        self._given.append(result)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def _take(self) -> T | None:
        """The next result, or None where there are no more.

        :raises RevosClosedError: it is not entered yet, was left, or was cancelled before its end
        """
        self._entered()
        await checkpoint()
        while not self._was_left:
            if self._given:
                return self._given.popleft()
            if self._has_ended:
                if not self._is_whole and anyio.current_effective_deadline() == -math.inf:
                    await checkpoint()  # What has cancelled the work has cancelled the taker, too.
                self._check_whole()
                return None
            await self._changed.wait()
        raise RevosClosedError(f"this block of {self._what} was left")

    def _check_whole(self) -> None:
        if self._crash is not None:
            raise self._crash
        if not self._is_whole:
            raise RevosClosedError(f"this {self._what} was cancelled before its end")

    def _entered(self) -> TaskGroup:
        if self._tasks is None:
            raise RevosClosedError(f"{self._what} is not entered yet: use it in `async with`")
        return self._tasks


def _first_of(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
