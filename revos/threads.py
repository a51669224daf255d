"""Threads for what would block the event loop, apart from those that users' code may use up.

Forty requests of a synchronous client can hold all of AnyIO's shared worker threads while they wait
for a token; were the token request to need one of those, both would wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import anyio
from anyio import to_thread

__all__ = ["run_in_thread"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def run_in_thread(
    function: Callable[[*Ts], T],
    *args: *Ts,
    abandon: bool = True,
) -> T:
    """What the function returns; it runs in a thread of AnyIO's, outside the shared limit.

    :param abandon: leave the thread to itself on cancellation, in place of waiting for it
    :raises OSError: the system gives no thread, which Python tells by a RuntimeError; as others
        that it runs out of, it may have some later
    """
    begun = False

    def run() -> T:
        nonlocal begun
        begun = True
        return function(*args)

    try:
        return await to_thread.run_sync(
            run, abandon_on_cancel=abandon, limiter=anyio.CapacityLimiter(1)
        )
    except RuntimeError as error:
        if begun:
            raise
        raise OSError(str(error)) from None
