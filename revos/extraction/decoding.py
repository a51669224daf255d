"""An answer's text as JSON, or why it is none. Pure.

What JSON does not have (NaN, Infinity) and what no text can hold (half of a surrogate pair) is
refused here, so that nothing behind has to think of it.
"""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["UnreadableError", "decoded", "encoded"]


class UnreadableError(ValueError):
    """The text is no JSON value; the error's text says why."""


def decoded(text: str) -> Any:
    """The JSON value.

    :raises UnreadableError: there is none

    >>> decoded('{"age": 36}')
    {'age': 36}
    """
    try:
        value = json.loads(text, parse_constant=_refused, parse_float=_finite)
        encoded(value)
    except UnreadableError:
        raise
    except json.JSONDecodeError as error:
        raise UnreadableError(f"no JSON: {error}") from error
    except RecursionError as error:
        raise UnreadableError("nested too deeply") from error
    except ValueError as error:  # Digits without end, and characters that are none.
        surrogate = isinstance(error, UnicodeEncodeError)
        words = "a character that is half of a surrogate pair" if surrogate else "a number too long"
        raise UnreadableError(words) from error
    return value


def encoded(value: Any) -> bytes:
    """The value as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _refused(name: str) -> float:
    raise UnreadableError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise UnreadableError("a number too large")
    return number
