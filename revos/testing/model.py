"""The stand-in model: it fills a JSON schema from a text by simple rules. Pure.

It is no language model and does not try to be one. What it gives back always has the shape that the
schema asks for, the same text and schema always give the same value, and whoever writes a test can
tell the value beforehand:

1. A text that names a property ("Age: 36") fills it.
2. Properties whose name says what they are (name, city, email, date ...) choose next, in order.
3. Numbers go to numeric properties in the order of the text; other strings take the next
   capitalised word, else the next word.
4. What is not found is null where null is allowed, left out where that is allowed, else the
   schema's default, else an empty value of the right type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import define, field

from revos.testing import scalars
from revos.testing.reading import Reading
from revos.testing.scalars import Found, placeholder
from revos.testing.schema import Schema, merged, resolve

__all__ = ["fill"]

MOST_STEPS = 10_000


def fill(schema: Schema, text: str) -> Any:
    """A value of the shape that `schema` asks for, out of `text`.

    >>> person = {
    ...     "type": "object",
    ...     "properties": {
    ...         "name": {"type": "string"},
    ...         "age": {"type": "integer"},
    ...         "city": {"type": "string"},
    ...     },
    ...     "required": ["name", "age", "city"],
    ... }
    >>> fill(person, "Extract the person: Ada, 36, London")
    {'name': 'Ada', 'age': 36, 'city': 'London'}
    """
    return _Filler(schema).value(schema, Reading(text), "", frozenset()).value


@define
class _Filler:
    root: Schema
    steps: int = field(default=MOST_STEPS, init=False)

    def value(self, schema: object, reading: Reading, name: str, path: frozenset[str]) -> Found:
        """The value for one place of the schema.

        `path` holds the references that are being followed: one that comes again ends in an empty
        value, and so does everything once the steps are used up. Recursion thus has an end.
        """
        self.steps -= 1
        plain, path, again = self._plain(schema, path)
        if again or self.steps < 0:
            return Found(placeholder(plain), 0)
        found = self._found(plain, reading, name, path)
        if not found.parts and "default" in plain:
            return Found(plain["default"], 0)
        return found

    def _plain(self, schema: object, path: frozenset[str]) -> tuple[Schema, frozenset[str], bool]:
        """The schema with its reference and its `allOf` put in; whether a reference came again."""
        plain: Schema = schema if isinstance(schema, Mapping) else {}
        while isinstance(reference := plain.get("$ref"), str):
            target = resolve(self.root, reference)
            if reference in path:
                return target, path, True
            path |= {reference}
            plain = merged(target, {key: v for key, v in plain.items() if key != "$ref"})
        parts = plain.get("allOf")
        if not isinstance(parts, list):
            return plain, path, False
        plain = {key: v for key, v in plain.items() if key != "allOf"}
        again = False
        for part in parts:
            inner, path, repeated = self._plain(part, path)
            plain = merged(plain, inner)
            again = again or repeated
        return plain, path, again

    def _found(self, schema: Schema, reading: Reading, name: str, path: frozenset[str]) -> Found:
        choices = None if scalars.is_choice(schema) else _alternatives(schema)
        if choices is not None:
            return self._best(choices, reading, name, path)
        kind = schema.get("type")
        if kind == "object" or (kind is None and "properties" in schema):
            return self._object(schema, reading, path)
        if kind == "array" or (kind is None and "items" in schema):
            return self._array(schema, reading, name, path)
        return scalars.scalar(schema, reading, name)

    def _best(self, choices: list[Any], reading: Reading, name: str, path: frozenset[str]) -> Found:
        """The alternative for which the text gives most; null where it gives none anything."""
        plain = [choice for choice in choices if not _is_null(choice)]
        optional = len(plain) < len(choices)
        best, rest = Found(None, 0), reading
        for number, choice in enumerate(plain):
            trial = reading.copy()
            found = self.value(choice, trial, name, path)
            if found.parts > best.parts or (number == 0 and not optional):
                best, rest = found, trial
        reading.free = rest.free
        return best

    def _object(self, schema: Schema, reading: Reading, path: frozenset[str]) -> Found:
        properties = schema.get("properties")
        if not isinstance(properties, Mapping) or not properties:
            return self._mapping(schema, reading, path)
        required = schema.get("required")
        required = required if isinstance(required, list) else []
        found = {
            name: self.value(properties[name], reading, name, path)
            for name in sorted(properties, key=lambda name: _rank(name, properties[name], reading))
        }
        value = {
            name: found[name].value
            for name in properties
            if found[name].parts or name in required or _is_fixed(properties[name])
        }
        return Found(value, sum(part.parts for part in found.values()))

    def _mapping(self, schema: Schema, reading: Reading, path: frozenset[str]) -> Found:
        """An object without named properties: "apples 3, pears 5" gives one entry each."""
        values = schema.get("additionalProperties")
        if values is False:
            return Found({}, 0)
        entries: dict[str, Any] = {}
        for part in re.split(r"[,;\n]", reading.source):
            key, _, rest = part.strip().partition(" ")
            if rest.strip():
                inner = self.value(values, Reading(rest.strip()), "", path)
                entries |= {key.strip(":="): inner.value} if inner.parts else {}
        return Found(entries, len(entries))

    def _array(self, schema: Schema, reading: Reading, name: str, path: frozenset[str]) -> Found:
        leading = schema.get("prefixItems")
        if isinstance(leading, list) and leading:
            found = [self.value(part, reading, name, path) for part in leading]
            return Found([one.value for one in found], sum(one.parts for one in found))
        items = schema.get("items")
        found = self._items(items, reading, name, path)[: _size(schema, "maxItems", MOST_STEPS)]
        short = max(_size(schema, "minItems", 0) - len(found), 0)
        stopgaps = [self.value(items, Reading(""), name, path).value] * short
        return Found([one.value for one in found] + stopgaps, sum(one.parts for one in found))

    def _items(
        self, items: object, reading: Reading, name: str, path: frozenset[str]
    ) -> list[Found]:
        """All that the text has: an object from each line, or every name, number or choice."""
        plain, _, again = self._plain(items, path)
        if again:
            return []
        if _is_composed(plain):
            found = [self.value(items, Reading(line), name, path) for line in reading.lines]
            if any(one.parts for one in found):
                reading.take_all("name", "word", "number", "filler")
            return [one for one in found if one.parts]
        if plain.get("type", "string") == "string" and not scalars.is_special(plain):
            pieces = reading.take_all("name") or reading.take_all("word")
            return [Found(piece.text) for piece in pieces]
        found = []
        free = len(reading.free) + 1
        while len(reading.free) < free and self.steps > 0:
            free = len(reading.free)
            one = self.value(items, reading, name, path)
            if not one.parts or one in found:
                break
            found.append(one)
        return found


def _alternatives(schema: Schema) -> list[Any] | None:
    """The schemas of which one is enough, each with what all of them share; or None."""
    for key in ("anyOf", "oneOf"):
        choices = schema.get(key)
        if isinstance(choices, list) and choices:
            shared = {k: v for k, v in schema.items() if k not in {key, "default"}}
            return _told([merged(shared, c) if isinstance(c, Mapping) else shared for c in choices])
    if isinstance(schema.get("type"), list):
        return _told([{**schema, "type": kind} for kind in schema["type"]])
    return None


def _told(choices: list[Any]) -> list[Any]:
    """The choices, each told where null is one of them: it then takes no doubtful value."""
    optional = any(map(_is_null, choices))
    return [{**choice, "nullable": True} for choice in choices] if optional else choices


def _is_null(schema: Schema) -> bool:
    return schema.get("type") == "null" or schema.get("enum") == [None]


def _is_fixed(schema: object) -> bool:
    return isinstance(schema, Mapping) and "const" in schema


def _is_composed(schema: Schema) -> bool:
    named = not {"properties", "anyOf", "oneOf"}.isdisjoint(schema)
    return named or str(schema.get("type")) in {"object", "array"}


def _size(schema: Schema, key: str, otherwise: int) -> int:
    size = schema.get(key)
    return min(size, MOST_STEPS) if isinstance(size, int) and size >= 0 else otherwise


def _rank(name: str, schema: object, reading: Reading) -> int:
    """Who chooses first: what the text names, then what the name explains, then the others."""
    if reading.labelled(name) is not None:
        return 0
    if not isinstance(schema, Mapping):
        return 2
    if scalars.is_special(schema) or scalars.explains_itself(name):
        return 1
    return 3 if any(map(_is_null, _alternatives(schema) or ())) else 2
