"""JSON in what a model says: in fences, in prose, after its thoughts. Nothing is ever evaluated."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

__all__ = ["json_values", "known_so_far"]

_THOUGHTS = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_UNFINISHED_THOUGHT = re.compile(r"<think(?:ing)?>")
_START = re.compile(r"[\[{]")

# Each costs up to the length of the text, where brackets are opened and never closed.
MOST_STARTS = 200


def json_values(text: str) -> Iterator[str]:
    r"""The JSON values of a text: all of it, where it is one, else the objects and arrays that
    stand in it, first one first, each as it is spelt.

    >>> list(json_values('Sure! ```json\n{"name": "Ada"}\n``` That is [1] all.'))
    ['{"name": "Ada"}', '[1]']
    """
    text = _THOUGHTS.sub("", text).strip()
    decoder = json.JSONDecoder()
    if _end_of_value(decoder, text, 0) == len(text):
        yield text
        return
    past = 0
    for start in islice(_START.finditer(text), MOST_STARTS):
        if start.start() < past:
            continue
        end = _end_of_value(decoder, text, start.start())
        if end is not None:
            past = end
            yield text[start.start() : end]


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
    except ValueError:
        return None


def _end_of_value(decoder: json.JSONDecoder, text: str, start: int) -> int | None:
    try:
        return decoder.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None
