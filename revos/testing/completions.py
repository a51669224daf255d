"""Chat completions as the OpenAI API gives them, pure: a payload in, a completion or a refusal out.

Which text is read: the last message of the user, unless it complains about an answer (it follows
one and speaks of a schema, an error, something invalid): then the one before, so that a second
attempt is made on the same text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from attrs import frozen

from revos.testing.asgi import Answer, openai_error
from revos.testing.model import fill
from revos.testing.schema import Schema, find_in, strict_problem, without

__all__ = ["Completion", "Refusal", "Unsupported", "as_body", "as_chunks", "complete"]

_TOKEN = re.compile(r"\w+|[^\w\s]")
_ANYTHING: Schema = {"type": "object"}
_COMPLAINT = re.compile(
    r"\b(?:schema|invalid|valid|error|errors|problem|problems|does not fit)\b", re.IGNORECASE
)


class Refusal(Exception):  # noqa: N818 - it is an answer, not an error of ours
    """The request is answered with an error of the API."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Unsupported(Refusal):
    """The model or the gateway lacks a feature."""


@frozen
class Completion:
    """What the stand-in model says. `tool` is the name of the tool that it calls with `text`."""

    text: str
    model: str
    finish_reason: str
    prompt_tokens: int
    tool: str | None = None

    @property
    def usage(self) -> dict[str, int]:
        said = len(_TOKEN.findall(self.text))
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": said,
            "total_tokens": self.prompt_tokens + said,
        }


def complete(
    payload: Mapping[str, Any],
    *,
    models: Collection[str],
    unsupported: Collection[str] = (),
    strict_schemas: bool = True,
    scripted: str | None = None,
) -> Completion:
    """The completion for a request.

    `scripted` is what the model says, whatever it was asked: the arguments of the tool that must
    be called, else the content.

    :raises Refusal: with the answer that the API gives

    >>> hello = {"model": "gpt-4", "messages": [{"role": "user", "content": "Hello"}]}
    >>> complete(hello, models=["gpt-4"]).text
    'You said: Hello'
    """
    messages = _messages(payload)
    model = payload["model"]
    if model not in models:
        message = f"The model `{model}` does not exist or you do not have access to it."
        raise Refusal(openai_error(404, message, code="model_not_found"))
    _refuse_unsupported(payload, unsupported)
    source, in_prompt = _source(messages), _schema_in(messages)
    if in_prompt:
        source = without(source, in_prompt[1])
    tool, insisted = _tool(payload, messages, source, strict=strict_schemas)
    wanted = _wanted_schema(payload, strict=strict_schemas)
    if scripted is not None:
        tool, text = tool if insisted else None, scripted
    elif tool is not None:
        text = json.dumps(fill(tool.get("parameters") or {}, source))
    elif wanted is not None:
        text = json.dumps(fill(wanted or (in_prompt[0] if in_prompt else _ANYTHING), source))
    elif in_prompt:
        text = f"```json\n{json.dumps(fill(in_prompt[0], source))}\n```"
    else:
        text = f"You said: {source[:200]}"
    text, was_cut = _cut(text, payload)
    # As OpenAI does: to call the tool that was named is no reason of its own to stop.
    chose = tool is not None and not isinstance(payload.get("tool_choice"), Mapping)
    return Completion(
        text,
        model,
        finish_reason="length" if was_cut else "tool_calls" if chose else "stop",
        prompt_tokens=sum(len(_TOKEN.findall(_text(message))) for message in messages),
        tool=None if tool is None else str(tool.get("name")),
    )


def as_body(completion: Completion, number: int, created: int) -> dict[str, Any]:
    """The completion as one JSON object."""
    message: dict[str, Any] = {"role": "assistant", "content": completion.text, "refusal": None}
    if completion.tool:
        function = {"name": completion.tool, "arguments": completion.text}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        message |= {"content": None, "tool_calls": [call]}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": completion.finish_reason,
    }
    head = _head(completion, number, created, "chat.completion")
    return {**head, "choices": [choice], "usage": completion.usage}


def as_chunks(
    completion: Completion, number: int, created: int, *, size: int, include_usage: bool
) -> Iterator[dict[str, Any]]:
    """The completion as the chunks of a stream, `size` characters each."""
    head = _head(completion, number, created, "chat.completion.chunk")
    head |= {"usage": None} if include_usage else {}

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**head, "choices": [choice]}

    parts = [completion.text[at : at + size] for at in range(0, len(completion.text), size)]
    if completion.tool:
        function = {"name": completion.tool, "arguments": ""}
        call = {"index": 0, "id": f"call_{number}", "type": "function", "function": function}
        yield chunk({"role": "assistant", "content": None, "tool_calls": [call]})
        for part in parts:
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
    else:
        yield chunk({"role": "assistant", "content": ""})
        for part in parts:
            yield chunk({"content": part})
    yield chunk({}, completion.finish_reason)
    if include_usage:
        yield {**head, "choices": [], "usage": completion.usage}


