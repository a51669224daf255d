"""How fast one extractor asks: its room, and the pauses that its requests share.

A gateway that is busy (429), down, or for which there is no token, is so for all documents alike.
Then all wait together, and the first to ask again is one; each success lets one more follow. Who
asks for a single one waits for nobody else's luck: only as long as the gateway itself has told.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from attrs import define, field

from revos import policy
from revos.clock import Clock

__all__ = ["Pace"]

LONGEST_WAIT = policy.LONGEST_RETRY_AFTER_IN_CYCLE


@define(eq=False)
class Pace:
    """:ivar successes: answers of the gateway so far, by which a request sees whether others get on
    while it does not
    """

    max_concurrency: int
    clock: Clock
    successes: int = field(default=0, init=False)
    # Of all requests; and of those of many documents, of which fewer ask after a pause.
    _room: anyio.CapacityLimiter = field(init=False)
    _turns: anyio.CapacityLimiter = field(init=False)
    _resume_at: float = field(default=0.0, init=False)
    _told_until: float = field(default=0.0, init=False)
    _holds: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._room = anyio.CapacityLimiter(self.max_concurrency)
        self._turns = anyio.CapacityLimiter(self.max_concurrency)

    @asynccontextmanager
    async def turn(self, *, patient: bool) -> AsyncIterator[None]:
        """Room for one request, when no pause is on; whoever waited longest is the first.

        :param patient: one of many documents
        """
        request = object()  # Not the task: what runs in it may ask, too.
        if patient:
            await self._turn_of_many(request)
        try:
            # A longer one is told again, by the gateway.
            while not patient and 0 < (told := self._told_for()) <= LONGEST_WAIT:
                await self.clock.sleep(told)
            await self._room.acquire_on_behalf_of(request)
            try:
                yield
            finally:
                self._room.release_on_behalf_of(request)
        finally:
            if patient:
                self._turns.release_on_behalf_of(request)

    def _told_for(self) -> float:
        return self._told_until - self.clock.monotonic()

    async def _turn_of_many(self, request: object) -> None:
        while True:
            await self._turns.acquire_on_behalf_of(request)
            try:
                # The others keep their places meanwhile, and who has failed is behind them.
                while (seconds := self._resume_at - self.clock.monotonic()) > 0:
                    await self.clock.sleep(seconds)
            except BaseException:
                self._turns.release_on_behalf_of(request)
                raise
            if self._turns.available_tokens >= 0:
                return
            self._turns.release_on_behalf_of(request)  # It was let in before the pause.

    def succeeded(self) -> None:
        """The gateway has answered: it is there for one more.

        In a pause that was no answer to what came after it, but to a request of before.
        """
        self.successes += 1
        if self.clock.monotonic() < self._resume_at:
            return
        self._holds = 0
        if self._turns.total_tokens < self.max_concurrency:
            self._turns.total_tokens += 1

    @property
    def is_at_longest(self) -> bool:
        """Whether the pauses without a success between them have grown to their longest."""
        return policy.FIRST_PAUSE * 2.0 ** (self._holds - 1) >= policy.LONGEST_PAUSE

    def hold(self, seconds: float | None, random: float) -> float:
        """Let none of many ask for a while: as long as the gateway told, and then nobody, or longer
        each time.

        Requests that were on their way together fail together: while a pause is on, one that the
        gateway did not ask for does not prolong it.

        :return: seconds that it lasts
        """
        now = self.clock.monotonic()
        if seconds is None and now < self._resume_at:
            return self._resume_at - now
        if now >= self._resume_at:
            self._holds += 1
        if seconds is None:
            seconds = policy.pause(self._holds, random)
        else:
            self._told_until = max(self._told_until, now + seconds)
        self._resume_at = max(self._resume_at, now + seconds)
        self._turns.total_tokens = 1
        return seconds
