"""Each row of the table of failures, over real connections: how often, when, which error, and that
the fallback follows, and that the next good answer heals.

The traffic is real; time is turned by hand.
"""

import json
from email.utils import formatdate

import anyio
import pytest
from attrs import frozen
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sockets import (
    RawEndpoint,
    closed_port,
    http_answer,
    raw_server,
    then_closed,
    then_nothing,
    then_reset,
    token_body,
)
from support import CLIENT_SECRET, ManualClock, manager_at, outcome_over_sockets

from revos import RevosAuthenticationError

WITH_FALLBACK = {"fallback_auth_method": "client_secret_basic"}
# Between three attempts, and after the cycle, where `random` is 0.5.
PAUSES = [0.75, 1.5]
RETRY_AFTER = 0.75


@frozen
class Row:
    """An answer, and what its cycle comes to."""

    answer: object
    words: str
    retried: bool = False
    status: int | None = 200
    error: str | None = None
    description: str | None = None
    causes: tuple = ()

    @property
    def attempts(self):
        return 3 if self.retried else 1


def oauth(code, status, words, *, retried=False):
    """An answer with an OAuth error, and its row."""
    body = json.dumps({"error": code, "error_description": f"about {code}"}).encode()
    number = int(status[:3])
    words += f'; the server says "about {code}"'
    return Row(http_answer(body, status), words, retried, number, code, f"about {code}")


def granting(members, words):
    """An answer of 200 whose JSON is written out, and its row."""
    return Row(http_answer(members.encode()), f"gave client id 'client-7' no usable token{words}")


def token(text):
    return granting(f'{{"access_token": {text}}}', " (HTTP 200): there is no access_token of vis")


def expires_in(text):
    words = "expires_in is not a number of seconds from 1 up; check token_url"
    return granting(f'{{"access_token": "T0KEN", "expires_in": {text}}}', f" (HTTP 200): {words}")


def not_json(body, words="the body is not JSON; check token_url"):
    return Row(http_answer(body), f"gave client id 'client-7' no usable token (HTTP 200): {words}")


HALF_A_HEAD = b"HTTP/1.1 200 OK\r\nContent-Ty"
HALF_A_BODY = b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"access_token": "T0KEN'
CHECK_NETWORK = "check token_url, network, proxy and, for TLS, ca_file"
BROKEN = ("ReadError",)
PROTOCOL = ("RemoteProtocolError",)

