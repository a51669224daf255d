"""Cancels an operation at each of its checkpoints in turn, until it gets through.

A checkpoint is a yield to the event loop. An operation is driven by hand through its `send` and
`throw`, so each yield is seen, with the functions that wait there; at the nth one the operation is
cancelled, by its cancel scope or as asyncio does it. Nothing depends on time or on the backend.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from unittest import mock

import anyio
from anyio.lowlevel import checkpoint, current_token
from leftovers import is_idle_worker, tasks_of_loop

# Long enough for a thread on a busy machine; nothing waits so long where all is well.
PATIENCE = 5.0
# What takes longer is tried again.
QUICK = 0.1

Place = tuple[str, ...]

# The operation that a coroutine is part of, in whatever task and thread it runs.
_part_of: ContextVar[object] = ContextVar("_part_of", default=None)


def place_of(awaited: object) -> Place:
    """The functions that a suspended coroutine waits in, the innermost one last."""
    names = []
    while awaited is not None:
        code, following = _code_and_following(awaited)
        if code is not None:
            names.append(code.co_qualname)
        awaited = following
    return tuple(names)


def _code_and_following(awaited: object) -> tuple[Any, object]:
    for code, following in (
        ("cr_code", "cr_await"),
        ("gi_code", "gi_yieldfrom"),
        ("ag_code", "ag_await"),
    ):
        if hasattr(awaited, code):
            return getattr(awaited, code), getattr(awaited, following, None)
    # The awaitable that a method of an async generator gives hides it, as the one that
    # `__await__` of a coroutine gives hides that.
    if type(awaited).__name__ in ("async_generator_asend", "async_generator_athrow"):
        return None, next(
            (one for one in gc.get_referents(awaited) if hasattr(one, "ag_code")), None
        )
    if type(awaited).__name__ == "coroutine_wrapper":
        return None, next(
            (one for one in gc.get_referents(awaited) if hasattr(one, "cr_code")), None
        )
    return None, None


def is_in(place: Place, *names: str) -> bool:
    """Whether these functions wait there, in this order, with any others in between.

    A name is the last part of a qualified name or all of it.
    """
    rest = iter(place)
    return all(any(f".{one}".endswith(f".{name}") for one in rest) for name in names)


class _Driven:
    """An awaitable that drives a coroutine and tells of each suspension and each exception."""

    def __init__(
        self,
        coroutine: Awaitable[Any],
        suspended: Callable[[Place], None],
        thrown: Callable[[BaseException], None],
    ) -> None:
        self._coroutine = coroutine
        self._suspended = suspended
        self._thrown = thrown

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        resume, value = steps.send, None
        while True:
            try:
                waited_for = resume(value)
            except StopIteration as end:
                return end.value
            self._suspended(place_of(self._coroutine))
            try:
                resume, value = steps.send, (yield waited_for)
            except BaseException as error:  # noqa: BLE001 - it is thrown on
                self._thrown(error)
                resume, value = steps.throw, error
            else:
                # Trio sends what is to be raised.
                if isinstance(error := getattr(value, "error", None), BaseException):
                    self._thrown(error)


class Attempt:
    """One run of an operation, cancelled at the checkpoint with that number (from 1), or never.

    Awaiting `attempt(function, *args)` runs the operation in a scope of its own, or in a task of
    its own where it is cancelled as asyncio does it: once, or, by a stubborn one, at each later
    checkpoint of its unwinding again. Every checkpoint of the operation counts,
    unless `count_later` or `watching` say otherwise.

    :ivar places: where it was suspended, one for each checkpoint that counts
    :ivar cancelled_in: where the cancellation was raised, or None
    :ivar finished: whether the operation came to its end
    :ivar seconds: from the cancellation to the end; infinite where there was none
    """

    def __init__(
        self, cancel_at: int | None = None, *, native: bool = False, stubborn: bool = False
    ) -> None:
        self.cancel_at = cancel_at
        self.places: list[Place] = []
        self.cancelled_in: Place | None = None
        self.finished = False
        self.cancel_called = False
        self.seconds = math.inf
        self._cancelled_at = 0.0
        self._native = native or stubborn
        self._stubborn = stubborn
        self._counts = True
        self._watches_other = False
        self._watched_now = 0
        self._at: Place = ()
        self._cancel: Callable[[], object] | None = None
        self._answered = threading.Event()

    async def __call__(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        self._token, self._thread = current_token(), threading.get_ident()
        operate = self._in_own_task if self._native else self._in_own_scope
        await operate(function, *args)
        if self.cancel_called:
            self.seconds = time.perf_counter() - self._cancelled_at
        self._counts = False
        self._answered.set()
        assert self._watched_now == 0, "a part of the operation goes on without it"
        # What has been told of its cancellation did not go on.
        assert not (self.finished and self.cancelled_in is not None), self.cancelled_in
        assert self.finished or self.cancel_called

    async def _in_own_scope(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        with anyio.CancelScope() as scope:
            self._cancel = scope.cancel
            await self._operate(function, *args)
            # A cancellation that came too late for the operation is for whatever follows.
            await checkpoint()
        assert scope.cancelled_caught is self.cancel_called

    async def _in_own_task(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        task = asyncio.create_task(self._operate(function, *args))
        self._cancel = task.cancel
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        assert task.cancelled() is self.cancel_called

    async def _operate(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        reset = _part_of.set(self)
        try:
            await _Driven(function(*args), self._operation_suspended, self._operation_thrown)
        finally:
            _part_of.reset(reset)
        self.finished = True

    def count_later(self) -> None:
        """Count only what comes after `count_from_here`, which the operation calls."""
        self._counts = False

    def count_from_here(self) -> None:
        self._counts = True

    def watching(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The function, whose checkpoints count in place of those of the operation.

        It may run in another task, and in another event loop than the operation; only what the
        operation itself leads to is watched.
        """
        self._watches_other = True

        async def watched(*args: Any, **options: Any) -> Any:
            coroutine = function(*args, **options)
            if _part_of.get() is not self:
                return await coroutine
            self._watched_now += 1
            try:
                return await _Driven(coroutine, self._count, lambda _: None)
            finally:
                self._watched_now -= 1

        return watched

    def _operation_suspended(self, place: Place) -> None:
        self._at = place
        if self.cancel_called:
            self._answered.set()
            if self._stubborn and self._cancel is not None:
                self._cancel()
        if not self._watches_other:
            self._count(place)

    def _operation_thrown(self, error: BaseException) -> None:
        if self.cancel_called and isinstance(error, anyio.get_cancelled_exc_class()):
            self.cancelled_in = self.cancelled_in or self._at

    def _count(self, place: Place) -> None:
        if not self._counts or self.cancel_called:
            return
        self.places.append(place)
        if len(self.places) != self.cancel_at:
            return
        assert self._cancel is not None
        self.cancel_called = True
        self._cancelled_at = time.perf_counter()
        if threading.get_ident() == self._thread:
            self._cancel()
        else:
            # This loop stands still until the operation has been told, so that it is cancelled
            # here and no step later.
            token = self._token
            token.backend_class.run_sync_soon(self._cancel, (), token.native_token)
            assert self._answered.wait(PATIENCE)


