"""How the gateway answers a request: the routes of the token endpoint and of the API.

What a token request or a completion means is decided in `token_endpoint` and `completions`, both
pure; what goes wrong is decided by the attributes of the `Gateway`.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from attrs import evolve

from revos.testing import token_endpoint
from revos.testing.asgi import Answer, client_left, openai_error, send_answer, stay
from revos.testing.completions import Refusal, Unsupported, as_body, as_chunks, complete
from revos.testing.tally import ChatRecord, TokenRecord
from revos.token import fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from revos.testing.asgi import Receive, Request, Send
    from revos.testing.completions import Completion
    from revos.testing.gateway import Gateway

__all__ = ["TOKEN_PATH", "answer"]

TOKEN_PATH = "/oauth2/token"  # noqa: S105 - a path


async def answer(gateway: Gateway, request: Request, receive: Receive, send: Send) -> None:
    """Answer one request."""
    if request.path == TOKEN_PATH:
        await _token(gateway, request, receive, send)
    elif request.path == "/v1/redirect":
        target = request.query.get("to", "/")
        await send_answer(send, Answer(status=307, headers={"location": target}))
    elif request.path == "/echo":
        await send_answer(send, _echo(request, gateway.api_requests))
    elif request.path.startswith("/v1/"):
        with gateway._counted_api(request.client):
            await _api(gateway, request, receive, send)
    else:
        await send_answer(send, _not_found(request))


async def _token(gateway: Gateway, request: Request, receive: Receive, send: Send) -> None:
    asked = token_endpoint.read(request)
    at, status = gateway.now(), None
    # Chosen as the request comes, so that the order of a script is the order of the requests.
    scripted = _scripted(gateway, asked.method)
    try:
        with gateway._counted_token(request.client):
            if gateway.delay and not await stay(gateway.delay, gateway.sleep, receive):
                return
            if scripted is not None:
                status = await _play(gateway, scripted, receive, send)
                return
            granted = _grant(gateway, asked)
            status = granted.status
            await send_answer(send, granted)
    finally:
        gateway.token_log.append(TokenRecord(asked.method, status, asked.params, at))


def _scripted(gateway: Gateway, method: str | None) -> Answer | None:
    outage = Answer(status=503) if gateway.outage is True else gateway.outage or None
    if outage is not None and outage.method in {None, method}:
        return outage
    for planned in tuple(gateway.token_script):
        if planned.method in {None, method}:
            gateway.token_script.remove(planned)
            return planned
    return None


def _grant(gateway: Gateway, asked: token_endpoint.TokenRequest) -> Answer:
    refusal = token_endpoint.check(
        asked,
        clients={gateway.client_id: gateway.client_secret, **gateway.clients},
        methods=gateway.auth_methods,
        assertion_check=gateway.assertion_check,
    )
    if refusal is not None:
        return refusal
    return token_endpoint.token_answer(gateway.issue(), gateway.lifetime, asked.params.get("scope"))


async def _play(gateway: Gateway, planned: Answer, receive: Receive, send: Send) -> int | None:
    """Give a scripted answer; its status, or None where the client left before."""
    if planned.hang:
        await client_left(receive)
        return None
    if planned.delay and not await stay(planned.delay, gateway.sleep, receive):
        return None
    await send_answer(send, planned)
    return planned.status


async def _api(gateway: Gateway, request: Request, receive: Receive, send: Send) -> None:
    token = _bearer(request)
    refused = token is None or not gateway.accepts(token) or gateway.refuse_all
    if refused or (gateway.refuse_if is not None and gateway.refuse_if(request)):
        await send_answer(send, _refusal(gateway, token))
    elif request.path == "/v1/chat/completions" and request.method == "POST":
        try:
            await _chat(gateway, request, receive, send)
        except Unsupported as refusal:
            await send_answer(send, evolve(refusal.answer, status=gateway.unsupported_status))
        except Refusal as refusal:
            await send_answer(send, refusal.answer)
    else:
        await send_answer(send, _look_up(gateway, request))


def _refusal(gateway: Gateway, token: str | None) -> Answer:
    gateway.refusals += 1
    # RFC 6750 §3.1: without a token, the challenge names no error.
    challenge = "Bearer" if token is None else gateway.challenge
    return openai_error(
        401 if token is None else gateway.refusal_status,
        "Incorrect API key provided.",
        code="invalid_api_key",
        headers={"www-authenticate": challenge} if challenge else {},
    )


def _look_up(gateway: Gateway, request: Request) -> Answer:
    if request.path == "/v1/echo":
        return _echo(request, gateway.api_requests)
    if request.method == "GET" and request.path == "/v1/models":
        return Answer(body={"object": "list", "data": [_model(name) for name in gateway.models]})
    name = request.path.removeprefix("/v1/models/")
    if request.method == "GET" and name in gateway.models:
        return Answer(body=_model(name))
    return _not_found(request)


async def _chat(gateway: Gateway, request: Request, receive: Receive, send: Send) -> None:
    payload = _json_object(request.body)
    token = _bearer(request) or ""
    gateway.chat_log.append(ChatRecord(payload, fingerprint_of(token), gateway.now()))
    if payload.get("model") in gateway.refuse_models:
        raise Refusal(_refusal(gateway, token))
    number = gateway.api_requests
    scripted = gateway.chat_script.popleft() if gateway.chat_script else None
    if gateway.chat_delay and not await stay(gateway.chat_delay, gateway.sleep, receive):
        return
    if isinstance(scripted, Answer):
        await _play(gateway, scripted, receive, send)
        return
    completion = complete(
        payload,
        models=gateway.models,
        unsupported=gateway.unsupported,
        strict_schemas=gateway.strict_schemas,
        scripted=scripted,
    )
    if payload.get("stream"):
        await _stream(gateway, completion, payload, number, send)
    else:
        body = as_body(completion, number, int(gateway.now()))
        await send_answer(send, Answer(body=body))


async def _stream(
    gateway: Gateway, completion: Completion, payload: Mapping[str, Any], number: int, send: Send
) -> None:
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    options = payload.get("stream_options") or {}
    chunks = as_chunks(
        completion,
        number,
        int(gateway.now()),
        size=gateway.chunk_size,
        include_usage=bool(options.get("include_usage")),
    )
    for chunk in chunks:
        data = b"data: %s\n\n" % json.dumps(chunk).encode()
        await send({"type": "http.response.body", "body": data, "more_body": True})
        if gateway.stream_delay:
            await gateway.sleep(gateway.stream_delay)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        payload = json.loads(body)
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        raise Refusal(openai_error(400, "We could not parse the JSON body of your request."))
    return payload


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "revos"}


def _echo(request: Request, number: int) -> Answer:
    token = _bearer(request)
    return Answer(
        body={
            "token_fingerprint": fingerprint_of(token) if token else None,
            "method": request.method,
            "path": request.path,
            "body_sha256": hashlib.sha256(request.body).hexdigest(),
            "n": number,
        }
    )


def _not_found(request: Request) -> Answer:
    message = f"Unknown request URL: {request.method} {request.path}."
    return openai_error(404, message, code="unknown_url")
