"""The proxy's check of a caller: the authorization server is asked about the token (RFC 7662).

The proxy loads this in its own process. Each verdict is a line of JSON on stdout.
"""

import json
import os
import sys

import httpx
from litellm.proxy._types import ProxyException, UserAPIKeyAuth


async def user_api_key_auth(request, api_key):
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.post(
                os.environ["INTROSPECTION_URL"],
                data={"token": api_key or "none"},
                auth=(os.environ["INTROSPECTION_CLIENT_ID"], os.environ["INTROSPECTION_SECRET"]),
            )
        told = answer.raise_for_status().json()
    except httpx.HTTPError as error:
        tell("unknown")
        raise refusal(503, f"the authorization server can't be asked: {error!r}") from None
    if not told["active"]:
        tell("inactive")
        raise refusal(401, "the token is not active")
    if told.get("aud", os.environ["AUDIENCE"]) != os.environ["AUDIENCE"]:
        tell("elsewhere", told["client_id"])
        raise refusal(401, "the token is for somebody else")
    if "models" not in told.get("scope", "").split():
        tell("too narrow", told["client_id"])
        challenge = 'Bearer error="insufficient_scope", scope="models"'
        raise refusal(403, "the token has not the scope", {"WWW-Authenticate": challenge})
    tell("accepted", told["client_id"])
    return UserAPIKeyAuth(api_key=api_key, user_id=told["client_id"])


def tell(verdict, client=None):
    event = {"event": "judged", "verdict": verdict, "client": client}
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def refusal(status, message, headers=None):
    return ProxyException(
        message=message, type="auth_error", param=None, code=status, headers=headers
    )