NO_ANSWER = {
    "reset before the answer": Row(then_reset(), "reset by peer", True, None, causes=BROKEN),
    "reset in the head": Row(then_reset(HALF_A_HEAD), "reset by peer", True, None, causes=BROKEN),
    "reset in the body": Row(then_reset(HALF_A_BODY), "reset by peer", True, None, causes=BROKEN),
    "closed before the answer": Row(then_closed(b""), "disconnected", True, None, causes=PROTOCOL),
    "closed in the head": Row(
        then_closed(HALF_A_HEAD), "disconnected", True, None, causes=PROTOCOL
    ),
    "closed in the body": Row(
        then_closed(HALF_A_BODY), "without sending complete", True, None, causes=PROTOCOL
    ),
}
BUSY = {
    f"{status}{' with an error' if body else ''}": Row(
        http_answer(body, f"{status} Busy"),
        f"did not serve client id 'client-7'{' with server_error' if body else ''} "
        f"(HTTP {status}): wait, or check the state of the authorization server",
        True,
        status,
        "server_error" if body else None,
    )
    for status in (408, 425, 429, 500, 502, 503, 504)
    for body in (b"", b'{"error": "server_error"}')
} | {
    "400 temporarily_unavailable": oauth(
        "temporarily_unavailable",
        "400 Bad Request",
        "did not serve client id 'client-7' with temporarily_unavailable (HTTP 400): wait, or "
        "check the state of the authorization server",
        retried=True,
    )
}
CREDENTIALS = "check client id, client secret and authentication method client_secret_post"
RIGHTS = "check token_url, scope and the rights of this client"
REFUSED = {
    f"{status} alone": Row(
        http_answer(b"", f"{status} No"),
        f"refused client id 'client-7' (HTTP {status}): {checks}",
        status=status,
    )
    for status, checks in {
        400: RIGHTS,
        401: CREDENTIALS,
        403: RIGHTS,
        404: RIGHTS,
        405: RIGHTS,
    }.items()
} | {
    f"{status} {code}": oauth(
        code,
        f"{status} No",
        f"refused client id 'client-7' with {code} (HTTP {status}): check {check}",
    )
    for status, code, check in [
        (400, "invalid_request", "scope, audience, resource and extra_token_params"),
        (400, "invalid_scope", "scope"),
        (401, "invalid_client", CREDENTIALS.removeprefix("check ")),
        (403, "unauthorized_client", "that this client may use the client_credentials grant"),
        (404, "their_own", RIGHTS.removeprefix("check ")),
        (405, "invalid_request", "scope, audience, resource and extra_token_params"),
    ]
}
REDIRECTED = {
    f"{status}": Row(
        http_answer(b"", f"{status} Elsewhere", "Location: http://127.0.0.2:9/else?a=b"),
        f"sent client id 'client-7' on to http://127.0.0.2:9/ (HTTP {status}): redirects are not "
        "followed, check token_url",
        status=status,
    )
    for status in (301, 302, 303, 307, 308)
} | {
    f"302 to {name}": Row(
        http_answer(b"", "302 Found", f"Location: {target}"),
        "sent client id 'client-7' on to",
        status=302,
    )
    for name, target in {
        "no URL": "http://[",
        "a broken name": "http://xn--/",
        "a name with a space": "http://a b/",
        "a mailbox": "mailto:a@b",
        "a port out of range": "http://127.0.0.2:99999999/",
        "a megabyte": "http://127.0.0.2/" + "x" * 70_000,
        "a control character": "http://127.0.0.2/\x01",
        "nowhere": "",
    }.items()
}
UNUSABLE = {
    "a body too large": not_json(
        token_body(1).ljust((1 << 20) + 1), "the body is over 1048576 bytes, too large"
    ),
    "an empty body": not_json(b""),
    "HTML": not_json(b"<html>Sign in</html>"),
    "half an object": not_json(b'{"access_token": "T0KEN"'),
    "two objects": not_json(b'{"access_token": "T0KEN"}{}'),
    "a form": not_json(b"access_token=T0KEN"),
    "invalid UTF-8": not_json(b'{"access_token": "T0KEN\xff"}'),
    "UTF-16": not_json('{"access_token": "T0KEN"}'.encode("utf-16")),
    "100,000 levels": not_json(b'{"access_token": "T0KEN", "x": ' + b"[" * 100_000),
    "a list": not_json(b'["T0KEN"]', "the body is not a JSON object whose names are unique"),
    "a text": not_json(b'"T0KEN"', "the body is not a JSON object whose names are unique"),
    "null": not_json(b"null", "the body is not a JSON object whose names are unique"),
    "a name twice": not_json(
        b'{"access_token": "T0KEN", "access_token": "T0KEN"}', "the body is not a JSON object"
    ),
    "204": Row(http_answer(b"", "204 No Content"), "no usable token (HTTP 204)", status=204),
    "no access_token": granting('{"token": "T0KEN"}', " (HTTP 200): there is no access_token"),
    "an OAuth error with 200": Row(
        http_answer(b'{"error": "invalid_client"}'),
        f"with invalid_client (HTTP 200): {CREDENTIALS}",
        error="invalid_client",
    ),
    **{
        f"access_token {text}": token(text)
        for text in (
            '""', "null", "5", '["T0KEN"]', '{"a": 1}', "true", '"T0 KEN"', '"T0KEN\\r"',
            '"T0KEN\\n"', '"T0KEN\\r\\nX-Injected: yes"', '"T0KEN\\u0000"', '"T0K\\u00c9N"', '" "',
            '"T0KEN\\ud800"', '"T0KEN\\u007f"',
        )
    },
    **{
        f"token_type {kind}": granting(
            f'{{"access_token": "T0KEN", "token_type": {kind}}}', " (HTTP 200): token_type "
        )
        for kind in ('"mac"', '"DPoP"', '""', "5", "[]", '"bearer "')
    },
    **{
        f"expires_in {text}": expires_in(text)
        for text in (
            "0", "0.5", "0.001", "0.999", "-1", "-1e308", "1e999", "true", "false", '"soon"', '""',
            '"1e3"', '"NaN"', '"Infinity"', '"-60"', "[60]", '{"s": 60}', '" 60"', '"0.5"',
        )
    },
    **{
        f"expires_in {text.decode()}": not_json(b'{"access_token": "T0K", "expires_in": %b}' % text)
        for text in (b"NaN", b"Infinity", b"-Infinity", b"0x10", b"1_000", b"+60")
    },
    **{
        f"encoded as {encoding}": Row(
            http_answer(token_body(1), "200 OK", f"Content-Encoding: {encoding}"),
            "the body is encoded although no encoding was accepted; check token_url",
        )
        for encoding in ("gzip", "br", "deflate", "zstd", "x-unknown", "gzip, identity")
    },
}  # fmt: skip

