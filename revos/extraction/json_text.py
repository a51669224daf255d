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

__all__ = ["is_cut_off", "json_values", "known_so_far"]

_THINKING = r"(?:think(?:ing)?|thoughts?|reasoning|reflection)"
_THOUGHTS = re.compile(
    rf"<{_THINKING}>.*?</{_THINKING}>|\[{_THINKING}\].*?\[/{_THINKING}\]", re.DOTALL | re.IGNORECASE
)
# Some gateways hand on the channels of gpt-oss, of which the last is the answer.
_BEGIN = rf"<{_THINKING}>|\[{_THINKING}\]|<\|channel\|>(?:analysis|commentary)\b"
_END = rf"</{_THINKING}>|\[/{_THINKING}\]|<\|channel\|>final\b"
_BEGIN_OF_THOUGHTS = re.compile(_BEGIN, re.IGNORECASE)
_END_OF_THOUGHTS = re.compile(_END, re.IGNORECASE)
_FENCED = re.compile(r"```[\w+-]*(.*?)```", re.DOTALL)
# Where somebody began to write JSON, be it well or badly: a bracket of the prose is none.
_VALUE = (
    r"""\{(?=\s*(?:["'}]|//|/\*|\w+\s*:))"""
    r"""|\[(?=\s*(?:["'\[{\]]|//|/\*|-?\d|-?Infinity\b|NaN\b|true\b|false\b|null\b))"""
)
_START = re.compile(_VALUE)
# Where it was begun, and nothing follows that would tell.
_JUST_BEGUN = re.compile(r"(?:[\[{]\s*\w*|```[\w+-]*)\Z")
_TAG = re.compile(f"(?P<begin>{_BEGIN})|(?P<end>{_END})", re.IGNORECASE)
_TAG_OR_START = re.compile(f"(?P<begin>{_BEGIN})|(?P<end>{_END})|{_VALUE}", re.IGNORECASE)
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
    for said in _said_in(decoder, text)[0]:
        found = False
        for value in _values_in(decoder, said):
            found = True
            yield value
        if found:
            return


def is_cut_off(text: str) -> bool:
    """Whether the text ends in or behind thoughts alone, or in a value that was begun in it.

    >>> is_cut_off('See [1]: {"name": "Ad'), is_cut_off('See [1]: {"name": Ada}')
    (True, False)
    """
    decoder = json.JSONDecoder()
    said, is_in_thoughts = _said_in(decoder, _bare(text))
    last = _bare(said[0])
    return (
        is_in_thoughts
        or not any(map(_bare, said))
        or _JUST_BEGUN.search(_FENCED.sub("", last).rstrip()) is not None
        or (last.startswith('"') and _end_of_value(decoder, last, 0) is None)
        or not all(has_end for _, has_end in _begun_in(decoder, last))
    )


def _said_in(decoder: json.JSONDecoder, text: str) -> tuple[list[str], bool]:
    """What stands outside of thoughts, the last of it first; and whether the text ends in one.

    A thought without an end is one: an answer that was yet to come is no answer. A tag inside of a
    value is part of that.
    """
    if not _TAG.search(text):
        return [text], False
    said: list[str] = []
    begun = past = starts = 0
    while match := (_TAG_OR_START if starts < MOST_STARTS else _TAG).search(text, past):
        past = match.end()
        if match["end"]:  # Some chat templates put the opening tag into the prompt.
            said.clear()
            begun = past
        elif match["begin"]:
            said.append(text[begun : match.start()])
            end = _END_OF_THOUGHTS.search(text, past)
            if end is None:
                return said[::-1], True
            begun = past = end.end()
        else:
            starts += 1
            past = _end_of_value(decoder, text, match.start()) or past
    return [text[begun:], *reversed(said)], False


def _values_in(decoder: json.JSONDecoder, text: str) -> Iterator[str]:
    for match in islice(_FENCED.finditer(text), MOST_STARTS):
        fenced = _bare(match[1])
        if _end_of_value(decoder, fenced, 0) == len(fenced):
            yield fenced
    for value, _ in _begun_in(decoder, text):
        if value is not None:
            yield value


def _begun_in(decoder: json.JSONDecoder, text: str) -> Iterator[tuple[str | None, bool]]:
    """Of all that begins like a value: the value, None where it is none, and whether it has an
    end; it is the last where it has none.
    """
    past: int | None = 0
    for _ in range(MOST_STARTS):
        start = None if past is None else _START.search(text, past)
        if start is None:
            return
        end = _end_of_value(decoder, text, start.start())
        past = _end_of_brackets(text, start.start()) if end is None else end
        yield (None if end is None else text[start.start() : end]), past is not None


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
    text = text[max((end.end() for end in _END_OF_THOUGHTS.finditer(text)), default=0) :]
    if thought := _BEGIN_OF_THOUGHTS.search(text):
        text = text[: thought.start()]
    decoder = json.JSONDecoder()
    past: int | None = 0
    for start in islice(_START.finditer(text), MOST_STARTS):
        if past is None:
            return None
        if start.start() < past or start[0] not in starts:
            continue
        end = _end_of_value(decoder, text, start.start())
        if end is None:
            known = _known_of(text[start.start() :])
            if known is not None:
                return known
            past = _end_of_brackets(text, start.start())
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
