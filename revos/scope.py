"""The managers that are open around a piece of code: the one ContextVar of the library.

It holds an immutable stack, so entering in one task never shows in another that was not started
inside. Managers that are closed are passed over, not popped: blocks may end in any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from revos.manager import TokenManager

__all__ = ["innermost", "push", "remove", "using"]

_managers: ContextVar[tuple[TokenManager, ...]] = ContextVar("revos_managers", default=())


def push(manager: TokenManager) -> None:
    _managers.set((*_managers.get(), manager))


def remove(manager: TokenManager) -> None:
    _managers.set(tuple(other for other in _managers.get() if other is not manager))


@contextmanager
def using(manager: TokenManager) -> Iterator[None]:
    """Inside, `manager` is the innermost."""
    before = _managers.get()
    _managers.set((*before, manager))
    try:
        yield
    finally:
        _managers.set(before)


def innermost() -> TokenManager | None:
    """The innermost manager of this context that is still open, or that a fork has copied while it
    was: it says so, where none would be another error.
    """
    for manager in reversed(_managers.get()):
        if manager._open:
            return manager
    return None
