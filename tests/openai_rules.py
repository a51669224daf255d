"""What OpenAI's strict mode refuses in a JSON schema: stricter than the gateway of revos.testing.

By https://platform.openai.com/docs/guides/structured-outputs and by the errors that its users met.
"""

from __future__ import annotations

import json

KNOWN = frozenset(
    [
        "$defs",
        "$ref",
        "additionalProperties",
        "anyOf",
        "description",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "items",
        "maxItems",
        "maximum",
        "minItems",
        "minimum",
        "multipleOf",
        "pattern",
        "properties",
        "required",
        "type",
    ]
)
FORMATS = frozenset(
    ["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uuid"]
)
TYPES = frozenset(["array", "boolean", "integer", "null", "number", "object", "string"])


def faults(schema):
    """Everything that strict mode refuses in the schema, each with its place.

    >>> faults({"type": "string"})
    ['#: the root is no object']
    """
    found = [] if schema.get("type") == "object" else ["#: the root is no object"]
    if {"anyOf", "$ref"} & schema.keys():
        found.append("#: the root is a choice or a reference")
    json.dumps(schema, allow_nan=False)
    defs = schema.get("$defs", {})
    root = {key: value for key, value in schema.items() if key != "$defs"}
    found += _in_node(root, "#", defs)
    for name, node in defs.items():
        found += _in_node(node, f"#/$defs/{name}", defs)
    return found


def _in_node(node, at, defs):
    if "$ref" in node:
        name = node["$ref"].removeprefix("#/$defs/")
        found = [] if name in defs else [f"{at}: {node['$ref']} leads nowhere"]
        return found + ([f"{at}: $ref cannot have keywords"] if len(node) > 1 else [])
    found = [f"{at}: {key!r} is not permitted" for key in node.keys() - KNOWN]
    if "$defs" in node:
        found.append(f"{at}: $defs below the root")
    if "anyOf" in node:
        found += [] if node["anyOf"] else [f"{at}: an empty anyOf"]
        for number, part in enumerate(node["anyOf"]):
            found += _in_node(part, f"{at}/anyOf/{number}", defs)
        return found
    kinds = node.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if not kinds or set(kinds) - TYPES:
        found.append(f"{at}: no type")
    if node.get("format", "date") not in FORMATS or "(?" in node.get("pattern", ""):
        found.append(f"{at}: a format or pattern that is not known")
    if "object" in kinds:
        found += _in_object(node, at, defs)
    if "array" in kinds:
        items = node.get("items")
        found += _in_node(items, f"{at}/items", defs) if items else [f"{at}: no items"]
    return found


def _in_object(node, at, defs):
    found = []
    properties = node.get("properties")
    if node.get("additionalProperties") is not False:
        found.append(f"{at}: additionalProperties is not false")
    if properties is None or sorted(node.get("required", [])) != sorted(properties):
        return [*found, f"{at}: not every property is required"]
    for name, part in properties.items():
        found += _in_node(part, f"{at}/{name}", defs)
    return found
