"""JSON schemas as the gateway meets them: in a request, in a prompt, with references. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Schema", "find_in", "merged", "resolve", "strict_problem", "without"]

Schema = Mapping[str, Any]

_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})
_MARKS = frozenset({"$schema", "$ref", "$defs", "properties", "anyOf", "oneOf", "allOf", "enum"})


def resolve(root: Schema, reference: str) -> Schema:
    """What a local reference stands for; an empty schema where it leads nowhere.

    >>> resolve({"$defs": {"City": {"type": "string"}}}, "#/$defs/City")
    {'type': 'string'}
    """
    found: object = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def merged(one: Schema, other: Schema) -> dict[str, Any]:
    """Both schemas as one, as far as simple rules go: properties and required names add up."""
    both = {**one, **other}
    for key in ("properties", "$defs"):
        if isinstance(one.get(key), Mapping) and isinstance(other.get(key), Mapping):
            both[key] = {**one[key], **other[key]}
    if isinstance(one.get("required"), list) and isinstance(other.get("required"), list):
        both["required"] = [*one["required"], *other["required"]]
    return both


def find_in(text: str) -> tuple[Schema, str] | None:
    """The last JSON schema that stands in a text, and its spelling there.

    >>> find_in('Answer with JSON: {"type": "integer"}')
    ({'type': 'integer'}, '{"type": "integer"}')
    """
    found = [(value, spelling) for value, spelling in _objects(text) if _is_schema(value)]
    return found[-1] if found else None


def without(text: str, spelling: str) -> str:
    r"""The text without that schema, its fence and the lines that speak of JSON, if others remain.

    >>> without('Person: Ada\nAnswer with JSON that fits:\n{}', '{}')
    'Person: Ada'
    """
    rest = re.sub(r"```(?:json)?\s*", "", text.replace(spelling, ""))
    lines = [line for line in rest.splitlines() if line.strip()]
    kept = [line for line in lines if not re.search(r"\b(?:json|schema)\b", line, re.IGNORECASE)]
    return "\n".join(kept or lines)


def strict_problem(schema: object, context: tuple[str, ...] = ()) -> str | None:
    """Why OpenAI's strict mode refuses a schema, or None where it takes it.

    >>> strict_problem({"type": "object", "properties": {}, "required": []})
    "In context=(), 'additionalProperties' is required to be supplied and to be false."
    """
    if isinstance(schema, list):
        return _first(strict_problem(item, (*context, str(i))) for i, item in enumerate(schema))
    if not isinstance(schema, Mapping):
        return None
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, Mapping):
        if schema.get("additionalProperties") is not False:
            return (
                f"In context={context}, 'additionalProperties' is required to be supplied "
                "and to be false."
            )
        names = list(properties) if isinstance(properties, Mapping) else []
        missing = [name for name in names if name not in schema.get("required", ())]
        if missing:
            return (
                f"In context={context}, 'required' is required to be supplied and to be an array "
                f"including every key in properties. Missing '{missing[0]}'."
            )
    return _first(_below(schema, context))


def _below(schema: Schema, context: tuple[str, ...]) -> Iterator[str | None]:
    for key in ("items", "anyOf", "allOf", "oneOf"):
        yield strict_problem(schema.get(key), (*context, key))
    for key in ("properties", "$defs", "definitions"):
        named = schema.get(key)
        for name, part in named.items() if isinstance(named, Mapping) else ():
            yield strict_problem(part, (*context, key, name))


def _first(problems: Iterator[str | None]) -> str | None:
    return next((problem for problem in problems if problem), None)


def _is_schema(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    kind = value.get("type")
    return bool(_MARKS & value.keys()) or (isinstance(kind, str) and kind in _TYPES)


def _objects(text: str) -> Iterator[tuple[Any, str]]:
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError):
            end = at + 1
        else:
            yield value, text[at:end]
        at = text.find("{", end)
