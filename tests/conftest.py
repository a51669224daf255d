"""Every asynchronous test runs on asyncio, on asyncio with uvloop and on Trio.

`--backend asyncio` (or `uvloop`, or `trio`; may be repeated) leaves the others out.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

import anyio
import pytest
from anyio.pytest_plugin import extract_backend_and_options
from checkpoints import cancel_everywhere
from leftovers import leaving_nothing
from support import HungDisk

BACKENDS = ("asyncio", "uvloop", "trio")


def _needs(module):
    return pytest.mark.skipif(find_spec(module) is None, reason=f"{module} is not installed")


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=_needs("uvloop")),
        pytest.param(("trio", {}), id="trio", marks=_needs("trio")),
    ]
)
def anyio_backend(request):
    return request.param


@pytest.fixture
def run(anyio_backend):
    """Runs a coroutine function in an event loop of its own, which is gone afterwards."""
    name, options = extract_backend_and_options(anyio_backend)
    return partial(anyio.run, backend=name, backend_options=options)


@pytest.fixture
def everywhere(anyio_backend):
    """Runs a trial once for each checkpoint of its operation, as `cancel_everywhere` says; on
    asyncio a second time by `task.cancel()`, and stubbornly where that is wanted.
    """
    name, options = extract_backend_and_options(anyio_backend)
    run = partial(anyio.run, backend=name, backend_options=options)

    def sweep(trial, *, exact=True, natively=True, stubbornly=False):
        with leaving_nothing():
            swept = run(partial(cancel_everywhere, trial, exact=exact))
            if natively and name == "asyncio":
                run(partial(cancel_everywhere, trial, exact=exact, native=True))
            if stubbornly and name == "asyncio":
                run(partial(cancel_everywhere, trial, exact=exact, stubborn=True))
        return swept

    return sweep


@pytest.fixture
def hung_disk(monkeypatch):
    """Secret files whose reading hangs, up to the end of the test where nobody releases it."""
    disk = HungDisk(monkeypatch)
    yield disk
    disk.release()


def pytest_addoption(parser):
    parser.addoption(
        "--backend",
        action="append",
        choices=BACKENDS,
        help="run asynchronous tests on this backend only; may be repeated",
    )


def pytest_collection_modifyitems(config, items):
    wanted = config.getoption("--backend") or BACKENDS
    elsewhere = [item for item in items if _backend_of(item) not in {None, *wanted}]
    if elsewhere:
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if item not in set(elsewhere)]


def _backend_of(item):
    """The backend that an item is parametrised with, or None for a test that needs no loop."""
    backend = getattr(item, "callspec", None) and item.callspec.params.get("anyio_backend")
    name, options = backend if isinstance(backend, tuple) else (backend, {})
    return "uvloop" if options.get("use_uvloop") else name