ROWS = NO_ANSWER | BUSY | REFUSED | REDIRECTED | UNUSABLE
EVERY_ROW = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)


def chain_of(error):
    link = error.__cause__
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


@EVERY_ROW
async def test_a_cycle_fails_as_its_row_says_and_the_next_good_answer_heals(row):
    clock = ManualClock()
    endpoint = RawEndpoint([row.answer] * row.attempts, clock)

    async with raw_server(endpoint) as port, manager_at(port, clock) as tm:
        error = await outcome_over_sockets(tm, clock)
        failed = endpoint.count, endpoint.pauses, tm.consecutive_failures
        clock.turn(error.retry_after)
        token = await tm.get_token()
        healed = endpoint.count, tm.consecutive_failures, tm.health().state

    assert type(error) is RevosAuthenticationError
    assert failed == (row.attempts, PAUSES[: row.attempts - 1], 1)
    assert endpoint.methods == ["post"] * (row.attempts + 1)
    assert (error.attempts, error.retry_after) == (row.attempts, RETRY_AFTER)
    assert (error.status_code, error.error) == (row.status, row.error)
    assert error.error_description == row.description
    assert (error.method, error.temporary) == ("client_secret_post", row.retried)
    assert tuple(type(link).__name__ for link in chain_of(error))[: len(row.causes)] == row.causes
    assert (error.__cause__ is None) is (row.causes == ())
    assert f"the token endpoint http://127.0.0.1:{port}/token" in str(error)
    assert "client id 'client-7'" in str(error)
    assert "check" in str(error)
    assert row.words in str(error)
    said = str([error, *map(repr, chain_of(error)), vars(error)])
    assert "T0K" not in said
    assert CLIENT_SECRET not in said
    assert token == f"token-{row.attempts + 1}"
    assert healed == (row.attempts + 1, 0, "healthy")


@EVERY_ROW
async def test_the_fallback_follows_in_the_same_cycle(row):
    clock = ManualClock()
    endpoint = RawEndpoint([row.answer] * row.attempts, clock)

    async with raw_server(endpoint) as port, manager_at(port, clock, **WITH_FALLBACK) as tm:
        token = await outcome_over_sockets(tm, clock)
        state = tm.health().state

    assert endpoint.methods == ["post"] * row.attempts + ["basic"]
    assert endpoint.pauses == [*PAUSES[: row.attempts - 1], 0]
    assert token == f"token-{row.attempts + 1}"
    assert state == "degraded"


# What no answer leads to.


async def test_a_refused_connection_is_tried_again_until_somebody_listens():
    clock, port = ManualClock(), closed_port()
    endpoint = RawEndpoint(clock=clock)

    async with manager_at(port, clock) as tm:
        began_at = clock.monotonic()
        error = await outcome_over_sockets(tm, clock)
        seconds = clock.monotonic() - began_at
        clock.turn(error.retry_after)
        async with raw_server(endpoint, port):
            token = await tm.get_token()

    assert (error.attempts, error.status_code, error.temporary) == (3, None, True)
    assert (seconds, error.retry_after) == (sum(PAUSES), RETRY_AFTER)
    assert f"no answer (ConnectError: {error.__cause__}): {CHECK_NETWORK}" in str(error)
    assert "connect" in str(error.__cause__)
    assert token == "token-1"


async def test_the_fallback_follows_a_refused_connection():
    clock = ManualClock()
    endpoint = RawEndpoint(clock=clock)

    async with raw_server(endpoint) as port:
        url = f"http://127.0.0.1:{port}/token"
        async with manager_at(closed_port(), clock, fallback_token_url=url) as tm:
            began_at = clock.monotonic()
            token = await outcome_over_sockets(tm, clock)
            seconds = clock.monotonic() - began_at

    assert (token, seconds) == ("token-1", sum(PAUSES))


