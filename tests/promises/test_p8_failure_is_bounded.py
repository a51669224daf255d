"""P8: failure is bounded, typed and visible; the tables of section 5 through the public API."""

import logging
from email.utils import formatdate

import anyio
import httpx
import pytest
from anyio.lowlevel import checkpoint
from support import CLIENT_SECRET, ManualClock, ScriptedEndpoint, manager, settle, token_response

from revos import (
    RevosAuthenticationError,
    RevosConfigurationError,
    RevosTokenError,
    credentials,
)

ON_DEMAND = {"enable_periodic_refresh": False}
WITH_FALLBACK = {"fallback_auth_method": "client_secret_basic"}
DUE, UNUSABLE = 2700, 3570  # of a token of one hour, with the default settings and no randomness


async def error_of(clock, ask, *, within=200.0, step=0.5):
    """The error that a caller gets, the clock being turned on until it does."""
    errors = []

    async def call():
        try:
            await ask()
        except RevosTokenError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await settle()
        for _ in range(int(within / step)):
            if errors:
                break
            await clock.advance(step)
        tasks.cancel_scope.cancel()
    return errors[0]


def oauth_error(status, code, **headers):
    body = {"error": code, "error_description": f"about {code}"}
    return lambda: httpx.Response(status, json=body, headers=headers)


def kinds(endpoint):
    """How each request authenticated the client."""
    return ["basic" if "authorization" in r.headers else "post" for r in endpoint.requests]


# Within the cycle.


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (httpx.ConnectError("made up"), None),
        (httpx.ReadError("made up"), None),
        (httpx.RemoteProtocolError("made up"), None),
        (httpx.ReadTimeout("made up"), None),
        (OSError("made up"), None),
        (408, 408),
        (425, 425),
        (429, 429),
        (500, 500),
        (502, 502),
        (503, 503),
        (504, 504),
        (oauth_error(400, "temporarily_unavailable"), 400),
    ],
    ids=lambda answer: "unavailable" if callable(answer) else str(answer),
)
async def test_what_may_pass_is_tried_max_retries_times(answer, status):
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [answer] * 3

    async with manager(endpoint, clock, token=ON_DEMAND, max_retries=3) as tm:
        error = await error_of(clock, tm.get_token)

    assert type(error) is RevosAuthenticationError
    assert (error.attempts, endpoint.count) == (3, 3)
    assert error.status_code == status
    assert error.temporary
    assert error.method == "client_secret_post"
    assert "client-7" in str(error)


@pytest.mark.parametrize("code", ["invalid_client", "invalid_request", "invalid_scope", "own_code"])
@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_refusal_is_not_tried_again_and_says_what_the_server_said(status, code):
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [oauth_error(status, code)]

    async with manager(endpoint, clock, token=ON_DEMAND) as tm:
        with pytest.raises(RevosAuthenticationError, match=code) as caught:
            await tm.get_token()

    error = caught.value
    assert (error.attempts, endpoint.count) == (1, 1)
    assert (error.status_code, error.error) == (status, code)
    assert error.error_description == f"about {code}"
    assert error.retry_after == pytest.approx(0.5)
    assert not error.temporary
    assert error.__cause__ is None
    assert "client id 'client-7'" in str(error)
    assert "check" in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(302, headers={"location": "http://127.0.0.1:9/elsewhere"}),
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, content=b"[1]"),
        httpx.Response(200, content=b"{}"),
        httpx.Response(200, content=b'{"access_token": ""}'),
        httpx.Response(200, content='{"access_token": "über"}'.encode()),
        httpx.Response(200, content=b'{"access_token": "t", "token_type": "mac"}'),
        httpx.Response(200, content=b'{"access_token": "' + b"x" * (1 << 20) + b'"}'),
        httpx.Response(
            200, headers={"content-encoding": "br"}, content=token_response("t").content
        ),
        *(token_response("t", lifetime) for lifetime in (0.5, 0, -1, True, "soon")),
        *(
            httpx.Response(200, content=b'{"access_token": "t", "expires_in": %b}' % number)
            for number in (b"NaN", b"Infinity", b"-1e999", b"[]")
        ),
        404,
        405,
    ],
    ids=lambda answer: str(answer)[:30],
)
async def test_an_unusable_answer_is_not_tried_again(answer):
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [answer]

    async with manager(endpoint, clock, token=ON_DEMAND) as tm:
        with pytest.raises(RevosAuthenticationError) as caught:
            await tm.get_token()

    assert (caught.value.attempts, endpoint.count) == (1, 1)
    assert not caught.value.temporary


