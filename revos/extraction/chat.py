"""The seam to LangChain: messages and the shape of the answer in; the answer out.

Only this module knows the chat model and the OpenAI client. It imports both, so it is imported
late, in a thread. Its coroutines run on asyncio, which is what LangChain's run on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import anyio
import httpx2
import langchain_openai
import openai
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from revos.auth import BearerAuth, token_of
from revos.config import ModelConfig
from revos.errors import RevosAPIError, RevosError, RevosInputError, own_copy
from revos.extraction.answers import Completion, Usage
from revos.extraction.strategies import features_in
from revos.http_headers import retry_after_of
from revos.redact import redact, strip, without_token
from revos.token import AccessToken

__all__ = ["complete", "make_llm", "model_ids", "stream"]

# The auth puts the real one into each request.
NO_KEY = "set-by-revos-auth"


class _WithAuth:
    """Requests go by `auth`; the pool behind `http_client` is shared.

    The two kinds of client ask for it by different names.
    """

    auth: BearerAuth | None = None

    @property
    def custom_auth(self) -> Any:
        return self.auth

    def _custom_auth(self, security: object) -> Any:  # noqa: ARG002 - the client gives it
        return self.auth


class _AsyncClient(_WithAuth, openai.AsyncOpenAI):
    pass


class _SyncClient(_WithAuth, openai.OpenAI):
    pass


class ChatOpenAI(langchain_openai.ChatOpenAI):
    """As it is, and by its own name in traces; but it takes what models say in place of a call's
    arguments: an object not encoded, one encoded twice, a list. LangChain's messages hold encoded
    objects only, and what such an answer cost would be lost; so it is handed on as a text. And the
    words of a refusal are kept in a stream.
    """

    def _create_chat_result(
        self, response: Any, generation_info: dict[str, Any] | None = None
    ) -> ChatResult:
        for choice in getattr(response, "choices", None) or ():
            message: Any = getattr(choice, "message", None)
            for call in getattr(message, "tool_calls", None) or ():
                arguments = getattr(getattr(call, "function", None), "arguments", None)
                if arguments is not None and not _is_object(arguments):
                    message.tool_calls = None
                    message.content = _as_text(arguments)
                    break
        return super()._create_chat_result(response, generation_info)

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], *args: Any, **kwargs: Any
    ) -> ChatGenerationChunk | None:
        converted = super()._convert_chunk_to_generation_chunk(chunk, *args, **kwargs)
        delta = chunk["choices"][0].get("delta") if chunk.get("choices") else None
        if converted is not None and delta and delta.get("refusal"):
            converted.message.additional_kwargs["refusal"] = delta["refusal"]
        return converted


def _is_object(arguments: object) -> bool:
    """Or no JSON, of which LangChain makes an invalid call."""
    if not isinstance(arguments, str):
        return False
    try:
        return isinstance(json.loads(arguments, strict=False), dict)
    except (ValueError, RecursionError):
        return True


def _as_text(arguments: object) -> str:
    decoded = json.loads(arguments, strict=False) if isinstance(arguments, str) else arguments
    return decoded if isinstance(decoded, str) else _json(decoded)


def make_llm(
    config: ModelConfig,
    base_url: str,
    auth: BearerAuth,
    http: httpx2.AsyncClient,
    sync_http: httpx2.Client,
) -> ChatOpenAI:
    """The chat model over shared clients: neither it nor a client is built again for a new token.

    Retries are off here: one layer has them, the extractor.
    """
    timeout = openai.Timeout(config.timeout) if config.timeout is not None else openai.not_given
    shared: dict[str, Any] = {
        "base_url": base_url,
        "api_key": NO_KEY,
        "max_retries": 0,
        "timeout": timeout,
    }
    async_client = _AsyncClient(**shared, http_client=http)
    async_client.auth = auth
    sync_client = _SyncClient(**shared, http_client=sync_http)
    sync_client.auth = auth
    settings: dict[str, Any] = {
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
        "top_p": config.top_p,
        "frequency_penalty": config.frequency_penalty,
        "presence_penalty": config.presence_penalty,
    }
    return ChatOpenAI(
        model=config.model,
        base_url=base_url,
        api_key=NO_KEY,  # type: ignore[arg-type]  # pydantic makes the SecretStr
        max_retries=0,
        use_responses_api=False,
        root_async_client=async_client,
        async_client=async_client.chat.completions,
        root_client=sync_client,
        client=sync_client.chat.completions,
        **settings,
    )


async def complete(
    llm: ChatOpenAI, messages: Sequence[BaseMessage], options: dict[str, Any]
) -> Completion:
    """One chat completion.

    :raises RevosAPIError: the gateway refused, or could not be reached
    :raises RevosTokenError: no token could be had for the request
    """
    told: RevosError
    cause: BaseException | None
    held = _held_by(llm)  # Another may be held by the time of the answer.
    try:
        message = await llm.ainvoke(list(messages), **options)
    except RevosError as error:
        told, cause = own_copy(error), error.__cause__
    except (openai.OpenAIError, *_MALFORMED) as error:
        tokens = {held, _held_by(llm)}
        told = api_error(error, messages, tokens)
        cause = strip(error, _secrets(error, tokens))
    else:
        return _completion_of(message, {held, _held_by(llm)}, _tool_in(options))
    # Out here, or the context of the error would be the one that holds the request. And a copy in
    # any case: the frames of the first one hold it, too.
    raise told from cause


async def stream(
    llm: ChatOpenAI,
    messages: Sequence[BaseMessage],
    options: dict[str, Any],
    on_part: Callable[[str], Awaitable[None]],
) -> Completion:
    """One chat completion, whose text is handed on as it comes.

    :param on_part: takes no time

    :raises RevosAPIError: the gateway refused, could not be reached, or ended too early
    :raises RevosTokenError: no token could be had for the request
    """
    whole: AIMessageChunk | None = None
    told: RevosError
    cause: BaseException | None
    held = _held_by(llm)
    try:
        async for chunk in llm.astream(list(messages), **options):
            whole = chunk if whole is None else whole + chunk
            called = "".join(call["args"] or "" for call in chunk.tool_call_chunks)
            if said := called or chunk.text:
                # A cancellation here would leave the generators behind LangChain's, and the
                # connection, to the garbage collector; in their next step it ends them all.
                with anyio.CancelScope(shield=True):
                    await on_part(said)
    except RevosError as error:
        told, cause = own_copy(error), error.__cause__
    except (openai.OpenAIError, httpx2.HTTPError, *_MALFORMED) as error:
        tokens = {held, _held_by(llm)}
        told = api_error(error, messages, tokens)
        cause = strip(error, _secrets(error, tokens))
    else:
        if whole is not None:
            return _completion_of(whole, {held, _held_by(llm)}, _tool_in(options))
        told, cause = RevosAPIError("the gateway's answer has no parts", temporary=True), None
    raise told from cause


# What LangChain and the OpenAI client make of an answer that is no chat completion.
_MALFORMED = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    RecursionError,
    UserWarning,
)


def _held_by(llm: ChatOpenAI) -> AccessToken | None:
    client: _AsyncClient = llm.root_async_client
    return client.auth.held() if client.auth is not None else None


def _completion_of(
    message: AIMessage, tokens: Collection[AccessToken | None], tool: str | None
) -> Completion:
    """What stands in the message; nothing of the tokens, were one sent back in it: an answer that
    does not fit stands in an error.

    :param tool: the name of the one that was to be called
    """
    answer = _call_of(message, tool) or message.text or None
    refusal = message.additional_kwargs.get("refusal") or _refusal_part(message)
    for token in tokens:
        if answer is not None and token is not None:
            answer = without_token(answer, token.value)
        if refusal and token is not None:
            refusal = without_token(str(refusal), token.value)
    said, counted = message.response_metadata, message.usage_metadata
    return Completion(
        answer=answer,
        finish_reason=_FINISH_REASONS.get(str(said.get("finish_reason")).lower()),
        refusal=redact(str(refusal), ()) if refusal else None,
        usage=Usage(counted["input_tokens"], counted["output_tokens"], counted["total_tokens"])
        if counted
        else Usage(),
        model=said.get("model_name"),
    )


_HALVES = re.compile("[\ud800-\udfff]")

# What gateways say in place of what the OpenAI API has.
_FINISH_REASONS = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "content_filter",
    "safety": "content_filter",
}


def _call_of(message: AIMessage, tool: str | None) -> str | None:
    """The arguments (JSON) of the call of this tool, else of the first one, where there is any that
    says something; of `function_call`, where a gateway knows no other.
    """
    calls: list[tuple[str | None, str | None]] = [
        (call["name"], _json(call["args"]) if call["args"] else None) for call in message.tool_calls
    ]
    calls += [(call["name"], call["args"]) for call in message.invalid_tool_calls]
    if legacy := message.additional_kwargs.get("function_call"):
        calls.append((legacy.get("name"), legacy.get("arguments")))
    said = [(name, arguments) for name, arguments in calls if arguments]
    if not said:
        return "{}" if message.tool_calls and not message.text.strip() else None
    return next((arguments for name, arguments in said if name == tool), said[0][1])


def _json(value: Any) -> str:
    """JSON that can be sent: half of a character stays escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or not _HALVES.search(text) else json.dumps(value)