async def test_an_answer_that_never_comes_is_asked_for_again_as_often_as_the_cycle_has_time():
    clock, errors = ManualClock(), []
    endpoint = RawEndpoint([then_nothing] * 2, clock)

    async def ask(tm):
        try:
            await tm.get_token()
        except RevosAuthenticationError as error:
            errors.append(error)

    async with raw_server(endpoint) as port, manager_at(port, clock) as tm:
        began_at = clock.monotonic()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, tm)
            while not errors:
                await anyio.sleep(0.001)
                clock.turn(0.25)
        seconds = clock.monotonic() - began_at
        clock.turn(errors[0].retry_after)
        token = await tm.get_token()

    error = errors[0]
    assert 60 <= seconds <= 61
    assert (error.attempts, error.status_code, error.temporary) == (2, None, True)
    assert "no answer in time (TimeoutError: no complete answer within" in str(error)
    assert "check request_timeout, network and proxy" in str(error)
    assert type(error.__cause__) is TimeoutError
    assert (token, endpoint.count) == ("token-3", 3)


# A request that can't be built.

BY = {
    "client_secret_file": {"client_secret": None},
    "private_key_file": {"client_secret": None, "auth_method": "private_key_jwt"},
}


UNBUILDABLE = pytest.mark.parametrize(
    ("setting", "content", "words", "temporary"),
    [
        ("client_secret_file", None, "No such file", True),
        ("client_secret_file", b"", "is empty", False),
        ("client_secret_file", b"\n", "is empty", False),
        ("client_secret_file", b"T0KEN\xff", "is not UTF-8 text", False),
        ("private_key_file", None, "No such file", True),
        ("private_key_file", b"", "is empty", False),
        ("private_key_file", b"\xff\xfe", "is not UTF-8 text", False),
        ("private_key_file", b"T0KEN", "private_key_file", False),
        ("private_key_file", b"-----BEGIN PRIVATE KEY-----\nT0KE", "private_key_f", False),
    ],
    ids=[
        *("no-secret", "empty-secret", "blank-secret", "secret-not-utf8"),
        *("no-key", "empty-key", "key-not-utf8", "not-a-key", "half-a-key"),
    ],
)


GOOD = {
    "client_secret_file": b"s3cret\n",
    "private_key_file": rsa.generate_private_key(65537, 2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    ),
}


def written(path, content):
    if content is not None:
        path.write_bytes(content)
    return str(path)


@UNBUILDABLE
async def test_a_request_that_cannot_be_built_is_not_sent_and_the_next_good_file_heals(
    tmp_path, setting, content, words, temporary
):
    clock = ManualClock()
    endpoint = RawEndpoint(clock=clock)
    path = tmp_path / "credential"
    settings = BY[setting] | {setting: written(path, content)}

    async with raw_server(endpoint) as port, manager_at(port, clock, **settings) as tm:
        error = await outcome_over_sockets(tm, clock)
        asked = endpoint.count
        path.write_bytes(GOOD[setting])
        clock.turn(error.retry_after)
        token = await tm.get_token()

    assert type(error) is RevosAuthenticationError
    assert (asked, error.attempts, error.retry_after) == (0, 1, RETRY_AFTER)
    assert (error.status_code, error.error, error.temporary) == (None, None, temporary)
    assert "was not asked: no request for client id 'client-7' can be built" in str(error)
    assert f"check {setting.removesuffix('_file')}" in str(error)
    assert words in str(error)
    assert "T0K" not in str(error)
    assert token == "token-1"


@UNBUILDABLE
async def test_the_fallback_follows_a_request_that_cannot_be_built(
    tmp_path, setting, content, words, temporary
):
    clock = ManualClock()
    endpoint = RawEndpoint(clock=clock)
    settings = BY[setting] | {
        setting: written(tmp_path / "credential", content),
        "fallback_auth_method": "client_secret_basic",
        "fallback_client_secret": "other",
    }

    async with raw_server(endpoint) as port, manager_at(port, clock, **settings) as tm:
        began_at = clock.monotonic()
        token = await outcome_over_sockets(tm, clock)

    assert (token, endpoint.methods) == ("token-1", ["basic"])
    assert endpoint.moments == [began_at]