@pytest.mark.parametrize("random", [0.0, 0.5, 0.999])
async def test_the_pauses_between_attempts_double_from_half_a_second_to_a_second_up(random):
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [503] * 5
    counts = []

    async with manager(endpoint, clock, random, max_retries=5):
        await settle()
        for longest in (1, 2, 4, 8):
            await clock.advance(longest * (1 + random) / 2 - 0.01)
            before = endpoint.count
            await clock.advance(0.02)
            counts.append((before, endpoint.count))

    assert counts == [(1, 2), (2, 3), (3, 4), (4, 5)]


@pytest.mark.parametrize("form", ["7", "date"])
async def test_a_short_retry_after_is_waited_for(form):
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    value = formatdate(clock.time() + 7, usegmt=True) if form == "date" else form
    endpoint.script = [oauth_error(429, "slow_down", **{"Retry-After": value})]

    async with manager(endpoint, clock) as tm:
        await settle()
        await clock.advance(6.9)
        before = endpoint.count
        await clock.advance(0.2)
        token = tm.get_token_nowait()

    assert before == 1
    assert token == "token-2"


async def test_a_long_retry_after_ends_the_attempts_of_this_method():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [oauth_error(503, "busy", **{"Retry-After": "11"})]

    async with manager(endpoint, clock, **WITH_FALLBACK) as tm:
        token = await tm.get_token()

    assert token == "token-2"
    assert kinds(endpoint) == ["post", "basic"]


@pytest.mark.parametrize("settings", [{}, WITH_FALLBACK], ids=["primary", "fallback"])
@pytest.mark.parametrize("timeout", [1, 30])
async def test_no_cycle_outlasts_twice_the_request_timeout(settings, timeout):
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(
        endpoint, clock, max_retries=10, request_timeout=timeout, token=ON_DEMAND, **settings
    ) as tm:
        with endpoint.hold():
            started_at = clock.monotonic()
            error = await error_of(clock, tm.get_token, step=timeout / 20)
            seconds = clock.monotonic() - started_at

    assert timeout < seconds <= 2 * timeout + timeout / 10
    assert error.temporary
    assert "in time" in str(error)


async def test_a_primary_that_hangs_leaves_the_fallback_its_time():
    endpoint, clock, got = ScriptedEndpoint(), ManualClock(), []
    settings = {"max_retries": 10, "token": ON_DEMAND, **WITH_FALLBACK}

    async with (
        manager(endpoint, clock, **settings) as tm,
        anyio.create_task_group() as tasks,
    ):

        async def ask():
            got.append(await tm.get_token())

        with endpoint.hold():
            tasks.start_soon(ask)
            await settle()
            for _ in range(70):
                await clock.advance(0.5)
        await settle()

    assert got == [f"token-{endpoint.count}"]
    assert kinds(endpoint)[-1] == "basic"


# After it.


async def test_without_a_token_callers_get_the_held_error_at_once_with_the_time_that_is_left():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [oauth_error(400, "invalid_scope")] * 2

    async with manager(endpoint, clock, random=0.5) as tm:
        left = []
        for _ in range(3):
            with pytest.raises(RevosAuthenticationError) as caught:
                await tm.get_token()
            left.append(caught.value.retry_after)
            assert caught.value.error == "invalid_scope"
            await clock.advance(0.2)
        asked = endpoint.count

    assert left == pytest.approx([0.75, 0.55, 0.35])
    assert asked == 1


