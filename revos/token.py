"""What a token is to those who hold one: its value, and facts that may be shown."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import ClassVar

from attrs import field, frozen

from revos.unpickled import Unpickled

__all__ = ["AccessToken", "fingerprint_of"]


def fingerprint_of(value: str) -> str:
    """The first 8 hex digits of the SHA-256: a name for a token that logs may hold (P10)."""
    return hashlib.sha256(value.encode()).hexdigest()[:8]


@frozen
class AccessToken(Unpickled):
    """One access token (RFC 6749 §1.4).

    :ivar value: the token itself; it is in no `repr`
    :ivar expires_at: when the authorization server says it ends, in UTC
    :ivar scope: the scope it was issued with, or None where the server did not say
    :ivar method: the client authentication method that got it (RFC 7591 §2 name)
    :ivar fingerprint: the first 8 hex digits of its SHA-256

    >>> from datetime import datetime, timezone
    >>> AccessToken("s3cret", datetime(2030, 1, 1, tzinfo=timezone.utc), None, "client_secret_post")
    AccessToken(expires_at=datetime.datetime(2030, 1, 1, 0, 0, tzinfo=datetime.timezone.utc), \
scope=None, method='client_secret_post', fingerprint='1ec1c26b')
    """

    _instead: ClassVar[str] = (
        "Enter a TokenManager in the process that needs one, or send its value in a way of your own"
    )

    value: str = field(repr=False)
    expires_at: datetime
    scope: str | None
    method: str
    fingerprint: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", fingerprint_of(self.value))
