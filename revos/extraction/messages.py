"""What a message of LangChain's says: the answer, a refusal, what it cost.

Models and gateways put an answer wherever they like. Imports LangChain, so it is imported late.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from math import isfinite
from typing import Any

from langchain_core.messages import AIMessage

from revos.extraction.answers import UNFINISHED, Completion, Usage
from revos.extraction.json_text import json_values
from revos.redact import redact, without_token
from revos.token import AccessToken

__all__ = ["as_json", "completion_of", "counted", "refusal_part", "unencoded"]

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
    message: AIMessage, tokens: Collection[AccessToken], tool: str | None
) -> Completion:
    """What stands in the message; nothing of the tokens, were one sent back in it: an answer that
    does not fit stands in an error.

    :param tool: the name of the one that was to be called
    """

    def hidden(text: str) -> str:
        for token in tokens:
            text = without_token(text, token.value)
        return text

    called = _calls_of(message, tool) or _calls_in(message.text, tool)
    calls = tuple(map(_paired, called))
    answer = "\n".join(calls) or _paired(message.text)
    refusal = message.additional_kwargs.get("refusal") or refusal_part(message)
    said, costs = message.response_metadata, message.usage_metadata
    return Completion(
        answer=hidden(answer) or None,
        calls=tuple(map(hidden, calls)),
        finish_reason=UNFINISHED
        if said.get(UNFINISHED)
        else _FINISH_REASONS.get(str(said.get("finish_reason")).lower()),
        refusal=redact(hidden(str(refusal)), ()) if refusal else None,
        usage=Usage(costs["input_tokens"], costs["output_tokens"], costs["total_tokens"])
        if costs
        else Usage(),
        model=hidden(model) if isinstance(model := said.get("model_name"), str) else None,
    )


def _calls_of(message: AIMessage, tool: str | None) -> list[str]:
    """The arguments (JSON) of the calls of this tool, else of the one that was called first, where
    they say something; of `function_call`, where a gateway knows no other.
    """
    calls: list[tuple[str | None, str]] = [
        (call["name"], as_json(call["args"])) for call in message.tool_calls
    ]
    calls += [(call["name"], call["args"] or "") for call in message.invalid_tool_calls]
    if legacy := message.additional_kwargs.get("function_call"):
        calls.append((legacy.get("name"), legacy.get("arguments") or ""))
    said = [(name, text) for name, text in calls if text.strip() not in ("", "{}")]
    if not said:
        is_empty = any(text for _, text in calls) and not message.text.strip()
        return ["{}"] if is_empty else []
    wanted = tool if any(name == tool for name, _ in said) else said[0][0]
    return [text for name, text in said if name == wanted]


def _calls_in(text: str, tool: str | None) -> list[str]:
    """The arguments of calls that the gateway has left in the text, as one without a parser for
    what this model writes: `<tool_call>{"name": ..., "arguments": ...}</tool_call>` and its like.
    """
    if tool is None:
        return []
    values: Iterable[str] = json_values(text)
    if "```" in text:
        values = dict.fromkeys(values)  # What is fenced is among them twice.
    said: list[Any] = []
    for decoded in map(json.loads, values):
        said += decoded if isinstance(decoded, list) else [decoded]
    return [
        unencoded(call[key])
        for call in said
        if isinstance(call, dict) and call.get("name") == tool
        for key in ("arguments", "parameters")
        if key in call
    ]


def unencoded(arguments: object) -> str:
    """The arguments of a call as JSON, where they are not, or more than once.

    >>> unencoded('"[1]"'), unencoded({"a": 1}), unencoded('{"as":"spelt"}')
    ('[1]', '{"a": 1}', '{"as":"spelt"}')
    """
    while isinstance(arguments, str):
        try:
            inner = json.loads(arguments, strict=False)
        except (ValueError, RecursionError):
            return arguments
        if not isinstance(inner, str):
            return arguments
        arguments = inner
    return as_json(arguments)


_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def counted(usage: Any) -> dict[str, Any] | None:
    """What a completion cost, of whatever is said of it: for that no answer is lost."""
    usage = usage if isinstance(usage, Mapping) else getattr(usage, "__dict__", None)
    if not usage:
        return None
    counts = {name: _whole(usage.get(name)) for name in _COUNTS}
    details = {
        key: {name: count for name, count in inner.items() if _whole(count) is not None}
        for key, given in usage.items()
        if (inner := given if isinstance(given, Mapping) else getattr(given, "__dict__", None))
    }
    return {**details, **{name: count for name, count in counts.items() if count is not None}}


def _whole(count: object) -> int | None:
    if isinstance(count, bool) or not isinstance(count, int | float) or not isfinite(count):
        return None
    return max(0, int(count))


def refusal_part(message: AIMessage) -> str | None:
    parts = [part for part in message.content if isinstance(part, dict)]
    said = (part.get("refusal") for part in parts if part.get("type") == "refusal")
    return next(filter(None, said), None)


def as_json(value: object) -> str:
    """JSON that can be sent: half of a character stays escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return json.dumps(value) if _HALVES.search(text) else text


def _paired(text: str) -> str:
    """With the halves of a character together, which came in two parts."""
    if not _HALVES.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
