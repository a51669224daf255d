"""Any nested type survives: its schema is sent, a model answers, the same instance comes back."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import typing
import uuid

import attrs
import pydantic
import pytest
from attrs import frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai_rules import faults

from revos.errors import RevosValidationError
from revos.extraction.targets import target_of


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


@frozen
class Shape:
    """A type with a strategy for pairs: an instance, and the JSON that a model gives for it."""

    type: typing.Any
    pairs: typing.Any
    takes_null: bool = False


def _leaf(type_, values, to_json=lambda value: value):
    return Shape(type_, values.map(lambda value: (value, to_json(value))))


TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
LEAVES = [
    _leaf(int, st.integers()),
    _leaf(str, TEXT),
    _leaf(bool, st.booleans()),
    _leaf(float, st.floats(allow_nan=False, allow_infinity=False)),
    _leaf(dt.date, st.dates(), str),
    _leaf(dt.timedelta, st.just(dt.timedelta(hours=3)), lambda _: "PT3H"),
    _leaf(uuid.UUID, st.uuids(), str),
    _leaf(decimal.Decimal, st.decimals(allow_nan=False, allow_infinity=False, places=2), str),
    _leaf(Mood, st.sampled_from(Mood), lambda mood: mood.value),
    _leaf(typing.Literal["a", 2], st.sampled_from(["a", 2])),
    _leaf(frozenset[int], st.frozensets(st.integers()), list),
    _leaf(typing.Annotated[int, pydantic.Field(ge=0), "how many"], st.integers(0)),
]


def _list(inner):
    pairs = st.lists(inner.pairs, max_size=2)
    return Shape(list[inner.type], pairs.map(lambda ps: ([p[0] for p in ps], [p[1] for p in ps])))


def _dict(inner):
    pairs = st.dictionaries(TEXT, inner.pairs, max_size=2)
    return Shape(
        dict[str, inner.type],
        pairs.map(lambda ps: ({k: p[0] for k, p in ps.items()}, {k: p[1] for k, p in ps.items()})),
    )


def _pair(inner):
    pairs = st.tuples(st.integers(), inner.pairs)
    return Shape(tuple[int, inner.type], pairs.map(lambda p: ((p[0], p[1][0]), [p[0], p[1][1]])))


def _optional(inner):
    pairs = st.one_of(st.just((None, None)), inner.pairs)
    return Shape(typing.Optional[inner.type], pairs, takes_null=True)  # noqa: UP045 - at run time


@frozen
class Part:
    """A field: required where it has no default."""

    name: str
    shape: Shape
    default: tuple[typing.Any, ...] = ()


def _with_attrs(parts):
    fields = {
        part.name: attrs.field(
            type=part.shape.type,
            **({"factory": _giving(part)} if part.default else {}),
            kw_only=True,
        )
        for part in parts
    }
    return attrs.make_class("Made", fields), lambda cls, values: cls(**values)


def _with_dataclasses(parts):
    fields = [
        (
            part.name,
            part.shape.type,
            dataclasses.field(
                **({"default_factory": _giving(part)} if part.default else {}), kw_only=True
            ),
        )
        for part in parts
    ]
    return dataclasses.make_dataclass("Made", fields), lambda cls, values: cls(**values)


def _with_pydantic(parts):
    fields = {
        part.name: (
            part.shape.type,
            pydantic.Field(**({"default_factory": _giving(part)} if part.default else {})),
        )
        for part in parts
    }
    return pydantic.create_model("Made", **fields), lambda cls, values: cls(**values)


def _with_typed_dict(parts):
    fields = {
        part.name: typing.NotRequired[part.shape.type] if part.default else part.shape.type
        for part in parts
    }
    return typing.TypedDict("Made", fields), lambda cls, values: values


def _with_named_tuple(parts):
    parts = sorted(parts, key=lambda part: bool(part.default))
    cls = typing.NamedTuple("Made", [(part.name, part.shape.type) for part in parts])
    defaults = {part.name: part.default[0] for part in parts if part.default}
    # What the class statement does with defaults.
    cls.__new__.__defaults__ = tuple(defaults.values())
    cls._field_defaults = defaults
    return cls, lambda cls, values: cls(**values)


def _giving(part):
    return lambda: part.default[0]


MAKERS = [_with_attrs, _with_dataclasses, _with_typed_dict, _with_named_tuple]


@st.composite
def classes(draw, inner, makers):
    """A class of some kind, whose optional fields a model may answer with null."""
    parts = []
    for name in draw(st.lists(st.sampled_from("abcde"), unique=True, min_size=1, max_size=4)):
        shape = draw(inner)
        default = (draw(shape.pairs)[0],) if draw(st.booleans()) else ()
        parts.append(Part(name, shape, default))
    cls, make = draw(st.sampled_from(makers))(parts)

    @st.composite
    def pairs(draw):
        values, answer = {}, {}
        for part in parts:
            left_out = part.default and not part.shape.takes_null and draw(st.booleans())
            value, answered = (None, None) if left_out else draw(part.shape.pairs)
            answer[part.name] = answered
            values |= {} if left_out else {part.name: value}
        return make(cls, values), answer

    return Shape(cls, pairs())


def shapes(makers):
    return st.recursive(
        st.sampled_from(LEAVES),
        lambda inner: st.one_of(
            inner.map(_list),
            inner.map(_dict),
            inner.map(_pair),
            inner.filter(lambda shape: not shape.takes_null).map(_optional),
            classes(inner, makers),
        ),
        max_leaves=6,
    )


ANY_SHAPE = st.one_of(
    classes(shapes([_with_pydantic]), [_with_pydantic]),
    classes(shapes([*MAKERS]), [*MAKERS]),
    classes(st.one_of(shapes([_with_pydantic]), shapes(MAKERS)), MAKERS),
    shapes(MAKERS),
)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(shape=ANY_SHAPE, data=st.data())
def test_any_nested_type_survives(shape, data):
    target = target_of(shape.type)
    instance, answer = data.draw(shape.pairs)

    read = target.read(json.dumps(answer))

    assert read == instance
    assert type(read) is type(instance)
    assert faults(target.schema) == [] or not target.strict


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(shape=ANY_SHAPE, data=st.data())
def test_any_nested_type_survives_in_the_object_that_is_sent(shape, data):
    target = target_of(list[shape.type])
    instance, answer = data.draw(shape.pairs)
    sent = json.dumps({"value": [answer, answer]})

    assert target.read(sent) == [instance, instance]
    assert target.unwrapped(json.loads(sent)) == [answer, answer]


async def _extract(ex, target):
    return await ex.extract(target, "{text}", text="x")


async def _extract_stream(ex, target):
    async with ex.extract_stream(target, "{text}", text="x") as parts:
        async for _ in parts:
            pass
    return parts.value


@pytest.mark.parametrize("strategy", ["json_schema", "tools", "json_text"])
@pytest.mark.parametrize("extract", [_extract, _extract_stream], ids=["whole", "stream"])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=ANY_SHAPE.flatmap(lambda shape: st.tuples(st.just(shape.type), shape.pairs)))
async def test_any_nested_type_survives_the_way_to_a_gateway_and_back(
    tm, revos_gateway, strategy, extract, drawn
):
    target, (instance, answer) = drawn
    is_wrapped = target_of(target).unwrapped({"value": None}) is None
    revos_gateway.chat_script.append(json.dumps({"value": answer} if is_wrapped else answer))

    async with tm.extractor("gpt-4", strategy=strategy, repairs=0) as ex:
        extracted = await extract(ex, target)

    assert extracted == instance
    assert type(extracted) is type(instance)


TAGGED = [
    attrs.make_class(
        "One", {"kind": attrs.field(type=typing.Literal["one"]), "size": attrs.field(type=int)}
    ),
    attrs.make_class(
        "Two", {"kind": attrs.field(type=typing.Literal["two"]), "size": attrs.field(type=int)}
    ),
]


@settings(max_examples=30, deadline=None)
@given(order=st.permutations([0, 1]), picked=st.integers(0, 1), size=st.integers())
def test_the_member_with_the_tag_is_chosen_in_any_order(order, picked, size):
    union = TAGGED[order[0]] | TAGGED[order[1]]
    member = TAGGED[picked]
    kind = member.__name__.lower()

    read = target_of(union).read(json.dumps({"value": {"kind": kind, "size": size}}))

    assert read == member(kind, size)


@settings(max_examples=60, deadline=None)
@given(text=st.one_of(st.text(), st.binary().map(repr), st.sampled_from(['{"', "[[", "1e400"])))
def test_no_text_makes_another_error(text):
    with pytest.raises(RevosValidationError):
        target_of(TAGGED[0]).read(text)
