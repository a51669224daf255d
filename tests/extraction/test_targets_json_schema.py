"""A JSON schema as a target: validated by it, the value is the decoded JSON."""

from __future__ import annotations

import json
import types

import pytest
from openai_rules import faults

from revos.errors import RevosValidationError
from revos.extraction.targets import target_of

PERSON = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Person found",
    "description": "Somebody",
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2},
        "age": {"type": "integer", "minimum": 0},
        "born": {"type": "string", "format": "date"},
        "friends": {"type": "array", "items": {"$ref": "#"}},
        "home": {"$ref": "#/definitions/Place"},
    },
    "required": ["name"],
    "definitions": {"Place": {"properties": {"city": {"type": "string"}}, "required": ["city"]}},
}
ADA = {"name": "Ada", "age": 36, "friends": [{"name": "Bob"}], "home": {"city": "London"}}


def test_the_value_is_the_decoded_json():
    assert target_of(PERSON).read(json.dumps(ADA)) == ADA


def test_a_null_for_an_optional_property_is_left_out():
    answer = {"name": "Ada", "age": None, "born": None, "friends": [{"name": "Bob", "age": None}]}

    read = target_of(PERSON).read(json.dumps(answer))

    assert read == {"name": "Ada", "friends": [{"name": "Bob"}]}


def test_it_is_sent_by_the_rules_of_strict_mode():
    target = target_of(PERSON)

    assert (target.name, target.description) == ("Person_found", "Somebody")
    assert target.strict is True
    assert faults(target.schema) == []


def test_all_problems_are_told():
    with pytest.raises(RevosValidationError) as caught:
        target_of(PERSON).read('{"name": "A", "age": -1, "born": "x", "friends": [{}], "home": {}}')

    assert [problem.path for problem in caught.value.problems] == [
        "age",
        "born",
        "friends.0",
        "home",
        "name",
    ]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "array", "items": {"$ref": "#"}}, [[], [[]]]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, None),
        ({"enum": ["a", 1, None]}, 1),
        ({"$ref": "#/$defs/P", "$defs": {"P": {"type": "object", "properties": {}}}}, {}),
        ({"type": "object", "patternProperties": {"^a": {"type": "integer"}}}, {"ab": 1}),
        ({"type": ["object", "null"], "properties": {"a": {"type": "integer"}}}, {"a": 1}),
    ],
)
def test_any_root_is_sent_as_an_object(schema, value):
    target = target_of(schema)

    assert target.schema["type"] == "object"
    assert not target.strict or faults(target.schema) == []
    assert target.read(json.dumps(value)) == value
    assert target.read(json.dumps({"value": value})) in (value, {"value": value})


def test_a_schema_that_refers_to_its_root_does_so_in_its_wrapping():
    schema = target_of({"type": "array", "items": {"$ref": "#"}}).schema

    assert schema["properties"]["value"] == {"type": "array", "items": {"$ref": "#/$defs/value"}}
    assert schema["$defs"] == {"value": schema["properties"]["value"]}


def test_half_of_a_surrogate_pair_is_a_problem():
    with pytest.raises(RevosValidationError, match="surrogate"):
        target_of({"type": "string"}).read('"\\ud800"')


def test_the_schema_is_a_copy():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    target = target_of(schema)

    schema["properties"]["a"]["type"] = "string"

    assert target.read('{"a": 1}') == {"a": 1}


def test_any_mapping_will_do():
    schema = types.MappingProxyType({"type": "object", "properties": {"a": {"type": "integer"}}})

    assert target_of(schema).read('{"a": 1}') == {"a": 1}
