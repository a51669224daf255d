"""The seam to LangChain: messages and the shape of the answer in; the answer out.

Only this module knows the chat model and the OpenAI client. It imports both, so it is imported
late, in a thread. Its coroutines run on asyncio, which is what LangChain's run on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import anyio
import httpx2
import langchain_openai
import openai
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from openai.types.chat import ChatCompletionChunk

from revos.auth import BearerAuth, token_of
from revos.config import ModelConfig
from revos.errors import RevosAPIError, RevosError, own_copy
from revos.extraction.answers import Completion
from revos.extraction.api_errors import (
    MALFORMED,
    api_error,
    is_temporary,
    secrets_of,
    unreachable,
)
from revos.extraction.arriving import Arriving
from revos.extraction.messages import as_json, completion_of, counted, unencoded
from revos.extraction.targets import WRAPPING
from revos.http_headers import retry_after_of
from revos.redact import redact, strip
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


class _Chunk(ChatCompletionChunk):
    """Of what a gateway says in its own way LangChain would have pydantic warn."""

    def model_dump(self, *args: Any, **options: Any) -> dict[str, Any]:
        return super().model_dump(*args, **{"warnings": False, **options})


class _AsyncClient(_WithAuth, openai.AsyncOpenAI):
    def _make_status_error(
        self, err_msg: str, *, body: object, response: httpx2.Response
    ) -> openai.APIStatusError:
        """Not in the words at which LangChain warns, and advises what extraction does by itself.
        What the gateway says stands in the body, too.
        """
        words = _WARNED_OF.sub(r"\1", err_msg)
        return super()._make_status_error(words, body=body, response=response)

    def _process_response_data(
        self, *, data: object, cast_to: type[Any], response: httpx2.Response
    ) -> Any:
        if cast_to is ChatCompletionChunk:
            cast_to = _Chunk
            if words := _words_in_place_of_a_chunk(data):
                raise openai.APIError(words, response.request, body=data)
        return super()._process_response_data(data=data, cast_to=cast_to, response=response)


_WARNED_OF = re.compile(
    r"'(response_format)'(?= of type 'json_schema' is not supported with this model)"
    r"|(?<=Invalid) (?=schema for response_format)"
)


def _words_in_place_of_a_chunk(data: object) -> str | None:
    """An error of a stream as some say it, bare."""
    if not isinstance(data, Mapping):
        return str(data)
    told = data.get("message") or data.get("detail")
    return None if data.get("choices") or not told else str(told)


class _SyncClient(_WithAuth, openai.OpenAI):
    pass


class ChatOpenAI(langchain_openai.ChatOpenAI):
    """As it is, and by its own name in traces; but it takes what models say in place of a call's
    arguments: an object not encoded, one encoded twice, a list. LangChain's messages hold encoded
    objects only, and what such an answer cost would be lost. What is said is the assistant's,
    whatever role the gateway names. An error that comes in place of an answer keeps its words, and
    so does a refusal in a stream.
    """

    def _get_request_payload(
        self, input_: Any, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """With the messages where the OpenAI client takes them as they are: it goes through each in
        search of what it would have to rename, and finds nothing, in a tenth of all the time.
        """
        payload = super()._get_request_payload(input_, stop=stop, **kwargs)
        if "messages" in payload:
            as_they_are = {"messages": payload["messages"], **(payload.get("extra_body") or {})}
            payload |= {"messages": [], "extra_body": as_they_are}
        return payload

    def _create_chat_result(
        self, response: Any, generation_info: dict[str, Any] | None = None
    ) -> ChatResult:
        if isinstance(error := getattr(response, "error", None), str):
            response.error = {"message": error}
        if hasattr(response, "usage"):
            response.usage = counted(response.usage)
        for choice in getattr(response, "choices", None) or ():
            message: Any = getattr(choice, "message", None)
            if hasattr(message, "role"):
                message.role = "assistant"
            if isinstance(getattr(message, "content", None), dict):
                message.content = as_json(message.content)
            calls: list[Any] = [
                getattr(call, "function", None)
                for call in getattr(message, "tool_calls", None) or ()
            ]
            for call in (*calls, getattr(message, "function_call", None)):
                if getattr(call, "arguments", None) is None:
                    continue
                call.arguments = _as_object(unencoded(call.arguments))
        return super()._create_chat_result(response, generation_info)

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], *args: Any, **kwargs: Any
    ) -> ChatGenerationChunk | None:
        delta = chunk["choices"][0].get("delta") if chunk.get("choices") else None
        chunk["usage"] = counted(chunk.get("usage"))
        if delta and delta.get("role"):
            delta["role"] = "assistant"
        if delta and isinstance(delta.get("content"), dict):
            delta["content"] = as_json(delta["content"])
        calls = [call.get("function") for call in (delta and delta.get("tool_calls")) or ()]
        for call in (*calls, delta and delta.get("function_call")):
            if call and not isinstance(call.get("arguments"), str | None):
                call["arguments"] = as_json(call["arguments"])
        converted = super()._convert_chunk_to_generation_chunk(chunk, *args, **kwargs)
        if converted is not None and delta and delta.get("refusal"):
            converted.message.additional_kwargs["refusal"] = delta["refusal"]
        return converted


def _as_object(arguments: str) -> str:
    """In the object that anything else is asked for in, unless they are one, or no JSON."""
    try:
        is_object = isinstance(json.loads(arguments, strict=False), dict)
    except (ValueError, RecursionError):
        return arguments
    return arguments if is_object else f'{{"{WRAPPING}": {arguments}}}'


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
    return await _completion(llm, messages, options, llm.ainvoke(list(messages), **options))


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
    told_costs = {**options, "stream_options": {"include_usage": True}}
    try:
        return await _completion(
            llm, messages, options, _collected(llm, messages, told_costs, on_part)
        )
    except RevosAPIError as error:
        if error.status_code not in (400, 422) or "stream_options" not in error.features:
            raise
    return await _completion(llm, messages, options, _collected(llm, messages, options, on_part))


async def _collected(
    llm: ChatOpenAI,
    messages: Sequence[BaseMessage],
    options: dict[str, Any],
    on_part: Callable[[str], Awaitable[None]],
) -> AIMessage:
    arriving = Arriving(_tool_in(options))
    async for chunk in llm.astream(list(messages), **options):
        if said := arriving.take(chunk):
            # A cancellation here would leave the generators behind LangChain's, and the connection,
            # to the garbage collector; in their next step it ends them all.
            with anyio.CancelScope(shield=True):
                await on_part(said)
    return arriving.message()


async def _completion(
    llm: ChatOpenAI,
    messages: Sequence[BaseMessage],
    options: dict[str, Any],
    answer: Awaitable[AIMessage],
) -> Completion:
    """The completion that is awaited, or the error of revos for what comes in its place."""
    told: RevosError
    cause: BaseException | None
    try:
        message = await answer
    except RevosError as error:
        told, cause = own_copy(error), error.__cause__
    except (openai.OpenAIError, httpx2.HTTPError, *MALFORMED) as error:
        tokens = _sent_by(llm)
        told = api_error(error, messages, tokens)
        cause = strip(error, secrets_of(error, tokens))
    else:
        return completion_of(message, _sent_by(llm), _tool_in(options))
    # Out here, or the context of the error would be the one that holds the request. And a copy in
    # any case: the frames of the first one hold it, too.
    raise told from cause


def _sent_by(llm: ChatOpenAI) -> tuple[AccessToken, ...]:
    client: _AsyncClient = llm.root_async_client
    return client.auth.sent() if client.auth is not None else ()


def _tool_in(options: dict[str, Any]) -> str | None:
    tools = options.get("tools")
    return str(tools[0]["function"]["name"]) if tools else None


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
        raise unreachable(cause) from cause
    if response.status_code != 200:
        raise RevosAPIError(
            f"the gateway refused to list its models with HTTP {response.status_code}",
            status_code=response.status_code,
            retry_after=retry_after_of(response.headers.get("retry-after")),
            temporary=is_temporary(response.status_code),
        )
    with suppress(*MALFORMED):
        # As they may be shown: they stand in an error where a model is unknown.
        sent = [token_of(response.request)]
        return [redact(str(model["id"]), sent) for model in response.json()["data"]]
    raise RevosAPIError(
        "the gateway's answer is no list of models: check REVOS_BASE_URL",
        status_code=response.status_code,
    )
