"""What an instance is made of: the fields of attrs classes, dataclasses, TypedDicts, NamedTuples.

Such a class is a composite: it is validated field by field, and then made from the values. Classes
that bring a schema for pydantic (its models, its dataclasses, others) are none.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any, NotRequired, Required, get_origin

import attrs
import typing_extensions
from attrs import frozen
from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from revos.extraction.hints import NoSchemaError, class_of, hints_of

__all__ = ["NOTHING", "Member", "is_composite", "made", "make", "members_of"]

# No default that could stand in a schema.
NOTHING: Any = object()
_EMPTY: dict[Any, Any] = {list: [], set: [], frozenset: [], tuple: [], dict: {}}
_SCALARS = (str, int, float, bool, type(None))


@frozen
class Member:
    """One field.

    :ivar key: its name in JSON and as an argument
    :ivar type: what it takes
    :ivar default: as JSON, for the schema only; `NOTHING` where it has none or one that is no JSON
    :ivar check: raises ValueError for a value that the field does not take
    """

    key: str
    type: Any
    required: bool
    description: str | None = None
    default: Any = NOTHING
    check: Callable[[Any], Any] | None = None


def is_composite(type_: Any) -> bool:
    """Whether `members_of` knows it.

    >>> is_composite(typing.NamedTuple("Point", [("x", int)])), is_composite(int)
    (True, False)
    """
    cls = class_of(type_)
    if not isinstance(cls, type) or hasattr(cls, "__get_pydantic_core_schema__"):
        return False
    if hasattr(cls, "__pydantic_validator__"):
        return False
    return _is_record(cls) or attrs.has(cls) or dataclasses.is_dataclass(cls)


def members_of(type_: Any) -> list[Member]:
    """The fields that are given when an instance is made, in their order.

    :raises NoSchemaError: the type of a field is not to be found
    """
    cls = class_of(type_)
    if typing_extensions.is_typeddict(cls):
        return _typed_dict_members(type_)
    if _is_record(cls):
        return _named_tuple_members(type_)
    if attrs.has(cls):
        return _attrs_members(type_)
    return _dataclass_members(type_)


def make(type_: Any, values: dict[str, Any]) -> Any:
    """The instance with these values, which are valid each by itself.

    :raises ValueError: together they are not
    """
    cls = class_of(type_)
    if typing_extensions.is_typeddict(cls):
        return values
    return _told(lambda: cls(**values))


def _told(function: Callable[[], Any]) -> Any:
    """What the function gives; what it raises about its input as a ValueError."""
    try:
        return function()
    except (TypeError, ValueError, AssertionError, LookupError, ArithmeticError) as error:
        # attrs' own validators put objects behind the text.
        words = error.args[0] if error.args and isinstance(error.args[0], str) else error
        text = f"no {words!r}" if isinstance(error, KeyError) else str(words)
        raise ValueError(text or type(error).__name__) from error


def _is_record(cls: Any) -> bool:
    return typing_extensions.is_typeddict(cls) or (
        issubclass(cls, tuple) and isinstance(getattr(cls, "_fields", None), tuple)
    )


def _typed_dict_members(type_: Any) -> list[Member]:
    cls = class_of(type_)
    hints = hints_of(type_, cls.__annotations__)
    return [
        Member(key, hint, _is_required(hint, key in cls.__required_keys__))
        for key, hint in hints.items()
    ]


def _is_required(hint: Any, otherwise: bool) -> bool:
    """What the key's own annotation says; the class does not know where that was a string."""
    origin = get_origin(hint)
    while origin in {typing.Annotated, typing_extensions.ReadOnly}:
        hint = hint.__args__[0]
        origin = get_origin(hint)
    if origin in {Required, NotRequired}:
        return origin is Required
    return otherwise


