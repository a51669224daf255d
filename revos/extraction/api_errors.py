"""The errors of revos for whatever a request to the gateway's API ended in.

Imports the OpenAI client, so it is imported late.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import httpx2
import openai
from langchain_core.messages import BaseMessage

from revos.auth import token_of
from revos.errors import RevosAPIError, RevosError, RevosInputError, own_copy
from revos.extraction.strategies import features_in
from revos.http_headers import retry_after_of
from revos.redact import redact
from revos.token import AccessToken

__all__ = ["MALFORMED", "api_error", "is_temporary", "secrets_of", "unreachable"]

# What LangChain and the OpenAI client make of an answer that is no chat completion.
MALFORMED = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    RecursionError,
    UserWarning,
)


def api_error(
    error: Exception,
    messages: Sequence[BaseMessage] = (),
    tokens: Collection[AccessToken] = (),
) -> RevosError:
    """The error of revos for whatever a request ended in.

    The OpenAI client may wrap what leaves an auth flow, and LangChain wraps once more: a
    `RevosError` may be anywhere along the chain, and it is what the caller must see. Else the
    innermost error of the OpenAI client is, which is no wrapper of LangChain's.
    """
    told: openai.APIError | None = None
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, RevosError):
            return own_copy(link)
        if isinstance(link, openai.APIError):
            told = link
        link = link.__cause__ or link.__context__
    if isinstance(told, openai.APIStatusError):
        return _refused(told, messages)
    return _unexpected(error if told is None else told, tokens)


def _unexpected(error: Exception, tokens: Collection[AccessToken]) -> RevosError:
    if isinstance(error, openai.APITimeoutError):
        return RevosAPIError("the gateway did not answer in time", temporary=True)
    # In the middle of a stream it is of httpx2.
    if isinstance(error, openai.APIConnectionError | httpx2.HTTPError):
        return unreachable(error.__cause__ or error)
    if type(error) is openai.APIError:  # As an event of a stream.
        said = error.body if isinstance(error.body, str) else error.message
        words = redact(said, secrets_of(error, tokens))
        return RevosAPIError(f"the gateway broke its answer off: {words}", temporary=True)
    if isinstance(error, UnicodeEncodeError):
        return RevosInputError("the prompt has half of a character (a lone surrogate) in it")
    if isinstance(error, ValueError) and error.args and isinstance(error.args[0], dict):
        return _error_in_answer(error.args[0], tokens)
    what = type(error).__name__
    # Some say in a stream in bare words why it ends; what is half of JSON may be of the answer.
    if isinstance(error, json.JSONDecodeError) and not error.doc.lstrip().startswith(("{", "[")):
        what = redact(error.doc, secrets_of(error, tokens)) or what
    return RevosAPIError(
        f"the gateway's answer is no chat completion ({what}): check REVOS_BASE_URL"
    )


def _error_in_answer(told: dict[str, Any], tokens: Collection[AccessToken]) -> RevosAPIError:
    """Some gateways that ask others answer 200 with the error of those."""
    code = told.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 200
    words = redact(str(told.get("message") or told), _values_of(tokens))
    return RevosAPIError(
        f"the gateway answered with an error in place of a completion: {words}",
        status_code=status,
        temporary=is_temporary(status),
    )


def is_temporary(status: int) -> bool:
    return status in (408, 409, 425, 429) or status >= 500


def unreachable(error: BaseException) -> RevosAPIError:
    return RevosAPIError(
        f"the gateway could not be reached ({type(error).__name__}): check REVOS_BASE_URL and the "
        "network",
        temporary=True,
    )


def _token_in(error: BaseException) -> list[str]:
    """The token that the request had, which a gateway may have sent back."""
    if isinstance(error, openai.APIError | httpx2.HTTPError):
        with suppress(RuntimeError):  # Of httpx2, where nobody has set it.
            return [token_of(error.request)]
    return []


def secrets_of(error: BaseException, tokens: Collection[AccessToken]) -> list[str]:
    return [*_token_in(error), *_values_of(tokens)]


def _values_of(tokens: Collection[AccessToken]) -> list[str]:
    return [token.value for token in tokens]


def _refused(error: openai.APIStatusError, messages: Sequence[BaseMessage]) -> RevosAPIError:
    status = error.status_code
    said = error.response.text
    told = error.body.get("message") if isinstance(error.body, dict) else None
    words = redact(told if isinstance(told, str) else said or error.message, _token_in(error))
    what = "check the model's id" if status == 404 else "check the request and the gateway"
    if status in (401, 403):
        what = "check that the client may use this model"
    if status == 429 or status >= 500:
        what = "try again later"
    return RevosAPIError(
        f"the gateway refused with HTTP {status}: {words} ({what})",
        status_code=status,
        features=features_in(said, [message.text for message in messages]),
        code=redact(error.code, _token_in(error)) if isinstance(error.code, str) else None,
        retry_after=retry_after_of(error.response.headers.get("retry-after")),
        temporary=is_temporary(status),
    )
