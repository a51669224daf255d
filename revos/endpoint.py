"""The token endpoint: sends one token request and says what came of it.

The shell around `oauth2`: it reads secret files, signs, sends, reads the answer up to its limit
and logs, and decides nothing. Whatever blocks runs in a thread that is abandoned when the manager
is left.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from http.cookiejar import CookieJar
from threading import Lock
from typing import cast

import anyio
import httpx
from anyio.lowlevel import cancel_shielded_checkpoint
from attrs import define, evolve, field

from revos import oauth2
from revos.clients import CLOSING_SECONDS, ConnectionGuard, make_client, ssl_context_for
from revos.clock import Clock
from revos.config import GatewayConfig
from revos.credentials import CredentialSource, credential_sources
from revos.errors import RevosConfigurationError
from revos.oauth2 import Failure, Grant, TokenRequest
from revos.policy import Now, Way, leeway_of
from revos.threads import run_in_thread
from revos.token import fingerprint_of

__all__ = ["TokenEndpoint"]

audit = logging.getLogger("revos.audit")

PARTS_AT_ONCE = 50


class _Body(httpx.AsyncByteStream):
    """The form. Not a generator: one that a cancelled send leaves behind is a ResourceWarning
    under Trio.
    """

    def __init__(self, body: bytes) -> None:
        self._parts = [body]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()


class _NoCookies(CookieJar):
    """Keeps none: a token request says who asks by its credential alone."""

    def extract_cookies(self, response: object, request: object) -> None:
        pass


@define
class TokenEndpoint:
    """Sends token requests through one HTTP client, as long as it brings tokens.

    After a failure the next request has a new one, and so nothing of what went wrong: no connection
    on which more came than the answer, no tunnel that httpcore keeps in its pool for ever since the
    handshake in it failed.

    :ivar client: its own, or the user's
    :ivar make_client: makes the next one of its own, in a thread; None where it is the user's
    """

    sources: Mapping[Way, CredentialSource]
    parameters: Mapping[str, str | None] = field(repr=False)
    default_lifetime: float
    clock: Clock
    client: httpx.AsyncClient
    make_client: Callable[[], httpx.AsyncClient] | None
    # Of each way: a secret file that never answers holds one thread, not one for each attempt.
    building: Mapping[Way, Lock] = field(factory=lambda: {way: Lock() for way in Way}, repr=False)
    _warned: set[str] = field(factory=set, init=False)
    # The last token that came. It is in use when a server sends it back in what follows.
    _given: tuple[str, ...] = field(default=(), init=False, repr=False)

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, config: GatewayConfig, clock: Clock, client: httpx.AsyncClient | None
    ) -> AsyncIterator[TokenEndpoint]:
        """An endpoint whose client, where it is not the user's, is closed at the end."""
        make_client = None
        if client is None:
            made = await run_in_thread(_client_maker, config)
            make_client, client = made
        endpoint = cls(
            sources=credential_sources(config),
            parameters={
                "scope": config.scope,
                "audience": config.audience,
                "resource": config.resource,
                **config.extra_token_params,
            },
            default_lifetime=config.default_lifetime_seconds,
            clock=clock,
            client=client,
            make_client=make_client,
        )
        try:
            yield endpoint
        finally:
            # In a task of its own: no shield holds off `task.cancel()`, which would leave
            # connections open.
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(endpoint._close_own_client)

    async def _close_own_client(self) -> None:
        if self.make_client is not None:
            with anyio.move_on_after(CLOSING_SECONDS, shield=True):
                await self.client.aclose()

    async def request_token(self, way: Way, seconds: float) -> tuple[Grant | Failure, Now]:
        """One token request, from the reading of its secret to the end of the answer.

        :param seconds: for all of it
        :return: what came of it, and when the head of the answer arrived
        """
        source = self.sources[way]
        started_at = self.clock.monotonic()
        head = self._now()
        outcome: Grant | Failure | None = None
        request: TokenRequest | None = None
        with self.clock.move_on_after(seconds):
            try:
                built = await run_in_thread(self._build, way)
            except (OSError, ValueError, RevosConfigurationError) as error:
                outcome = oauth2.request_failure(
                    source.method, source.client_id, source.token_url, error
                )
            else:
                request, self.client = built
                try:
                    outcome, head = await self._send(source, request)
                except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
                    outcome = oauth2.transport_failure(request, source.client_id, error)
        if outcome is None:
            outcome = self._timed_out(source, request, seconds)
        if isinstance(outcome, Failure):
            await self._close_own_client()
        else:
            self._given = (outcome.value,)
        self._log(source, outcome, self.clock.monotonic() - started_at)
        return outcome, head

    def _now(self) -> Now:
        return Now(self.clock.monotonic(), self.clock.time())

    def _build(self, way: Way) -> tuple[TokenRequest, httpx.AsyncClient]:
        """What to send, and the client that sends it."""
        if not self.building[way].acquire(blocking=False):
            raise TimeoutError("an earlier attempt still waits for its file")
        try:
            credential = self.sources[way].read(self._warned)
            request = oauth2.build_request(
                credential, self.parameters, now=self.clock.time(), jti=uuid.uuid4().hex
            )
        finally:
            self.building[way].release()
        request = evolve(request, secrets=(*request.secrets, *self._given))
        if self.make_client is not None and self.client.is_closed:
            return request, self.make_client()
        return request, self.client

    async def _send(
        self, source: CredentialSource, request: TokenRequest
    ) -> tuple[Grant | Failure, Now]:
        if self.client.is_closed:
            error = RevosConfigurationError("the http_client that the manager was given is closed")
            return (
                oauth2.request_failure(source.method, source.client_id, source.token_url, error),
                self._now(),
            )
        http_request = self.client.build_request(
            "POST",
            request.url,
            headers=dict(request.headers),
            content=request.body,
            timeout=None,
            extensions={"trace": ConnectionGuard()},
        )
        http_request.stream = _Body(request.body)
        try:
            response = await self.client.send(
                http_request, stream=True, auth=None, follow_redirects=False
            )
        except httpx.HTTPStatusError as error:  # A hook of the user's client called it that.
            response = error.response
        try:
            head = self._now()
            body = await _read(response)
        finally:
            with anyio.move_on_after(CLOSING_SECONDS, shield=True):
                await response.aclose()
        outcome = oauth2.parse_response(
            request,
            source.client_id,
            response.status_code,
            response.extensions.get("revos.headers", response.headers),
            body,
            now=head.time,
            default_lifetime=self.default_lifetime,
        )
        if isinstance(outcome, Grant):
            usable_until_at = head.monotonic + outcome.lifetime - leeway_of(outcome.lifetime)
            if self.clock.monotonic() >= usable_until_at:
                late = TimeoutError("the token had expired before all of its answer was there")
                outcome = oauth2.transport_failure(request, source.client_id, late)
        return outcome, head

    def _timed_out(
        self, source: CredentialSource, request: TokenRequest | None, seconds: float
    ) -> Failure:
        error = TimeoutError(f"no complete answer within {seconds:.3g} s")
        if request is None:
            return oauth2.request_failure(source.method, source.client_id, source.token_url, error)
        return oauth2.transport_failure(request, source.client_id, error)

    def _log(self, source: CredentialSource, outcome: Grant | Failure, seconds: float) -> None:
        if isinstance(outcome, Grant):
            told = f"granted, token {fingerprint_of(outcome.value)}"
        else:
            told = f"failed, status {outcome.status_code or 'none'}"
            told += f", {outcome.error}" if outcome.error else ""
        audit.info(
            "token request by %s to %s as %r: %s, after %.3f s",
            source.method,
            _without_query(source.token_url),
            source.client_id,
            told,
            seconds,
        )