def _named_tuple_members(type_: Any) -> list[Member]:
    cls = class_of(type_)
    hints = hints_of(type_, cls._fields)
    defaults = cls._field_defaults
    return [
        Member(
            key, hints.get(key, Any), key not in defaults, default=_json(defaults.get(key, NOTHING))
        )
        for key in cls._fields
    ]


def _dataclass_members(type_: Any) -> list[Member]:
    cls = class_of(type_)
    # The arguments that are no fields are there, too.
    fields = {name: f for name, f in cls.__dataclass_fields__.items() if f.init}
    hints = hints_of(type_, [name for name, f in fields.items() if "ClassVar" not in str(f.type)])
    given = {f.name for f in dataclasses.fields(cls)}
    members = []
    for name, hint in hints.items():
        field = fields[name]
        if name not in given and not isinstance(hint, dataclasses.InitVar):
            continue
        default, factory = field.default, field.default_factory
        members.append(
            Member(
                name,
                hint.type if isinstance(hint, dataclasses.InitVar) else hint,
                required=default is factory is dataclasses.MISSING,
                description=_description(field.metadata) or getattr(field, "doc", None),
                default=_json(default) if default is not dataclasses.MISSING else made(factory),
            )
        )
    return members


def _attrs_members(type_: Any) -> list[Member]:
    cls = class_of(type_)
    fields = [field for field in attrs.fields(cls) if field.init]
    hints = hints_of(type_, [field.name for field in fields])
    members = []
    for field in fields:
        hint = hints.get(field.name, field.type)
        if isinstance(hint, str):  # Given as an argument, so there is no annotation.
            raise NoSchemaError(f"{cls.__name__}.{field.name}: {hint!r} is the name of a type")
        default = field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # it is a class
            default = NOTHING if default.takes_self else made(default.factory)
        members.append(
            Member(
                str(field.alias),
                _input_type(field, hint),
                required=field.default is attrs.NOTHING,
                description=_description(field.metadata),
                default=_json(default),
                check=_check(cls, field),
            )
        )
    return members


def _input_type(field: attrs.Attribute[Any], hint: Any) -> Any:
    """What the field is given: what its converter takes, where that says so in JSON's terms."""
    converter: Any = getattr(field.converter, "converter", field.converter)
    if hint is None:
        return converter if converter in (str, int, float, bool) else Any
    if converter is None or isinstance(converter, type):
        return hint
    try:
        first = next(iter(inspect.signature(converter, eval_str=True).parameters.values()))
        TypeAdapter(first.annotation).json_schema()
    except (TypeError, ValueError, NameError, StopIteration, AttributeError, PydanticUserError):
        return hint
    return hint if first.annotation in (inspect.Parameter.empty, Any) else first.annotation


def _check(cls: Any, field: attrs.Attribute[Any]) -> Callable[[Any], Any] | None:
    """Runs the field's validator before there is an instance, so that each problem has its path.

    What needs more than the value is left to the instance's own making.
    """
    validator, converter = field.validator, field.converter
    if validator is None or isinstance(converter, attrs.Converter):
        return None

    def check(value: Any) -> Any:
        if attrs.validators.get_disabled():
            return value
        try:
            blank = object.__new__(cls)
            validator(blank, field, value if converter is None else converter(value))
        except AttributeError:
            return value
        return value

    return lambda value: _told(lambda: check(value))


def _description(metadata: Mapping[Any, Any]) -> str | None:
    words = metadata.get("description")
    return words if isinstance(words, str) else None


def made(factory: Any) -> Any:
    """What a factory of something empty makes, as JSON."""
    return _EMPTY.get(factory, NOTHING) if isinstance(factory, type) else NOTHING


def _json(default: Any) -> Any:
    """The default, where it is JSON, and short."""
    if default is attrs.NOTHING:  # An enum's member, too.
        return NOTHING
    if isinstance(default, enum.Enum):
        default = default.value
    if isinstance(default, float) and not math.isfinite(default):
        return NOTHING
    return default if isinstance(default, _SCALARS) or default in ([], {}) else NOTHING
