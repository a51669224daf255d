"""Any type as one that pydantic understands.

pydantic knows JSON schemas, coercions, constraints, unions and the path of each problem, but
neither attrs classes nor, before Python 3.12, `typing.TypedDict`. A composite is therefore replaced
by a surrogate, wherever it stands in an annotation: a class whose schema for pydantic is that of an
object with the composite's members, and whose validated values are made into an instance. A
surrogate refers to itself by name, so recursive types have an end. Surrogates belong to one
`Surrogates`, and that to one target: nothing is kept in the classes of users or in this module.
"""

from __future__ import annotations

import collections.abc
import re
import types
import typing
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NewType, TypeVar, Union, get_args, get_origin

import typing_extensions
from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler
from pydantic_core import core_schema

from revos.extraction.hints import class_of, value_of
from revos.extraction.members import NOTHING, Member, is_composite, make, members_of

__all__ = ["Surrogates", "display"]

CoreSchema = core_schema.CoreSchema
_ALIASES = (typing_extensions.TypeAliasType, getattr(typing, "TypeAliasType", ()))
# What says something of a place and nothing of its values.
_QUALIFIERS: frozenset[Any] = frozenset(
    {
        typing.ClassVar,
        typing.Final,
        typing.NotRequired,
        typing.Required,
        typing_extensions.ReadOnly,
        getattr(typing, "ReadOnly", typing.Final),
    }
)
# pydantic validates these while they are iterated, which is too late.
_LAZY = frozenset({collections.abc.Iterable, collections.abc.Iterator, collections.abc.Generator})

_UNTOUCHED: frozenset[Any] = frozenset({typing.Literal, collections.abc.Callable, type})


