"""What is said of an answer that does not fit: every problem, at its place."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import attrs
import pydantic
import pytest

from revos.errors import Problem, RevosValidationError
from revos.extraction.targets import target_of


def _is_name(instance, attribute, value):
    if not value.istitle():
        raise ValueError(f"{value!r} is no name")


@attrs.define
class Person:
    name: str = attrs.field(validator=[attrs.validators.min_len(2), _is_name])
    age: int = attrs.field(validator=attrs.validators.ge(0))
    mail: str | None = attrs.field(default=None, converter=attrs.converters.optional(str.lower))
    _code: int = attrs.field(default=0, validator=attrs.validators.instance_of(int))


@attrs.define
class Couple:
    one: Person
    other: Person = attrs.field()

    @other.validator
    def _differs(self, attribute, value):
        if self.one == value:
            raise ValueError("the same person twice")


@attrs.define
class Raising:
    how: str

    def __attrs_post_init__(self):
        raise {"type": TypeError("no type"), "assert": AssertionError(), "key": KeyError("k")}[
            self.how
        ]


@dataclasses.dataclass
class Span:
    start: int
    end: int

    def __post_init__(self):
        if self.end < self.start:
            raise ValueError("it ends before it starts")


class Group(pydantic.BaseModel):
    people: list[Span]
    total: Annotated[int, pydantic.Field(ge=0)] = 0

    @pydantic.field_validator("total")
    @classmethod
    def _is_even(cls, value):
        if value % 2:
            raise ValueError("odd")
        return value


@attrs.define
class Team:
    people: list[Person]
    by_name: dict[str, Person] = attrs.field(factory=dict)
    group: Group | None = None
    spans: tuple[Span, ...] = ()


def problems_of(type_, answer):
    with pytest.raises(RevosValidationError) as caught:
        target_of(type_).read(answer)
    assert all(problem.message in str(caught.value) for problem in caught.value.problems)
    assert all(problem.path in str(caught.value) for problem in caught.value.problems)
    return [(problem.path, problem.message) for problem in caught.value.problems]


def paths_of(type_, answer):
    return [path for path, _ in problems_of(type_, answer)]


def test_all_problems_are_told_each_with_its_path():
    answer = (
        '{"people": [{"name": "Ada", "age": "old"}, {"name": "x", "age": -1}, {"age": 1.5}, 7],'
        ' "by_name": {"a.b": {"name": 5, "age": null}},'
        ' "group": {"people": [{"start": 2, "end": 1}, {"start": "x"}], "total": 3},'
        ' "spans": [{"start": 2, "end": 1}]}'
    )

    assert paths_of(Team, answer) == [
        "people.0.age",
        "people.1.name",
        "people.1.age",
        "people.2.name",
        "people.2.age",
        "people.3",
        "by_name.a.b.name",
        "by_name.a.b.age",
        "group.people.0",
        "group.people.1.start",
        "group.people.1.end",
        "group.total",
        "spans.0",
    ]


@pytest.mark.parametrize(
    ("type_", "answer", "problem"),
    [
        (Person, '{"name": "ada lovelace", "age": 1}', ("name", "'ada lovelace' is no name")),
        (Person, '{"name": "Ada", "age": -1}', ("age", "'age' must be >= 0: -1")),
        (Span, '{"start": 2, "end": 1}', ("", "it ends before it starts")),
        (list[Span], '[{"start": 2, "end": 1}]', ("0", "it ends before it starts")),
        (Raising, '{"how": "type"}', ("", "no type")),
        (list[Raising], '[{"how": "assert"}]', ("0", "AssertionError")),
        (Raising, '{"how": "key"}', ("", "no 'k'")),
        (
            Couple,
            '{"one": {"name": "Ada", "age": 1}, "other": {"name": "Ada", "age": 1}}',
            ("", "the same person twice"),
        ),
    ],
)
def test_what_a_class_raises_is_a_problem_at_its_place(type_, answer, problem):
    ((path, message),) = problems_of(type_, answer)

    assert path == problem[0]
    assert message.removeprefix("Value error, ") == problem[1]


def test_a_field_that_is_left_out_is_told_by_its_name_in_json():
    assert problems_of(Person, "{}") == [("name", "Field required"), ("age", "Field required")]
    assert paths_of(Person, '{"name": "Ada", "age": 1, "code": "x"}') == ["code"]


@attrs.define
class Cat:
    kind: Literal["cat"]
    lives: int


@attrs.define
class Dog:
    kind: Literal["dog"]
    age: int


class Cow(pydantic.BaseModel):
    kind: Literal["cow"] = "cow"
    litres: int


@pytest.mark.parametrize(
    ("type_", "answer", "paths"),
    [
        (list[Cat | Dog], '[{"kind": "dog", "age": "x"}]', ["0.age"]),
        (list[Cat | Dog | Cow], '[{"kind": "cow", "litres": "x"}]', ["0.litres"]),
        (list[Cat | Dog], '[{"kind": "mouse"}]', ["0.kind", "0.kind"]),
        (Cat | None, '{"kind": "cat", "lives": "x"}', ["lives"]),
        (Cat | int, '{"kind": "cat", "lives": "x"}', ["lives"]),
        (int | list[int], '["x"]', ["0"]),
        (dict[str, Cat | list[Dog]], '{"a": [{"kind": "dog"}]}', ["a.0.age"]),
    ],
)
def test_of_a_union_only_the_member_that_was_meant_is_spoken_of(type_, answer, paths):
    assert paths_of(type_, answer) == paths


@pytest.mark.parametrize(
    ("type_", "answer"),
    [
        (int, '"x"'),
        (int, "1.5"),
        (bool, '"perhaps"'),
        (str, "5"),
        (list[str], '"abc"'),
        (Person, '"abc"'),
        (Person, "[]"),
        (dict[str, int], "[]"),
        (tuple[int, str], "[1]"),
        (Annotated[int, pydantic.Field(gt=5)], "5"),
        (Annotated[list[Span], pydantic.Field(min_length=1)], "[]"),
    ],
)
def test_nothing_is_forced_into_a_type(type_, answer):
    assert len(problems_of(type_, answer)) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ('{"a": 1} more', "no JSON"),
        ("{'a': 1}", "no JSON"),
        ("NaN", "NaN is no JSON"),
        ("[-Infinity]", "-Infinity is no JSON"),
        ("1e999", "too large"),
        ("9" * 5000, "too long"),
        ('"\\ud800"', "surrogate"),
        ('{"\\udfff": 1}', "surrogate"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
@pytest.mark.parametrize("type_", [Person, pydantic.JsonValue, list[Person] | int])
def test_a_text_that_is_no_answer_is_one_problem(type_, text, words):
    with pytest.raises(RevosValidationError) as caught:
        target_of(type_).read(text)

    assert words in caught.value.problems[0].message
    assert caught.value.raw == text


@attrs.define
class Nest:
    nests: list[Nest]


@pytest.mark.parametrize("depth", [300, 900, 5000])
def test_a_value_that_is_nested_too_deeply_is_one_problem(depth):
    problem = ("", "nested too deeply")

    assert problems_of(pydantic.JsonValue, "[" * depth + "]" * depth) == [problem]
    assert problems_of(Nest, '{"nests":[' * depth + "]}" * depth) == [problem]


def test_the_error_tells_what_was_asked_for():
    target = target_of(Span)

    with pytest.raises(RevosValidationError, match="does not fit Span: start: Field req") as caught:
        target.read('{"end": 1}')

    assert caught.value.raw == '{"end": 1}'
    assert caught.value.target is Span
    assert caught.value.problems == (Problem("start", "Field required"),)


def test_no_answer_at_all_does_not_fit():
    with pytest.raises(RevosValidationError, match="gave no answer to fit Span"):
        target_of(Span).read(None)