def _head(completion: Completion, number: int, created: int, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{number}",
        "object": kind,
        "created": created,
        "model": completion.model,
    }


def _bad(
    message: str, param: str | None = None, code: str | None = None, kind: type[Refusal] = Refusal
) -> Refusal:
    return kind(openai_error(400, message, param=param, code=code))


def _messages(payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if not isinstance(payload.get("model"), str):
        raise _bad("you must provide a model parameter", "model")
    messages = payload.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _bad("Missing required parameter: 'messages'.", "messages")
    if not all(isinstance(message, Mapping) for message in messages):
        raise _bad("Invalid type for 'messages': expected objects.", "messages")
    return messages


def _refuse_unsupported(payload: Mapping[str, Any], unsupported: Collection[str]) -> None:
    wanted = payload.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if kind in unsupported:
        raise _bad(
            f"Invalid parameter: 'response_format' of type '{kind}' is not supported with this "
            "model.",
            "response_format",
            kind=Unsupported,
        )
    for feature in ("tools", "stream"):
        if feature in unsupported and payload.get(feature):
            message = f"Unsupported parameter: '{feature}' is not supported with this model."
            raise _bad(message, feature, "unsupported_parameter", Unsupported)


def _wanted_schema(payload: Mapping[str, Any], *, strict: bool) -> Schema | None:
    """The schema of `response_format`; empty for `json_object`, None for plain text."""
    wanted = payload.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return {}
    named = wanted.get("json_schema") if kind == "json_schema" else None
    if not isinstance(named, Mapping) or not isinstance(named.get("schema"), Mapping):
        raise _bad("Missing required parameter: 'response_format.json_schema'.", "response_format")
    schema: Schema = named["schema"]
    problem = strict_problem(schema) if strict and named.get("strict") else None
    if problem:
        message = f"Invalid schema for response_format '{named.get('name')}': {problem}"
        raise _bad(message, "response_format")
    return schema


def _tool(
    payload: Mapping[str, Any], messages: list[Mapping[str, Any]], source: str, *, strict: bool
) -> tuple[Mapping[str, Any] | None, bool]:
    """The function to call, and whether the request insists that one is called."""
    choice = payload.get("tool_choice", "auto")
    functions = [
        tool["function"]
        for tool in payload.get("tools") or ()
        if isinstance(tool, Mapping) and isinstance(tool.get("function"), Mapping)
    ]
    for number, function in enumerate(functions):
        problem = strict_problem(function.get("parameters")) if function.get("strict") else None
        if problem and strict:
            message = f"Invalid schema for function '{function.get('name')}': {problem}"
            param = f"tools[{number}].function.parameters"
            raise _bad(message, param, "invalid_function_parameters")
    if not functions or choice == "none":
        return None, False
    if isinstance(choice, Mapping):
        name = (choice.get("function") or {}).get("name")
        named = [function for function in functions if function.get("name") == name]
        if not named:
            raise _bad(f"Tool choice '{name}' not found in 'tools' parameter.", "tool_choice")
        return named[0], True
    if choice != "required" and messages[-1].get("role") == "tool":
        return None, False  # The tool has answered: the turn ends with a text.
    spoken = [function for function in functions if str(function.get("name")) in source]
    return (spoken or functions)[0], choice == "required"


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(p["text"]) for p in parts if isinstance(p, Mapping) and "text" in p)


def _source(messages: list[Mapping[str, Any]]) -> str:
    answered = False
    first_to_last: list[tuple[str, bool]] = []
    for message in messages:
        text = _text(message)
        if message.get("role") == "user":
            first_to_last.append((text, answered and _COMPLAINT.search(text) is not None))
        answered = answered or message.get("role") == "assistant"
    told = [text for text, complains in first_to_last if not complains]
    return told[-1] if told else _text(messages[-1])


def _schema_in(messages: list[Mapping[str, Any]]) -> tuple[Schema, str] | None:
    asked = [m for m in messages if m.get("role") in {"system", "developer", "user"}]
    return find_in("\n".join(map(_text, asked)))


def _cut(text: str, payload: Mapping[str, Any]) -> tuple[str, bool]:
    most = payload.get("max_completion_tokens") or payload.get("max_tokens")
    ends = [match.end() for match in _TOKEN.finditer(text)]
    if not isinstance(most, int) or len(ends) <= most:
        return text, False
    return text[: ends[most - 1]], True
