"""The targets that were asked for of late: the schema of each is built once."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

if TYPE_CHECKING:
    from revos.extraction.targets import Target

__all__ = ["KeptTargets"]

# Some make a new type for each call, as one with the ids of the day: those are not kept for ever.
MOST = 256


@frozen
class _Wanted:
    key: Hashable
    type: Any = field(eq=False)


@frozen
class _Schema:
    text: str


class KeptTargets:
    """By type; a JSON schema by what stands in it now, and another target without a hash, as
    `Annotated[int, {}]`, by the object that it is.
    """

    def __init__(self) -> None:
        self._built = lru_cache(MOST)(_build)

    def target_of(self, type_: Any) -> Target:
        """The target for a type, or for a JSON schema.

        :raises RevosInputError: it has no JSON schema
        """
        return self._built(_Wanted(_key_of(type_), type_))


def _build(wanted: _Wanted) -> Target:
    from revos.extraction.targets import target_of

    if isinstance(wanted.key, _Schema):  # A copy: the caller may go on with the other.
        return target_of(json.loads(wanted.key.text))
    return target_of(wanted.type)


def _key_of(type_: Any) -> Hashable:
    if isinstance(type_, Mapping):
        from revos.extraction.json_schemas import as_text

        with suppress(TypeError, ValueError, RecursionError):  # As it can't be, it is told later.
            return _Schema(as_text(type_))
    try:
        hash(type_)
        # In its spelling, too: `A | B` equals `B | A`, and the first that fits is the answer.
        return repr(type_), type_
    except Exception:  # noqa: BLE001 - of whatever it is; that it is no type is told later
        return id(type_)
