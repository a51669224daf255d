"""A target: what may be asked for, and the instance that an answer becomes."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import json
import typing
import uuid
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar

import annotated_types
import attr
import attrs
import pydantic
import pytest
import typing_extensions
from openai_rules import faults

from revos.extraction.targets import target_of

T = TypeVar("T")


@attrs.define
class Person:
    """A person."""

    name: str
    age: int
    nicknames: list[str] = attrs.field(factory=list)
    _id: int = attrs.field(default=7, alias="number")
    known: bool = attrs.field(default=True, init=False)


@attr.s
class Old:
    size = attr.ib(type=int)
    name = attr.ib(default="none", converter=str)


@attrs.frozen(kw_only=True)
class Base:
    root: int = 1


@attrs.frozen
class Derived(Base):
    leaf: str


@attrs.define
class Box(Generic[T]):
    item: T
    more: list[T] = attrs.Factory(list)


@attrs.define
class IntBox(Box[int]):
    label: str = ""


@attrs.define
class Pair(Box[str], Generic[T]):
    other: T | None = None


@attrs.define
class Tree:
    value: int
    children: list[Tree] = attrs.Factory(list)
    parent: Annotated[Tree | None, "the one above"] = None


def _day(text: str) -> dt.date:
    return dt.date.fromisoformat(text)


@attrs.define
class Event:
    day: dt.date = attrs.field(converter=_day)
    hours: float = attrs.field(converter=float, default=1)


class Mood(enum.StrEnum):
    GOOD = "good"
    BAD = "bad"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Account:
    owner: Person
    scale: dataclasses.InitVar[int]
    kind: typing.ClassVar[str] = "plain"
    tags: set[str] = dataclasses.field(default_factory=set)
    total: int = dataclasses.field(init=False, default=0)

    def __post_init__(self, scale):
        self.total = scale * 10


@pydantic.dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Model(pydantic.BaseModel):
    first: str = pydantic.Field(alias="firstName")
    at: Point | None = None


class Many(pydantic.RootModel[list[int]]):
    pass


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]
    next: int | None = None


class Options(typing.TypedDict, total=False):
    model: typing.Required[Annotated[Model, ..., "The model"]]
    people: list[Person]


class Late(typing_extensions.TypedDict):
    name: str
    nick: typing.NotRequired[str]


class Place(typing.NamedTuple):
    name: str
    at: Point = Point(x=1)


UserId = NewType("UserId", int)
Alias = typing_extensions.TypeAliasType("Alias", "list[Person] | None")
Listed = typing_extensions.TypeAliasType("Listed", list[T], type_params=(T,))

ADA = Person("Ada", 36)
ADA_JSON = {"name": "Ada", "age": 36, "nicknames": None, "number": None}


CASES = [
    (Person, ADA_JSON, ADA),
    (Person, {**ADA_JSON, "nicknames": ["A"], "number": 3}, Person("Ada", 36, ["A"], 3)),
    (Person, {"name": "Ada", "age": "36", "more": 1}, ADA),
    (Old, {"size": 3, "name": None}, Old(3)),
    (Derived, {"leaf": "a", "root": None}, Derived("a")),
    (Box[int], {"item": 1, "more": [2]}, Box(1, [2])),
    (Box[Person], {"item": ADA_JSON, "more": None}, Box(ADA)),
    (IntBox, {"item": "1", "more": ["2"], "label": None}, IntBox(1, [2])),
    (Pair[Person], {"item": "a", "more": None, "other": ADA_JSON}, Pair("a", [], ADA)),
    (Tree, {"value": 1, "children": [{"value": 2}], "parent": None}, Tree(1, [Tree(2)])),
    (Event, {"day": "2024-05-01", "hours": "2"}, Event("2024-05-01", 2)),
    (Account, {"owner": ADA_JSON, "scale": 2, "tags": ["a"]}, Account(ADA, 2, {"a"})),
    (Point, {"x": 1, "y": None}, Point(x=1)),
    (Model, {"firstName": "Ada", "at": {"x": 1, "y": None}}, Model(firstName="Ada", at=Point(x=1))),
    (Many, [1, 2], Many([1, 2])),
    (Page[int], {"items": [1], "next": None}, Page[int](items=[1])),
    (Page[Many], {"items": [[1]], "next": None}, Page[Many](items=[Many([1])])),
    (
        Options,
        {"model": {"firstName": "A", "at": None}, "people": [ADA_JSON]},
        {"model": Model(firstName="A"), "people": [ADA]},
    ),
    (Options, {"model": {"firstName": "A"}, "people": None}, {"model": Model(firstName="A")}),
    (Late, {"name": "Ada", "nick": None}, {"name": "Ada"}),
    (Place, {"name": "London", "at": None}, Place("London")),
    (list[Person], [ADA_JSON, ADA_JSON], [ADA, ADA]),
    (collections.abc.Iterable[Person], [ADA_JSON], [ADA]),
    (collections.abc.Sequence[Person], [ADA_JSON], [ADA]),
    (dict[str, Person], {"a": ADA_JSON}, {"a": ADA}),
    (collections.abc.Mapping[str, list[Place]], {"a": [{"name": "b"}]}, {"a": [Place("b")]}),
    (tuple[Person, int], [ADA_JSON, 3], (ADA, 3)),
    (tuple[Derived, ...], [{"leaf": "a"}], (Derived("a"),)),
    (set[Derived], [{"leaf": "a", "root": None}, {"leaf": "a"}], {Derived("a")}),
    (Person | None, None, None),
    (Person | int, ADA_JSON, ADA),
    (Person | int, 3, 3),
    (int | None, 5, 5),
    (Literal["a", 1], 1, 1),
    (Mood, "good", Mood.GOOD),
    (Level, 2, Level.HIGH),
    (UserId, 5, 5),
    (Alias, [ADA_JSON], [ADA]),
    (Listed[Person], [ADA_JSON], [ADA]),
    (Annotated[list[Person], annotated_types.Len(1), "All people"], [ADA_JSON], [ADA]),
    (dt.datetime, "2024-05-01T12:00:00", dt.datetime(2024, 5, 1, 12)),  # noqa: DTZ001
    (dt.timedelta, "PT1H", dt.timedelta(hours=1)),
    (decimal.Decimal, 19.99, decimal.Decimal("19.99")),
    (uuid.UUID, "00000000-0000-0000-0000-000000000001", uuid.UUID(int=1)),
    (bytes, "abc", b"abc"),
    (bool, "false", False),
    (Any, {"a": [None]}, {"a": [None]}),
]


@pytest.mark.parametrize(("type_", "answer", "instance"), CASES)
def test_the_answer_becomes_an_instance(type_, answer, instance):
    read = target_of(type_).read(json.dumps(answer))

    assert read == instance
    assert type(read) is type(instance)


@pytest.mark.parametrize("type_", [case[0] for case in CASES])
def test_what_is_sent_is_an_object_by_the_rules_of_strict_mode_where_it_says_so(type_):
    target = target_of(type_)

    assert target.schema["type"] == "object"
    assert json.loads(json.dumps(target.schema)) == target.schema
    assert not target.strict or faults(target.schema) == []


@pytest.mark.parametrize(
    "type_", [dict[str, Person], collections.abc.Mapping[str, list[Place]], Any, dict, list]
)
def test_what_is_free_is_not_strict(type_):
    assert target_of(type_).strict is False


@pytest.mark.parametrize("type_", [Person, Account, Tree, Model, list[Person], Options, Mood])
def test_what_has_named_parts_is_strict(type_):
    assert target_of(type_).strict is True


def test_a_field_that_is_not_given_to_init_is_not_asked_for():
    assert list(target_of(Person).schema["properties"]) == ["name", "age", "nicknames", "number"]
    assert list(target_of(Account).schema["properties"]) == ["owner", "scale", "tags"]


@pytest.mark.parametrize(
    ("type_", "name"),
    [
        (Person, "Person"),
        (list[Person], "list_Person"),
        (Box[int], "Box_int"),
        (int | None, "int_None"),
        (Annotated[list[Person], "All"], "list_Person"),
        (Literal["é", "…"], "Literal"),
        (pydantic.create_model("Größe" * 30, x=(int, 1)), ("Gr_e" * 16)[:64]),
        (pydantic.create_model("人", x=(int, 1)), "answer"),
    ],
)
def test_the_name_is_one_that_gateways_take(type_, name):
    assert target_of(type_).name == name


@attrs.define
class Described:
    a: Annotated[int, "by a text"]
    b: Annotated[int, pydantic.Field(description="by pydantic")]
    c: int = attrs.field(metadata={"description": "by metadata"})
    d: Annotated[int, typing_extensions.Doc("by a Doc")]
    e: Annotated[list[Annotated[int, "each"]], ..., "as LangChain's users write"]


def test_descriptions_are_sent_wherever_they_were_written():
    properties = target_of(Described).schema["properties"]

    assert {name: part["description"] for name, part in properties.items()} == {
        "a": "by a text",
        "b": "by pydantic",
        "c": "by metadata",
        "d": "by a Doc",
        "e": "as LangChain's users write",
    }
    assert properties["e"]["items"]["description"] == "each"


def test_a_dataclass_describes_its_fields_by_their_metadata():
    field = dataclasses.field(metadata={"description": "how many"})
    cls = dataclasses.make_dataclass("Counted", [("count", int, field)])

    assert target_of(cls).schema["properties"]["count"]["description"] == "how many"


@pytest.mark.parametrize(
    ("type_", "description"),
    [
        (Person, "A person."),
        (Account, "Give a Account."),
        (Place, "Give a Place."),
        (Annotated[list[int], "All numbers"], "All numbers"),
    ],
)
def test_the_description_is_what_the_user_wrote(type_, description):
    assert target_of(type_).description == description


def test_a_class_that_refers_to_itself_inside_a_function_is_found():
    @attrs.define
    class Link:
        value: int
        after: Link | None = None

    target = target_of(Link)

    assert target.read('{"value": 1, "after": {"value": 2, "after": null}}') == Link(1, Link(2))


@attrs.define
class Chain:
    value: int
    links: list[typing.Self] = attrs.Factory(list)


def test_self_is_the_class_itself():
    read = target_of(Box[Chain]).read('{"item": {"value": 1, "links": [{"value": 2}]}}')

    assert read == Box(Chain(1, [Chain(2)]))


def test_classes_inside_a_function_may_refer_to_each_other():
    @attrs.define
    class Leaf:
        size: int

    @attrs.define
    class Branch:
        leaf: Leaf
        more: list[Branch] = attrs.Factory(list)

    read = target_of(Branch).read('{"leaf": {"size": 1}, "more": [{"leaf": {"size": 2}}]}')

    assert read == Branch(Leaf(1), [Branch(Leaf(2))])


def test_a_program_that_is_no_module_may_define_classes():
    program = """
