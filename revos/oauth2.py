"""Token requests and their answers (RFC 6749 §4.4), and what a refused token means (RFC 6750 §3).

Pure: nothing here does I/O, reads a clock, makes a random number or starts a task. The rules:

- Whatever a server sends ends in a `Grant` or a `Failure` and never in an exception.
- A `TokenRequest` knows every form of the secrets in it, so whoever reports about it can mask them.
- A `Failure` may be shown. What varies in its texts (what the server said, client id, endpoint)
  goes through `redact`; our own words don't, or a secret called "token" would garble them.

What an answer means (design, section 5):

    ==========================================  =========  ===================================
    answer                                      retryable  kept
    ==========================================  =========  ===================================
    2xx with a usable token                                the token, its lifetime and scope
    2xx with anything else                      no         OAuth error
    3xx                                         no         OAuth error, origin of the target
    408, 425, 429, 5xx                          yes        OAuth error
    400 with `temporarily_unavailable`          yes        OAuth error
    anything else                               no         OAuth error
    no answer (connection, timeout)             yes        the transport's error, stripped
    no request (secret or key file)             no         the file's error, stripped
    ==========================================  =========  ===================================

A body that is encoded, too large or not a JSON object has no OAuth error; `Retry-After` is kept
wherever a server sends it.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from decimal import Decimal
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote, quote_plus, urlencode, urljoin

from attrs import field, frozen

from revos.assertion import sign_assertion
from revos.errors import RevosAuthenticationError, RevosConfigurationError, RevosError
from revos.http_headers import retry_after_of
from revos.redact import SHORTEST_TO_HIDE, endpoint_of, redact, strip

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "MAX_BODY",
    "Credential",
    "Failure",
    "Grant",
    "TokenRequest",
    "authentication_error",
    "build_request",
    "parse_response",
    "request_failure",
    "transport_failure",
]

MAX_BODY = 1 << 20  # bytes

_YEAR = 365 * 86_400  # seconds
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_OURS = {"grant_type", "client_id", "client_secret", "client_assertion", "client_assertion_type"}
# Parameters with settings of their own, which are no secrets.
_PLAIN = {"scope", "audience", "resource"}
_HEADERS: tuple[tuple[str, str], ...] = (
    ("Accept", "application/json"),
    ("Accept-Encoding", "identity"),
    ("Content-Type", "application/x-www-form-urlencoded"),
)

# What each method proves the client's identity with, and the setting that has it.
_PROOFS = {
    "client_secret_post": ("client secret", "client_secret"),
    "client_secret_basic": ("client secret", "client_secret"),
    "private_key_jwt": ("private key, key id, audience, clock", "private_key_file"),
}
# What to check for an error (RFC 6749 §5.2, RFC 8707 §2). The codes are never masked, whatever
# the client secret is: callers compare them.
_CHECKS = {
    "invalid_client": "client id, {proof} and authentication method {method}",
    "invalid_grant": "client id, {proof} and authentication method {method}",
    "invalid_request": "scope, audience, resource and extra_token_params",
    "invalid_scope": "scope",
    "invalid_target": "audience and resource",
    "unauthorized_client": "that this client may use the client_credentials grant",
    "unsupported_grant_type": "that token_url is right and offers the client_credentials grant",
    "temporarily_unavailable": "the state of the authorization server",
    "server_error": "the state of the authorization server",
}


def _shown_url(url: str) -> str:
    return repr(endpoint_of(url))


@frozen
class Credential:
    """One complete way to authenticate a client (RFC 6749 §2.3, RFC 7523 §2.2).

    :ivar method: `client_secret_post`, `client_secret_basic` or `private_key_jwt` (RFC 7591 §2)
    :ivar secret: for the first two
    :ivar private_key: PEM text, for the third, as is the rest
    :ivar assertion_audience: the token URL where None
    """

    method: str
    token_url: str = field(repr=_shown_url)
    client_id: str
    secret: str | None = field(default=None, repr=False)
    private_key: str | None = field(default=None, repr=False)
    key_id: str | None = None
    algorithm: str = "RS256"
    assertion_audience: str | None = None


@frozen
class TokenRequest:
    """What to send, by `POST`; `secrets` is every form of the secrets in it, for masking."""

    url: str = field(repr=_shown_url)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    method: str


@frozen
class Grant:
    """A usable token (RFC 6749 §5.1); `lifetime` is in seconds, 1 to ten years."""

    value: str = field(repr=False)
    lifetime: float
    scope: str | None


@frozen
class Failure:
    """One attempt that gave no token. All texts are masked.

    :ivar reason: what happened, to whom, and what to check
    :ivar retryable: the same may be tried again within the cycle
    :ivar temporary: trying again later can help
    :ivar status_code: None where no answer came
    :ivar retry_after: seconds that the server asks to wait, 0 to a year, or None
    :ivar cause: the error of the transport or of the file, stripped
    """

    reason: str
    retryable: bool
    temporary: bool
    status_code: int | None = None
    error: str | None = None
    error_description: str | None = None
    retry_after: float | None = None
    method: str = field(kw_only=True)
    cause: BaseException | None = field(default=None, eq=False)


def build_request(
    credential: Credential, parameters: Mapping[str, str | None], *, now: float, jti: str
) -> TokenRequest:
    """The token request of RFC 6749 §4.4.2.

    :param parameters: `scope`, `audience`, `resource` and the like; None is left out
    :param now: seconds since the epoch, for an assertion
    :param jti: fresh for each attempt, for an assertion
    :raises RevosConfigurationError: it can't be built; neither text nor chain has a secret

    >>> app = Credential("client_secret_post", "https://auth.example/token", "app", "s3cret")
    >>> request = build_request(app, {"scope": "read", "audience": None}, now=0, jti="1")
    >>> request.body
    b'grant_type=client_credentials&scope=read&client_id=app&client_secret=s3cret'
    >>> request
    TokenRequest(url='https://auth.example/token', method='client_secret_post')
    """
    sent = {name: value for name, value in parameters.items() if value is not None}
    proof = _proof_of(credential, sent)
    client_id, headers = credential.client_id, _HEADERS
    form = {"grant_type": "client_credentials", **sent}
    if credential.method == "private_key_jwt":
        assertion = sign_assertion(
            client_id=client_id,
            audience=credential.assertion_audience or credential.token_url,
            private_key=proof,
            key_id=credential.key_id,
            algorithm=credential.algorithm,
            now=now,
            jti=jti,
        )
        # RFC 7521 §4.2 permits `client_id` beside an assertion, and Microsoft Entra ID requires it.
        form |= {"client_id": client_id, "client_assertion_type": _ASSERTION_TYPE}
        form["client_assertion"] = assertion
        secrets = [assertion, assertion.rpartition(".")[2]]
    else:
        secrets = [proof, quote(proof, safe=""), quote_plus(proof)]
        if credential.method == "client_secret_basic":
            # Form-encoded first, so that a colon in the id does not end it (RFC 6749 §2.3.1).
            pair = f"{quote_plus(client_id)}:{quote_plus(proof)}"
            basic = b64encode(pair.encode()).decode()
            headers = (*headers, ("Authorization", f"Basic {basic}"))
            secrets += [f"Basic {basic}", basic]
        else:
            form |= {"client_id": client_id, "client_secret": proof}
    # Of extra_token_params any may be a secret; short ones would be masked in every other word.
    extra = (value for name, value in sent.items() if name not in _PLAIN)
    secrets += [value for value in extra if len(value) >= SHORTEST_TO_HIDE]
    return TokenRequest(
        credential.token_url,
        headers,
        urlencode(form).encode(),
        tuple(dict.fromkeys(secrets)),
        credential.method,
    )


def _proof_of(credential: Credential, sent: Mapping[str, str]) -> str:
    """The secret or the private key, once all that is sent is known to be fit for it."""
    who = f"client id {credential.client_id!r}"
    if credential.method not in _PROOFS:
        raise RevosConfigurationError(
            f"auth_method {credential.method!r} of {who} is unknown: use {', '.join(_PROOFS)}"
        )
    setting = _PROOFS[credential.method][1]
    proof = credential.private_key if setting == "private_key_file" else credential.secret
    if not proof:
        raise RevosConfigurationError(f"{setting} of {who} is empty: {credential.method} needs it")
    if taken := sorted(_OURS & sent.keys()):
        raise RevosConfigurationError(f"extra_token_params must not have {', '.join(taken)}")
    # Looked for and not tried, since a UnicodeEncodeError holds the whole text.
    for name, value in {"client_id": credential.client_id, setting: proof, **sent}.items():
        if any("\ud800" <= character <= "\udfff" for character in name + value):
            raise RevosConfigurationError(f"{name!a} of {who} can't be sent: it is not UTF-8 text")
    return proof


def parse_response(
    request: TokenRequest,
    client_id: str,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float,
    default_lifetime: float,
) -> Grant | Failure:
    """What an answer means: the table above. It never raises.

    :param headers: asked by lower-case names; `httpx.Headers` does
    :param body: undecoded; one that is longer than `MAX_BODY` may be cut
    :param now: seconds since the epoch, for a `Retry-After` that is a date where `Date` is missing
    :param default_lifetime: seconds, where the server says none

    >>> app = Credential("client_secret_post", "https://auth.example/token", "app", "s3cret")
    >>> sent = build_request(app, {}, now=0, jti="1")
    >>> parse_response(sent, "app", 200, {}, b'{"access_token": "t0ken", "expires_in": 900}',
    ...                now=0, default_lifetime=3600)
    Grant(lifetime=900.0, scope=None)
    >>> print(parse_response(sent, "app", 401, {}, b'{"error": "invalid_client"}',
    ...                      now=0, default_lifetime=3600).reason)
    the token endpoint https://auth.example/token refused client id 'app' with invalid_client \
