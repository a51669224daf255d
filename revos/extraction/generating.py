"""The JSON schema of a type, and the adapter that validates by it; or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args, get_origin

import pydantic
from pydantic import TypeAdapter
from pydantic.errors import (
    PydanticInvalidForJsonSchema,
    PydanticUndefinedAnnotation,
    PydanticUserError,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, JsonSchemaWarningKind
from pydantic_core import core_schema

from revos.extraction.hints import NoSchemaError
from revos.extraction.members import NOTHING, is_composite, made, members_of
from revos.extraction.surrogates import Surrogates, display

__all__ = ["generate"]

_FAULTS = (
    PydanticUserError,
    PydanticInvalidForJsonSchema,
    PydanticUndefinedAnnotation,
    NoSchemaError,
    TypeError,
    ValueError,
    AttributeError,
    ImportError,  # Of what a type of pydantic needs besides.
    RecursionError,
)
_TYPING = frozenset({"typing", "typing_extensions", "annotationlib"})


class _Exact(GenerateJsonSchema):
    """Without leaving out, with a warning, what a schema cannot say."""

    def emit_warning(self, kind: JsonSchemaWarningKind, detail: str) -> None:
        if kind == "skipped-choice":
            raise PydanticInvalidForJsonSchema(detail)

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """With the default of a factory of something empty, too: `nulls` needs it in unions."""
        form = super().default_schema(schema)
        default = made(schema.get("default_factory"))
        return form if default is NOTHING else {"default": default, **form}

    def is_subclass_schema(self, schema: core_schema.IsSubclassSchema) -> JsonSchemaValue:
        return self.handle_invalid_for_json_schema(schema, "a class")


def generate(type_: Any) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    """The adapter and the JSON schema.

    :raises NoSchemaError: with the class, the field and the reason
    """
    if not _is_type(type_):  # Which may hold what is to be in no message.
        raise NoSchemaError(f"an instance of {type(type_).__name__} is no type")
    if type_ is pydantic.BaseModel:  # It makes a schema, and no instances.
        raise NoSchemaError("BaseModel has no JSON schema: give a model of your own")
    try:
        return _generated(type_)
    except _FAULTS as error:
        reason = _blamed(type_, set()) or _reason(error)
        raise NoSchemaError(f"{display(type_)} has no JSON schema: {reason}") from error


def _is_type(type_: Any) -> bool:
    return (
        isinstance(type_, type)
        or get_origin(type_) is not None
        or type(type_).__module__ in _TYPING
    )


def _generated(type_: Any) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    adapter: TypeAdapter[Any] = TypeAdapter(Surrogates().of(type_))
    return adapter, adapter.json_schema(schema_generator=_Exact)


def _blamed(type_: Any, seen: set[int]) -> str | None:
    """The innermost field that has no schema, and why."""
    for owner, fields in _classes_in(type_):
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        try:
            named = list(fields())
        except NoSchemaError as error:
            return str(error)
        for name, hint in named:
            try:
                _generated(hint)
            except _FAULTS as error:
                return _blamed(hint, seen) or f"{display(owner)}.{name}: {_reason(error)}"
    return None


def _classes_in(type_: Any) -> Iterator[tuple[Any, Callable[[], Iterator[tuple[str, Any]]]]]:
    if is_composite(type_):
        yield type_, lambda: ((member.key, member.type) for member in members_of(type_))
    elif isinstance(type_, type) and issubclass(type_, pydantic.BaseModel):
        fields = type_.model_fields
        yield type_, lambda: ((name, field.annotation) for name, field in fields.items())
    for arg in get_args(type_):
        yield from _classes_in(arg)


def _reason(error: Exception) -> str:
    """The reason without pydantic's advice, which is for its own models."""
    words = str(error).partition("\n")[0].partition("Set `arbitrary")[0].partition("; you ")[0]
    return words.replace("pydantic-core schema", "a JSON schema").strip().rstrip(".")
