"""Answers that break HTTP, or that no client could keep: a typed error, little memory, and the next
good answer heals. Each is sent byte for byte.
"""

import tracemalloc
import zlib

import anyio
import httpx
import pytest
from anyio.lowlevel import checkpoint
from sockets import RawEndpoint, http_answer, raw_server, then_closed, then_for_ever, token_body
from support import ManualClock, ScriptedEndpoint, manager, manager_at, outcome_over_sockets

from revos import RevosAuthenticationError

GOOD = token_body(1)
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(GOOD)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(GOOD), GOOD)


async def answered_by(answer):
    """What one answer and, where that failed, the next good one lead to."""
    clock = ManualClock()
    endpoint = RawEndpoint([answer if callable(answer) else then_closed(answer)], clock)

    async with (
        raw_server(endpoint) as port,
        manager_at(port, clock, max_retries=1) as tm,
    ):
        with anyio.fail_after(10):
            outcome = await outcome_over_sockets(tm, clock)
        tm.invalidate()
        clock.turn(1)
        healed = await tm.get_token()
    assert healed == "token-2"
    assert endpoint.count == 2
    return outcome


ODD = {
    "HTTP/1.0 with a length": b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\n" + GOOD,
    "HTTP/1.0 without": b"HTTP/1.0 200 OK\r\n\r\n" + GOOD,
    "HTTP/1.1 without a length": OK + b"\r\n" + GOOD,
    "no status text": b"HTTP/1.1 200\r\n" + LENGTH + b"\r\n" + GOOD,
    "bare line feeds": b"HTTP/1.1 200 OK\n" + LENGTH.replace(b"\r", b"") + b"\n" + GOOD,
    "1xx before": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"
    + http_answer(GOOD),
    "a header of 90,000 bytes": OK + b"X: " + b"x" * 90_000 + b"\r\n" + LENGTH + b"\r\n" + GOOD,
    "1,000 headers": OK + b"X: y\r\n" * 1_000 + LENGTH + b"\r\n" + GOOD,
    "a folded header": OK + b"X: a\r\n b\r\n" + LENGTH + b"\r\n" + GOOD,
    "a header that is not ASCII": OK + b"X: \xff\xfe\xe9\r\n" + LENGTH + b"\r\n" + GOOD,
    "one length twice": OK + LENGTH * 2 + b"\r\n" + GOOD,
    "chunks": OK + CHUNKED + CHUNK + b"0\r\n\r\n",
    "chunks and a length": OK + b"Content-Length: 3\r\n" + CHUNKED + CHUNK + b"0\r\n\r\n",
    "a chunk extension": OK + CHUNKED + CHUNK.replace(b"\r\n", b";a=b\r\n", 1) + b"0\r\n\r\n",
    "a chunk extension of 80,000 bytes": OK
    + CHUNKED
    + CHUNK.replace(b"\r\n", b";a=b" * 20_000 + b"\r\n", 1)
    + b"0\r\n\r\n",
    "trailers": OK + CHUNKED + CHUNK + b"0\r\nX: y\r\n\r\n",
    "a byte order mark": http_answer(b"\xef\xbb\xbf" + GOOD),
    "a media type of HTML": http_answer(GOOD, "200 OK", "Content-Type: text/html; charset=utf-16"),
}


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
async def test_an_odd_answer_that_can_be_read_is_a_token(answer):
    assert await answered_by(answer) == "token-1"


BROKEN = {
    "HTTP/0.9": (GOOD, "disconnected"),
    "another protocol": (b"SSH-2.0-OpenSSH_9.7\r\n", "disconnected"),
    "garbage": (b"\x00\xff\x16\x03\x01garbage\r\n\r\n", "illegal status line"),
    "a status of two digits": (b"HTTP/1.1 99 No\r\n\r\n", "illegal status line"),
    "a status of zero": (b"HTTP/1.1 000 No\r\n\r\n", "status_code"),
    "a change of protocol": (
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + GOOD,
        "without a pending proposal",
    ),
    "a header without a colon": (OK + b"no colon\r\n\r\n", "illegal header line"),
    "a header with a NUL": (OK + b"X: a\x00b\r\n" + LENGTH + b"\r\n" + GOOD, "illegal header line"),
    "a head of 300,000 bytes": (OK + b"X: " + b"x" * 300_000 + b"\r\n\r\n", "too long"),
    "100,000 headers": (OK + b"X: y\r\n" * 100_000 + b"\r\n" + GOOD, "too long"),
    "headers for ever": (then_for_ever(OK, b"X: y\r\n" * 1_000), "too long"),
    "a length that is too long": (
        OK + b"Content-Length: 999\r\n\r\n" + GOOD,
        "without sending complete message body",
    ),
    "two lengths": (
        OK + b"Content-Length: 10\r\nContent-Length: 20\r\n\r\n" + GOOD,
        "conflicting Content-Length",
    ),
    "a negative length": (OK + b"Content-Length: -1\r\n\r\n" + GOOD, "bad Content-Length"),
    "a length of 5,000 digits": (
        OK + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n" + GOOD,
        "bad Content-Length",
    ),
    "another transfer encoding": (
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNK,
        "Transfer-Encoding",
    ),
    "a chunk size that is no number": (OK + CHUNKED + b"zz\r\n" + GOOD, "illegal chunk header"),
    "a negative chunk size": (OK + CHUNKED + b"-5\r\n" + GOOD, "illegal chunk header"),
    "a chunk size of 17 digits": (
        OK + CHUNKED + b"f" * 17 + b"\r\n" + GOOD,
        "without sending complete message body",
    ),
    "half a chunk": (OK + CHUNKED + b"5\r\nab", "without sending complete message body"),
    "a chunk extension for ever": (then_for_ever(OK + CHUNKED + b"5;", b"a=b;" * 1_000), "too lo"),
    "trailers for ever": (then_for_ever(OK + CHUNKED + b"0\r\n", b"X: y\r\n" * 1_000), "too long"),
}


