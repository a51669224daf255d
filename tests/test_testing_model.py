"""The stand-in model: what it makes of a schema and a text."""

from __future__ import annotations

import json
import time
from datetime import date
from enum import Enum
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, create_model

from revos.testing import fill
from revos.testing.schema import find_in, strict_problem, without


def object_of(**properties):
    return {"type": "object", "properties": properties, "required": list(properties)}


STRING, INTEGER, NUMBER, BOOLEAN = ({"type": t} for t in ("string", "integer", "number", "boolean"))
PERSON = object_of(name=STRING, age=INTEGER, city=STRING)


@pytest.mark.parametrize(
    "text",
    [
        "Extract the person: Ada, 36, London",
        "Ada, 36, London",
        "Extract the person from this text.\n\nText: Ada is 36 and lives in London.",
        "Extract the person:\nCity: London\nName: Ada\nAge: 36",
        "Person: London-born? No: Ada, aged 36, of London",
    ],
)
def test_a_person_is_found_however_the_text_puts_it(text):
    assert fill(PERSON, text) == {"name": "Ada", "age": 36, "city": "London"}


def test_the_words_of_the_instruction_do_not_win():
    found = fill(object_of(name=STRING), "Please Extract The Name Of Somebody: Grace Hopper")
    assert found == {"name": "Grace Hopper"}


def test_properties_whose_name_explains_them_choose_before_the_others():
    schema = object_of(nickname=STRING, city=STRING, name=STRING)
    assert fill(schema, "Ada, London, Countess") == {
        "nickname": "Countess",
        "city": "London",
        "name": "Ada",
    }


def test_numbers_are_taken_in_order_and_within_their_bounds():
    schema = object_of(
        year={"type": "integer", "minimum": 1000, "maximum": 2999},
        count=INTEGER,
        price={"type": "number", "exclusiveMinimum": 9.5},
    )
    found = fill(schema, "Sold: 3 lamps for 19.90 in 1998, 1,250.5 in all")
    assert found == {"year": 1998, "count": 3, "price": 19.9}


def test_a_number_that_is_not_in_the_text_becomes_the_nearest_to_nought_that_is_allowed():
    schema = object_of(
        a={"type": "integer", "minimum": 5},
        b={"type": "number", "maximum": -1.5},
        c={"type": "integer", "exclusiveMinimum": 0, "multipleOf": 4},
        d=INTEGER,
    )
    assert fill(schema, "nothing here") == {"a": 5, "b": -1.5, "c": 4, "d": 0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Member: yes", True),
        ("Member: no", False),
        ("He is a member", True),
        ("He is not member", False),
        ("Nothing is said", False),
    ],
)
def test_a_boolean_is_read_from_yes_and_no_or_from_its_name(text, expected):
    assert fill(object_of(member=BOOLEAN), text) == {"member": expected}


def test_what_is_not_found_is_null_where_null_is_allowed():
    schema = object_of(
        name={"anyOf": [STRING, {"type": "null"}]},
        age={"type": ["integer", "null"]},
        email={"anyOf": [{"type": "null"}, STRING]},
    )
    assert fill(schema, "it rains") == {"name": None, "age": None, "email": None}


def test_what_is_not_found_is_left_out_where_it_is_not_required():
    schema = {**PERSON, "required": ["name"]}
    assert fill(schema, "Ada") == {"name": "Ada"}


def test_what_is_not_found_is_the_default_where_there_is_one():
    schema = object_of(unit={**NUMBER, "default": 2.5})
    assert fill(schema, "it rains") == {"unit": 2.5}


def test_formats_are_recognised():
    schema = object_of(
        when={"type": "string", "format": "date"},
        contact={"type": "string", "format": "email"},
        page={"type": "string", "format": "uri"},
        name=STRING,
    )
    text = "Ada wrote on 1842-09-01 from ada@example.org, see https://example.org/a?b=1"
    assert fill(schema, text) == {
        "when": "1842-09-01",
        "contact": "ada@example.org",
        "page": "https://example.org/a?b=1",
        "name": "Ada",
    }


