"""A clock that jumps from timer to timer, so that a simulated month takes seconds."""

from __future__ import annotations

from collections.abc import Callable

from anyio.lowlevel import checkpoint
from support import ManualClock, settle

__all__ = ["EventClock"]


class EventClock(ManualClock):
    """A `ManualClock` that knows its next timer.

    :param patience: how often tasks may run after a turn before it is looked whether all of them
        wait; more where HTTP clients take part, since a look that comes too soon costs 0.1 s
    """

    def __init__(self, patience: int = 0) -> None:
        super().__init__()
        self.patience = patience

    @property
    def next_at(self) -> float | None:
        """When the next timer is due on the monotonic clock; None where none is set."""
        return min((at for at, _ in self._timers), default=None)

    async def turn_to(self, at: float) -> None:
        """Turn both clocks to this moment of the monotonic one, or leave them where it is over.

        Not by adding a difference, which can come to lie just before the timer.
        """
        if at > self.now_monotonic:
            self.now_time += at - self.now_monotonic
            self.now_monotonic = at
        for due_at, scope in self._timers:
            if due_at <= self.now_monotonic:
                scope.cancel()
        for _ in range(self.patience):
            await checkpoint()
        await settle()

    async def turn_to_next(self, limit: float) -> None:
        """Turn both clocks to the next timer, but not beyond the limit."""
        await self.turn_to(limit if self.next_at is None else min(self.next_at, limit))

    async def turn_until(self, done: Callable[[], bool], limit: float = 1e9) -> None:
        """Turn from timer to timer until `done()`.

        :raises TimeoutError: the limit came before
        """
        await settle()
        while not done():
            if self.now_monotonic >= limit:
                raise TimeoutError(f"not done at {limit}")
            await self.turn_to_next(limit)
