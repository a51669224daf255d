"""Response bodies of the shared HTTP client. Imports that client, so it is imported late."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import httpx2

__all__ = ["Body"]


class Body(httpx2.AsyncByteStream):
    """A body that ends as a whole where its reader stops early, as at an error in a stream.

    The client reads through generators within generators, which it would leave to the garbage
    collector; that closes them in a task of nobody's, and under Trio, where it may run in the
    thread of the other loop, with an error on the terminal.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._chunks: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._chunks = aiter(self._stream)
        return self

    async def __anext__(self) -> bytes:
        assert self._chunks is not None  # noqa: S101 - `__aiter__` gives this
        return await anext(self._chunks)

    async def aclose(self) -> None:
        await self._stream.aclose()
        if self._chunks is not None:
            # Their connection is closed: the next step ends them, from the innermost on.
            with suppress(Exception):
                async for _ in self._chunks:
                    pass

    @property
    def elapsed(self) -> timedelta | None:
        elapsed: timedelta | None = self._stream.elapsed
        return elapsed
