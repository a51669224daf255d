"""Clocks that jump, stand still or are wrong, and lifetimes at both ends of what is allowed."""

import json
from base64 import urlsafe_b64decode
from email.utils import formatdate
from urllib.parse import parse_qs

import anyio
import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support import ManualClock, ScriptedEndpoint, manager, settle

from revos import RevosAuthenticationError

HOUR, DAY, YEAR = 3600.0, 86_400.0, 365 * 86_400.0
ON_DEMAND = {"enable_periodic_refresh": False}
TOKEN_SETTINGS = pytest.mark.parametrize("token", [{}, ON_DEMAND], ids=["loop", "on-demand"])


# Clocks that jump and clocks that stand still.


@TOKEN_SETTINGS
@pytest.mark.parametrize("jump", [-5 * DAY, -3 * HOUR, -1.0])
async def test_a_wall_clock_set_back_makes_no_token_live_longer(token, jump):
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock, token=token) as tm, tm.subscribe() as stream:
        await tm.get_token()
        clock.now_time += jump
        with endpoint.hold():
            await clock.advance(HOUR - 30.5)
            last = (tm.get_token_nowait(), await tm.get_token(), stream.latest.value)
            await clock.advance(1.0)
            with pytest.raises(anyio.WouldBlock):
                tm.get_token_nowait()
            latest, has_token = stream.latest, tm.status.has_token
        newer = await tm.get_token()

    assert last == ("token-1", "token-1", "token-1")
    assert (latest, has_token) == (None, False)
    assert newer == "token-2"


@TOKEN_SETTINGS
async def test_a_wall_clock_set_forward_ends_a_token_and_one_set_right_again_ends_no_later_one(
    token,
):
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock, token=token) as tm:
        await tm.get_token()
        clock.now_time += 3 * HOUR
        second = await tm.get_token()
        clock.now_time -= 3 * HOUR
        kept = [await tm.get_token(), tm.get_token_nowait()]
        with endpoint.hold():
            await clock.advance(HOUR - 31.0)
            kept.append(tm.get_token_nowait())
            await clock.advance(2.0)
            with pytest.raises(anyio.WouldBlock):
                tm.get_token_nowait()

    assert second == "token-2"
    assert kept == ["token-2"] * 3


async def test_a_wall_clock_that_jumps_past_due_starts_a_refresh_that_nobody_waits_for():
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock) as tm:
        await tm.get_token()
        clock.now_time += 46 * 60.0
        with endpoint.hold():
            during = [await tm.get_token(), await tm.get_token()]
            await settle()
            in_flight = endpoint.in_flight
        await settle()
        after = tm.get_token_nowait()

    assert during == ["token-1", "token-1"]
    assert in_flight == 1
    assert (after, endpoint.count) == ("token-2", 2)


async def test_a_pause_after_a_failure_is_neither_shortened_nor_lengthened_by_the_wall_clock():
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.script = [400]
    told = []

    async with manager(endpoint, clock) as tm:
        for jump in (0.0, 5 * DAY, -9 * DAY):
            await settle()
            clock.now_time += jump
            with pytest.raises(RevosAuthenticationError) as caught:
                await tm.get_token()
            told.append(caught.value.retry_after)
        await clock.advance(0.49)
        before = endpoint.count
        await clock.advance(0.02)

    assert told == [0.5] * 3
    assert (before, endpoint.count) == (1, 2)


@pytest.mark.parametrize("counts_suspension", [False, True], ids=["stands-still", "counts"])
async def test_after_a_day_of_suspension_nobody_gets_the_old_token(counts_suspension):
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    received = []

    async def listen(stream):
        async for token in stream:
            is_good = token.expires_at.timestamp() > clock.time()
            received.append((token.value, is_good))

    async with (
        manager(endpoint, clock) as tm,
        tm.subscribe() as stream,
        tm.subscribe() as late,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listen, stream)
        await tm.get_token()
        await settle()
        clock.now_time += DAY
        clock.now_monotonic += DAY * counts_suspension
        # The timer of the loop has not fired yet.
        with pytest.raises(anyio.WouldBlock):
            tm.get_token_nowait()
        with pytest.raises(anyio.WouldBlock):
            late.receive_nowait()
        latest, before = late.latest, endpoint.count
        first = await tm.get_token()
        await settle()
        tasks.cancel_scope.cancel()

    assert (latest, before) == (None, 1)
    assert first == "token-2"
    assert endpoint.count == 2
    assert received == [("token-1", True), ("token-2", True)]


