"""A broadcast of the latest value (P5).

The sender keeps one value. A subscriber keeps the one that it has given last, so it gets the
current value at once, each newer one in order, and skips what it was too slow for. One event wakes
all that wait; a subscriber that only reads `latest` costs the sender nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import anyio
from anyio.abc import ObjectReceiveStream
from anyio.lowlevel import checkpoint

from revos.token import AccessToken

__all__ = ["Broadcast", "LatestStream", "TokenStream"]

T = TypeVar("T")


class Broadcast(Generic[T]):
    """The sender's side: the value, and who waits for the next. Each one is an object of its own.

    :param is_good: whether the value may still be handed out; one that has gone bad counts as none
    """

    __slots__ = ("_changed", "_closed", "_is_good", "_value")

    def __init__(self, is_good: Callable[[], bool] = lambda: True) -> None:
        self._is_good = is_good
        self._value: T | None = None
        self._closed = False
        self._changed: anyio.Event | None = None

    @property
    def latest(self) -> T | None:
        """The current value, or None where there is none."""
        return self._value if self._value is not None and self._is_good() else None

    def publish(self, value: T) -> None:
        self._value = value
        self._wake()

    def close(self) -> None:
        """End every stream."""
        self._value = None
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    async def _wait(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()


class LatestStream(ObjectReceiveStream[T]):
    """A subscriber's side of a `Broadcast`."""

    __slots__ = ("_broadcast", "_closed", "_seen")

    def __init__(self, broadcast: Broadcast[T]) -> None:
        self._broadcast = broadcast
        self._seen: T | None = None
        self._closed = False

    @property
    def latest(self) -> T | None:
        """The current value, seen before or not; None where there is none."""
        return self._broadcast.latest

    def receive_nowait(self) -> T:
        """The newest value that this stream has not given yet.

        :raises ~anyio.WouldBlock: there is none
        :raises ~anyio.EndOfStream: and there never will be
        :raises ~anyio.ClosedResourceError: this stream is closed
        """
        if self._closed:
            raise anyio.ClosedResourceError
        source = self._broadcast
        if source._closed:
            raise anyio.EndOfStream
        value = source.latest
        if value is None or value is self._seen:
            raise anyio.WouldBlock
        self._seen = value
        return value

    async def receive(self) -> T:
        """As `receive_nowait`, but waits for the next value where there is none.

        Cancelling loses nothing: a value counts as seen only when it is returned.
        """
        await checkpoint()
        while True:
            try:
                return self.receive_nowait()
            except anyio.WouldBlock:
                await self._broadcast._wait()

    def close(self) -> None:
        """Who waits in `receive` on this stream gets `ClosedResourceError`."""
        self._closed = True
        self._broadcast._wake()

    async def aclose(self) -> None:
        self.close()
        await checkpoint()


class TokenStream(LatestStream[AccessToken]):
    """Each new token of a manager: `async for token in stream`, or `stream.latest`."""

    __slots__ = ()
