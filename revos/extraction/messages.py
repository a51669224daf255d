"""What a message of LangChain's says: the answer, a refusal, what it cost.

Models and gateways put an answer wherever they like. Imports LangChain, so it is imported late.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection

from langchain_core.messages import AIMessage

from revos.extraction.answers import Completion, Usage
from revos.redact import redact, without_token
from revos.token import AccessToken

__all__ = ["as_json", "completion_of"]

_HALVES = re.compile("[\ud800-\udfff]")

# What gateways say in place of what the OpenAI API has.
_FINISH_REASONS = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "content_filter",
    "safety": "content_filter",
}


def completion_of(
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


def _call_of(message: AIMessage, tool: str | None) -> str | None:
    """The arguments (JSON) of the call of this tool, else of the first one, where there is any that
    says something; of `function_call`, where a gateway knows no other.
    """
    calls: list[tuple[str | None, str | None]] = [
        (call["name"], as_json(call["args"]) if call["args"] else None)
        for call in message.tool_calls
    ]
    calls += [(call["name"], call["args"]) for call in message.invalid_tool_calls]
    if legacy := message.additional_kwargs.get("function_call"):
        calls.append((legacy.get("name"), legacy.get("arguments")))
    said = [(name, arguments) for name, arguments in calls if arguments]
    if not said:
        return "{}" if message.tool_calls and not message.text.strip() else None
    return next((arguments for name, arguments in said if name == tool), said[0][1])


def _refusal_part(message: AIMessage) -> str | None:
    parts = [part for part in message.content if isinstance(part, dict)]
    return next((part.get("refusal") for part in parts if part.get("type") == "refusal"), None)


def as_json(value: object) -> str:
    """JSON that can be sent: half of a character stays escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or not _HALVES.search(text) else json.dumps(value)
