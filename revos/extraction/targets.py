"""What is extracted: a type, the JSON schema that asks for it, and the instance that comes back.

Any type that has a JSON schema: pydantic models, attrs classes, dataclasses, TypedDicts,
NamedTuples, Enums, annotations of all these; and a JSON schema itself. Imports pydantic, so it is
imported late.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pydantic
from attrs import field, frozen
from pydantic import TypeAdapter

from revos.errors import Problem, RevosInputError, RevosValidationError
from revos.extraction.decoding import UnreadableError, decoded, encoded
from revos.extraction.generating import generate
from revos.extraction.hints import NoSchemaError
from revos.extraction.json_schemas import checked
from revos.extraction.misfits import problems_of
from revos.extraction.nulls import without_nulls
from revos.extraction.references import followed
from revos.extraction.strictness import strict_form
from revos.extraction.surrogates import display

__all__ = ["WRAPPING", "Problem", "Target", "target_of"]

# What a value that is no object is sent in.
WRAPPING = "value"


class _MisfitError(Exception):
    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems


@frozen(eq=False)
class Target:
    """A type, ready to be asked for.

    :ivar type: as it was given
    :ivar name: for the gateway: letters, digits, `_` and `-`, at most 64
    :ivar schema: as it is sent: the JSON schema of an object
    :ivar strict: the schema keeps the rules of OpenAI's strict mode, so the gateway may enforce it
    """

    type: Any
    name: str
    description: str
    schema: Mapping[str, Any]
    strict: bool
    # The schema of the type itself, and what makes an instance of a value.
    _own_schema: Mapping[str, Any] = field(repr=False)
    _instance: Callable[[Any], Any] = field(repr=False)
    _is_wrapped: bool = field(repr=False)

    def read(self, answer: str | None) -> Any:
        """The instance that an answer, one JSON text, stands for.

        :raises RevosValidationError: it does not fit
        """
        if answer is None:
            raise self._misfit(None, [Problem("", "no answer")])
        try:
            value = decoded(answer)
        except UnreadableError as error:
            raise self._misfit(answer, [Problem("", str(error))]) from error
        candidates = [value]
        if self._is_wrapped and isinstance(value, dict) and WRAPPING in value:
            candidates.insert(0, value[WRAPPING])
        told: _MisfitError | None = None
        for candidate in candidates:
            try:
                return self._read(candidate)
            except _MisfitError as error:
                told = told or error
        assert told is not None  # noqa: S101 - there is one candidate at least
        raise self._misfit(answer, told.problems) from told.__cause__

    def unwrapped(self, value: Any) -> Any:
        """A decoded value, perhaps a part of one, without the object that it was sent in.

        >>> target_of(list[int]).unwrapped({"value": [1]})
        [1]
        """
        if not self._is_wrapped or not isinstance(value, dict):
            return value
        return value.get(WRAPPING) if value.keys() <= {WRAPPING} else value

    @property
    def is_list(self) -> bool:
        return self._is_wrapped and followed(self._own_schema, self._own_schema).get("type") == (
            "array"
        )

    def joined(self, answers: Sequence[str]) -> str | None:
        """One answer with the items of several ones; None where that is no list, or where an item
        is in two of them, which may be said twice or be meant twice.

        >>> target_of(list[int]).joined(['{"value": [1]}', '{"value": [2, 2]}'])
        '{"value": [1, 2, 2]}'
        """
        if not self.is_list:
            return None
        items: list[Any] = []
        seen: set[str] = set()
        for answer in answers:
            try:
                value = self.unwrapped(decoded(answer))
            except UnreadableError:
                return None
            inner = value if isinstance(value, list) else [value]
            told = {json.dumps(item, sort_keys=True) for item in inner}
            if seen & told:
                return None
            seen |= told
            items += inner
        return json.dumps({WRAPPING: items}, ensure_ascii=False)

    def _read(self, value: Any) -> Any:
        try:
            return self._instance(without_nulls(value, self._own_schema))
        except RecursionError as error:
            raise _MisfitError([Problem("", "nested too deeply")]) from error

    def _misfit(self, answer: str | None, problems: list[Problem]) -> RevosValidationError:
        listed = "; ".join(f"{p.path or 'answer'}: {p.message}" for p in problems)
        words = (
            "the model gave no answer to fit"
            if answer is None
            else "the model's answer does not fit"
        )
        return RevosValidationError(
            f"{words} {self.name}" + (f": {listed}" if answer is not None else ""),
            raw=answer,
            problems=tuple(problems),
            target=self.type,
        )


def target_of(type_: Any) -> Target:
    """The target for a type, or for a JSON schema.

    :raises RevosInputError: it has no JSON schema; the text names class, field and reason

    >>> target_of(int | None).schema["properties"]
    {'value': {'anyOf': [{'type': 'integer'}, {'type': 'null'}]}}
    """
    try:
        return _made_of(type_)
    except NoSchemaError as error:
        raise RevosInputError(f"the target cannot be asked for: {error}") from error
    except RecursionError as error:
        raise RevosInputError("the target cannot be asked for: it is nested too deeply") from error


def _made_of(type_: Any) -> Target:
    if isinstance(type_, Mapping):
        schema, misfits = checked(type_)
        instance, shown = _plain_value(misfits), str(schema.get("title", "answer"))
    else:
        adapter, schema = generate(type_)
        instance, shown = _validated(adapter), display(type_)
    name = re.sub(r"[^A-Za-z0-9-]+", "_", shown).strip("_")[:64] or "answer"
    root = followed(schema, schema)
    is_wrapped = not _is_object(root)
    sent = _wrapped(schema) if is_wrapped else _with_definitions(root, schema)
    strict = strict_form(sent)
    return Target(
        type=type_,
        name=name,
        description=str(root.get("description", f"Give a {name}.")),
        schema=sent if strict is None else strict,
        strict=strict is not None,
        own_schema=schema,
        instance=instance,
        is_wrapped=is_wrapped,
    )


def _is_object(root: Mapping[str, Any]) -> bool:
    kind = root.get("type", "object" if "properties" in root else None)
    return kind == "object" and not {"anyOf", "oneOf", "allOf"} & root.keys()


def _with_definitions(root: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    defs = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    return {"type": "object", **root, **defs}


def _wrapped(schema: Mapping[str, Any]) -> dict[str, Any]:
    inner = {key: part for key, part in schema.items() if key not in {"$defs", "definitions"}}
    wrapping = {
        "type": "object",
        "properties": {WRAPPING: _moved(inner)},
        "required": [WRAPPING],
        "additionalProperties": False,
    }
    return _with_definitions(wrapping, _moved(schema))


def _moved(node: Any) -> Any:
    """With references to parts of the root that lead to where it is in the wrapping."""
    if isinstance(node, list):
        return [_moved(inner) for inner in node]
    if not isinstance(node, Mapping):
        return node
    moved = {key: _moved(inner) for key, inner in node.items()}
    reference = node.get("$ref")
    if isinstance(reference, str) and not re.match(r"#/(\$defs|definitions)/", reference):
        moved["$ref"] = f"#/properties/{WRAPPING}{reference.removeprefix('#')}"
    return moved


def _plain_value(misfits: Callable[[Any], list[Problem]]) -> Callable[[Any], Any]:
    def instance(value: Any) -> Any:
        if problems := misfits(value):
            raise _MisfitError(problems)
        return value

    return instance


def _validated(adapter: TypeAdapter[Any]) -> Callable[[Any], Any]:
    def instance(value: Any) -> Any:
        try:
            return adapter.validate_json(encoded(value))
        except pydantic.ValidationError as error:
            raise _MisfitError(problems_of(error, value)) from error
        except (TypeError, ValueError, AssertionError, LookupError, ArithmeticError) as error:
            # From code of the user's that pydantic does not answer for.
            raise _MisfitError([Problem("", str(error) or type(error).__name__)]) from error

    return instance
