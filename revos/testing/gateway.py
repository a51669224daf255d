"""The gateway: what it is told to do, and the tokens that it has issued.

An instance is an ASGI 3 application. Everything that a test wants to go wrong is an attribute to be
set at any time, from any thread; everything that it wants to know afterwards is a counter
(`tally`). How it answers is in `routes`.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from typing import TYPE_CHECKING

import anyio
from attrs import define, field

from revos.testing import routes
from revos.testing.asgi import Answer, Receive, Request, Scope, Send, read_request, run_lifespan
from revos.testing.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from revos import Config

__all__ = ["Gateway"]

_TOKEN_SETTINGS = frozenset(
    {
        "refresh_interval_minutes",
        "max_failures_before_fallback",
        "enable_periodic_refresh",
        "enable_fallback",
    }
)


@define(kw_only=True, eq=False, repr=False, slots=False)
class Gateway(Tally):
    """A token endpoint and an OpenAI-compatible API in front of a stand-in model.

    :ivar client_id: the client that may have tokens, with `client_secret`; `clients` has more
    :ivar models: the ids that the API knows
    :ivar lifetime: seconds that a token lives; None: 3600, but `expires_in` is left out
    :ivar url: where it is reached; set by `serve_gateway`

    The token endpoint:

    :ivar delay: seconds before it answers
    :ivar outage: while it is set, every token request gets this answer (True: a bare 503)
    :ivar token_script: answers for the next token requests, see `fail_next`
    :ivar auth_methods: the client authentication methods that it takes
    :ivar assertion_check: whether a `private_key_jwt` assertion is good; None: none is

    The API:

    :ivar refuse_all: every token is refused
    :ivar refuse_models: every token is refused for a completion of these models
    :ivar refuse_if: every token is refused for a request of which this is true
    :ivar refusal_status: the status of a refusal
    :ivar challenge: the `WWW-Authenticate` of a refusal; None: left out
    :ivar unsupported: features that are refused: json_schema, json_object, tools, stream
    :ivar unsupported_status: the status of that
    :ivar strict_schemas: whether a schema sent as strict is held to OpenAI's rules for those
    :ivar chat_delay: seconds before a completion
    :ivar stream_delay: seconds between the chunks of a streamed one
    :ivar chunk_size: characters of a chunk
    :ivar chat_script: what the model says next: a text, or a whole `Answer`

    >>> import anyio, httpx
    >>> async def main() -> int:
    ...     gateway = Gateway()
    ...     gateway.fail_next(status=429)
    ...     async with httpx.AsyncClient(transport=httpx.ASGITransport(app=gateway)) as http:
    ...         return (await http.post(gateway.token_url, data={})).status_code
    >>> anyio.run(main)
    429
    """

    client_id: str = "revos-demo"
    client_secret: str = "revos-demo-secret"  # noqa: S105 - it opens nothing
    clients: dict[str, str] = field(factory=dict)
    models: tuple[str, ...] = ("gpt-4", "gpt-4o-mini", "claude-4")
    lifetime: float | None = 3600
    url: str = "http://127.0.0.1"
    now: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep

    delay: float = 0
    outage: Answer | bool | None = None
    token_script: deque[Answer] = field(factory=deque, init=False)
    auth_methods: set[str] = field(
        factory=lambda: {"client_secret_post", "client_secret_basic", "private_key_jwt"}
    )
    assertion_check: Callable[[str], bool] | None = None

    refuse_all: bool = False
    refuse_models: set[str] = field(factory=set)
    refuse_if: Callable[[Request], bool] | None = None
    refusal_status: int = 401
    challenge: str | None = 'Bearer error="invalid_token"'
    unsupported: set[str] = field(factory=set)
    unsupported_status: int = 400
    strict_schemas: bool = True
    chat_delay: float = 0
    stream_delay: float = 0
    chunk_size: int = 8
    chat_script: deque[str | Answer] = field(factory=deque, init=False)

    _tokens: dict[str, float] = field(factory=dict, init=False)

    def __repr__(self) -> str:
        return (
            f"<Gateway {self.url}: {self.token_requests} token requests, {self.api_requests} API "
            f"requests, {self.refusals} refused>"
        )

    @property
    def token_url(self) -> str:
        return f"{self.url}{routes.TOKEN_PATH}"

    @property
    def base_url(self) -> str:
        """Where the OpenAI-compatible API begins."""
        return f"{self.url}/v1"

    def fail_next(
        self,
        n: int = 1,
        status: int = 503,
        *,
        headers: Mapping[str, str] | None = None,
        body: object = b"",
        method: str | None = None,
        hang: bool = False,
    ) -> None:
        """Answer the next `n` token requests so; those by `method` only, where one is given.

        :param hang: never answer
        """
        answer = Answer(status=status, headers=headers or {}, body=body, method=method, hang=hang)
        self.token_script.extend([answer] * n)

    def issue(self, value: str | None = None, *, lifetime: float | None = None) -> str:
        """A token that the API accepts from now on, asked for by nobody."""
        value = value or secrets.token_urlsafe(32)
        if lifetime is None:
            lifetime = 3600 if self.lifetime is None else self.lifetime
        self._tokens[value] = self.now() + lifetime
        return value

    def revoke(self, token: str | None = None) -> None:
        """Accept this token no longer; without one, none that was issued so far."""
        if token is None:
            self._tokens.clear()
        else:
            self._tokens.pop(token, None)

    def accepts(self, token: str) -> bool:
        """Whether the API accepts this token now."""
        return self._tokens.get(token, 0) > self.now()

    def environ(self, **overrides: object) -> dict[str, str]:
        """The environment variables of a client of this gateway.

        `max_retries=1` sets `REVOS_MAX_RETRIES`, `enable_fallback=False` `TOKEN_ENABLE_FALLBACK`
        (the fields of `GatewayConfig` and `TokenConfig`), a name in capitals is used as it is;
        None leaves a variable out.
        """
        variables: dict[str, object] = {
            "REVOS_CLIENT_ID": self.client_id,
            "REVOS_CLIENT_SECRET": self.client_secret,
            "REVOS_TOKEN_URL": self.token_url,
            "REVOS_BASE_URL": self.base_url,
        }
        for model in self.models:
            name = "".join(c if c.isalnum() else "_" for c in model).upper()
            variables[f"LLM_MODELS_{name}_MODEL"] = model
        for key, value in overrides.items():
            prefix = "TOKEN_" if key in _TOKEN_SETTINGS else "REVOS_"
            variables[key if key.isupper() else prefix + key.upper()] = value
        return {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in variables.items()
            if value is not None
        }

    def config(self, **overrides: object) -> Config:
        """The configuration of a client of this gateway; for the names see `environ`."""
        from revos import load_config

        return load_config(environ=self.environ(**overrides), env_file=None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await run_lifespan(receive, send)
        elif scope["type"] == "http":
            request = await read_request(scope, receive)
            if request is not None:
                await routes.answer(self, request, receive, send)
        else:
            raise NotImplementedError(f"the gateway does not speak {scope['type']}")
