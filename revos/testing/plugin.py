"""pytest fixtures: a running gateway for each test.

Every run of pytest loads this module in an environment where revos is installed, so it imports
nothing but pytest; the rest loads when a fixture is used.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from revos.testing.gateway import Gateway

__all__ = ["revos_gateway", "revos_gateway_sync"]


@pytest.fixture
async def revos_gateway(
    anyio_backend: object,  # noqa: ARG001 - so that AnyIO runs this fixture
    request: pytest.FixtureRequest,
) -> AsyncIterator[Gateway]:
    """A gateway on a loopback port, in the event loop of the test; for tests that AnyIO runs.

    A test that AnyIO does not run (a plain function, pytest-asyncio, pytest-trio) takes
    `revos_gateway_sync`: nothing would turn this one's loop while it runs.
    """
    from revos.testing.server import serve_gateway

    test = request.function
    if not inspect.iscoroutinefunction(test) and not hasattr(test, "hypothesis"):
        pytest.fail(f"{test.__name__} is not async: it takes revos_gateway_sync", pytrace=False)
    async with serve_gateway() as gateway:
        yield gateway


@pytest.fixture
def revos_gateway_sync() -> Iterator[Gateway]:
    """A gateway on a loopback port, in a thread of its own; for any test."""
    from revos.testing.server import serve_gateway_in_thread

    with serve_gateway_in_thread() as gateway:
        yield gateway
