"""The hostile servers do what the tests that use them rely on."""

import contextlib

import anyio
import pytest
import trustme
from sockets import (
    GONE,
    ConnectProxy,
    RawEndpoint,
    closed_port,
    full_backlog,
    http_answer,
    over_tls,
    raw_server,
    then_closed,
    then_for_ever,
    then_reset,
)

REQUEST = b"POST /token HTTP/1.1\r\nContent-Length: 2\r\n\r\na=b"[:-1]


async def all_that_comes(stream):
    received = b""
    async for part in stream:
        received += part
    return received


async def test_a_raw_endpoint_follows_its_script_and_then_grants_numbered_tokens():
    endpoint = RawEndpoint([http_answer(b"x", "503 Busy", "A: b")])

    async with raw_server(endpoint) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        answers = []
        for _ in range(2):
            await stream.send(REQUEST)
            answers.append(await stream.receive())

    assert answers[0] == b"HTTP/1.1 503 Busy\r\nContent-Length: 1\r\nA: b\r\n\r\nx"
    assert b'"access_token": "token-2"' in answers[1]
    assert endpoint.requests == [REQUEST] * 2
    assert (endpoint.connections, endpoint.methods) == ([1, 1], ["post", "post"])


async def test_an_answer_may_end_in_a_close_or_a_reset_or_not_at_all():
    script = [then_closed(b"one"), then_reset(b"two"), then_for_ever(b"three", b"3")]

    async with raw_server(RawEndpoint(script)) as port:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(REQUEST)
            closed = await all_that_comes(stream)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(REQUEST)
            before = await stream.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await all_that_comes(stream)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(REQUEST)
            parts = [await stream.receive() for _ in range(3)]

    assert (closed, before) == (b"one", b"two")
    assert b"".join(parts).startswith(b"three3")


async def test_nobody_listens_on_a_closed_port_and_a_full_backlog_takes_nobody():
    with pytest.raises(OSError):
        await anyio.connect_tcp("127.0.0.1", closed_port())
    with full_backlog() as port, anyio.move_on_after(0.05) as scope:
        await anyio.connect_tcp("127.0.0.1", port)

    assert scope.cancelled_caught


async def test_a_tunnel_leads_to_a_server_that_speaks_tls(tmp_path):
    authority, endpoint = trustme.CA(), RawEndpoint([then_closed(b"inside")])
    server = over_tls(endpoint, authority.issue_cert("auth.example"))

    async with raw_server(server) as port:
        proxy = ConnectProxy(port)
        async with (
            raw_server(proxy) as proxy_port,
            await anyio.connect_tcp("127.0.0.1", proxy_port) as stream,
        ):
            await stream.send(b"CONNECT auth.example:443 HTTP/1.1\r\n\r\n")
            answer = await stream.receive()
            await stream.send(b"this is not TLS\r\n")
            with contextlib.suppress(*GONE):
                await all_that_comes(stream)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert proxy.asked == [b"CONNECT auth.example:443 HTTP/1.1"]
    assert endpoint.count == 0
