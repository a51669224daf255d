"""A block with a task of its own, whose results are taken inside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from revos.errors import RevosClosedError

__all__ = ["Block"]

T = TypeVar("T")


class Block(ABC, Generic[T]):
    """An async context manager, to be entered once; leaving it cancels its task.

    What the body raises leaves it bare, and so does what its task did not expect.

    :param what: how users call it
    :param most: how many results may wait to be taken
    """

    def __init__(self, what: str, most: float) -> None:
        self._what = what
        self._most = most
        self._tasks: TaskGroup | None = None
        self._crash: BaseException | None = None
        self._given: MemoryObjectSendStream[T]
        self._taken: MemoryObjectReceiveStream[T]

    @abstractmethod
    async def _prepare(self) -> Callable[[], Awaitable[None]]:
        """Check what can be checked before anything is sent; the work that then runs."""

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RevosClosedError(f"this block of {self._what} was entered before: make another")
        work = await self._prepare()
        self._given, self._taken = anyio.create_memory_object_stream[T](self._most)
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
        # The body's exception is not shown to the task group: it leaves the block as itself.
        try:
            await tasks.__aexit__(None, None, None)
        finally:
            # Not before: what ends at this moment gives its result without waiting, and so
            # without being cancelled.
            self._taken.close()
        if self._crash is not None:
            raise self._crash

    async def _supervise(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        # Trio raises the KeyboardInterrupt of a signal in any task.
        except (Exception, KeyboardInterrupt, SystemExit, BaseExceptionGroup) as error:  # noqa: BLE001
            self._crash = error
            while isinstance(self._crash, BaseExceptionGroup):
                self._crash = self._crash.exceptions[0]
        finally:
            self._given.close()

    async def _take(self) -> T:
        """The next result.

        :raises anyio.EndOfStream: there are no more
        :raises RevosClosedError: it is not entered yet, or was left
        """
        self._entered()
        try:
            return await self._taken.receive()
        except anyio.EndOfStream:
            if self._crash is not None:
                raise self._crash from self._crash.__cause__
            raise
        except anyio.ClosedResourceError:
            raise RevosClosedError(f"this block of {self._what} was left") from None

    def _entered(self) -> TaskGroup:
        if self._tasks is None:
            raise RevosClosedError(f"{self._what} is not entered yet: use it in `async with`")
        return self._tasks
