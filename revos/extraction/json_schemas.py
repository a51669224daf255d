"""A JSON schema as a target: what fits it is the value as it was decoded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

from revos.errors import Problem
from revos.extraction.hints import NoSchemaError
from revos.extraction.references import followed

__all__ = ["as_text", "checked"]

_SAYING = frozenset(
    {"type", "properties", "$ref", "anyOf", "oneOf", "allOf", "enum", "const", "items"}
)
_REFERRING = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})


def checked(schema: Mapping[str, Any]) -> tuple[dict[str, Any], Callable[[Any], list[Problem]]]:
    """The schema as an object of its own, and what finds the problems of a value.

    :raises NoSchemaError: it is no JSON schema, or `jsonschema` is not installed
    :raises RecursionError: it is nested too deeply
    """
    try:
        jsonschema = import_module("jsonschema")
    except ImportError as error:
        raise NoSchemaError(
            'a JSON schema as a target needs the package jsonschema: pip install "revos[cli]"'
        ) from error
    if not _SAYING & schema.keys():
        raise NoSchemaError(
            f"a mapping with {', '.join(map(repr, schema)) or 'nothing in it'} is no JSON schema, "
            "which has 'type' or 'properties'"
        )
    try:
        own: dict[str, Any] = json.loads(as_text(schema))
    except (TypeError, ValueError) as error:
        raise NoSchemaError(f"a JSON schema must be JSON: {error}") from error
    kind = jsonschema.validators.validator_for(own, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(own)
    except jsonschema.SchemaError as error:
        place = ".".join(map(str, error.absolute_path))
        raise NoSchemaError(
            f"it is no JSON schema: {place or 'its root'}: {error.message}"
        ) from error
    for reference in _references(own):
        # None of another document, which would be fetched.
        if followed({"$ref": reference}, own) == {}:
            raise NoSchemaError(
                f"it is no JSON schema: the reference {reference!r} leads nowhere in it"
            )
    validator = kind(own, format_checker=kind.FORMAT_CHECKER)

    def problems(value: Any) -> list[Problem]:
        errors = sorted(validator.iter_errors(value), key=lambda error: str(error.absolute_path))
        return [Problem(".".join(map(str, one.absolute_path)), one.message) for one in errors]

    return own, problems


def as_text(schema: Mapping[str, Any]) -> str:
    """:raises TypeError: a part of it is not JSON
    :raises ValueError: it has itself as a part
    """
    return json.dumps(schema, default=_as_dict)


def _as_dict(inner: Any) -> dict[str, Any]:
    if not isinstance(inner, Mapping):
        raise TypeError(f"{type(inner).__name__} is none")
    return dict(inner)


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, inner in node.items():
            if key in _REFERRING and isinstance(inner, str):
                yield inner
            else:
                yield from _references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _references(inner)
