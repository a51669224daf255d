"""The soak runs, and finds what is planted: `nox -s soak` goes on for as long as one likes."""

import contextlib
import time
from collections import Counter
from random import Random

import anyio
import httpx
import pytest
import soak
from anyio.pytest_plugin import extract_backend_and_options

from revos import TokenManager
from revos.endpoint import TokenEndpoint
from revos.refresher import Refresher

SECONDS = 2.0


@pytest.fixture
def backend(anyio_backend):
    name, options = extract_backend_and_options(anyio_backend)
    return "uvloop" if options.get("use_uvloop") else name


def run(backend, capsys, seconds=SECONDS):
    code = soak.main([str(seconds / 60), "--seed", "1", "--backend", backend])
    return code, capsys.readouterr().out


def test_a_short_soak_breaks_nothing_and_tells_what_it_did(backend, capsys):
    code, told = run(backend, capsys)

    assert code == 0
    assert "seed 1: nothing broke" in told
    assert f"1  turns on {backend}" in told


async def leave_late(self, *exception, leave=TokenManager.__aexit__):
    await leave(self, *exception)
    await anyio.sleep(0.5)


async def send_twice(self, source, request, send=TokenEndpoint._send):
    async def again():
        with contextlib.suppress(httpx.HTTPError):
            await send(self, source, request)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(again)
        await again()
        tasks.cancel_scope.cancel()
    return await send(self, source, request)


async def fail_untyped(self, ask):
    raise ZeroDivisionError


PLANTED = {
    "left in": (TokenManager, "__aexit__", leave_late),
    "P1": (TokenEndpoint, "_send", send_twice),
    "ZeroDivisionError": (Refresher, "obtain", fail_untyped),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("named", PLANTED)
def test_a_soak_finds_what_is_broken_on_purpose(backend, capsys, monkeypatch, named):
    monkeypatch.setattr(*PLANTED[named])

    code, told = run(backend, capsys, seconds=50.0)

    assert code == 1
    assert named in told.splitlines()[-1]
    assert "seed 1" in told.splitlines()[-1]


def test_a_token_that_is_handed_out_too_late_is_found():
    run = soak.Run(1, Counter())
    tokens = soak.TokenServer(run, Random(1))
    tokens.issued["young"] = soak.Issued(1, lifetime=10, head_at=time.monotonic() - 8)
    tokens.issued["old"] = soak.Issued(2, lifetime=10, head_at=time.monotonic() - 9.5)

    run.check_token(tokens, "young")

    with pytest.raises(soak.Violation, match="P4: a token of 10 s"):
        run.check_token(tokens, "old")
    with pytest.raises(soak.Violation, match="not issued"):
        run.check_token(tokens, "nobody's")


# The faults are what their names say.

READ_ERRORS = {
    soak.reset_at_once: (httpx.ReadError, httpx.WriteError),
    soak.reset_in_mid_header: (httpx.ReadError,),
    soak.reset_in_mid_body: (httpx.ReadError,),
    soak.half_close_at_once: (httpx.RemoteProtocolError,),
    soak.half_close_in_mid_body: (httpx.RemoteProtocolError,),
    soak.drip_a_byte_a_second: (httpx.ReadTimeout,),
    soak.never_answer: (httpx.ReadTimeout,),
    soak.send_garbage: (httpx.RemoteProtocolError,),
}


class OneFault(soak.Server):
    """A server with one fault, that is always there."""

    FAULTY = 1.0
    SECONDS_THERE = (60, 60)

    def decide(self, request):
        return 200, {}, b"{}" * 50, lambda: None


@pytest.mark.parametrize("fault", soak.FAULTS, ids=lambda fault: fault.__name__)
async def test_a_fault_is_seen_by_a_client_as_what_it_is_called(fault, monkeypatch):
    monkeypatch.setattr(soak, "FAULTS", [fault])
    server, seen = OneFault(soak.Run(1, Counter()), Random(1)), None

    async with anyio.create_task_group() as tasks:
        await tasks.start(server.serve)
        async with httpx.AsyncClient(timeout=0.8) as http:
            with anyio.move_on_after(2.5) as in_time:
                try:
                    await http.get(server.url)
                except httpx.TransportError as error:
                    seen = type(error)
        tasks.cancel_scope.cancel()

    # A byte in every read window is nothing that a read timeout could end.
    assert in_time.cancelled_caught is (fault is soak.drip_a_byte_in_every_read_window)
    assert seen in READ_ERRORS.get(fault, [None])