def test_a_pattern_and_a_code_find_their_piece():
    schema = object_of(
        code={"type": "string", "pattern": "^[A-Z]{3}-[0-9]+$"}, invoice_number=STRING
    )
    assert fill(schema, "Paid: Ada, INV-17, 4711") == {"code": "INV-17", "invoice_number": "4711"}


def test_an_enum_takes_the_member_that_the_text_says():
    colour = {"enum": ["dark_red", "green", None]}
    assert fill(colour, "It is dark red") == "dark_red"
    assert fill(colour, "It is blue") is None
    assert fill({"enum": ["a", "b"]}, "It is blue") == "a"
    assert fill({"enum": [1, 2, 3]}, "Take 2") == 2


def test_each_line_or_semicolon_gives_an_item_of_a_list_of_objects():
    schema = object_of(people={"type": "array", "items": PERSON})
    text = "Extract all: Ada, 36, London; Alan, 41, Wilmslow\nGrace, 85, Arlington"
    assert fill(schema, text) == {
        "people": [
            {"name": "Ada", "age": 36, "city": "London"},
            {"name": "Alan", "age": 41, "city": "Wilmslow"},
            {"name": "Grace", "age": 85, "city": "Arlington"},
        ]
    }


@pytest.mark.parametrize(
    ("items", "text", "expected"),
    [
        (STRING, "Take: Ada, Alan and Grace Hopper", ["Ada", "Alan", "Grace Hopper"]),
        (STRING, "Take: red, green", ["red", "green"]),
        (INTEGER, "Take: 1, 2.5 and 3", [1, 3]),
        (NUMBER, "Take: 1, 2.5 and 3", [1, 2.5, 3]),
        ({"enum": ["red", "blue"]}, "Take: blue", ["blue"]),
        (BOOLEAN, "Take: yes, no", [True, False]),
        (
            {"type": "string", "format": "date"},
            "On 2024-01-02, 2024-01-03",
            ["2024-01-02", "2024-01-03"],
        ),
        (PERSON, "", []),
    ],
)
def test_lists_hold_all_that_the_text_has(items, text, expected):
    assert fill({"type": "array", "items": items}, text) == expected


def test_lists_respect_their_sizes():
    schema = {"type": "array", "items": INTEGER, "minItems": 2, "maxItems": 3}
    assert fill(schema, "1 2 3 4 5") == [1, 2, 3]
    assert fill(schema, "1") == [1, 0]


def test_an_open_mapping_reads_pairs():
    schema = {"type": "object", "additionalProperties": INTEGER}
    assert fill(schema, "Stock: apples 3, pears: 5") == {"apples": 3, "pears": 5}


def test_the_alternative_that_the_text_gives_most_to_wins():
    cat = object_of(kind={"const": "cat"}, name=STRING, lives=INTEGER)
    dog = object_of(kind={"const": "dog"}, name=STRING, tricks=INTEGER)
    schema = {"anyOf": [cat, dog]}
    assert fill(schema, "A dog: Rex, 3")["kind"] == "cat"  # A tie: the word is in the instruction.
    assert fill(schema, "Rex is a dog with 3 tricks")["kind"] == "dog"


def test_references_and_all_of_are_put_together():
    schema = {
        "$defs": {"Named": object_of(name=STRING), "A/B": object_of(age=INTEGER)},
        "allOf": [{"$ref": "#/$defs/Named"}, {"$ref": "#/$defs/A~1B"}],
    }
    assert fill(schema, "Ada, 36") == {"name": "Ada", "age": 36}


class Node(BaseModel):
    name: str
    children: list[Node] = []
    parent: Node | None = None


def test_recursion_ends():
    assert fill(Node.model_json_schema(), "Ada") == {"name": "Ada"}