from __future__ import annotations
from typing import Annotated
from attrs import define
from revos.extraction.targets import target_of

@define
class Offer:
    price: Annotated[int, "in cents"]

offers = target_of(list[Offer]).read('[{"price": 5}]')
"""
    names = {"__name__": "no_module_of_this_name"}

    exec(compile(program, "program", "exec", dont_inherit=True), names)

    assert names["offers"] == [names["Offer"](5)]


def test_two_classes_of_one_name_keep_their_own_schemas():
    one = attrs.make_class("Same", {"a": attrs.field(type=int)})
    two = attrs.make_class("Same", {"b": attrs.field(type=int)})

    read = target_of(tuple[one, two]).read('[{"a": 1}, {"b": 2}]')

    assert read == (one(1), two(2))


def test_a_part_of_an_answer_is_shown_without_its_wrapping():
    target = target_of(list[int])

    assert target.unwrapped({"value": [1]}) == [1]
    assert target.unwrapped({}) is None
    assert target.unwrapped([1]) == [1]
    assert target_of(Person).unwrapped({"value": 1}) == {"value": 1}


def test_an_answer_is_read_with_and_without_its_wrapping():
    holder = attrs.make_class("Holder", {"value": attrs.field(type=int)})
    target = target_of(holder | None)

    assert target.read('{"value": {"value": 1}}') == holder(1)
    assert target.read('{"value": 1}') == holder(1)
    assert target.read('{"value": null}') is None
    assert target.read("null") is None


def test_nothing_of_the_class_is_changed():
    before = dict(vars(Tree))

    target_of(Tree)

    assert dict(vars(Tree)) == before


Json = typing_extensions.TypeAliasType("Json", "dict[str, Json] | list[Json] | Place | int | None")


def test_an_alias_may_refer_to_itself():
    answer = {"a": [1, None, {"name": "London"}]}

    assert target_of(Json).read(json.dumps({"value": answer})) == {"a": [1, None, Place("London")]}
