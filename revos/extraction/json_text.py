"""JSON in what a model says: in fences, in prose, after its thoughts. Nothing is ever evaluated.

What stands inside of a value that is not well-formed is never taken for the answer: of an object
with one comma too many, an inner one may fit the target as well, and be somebody else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

__all__ = ["json_values", "known_so_far"]

_THINKING = r"(?:think(?:ing)?|thoughts?|reasoning|reflection)"
_THOUGHTS = re.compile(
    rf"<{_THINKING}>.*?</{_THINKING}>|\[{_THINKING}\].*?\[/{_THINKING}\]", re.DOTALL | re.IGNORECASE
)
_UNFINISHED_THOUGHT = re.compile(rf"<{_THINKING}>|\[{_THINKING}\]", re.IGNORECASE)
# Some chat templates put the opening tag into the prompt, so that only the closing one is said; and
# some gateways hand on the channels of gpt-oss, of which the last is the answer.
_END_OF_THOUGHTS = re.compile(
    rf"</{_THINKING}>|\[/{_THINKING}\]|<\|channel\|>final\b", re.IGNORECASE
)
_FENCED = re.compile(r"```[\w+-]*(.*?)```", re.DOTALL)
# Where somebody began to write JSON, be it well or badly: a bracket of the prose is none.
_START = re.compile(
    r"""\{(?=\s*(?:["'}]|//|/\*|\w+\s*:))|\[(?=\s*(?:["'\[{\]]|//|/\*|-?\d|true\b|false\b|null\b))"""
)
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)

# Each is read, and each that does not fit is an error.
MOST_STARTS = 200
# More is taken for a value without an end.
MOST_PIECES = 50_000


def json_values(text: str) -> Iterator[str]:
    r"""The JSON values of a text: all of it, where it is one, else what is fenced, then the objects
    and arrays that stand in it, first one first, each as it is spelt.

    >>> list(json_values('See [1]. ```json\n{"name": "Ada"}\n``` That is all.'))
    ['{"name": "Ada"}', '[1]', '{"name": "Ada"}']
    """
    decoder = json.JSONDecoder()
    text = _bare(text)
    if _end_of_value(decoder, text, 0) == len(text):
        yield text
        return
    past = max((end.end() for end in _END_OF_THOUGHTS.finditer(text)), default=0)
    said = text[past:]
    found = False
    for value in _values_in(decoder, said):
        found = True
        yield value
    if not found and said != text:
        yield from _values_in(decoder, text)


def _values_in(decoder: json.JSONDecoder, text: str) -> Iterator[str]:
    for match in islice(_FENCED.finditer(text), MOST_STARTS):
        fenced = _bare(match[1])
        if fenced and _end_of_value(decoder, fenced, 0) == len(fenced):
            yield fenced
    past: int | None = 0
    for _ in range(MOST_STARTS):
        start = None if past is None else _START.search(text, past)
        if start is None:
            return
        past = _end_of_value(decoder, text, start.start())
        if past is not None:
            yield text[start.start() : past]
        else:
            past = _end_of_brackets(text, start.start())


def _bare(text: str) -> str:
    return text.strip().removeprefix("\ufeff").strip()


def known_so_far(text: str, fits: Callable[[str], bool], starts: str = "[{") -> Any:
    r"""What an unfinished text says of the value that stands in it; None where that is nothing yet.

    What is known of it grows: a number is known when it has ended.

    :param fits: whether a whole value is the one; the next one is it, where this one is not
    :param starts: how the value may begin

    >>> known_so_far('See [1]: {"name": "Ad', lambda value: False, starts="{")
    {'name': 'Ad'}
    """
    text = _THOUGHTS.sub("", text)
    if thought := _UNFINISHED_THOUGHT.search(text):
        text = text[: thought.start()]
    decoder, past = json.JSONDecoder(), 0
    for start in islice(_START.finditer(text), MOST_STARTS):
        if start.start() < past or start[0] not in starts:
            continue
        end = _end_of_value(decoder, text, start.start())
        if end is None:
            known = _known_of(text[start.start() :])
            if known is not None:
                return known
        elif fits(text[start.start() : end]):
            return json.loads(text[start.start() : end])
        else:
            past = end
    return None


def _known_of(value: str) -> Any:
    from pydantic_core import from_json

    without_number = value.rstrip("0123456789+-.eE")
    if without_number.endswith((":", ",", "[", " ", "\n", "\t", "\r")):
        value = without_number
    try:
        return from_json(value, allow_partial="trailing-strings")
    except (ValueError, TypeError):  # The latter for half of a character.
        return None


def _end_of_value(decoder: json.JSONDecoder, text: str, start: int) -> int | None:
    try:
        return decoder.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None


def _end_of_brackets(text: str, start: int) -> int | None:
    """Where the bracket that opens here is closed, however wrong it is in between."""
    depth = 0
    for piece in islice(_PIECE.finditer(text, start), MOST_PIECES):
        depth += (piece[0] in "[{") - (piece[0] in "]}")
        if depth == 0:
            return piece.end()
    return None
