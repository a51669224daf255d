"""A gateway to test against: a token endpoint and an OpenAI-compatible API, scriptable, in process.

Importing this package imports nothing else: the names load when they are first used, since the
pytest plugin lives here and is loaded by every run of pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from revos.testing.asgi import Answer, Request
    from revos.testing.gateway import Gateway
    from revos.testing.model import fill
    from revos.testing.server import (
        Server,
        serve,
        serve_gateway,
        serve_gateway_in_thread,
        serve_in_thread,
    )
    from revos.testing.tally import ChatRecord, TokenRecord

__all__ = [
    "Answer",
    "ChatRecord",
    "Gateway",
    "Request",
    "Server",
    "TokenRecord",
    "fill",
    "serve",
    "serve_gateway",
    "serve_gateway_in_thread",
    "serve_in_thread",
]

_HOMES = {
    "Answer": "asgi",
    "ChatRecord": "tally",
    "Gateway": "gateway",
    "Request": "asgi",
    "TokenRecord": "tally",
    "fill": "model",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'server')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
