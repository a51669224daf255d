"""What a response's headers tell: `Retry-After` (RFC 9110), Bearer challenges (RFC 6750). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime

from revos.redact import redact

__all__ = ["asks_for_new_token", "challenge_error", "retry_after_of"]

_YEAR = 365 * 86_400  # seconds


def retry_after_of(
    value: str | None, now: float | None = None, date: str | None = None
) -> float | None:
    """The seconds to wait that a `Retry-After` header tells (RFC 9110 §10.2.3), 0 to a year.

    :param value: seconds or a date, or None
    :param now: seconds since the epoch; without it a date tells nothing
    :param date: the `Date` of the same response: where it can be read it counts in place of `now`,
        since the clock of this machine may be wrong

    >>> retry_after_of("120"), retry_after_of("Thu, 01 Jan 1970 00:01:00 GMT", now=50)
    (120.0, 10.0)
    """
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", text):
        return min(float(text), float(_YEAR))
    if now is None:
        return None
    until, said_at = _seconds_of(text), _seconds_of(date or "")
    if until is None:
        return None
    seconds = until - (now if said_at is None else said_at)
    return min(max(0.0, seconds), float(_YEAR))


def _seconds_of(date: str) -> float | None:
    """The seconds since the epoch of an HTTP date, or None where it is none."""
    try:
        read = parsedate_to_datetime(date)
        # The oldest of the three formats has no zone; all of them are in UTC.
        return read.replace(tzinfo=read.tzinfo or UTC).timestamp()
    except Exception:  # noqa: BLE001 - it raises whatever it stumbles over.
        return None


# A list of challenges (RFC 9110 §11.6.1): a comma ends a parameter or a whole challenge, and only
# the "=" behind a name tells which. More is read than the grammar has: parameters without commas
# between them, and unquoted values with any characters, as gateways send both.
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_CHALLENGE_PART = re.compile(
    rf"""
    [\s,]*+ (?:
        (?P<name>{_NAME}) [ \t]*+ = [ \t]*+
            (?: "(?P<quoted> (?: [^"\\] | \\. )*+ )" | (?P<plain> [^\s,"]++ ) )
      | (?P<scheme>{_NAME}) (?: [ ]++ [\w.~+/-]++ =*+ (?= [ \t]*+ (?: , | \Z ) ) )?+
            (?= [\s,] | \Z )
    )
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)


def challenge_error(www_authenticate: Sequence[str]) -> str | None:
    r"""The first `error` of a Bearer challenge (RFC 6750 §3), as it may be shown, or None.

    >>> challenge_error(['Basic realm="a, b", Bearer realm="c", error="invalid_token"'])
    'invalid_token'
    """
    return next((redact(error, ()) for error in _bearer_errors(www_authenticate)), None)


def asks_for_new_token(status: int, www_authenticate: Sequence[str]) -> bool:
    """Whether the refusal of a request is one of its token, which a newer one can cure (P6).

    >>> asks_for_new_token(401, []), asks_for_new_token(403, [])
    (True, False)
    >>> asks_for_new_token(401, ['Bearer error="insufficient_scope"'])
    False
    """
    errors = [error.lower() == "invalid_token" for error in _bearer_errors(www_authenticate)]
    return (status == 401 and all(errors)) or (status == 403 and any(errors))


def _bearer_errors(www_authenticate: Sequence[str]) -> Iterator[str]:
    for line in www_authenticate:
        scheme, at = "", 0
        # What can't be read ends its line; what stands before it counts.
        while part := _CHALLENGE_PART.match(line, at):
            at = part.end()
            scheme = (part["scheme"] or scheme).lower()
            if scheme == "bearer" and (part["name"] or "").lower() == "error":
                quoted = part["quoted"]
                yield part["plain"] if quoted is None else re.sub(r"(?s)\\(.)", r"\1", quoted)