@pytest.mark.parametrize(("answer", "words"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_answer_is_an_error_of_the_connection(answer, words):
    error = await answered_by(answer)

    assert type(error) is RevosAuthenticationError
    assert (error.attempts, error.status_code, error.temporary) == (1, None, True)
    assert f"no answer (RemoteProtocolError: {error.__cause__}" in str(error)
    assert words in str(error)
    assert "check token_url, network, proxy" in str(error)
    assert "token-1" not in str(error)


async def test_a_length_that_is_too_short_cuts_the_answer_off():
    error = await answered_by(OK + b"Content-Length: 10\r\n\r\n" + GOOD)

    assert "the body is not JSON" in str(error)


MEGABYTES_OF_MEMORY = 12


def gzip_of_a_gigabyte():
    """Made of one part of 16 MB, which is flushed so fully that it may be repeated."""
    packer = zlib.compressobj(wbits=31)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    part = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + part * 64


BOMB = gzip_of_a_gigabyte()
TOO_LARGE = "the body is over 1048576 bytes, too large for a token response"
ENCODED = "the body is encoded although no encoding was accepted"
ENDLESS = {
    "without a length": (then_for_ever(OK + b"\r\n", b"x" * 65_536), TOO_LARGE),
    "of chunks": (then_for_ever(OK + CHUNKED, b"1000\r\n%b\r\n" % (b"x" * 4_096)), TOO_LARGE),
    "of spaces": (then_for_ever(OK + b"\r\n" + GOOD, b" " * 65_536), TOO_LARGE),
    "with a length of an exabyte": (
        then_for_ever(OK + b"Content-Length: 1152921504606846976\r\n\r\n", b"x" * 65_536),
        TOO_LARGE,
    ),
    "of gzip": (http_answer(BOMB, "200 OK", "Content-Encoding: gzip"), ENCODED),
    "of gzip that is not named": (http_answer(BOMB), "the body is not JSON"),
}


@pytest.mark.parametrize(("answer", "words"), ENDLESS.values(), ids=ENDLESS)
async def test_a_body_that_never_ends_is_neither_kept_nor_unpacked(answer, words):
    tracemalloc.start()
    try:
        error = await answered_by(answer)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert words in str(error)
    assert (error.status_code, error.attempts, error.temporary) == (200, 1, False)
    assert peak < MEGABYTES_OF_MEMORY << 20


def test_the_bomb_is_one():
    a_part = zlib.decompressobj(wbits=31).decompress(BOMB[: len(BOMB) // 64])

    assert len(a_part) * 64 > 1 << 29


async def test_others_get_their_turn_while_a_body_comes_in_ten_thousand_parts():
    endpoint, turns = ScriptedEndpoint(), 0

    class Parts(httpx.AsyncByteStream):
        async def __aiter__(self):
            for _ in range(10_000):
                yield b" "
            yield GOOD

    async def take_turns():
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    endpoint.script = [httpx.Response(200, stream=Parts())]
    async with (
        manager(endpoint, token={"enable_periodic_refresh": False}) as tm,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(take_turns)
        with endpoint.hold():
            tasks.start_soon(tm.get_token)
            await endpoint.started.wait()
            before = turns
        await tm.get_token()
        during = turns - before
        tasks.cancel_scope.cancel()

    assert during >= 100


async def test_a_body_in_ten_thousand_parts_is_ended_in_its_own_task_when_the_manager_is_left():
    endpoint, begun, tasks_of_it = ScriptedEndpoint(), anyio.Event(), []

    class Parts(httpx.AsyncByteStream):
        async def __aiter__(self):
            tasks_of_it.append(anyio.get_current_task().id)
            try:
                for _ in range(10_000):
                    begun.set()
                    yield b" "
                await anyio.sleep_forever()
            finally:
                tasks_of_it.append(anyio.get_current_task().id)

    endpoint.script = [httpx.Response(200, stream=Parts())]
    async with manager(endpoint):
        await begun.wait()

    assert len(tasks_of_it) == 2
    assert len(set(tasks_of_it)) == 1
