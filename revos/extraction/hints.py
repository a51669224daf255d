"""The annotations of a class as types: forward references resolved, type variables put in.

Each annotation is read where it was written, in the module of the base class that has it, so a
subclass elsewhere and a type variable of the same name do no harm. Pure.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar, get_args, get_origin

__all__ = ["NoSchemaError", "class_of", "hints_of", "substituted", "value_of"]

Bindings = Mapping[Any, Any]


class NoSchemaError(Exception):
    """A type has no JSON schema: the text says which and why."""


def class_of(type_: Any) -> Any:
    """The class behind a type: `Box` for `Box[int]`, and the class itself for a class."""
    return get_origin(type_) or type_


def substituted(hint: Any, bindings: Bindings) -> Any:
    """The hint with types in place of its type variables.

    >>> T = TypeVar("T")
    >>> substituted(list[T], {T: int})
    list[int]
    """
    if isinstance(hint, TypeVar):
        return bindings.get(hint, hint)
    parameters = () if isinstance(hint, type) else getattr(hint, "__parameters__", ())
    # An alias such as list[int] is no type to isinstance, but a type's own parameters are unbound.
    if not parameters or not any(parameter in bindings for parameter in parameters):
        return hint
    return hint[tuple(bindings.get(parameter, parameter) for parameter in parameters)]


def hints_of(type_: Any, names: typing.Iterable[str]) -> dict[str, Any]:
    """The types of these attributes; one that has no annotation is left out.

    :raises NoSchemaError: a forward reference leads nowhere
    """
    cls = class_of(type_)
    bindings = _bindings(type_)
    hints: dict[str, Any] = {}
    for name in names:
        for owner in _owners(cls):
            own = _annotations(owner)
            if name in own:
                hint = _resolved(cls, owner, name, own[name])
                hints[name] = substituted(hint, bindings.get(owner, {}))
                break
    return hints


def value_of(alias: Any) -> Any:
    """What a `type` alias stands for.

    :raises NoSchemaError: a forward reference leads nowhere
    """
    bare = class_of(alias)
    try:
        value = _resolved(bare, bare, "its value", bare.__value__)
    except NameError as error:
        raise NoSchemaError(f"{bare.__name__}: {error}") from error
    return substituted(value, dict(zip(bare.__type_params__, get_args(alias), strict=False)))


def _owners(cls: Any) -> Iterator[Any]:
    """Who may have the annotation, the nearest first. A TypedDict has those of its bases itself,
    though their type variables are the bases' own.
    """
    for base in getattr(cls, "__orig_bases__", ()) if typing.is_typeddict(cls) else ():
        if typing.is_typeddict(class_of(base)):
            yield from _owners(class_of(base))
    yield from cls.__mro__


def _annotations(owner: Any) -> Mapping[str, Any]:
    try:
        return inspect.get_annotations(owner)
    except NameError as error:  # From Python 3.14 on they are evaluated now.
        raise NoSchemaError(f"{owner.__name__}: {error}") from error


def _resolved(cls: Any, owner: Any, name: str, annotation: Any) -> Any:
    known = {parameter.__name__: parameter for parameter in getattr(owner, "__type_params__", ())}
    known |= {owner.__name__: owner, cls.__name__: cls}
    namespace = {"__annotations__": {name: annotation}, "__module__": owner.__module__}
    stand_in = type(owner.__name__, (), namespace)
    try:
        try:
            return typing.get_type_hints(stand_in, localns=known, include_extras=True)[name]
        except NameError:
            known = _names_around(owner.__module__) | known
            return typing.get_type_hints(stand_in, localns=known, include_extras=True)[name]
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise NoSchemaError(f"{cls.__name__}.{name}: {error}") from error


def _names_around(module: str) -> dict[str, Any]:
    """What code of that module sees that is running now: a class inside a function is known nowhere
    else, nor is one of a program that is no module.
    """
    names: dict[str, Any] = {}
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == module:
            names = {**frame.f_globals, **frame.f_locals, **names}
        frame = frame.f_back
    return names


def _bindings(type_: Any) -> dict[Any, Bindings]:
    """What the type variables of a class and of each of its bases stand for."""
    cls = class_of(type_)
    own = dict(zip(getattr(cls, "__parameters__", ()), get_args(type_), strict=False))
    found: dict[Any, Bindings] = {cls: own}
    for base in getattr(cls, "__orig_bases__", ()):
        if get_origin(base) not in {None, Generic, Protocol}:
            found = _bindings(substituted(base, own)) | found
    return found