@pytest.mark.parametrize(
    ("code", "longest"), [("invalid_scope", 60), ("invalid_client", 300)], ids=str
)
async def test_the_pauses_between_cycles_double_up_to_their_limit_and_never_end(code, longest):
    endpoint, clock, pauses = ScriptedEndpoint(), ManualClock(), []
    endpoint.script = [oauth_error(400, code)] * 15

    async with manager(endpoint, clock) as tm:
        for number in range(1, 16):
            with pytest.raises(RevosAuthenticationError) as caught:
                await tm.get_token()
            assert endpoint.count == number
            assert tm.consecutive_failures == number
            pauses.append(caught.value.retry_after)
            await clock.advance(caught.value.retry_after + 0.001)
        token = await tm.get_token()
        failures = tm.consecutive_failures

    assert pauses == pytest.approx([min(2**n, longest) / 2 for n in range(15)], abs=0.01)
    assert (token, failures) == ("token-16", 0)


async def test_on_demand_a_failed_cycle_is_not_repeated_until_somebody_asks():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [400]

    async with manager(endpoint, clock, token=ON_DEMAND) as tm:
        with pytest.raises(RevosAuthenticationError):
            await tm.get_token()
        await clock.advance(0.4)
        with pytest.raises(RevosAuthenticationError):
            await tm.get_token()
        await clock.advance(600)
        unasked = endpoint.count
        token = await tm.get_token()

    assert unasked == 1
    assert token == "token-2"


@pytest.mark.parametrize(("told", "kept"), [("120", 120), ("100000", 300)])
async def test_a_retry_after_is_the_pause_up_to_five_minutes(told, kept):
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [oauth_error(503, "busy", **{"Retry-After": told})]

    async with manager(endpoint, clock) as tm:
        with pytest.raises(RevosAuthenticationError) as caught:
            await tm.get_token()
        await clock.advance(kept - 0.1)
        before = endpoint.count
        await clock.advance(0.2)
        token = tm.get_token_nowait()

    assert caught.value.retry_after == pytest.approx(kept)
    assert before == 1
    assert token == "token-2"


FORCING = pytest.mark.parametrize(
    "force",
    [
        lambda tm: tm.get_token(force_refresh=True),
        lambda tm: tm.refresh(),
        lambda tm: tm.get_token(use_fallback=True),
        lambda tm: tm.get_token(force_refresh=True, use_fallback=True),
        lambda tm: tm.refresh(use_fallback=True),
    ],
    ids=["force", "refresh", "fallback", "force-fallback", "refresh-fallback"],
)
NO_AUTOMATIC_FALLBACK = {"token": {"enable_fallback": False}, **WITH_FALLBACK}


