"""The one clock of a manager: it tells both times and it sleeps.

All waiting goes through a `Clock`, so that a test can put in one that it turns by hand.
"""

from __future__ import annotations

import time
from typing import Protocol

import anyio

__all__ = ["SYSTEM_CLOCK", "Clock", "SystemClock"]


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds since some moment; never set back, may stand still while a machine sleeps."""

    def time(self) -> float:
        """Seconds since the epoch; may be set by hand."""

    async def sleep(self, seconds: float) -> None:
        """Wait that long on the monotonic clock."""

    def move_on_after(self, seconds: float) -> anyio.CancelScope:
        """A scope that is cancelled that much later on the monotonic clock."""


class SystemClock:
    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    def move_on_after(self, seconds: float) -> anyio.CancelScope:
        return anyio.move_on_after(seconds)


SYSTEM_CLOCK = SystemClock()
