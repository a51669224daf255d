"""What a manager tells of itself, in each state (design, sections 3 and 5)."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from attrs import asdict, evolve

from revos.oauth2 import Failure
from revos.policy import Failed, Held, Now, Rules, State, Turn, Way, step
from revos.status import Health, TokenStatus, health_of, status_of
from revos.token import AccessToken

NOW = Now(1_000.0, 1_800_000_000.0)
HOUR_LATER = Now(4_600.0, 1_800_003_600.0)
EXPIRES_AT = datetime(2027, 1, 15, 9, 0, tzinfo=UTC)  # an hour after NOW
FAILURE = Failure(
    "the token endpoint refused", retryable=False, temporary=False, method="client_secret_post"
)
KEYS = [
    "has_token",
    "expires_at",
    "time_until_expiry",
    "consecutive_failures",
    "last_refresh_at",
    "last_error",
    "is_using_fallback",
]


def held(by=Way.PRIMARY):
    return Held(
        token=AccessToken("s3cret", EXPIRES_AT, "read", "client_secret_post"),
        by=by,
        due_at=NOW.monotonic + 2_700.0,
        due_time=NOW.time + 2_700.0,
        unusable_at=NOW.monotonic + 3_570.0,
        unusable_time=NOW.time + 3_570.0,
    )


BEFORE_THE_FIRST_FETCH = State()
FRESH = State(held=held(), begun=1, last_refresh_time=NOW.time)
BY_FALLBACK = evolve(FRESH, held=held(by=Way.FALLBACK))
REFRESH_FAILS = evolve(FRESH, consecutive_failures=2, last_failure=FAILURE, last_attempts=3)
FETCH_FAILED = State(begun=1, consecutive_failures=1, last_failure=FAILURE, last_attempts=1)


# TokenStatus.


def test_before_the_first_fetch_there_is_nothing_to_tell():
    assert status_of(BEFORE_THE_FIRST_FETCH, NOW) == TokenStatus(
        has_token=False,
        expires_at=None,
        time_until_expiry=None,
        consecutive_failures=0,
        last_refresh_at=None,
        last_error=None,
        is_using_fallback=False,
    )


def test_a_usable_token_is_told_with_its_end():
    later = Now(NOW.monotonic + 60.0, NOW.time + 60.0)

    assert status_of(FRESH, later) == TokenStatus(
        has_token=True,
        expires_at=EXPIRES_AT,
        time_until_expiry=3_540.0,
        consecutive_failures=0,
        last_refresh_at=EXPIRES_AT - timedelta(hours=1),
        last_error=None,
        is_using_fallback=False,
    )


def test_times_are_in_utc():
    status = status_of(FRESH, NOW)

    assert (status.expires_at.tzinfo, status.last_refresh_at.tzinfo) == (UTC, UTC)


def test_a_token_of_the_fallback_is_told():
    assert status_of(BY_FALLBACK, NOW) == evolve(status_of(FRESH, NOW), is_using_fallback=True)


def test_a_failing_refresh_is_told_beside_the_usable_token():
    assert status_of(REFRESH_FAILS, NOW) == evolve(
        status_of(FRESH, NOW), consecutive_failures=2, last_error="the token endpoint refused"
    )


@pytest.mark.parametrize(
    "now",
    [
        HOUR_LATER,
        Now(NOW.monotonic + 3_570.0, NOW.time),
        Now(NOW.monotonic, NOW.time + 3_570.0),
    ],
    ids=["both clocks", "monotonic clock", "wall clock"],
)
def test_a_token_that_is_not_usable_any_more_is_none(now):
    assert status_of(BY_FALLBACK, now) == evolve(
        status_of(BEFORE_THE_FIRST_FETCH, now), last_refresh_at=EXPIRES_AT - timedelta(hours=1)
    )


def test_a_fetch_that_failed_is_told():
    assert status_of(FETCH_FAILED, NOW) == evolve(
        status_of(BEFORE_THE_FIRST_FETCH, NOW),
        consecutive_failures=1,
        last_error="the token endpoint refused",
    )


@pytest.mark.parametrize(
    "state", [BEFORE_THE_FIRST_FETCH, FRESH, BY_FALLBACK, REFRESH_FAILS, FETCH_FAILED]
)
def test_a_status_has_exactly_the_keys_of_get_token_info_and_is_json(state):
    status = status_of(state, NOW)

    read = json.loads(json.dumps(status.as_dict(), allow_nan=False))

    assert list(read) == KEYS
    assert list(asdict(status)) == KEYS


def test_a_status_as_json_has_times_in_iso_8601_and_in_utc():
    assert status_of(REFRESH_FAILS, NOW).as_dict() == {
        "has_token": True,
        "expires_at": "2027-01-15T09:00:00+00:00",
        "time_until_expiry": 3600.0,
        "consecutive_failures": 2,
        "last_refresh_at": "2027-01-15T08:00:00+00:00",
        "last_error": "the token endpoint refused",
        "is_using_fallback": False,
    }


def test_a_status_as_json_has_none_where_there_is_nothing():
    assert status_of(BEFORE_THE_FIRST_FETCH, NOW).as_dict() == {
        "has_token": False,
        "expires_at": None,
        "time_until_expiry": None,
        "consecutive_failures": 0,
        "last_refresh_at": None,
        "last_error": None,
        "is_using_fallback": False,
    }


def test_a_failure_within_a_cycle_that_goes_on_is_not_told():
    rules = Rules(2_700.0, 300.0, 3, 30.0, periodic=True, fallback_after=1)

    running, _ = step(BEFORE_THE_FIRST_FETCH, Turn(), NOW, rules)
    goes_on, _ = step(running, Failed(FAILURE, 0.0), NOW, rules)

    assert goes_on.cycle.way is Way.FALLBACK
    assert status_of(goes_on, NOW).last_error is None


# Health.


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (FRESH, Health("healthy", "a usable token")),
        (
            REFRESH_FAILS,
            Health("degraded", "a usable token, but its refresh fails: the token endpoint refused"),
        ),
        (BY_FALLBACK, Health("degraded", "a usable token, but the primary method gave none")),
        (FETCH_FAILED, Health("unhealthy", "no usable token: the token endpoint refused")),
    ],
    ids=["fresh", "refresh fails", "by fallback", "fetch failed"],
)
@pytest.mark.parametrize("periodic", [True, False])
def test_health_is_that_of_the_token_and_of_the_last_cycle(state, expected, periodic):
    assert health_of(state, NOW, periodic=periodic) == expected


def test_health_names_the_failure_where_the_fallback_fails_too():
    failing = evolve(BY_FALLBACK, consecutive_failures=1, last_failure=FAILURE)

    health = health_of(failing, NOW, periodic=True)

    assert (health.state, FAILURE.reason in health.reason) == ("degraded", True)


def test_before_the_first_fetch_the_loop_is_unhealthy():
    health = health_of(BEFORE_THE_FIRST_FETCH, NOW, periodic=True)

    assert health == Health("unhealthy", "no usable token yet")


def test_on_demand_idling_is_healthy():
    idle = Health("healthy", "idle: tokens are fetched on demand")

    assert health_of(BEFORE_THE_FIRST_FETCH, NOW, periodic=False) == idle
    assert health_of(FRESH, HOUR_LATER, periodic=False) == idle


@pytest.mark.parametrize("periodic", [True, False])
def test_after_a_failed_cycle_an_expired_token_is_unhealthy(periodic):
    assert health_of(REFRESH_FAILS, HOUR_LATER, periodic=periodic).state == "unhealthy"


def test_an_expired_token_makes_the_loop_unhealthy_by_either_clock():
    by_monotonic, by_wall = Now(HOUR_LATER.monotonic, NOW.time), Now(NOW.monotonic, HOUR_LATER.time)

    assert health_of(FRESH, by_monotonic, periodic=True).state == "unhealthy"
    assert health_of(FRESH, by_wall, periodic=True).state == "unhealthy"


def test_health_asks_for_failed_cycles_and_not_for_failed_attempts():
    with_token = evolve(FRESH, last_failure=FAILURE)
    without = evolve(BEFORE_THE_FIRST_FETCH, last_failure=FAILURE)

    assert health_of(with_token, NOW, periodic=True) == Health("healthy", "a usable token")
    assert health_of(without, NOW, periodic=True) == Health("unhealthy", "no usable token yet")
    assert health_of(without, NOW, periodic=False).state == "healthy"


# P10: secrets stay inside.


def test_neither_status_nor_health_has_the_token():
    status, health = status_of(FRESH, NOW), health_of(FRESH, NOW, periodic=True)

    assert "s3cret" not in repr(status) + json.dumps(status.as_dict()) + repr(health)