@FORCING
async def test_forcing_does_not_wait_for_the_pause_but_runs_once_a_second(force):
    endpoint, clock, counts = ScriptedEndpoint(), ManualClock(), []
    endpoint.script = [oauth_error(400, "invalid_client")] * 100

    async with manager(endpoint, clock, **NO_AUTOMATIC_FALLBACK) as tm:
        for _ in range(8):  # Far into the long pauses, so that only forcing asks.
            with pytest.raises(RevosAuthenticationError) as caught:
                await tm.get_token()
            await clock.advance(caught.value.retry_after + 0.001)
        begun = endpoint.count
        for seconds in (0, 0.5, 0.49, 0.02, 0.5, 0.51):
            await clock.advance(seconds)
            with pytest.raises(RevosAuthenticationError) as caught:
                await force(tm)
            counts.append(endpoint.count - begun)
            assert caught.value.error == "invalid_client"
            assert caught.value.retry_after > 10

    assert counts == [1, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("way", ["primary", "fallback"])
async def test_forcing_never_overrides_a_retry_after(way):
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [oauth_error(503, "busy", **{"Retry-After": "60"})] * 2
    options = {"use_fallback": way == "fallback"}

    async with manager(endpoint, clock, **NO_AUTOMATIC_FALLBACK) as tm:
        with pytest.raises(RevosAuthenticationError):
            await tm.get_token(force_refresh=True, **options)
        begun = endpoint.count
        for _ in range(5):
            with pytest.raises(RevosAuthenticationError) as caught:
                await tm.get_token(force_refresh=True, **options)
            assert caught.value.retry_after > 0
            await clock.advance(10)
        unasked = endpoint.count

    assert unasked == begun


async def test_who_is_queued_for_the_fallback_gets_the_retry_after_that_came_meanwhile():
    endpoint, clock, errors = ScriptedEndpoint(), ManualClock(), []
    endpoint.script = [400, httpx.Response(429, headers={"retry-after": "120"})]

    async def ask(tm):
        with pytest.raises(RevosAuthenticationError) as caught:
            await tm.get_token(use_fallback=True)
        errors.append(caught.value)

    async with (
        manager(endpoint, clock, fallback_auth_method="client_secret_basic") as tm,
        anyio.create_task_group() as tasks,
    ):
        with endpoint.hold():
            await settle()
            tasks.start_soon(ask, tm)
            await settle()

    assert [(error.status_code, error.retry_after) for error in errors] == [(429, 120)]
    assert endpoint.count == 2


async def test_forcing_after_a_success_is_free():
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock) as tm:
        tokens = [await tm.get_token(force_refresh=True) for _ in range(5)]

    assert len(set(tokens)) == 5


async def test_each_caller_gets_an_exception_object_of_its_own_with_the_shared_cause():
    endpoint, clock, errors = ScriptedEndpoint(), ManualClock(), []
    endpoint.script = [httpx.ConnectError("made up")]

    async with manager(endpoint, clock, max_retries=1, token=ON_DEMAND) as tm:

        async def ask():
            try:
                await tm.get_token()
            except RevosAuthenticationError as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            with endpoint.hold():
                for _ in range(20):
                    tasks.start_soon(ask)
                await settle()
        await ask()  # During the pause: the held error.

    assert len({id(error) for error in errors}) == 21
    assert len({str(error) for error in errors}) == 1
    assert {type(error.__cause__) for error in errors} == {httpx.ConnectError}
    assert len({id(error.__cause__) for error in errors}) == 1
    assert errors[0].__cause__.__traceback__ is None
    assert errors[0].__cause__.__context__ is None
    assert {traceback_length(error) for error in errors[:20]} == {traceback_length(errors[0])}


def traceback_length(error):
    length, frame = 0, error.__traceback__
    while frame is not None:
        length, frame = length + 1, frame.tb_next
    return length


# While a token is usable.


async def test_while_a_token_is_usable_a_failed_refresh_is_nobodys_exception_but_visible(caplog):
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock) as tm:
        await tm.get_token()
        healthy = tm.health().state
        endpoint.script = [oauth_error(401, "invalid_client")]
        await clock.advance(DUE)
        token = await tm.get_token()
        status, health = tm.status, tm.health()
        await clock.advance(1)
        recovered, recovered_health = tm.status, tm.health().state

    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert token == "token-1"
    assert (healthy, health.state, recovered_health) == ("healthy", "degraded", "healthy")
    assert "invalid_client" in health.reason
    assert "invalid_client" in status.last_error
    assert (status.consecutive_failures, recovered.consecutive_failures) == (1, 0)
    assert recovered.last_error is None
    assert [r.name.partition(".")[0] for r in warnings] == ["revos"]
    assert "invalid_client" in warnings[0].getMessage()


async def test_who_forces_gets_the_error_and_the_others_keep_the_usable_token():
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock) as tm:
        await tm.get_token()
        endpoint.script = [400]
        with pytest.raises(RevosAuthenticationError):
            await tm.refresh()
        token = await tm.get_token()
        worked = await tm.refresh_extractor()

    assert token == "token-1"
    assert worked is False


