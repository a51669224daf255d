"""A whole token request has one deadline, from the reading of its secret to the end of its answer:
nothing that an endpoint does now and then prolongs it, and nobody who waits has another one.
"""

import contextlib
import math
import time

import anyio
import pytest
from sockets import (
    GONE,
    RawEndpoint,
    full_backlog,
    http_answer,
    raw_server,
    then_for_ever,
    then_nothing,
    token_body,
)
from support import ManualClock, config, manager_at, no_thread_is_waited_for

from revos import RevosAuthenticationError, TokenManager

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
# Of a record of 16 KB of the TLS handshake.
HINTS = b"HTTP/1.1 103 Hints\r\n\r\n"
TLS_RECORD = b"\x16\x03\x03\x40\x00"


def after_a_first_byte(send):
    """A handler that speaks no HTTP, for a raw server."""

    async def serve(stream):
        with contextlib.suppress(*GONE):
            async with stream:
                await stream.receive()
                await send(stream)

    return serve


def script(answer):
    """What makes an endpoint that answers so."""
    return lambda: RawEndpoint([answer] * 10)


def then_after_its_hello(answer, send):
    """Bytes, and what a tunnel brings once the client has begun its TLS handshake."""

    async def serve(stream):
        await stream.send(answer)
        await stream.receive()
        await send(stream)

    return serve


DRIP = 0.005
# Nothing waits so long where all is well.
PATIENCE = 10
TUNNEL = b"HTTP/1.1 200 Connection established\r\n\r\n"
DRIPPING_TLS = then_for_ever(TLS_RECORD, b"\x02", DRIP)
SLOW = {
    "no answer": ("http", script(then_nothing)),
    "a dripping status line": ("http", script(then_for_ever(b"HTTP/1.1 200 ", b"x", DRIP))),
    "a dripping header": ("http", script(then_for_ever(OK + b"X: ", b"x", DRIP))),
    "dripping headers": ("http", script(then_for_ever(OK, b"X: y\r\n", DRIP))),
    "a dripping body": ("http", script(then_for_ever(OK + b"\r\n", b" ", DRIP))),
    "dripping chunks": ("http", script(then_for_ever(OK + CHUNKED, b"1\r\nx\r\n", DRIP))),
    "a dripping chunk size": ("http", script(then_for_ever(OK + CHUNKED, b"0", DRIP))),
    "1xx now and then": ("http", script(then_for_ever(b"", HINTS, DRIP))),
    "1xx for ever": ("http", script(then_for_ever(b"", HINTS * 100))),
    "no TLS handshake": ("https", lambda: after_a_first_byte(then_nothing)),
    "a dripping TLS handshake": ("https", lambda: after_a_first_byte(DRIPPING_TLS)),
}
EVERY_SLOW_ONE = pytest.mark.parametrize(("scheme", "make_server"), SLOW.values(), ids=SLOW)
PROXIES = {
    "no answer": then_nothing,
    "a dripping status line": then_for_ever(b"HTTP/1.1 200 ", b"x", DRIP),
    "dripping headers": then_for_ever(OK, b"X: y\r\n", DRIP),
    "no TLS handshake behind it": then_after_its_hello(TUNNEL, then_nothing),
    "a dripping TLS handshake behind it": then_after_its_hello(TUNNEL, DRIPPING_TLS),
}


async def seconds_on_the_clock(tm, clock, is_on_its_way=None):
    """How long one request lasts that only its deadline ends, and the error.

    :param is_on_its_way: whether it is where the deadline is to end it; where None, once it is
        built, which a thread does
    """
    errors, began_at = [], clock.monotonic()

    async def ask():
        try:
            await tm.get_token()
        except RevosAuthenticationError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        with anyio.fail_after(PATIENCE):
            while not clock.timers_waiting:
                await anyio.sleep(0.001)
            while not (is_on_its_way or no_thread_is_waited_for)():
                await anyio.sleep(0.001)
        # The last step is the one behind the deadline.
        for seconds in (0, 10, 10, 9.9, 0.2):
            await anyio.sleep(0.012)
            assert errors == []
            clock.turn(seconds)
        with anyio.fail_after(PATIENCE):
            while not errors:
                await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()
    return clock.monotonic() - began_at, errors[0]


def assert_timed_out(seconds, error):
    assert seconds == pytest.approx(30.1)
    assert (error.attempts, error.status_code, error.temporary) == (1, None, True)
    assert "no answer in time (TimeoutError: no complete answer within 30 s)" in str(error)
    assert "check request_timeout, network and proxy" in str(error)
    assert type(error.__cause__) is TimeoutError


