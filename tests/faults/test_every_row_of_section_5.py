"""Each row of the table of failures, over real connections: how often, when, which error, and that
the fallback follows, and that the next good answer heals.

The traffic is real; time is turned by hand.
"""

import json

import pytest
from attrs import frozen
from sockets import (
    RawEndpoint,
    http_answer,
    raw_server,
    then_closed,
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
        b'{"access_token": "T0KEN", "access_token": "T0KEN"}', "the body is not a JSON object whos"
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
