"""Types through an extractor: asked for by the gateway's rules, answered, and read."""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Annotated, Literal, TypedDict

import attrs
import pydantic
import pytest
from openai_rules import faults

from revos import TokenManager
from revos.errors import RevosInputError, RevosValidationError
from revos.extraction.kept_targets import MOST

PROMPT = "Extract: {text}"


@pytest.fixture
async def gpt4(revos_gateway):
    async with TokenManager(revos_gateway.config()) as tm, tm.extractor("gpt-4") as extractor:
        yield extractor


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


@attrs.define
class Person:
    name: str
    age: int
    city: str = "nowhere"
    mood: Mood = Mood.GOOD


@dataclasses.dataclass
class Visit:
    person: Person
    nights: Annotated[int, pydantic.Field(ge=0)] = 1


class Trip(TypedDict, total=False):
    city: str
    visits: list[Visit]


ADA = Person("Ada", 36, "London")
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@pytest.mark.parametrize(
    ("target", "text", "value"),
    [
        (Person, "Ada, 36, London", ADA),
        (list[Person], "Ada, 36, London; Bob, 40, Paris", [ADA, Person("Bob", 40, "Paris")]),
        (Person | None, "Ada, 36, London", ADA),
        (dict[str, int], "apples 3, pears 5", {"apples": 3, "pears": 5}),
        (int, "there are 5", 5),
        (Literal["red", "blue"], "it was blue", "blue"),
        (Mood, "it was bad", Mood.BAD),
        (SCHEMA, "Ada, 36", {"name": "Ada"}),
    ],
)
async def test_the_text_becomes_an_instance(gpt4, revos_gateway, target, text, value):
    assert await gpt4.extract(target, PROMPT, text=text) == value

    sent = revos_gateway.chat_log[-1].payload["response_format"]["json_schema"]
    assert faults(sent["schema"]) == [] or not sent["strict"]


async def test_what_the_model_leaves_null_has_its_default(gpt4, revos_gateway):
    revos_gateway.chat_script.append(
        '{"city": null, "visits": [{"nights": null, "person":'
        ' {"name": "Ada", "age": "36", "city": null, "mood": "bad"}}]}'
    )

    trip = await gpt4.extract(Trip, PROMPT, text="x")

    assert trip == {"visits": [Visit(Person("Ada", 36, mood=Mood.BAD), 1)]}


async def test_all_problems_of_an_answer_are_told(gpt4, revos_gateway):
    revos_gateway.chat_script.extend(['{"visits": [{"person": {"name": 1}, "nights": -1}, 3]}'] * 4)

    with pytest.raises(RevosValidationError) as caught:
        await gpt4.extract(Trip, PROMPT, text="x")

    assert [problem.path for problem in caught.value.problems] == [
        "visits.0.person.name",
        "visits.0.person.age",
        "visits.0.nights",
        "visits.1",
    ]


async def test_a_target_without_a_schema_costs_no_request(gpt4, revos_gateway):
    with pytest.raises(RevosInputError, match="an instance of dict_keys is no type"):
        await gpt4.extract(SCHEMA.keys(), PROMPT, text="x")

    assert revos_gateway.api_requests == 0


@attrs.define
class Left:
    size: int


@attrs.define
class Right:
    size: int


LOOSE = Annotated[int, {"no": "hash"}]


@pytest.mark.parametrize(
    ("target", "equal"),
    [(list[Person], list[Person]), (SCHEMA, json.loads(json.dumps(SCHEMA))), (LOOSE, LOOSE)],
    ids=["type", "JSON schema", "without a hash"],
)
async def test_the_schema_of_equal_targets_is_built_once(gpt4, target, equal):
    runtime = gpt4._bound.runtime

    assert runtime.target_of(target) is runtime.target_of(equal)


async def test_a_json_schema_that_was_changed_is_another_target(gpt4, revos_gateway):
    schema = json.loads(json.dumps(SCHEMA))
    await gpt4.extract(schema, PROMPT, text="Ada")
    schema["properties"] = {"age": {"type": "integer"}}
    schema["required"] = ["age"]

    assert await gpt4.extract(schema, PROMPT, text="Ada, 36") == {"age": 36}
    revos_gateway.chat_script.extend(["{}"] * 2)
    with pytest.raises(RevosValidationError) as caught:
        await gpt4.extract(json.loads(json.dumps(SCHEMA)), PROMPT, text="x")
    assert caught.value.target == SCHEMA


@pytest.mark.parametrize("properties", [frozenset(), b"", {"name": {1, 2}}])
async def test_what_is_no_json_schema_is_none_after_one_that_looks_like_it_too(gpt4, properties):
    schema = {"type": "object", "properties": {}}
    gpt4._bound.runtime.target_of(schema)

    for _ in range(2):
        with pytest.raises(RevosInputError):
            await gpt4.extract(schema | {"properties": properties}, PROMPT, text="x")


async def test_the_order_of_a_union_is_kept(gpt4, revos_gateway):
    for target, value in ((Left | Right, Left(1)), (Right | Left, Right(1))):
        revos_gateway.chat_script.append('{"value": {"size": 1}}')
        assert await gpt4.extract(target, PROMPT, text="x") == value


async def test_targets_that_are_made_anew_for_each_call_are_not_kept_for_ever(gpt4):
    runtime = gpt4._bound.runtime
    first = runtime.target_of(Literal["0"])
    kept = [runtime.target_of(Literal[str(number)]) for number in range(1, MOST)]
    assert runtime.target_of(Literal["0"]) is first

    runtime.target_of(Literal["one more"])

    assert runtime.target_of(Literal["1"]) is not kept[0]
    assert runtime.target_of(Literal["0"]) is first


async def test_the_same_target_is_asked_for_by_tools(gpt4, revos_gateway):
    revos_gateway.unsupported.add("json_schema")

    assert await gpt4.extract(list[Person], PROMPT, text="Ada, 36, London") == [ADA]

    function = revos_gateway.chat_log[-1].payload["tools"][0]["function"]
    assert function["name"] == "list_Person"
    assert function["strict"] is True
    assert faults(function["parameters"]) == []