(HTTP 401): check client id, client secret and authentication method client_secret_post
    """
    answer: dict[str, object] | Grant | str = _json_object(headers, body)
    said = answer if isinstance(answer, dict) else {}
    # A token in an answer that can't be used is a secret too.
    tokens = (said.get(name) for name in ("access_token", "refresh_token", "id_token"))
    secrets = (*request.secrets, *(token for token in tokens if isinstance(token, str)))
    is_success, is_redirect = 200 <= status < 300, 300 <= status < 400
    if is_success and isinstance(answer, dict):
        answer = _grant(said, secrets, default_lifetime)
        if isinstance(answer, Grant):
            return answer

    error, description = (_text(said, name, secrets) for name in ("error", "error_description"))
    verb, outcome = "refused", f" with {error}" if error else ""
    retryable = status in {408, 425, 429} or 500 <= status < 600
    retryable |= status == 400 and said.get("error") == "temporarily_unavailable"
    if is_redirect:
        # Masked before it is cut up: a part of a secret is nothing that could be found.
        target = redact(headers.get("location", ""), secrets)
        verb, outcome = "sent", f" on to {redact(_origin_of(request.url, target), secrets)}"
        check = "redirects are not followed, check token_url"
    elif retryable:
        verb, check = "did not serve", "wait, or check the state of the authorization server"
    elif status == 407:
        check = "it is a proxy that refused: check the one that HTTP_PROXY or ALL_PROXY names"
    elif is_success and not error:
        verb, outcome, check = "gave", " no usable token", f"{answer}; check token_url"
    else:
        code = error if error in _CHECKS else "invalid_client" if status == 401 else ""
        proof = _PROOFS[request.method][0]
        check = _CHECKS.get(code, "token_url, scope and the rights of this client")
        check = "check " + check.format(proof=proof, method=request.method)
    endpoint, who = _names(request.url, client_id, secrets)
    if description:
        check += f'; the server says "{description}"'
    return Failure(
        f"{endpoint} {verb} {who}{outcome} (HTTP {status}): {check}",
        retryable=retryable,
        temporary=retryable,
        status_code=status,
        error=error,
        error_description=description,
        retry_after=retry_after_of(headers.get("retry-after"), now, headers.get("date")),
        method=request.method,
    )


def transport_failure(request: TokenRequest, client_id: str, error: Exception) -> Failure:
    """No answer came, or not all of it: a connection error or a timeout."""
    kind = type(error).__name__
    # By name: httpx's, httpx2's and the built-in timeout have no ancestor in common.
    if "Timeout" in kind:
        outcome, check = "no answer in time", "request_timeout, network and proxy"
    else:
        outcome, check = "no answer", "token_url, network, proxy and, for TLS, ca_file"
    endpoint, who = _names(request.url, client_id, request.secrets)
    cause = link = strip(error, request.secrets)
    while not (said := redact(str(link), request.secrets)):  # A type may write what it likes.
        follows = link.__cause__ or link.__context__
        if follows is None:
            break
        link = follows
    detail = f"{kind}: {said}" if said else kind
    return Failure(
        f"{endpoint} gave {who} {outcome} ({detail}): check {check}",
        retryable=True,
        temporary=True,
        method=request.method,
        cause=cause,
    )


def request_failure(
    credential_method: str, client_id: str, token_url: str, error: Exception
) -> Failure:
    """No request was sent, as it could not be built: a secret or key file, or the configuration.

    An unreadable file is `temporary`: the next rotation can bring it back.
    """
    # Other errors can hold what was read so far, a UnicodeDecodeError even in its text.
    may_be_shown = isinstance(error, OSError | RevosError)
    detail = redact(str(error), ()) if may_be_shown else type(error).__name__
    signs = credential_method == "private_key_jwt"
    check = "private_key_file" if signs else "client_secret or client_secret_file"
    endpoint, who = _names(token_url, client_id, ())
    return Failure(
        f"{endpoint} was not asked: no request for {who} can be built ({detail}); check {check}",
        retryable=False,
        temporary=isinstance(error, OSError),
        method=credential_method,
        cause=strip(error) if may_be_shown else None,
    )


def authentication_error(
    failure: Failure, *, attempts: int, retry_after: float | None
) -> RevosAuthenticationError:
    """The exception for a cycle that ended with `failure`; raise it outside of any `except`.

    :param attempts: token requests of the whole cycle
    :param retry_after: seconds to the next cycle, or None
    """
    error = RevosAuthenticationError(
        failure.reason,
        attempts=attempts,
        retry_after=retry_after,
        status_code=failure.status_code,
        error=failure.error,
        error_description=failure.error_description,
        method=failure.method,
        temporary=failure.temporary,
    )
    error.__cause__ = failure.cause
    return error


def _names(url: str, client_id: str, secrets: Iterable[str]) -> tuple[str, str]:
    """The token endpoint and the client, as the reason of a failure calls them."""
    endpoint = redact(endpoint_of(url), secrets)
    return f"the token endpoint {endpoint}", f"client id {redact(client_id, secrets)!r}"


class _AmbiguousObject(dict[str, object]):
    """A JSON object with a name in it twice: parsers differ in which one counts (RFC 8259 §4)."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    return members if len(members := dict(pairs)) == len(pairs) else _AmbiguousObject(members)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _json_object(headers: Mapping[str, str], body: bytes) -> dict[str, object] | str:
    """The body as a JSON object, or what is wrong with it. Its media type does not matter."""
    encodings = headers.get("content-encoding", "").lower().split(",")
    if not {encoding.strip() for encoding in encodings} <= {"", "identity"}:
        return "the body is encoded although no encoding was accepted"
    if len(body) > MAX_BODY:
        return f"the body is over {MAX_BODY} bytes, too large for a token response"
    try:
        # Decimal, since `int` refuses more than 4,300 digits; a byte order mark may be ignored.
        answer = json.loads(
            body.decode("utf-8-sig"),
            object_pairs_hook=_object,
            parse_int=Decimal,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError):
        return "the body is not JSON"
    if not isinstance(answer, dict) or isinstance(answer, _AmbiguousObject):
        return "the body is not a JSON object whose names are unique"
    return answer