def test_recursion_that_allows_no_end_ends_too():
    names = [f"N{number}" for number in range(9)]
    everyone = object_of(**{name: {"$ref": f"#/$defs/{name}"} for name in names})
    schema = {"$defs": dict.fromkeys(names, everyone), **everyone}
    began = time.perf_counter()
    assert isinstance(fill(schema, "Ada"), dict)
    assert time.perf_counter() - began < 5
    assert fill({"$ref": "#"}, "Ada") == "unknown"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    street: str
    city: str | None
    zip: str | None = None


class Order(BaseModel):
    id: int = Field(ge=1, le=10_000)
    customer: str = Field(min_length=2, max_length=30)
    colour: Colour
    paid: bool
    price: float
    due: date
    size: Literal["S", "M"] | None
    address: Address
    lines: list[Address]
    tags: list[str] = Field(min_length=1)
    pair: tuple[int, str]
    weights: dict[str, float]
    either: int | Address
    score: Annotated[float, Field(gt=0, lt=1)]


@given(st.text() | st.from_regex(r"([A-Z][a-z]+|\d+|, |: |; |red |no |\n)+", fullmatch=True))
def test_every_text_gives_a_value_that_fits_the_schema(text):
    value = fill(Order.model_json_schema(), text)
    Order.model_validate_json(json.dumps(value))


TYPES = st.recursive(
    st.sampled_from([str, int, float, bool, date, Colour, Literal["x", 3]]),
    lambda inner: st.one_of(
        inner.map(lambda t: list[t]),
        inner.map(lambda t: t | None),
        inner.map(lambda t: dict[str, t]),
        st.lists(inner, min_size=1, max_size=3).map(lambda ts: tuple[tuple(ts)]),
        st.dictionaries(st.sampled_from(["name", "age", "city", "x_y", "text"]), inner).map(
            lambda fields: create_model("Made", **{n: (t, ...) for n, t in fields.items()})
        ),
    ),
    max_leaves=8,
)


@given(TYPES, st.sampled_from(["", "Ada, 36, London", "Take: 1, yes; red 2.5\nBob 2024-01-02"]))
def test_every_type_gets_a_value_that_fits(kind, text):
    adapter = TypeAdapter(kind)
    adapter.validate_json(json.dumps(fill(adapter.json_schema(), text)))


KEYWORDS = [
    *("type", "properties", "items", "anyOf", "allOf", "$ref", "enum", "minimum", "required"),
    *("maxLength", "pattern", "minItems", "multipleOf", "const", "a"),
]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(KEYWORDS),
                inner | st.sampled_from(["object", "array", "string", "integer", "#", "#/items"]),
                max_size=4,
            )
        ),
    ).filter(lambda value: isinstance(value, dict))
)
def test_a_schema_that_makes_no_sense_still_ends_in_some_json(schema):
    json.dumps(fill(schema, "Ada, 36"))


def test_a_schema_is_found_in_a_prompt_and_taken_out_of_it():
    prompt = (
        'Example: {"properties": {"a": {}}} becomes {"a": 1}.\n'
        "Person: Ada, 36\n"
        'Answer with JSON that fits this schema:\n```json\n{"type": "integer"}\n```'
    )
    schema, spelling = find_in(prompt)
    assert schema == {"type": "integer"}
    assert "Person: Ada, 36" in without(prompt, spelling)
    assert "Answer" not in without(prompt, spelling)
    assert find_in("no {schema} here {]") is None


def test_strict_mode_has_the_rules_that_openai_has():
    closed = {**PERSON, "additionalProperties": False}
    assert strict_problem(closed) is None
    assert "additionalProperties" in strict_problem(object_of(inner=PERSON))
    open_inside = {**object_of(inner={"anyOf": [PERSON]}), "additionalProperties": False}
    assert "'inner', 'anyOf', '0'" in strict_problem(open_inside)
    assert "Missing 'age'" in strict_problem({**closed, "required": ["name", "city"]})
