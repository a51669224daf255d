"""What cannot be asked for is said before anything is sent: which type, which field, why."""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
import typing
from collections.abc import Callable

import attrs
import pydantic
import pytest

from revos.errors import RevosInputError
from revos.extraction.targets import target_of


class Arbitrary:
    pass


@attrs.define
class Calling:
    name: str
    call: Callable[[int], int]


@attrs.define
class Perhaps:
    call: int | Callable[[], int] = 1


@attrs.define
class Holding:
    name: str
    thing: Arbitrary | None = None


@dataclasses.dataclass
class Deep:
    held: list[Holding]


@attrs.define
class Lost:
    name: str
    other: Nowhere | None = None  # noqa: F821 - which is the point


class Model(pydantic.BaseModel, arbitrary_types_allowed=True):
    name: str
    thing: Arbitrary = Arbitrary()


class Outer(pydantic.BaseModel):
    models: dict[str, Model]


class Row(typing.NamedTuple):
    thing: Arbitrary


class Keys(typing.TypedDict):
    deep: Deep


def function():
    pass


class Odd(enum.Enum):
    ONE = Arbitrary()


@attrs.define
class WithOdd:
    odd: Odd


class Needy:
    @classmethod
    def __get_pydantic_core_schema__(cls, source, handler):
        raise ImportError("email-validator is not installed")


@pytest.mark.parametrize(
    ("type_", "words"),
    [
        (pydantic.BaseModel, "give a model of your own"),
        (Needy, "Needy has no JSON schema: email-validator is not installed"),
        (WithOdd, r"WithOdd\.odd"),
        (Arbitrary, "Arbitrary has no JSON schema"),
        (Calling, r"Calling\.call"),
        (Perhaps, r"Perhaps\.call: .*CallableSchema"),
        (Holding, r"Holding\.thing.*Arbitrary"),
        (Deep, r"Deep has no JSON schema: Holding\.thing.*Arbitrary"),
        (list[Deep], r"Holding\.thing"),
        (Keys, r"Keys has no JSON schema: Holding\.thing"),
        (Row, r"Row\.thing"),
        (Lost, r"Lost\.other: name 'Nowhere' is not defined"),
        (Model, r"Model\.thing.*Arbitrary"),
        (Outer, r"Outer has no JSON schema: Model\.thing"),
        (list["Nowhere"], "Nowhere"),  # noqa: F821
        (Callable[[int], int], "Callable"),
        (type[int], "class"),
        (type, "class"),
        (function, "an instance of function is no type"),
        (print, "an instance of builtin_function_or_method is no type"),
        (json, "an instance of module is no type"),
        (None, "an instance of NoneType is no type"),
        ("Person", "an instance of str is no type"),
        (5, "an instance of int is no type"),
    ],
)
def test_a_type_without_a_schema_is_named_with_the_field_and_the_reason(type_, words):
    with pytest.raises(RevosInputError, match=words):
        target_of(type_)


def test_an_instance_in_place_of_a_type_is_not_shown():
    with pytest.raises(RevosInputError) as caught:
        target_of(Calling("a-secret", print))

    assert "a-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({}, "nothing in it"),
        ({"name": "string"}, "'name' is no JSON schema"),
        ({"type": "text"}, "it is no JSON schema: type"),
        ({"type": "object", "properties": {"a": {"type": 5}}}, "properties.a.type"),
        ({"type": "object", "required": "name"}, "required"),
        ({"$ref": "#/$defs/Nowhere"}, "leads nowhere"),
        ({"$ref": "https://example.com/schema.json"}, "leads nowhere"),
        ({"type": "array", "items": {"$dynamicRef": "https://example.com/"}}, "leads nowhere"),
        ({"type": "array", "items": {"$ref": "#anchor"}}, "leads nowhere"),
        ({"type": "string", "default": object()}, "must be JSON: object is none"),
    ],
)
def test_a_mapping_that_is_no_schema_is_refused_with_the_place(schema, words):
    with pytest.raises(RevosInputError, match=words):
        target_of(schema)


@pytest.mark.parametrize("depth", [400, 20_000])
def test_a_schema_that_is_nested_too_deeply_is_refused(depth):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}

    with pytest.raises(RevosInputError, match="it is nested too deeply"):
        target_of(schema)


def test_without_jsonschema_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)

    with pytest.raises(RevosInputError, match=r'pip install "revos\[cli\]"'):
        target_of({"type": "object"})
