"""JSON in what a model says: in fences, in prose, after its thoughts. Nothing is ever evaluated."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice

__all__ = ["json_values"]

_THOUGHTS = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
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


def _end_of_value(decoder: json.JSONDecoder, text: str, start: int) -> int | None:
    try:
        return decoder.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None
