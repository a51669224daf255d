"""JSON schemas by the rules of OpenAI's strict mode. Pure.

https://platform.openai.com/docs/guides/structured-outputs says: the root is an object; every object
says `additionalProperties: false` and requires all of its properties, so an optional one takes null
in place of being left out (`nulls` undoes that); a choice is `anyOf`; nothing stands beside `$ref`;
some keywords are known, and others refused. What a keyword that is not known says of a value goes
into the description, as far as it is short: the type still checks it when the answer is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from revos.extraction.references import Schema, followed, takes_null, variants

__all__ = ["strict_form"]

_KEPT = (
    "type",
    "description",
    "enum",
    "pattern",
    "multipleOf",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minItems",
    "maxItems",
)
_FORMATS = frozenset(
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"]
)
_WORDS = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "format": "format: {}",
    "contentEncoding": "encoded as {}",
}
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_NULL: Schema = {"type": "null"}


class _FreeError(Exception):
    """Something in the schema is free in a way that strict mode does not know."""


def strict_form(schema: Schema) -> dict[str, Any] | None:
    """The schema of an object for strict mode; None where it cannot say the same.

    >>> person = {"type": "object", "properties": {"age": {"type": "integer", "default": 0}}}
    >>> strict_form(person)["properties"]
    {'age': {'anyOf': [{'type': 'integer'}, {'type': 'null'}]}}
    """
    try:
        return _Strict(schema).whole()
    except (_FreeError, RecursionError):
        return None


class _Strict:
    def __init__(self, root: Schema) -> None:
        self.root = root
        self.defs: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        # What is being put in place of a reference, since something stands beside that.
        self.inlined: set[str] = set()

    def whole(self) -> dict[str, Any]:
        form = self.plain(followed(self.root, self.root))
        return form | ({"$defs": self.defs} if self.defs else {})

    def node(self, node: Any) -> dict[str, Any]:
        if isinstance(node, Mapping) and "$ref" not in node:
            node = followed(node, {})  # Which leaves a reference as it is.
        if not isinstance(node, Mapping):
            raise _FreeError
        reference = node.get("$ref")
        if reference is None:
            return self.plain(node)
        if "description" not in node or reference in self.inlined:
            return {"$ref": f"#/$defs/{self.definition(reference)}"}
        self.inlined.add(reference)
        try:
            return self.plain(followed(node, self.root))
        finally:
            self.inlined.discard(reference)

    def plain(self, node: Schema) -> dict[str, Any]:
        if not isinstance(node, Mapping) or {"allOf", "patternProperties", "$ref"} & node.keys():
            raise _FreeError
        if "const" in node:
            node = {**node, "enum": [node["const"]]}
        if choices := variants(node):
            return self.choice(node, choices)
        form = {key: node[key] for key in _KEPT if key in node}
        if "enum" in form:
            _add_type(form)
        kinds = _kinds(form, node)
        if "object" in kinds:
            form |= self.object(node)
        if "array" in kinds:
            form |= self.array(node)
        return _described(form, node)

    def definition(self, reference: str) -> str:
        """The name of the definition, which is there afterwards, though perhaps not finished."""
        if reference not in self.names:
            target = followed({"$ref": reference}, self.root)
            if not isinstance(target, Mapping) or "$ref" in target:
                raise _FreeError
            name = reference.rpartition("/")[2].strip("#") or "root"
            while name in self.defs:
                name += "_"
            self.names[reference] = name
            self.defs[name] = {}  # Its place, before those of what it refers to.
            self.defs[name] = self.node({key: target[key] for key in target if key != "$defs"})
        return self.names[reference]

    def choice(self, node: Schema, choices: list[Any]) -> dict[str, Any]:
        if {"properties", "items", "enum"} & node.keys():
            raise _FreeError
        forms: list[dict[str, Any]] = []
        for choice in choices:
            form = self.node(choice)
            # A choice in a choice is one choice.
            inner = form["anyOf"] if set(form) == {"anyOf"} else [form]
            forms += [one for one in inner if one not in forms]
        described = {key: node[key] for key in ("description",) if key in node}
        return _described({**described, "anyOf": forms}, node)

    def object(self, node: Schema) -> dict[str, Any]:
        properties = node.get("properties")
        if not isinstance(properties, Mapping) or node.get("additionalProperties"):
            if node.get("additionalProperties") is not False:
                raise _FreeError
            properties = {}
        required = node.get("required", ())
        forms = {
            name: self.node(part)
            if name in required or self.is_fixed(part)
            else self.nullable(part)
            for name, part in properties.items()
        }
        if set(required) - set(forms):
            raise _FreeError
        return {"properties": forms, "required": list(forms), "additionalProperties": False}

    def is_fixed(self, node: Any) -> bool:
        """Whether it has one value only, as a tag with a default: no need to leave it out."""
        plain = followed(node, self.root)
        return isinstance(plain, Mapping) and "const" in plain

    def nullable(self, node: Any) -> dict[str, Any]:
        form = self.node(node)
        if takes_null(node, self.root):
            return form
        if "anyOf" in form:
            return {**form, "anyOf": [*form["anyOf"], dict(_NULL)]}
        described = {key: form[key] for key in ("description",) if key in form}
        bare = {key: value for key, value in form.items() if key != "description"}
        return described | {"anyOf": [bare, dict(_NULL)]}

    def array(self, node: Schema) -> dict[str, Any]:
        first, items = node.get("prefixItems", ()), node.get("items")
        parts = [*first] if first and not items else [*first, items]
        forms: list[dict[str, Any]] = []
        for part in parts:
            form = self.node(part)
            forms += [] if form in forms else [form]
        return {"items": forms[0] if len(forms) == 1 else {"anyOf": forms}}


def _kinds(form: dict[str, Any], node: Schema) -> list[Any]:
    kind = form.get("type")
    if kind is None:
        kind = "object" if "properties" in node else "array" if "items" in node else None
        if kind is None:
            raise _FreeError
        form["type"] = kind
    return kind if isinstance(kind, list) else [kind]


def _add_type(form: dict[str, Any]) -> None:
    kinds = list(dict.fromkeys(_TYPES.get(type(value)) for value in form["enum"]))
    if None in kinds or not kinds:
        raise _FreeError
    form["type"] = kinds[0] if len(kinds) == 1 else kinds


def _described(form: dict[str, Any], node: Schema) -> dict[str, Any]:
    """With words for what the form leaves out."""
    if "format" in node and node["format"] in _FORMATS:
        form["format"] = node["format"]
    if "(?" in str(form.get("pattern", "")):  # Looking ahead or back is refused.
        del form["pattern"]
    words = [
        says.format(node[key]).replace(" 1 characters", " 1 character")
        for key, says in _WORDS.items()
        if key in node and key not in form
    ]
    if node.get("uniqueItems"):
        words.append("no two alike")
    if node.get("prefixItems"):
        words.append("in a fixed order")
    if isinstance(node.get("examples"), list) and node["examples"]:
        words.append("for example " + ", ".join(map(json.dumps, node["examples"][:3])))
    if words:
        told = [form["description"]] if form.get("description") else []
        form["description"] = " ".join([*told, f"({'; '.join(words)})"])
    return form
