"""The token endpoint: sends one token request and says what came of it.

The shell around `oauth2`: it reads secret files, signs, sends, reads the answer up to its limit
and logs, and decides nothing. Whatever blocks runs in a thread that is abandoned when the manager
is left.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from functools import partial
from threading import Lock
from typing import cast

import anyio
import httpx
from anyio.lowlevel import cancel_shielded_checkpoint
from attrs import define, field

from revos import oauth2
from revos.clients import CLOSING_SECONDS, ConnectionGuard, make_client, ssl_context_for
from revos.clock import Clock
from revos.config import GatewayConfig
from revos.credentials import CredentialSource, credential_sources
from revos.errors import RevosConfigurationError
from revos.oauth2 import Failure, Grant, TokenRequest
from revos.policy import Now, Way
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


@define
class TokenEndpoint:
    """Sends token requests, each through an HTTP client of its own.

    So nothing of one request is met by the next, of which there are few: no connection that the
    server has closed or has sent more on than its answer, no cookie, no tunnel that httpcore keeps
    in its pool for ever since the handshake in it failed.

    :ivar client_for_request: makes one, in a thread, or gives the user's
    :ivar is_own: whether it is closed behind the request
    """

    sources: Mapping[Way, CredentialSource]
    parameters: Mapping[str, str | None] = field(repr=False)
    default_lifetime: float
    clock: Clock
    client_for_request: Callable[[], httpx.AsyncClient]
    is_own: bool
    # Of each way: a secret file that never answers holds one thread, not one for each attempt.
    building: Mapping[Way, Lock] = field(factory=lambda: {way: Lock() for way in Way}, repr=False)
    _warned: set[str] = field(factory=set, init=False)

    @classmethod
    async def opened(
        cls, config: GatewayConfig, clock: Clock, client: httpx.AsyncClient | None
    ) -> TokenEndpoint:
        """An endpoint that uses this client, where there is one.

        :raises RevosConfigurationError: none of its own can be made
        """
        if client is not None:
            client_for_request = partial(_given, client)
        else:
            client_for_request = await run_in_thread(_client_maker, config)
        return cls(
            sources=credential_sources(config),
            parameters={
                "scope": config.scope,
                "audience": config.audience,
                "resource": config.resource,
                **config.extra_token_params,
            },
            default_lifetime=config.default_lifetime_seconds,
            clock=clock,
            client_for_request=client_for_request,
            is_own=client is None,
        )

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
                request, client = built
                try:
                    outcome, head = await self._send(source, request, client)
                except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
                    outcome = oauth2.transport_failure(request, source.client_id, error)
                finally:
                    if self.is_own:
                        with anyio.move_on_after(CLOSING_SECONDS, shield=True):
                            await client.aclose()
        if outcome is None:
            outcome = self._timed_out(source, request, seconds)
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
        return request, self.client_for_request()

    async def _send(
        self, source: CredentialSource, request: TokenRequest, client: httpx.AsyncClient
    ) -> tuple[Grant | Failure, Now]:
        if client.is_closed:
            error = RevosConfigurationError("the http_client that the manager was given is closed")
            return (
                oauth2.request_failure(source.method, source.client_id, source.token_url, error),
                self._now(),
            )
        http_request = client.build_request(
            "POST",
            request.url,
            headers=dict(request.headers),
            content=request.body,
            timeout=None,
            extensions={"trace": ConnectionGuard()},
        )
        http_request.stream = _Body(request.body)
        response = await client.send(http_request, stream=True, auth=None, follow_redirects=False)
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


def _given(client: httpx.AsyncClient) -> httpx.AsyncClient:
    return client


def _client_maker(config: GatewayConfig) -> partial[httpx.AsyncClient]:
    """What makes clients; whatever keeps it from making one is told now."""
    urls = (config.token_url, config.fallback_token_url or config.token_url)
    context = ssl_context_for(urls, config.ca_file)
    make = partial(
        make_client,
        httpx.AsyncClient,
        urls,
        config.ca_file,
        context=context,
        event_hooks={"response": [_hide_target]},
    )
    make()
    return make


async def _hide_target(response: httpx.Response) -> None:
    """Httpx makes the request that a redirect asks for even where it is not to follow. What a
    server names as the target can raise anything there, or be the target of a second request.
    """
    response.extensions["revos.headers"] = response.headers.copy()
    response.headers.pop("location", None)


async def _read(response: httpx.Response) -> bytes:
    """The body as it came, undecoded, up to one byte more than may be read.

    Whoever stops an async generator half-way leaves it to the garbage collector. So past the limit
    reading goes on into a cancellation, which ends all generators in between.

    Of chunks of a byte each httpcore has ten thousand at hand before it waits for more, so in
    between others get their turn (P11); shielded, for the same reason.
    """
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
    return bytes(body[: oauth2.MAX_BODY + 1])
