"""`BearerAuth`: an HTTP client's auth over a manager (RFC 6750 §2.1), and what a 401 does (P6).

Between a flow's yields stands no lock and no cancel scope: a client may close a flow from another
task than the one that advanced it. The policy decides whether a refusal may cost a refresh; here
the request is sent, and sent once more.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import httpx
from attrs import define, field

from revos.errors import RevosConfigurationError, RevosError
from revos.http_headers import asks_for_new_token
from revos.policy import Ask, Refusals, replay_accepted, replay_refused, untried_accepted
from revos.token import AccessToken

if TYPE_CHECKING:
    from revos.manager import TokenManager

__all__ = ["BearerAuth", "token_of"]

logger = logging.getLogger("revos.auth")

# While one request waits for its answer.
MOST_SENT = 32


@define
class Consumer:
    """Who shares one delay after refused replays.

    :ivar replays: the tokens of the replays that are not answered yet, each under a key of its own
    :ivar sent: the latest tokens that were sent, newest first: an answer may quote one of them
    :ivar untried: a token that counts as refused only because its request could not be replayed
    """

    refusals: Refusals = field(factory=Refusals)
    replays: dict[object, str] = field(factory=dict, repr=False)
    sent: tuple[AccessToken, ...] = ()
    untried: str | None = field(default=None, repr=False)


class BearerAuth(httpx.Auth):
    """Adds the manager's token to requests, and replays one that was refused with 401 once.

    It serves `httpx.AsyncClient`, `httpx.Client` in a worker thread, and the clients of `httpx2`
    where that was imported before. A request whose body can't be sent twice is not replayed.

    :param manager: an open `TokenManager`, or one that is open when the first request is sent
    :param origins: URLs whose origins may get the token; the origin of `base_url` where None.
        Requests to other origins pass without it
    :raises RevosConfigurationError: an origin is not an http(s) URL

    >>> import anyio, httpx
    >>> from revos import TokenManager
    >>> from revos.testing import serve_gateway
    >>> async def main():
    ...     async with serve_gateway() as gateway, TokenManager(gateway.config()) as tm:
    ...         async with httpx.AsyncClient(auth=BearerAuth(tm)) as http:
    ...             gateway.revoke(await tm.get_token())
    ...             response = await http.get(gateway.base_url + "/models")
    ...     print(response.status_code, gateway.token_requests)
    >>> anyio.run(main)
    200 2
    """

    requires_request_body = False
    requires_response_body = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: ARG004 - `__init__` has them
        if cls is BearerAuth and "httpx2" in sys.modules:
            from revos.auth_httpx2 import DualBearerAuth

            return object.__new__(DualBearerAuth)  # type: ignore[return-value]  # it is a subclass
        return object.__new__(cls)

    def __init__(
        self,
        manager: TokenManager,
        origins: Iterable[str] | None = None,
        *,
        _consumer: Consumer | None = None,
    ) -> None:
        self._manager = manager
        self._origins = None if origins is None else frozenset(map(_origin_of_text, origins))
        self._consumer = _consumer if _consumer is not None else Consumer()
        self._warned: set[tuple[bytes, bytes, int]] = set()

    def __repr__(self) -> str:
        return f"<{BearerAuth.__name__} of {self._manager!r}>"

    def in_todays_form(self) -> BearerAuth:
        """The same consumer, as an `httpx2.Auth` too if that was imported meanwhile."""
        if type(self) is BearerAuth and "httpx2" in sys.modules:
            return BearerAuth(self._manager, _consumer=self._consumer)
        return self

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        if not self._is_ours(request.url):
            yield request
            return
        manager = self._manager
        # Tokens here and never their values: what is raised from here takes this frame along.
        token = manager._fresh_nowait() or await manager._obtain_anywhere(Ask())
        self._put(request, token)
        response = yield request
        if not _is_refusal(response, token):
            self._note_accepted(token)
            return
        await response.aread()  # Its connection is free for others while this waits.
        try:
            newer = await manager._obtain_anywhere(self._ask_again(token))
        except RevosError:
            return  # No newer token: the caller sees the gateway's 401.
        if self._may_replay(request, token, newer):
            self._put(request, newer)
            with self._replaying(newer):
                response = yield request
            self._note_replay(newer, refused=_is_refusal(response, newer))

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        if not self._is_ours(request.url):
            yield request
            return
        manager = self._manager
        token = manager._fresh_nowait()
        if token is None:
            token = manager._call_from_thread(partial(manager._obtain, Ask()))
        self._put(request, token)
        response = yield request
        if not _is_refusal(response, token):
            self._note_accepted(token)
            return
        response.read()
        try:
            newer = manager._call_from_thread(partial(manager._obtain, self._ask_again(token)))
        except RevosError:
            return
        if self._may_replay(request, token, newer):
            self._put(request, newer)
            with self._replaying(newer):
                response = yield request
            self._note_replay(newer, refused=_is_refusal(response, newer))

    def sent(self) -> tuple[AccessToken, ...]:
        """The latest tokens that requests went with, newest first."""
        return self._consumer.sent

    def _put(self, request: Any, token: AccessToken) -> None:
        request.headers["Authorization"] = f"Bearer {token.value}"
        if token not in self._consumer.sent:
            self._consumer.sent = (token, *self._consumer.sent)[:MOST_SENT]

    def _is_ours(self, url: Any) -> bool:
        if self._origins is None:
            self._origins = frozenset([_origin_of_text(self._manager.config.revos.base_url)])
        origin = _origin_of(url)
        if origin in self._origins:
            return True
        if origin not in self._warned:
            self._warned.add(origin)
            scheme, host, port = origin
            logger.warning(
                "a request to %s://%s:%d goes without the token, which belongs to another origin "
                "(BearerAuth(tm, origins=[...]) names more)",
                scheme.decode("ascii"),
                host.decode("ascii"),
                port,
            )
        return False

    @contextmanager
    def _replaying(self, token: AccessToken) -> Iterator[None]:
        key = object()
        self._consumer.replays[key] = token.value
        try:
            yield
        finally:
            del self._consumer.replays[key]

    def _ask_again(self, token: AccessToken) -> Ask:
        consumer, value = self._consumer, token.value
        if value != consumer.refusals.counted and value in list(consumer.replays.values()):
            # Refused while a replay with this very token is out: as good as that one's refusal,
            # which may be slow. Else each request in between would cost a refresh.
            self._note_replay(token, refused=True)
        return Ask(superseding=value, not_before_at=consumer.refusals.until_at)

    def _may_replay(self, request: Any, token: AccessToken, newer: AccessToken) -> bool:
        """Without a replay nobody learns whether the newer token is accepted, so none counts as
        one that was refused: else each such request would cost a refresh.
        """
        is_newer = newer.value != token.value
        if is_newer and _is_replayable(request):
            return True
        self._note_replay(newer, refused=True)
        self._consumer.untried = newer.value if is_newer else None
        return False

    def _note_accepted(self, token: AccessToken) -> None:
        consumer = self._consumer
        if token.value == consumer.untried:
            consumer.untried = None
            consumer.refusals = untried_accepted(consumer.refusals)

    def _note_replay(self, token: AccessToken, *, refused: bool) -> None:
        consumer, held = self._consumer, self._manager._state().held
        if refused:
            consumer.refusals = replay_refused(
                consumer.refusals,
                token.value,
                held.token.value if held is not None else None,
                self._manager._monotonic(),
            )
        else:
            consumer.refusals = replay_accepted()


def _is_refusal(response: Any, token: AccessToken) -> bool:
    """Whether a newer token could change the answer. Who answers after a redirect may never have
    seen this one: clients leave it out when the origin changes.
    """
    return (
        response.status_code in (401, 403)
        and token_of(response.request) == token.value
        and asks_for_new_token(response.status_code, response.headers.get_list("www-authenticate"))
    )


def token_of(request: Any) -> str:
    """The token that a request carries, or whatever it has in the place of one."""
    header: str = request.headers.get("authorization", "")
    return header.removeprefix("Bearer ")


def _is_replayable(request: Any) -> bool:
    """Whether the whole body is at hand: a stream that was sent is gone."""
    try:
        return request.content is not None
    except RuntimeError:  # `RequestNotRead`, of either library
        return False


_DEFAULT_PORTS = {b"http": 80, b"https": 443}


def _origin_of(url: Any) -> tuple[bytes, bytes, int]:
    """Scheme, host and port of an httpx or httpx2 URL (RFC 6454 §4)."""
    scheme = url.raw_scheme
    return scheme, url.raw_host, url.port or _DEFAULT_PORTS.get(scheme, 0)


def _origin_of_text(text: str) -> tuple[bytes, bytes, int]:
    try:
        origin = _origin_of(httpx.URL(text))
    except httpx.InvalidURL:
        origin = (b"", b"", 0)
    if origin[0] not in _DEFAULT_PORTS or not origin[1]:
        raise RevosConfigurationError(f"origins: {text!r} is not an absolute http(s) URL")
    return origin
