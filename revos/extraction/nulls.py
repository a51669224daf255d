"""Nulls that stand for nothing: an optional property, asked for as one that may be null.

Models also say null where nobody offered it. Such a null, for a property that is not required and
does not take null itself, means that the property was not given, so its default applies. What the
schema of a type says decides, wherever in the answer. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import field, frozen

from revos.extraction.references import Schema, followed, takes_null, variants

__all__ = ["without_nulls"]

_CLASSES: dict[Any, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "null": type(None),
    "boolean": bool,
    "number": int | float,
    "integer": int | float,
}


def without_nulls(value: Any, schema: Schema) -> Any:
    """The value without the nulls that mean "not given".

    >>> schema = {"type": "object", "properties": {"age": {"type": "integer"}}}
    >>> without_nulls({"age": None, "more": None}, schema)
    {'more': None}
    """
    return _Undoing(schema).undone(value, schema, chosen=False)


@frozen
class _Undoing:
    root: Schema
    # By the identity of value and schema; the value is kept, so that its id stays its own.
    _fit: dict[tuple[int, int], tuple[Any, bool]] = field(factory=dict)

    def undone(self, value: Any, node: Any, *, chosen: bool) -> Any:
        """`chosen`: the schema is one of several, and which is seen by the keys that are given."""
        node = followed(node, self.root)
        if not isinstance(node, Mapping) or not isinstance(value, dict | list):
            return value
        if choices := variants(node):
            best = self._best(value, choices)
            several = sum(_may_be(choice, "object", self.root) for choice in choices) > 1
            value = self.undone(value, best, chosen=several or chosen)
        for part in node.get("allOf", ()):
            value = self.undone(value, part, chosen=chosen)
        if isinstance(value, list):
            parts = self._parts(value, node)
            return [
                self.undone(item, part, chosen=False)
                for item, part in zip(value, parts, strict=True)
            ]
        return self._object(value, node, chosen=chosen)

    def _object(self, value: dict[str, Any], node: Schema, *, chosen: bool) -> dict[str, Any]:
        properties = node.get("properties", {})
        kept = {}
        for key, inner in value.items():
            part = properties.get(key, node.get("additionalProperties"))
            if inner is not None or not self._is_optional(key, node):
                kept[key] = self.undone(inner, part, chosen=False)
            elif chosen and "default" in part:
                kept[key] = part["default"]
        return kept

    def _is_optional(self, key: str, node: Schema) -> bool:
        part = node.get("properties", {}).get(key)
        return (
            part is not None
            and key not in node.get("required", ())
            and not takes_null(part, self.root)
        )

    def _best(self, value: Any, choices: list[Any]) -> Any:
        """The first schema that the value fits, the one that knows most of its keys."""

        def rank(choice: Any) -> tuple[bool, bool, int]:
            plain = followed(choice, self.root)
            known = plain.get("properties", {}) if isinstance(plain, Mapping) else {}
            given = value if isinstance(value, dict) else {}
            tagged = all(self.fits(given.get(tag), known[tag]) for tag in _tags(known, self.root))
            return self.fits(value, choice), tagged, -len(given.keys() - known.keys())

        return max(choices, key=rank)

    def fits(self, value: Any, node: Any) -> bool:
        """Whether the value has the shape, nulls that mean "not given" included."""
        key = id(value), id(node)
        if key not in self._fit:
            self._fit[key] = value, True  # For whoever asks again before the answer is there.
            self._fit[key] = value, self._fits(value, node)
        return self._fit[key][1]

    def _fits(self, value: Any, node: Any) -> bool:
        node = followed(node, self.root)
        if not isinstance(node, Mapping):
            return node is not False
        values = [node["const"]] if "const" in node else node.get("enum")
        if values is not None and not any(value == one for one in values):
            return False
        choices = variants(node)
        if choices and not any(self.fits(value, choice) for choice in choices):
            return False
        kinds = node.get("type")
        if kinds is not None and not any(_is_a(value, kind) for kind in _listed(kinds)):
            return False
        if isinstance(value, list):
            parts = self._parts(value, node)
            return all(self.fits(item, part) for item, part in zip(value, parts, strict=True))
        return not isinstance(value, dict) or self._fits_object(value, node)

    def _fits_object(self, value: dict[str, Any], node: Schema) -> bool:
        properties = node.get("properties", {})
        return set(node.get("required", ())) <= value.keys() and all(
            (inner is None and self._is_optional(key, node)) or self.fits(inner, properties[key])
            for key, inner in value.items()
            if key in properties
        )

    def _parts(self, value: list[Any], node: Schema) -> list[Any]:
        first = list(node.get("prefixItems", ()))[: len(value)]
        return first + [node.get("items")] * (len(value) - len(first))


def _listed(kinds: Any) -> Iterable[Any]:
    return kinds if isinstance(kinds, list) else [kinds]


def _tags(properties: Schema, root: Schema) -> list[str]:
    """The properties that have one value only."""
    parts = {key: followed(part, root) for key, part in properties.items()}
    return [key for key, part in parts.items() if isinstance(part, Mapping) and "const" in part]


def _may_be(node: Any, kind: str, root: Schema) -> bool:
    node = followed(node, root)
    return isinstance(node, Mapping) and (
        kind in _listed(node.get("type")) or "properties" in node or bool(variants(node))
    )


def _is_a(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return bool(kind == "boolean")
    return isinstance(value, _CLASSES.get(kind, object))
