"""The token endpoint, pure: a request in, what it asks for or an RFC 6749 §5.2 error out.

It issues nothing and counts nothing; that is the gateway's part.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote_plus

from attrs import field, frozen

from revos.testing.asgi import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from revos.testing.asgi import Request

__all__ = ["TokenRequest", "check", "read", "token_answer"]

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SECRET_PARAMETERS = frozenset({"client_secret", "client_assertion"})
REPEATABLE = frozenset({"resource", "audience"})  # RFC 8707 §2, RFC 8693 §2.1
NEVER_STORED = {"cache-control": "no-store", "pragma": "no-cache"}


@frozen
class TokenRequest:
    """What a client said, as far as it could be read.

    :ivar method: how it authenticates, by its RFC 7591 §2 name, or None where it does not
    :ivar params: the form without secrets
    :ivar error: what is wrong with the message itself, before anybody is authenticated
    """

    method: str | None
    params: Mapping[str, str]
    client_id: str | None = None
    secret: str | None = field(default=None, repr=False)
    error: Answer | None = None


def read(request: Request) -> TokenRequest:
    """The parts of a token request; never raises."""
    pairs = parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True)
    form = dict(pairs)
    params = {name: value for name, value in form.items() if name not in SECRET_PARAMETERS}
    authorization = request.headers.get("authorization")
    used = [
        method
        for method, present in (
            ("client_secret_basic", authorization is not None),
            ("client_secret_post", "client_secret" in form),
            ("private_key_jwt", "client_assertion" in form),
        )
        if present
    ]
    method = used[0] if used else None
    client_id: str | None = form.get("client_id")
    secret = form.get("client_secret", form.get("client_assertion"))
    if authorization is not None:
        client_id, secret = _basic(authorization)
    return TokenRequest(
        method, params, client_id, secret, _malformed(request, [name for name, _ in pairs], used)
    )


def check(
    asked: TokenRequest,
    *,
    clients: Mapping[str, str],
    methods: Collection[str],
    assertion_check: Callable[[str], bool] | None,
) -> Answer | None:
    """The refusal that this request earns, or None where it may have a token."""
    if asked.error is not None:
        return asked.error
    if asked.method not in methods or not _authentic(asked, clients, assertion_check):
        return _error(
            401,
            "invalid_client",
            "client authentication failed",
            {"www-authenticate": 'Basic realm="revos"'},
        )
    grant_type = asked.params.get("grant_type")
    if not grant_type:
        return _error(400, "invalid_request", "grant_type is missing")
    if grant_type != "client_credentials":
        return _error(400, "unsupported_grant_type", "only client_credentials is supported")
    return None


def token_answer(value: str, lifetime: float | None, scope: str | None) -> Answer:
    """The answer that carries a token (RFC 6749 §5.1)."""
    body: dict[str, object] = {"access_token": value, "token_type": "Bearer"}
    if lifetime is not None:
        body["expires_in"] = int(lifetime) if float(lifetime).is_integer() else lifetime
    if scope is not None:
        body["scope"] = scope
    return Answer(body=body, headers=NEVER_STORED)


def _malformed(request: Request, names: list[str], used: list[str]) -> Answer | None:
    if request.method != "POST":
        return _error(405, "invalid_request", "the token endpoint takes POST", {"allow": "POST"})
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        return _error(400, "invalid_request", "the body is not form-encoded")
    repeated = [n for n, count in Counter(names).items() if count > 1 and n not in REPEATABLE]
    if repeated:
        return _error(400, "invalid_request", f"repeated parameter: {', '.join(repeated)}")
    if len(used) > 1:
        return _error(400, "invalid_request", f"{len(used)} client authentications in one request")
    return None


def _basic(authorization: str) -> tuple[str | None, str | None]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None, None
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None, None
    client_id, colon, secret = decoded.partition(":")
    # RFC 6749 §2.3.1: both were form-encoded before they were joined.
    return (unquote_plus(client_id), unquote_plus(secret)) if colon else (None, None)


def _authentic(
    asked: TokenRequest,
    clients: Mapping[str, str],
    assertion_check: Callable[[str], bool] | None,
) -> bool:
    if asked.secret is None:
        return False
    if asked.method == "private_key_jwt":
        by_the_book = asked.params.get("client_assertion_type") == JWT_BEARER
        return by_the_book and assertion_check is not None and assertion_check(asked.secret)
    known = clients.get(asked.client_id or "")
    return known is not None and secrets.compare_digest(known.encode(), asked.secret.encode())


def _error(
    status: int, error: str, description: str, headers: Mapping[str, str] | None = None
) -> Answer:
    body = {"error": error, "error_description": description}
    return Answer(status=status, body=body, headers={**NEVER_STORED, **(headers or {})})
