"""What is extracted: a type, the JSON schema that asks for it, and the instance that comes back.

Imports pydantic, so it is imported late.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pydantic
from attrs import frozen

from revos.errors import Problem, RevosInputError, RevosValidationError

__all__ = ["Problem", "Target", "target_of"]


@frozen(eq=False)
class Target:
    """A type, ready to be asked for.

    :ivar strict: the schema keeps the rules of OpenAI's strict mode (every property required, no
        additional ones), so the gateway may enforce it
    """

    type: type[pydantic.BaseModel]
    name: str
    description: str
    schema: Mapping[str, Any]
    strict: bool

    def read(self, answer: str | None) -> pydantic.BaseModel:
        """The instance that an answer stands for.

        :raises RevosValidationError: it does not fit
        """
        if answer is None:
            raise RevosValidationError(
                f"the model gave no answer to fit {self.name}",
                problems=(Problem("", "no answer"),),
                target=self.type,
            )
        try:
            return self.type.model_validate_json(answer)
        except pydantic.ValidationError as error:
            problems = tuple(
                Problem(".".join(map(str, detail["loc"])), detail["msg"])
                for detail in error.errors(include_url=False, include_input=False)
            )
            listed = "; ".join(f"{p.path or 'answer'}: {p.message}" for p in problems)
            raise RevosValidationError(
                f"the model's answer does not fit {self.name}: {listed}",
                raw=answer,
                problems=problems,
                target=self.type,
            ) from error


def target_of(type_: Any) -> Target:
    """The target for a pydantic model.

    :raises RevosInputError: it is none, or it has no JSON schema
    """
    if not (isinstance(type_, type) and issubclass(type_, pydantic.BaseModel)):
        raise RevosInputError(f"the target must be a pydantic model class, not {type_!r}")
    try:
        schema = type_.model_json_schema()
    except pydantic.errors.PydanticUserError as error:
        raise RevosInputError(f"{type_.__name__} has no JSON schema: {error}") from error
    strict = _is_strict(schema)
    return Target(
        type=type_,
        name=re.sub(r"[^A-Za-z0-9_-]", "_", type_.__name__)[:64],
        description=str(schema.get("description", f"Give a {type_.__name__}.")),
        schema=_closed(schema) if strict else schema,
        strict=strict,
    )


def _objects(schema: Any) -> list[dict[str, Any]]:
    """Every schema of an object type in it, itself included."""
    found: list[dict[str, Any]] = []
    if isinstance(schema, dict):
        if schema.get("type") == "object" or "properties" in schema:
            found.append(schema)
        # The names of properties and definitions are no keywords.
        for key, value in schema.items():
            parts = value.values() if key in ("properties", "$defs") else (value,)
            for part in parts:
                found += _objects(part)
    elif isinstance(schema, list):
        for part in schema:
            found += _objects(part)
    return found


def _is_strict(schema: dict[str, Any]) -> bool:
    """Whether strict mode can say the same: no optional property, no free key."""
    return all(
        set(found.get("properties", {})) == set(found.get("required", ()))
        and not found.get("additionalProperties")
        and "properties" in found
        for found in _objects(schema)
    )


def _closed(schema: Any, *, names: bool = False) -> Any:
    """The schema with `additionalProperties: false` at every object; with `names` its keys are
    names of properties, not keywords.
    """
    if isinstance(schema, dict):
        closed = {
            key: _closed(value, names=not names and key in ("properties", "$defs"))
            for key, value in schema.items()
        }
        if not names and "properties" in schema:
            closed["additionalProperties"] = False
        return closed
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    return schema
