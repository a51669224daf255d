"""What a manager tells of itself: snapshots that hold no secret (P10)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import attrs
from attrs import frozen

from revos.policy import Now, State, Way

__all__ = ["Health", "TokenStatus", "health_of", "status_of"]


@frozen
class TokenStatus:
    """The token and its refreshes at one moment.

    :ivar has_token: a usable token is held
    :ivar expires_at: its end in UTC, or None
    :ivar time_until_expiry: seconds to it, or None
    :ivar consecutive_failures: failed cycles since the last success
    :ivar last_refresh_at: when the last token came, in UTC, or None
    :ivar last_error: why the last cycle failed, or None where it did not
    :ivar is_using_fallback: the held token came by the fallback
    """

    has_token: bool
    expires_at: datetime | None
    time_until_expiry: float | None
    consecutive_failures: int
    last_refresh_at: datetime | None
    last_error: str | None
    is_using_fallback: bool

    def as_dict(self) -> dict[str, object]:
        """The same for `json.dumps`: times in ISO 8601."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in attrs.asdict(self).items()
        }


@frozen
class Health:
    """`state` for a probe, `reason` for a person."""

    state: Literal["healthy", "degraded", "unhealthy"]
    reason: str


def status_of(state: State, now: Now) -> TokenStatus:
    held = state.held if state.held is not None and state.held.is_usable(now) else None
    refreshed = state.last_refresh_time
    return TokenStatus(
        has_token=held is not None,
        expires_at=held.token.expires_at if held is not None else None,
        time_until_expiry=held.token.expires_at.timestamp() - now.time
        if held is not None
        else None,
        consecutive_failures=state.consecutive_failures,
        last_refresh_at=datetime.fromtimestamp(refreshed, UTC) if refreshed is not None else None,
        last_error=state.last_failure.reason if state.last_failure is not None else None,
        is_using_fallback=held is not None and held.by is Way.FALLBACK,
    )


def health_of(state: State, now: Now, *, periodic: bool) -> Health:
    held, failure = state.held, state.last_failure
    if held is not None and held.is_usable(now):
        if state.consecutive_failures and failure is not None:
            return Health("degraded", f"a usable token, but its refresh fails: {failure.reason}")
        if held.by is Way.FALLBACK:
            return Health("degraded", "a usable token, but the primary method gave none")
        return Health("healthy", "a usable token")
    if state.consecutive_failures and failure is not None:
        return Health("unhealthy", f"no usable token: {failure.reason}")
    if not periodic:
        return Health("healthy", "idle: tokens are fetched on demand")
    return Health("unhealthy", "no usable token yet")
