"""An authorization server and a gateway that others wrote: npm's `oidc-provider`, and LiteLLM.

`nox -s servers` installs them and says in the environment where they are.
"""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import anyio
import httpx
from attrs import frozen
from processes import ServerProcess
from pydantic import BaseModel

from revos import Config, GatewayConfig, ModelConfig, TokenConfig

HERE = Path(__file__).parent

OPAQUE, JWT = "https://gateway.example/opaque", "https://gateway.example/jwt"
ELSEWHERE = "https://elsewhere.example/"

# All that is printable in ASCII, which is what RFC 6749 (appendix A) lets a secret have.
PUNCTUATION = "a+b%2Fc d:e&f=g\"h'i/j?k#l[m]n@o!p$q(r)s*t,u;v<w>x\\y^z`{|}~-_."

MODELS = ("gpt-4", "tools-only", "schema-only", "neither", "talkative", "busy", "broken")


class Person(BaseModel):
    name: str
    age: int
    city: str


ADA = Person(name="Ada", age=36, city="London")
PROMPT = "Extract the person: {text}"
TEXT = "Ada, 36, London"


@frozen
class Client:
    """A client that is registered at the authorization server."""

    id: str
    secret: str | None
    method: str


class AuthorizationServer(ServerProcess):
    """`oidc-provider`, as server.mjs sets it up; `installed` is where npm has put it."""

    def __init__(self, installed: Path, directory: Path) -> None:
        self._clients = directory / "clients.json"
        self._metadata: dict[str, dict[str, object]] = {}
        self._numbers = itertools.count(1)
        super().__init__(
            ["node", installed / "server.mjs", "{port}", self._clients],
            log=directory / "oidc.log",
            ready="/.well-known/openid-configuration",
            seconds=30,
        )
        self.token_url = f"{self.url}/token"
        self.resource_server = self.register(method="client_secret_basic", grants=())

    def register(
        self,
        *,
        client_id: str | None = None,
        secret: str | None = "s3cret",
        method: str = "client_secret_post",
        scope: str = "models",
        grants: tuple[str, ...] = ("client_credentials",),
        **metadata: object,
    ) -> Client:
        """A client of its own for each test; `lifetime` is that of its tokens, in seconds."""
        client = Client(client_id or f"client-{next(self._numbers)}", secret, method)
        self._metadata[client.id] = {
            "client_id": client.id,
            "token_endpoint_auth_method": method,
            "grant_types": grants,
            "redirect_uris": [],
            "response_types": [],
            "scope": scope,
            **({} if secret is None else {"client_secret": secret}),
            **metadata,
        }
        self._write()
        return client

    def rotate_secret(self, client: Client, secret: str) -> None:
        self._metadata[client.id]["client_secret"] = secret
        self._write()

    def _write(self) -> None:
        new = self._clients.with_suffix(".new")
        new.write_text(json.dumps([*self._metadata.values()]))
        new.replace(self._clients)

    def granted(self, client: Client) -> int:
        """How many token requests of this client were granted."""
        return len(self.events(event="granted", client=client.id))

    async def revoke(self, token: str, client: Client) -> None:
        """RFC 7009, as the client itself."""
        form = {"token": token, "client_id": client.id, "client_secret": client.secret}
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.post(f"{self.token_url}/revocation", data=form)
        answer.raise_for_status()

    async def introspect(self, token: str) -> dict[str, object]:
        """RFC 7662, as the gateway asks."""
        auth = (self.resource_server.id, self.resource_server.secret)
        async with httpx.AsyncClient(trust_env=False, auth=auth) as http:
            answer = await http.post(f"{self.token_url}/introspection", data={"token": token})
        return answer.raise_for_status().json()


class Gateway(ServerProcess):
    """The LiteLLM proxy; `executable` is its command, in a virtual environment of its own."""

    def __init__(self, executable: Path, directory: Path, oidc: AuthorizationServer) -> None:
        super().__init__(
            [
                executable,
                *("--config", HERE / "litellm" / "config.yaml"),
                *("--host", "127.0.0.1", "--port", "{port}"),
                *("--telemetry", "False"),
            ],
            log=directory / "litellm.log",
            ready="/health/liveliness",
            seconds=120,
            environ={
                "AUDIENCE": OPAQUE,
                "INTROSPECTION_URL": f"{oidc.token_url}/introspection",
                "INTROSPECTION_CLIENT_ID": oidc.resource_server.id,
                "INTROSPECTION_SECRET": oidc.resource_server.secret,
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "LITELLM_MASTER_KEY": "sk-nobody-has-this-one",
            },
        )
        self.base_url = f"{self.url}/v1"

    def judged(self, verdict: str) -> int:
        """How many requests were judged so."""
        return len(self.events(event="judged", verdict=verdict))

    def accepted(self, client: Client) -> int:
        """How many requests with tokens of this client were accepted: those that another test has
        left may be judged late.
        """
        return len(self.events(event="judged", verdict="accepted", client=client.id))


def config(
    oidc: AuthorizationServer,
    client: Client,
    gateway: Gateway | None = None,
    *,
    token: dict[str, object] | None = None,
    **settings: object,
) -> Config:
    """A configuration without a fallback; `fallback_auth_method=` and the like add one."""
    credential = {} if client.secret is None else {"client_secret": client.secret}
    given: dict[str, object] = {
        "client_id": client.id,
        "token_url": oidc.token_url,
        "base_url": gateway.base_url if gateway is not None else "http://127.0.0.1:9/v1",
        "auth_method": client.method,
        "fallback_auth_method": client.method,
        "scope": "models",
        **credential,
        **settings,
    }
    return Config(
        revos=GatewayConfig(**{name: value for name, value in given.items() if value is not None}),
        token=TokenConfig(**(token or {})),
        models={name: ModelConfig(model=name) for name in MODELS},
    )


def installed(variable: str) -> Path:
    """Where a server is; never skipped, so that nobody takes an absent one for a good one."""
    place = os.environ.get(variable)
    if place is None:
        raise RuntimeError(f"{variable} is not set: run these tests by `nox -s servers`")
    return Path(place)


async def until(condition, seconds=30.0):
    """Wait for what a server or a background task brings about."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.02)
