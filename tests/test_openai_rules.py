"""The checker of strict schemas finds what OpenAI refuses."""

from __future__ import annotations

import pytest
from openai_rules import faults

GOOD = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "Whole"},
        "home": {"anyOf": [{"$ref": "#/$defs/Home"}, {"type": "null"}]},
    },
    "required": ["name", "home"],
    "additionalProperties": False,
    "$defs": {
        "Home": {
            "type": "object",
            "properties": {"rooms": {"type": "array", "items": {"type": "integer"}}},
            "required": ["rooms"],
            "additionalProperties": False,
        }
    },
}


def _with(node):
    return {**GOOD, "properties": {"name": node, "home": {"type": "null"}}}


def test_a_schema_by_the_rules_has_no_fault():
    assert faults(GOOD) == []


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array", "items": {"type": "string"}}, "the root is no object"),
        ({**GOOD, "anyOf": [{"type": "null"}]}, "the root is a choice"),
        ({**GOOD, "required": ["name"]}, "not every property is required"),
        ({**GOOD, "additionalProperties": True}, "additionalProperties"),
        (_with({}), "no type"),
        (_with({"type": "string", "default": "x"}), "'default' is not permitted"),
        (_with({"type": "string", "maxLength": 3}), "'maxLength' is not permitted"),
        (_with({"oneOf": [{"type": "string"}]}), "'oneOf' is not permitted"),
        (_with({"$ref": "#/$defs/Home", "description": "x"}), "cannot have keywords"),
        (_with({"$ref": "#/$defs/Nowhere"}), "leads nowhere"),
        (_with({"type": "array"}), "no items"),
        (_with({"type": "string", "format": "uri"}), "format"),
        (_with({"type": "string", "pattern": "^(?!x)"}), "pattern"),
    ],
)
def test_a_fault_is_found(schema, words):
    assert any(words in fault for fault in faults(schema))