# Retry-After.


def at(seconds):
    """A date as it is so many seconds after the begin of a `ManualClock`."""
    return formatdate(ManualClock().time() + seconds, usegmt=True)


def busy(status, *values):
    return http_answer(b"", f"{status} Busy", *(f"Retry-After: {value}" for value in values))


@pytest.mark.parametrize(
    ("values", "pause"),
    [
        (["7"], 7),
        (["10"], 10),
        (["1.5"], 1.5),
        (["0"], 0),
        ([at(7)], 7),
        ([at(0)], 0),
        ([at(-86_400)], 0),
        (["Sun, 06 Nov 1994 08:49:37 GMT"], 0),
        # What says nothing leaves the ordinary pause.
        ([""], 0.75),
        (["-5"], 0.75),
        (["soon"], 0.75),
        (["1e9"], 0.75),
        (["0x10"], 0.75),
        (["5 seconds"], 0.75),
        (["Wed, 99 Foo 2020 99:99:99 GMT"], 0.75),
        (["5", "6"], 0.75),
    ],
)
async def test_a_retry_after_of_ten_seconds_is_waited_for(values, pause):
    clock = ManualClock()
    endpoint = RawEndpoint([busy(503, *values)], clock)

    async with raw_server(endpoint) as port, manager_at(port, clock) as tm:
        token = await outcome_over_sockets(tm, clock)

    assert (token, endpoint.pauses) == ("token-2", [pause])


@pytest.mark.parametrize(
    ("status", "value", "pause"),
    [
        (503, "11", 11),
        (429, "10.5", 10.5),
        (503, at(90), 90),
        (503, "300", 300),
        (503, "31536000", 300),
        (503, at(365 * 86_400), 300),
        (503, "Fri, 31 Dec 9999 23:59:59 GMT", 300),
        (503, "9" * 5_000, 300),
        (401, "120", 120),
        (302, "120", 120),
        (200, "120", 120),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_longer_one_ends_the_attempts_and_is_the_pause_up_to_five_minutes(
    status, value, pause
):
    clock = ManualClock()
    endpoint = RawEndpoint([busy(status, value)], clock)

    async with raw_server(endpoint) as port, manager_at(port, clock) as tm:
        error = await outcome_over_sockets(tm, clock)
        clock.turn(pause - 0.01)
        with pytest.raises(RevosAuthenticationError) as held:
            await tm.get_token(force_refresh=True)
        clock.turn(0.02)
        token = await tm.get_token()

    assert (error.attempts, error.status_code) == (1, status)
    assert error.retry_after == pytest.approx(pause)
    assert held.value.retry_after == pytest.approx(0.01)
    assert (token, endpoint.count) == ("token-2", 2)


async def test_the_fallback_does_not_wait_for_the_retry_after_of_the_primary():
    clock = ManualClock()
    endpoint = RawEndpoint([busy(503, "31536000")], clock)

    async with raw_server(endpoint) as port, manager_at(port, clock, **WITH_FALLBACK) as tm:
        token = await outcome_over_sockets(tm, clock)

    assert (token, endpoint.methods, endpoint.pauses) == ("token-2", ["post", "basic"], [0])


# Answers that look odd and are good.

TEN_YEARS = 10 * 365 * 86_400


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [
        ("1", 1),
        ("60.5", 60.5),
        ('"60"', 60),
        ('"60.5"', 60.5),
        ("1e3", 1_000),
        ("1e308", TEN_YEARS),
        ("1" + "0" * 400, TEN_YEARS),
        ('"' + "9" * 400 + '"', TEN_YEARS),
        ("null", 3_600),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_a_lifetime_is_read_and_is_ten_years_at_most(expires_in, lifetime):
    clock = ManualClock()
    body = f'{{"access_token": "T0KEN", "token_type": "bEaReR", "expires_in": {expires_in}}}'
    endpoint = RawEndpoint([http_answer(body.encode())], clock)

    async with raw_server(endpoint) as port, manager_at(port, clock) as tm:
        token = await tm.refresh()

    assert token.expires_at.timestamp() - clock.time() == pytest.approx(lifetime)