async def test_the_loop_refreshes_by_itself_where_its_clock_counts_the_suspension():
    endpoint, clock = ScriptedEndpoint(), ManualClock()

    async with manager(endpoint, clock) as tm:
        await tm.get_token()
        await clock.advance(DAY)
        token = tm.get_token_nowait()

    assert token == "token-2"
    assert endpoint.count == 2


async def test_a_thousand_who_ask_after_a_suspension_share_one_request():
    endpoint, clock, got = ScriptedEndpoint(), ManualClock(), []

    async def ask():
        got.append(await tm.get_token())

    async with manager(endpoint, clock) as tm:
        await tm.get_token()
        clock.now_time += DAY
        async with anyio.create_task_group() as tasks:
            for _ in range(1_000):
                tasks.start_soon(ask)

    assert got == ["token-2"] * 1_000
    assert endpoint.count == 2


# Lifetimes.


@pytest.mark.parametrize(
    ("lifetime", "kept", "due"),
    [
        (1, 1, 0.5),
        (60, 60, 30),
        (10 * YEAR, 10 * YEAR, 45 * 60),
        (10 * YEAR + 1, 10 * YEAR, 45 * 60),
        (1e300, 10 * YEAR, 45 * 60),
    ],
)
async def test_a_lifetime_from_a_second_to_ten_years_is_kept_and_a_longer_one_capped(
    lifetime, kept, due
):
    endpoint, clock = ScriptedEndpoint(lifetime), ManualClock()

    async with manager(endpoint, clock) as tm:
        await tm.get_token()
        expires_in = tm.status.expires_at.timestamp() - clock.time()
        await clock.advance(due * 0.999)
        before = endpoint.count
        with endpoint.hold():
            await clock.advance(due * 0.002)
            asked = endpoint.count
            leeway = min(30.0, kept / 10)
            await clock.advance(kept - leeway - due * 1.001 - 0.01)
            last = tm.get_token_nowait()
            await clock.advance(0.02)
            with pytest.raises(anyio.WouldBlock):
                tm.get_token_nowait()

    assert expires_in == pytest.approx(kept)
    assert (before, asked) == (1, 2)
    assert last == "token-1"


# A host whose clock is wrong.


@pytest.mark.parametrize("wrong_by", [-20 * YEAR, -DAY, -50.0, 50.0, DAY, 20 * YEAR])
async def test_a_wrong_clock_changes_neither_how_long_a_token_is_used_nor_a_retry_after(wrong_by):
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    server_time = clock.now_time
    clock.now_time += wrong_by
    headers = {
        "date": formatdate(server_time, usegmt=True),
        "retry-after": formatdate(server_time + 100.0, usegmt=True),
    }
    endpoint.script = [httpx.Response(503, headers=headers)]

    async with manager(endpoint, clock) as tm:
        with pytest.raises(RevosAuthenticationError) as caught:
            await tm.get_token()
        await clock.advance(99.9)
        too_soon = endpoint.count
        await clock.advance(0.2)
        token = tm.get_token_nowait()
        with endpoint.hold():
            await clock.advance(HOUR - 31.0)
            last = tm.get_token_nowait()

    assert caught.value.retry_after == 100.0
    assert too_soon == 1
    assert token == last == "token-2"


@pytest.mark.parametrize("wrong_by", [-3 * HOUR, 3 * HOUR])
async def test_an_assertion_that_a_wrong_clock_dated_is_refused_with_words_about_the_clock(
    tmp_path, wrong_by
):
    server, clock = _AssertionServer(), ManualClock()
    server.time, clock.now_time = clock.now_time, clock.now_time + wrong_by

    async with manager(
        server, clock, auth_method="private_key_jwt", private_key_file=str(_key_in(tmp_path)),
        assertion_algorithm="ES256", client_secret=None,
    ) as tm:  # fmt: skip
        with pytest.raises(RevosAuthenticationError, match=r"check .*clock") as caught:
            await tm.get_token()
        clock.now_time -= wrong_by  # Somebody has read that.
        await clock.advance(caught.value.retry_after)
        token = tm.get_token_nowait()

    assert caught.value.error == "invalid_client"
    assert token == "good"


class _AssertionServer:
    """A token endpoint that judges `iat` and `exp` of an assertion by a clock of its own."""

    time = 0.0

    def client(self):
        return httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    def _answer(self, request):
        (assertion,) = parse_qs(request.content.decode())["client_assertion"]
        claims = json.loads(urlsafe_b64decode(assertion.split(".")[1] + "=="))
        if claims["iat"] - 5 <= self.time < claims["exp"]:
            return httpx.Response(200, json={"access_token": "good", "expires_in": 60})
        return httpx.Response(401, json={"error": "invalid_client"})


def _key_in(folder):
    path = folder / "key.pem"
    path.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path
