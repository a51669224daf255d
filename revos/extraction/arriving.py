"""A message that comes in parts, put together.

Imports LangChain, so it is imported late.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define
from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall
from langchain_core.messages.ai import UsageMetadata

from revos.extraction.answers import UNFINISHED
from revos.extraction.messages import refusal_part, unencoded

__all__ = ["Arriving"]


@define(eq=False)
class _Call:
    index: int | None
    id: str | None
    name: str = ""
    arguments: str = ""


class Arriving:
    """A message that comes in parts. LangChain's sum of them reads all that was said again for each
    part, and knows no call without an index.
    """

    def __init__(self, tool: str | None) -> None:
        self._tool = tool
        self._texts: list[str] = []
        self._calls: list[_Call] = []
        self._refusals: list[str] = []
        self._usage: UsageMetadata | None = None
        self._ended: dict[str, Any] = {}

    def take(self, chunk: AIMessageChunk) -> str:
        """What is new of the answer; of several calls, of one, lest they run into each other."""
        # Some gateways say these in each part: the last count is of all.
        self._usage = chunk.usage_metadata or self._usage
        self._ended = {**chunk.response_metadata, **self._ended}
        self._texts.append(chunk.text)
        if refusal := chunk.additional_kwargs.get("refusal") or refusal_part(chunk):
            self._refusals.append(str(refusal))
        parts: list[Any] = list(chunk.tool_call_chunks)
        if legacy := chunk.additional_kwargs.get("function_call"):
            parts.append({"index": -1, "args": legacy.get("arguments"), "name": legacy.get("name")})
        called = ""
        for part in parts:
            call = self._call_of(part)
            name = part.get("name") or ""
            if name != call.name:  # Some say it in each part, and some in pieces.
                call.name += name
            call.arguments += part.get("args") or ""
            if call is self._shown():
                called += part.get("args") or ""
        return called or chunk.text

    def _call_of(self, part: Mapping[str, Any]) -> _Call:
        """The one with its id, else the last one of its index. What names no tool begins none,
        though its id be new: some gateways give each part an id of its own.
        """
        index, id_, name = part.get("index"), part.get("id") or None, part.get("name")
        of_index = [call for call in reversed(self._calls) if call.index == index]
        for call in of_index:
            if id_ is not None and call.id == id_:
                return call
        for call in of_index:
            is_another = index is None or (id_ is not None and call.id is not None)
            if not (name and is_another):
                return call
        call = _Call(index, id_)
        self._calls.append(call)
        return call

    def _shown(self) -> _Call | None:
        return next((call for call in self._calls if call.name in (self._tool, "")), None) or (
            self._calls[0] if self._tool is None else None
        )

    def message(self) -> AIMessage:
        """All of it."""
        calls = [
            InvalidToolCall(
                type="invalid_tool_call",
                name=call.name,
                args=unencoded(call.arguments),
                id=call.id,
                error=None,
            )
            for call in self._calls
        ]
        return AIMessage(
            "".join(self._texts),
            additional_kwargs={"refusal": "".join(self._refusals)},
            invalid_tool_calls=calls,
            usage_metadata=self._usage,
            response_metadata={**self._ended, UNFINISHED: not self._ended.get("finish_reason")},
        )