class Sweep:
    """All runs of one operation: the plain one's checkpoints, and how each cancellation ended."""

    def __init__(self, plain: Attempt) -> None:
        self.places = plain.places
        self.attempts: list[Attempt] = []

    def count_in(self, *names: str) -> int:
        """How many checkpoints wait in these functions."""
        return sum(is_in(place, *names) for place in self.places)

    def raised_in(self, *names: str) -> int:
        """How many cancellations were raised in these functions, where nothing held them off."""
        return sum(is_in(one.cancelled_in or (), *names) for one in self.attempts)

    @property
    def too_late(self) -> list[Place]:
        """Where a cancellation let the operation come to its end."""
        return [attempt.places[-1] for attempt in self.attempts if attempt.finished]

    @property
    def slowest(self) -> float:
        """The most seconds that passed from a cancellation to the end of the operation."""
        return max(attempt.seconds for attempt in self.attempts)


class _NeverShuffled(random.Random):
    def shuffle(self, x: object) -> None:
        """Leave it as it is."""


@contextlib.contextmanager
def _fixed_schedule() -> Generator[None, None, None]:
    """Trio runs the tasks that can go on in random order; inside, the oldest one is always last."""
    if "trio" in sys.modules:
        with mock.patch.multiple(
            "trio._core._run", _ALLOW_DETERMINISTIC_SCHEDULING=True, _r=_NeverShuffled()
        ):
            yield
    else:
        yield


