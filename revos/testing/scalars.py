"""How the stand-in model fills one string, number, boolean or choice. Pure."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

from revos.testing.reading import Piece, Reading, words_of

if TYPE_CHECKING:
    from revos.testing.schema import Schema

__all__ = [
    "Found",
    "explains_itself",
    "is_choice",
    "is_special",
    "placeholder",
    "scalar",
]

LONGEST = 100_000


@frozen
class Found:
    """A value, and how many of its parts the text gave; with none it is a stopgap."""

    value: Any
    parts: int = 1


_KINDS = {
    "email": ("email",),
    "mail": ("email",),
    "url": ("url",),
    "uri": ("url",),
    "link": ("url",),
    "website": ("url",),
    "uuid": ("uuid",),
    "date": ("date", "datetime"),
    "birthday": ("date",),
    "time": ("time", "datetime"),
}
_FORMATS = {
    "email": ("email",),
    "uri": ("url",),
    "uuid": ("uuid",),
    "date": ("date",),
    "date-time": ("datetime",),
    "time": ("time",),
}
_EXAMPLES = {
    "email": "nobody@example.com",
    "uri": "https://example.com",
    "uuid": "00000000-0000-0000-0000-000000000000",
    "date": "1970-01-01",
    "date-time": "1970-01-01T00:00:00Z",
    "time": "00:00:00",
    "duration": "PT0S",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "hostname": "example.com",
}
_EMPTY: dict[str, Any] = {"object": {}, "array": [], "boolean": False, "null": None}
_NAMES = frozenset(["author", "company", "customer", "name", "person", "speaker", "user", "who"])
_PLACES = frozenset(
    ["address", "city", "country", "location", "place", "region", "state", "town", "where"]
)
_CODES = frozenset(["code", "id", "number", "phone", "postcode", "reference", "zip"])
_WHOLE = frozenset(["answer", "body", "comment", "content", "description", "summary", "text"])


def explains_itself(name: str) -> bool:
    """Whether a property of this name knows what it looks for."""
    return not (_NAMES | _PLACES | _CODES | _KINDS.keys()).isdisjoint(words_of(name))


def is_special(schema: Schema) -> bool:
    """Whether the schema takes only some values of its type."""
    return not {"enum", "const", "format", "pattern"}.isdisjoint(schema)


def is_choice(schema: Schema) -> bool:
    """Whether the schema lists its values, one or several."""
    return "const" in schema or (isinstance(schema.get("enum"), list) and bool(schema["enum"]))


def scalar(schema: Schema, reading: Reading, name: str) -> Found:
    """The value for a place that holds neither an object nor an array."""
    kind = str(schema.get("type"))
    if is_choice(schema):
        return _choice([schema["const"]] if "const" in schema else schema["enum"], reading)
    if kind in {"integer", "number"}:
        return _number(schema, reading, name)
    if kind == "boolean":
        return _boolean(reading, name)
    return Found(None, 0) if kind == "null" else _string(schema, reading, name)


def placeholder(schema: Schema) -> Any:
    """The emptiest value that fits, as far as simple rules go."""
    if "const" in schema:
        return schema["const"]
    if is_choice(schema):
        return schema["enum"][0]
    kind = str(schema.get("type"))
    if kind in {"integer", "number"}:
        return _least(schema)
    if "type" not in schema and isinstance(schema.get("properties"), Mapping):
        kind = "object"
    if kind in _EMPTY:
        return copy.copy(_EMPTY[kind])
    return _sized(_EXAMPLES.get(str(schema.get("format")), "unknown"), schema)


def _choice(members: list[Any], reading: Reading) -> Found:
    """The first member that the text says."""
    for member in members:
        if isinstance(member, str) and reading.says(member):
            spelling = member.lower()

            def same(piece: Piece, spelling: str = spelling) -> bool:
                return piece.text.lower() == spelling

            reading.take("name", "word", accept=same)
            return Found(member)
    for member in members:
        if isinstance(member, int | float) and not isinstance(member, bool):

            def equal(piece: Piece, value: float = member) -> bool:
                return piece.number == value

            if reading.take("number", accept=equal):
                return Found(member)
    return Found(None if None in members else members[0], 0)


def _boolean(reading: Reading, name: str) -> Found:
    """Yes or no, or whether the text says the name of the property."""
    answers = {"yes": True, "true": True, "no": False, "false": False}
    said = reading.take("filler", label=name, accept=lambda piece: piece.text.lower() in answers)
    if said is not None:
        return Found(answers[said.text.lower()])
    if name and reading.says(name):
        spoken = r"[\s_-]*".join(words_of(name))
        negated = re.search(rf"\b(?:not|no|never)\s+{spoken}\b", reading.source, re.IGNORECASE)
        return Found(negated is None)
    return Found(False, 0)


def _number(schema: Schema, reading: Reading, name: str) -> Found:
    """The next number that fits."""
    whole = schema.get("type") == "integer"

    def fits(piece: Piece) -> bool:
        return _in_bounds(piece.number, schema) and (piece.number.is_integer() or not whole)

    taken = reading.take("number", label=name, accept=fits)
    if taken is None:
        return Found(placeholder(schema), 0)
    return Found(int(taken.number) if taken.number.is_integer() else taken.number)


def _string(schema: Schema, reading: Reading, name: str) -> Found:
    """What the name or the format asks for; else the next name or word."""
    text = _text(schema, reading, name)
    if text is None or not text:
        return Found(placeholder(schema), 0)
    return Found(_sized(text, schema))


def _text(schema: Schema, reading: Reading, name: str) -> str | None:
    words = set(words_of(name))
    pattern = schema.get("pattern")
    wanted = _FORMATS.get(str(schema.get("format"))) or next(
        (_KINDS[word] for word in words_of(name) if word in _KINDS), None
    )
    if isinstance(pattern, str):
        taken = reading.take("name", "word", "number", label=name, accept=_matching(pattern))
    elif wanted:
        taken = reading.take(*wanted, label=name)
        if taken is None and "format" not in schema:
            return reading.take_rest(name)
    elif words & _WHOLE:
        return reading.take_rest(name) or reading.source
    else:
        return _named(reading, name, words, sure=bool(schema.get("nullable")))
    return taken.text if taken else None


def _named(reading: Reading, name: str, words: set[str], *, sure: bool) -> str | None:
    taken = None
    if words & _PLACES:
        taken = reading.take("name", label=name, accept=reading.after_comma)
    elif words & _CODES:
        taken = reading.take("name", "word", "number", label=name, accept=_has_digit)
    elif words & _NAMES and reading.labelled(name) is None:
        taken = reading.take("name")
        if taken and words & {"first", "last"}:
            parts = taken.text.split()
            return parts[0 if "first" in words else -1]
    if taken:
        return taken.text
    rest = reading.take_rest(name)
    if rest:
        return rest
    taken = reading.take("name")
    if taken is None and not sure:
        taken = reading.take("word") or reading.take("number")
    return taken.text if taken else None


def _sized(text: str, schema: Schema) -> str:
    least, most = _bound(schema, "minLength", 0), _bound(schema, "maxLength", LONGEST)
    return text[: int(most)].ljust(int(min(least, LONGEST)), "x")


def _has_digit(piece: Piece) -> bool:
    return any(character.isdigit() for character in piece.text)


def _matching(pattern: str) -> Any:
    try:
        compiled = re.compile(pattern)
    except re.error:
        return lambda _: True
    return lambda piece: compiled.search(piece.text) is not None


def _in_bounds(value: float, schema: Schema) -> bool:
    step = _bound(schema, "multipleOf", 0)
    return (
        value >= _bound(schema, "minimum", -math.inf)
        and value > _bound(schema, "exclusiveMinimum", -math.inf)
        and value <= _bound(schema, "maximum", math.inf)
        and value < _bound(schema, "exclusiveMaximum", math.inf)
        and (not step or value % step == 0)
    )


def _least(schema: Schema) -> float:
    """Nought, or the nearest number to it that the bounds allow."""
    step = _bound(schema, "multipleOf", 1) or 1
    lowest = _bound(schema, "exclusiveMinimum", _bound(schema, "minimum", 0))
    highest = _bound(schema, "exclusiveMaximum", _bound(schema, "maximum", 0))
    bounds = (lowest, highest, lowest + step, highest - step, (lowest + highest) / 2)
    candidates: list[float] = [0]
    for bound in bounds:
        candidates += [bound, math.ceil(bound / step) * step, math.floor(bound / step) * step]
    if schema.get("type") == "integer":
        candidates = [int(value) for value in candidates if float(value).is_integer()]
    return next((value for value in candidates if _in_bounds(value, schema)), 0)


def _bound(schema: Schema, key: str, otherwise: float) -> float:
    bound = schema.get(key)
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        return otherwise
    return bound if math.isfinite(bound) else otherwise
