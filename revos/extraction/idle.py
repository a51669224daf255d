"""How it is found out that the gateway has closed a connection while it was idle.

For each request httpcore asks all idle connections of its pool whether they can be read from, and a
stream of AnyIO's looks up all that is known of its socket before the socket itself is asked. Where
requests and answers go from one thread to the other, as under Trio, half of the pool is idle at any
time, and that took an eighth of all the time.
"""

from __future__ import annotations

import select
from functools import partial
from typing import Any
from weakref import ref

from revos.clients import ConnectionGuard

__all__ = ["IdleGuard"]

# On Windows there is none, and httpcore asks in another way.
HAS_POLL = hasattr(select, "poll")


class IdleGuard(ConnectionGuard):
    """A `trace` extension of httpcore that has each new connection ask its socket, and no more."""

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        await super().__call__(event, info)
        if HAS_POLL and event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            stream = info["return_value"]
            sock = stream.get_extra_info("socket")
            if sock is not None:  # As streams in memory have none.
                stream.get_extra_info = partial(_extra_info, ref(stream), sock)


def _extra_info(stream: ref[Any], sock: Any, info: str) -> Any:
    if info == "is_readable":
        return _is_readable(sock)
    asked: Any = stream()
    return type(asked).get_extra_info(asked, info)


def _is_readable(sock: Any) -> bool:
    """As httpcore has it: of one that is closed it is told at the next use."""
    if sock.fileno() < 0:
        return True
    waiting = select.poll()
    waiting.register(sock, select.POLLIN)
    return bool(waiting.poll(0))