def _without_query(url: str) -> str:
    return url.partition("?")[0]


def _client_maker(
    config: GatewayConfig,
) -> tuple[Callable[[], httpx.AsyncClient], httpx.AsyncClient]:
    """What makes clients, which share the context that takes long to make, and the first one."""
    urls = (config.token_url, config.fallback_token_url or config.token_url)
    make = partial(
        make_client,
        httpx.AsyncClient,
        urls,
        config.ca_file,
        context=ssl_context_for(urls, config.ca_file),
        cookies=_NoCookies(),
        event_hooks={"response": [_hide_target]},
    )
    return make, make()


async def _hide_target(response: httpx.Response) -> None:
    """Httpx makes the request that a redirect asks for even where it is not to follow. What a
    server names as the target can raise anything there, or be the target of a second request.
    """
    response.extensions["revos.headers"] = response.headers.copy()
    response.headers.pop("location", None)


async def _read(response: httpx.Response) -> bytes:
    """The body as it came, undecoded, up to the part with which it is too large.

    Whoever stops an async generator half-way leaves it to the garbage collector. So past the limit
    reading goes on into a cancellation, which ends all generators in between.

    Of chunks of a byte each httpcore has ten thousand at hand before it waits for more, so in
    between others get their turn (P11); shielded, for the same reason.
    """
    if response.is_closed:  # By a hook of the user's client, which has read it or let it go.
        with suppress(httpx.ResponseNotRead):
            return response.content
        return b""
    body, parts = bytearray(), 0
    with anyio.CancelScope() as scope:
        # Not `aiter_raw`, which has nothing left to give where a mock transport made the answer.
        async for part in cast("AsyncIterable[bytes]", response.stream):
            if len(body) <= oauth2.MAX_BODY:
                body += part
            else:
                scope.cancel()
            parts += 1
            if parts % PARTS_AT_ONCE == 0:
                await cancel_shielded_checkpoint()
    return bytes(body)
