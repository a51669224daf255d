"""Many documents: at most so many at once, results as they end or in order, all of it in one block.

A document is pulled when there is room for it, and its room is free again when its result has been
taken: so an endless source is fine, and a slow consumer holds up no more than a few results.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sized,
)
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

from revos.clients import CLOSING_SECONDS
from revos.errors import RevosClosedError, RevosError, RevosInputError
from revos.extraction.answers import Extraction, Progress, Usage
from revos.extraction.asking import Asking, Bound
from revos.extraction.block import Block

if TYPE_CHECKING:
    from revos.extraction.prompts import Prompt
    from revos.extraction.targets import Target

__all__ = ["Documents", "Extractions"]

T = TypeVar("T")
Documents = Iterable[Mapping[str, object] | str] | AsyncIterable[Mapping[str, object] | str]

# In order, results that came early are kept: so many for each place, that a slow document does not
# leave the places empty.
AHEAD = 4


class Extractions(Block[Extraction[T]]):
    """What `extract_many` gives: an async context manager, and inside it an async iterator of
    `Extraction`, one for each document.

    :ivar usage: tokens of all documents so far
    """

    def __init__(
        self,
        bind: Callable[[], Awaitable[Bound]],
        target: Any,
        prompt: Any,
        documents: Documents,
        *,
        ordered: bool,
        max_concurrency: int,
    ) -> None:
        super().__init__("extract_many")
        _check(documents)
        self._bind, self._wanted, self._wanted_prompt = bind, target, prompt
        self._documents = documents
        self._ordered = ordered
        self.usage = Usage()
        self._done = self._failed = self._in_flight = 0
        self._places = anyio.Semaphore(max_concurrency)
        self._room = anyio.Semaphore(max_concurrency * (AHEAD if ordered else 1))
        self._early: dict[int, Extraction[T]] = {}
        self._next = 0
        self._ended_by: Exception | None = None
        self._began_at: float | None = None
        self._bound: Bound
        self._target: Target
        self._prompt: Prompt

    async def _prepare(self) -> Callable[[], Awaitable[None]]:
        self._bound = await self._bind()
        from revos.extraction.prompts import prompt_of

        self._prompt = prompt_of(self._wanted_prompt)
        self._target = self._bound.runtime.target_of(self._wanted)
        self._began_at = self._now()
        return self._pull_all

    def __aiter__(self) -> AsyncIterator[Extraction[T]]:
        return self

    async def __anext__(self) -> Extraction[T]:
        """The next result.

        :raises RevosClosedError: the manager was left, or this block
        :raises Exception: whatever the source of the documents raised, after the last result
        """
        result = await self._take()
        if result is not None:
            self._room.release()
            return result
        if self._ended_by is not None:
            raise self._ended_by
        raise StopAsyncIteration

    @property
    def progress(self) -> Progress:
        """How far it is; what waits to be taken is done."""
        total: int | None = None
        if isinstance(self._documents, Sized):
            with suppress(Exception):  # Some raise, where the class has a length and this one none.
                total = len(self._documents)
        seconds = 0.0 if self._began_at is None else self._now() - self._began_at
        return Progress(self._done, self._failed, self._in_flight, total, seconds)

    def _now(self) -> float:
        return self._bound.manager._clock.monotonic()

    async def _pull_all(self) -> None:
        """Start a task for each document, up to the end of the source and of all tasks."""
        try:
            # The source may have nothing to give for long.
            with self._bound.runtime.while_open():
                await self._pull_while_open()
        except RevosClosedError as error:
            self._ended_by = error

    async def _pull_while_open(self) -> None:
        async with anyio.create_task_group() as workers:
            # Around all that the source does: it may hold scopes from one pull to the next, and has
            # to be closed inside of them.
            with anyio.CancelScope() as around:
                source = _Source(self._documents)
                try:
                    await self._start_each(source, workers)
                except BaseException:
                    await source.aclose(around)
                    raise
                try:
                    await source.aclose(around)
                except Exception as error:  # noqa: BLE001 - the consumer gets it
                    self._ended_by = self._ended_by or error
            await checkpoint_if_cancelled()  # `around` may have taken more than its own.

    async def _start_each(self, source: _Source, workers: TaskGroup) -> None:
        index = 0
        while True:
            await self._room.acquire()
            await self._places.acquire()
            try:
                item = await source.pull()
            except StopAsyncIteration:
                return
            except Exception as error:  # noqa: BLE001 - the consumer gets it
                self._ended_by = error
                return
            self._in_flight += 1
            workers.start_soon(self._extract, index, item, workers)
            index += 1

    async def _extract(self, index: int, item: Any, workers: TaskGroup) -> None:
        asking = Asking(self._bound, self._target, patient=True)
        began_at, value, failure = self._now(), None, None
        try:
            messages = self._prompt.messages(self._prompt.variables_of(item))
            value = await asking.instance(messages)
        except RevosClosedError as error:
            # No document will have an answer any more.
            self._ended_by = error
            workers.cancel_scope.cancel()
            return
        except RevosError as error:
            failure = error
        finally:
            self._in_flight -= 1
            self._places.release()
        if failure is None:
            self._done += 1
        else:
            self._failed += 1
        result = asking.extraction(
            value, self._now() - began_at, error=failure, index=index, item=item
        )
        self.usage += result.usage
        if self._ordered:
            self._give_in_order(index, result)
        else:
            self._give(result)

    def _give_in_order(self, index: int, result: Extraction[T]) -> None:
        self._early[index] = result
        while self._next in self._early:
            self._give(self._early.pop(self._next))
            self._next += 1


def _check(documents: object) -> None:
    if isinstance(documents, str | bytes | Mapping):
        raise RevosInputError(
            f"the documents must be an iterable of dict or str, not one {type(documents).__name__}"
        )
    if not isinstance(documents, Iterable | AsyncIterable):
        raise RevosInputError(
            "the documents must be an iterable or async iterable of dict or str, not "
            f"{type(documents).__name__}"
        )


class _Source:
    """One document after the other, of either kind of iterable."""

    def __init__(self, documents: Documents) -> None:
        self._is_async = isinstance(documents, AsyncIterable)
        self._iterator: Any = (
            aiter(documents) if isinstance(documents, AsyncIterable) else iter(documents)
        )

    async def pull(self) -> Any:
        """:raises StopAsyncIteration: that was all"""
        if self._is_async:
            return await anext(self._iterator)
        for item in self._iterator:
            return item
        raise StopAsyncIteration

    async def aclose(self, around: anyio.CancelScope) -> None:
        """Close what can be closed, in no scope of its own; `around` then ends with it."""
        around.shield = True
        around.deadline = anyio.current_time() + CLOSING_SECONDS
        if isinstance(self._iterator, Generator):
            self._iterator.close()
        elif hasattr(self._iterator, "aclose"):
            await self._iterator.aclose()