def _grant(said: Mapping[str, object], secrets: Iterable[str], default: float) -> Grant | str:
    """The token of a JSON object, or what is wrong with it."""
    token, kind = said.get("access_token"), said.get("token_type")
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        return "there is no access_token of visible ASCII in the body"
    if kind is not None and not (isinstance(kind, str) and kind.lower() == "bearer"):
        return f"token_type {_text(said, 'token_type', secrets)!r} is not Bearer"
    lifetime = _lifetime(said.get("expires_in"), default)
    if lifetime is None:
        return "expires_in is not a number of seconds from 1 up"
    return Grant(token, lifetime, _text(said, "scope", secrets))


def _lifetime(value: object, default: float) -> float | None:
    if value is None:
        value = float(default)
    elif isinstance(value, str) and re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        value = Decimal(value)
    # JSON integers come as Decimal and fractions as float; so neither is a bool.
    if isinstance(value, Decimal | float) and value >= 1 and value != float("inf"):
        return float(min(value, 10 * _YEAR))
    return None


def _text(said: Mapping[str, object], name: str, secrets: Iterable[str]) -> str | None:
    """A text that the server sent, as it may be shown."""
    text = said.get(name)
    if not isinstance(text, str) or text in _CHECKS:
        return text if isinstance(text, str) else None
    return redact(text, secrets) or None


def _origin_of(url: str, reference: str) -> str:
    try:
        return endpoint_of(urljoin(urljoin(url, reference), "/"))
    except ValueError:
        return "(not a URL)"