Present = tuple[set[int], set[threading.Thread]]
Trial = Callable[[Attempt], Awaitable[None]]


async def cancel_everywhere(trial: Trial, *, exact: bool = True, **how: bool) -> Sweep:
    """Run a trial plainly, then cancelled at each checkpoint in turn, until it gets through.

    A trial sets up what the operation needs, awaits `attempt(operation)` once, and asserts what
    must hold then, cancelled or not. No trial may leave a task, a thread or a descriptor behind.

    :param exact: each run visits the checkpoints of the plain one, up to where it is cancelled; not
        so where a kernel decides how many reads an answer takes
    :param how: as for `Attempt`
    """
    with _fixed_schedule():
        # The first one makes what is made once for a loop or a process.
        before = await _present()
        await trial(Attempt(**how))
        await _back_to(before, math.inf)
        descriptors, plain = open_descriptors(), Attempt(**how)
        await _leaving_nothing(before, descriptors, trial, plain)
        sweep = Sweep(plain)
        while True:
            number = len(sweep.attempts) + 1
            attempt = Attempt(number, **how)
            try:
                await _leaving_nothing(before, descriptors, trial, attempt)
                await _quickest_of_five(before, descriptors, trial, attempt, how)
            except BaseException as error:
                error.add_note(f"cancelled {number}th in {attempt.places[-1:]}, {how}")
                raise
            if not attempt.cancel_called:
                break
            sweep.attempts.append(attempt)
            assert not exact or attempt.places == plain.places[:number], attempt.places
    # Where a kernel has a say in it, the last run may have had fewer than the one before.
    assert not exact or len(sweep.attempts) == len(attempt.places)
    assert not exact or attempt.places == plain.places, attempt.places
    return sweep


async def _leaving_nothing(before: Present, descriptors: int, trial: Trial, one: Attempt) -> None:
    await trial(one)
    await _back_to(before, descriptors)


async def _quickest_of_five(
    before: Present, descriptors: int, trial: Trial, one: Attempt, how: dict[str, bool]
) -> None:
    """Another process that takes the processor only adds to the seconds."""
    tries = 1
    while one.cancel_called and one.seconds >= QUICK and tries < 5:
        again = Attempt(one.cancel_at, **how)
        await _leaving_nothing(before, descriptors, trial, again)
        one.seconds = min(one.seconds, again.seconds)
        tries += 1


def _left_behind(now: Present, before: Present) -> bool:
    """Whether there is anything new; what was on its way out before may be gone."""
    return any(new - old for new, old in zip(now, before, strict=True))


async def _back_to(before: Present, descriptors: float) -> None:
    left, open_now = await _present(), open_descriptors()
    with anyio.move_on_after(PATIENCE):
        # Sockets of the other side and threads are on their way out.
        while _left_behind(left, before) or open_now > descriptors:
            await anyio.sleep(0.001)
            left, open_now = await _present(), open_descriptors()
    assert not _left_behind(left, before), (left, before)
    assert open_now <= descriptors, open_now


async def _present() -> Present:
    tasks = await tasks_of_loop()
    return tasks, {one for one in threading.enumerate() if not is_idle_worker(one)}


def open_descriptors() -> int:
    """How many this process has."""
    here = Path("/proc/self/fd") if Path("/proc/self/fd").exists() else Path("/dev/fd")
    return len(os.listdir(here))  # noqa: PTH208 - closes its own, where `iterdir` may not have yet