@EVERY_SLOW_ONE
async def test_no_endpoint_holds_a_request_past_its_deadline(scheme, make_server):
    clock = ManualClock()

    async with raw_server(make_server()) as port:
        url = f"{scheme}://127.0.0.1:{port}/token"
        async with manager_at(url, clock, max_retries=1) as tm:
            seconds, error = await seconds_on_the_clock(tm, clock)

    assert_timed_out(seconds, error)


async def test_connecting_counts():
    clock = ManualClock()

    with full_backlog() as port:
        async with manager_at(port, clock, max_retries=1) as tm:
            seconds, error = await seconds_on_the_clock(tm, clock)

    assert_timed_out(seconds, error)


@pytest.mark.parametrize("answer", PROXIES.values(), ids=PROXIES)
async def test_no_proxy_holds_a_request_past_its_deadline(monkeypatch, answer):
    clock = ManualClock()

    async with raw_server(after_a_first_byte(answer)) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        async with manager_at("https://auth.example/token", clock, max_retries=1) as tm:
            seconds, error = await seconds_on_the_clock(tm, clock)

    assert_timed_out(seconds, error)


async def test_reading_the_secret_counts(hung_disk):
    clock = ManualClock()
    settings = {"client_secret": None, "client_secret_file": "never", "max_retries": 1}

    async with manager_at("http://127.0.0.1:9/token", clock, **settings) as tm:
        seconds, error = await seconds_on_the_clock(tm, clock, lambda: hung_disk.begun)

    assert seconds == pytest.approx(30.1)
    assert "was not asked: no request for client id 'client-7' can be built" in str(error)
    assert "check client_secret or client_secret_file" in str(error)
    assert error.temporary


async def test_a_secret_file_that_hangs_leaves_the_fallback_its_thread(hung_disk):
    clock, tokens = ManualClock(), []
    endpoint = RawEndpoint(clock=clock)
    settings = {
        "client_secret": None,
        "client_secret_file": "never",
        "fallback_client_secret": "other",
    }

    async def ask(tm):
        tokens.append(await tm.get_token())

    async with (
        raw_server(endpoint) as port,
        manager_at(port, clock, **settings) as tm,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(ask, tm)
        with anyio.fail_after(PATIENCE):
            await hung_disk.until_begun()
            clock.turn(30)
            while not tokens:
                await anyio.sleep(0.001)

    assert (tokens, endpoint.count) == (["token-1"], 1)


async def test_the_deadline_is_of_the_request_and_not_of_who_waits_for_it():
    clock, errors = ManualClock(), {}
    endpoint = RawEndpoint([then_for_ever(OK, b"X: y\r\n", DRIP)])

    async def ask(name, tm):
        try:
            await tm.get_token()
        except RevosAuthenticationError as error:
            errors[name] = clock.monotonic(), str(error)

    async with raw_server(endpoint) as port, manager_at(port, clock, max_retries=1) as tm:
        began_at = clock.monotonic()
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as first:
                tasks.start_soon(ask, "early", tm)
                await endpoint.asked.wait()
                clock.turn(29)
                tasks.start_soon(ask, "late", tm)
                await anyio.sleep(0.01)
                first.cancel()
            clock.turn(1.1)
        clock.turn(1)
        token = await tm.get_token()

    assert set(errors) == {"early", "late"}
    assert len({error for _, error in errors.values()}) == 1
    assert [at - began_at for at, _ in errors.values()] == pytest.approx([30.1] * 2)
    assert (token, endpoint.count) == ("token-2", 2)


async def test_all_of_them_end_in_time_by_the_clock_on_the_wall():
    seconds, timeout = dict.fromkeys(SLOW, math.inf), 0.3
    del seconds["1xx for ever"]  # That one keeps the others from the processor.

    async def measure(name, scheme, make_server):
        settings = {"request_timeout": timeout, "max_retries": 1}
        settings |= {"token": {"enable_periodic_refresh": False}}
        async with raw_server(make_server()) as port:
            url = f"{scheme}://127.0.0.1:{port}/token"
            async with TokenManager(config(token_url=url, **settings)) as tm:
                started = time.monotonic()
                with pytest.raises(RevosAuthenticationError, match="no complete answer"):
                    await tm.get_token()
                seconds[name] = min(seconds[name], time.monotonic() - started)

    # Another process that takes the processor only adds, so the least of three counts.
    for _ in range(3):
        async with anyio.create_task_group() as tasks:
            for name in (name for name, least in seconds.items() if least >= timeout + 0.5):
                tasks.start_soon(measure, name, *SLOW[name])

    assert all(timeout <= one < timeout + 0.5 for one in seconds.values())


async def test_an_answer_that_drips_in_time_is_a_token():
    body = http_answer(token_body(1))

    async def drip(stream):
        for at in range(len(body)):
            await stream.send(body[at : at + 1])

    async with raw_server(RawEndpoint([drip])) as port, manager_at(port, ManualClock()) as tm:
        assert await tm.get_token() == "token-1"
