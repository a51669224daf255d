"""JSON schemas and the local references in them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Schema", "followed", "takes_null", "variants"]

Schema = Mapping[str, Any]


def followed(node: Any, root: Schema) -> Any:
    """The schema with its reference, and the only member of its `allOf`, put in.

    What stands beside a reference comes with it. One that leads nowhere is an empty schema; with an
    empty root references stay.

    >>> root = {"$defs": {"City": {"type": "string"}}}
    >>> followed({"$ref": "#/$defs/City", "description": "Where"}, root)
    {'type': 'string', 'description': 'Where'}
    """
    seen = set()
    while isinstance(node, Mapping):
        reference, parts = node.get("$ref"), node.get("allOf")
        if isinstance(reference, str) and root and reference not in seen:
            seen.add(reference)
            node = _beside(node, "$ref", _resolved(reference, root))
        elif isinstance(parts, list) and len(parts) == 1:
            node = _beside(node, "allOf", parts[0])
        else:
            break
    return node


def variants(node: Schema) -> list[Any]:
    """The schemas of which one is enough; none where there is no choice.

    >>> variants({"oneOf": [{"type": "string"}, {"type": "null"}]})
    [{'type': 'string'}, {'type': 'null'}]
    """
    for key in ("anyOf", "oneOf"):
        if isinstance(node.get(key), list):
            return list(node[key])
    return []


def takes_null(node: Any, root: Schema) -> bool:
    """Whether null fits, as far as its type tells.

    >>> takes_null({"type": ["string", "null"]}, {}), takes_null({"type": "string"}, {})
    (True, False)
    """
    node = followed(node, root)
    if not isinstance(node, Mapping):
        return node is True
    if "const" in node or "enum" in node:
        return None in (*node.get("enum", ()), node.get("const", ""))
    if choices := variants(node):
        return any(takes_null(choice, root) for choice in choices)
    if "allOf" in node:
        return all(takes_null(part, root) for part in node["allOf"])
    kind = node.get("type")
    if kind is None:
        return not {"properties", "items", "$ref"} & node.keys()
    return "null" in (kind if isinstance(kind, list) else [kind])


def _beside(node: Schema, key: str, inner: Any) -> Any:
    others = {name: value for name, value in node.items() if name != key}
    if not isinstance(inner, Mapping):
        return others or inner
    return {**inner, **others}


def _resolved(reference: str, root: Schema) -> Any:
    found: Any = root if reference == "#" or reference.startswith("#/") else {}
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            found = found.get(name, {}) if isinstance(found, Mapping) else {}
    return found
