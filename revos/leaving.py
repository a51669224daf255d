"""Leaving what a block has opened, so that what its body raised comes out as itself."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio

__all__ = ["leave"]


async def leave(
    opened: AbstractAsyncContextManager[Any, Any], raised_by_body: BaseException | None
) -> None:
    """Leave `opened`, which is not shown what the body raised: a task group would wrap it.

    Nor does a cancellation of what is around the block take its place: as with a task group, who
    has cancelled gets the exception.
    """
    try:
        await opened.__aexit__(None, None, None)
    except anyio.get_cancelled_exc_class():
        if raised_by_body is None:
            raise