def _refusal_part(message: AIMessage) -> str | None:
    parts = [part for part in message.content if isinstance(part, dict)]
    return next((part.get("refusal") for part in parts if part.get("type") == "refusal"), None)


def _tool_in(options: dict[str, Any]) -> str | None:
    tools = options.get("tools")
    return str(tools[0]["function"]["name"]) if tools else None


def api_error(
    error: Exception,
    messages: Sequence[BaseMessage] = (),
    tokens: Collection[AccessToken | None] = (),
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


def _unexpected(error: Exception, tokens: Collection[AccessToken | None]) -> RevosError:
    if isinstance(error, openai.APITimeoutError):
        return RevosAPIError("the gateway did not answer in time", temporary=True)
    # In the middle of a stream it is of httpx2.
    if isinstance(error, openai.APIConnectionError | httpx2.HTTPError):
        return _unreachable(error.__cause__ or error)
    if type(error) is openai.APIError:  # As an event of a stream.
        words = redact(error.message, _secrets(error, tokens))
        return RevosAPIError(f"the gateway broke its answer off: {words}", temporary=True)
    if isinstance(error, UnicodeEncodeError):
        return RevosInputError("the prompt has half of a character (a lone surrogate) in it")
    if isinstance(error, ValueError) and error.args and isinstance(error.args[0], dict):
        return _error_in_answer(error.args[0], tokens)
    return RevosAPIError(
        f"the gateway's answer is no chat completion ({type(error).__name__}): check REVOS_BASE_URL"
    )


def _error_in_answer(told: dict[str, Any], tokens: Collection[AccessToken | None]) -> RevosAPIError:
    """Some gateways that ask others answer 200 with the error of those."""
    code = told.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 200
    words = redact(str(told.get("message") or told), _values_of(tokens))
    return RevosAPIError(
        f"the gateway answered with an error in place of a completion: {words}",
        status_code=status,
        temporary=_passes(status),
    )


def _passes(status: int) -> bool:
    return status in (408, 409, 425, 429) or status >= 500


def _unreachable(error: BaseException) -> RevosAPIError:
    return RevosAPIError(
        f"the gateway could not be reached ({type(error).__name__}): check REVOS_BASE_URL and the "
        "network",
        temporary=True,
    )


def _token_in(error: BaseException) -> list[str]:
    """The token that the request had, which a gateway may have sent back."""
    request = getattr(error, "request", None)
    return [token_of(request)] if request is not None else []


def _secrets(error: BaseException, tokens: Collection[AccessToken | None]) -> list[str]:
    return [*_token_in(error), *_values_of(tokens)]


def _values_of(tokens: Collection[AccessToken | None]) -> list[str]:
    return [token.value for token in tokens if token is not None]


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
        temporary=_passes(status),
    )


async def model_ids(http: httpx2.AsyncClient, base_url: str) -> list[str]:
    """The ids of `GET {base_url}/models`.

    :raises RevosAPIError: the gateway refused, could not be reached, or lists nothing
    """
    cause: BaseException | None = None
    try:
        response = await http.get(base_url.rstrip("/") + "/models")
    except httpx2.HTTPError as error:
        cause = strip(error)
    if cause is not None:  # Raised out here for the same reason as in `complete`.
        raise _unreachable(cause) from cause
    if response.status_code != 200:
        raise RevosAPIError(
            f"the gateway refused to list its models with HTTP {response.status_code}",
            status_code=response.status_code,
            retry_after=retry_after_of(response.headers.get("retry-after")),
            temporary=response.status_code == 429 or response.status_code >= 500,
        )
    with suppress(*_MALFORMED):
        # As they may be shown: they stand in an error where a model is unknown.
        sent = [token_of(response.request)]
        return [redact(str(model["id"]), sent) for model in response.json()["data"]]
    raise RevosAPIError(
        "the gateway's answer is no list of models: check REVOS_BASE_URL",
        status_code=response.status_code,
    )
