"""What a gateway counts. Read it from any thread; only the gateway writes."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["ChatRecord", "Tally", "TokenRecord"]


@frozen
class TokenRecord:
    """One token request, once it was answered or given up.

    :ivar method: how the client authenticated, by its RFC 7591 §2 name, or None
    :ivar status: the status of the answer, or None where the client left before
    :ivar params: the form without secrets
    :ivar at: when it came, on the gateway's clock
    """

    method: str | None
    status: int | None
    params: Mapping[str, str]
    at: float


@frozen
class ChatRecord:
    """One chat request: what was asked, and with which token (its fingerprint, never itself)."""

    payload: Mapping[str, Any] = field(repr=False)
    token_fingerprint: str
    at: float


@define(eq=False, repr=False, slots=False)
class Tally:
    """The counters of a gateway.

    :ivar token_requests: token requests so far
    :ivar token_log: one record for each that has ended
    :ivar in_flight_token_requests: how many are being answered
    :ivar max_token_requests_in_flight: the most that were answered at the same time
    :ivar api_requests: requests to the protected API, refused ones included
    :ivar in_flight_api_requests: how many are being answered
    :ivar max_api_requests_in_flight: the most that were answered at the same time
    :ivar chat_log: the last 1,000 chat requests
    :ivar refusals: API requests whose token was refused
    """

    token_requests: int = field(default=0, init=False)
    token_log: list[TokenRecord] = field(factory=list, init=False)
    in_flight_token_requests: int = field(default=0, init=False)
    max_token_requests_in_flight: int = field(default=0, init=False)
    api_requests: int = field(default=0, init=False)
    in_flight_api_requests: int = field(default=0, init=False)
    max_api_requests_in_flight: int = field(default=0, init=False)
    chat_log: deque[ChatRecord] = field(factory=lambda: deque(maxlen=1000), init=False)
    refusals: int = field(default=0, init=False)
    _token_peers: set[tuple[str, int]] = field(factory=set, init=False)
    _api_peers: set[tuple[str, int]] = field(factory=set, init=False)

    @property
    def connections(self) -> int:
        """Distinct connections that carried a request."""
        return len(self._token_peers | self._api_peers)

    @property
    def token_connections(self) -> int:
        """Distinct connections that carried a token request."""
        return len(self._token_peers)

    @property
    def api_connections(self) -> int:
        """Distinct connections that carried an API request."""
        return len(self._api_peers)

    def reset_counters(self) -> None:
        """Count from nought again; what is being answered goes on counting as in flight."""
        self.token_requests = self.api_requests = self.refusals = 0
        self.max_token_requests_in_flight = self.in_flight_token_requests
        self.max_api_requests_in_flight = self.in_flight_api_requests
        self.token_log.clear()
        self.chat_log.clear()
        self._token_peers.clear()
        self._api_peers.clear()

    @contextmanager
    def _counted_token(self, peer: tuple[str, int] | None) -> Iterator[None]:
        self.token_requests += 1
        self.in_flight_token_requests += 1
        self.max_token_requests_in_flight = max(
            self.max_token_requests_in_flight, self.in_flight_token_requests
        )
        if peer:
            self._token_peers.add(peer)
        try:
            yield
        finally:
            self.in_flight_token_requests -= 1

    @contextmanager
    def _counted_api(self, peer: tuple[str, int] | None) -> Iterator[None]:
        self.api_requests += 1
        self.in_flight_api_requests += 1
        self.max_api_requests_in_flight = max(
            self.max_api_requests_in_flight, self.in_flight_api_requests
        )
        if peer:
            self._api_peers.add(peer)
        try:
            yield
        finally:
            self.in_flight_api_requests -= 1