async def test_health_goes_from_unhealthy_over_healthy_and_degraded_to_unhealthy():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    states = []

    async with manager(endpoint, clock, max_retries=1) as tm:
        states.append(tm.health().state)
        await tm.get_token()
        states.append(tm.health().state)
        endpoint.script = [503] * 1_000
        await clock.advance(DUE)
        states.append(tm.health().state)
        await clock.advance(UNUSABLE - DUE)
        states.append(tm.health().state)

    assert states == ["unhealthy", "healthy", "degraded", "unhealthy"]


# The fallback.


async def test_the_same_cycle_goes_on_to_the_fallback():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [oauth_error(401, "invalid_client")]

    async with manager(endpoint, clock, **WITH_FALLBACK) as tm:
        token = await tm.get_token()
        status, health = tm.status, tm.health()
        held = await tm.refresh(superseding="another")

    assert token == "token-2"
    assert kinds(endpoint) == ["post", "basic"]
    assert status.is_using_fallback
    assert status.consecutive_failures == 0
    assert health.state == "degraded"
    assert held.method == "client_secret_basic"


async def test_the_primary_is_tried_first_again_and_its_success_ends_the_fallback():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    refusal = oauth_error(401, "invalid_client")
    endpoint.script = [refusal, 200, refusal, 200, 200]

    async with manager(endpoint, clock, **WITH_FALLBACK) as tm:
        await tm.get_token()
        await clock.advance(DUE)
        on_fallback = tm.status.is_using_fallback
        await clock.advance(DUE)
        status = tm.status

    assert kinds(endpoint) == ["post", "basic", "post", "basic", "post"]
    assert on_fallback
    assert not status.is_using_fallback


async def test_the_fallback_follows_after_as_many_failed_cycles_as_configured():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [400] * 3
    token = {"max_failures_before_fallback": 3}

    async with manager(endpoint, clock, token=token, **WITH_FALLBACK) as tm:
        for _ in range(2):
            with pytest.raises(RevosAuthenticationError) as caught:
                await tm.get_token()
            await clock.advance(caught.value.retry_after)
        token = await tm.get_token()

    assert kinds(endpoint) == ["post", "post", "post", "basic"]
    assert token == "token-4"


async def test_when_both_fail_the_error_tells_of_the_whole_cycle_and_the_last_attempt():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [503, 503, oauth_error(401, "invalid_client")]

    async with manager(endpoint, clock, max_retries=2, token=ON_DEMAND, **WITH_FALLBACK) as tm:
        error = await error_of(clock, tm.get_token)

    assert kinds(endpoint) == ["post", "post", "basic"]
    assert error.attempts == 3
    assert (error.method, error.status_code) == ("client_secret_basic", 401)
    assert error.error == "invalid_client"


async def test_a_fallback_that_is_switched_off_is_used_only_where_it_is_asked_for():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [400]

    async with manager(endpoint, clock, **NO_AUTOMATIC_FALLBACK) as tm:
        with pytest.raises(RevosAuthenticationError):
            await tm.get_token()
        token = await tm.get_token(use_fallback=True)
        is_using_fallback = tm.status.is_using_fallback

    assert kinds(endpoint) == ["post", "basic"]
    assert token == "token-2"
    assert is_using_fallback


@pytest.mark.parametrize("settings", [{}, {"fallback_auth_method": "private_key_jwt"}], ids=str)
async def test_asking_for_a_fallback_that_is_none_is_a_configuration_error(settings):
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock, **settings) as tm:
        await tm.get_token()
        with pytest.raises(RevosConfigurationError, match="fallback"):
            await tm.get_token(use_fallback=True, force_refresh=True)
        with pytest.raises(RevosConfigurationError, match="fallback"):
            await tm.refresh(use_fallback=True)

    assert endpoint.count == 1


