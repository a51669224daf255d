"""Schemas for OpenAI's strict mode, and how what they changed is undone in answers."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

import attrs
import pydantic
import pytest
from openai_rules import faults

from revos.errors import RevosValidationError
from revos.extraction.nulls import without_nulls
from revos.extraction.strictness import strict_form
from revos.extraction.targets import target_of


class Inner(pydantic.BaseModel):
    size: int = 3


class Everything(pydantic.BaseModel):
    """Keywords that strict mode does not know."""

    described: Inner = pydantic.Field(description="the inner one")
    defaulted: Inner = pydantic.Field(default=Inner(), description="another")
    short: str = pydantic.Field(min_length=1, max_length=5)
    link: pydantic.HttpUrl = pydantic.Field(examples=["https://example.com"])
    unique: set[int]
    pair: tuple[int, str]
    fixed: Literal["x"] = "x"
    price: Annotated[float, pydantic.Field(gt=0, le=10, multiple_of=0.5)] = 1
    day: dt.date | None = None
    code: str = pydantic.Field("A", pattern="^[A-Z]$")
    ahead: str | None = pydantic.Field(None, max_length=2)


def _properties():
    return target_of(Everything).schema["properties"]


def test_every_keyword_is_one_that_strict_mode_knows():
    target = target_of(Everything)

    assert target.strict is True
    assert faults(target.schema) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("short", "at least 1 character; at most 5 characters"),
        ("link", "format: uri"),
        ("link", "https://example.com"),
        ("unique", "no two alike"),
        ("pair", "in a fixed order"),
    ],
)
def test_what_a_dropped_keyword_said_is_in_the_description(name, words):
    assert words in _properties()[name]["description"]


def test_what_strict_mode_knows_stays():
    sent = _properties()

    assert sent["price"]["anyOf"][0] == {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": 10,
        "multipleOf": 0.5,
    }
    assert sent["code"]["anyOf"][0] == {"type": "string", "pattern": "^[A-Z]$"}
    assert sent["day"]["anyOf"] == [{"type": "string", "format": "date"}, {"type": "null"}]


def test_a_description_beside_a_reference_takes_its_place():
    assert _properties()["described"] == {
        "type": "object",
        "description": "the inner one",
        "properties": {"size": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
        "required": ["size"],
        "additionalProperties": False,
    }
    assert _properties()["defaulted"]["description"] == "another"


def test_a_tag_with_a_default_is_not_left_out():
    assert _properties()["fixed"] == {"type": "string", "enum": ["x"]}


def test_dropped_rules_still_hold_for_the_answer():
    answer = (
        '{"described": {"size": null}, "defaulted": null, "short": "toolong", "link": "nothing",'
        ' "unique": [1, 1], "pair": [1], "fixed": "x", "price": 0.3, "day": null, "code": "a",'
        ' "ahead": "abc"}'
    )

    with pytest.raises(Exception, match="does not fit Everything") as caught:
        target_of(Everything).read(answer)

    assert [problem.path for problem in caught.value.problems] == [
        "short",
        "link",
        "pair.1",
        "price",
        "code",
        "ahead",
    ]


class Node(pydantic.BaseModel):
    left: Node | None = pydantic.Field(None, description="the left one")
    right: Node = pydantic.Field(default=None, description="the right one")


def test_a_recursive_type_has_a_finite_schema_by_the_rules():
    target = target_of(Node)

    assert target.strict is True
    assert faults(target.schema) == []
    assert target.read('{"left": {"left": null, "right": null}, "right": null}').left is not None


def test_a_pattern_that_looks_ahead_is_not_sent():
    part = {"type": "string", "pattern": "^(?!x)"}
    schema = {"type": "object", "properties": {"a": part}, "required": ["a"]}

    assert strict_form(schema)["properties"]["a"] == {"type": "string"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"a": {}}},
        {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": True},
        {"type": "object", "properties": {"a": {"type": "array"}}},
        {"type": "object", "properties": {"a": {"enum": [[1]]}}},
        {"type": "object", "properties": {}, "patternProperties": {"x": {"type": "string"}}},
        {"type": "object", "properties": {}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/Nowhere"}}},
        {"type": "object", "properties": {"a": {"allOf": [{"type": "string"}, {"minLength": 1}]}}},
    ],
)
def test_a_free_schema_has_no_strict_form(schema):
    assert strict_form(schema) is None


def test_an_object_that_has_no_properties_and_takes_none_is_strict():
    schema = {"type": "object", "additionalProperties": False}

    assert strict_form(schema) == {**schema, "properties": {}, "required": []}


def test_a_schema_that_is_not_strict_stays_as_it_is():
    schema = target_of(pydantic.create_model("Loose", a=(dict[str, int], {}), b=(int, 1))).schema

    assert schema["properties"]["b"] == {"default": 1, "title": "B", "type": "integer"}
    assert "required" not in schema


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "default": 1},
        "nick": {"type": ["string", "null"]},
        "friend": {"$ref": "#/$defs/Person"},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/Person"}},
        "by_name": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Person"}},
    },
    "required": ["name"],
}


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ({"name": None}, {"name": None}),
        ({"name": "A", "age": None}, {"name": "A"}),
        ({"name": "A", "nick": None}, {"name": "A", "nick": None}),
        ({"name": "A", "unknown": None}, {"name": "A", "unknown": None}),
        ({"name": "A", "friend": {"age": None}}, {"name": "A", "friend": {}}),
        ({"friend": None, "tags": None}, {}),
        ({"tags": [{"age": None}, None]}, {"tags": [{}, None]}),
        ({"by_name": {"a": {"age": None}}}, {"by_name": {"a": {}}}),
        ({"friend": [None]}, {"friend": [None]}),
        ([None], [None]),
        (None, None),
    ],
)
def test_a_null_means_not_given_only_where_the_schema_says_so(value, meant):
    schema = {"$ref": "#/$defs/Person", "$defs": {"Person": PERSON}}

    assert without_nulls(value, schema) == meant


@attrs.frozen
class Plain:
    x: int


@attrs.frozen
class Named:
    x: int
    name: str = "nobody"


@attrs.frozen
class Sized:
    x: int
    sizes: list[int] = attrs.field(factory=list)


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    age: int = 1


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    age: int = 2


@pytest.mark.parametrize("union", [Plain | Named | Sized, Sized | Named | Plain])
@pytest.mark.parametrize(
    ("answer", "instance"),
    [
        ('{"x": 1}', Plain(1)),
        ('{"x": 1, "name": null}', Named(1)),
        ('{"x": 1, "name": "a"}', Named(1, "a")),
        ('{"x": "1", "sizes": null}', Sized(1)),
        ('{"x": 1, "sizes": [1]}', Sized(1, [1])),
    ],
)
def test_the_member_of_a_union_is_told_by_its_keys_in_any_order(union, answer, instance):
    assert target_of(list[union]).read(f"[{answer}]") == [instance]


@attrs.frozen
class Search:
    query: str = ""


@attrs.frozen
class Reply:
    text: str
    to: Search | None = None


@pytest.mark.parametrize("union", [Search | Reply, Reply | Search])
def test_a_class_that_requires_nothing_does_not_swallow_what_is_meant_for_another(union):
    target = target_of(list[union])

    with pytest.raises(RevosValidationError) as caught:
        target.read('[{"text": 5}]')

    assert [problem.path for problem in caught.value.problems] == ["0.text"]
    assert target.read('[{}, {"more": 1}, {"query": "a"}]') == [Search(), Search(), Search("a")]
    assert target.read('[{"text": "a", "more": 1}]') == [Reply("a")]
    assert target.strict is True
    assert faults(target.schema) == []


class Short(pydantic.BaseModel):
    x: int


class Long(pydantic.BaseModel):
    x: int
    sizes: set[int] = pydantic.Field(default_factory=set)


@pytest.mark.parametrize("union", [Short | Long, Long | Short])
def test_a_null_for_a_key_still_tells_the_model_that_has_it(union):
    holder = pydantic.create_model("Holder", held=(list[union], ...))

    held = (
        target_of(holder).read('{"held": [{"x": 1, "sizes": null}, {"x": 1, "sizes": [2]}]}').held
    )

    assert held == [Long(x=1), Long(x=1, sizes={2})]


@pytest.mark.parametrize("union", [Cat | Dog, Dog | Cat])
def test_the_member_of_a_union_is_told_by_its_tag_in_any_order(union):
    assert target_of(union).read('{"value": {"kind": "dog", "age": null}}') == Dog()
    assert target_of(union).read('{"kind": "cat", "age": null}') == Cat()


def test_a_discriminated_union_is_sent_as_a_choice():
    tagged = Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]

    target = target_of(list[tagged])

    assert target.strict is True
    assert faults(target.schema) == []
    assert target.read('[{"kind": "dog", "age": null}]') == [Dog()]