class Surrogates:
    """The surrogates of one target."""

    def __init__(self) -> None:
        self._by_type: dict[Any, type] = {}
        self._open: set[str] = set()
        # What `Self` means, while the members of a composite are looked at.
        self._owner: Any = Any

    def of(self, type_: Any) -> Any:
        """The type, with a surrogate in place of each composite in it."""
        if isinstance(type_, TypeVar | NewType):
            return self._of_stand_in(type_)
        if isinstance(class_of(type_), _ALIASES):
            return self._named(type_, lambda handler: handler(self.of(value_of(type_))))
        if type_ is typing_extensions.Self:
            return self.of(self._owner)
        if is_composite(type_):
            return self._named(type_, lambda handler: self._composite(type_, handler))
        return self._of_generic(type_, get_origin(type_), get_args(type_))

    def _of_stand_in(self, variable: TypeVar | NewType) -> Any:
        if isinstance(variable, NewType):
            return self.of(variable.__supertype__)
        if variable.__bound__ is not None:
            return self.of(variable.__bound__)
        if variable.__constraints__:
            return Union[tuple(self.of(one) for one in variable.__constraints__)]  # noqa: UP007
        return Any

    def _of_generic(self, type_: Any, origin: Any, args: tuple[Any, ...]) -> Any:
        if origin is Annotated:
            return _annotated(self.of(args[0]), args[1:])
        if origin in _QUALIFIERS:
            return self.of(args[0])
        if not args or origin in _UNTOUCHED:
            return type_
        if origin in {Union, types.UnionType}:
            # Where an answer fits several, the one without keys that are not given is meant.
            args = tuple(sorted(args, key=_size))
            return Union[self._members_of_union(args)]  # noqa: UP007 - it is a tuple
        inner = tuple(self.of(arg) for arg in args)
        if all(new is old for new, old in zip(inner, args, strict=True)) and origin not in _LAZY:
            return type_
        made: Any = list if origin in _LAZY else origin
        return made[inner[0] if origin in _LAZY else inner]

    def _members_of_union(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """A composite that takes anything, since nothing in it is required, leaves to the others
        what has their keys.
        """
        keys = {arg: _keys(arg) for arg in args if is_composite(arg)}
        inner = []
        for arg in args:
            made = self.of(arg)
            others = [names for other, names in keys.items() if other is not arg]
            if others and arg in keys and not any(one.required for one in members_of(arg)):
                made = Annotated[made, BeforeValidator(partial(_own, keys[arg], others))]
            inner.append(made)
        return tuple(inner)

    def _named(self, type_: Any, schema_of: Callable[[Any], CoreSchema]) -> type:
        if type_ in self._by_type:
            return self._by_type[type_]
        name = display(type_)
        reference = f"{getattr(class_of(type_), '__module__', '')}.{name}:{len(self._by_type)}"
        is_open = self._open

        def get_schema(_: type, __: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
            if reference in is_open:
                return core_schema.definition_reference_schema(reference)
            is_open.add(reference)
            try:
                schema = schema_of(handler.generate_schema)
            finally:
                is_open.discard(reference)
            if schema["type"] == "definition-ref":  # Of an alias for something that has a name.
                return schema
            return {**schema, "ref": reference}

        body: dict[str, Any] = {
            "__get_pydantic_core_schema__": classmethod(get_schema),
            "__doc__": _documentation(type_),
            "__module__": __name__,
        }
        surrogate = self._by_type[type_] = type(name, (), body)
        return surrogate

    def _composite(self, type_: Any, generate: Callable[[Any], CoreSchema]) -> CoreSchema:
        fields = {}
        for member in members_of(type_):
            self._owner = type_
            schema = generate(self._member(member))
            fields[member.key] = core_schema.typed_dict_field(schema, required=member.required)
        surrogate = self._by_type[type_]
        values = core_schema.typed_dict_schema(
            fields, cls=surrogate, cls_name=surrogate.__name__, extra_behavior="ignore"
        )
        return core_schema.no_info_after_validator_function(
            lambda valid: make(type_, valid), values
        )

    def _member(self, member: Member) -> Any:
        type_ = self.of(member.type)
        if member.check is not None:
            type_ = Annotated[type_, AfterValidator(member.check)]
        if member.default is not NOTHING:
            type_ = Annotated[type_, Field(json_schema_extra={"default": member.default})]
        if member.description:
            type_ = Annotated[type_, Field(description=member.description)]
        return type_


def display(type_: Any) -> str:
    """The type as its user writes it, without the names of modules.

    >>> from decimal import Decimal
    >>> display(Decimal), display(dict[str, Decimal | None])
    ('Decimal', 'dict[str, Decimal | None]')
    """
    if get_origin(type_) is Annotated:
        return display(get_args(type_)[0])
    if isinstance(type_, type) and get_origin(type_) is None:
        return type_.__name__
    return re.sub(r"\w[\w.]*\.(?:<locals>\.)?(?=\w)|<locals>\.", "", repr(type_))


def _size(type_: Any) -> int:
    return len(members_of(type_)) if is_composite(type_) else 0


def _keys(type_: Any) -> set[str]:
    return {member.key for member in members_of(type_)}


def _own(keys: set[str], others: list[set[str]], value: Any) -> Any:
    """The value, if none of the others knows more of its keys."""
    if isinstance(value, dict):
        unknown = len(value.keys() - keys)
        if any(len(value.keys() - other) < unknown for other in others):
            raise ValueError("the keys are those of another member of the union")
    return value


def _annotated(inner: Any, metadata: tuple[Any, ...]) -> Any:
    """With what pydantic knows; a bare text is a description, and so is a `Doc`."""
    for one in metadata:
        words = one if isinstance(one, str) else getattr(one, "documentation", None)
        if isinstance(words, str):
            inner = Annotated[inner, Field(description=words)]
        elif one is not ... and one is not None:
            inner = Annotated[inner, one]
    return inner


def _documentation(type_: Any) -> str | None:
    """What the user wrote; without it, dataclasses and NamedTuples have their signature there."""
    cls = class_of(type_)
    words = cls.__dict__.get("__doc__") if isinstance(cls, type) else None
    return None if words is None or words.startswith(f"{cls.__name__}(") else words
