"""What went wrong with one token request does not reach the next: connections, tunnels, cookies."""

import anyio
import pytest
from leftovers import leaving_nothing
from sockets import (
    ConnectProxy,
    RawEndpoint,
    http_answer,
    raw_server,
    then_closed,
    then_reset,
    token_body,
)
from support import ManualClock, manager_at, outcome_over_sockets

from revos import RevosAuthenticationError

MOST_CONNECTIONS = 100  # That a client of httpx has at once, by default.


@pytest.mark.parametrize(
    "more",
    [
        http_answer(token_body(666)),
        b"HTTP/1.1 500 No\r\n\r\n",
        b"\r\n\r\n",
        b"garbage",
        b"\x00" * 9,
    ],
    ids=["another-answer", "a-failure", "line-ends", "garbage", "nulls"],
)
@pytest.mark.parametrize("status", ["503 Busy", "401 No", "200 OK"])
async def test_what_follows_a_failure_is_no_answer_to_the_next_request(status, more):
    clock = ManualClock()
    endpoint = RawEndpoint([http_answer(b"", status) + more], clock)

    async with raw_server(endpoint) as port, manager_at(port, clock) as tm:
        await outcome_over_sockets(tm, clock)
        clock.turn(1)
        token = await outcome_over_sockets(tm, clock)

    assert token == "token-2"
    assert endpoint.connections == [1, 2]


async def test_requests_share_a_connection_as_long_as_they_bring_tokens():
    clock = ManualClock()
    grants = [http_answer(token_body(number)) for number in (1, 2)]
    endpoint = RawEndpoint([*grants, http_answer(b"", "503 Busy")], clock)

    async with raw_server(endpoint) as port, manager_at(port, clock) as tm:
        for _ in range(3):
            token = await outcome_over_sockets(tm, clock)
            tm.invalidate()

    assert token == "token-4"
    assert endpoint.connections == [1, 1, 1, 2]


@pytest.mark.parametrize("end", [then_closed, then_reset], ids=["closed", "reset"])
async def test_a_connection_that_ended_meanwhile_costs_no_failure(end):
    clock = ManualClock()
    endpoint = RawEndpoint([end(http_answer(token_body(1)))], clock)

    async with raw_server(endpoint) as port, manager_at(port, clock) as tm:
        first = await outcome_over_sockets(tm, clock)
        with anyio.fail_after(10):
            while not endpoint.ended:
                await anyio.sleep(0.001)
        await anyio.sleep(0.01)  # Until the end has arrived.
        tm.invalidate()
        second = await outcome_over_sockets(tm, clock)

    assert (first, second) == ("token-1", "token-2")
    assert endpoint.pauses == [0]


async def test_no_cookie_is_sent_back():
    clock = ManualClock()
    cookies = [f"Set-Cookie: session-{number}=abc; Path=/" for number in range(50)]
    answer = http_answer(token_body(1), "200 OK", *cookies)
    endpoint = RawEndpoint([answer, http_answer(b"", "503 Busy", *cookies)], clock)

    async with raw_server(endpoint) as port, manager_at(port, clock) as tm:
        await tm.get_token()
        tm.invalidate()
        await outcome_over_sockets(tm, clock)

    assert endpoint.count == 3
    assert not [one for one in endpoint.requests if b"cookie" in one.lower()]


async def test_tunnels_that_fail_do_not_use_up_what_connections_there_may_be(monkeypatch):
    clock, failures = ManualClock(), 0

    async def refuse(stream):
        await stream.receive()
        await stream.send(b"this is not TLS\r\n")
        await stream.aclose()

    with leaving_nothing():
        async with raw_server(refuse) as port, raw_server(ConnectProxy(port)) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy}")
            async with manager_at("https://auth.example/token", clock, max_retries=10) as tm:
                with anyio.fail_after(20):
                    while failures <= MOST_CONNECTIONS:
                        error = await outcome_over_sockets(tm, clock)
                        failures += error.attempts
                        clock.turn(error.retry_after)

    assert type(error) is RevosAuthenticationError
    assert "SSL" in str(error)
