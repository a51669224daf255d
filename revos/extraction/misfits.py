"""pydantic's problems as ours: at their place in the answer, and those that matter.

For a value that fits no member of a union pydantic tells the problems of each member. Where the
value's tag or shape says which member was meant, those of the others are left out. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pydantic
from attrs import frozen

from revos.errors import Problem

__all__ = ["problems_of"]

Place = tuple[int | str, ...]


@frozen
class _Detail:
    """One problem; in `choices` each union on the way, as its place and the member's name."""

    path: Place
    choices: tuple[tuple[Place, int | str], ...]
    message: str
    kind: str


def problems_of(error: pydantic.ValidationError, value: Any) -> list[Problem]:
    """The problems of a value, each once."""
    told = error.errors(include_url=False, include_input=False, include_context=False)
    details = _meant([_detail(one["loc"], value, one["type"], one["msg"]) for one in told])
    found = [Problem(".".join(map(str, one.path)), one.message) for one in details]
    return list(dict.fromkeys(found))


def _detail(places: Place, value: Any, kind: str, message: str) -> _Detail:
    """Told where in the answer: a location also has names, which are those of unions' members."""
    path: Place = ()
    choices: list[tuple[Place, int | str]] = []
    for number, place in enumerate(places):
        is_item = isinstance(value, list) and isinstance(place, int) and place < len(value)
        if is_item or (isinstance(value, dict) and place in value):
            value = value[place]
        elif kind != "missing" or number < len(places) - 1:
            choices.append((path, place))
            continue
        path = (*path, place)
    if kind == "json_invalid" and "recursion limit" in message:  # Which is lower than ours.
        message = "nested too deeply"
    return _Detail(path, tuple(choices), message, kind)


def _meant(details: list[_Detail]) -> list[_Detail]:
    """Without the problems of members that were not meant, union by union."""
    unions = dict.fromkeys(place for one in details for place, _ in one.choices)
    for place in sorted(unions, key=len):
        groups: dict[Any, list[_Detail]] = {}
        for one in details:
            name = dict(one.choices).get(place)
            if name is not None:
                groups.setdefault(name, []).append(one)
        dropped = _not_meant(place, list(groups.values()))
        details = [one for one in details if one not in dropped]
    return details


def _not_meant(place: Place, groups: Sequence[list[_Detail]]) -> list[_Detail]:
    inside = [group for group in groups if any(len(one.path) > len(place) for one in group)]
    if inside:  # The others failed at the value as a whole: it has another shape.
        outside = [one for group in groups if group not in inside for one in group]
    else:
        return []
    untagged = [group for group in inside if not _tag_problems(place, group)]
    if untagged:
        tagged = [one for group in inside if group not in untagged for one in group]
        return outside + tagged
    tags = [one for group in inside for one in _tag_problems(place, group)]
    return outside + [one for group in inside for one in group if one not in tags]


def _tag_problems(place: Place, group: list[_Detail]) -> list[_Detail]:
    return [one for one in group if one.kind == "literal_error" and len(one.path) == len(place) + 1]