async def test_the_fallback_may_have_an_endpoint_a_client_and_a_secret_of_its_own():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [400]
    settings = {
        "fallback_auth_method": "client_secret_post",
        "fallback_token_url": "http://127.0.0.1:10/other",
        "fallback_client_id": "second",
        "fallback_client_secret": "other",
    }

    async with manager(endpoint, clock, **settings) as tm:
        await tm.get_token()

    assert str(endpoint.requests[1].url) == "http://127.0.0.1:10/other"
    assert b"client_id=second&client_secret=other" in endpoint.requests[1].content


# Requests that cannot be built.


async def test_a_missing_secret_file_is_not_tried_again_and_a_later_one_is_read(tmp_path):
    endpoint, clock, path = ScriptedEndpoint(), ManualClock(), tmp_path / "secret"
    settings = {"client_secret": None, "client_secret_file": str(path)}

    async with manager(endpoint, clock, **settings) as tm:
        with pytest.raises(RevosAuthenticationError, match="secret") as caught:
            await tm.get_token()
        asked = endpoint.count
        path.write_text("first\n")
        await clock.advance(caught.value.retry_after)
        await tm.get_token()
        path.write_text("second")
        await tm.refresh()

    assert asked == 0
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert caught.value.__cause__.__traceback__ is None
    assert caught.value.temporary
    assert [request.content.rpartition(b"=")[2] for request in endpoint.requests] == [
        b"first",
        b"second",
    ]


class Endless(httpx.AsyncByteStream):
    """A body that goes on for ever, and how much of it was taken."""

    def __init__(self):
        self.taken = 0

    def __aiter__(self):
        return self

    async def __anext__(self):
        await checkpoint()
        self.taken += 65_536
        return b" " * 65_536


async def test_of_a_body_that_never_ends_no_more_than_a_mebibyte_is_read():
    endpoint, body = ScriptedEndpoint(), Endless()
    endpoint.script = [httpx.Response(200, stream=body)]

    async with manager(endpoint) as tm:
        with pytest.raises(RevosAuthenticationError, match="over 1048576 bytes"):
            await tm.get_token()

    assert body.taken <= (1 << 20) + 3 * 65_536


async def test_a_file_that_cannot_be_decoded_by_whatever_reads_it_fails_the_cycle(monkeypatch):
    def read(path):
        raise ValueError(f"embedded null byte in {path}")

    monkeypatch.setattr(credentials, "read_secret_file", read)

    async with manager(ScriptedEndpoint(), client_secret=None, client_secret_file="s3cret") as tm:
        with pytest.raises(RevosAuthenticationError, match=r"can be built \(ValueError\)"):
            await tm.get_token()


async def test_a_url_that_httpx_refuses_fails_the_cycle():
    long = "https://auth.example/" + "x" * 70_000

    async with manager(ScriptedEndpoint(), token_url=long) as tm:
        with pytest.raises(RevosAuthenticationError, match=r"no answer \(InvalidURL"):
            await tm.get_token()


async def test_a_client_of_the_user_that_was_closed_is_an_error_that_says_so():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    tm = manager(endpoint, clock)
    await tm._http_client.aclose()

    async with tm:
        with pytest.raises(RevosAuthenticationError, match="closed"):
            await tm.get_token()

    assert endpoint.count == 0


async def test_what_the_server_says_is_kept_short_printable_and_without_secrets():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    said = f"bad \x1b[31m secret {CLIENT_SECRET}\n" + "x" * 5_000
    body = {"error": "invalid_client", "error_description": said}
    endpoint.script = [httpx.Response(401, json=body)]

    async with manager(endpoint, clock, token=ON_DEMAND) as tm:
        with pytest.raises(RevosAuthenticationError) as caught:
            await tm.get_token()

    description = caught.value.error_description
    assert len(description) <= 500
    assert description.isprintable()
    assert CLIENT_SECRET not in description
    assert "***" in description
