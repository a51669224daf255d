"""What a value has to be: one rule for each kind of setting.

A rule takes what was given, be it text from the environment, a number from a file or an object from
Python, and gives the value as it is kept, or raises `Unfit`. It accepts what it gave before
(`attrs.evolve` applies every rule again), and does no I/O. Which setting has which rule stands in
`config.py`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias, get_args
from urllib.parse import parse_qsl, urlsplit

__all__ = [
    "Rule",
    "Unfit",
    "file_path",
    "is_safe_transport",
    "log_format",
    "log_level",
    "number",
    "one_of",
    "parameters",
    "prose",
    "switch",
    "text",
    "url",
    "whole",
]


class Unfit(Exception):  # noqa: N818 - it is no error yet; `config.py` collects them into one.
    """A value breaks its rule. The text is the rule, and never has the value."""


Rule: TypeAlias = Callable[[Any], object]

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise Unfit("must be text (in quotes)")
    if not value.strip():
        raise Unfit("must not be empty")
    if _UNPRINTABLE.search(value):
        raise Unfit("must not hold control characters (a line end is one) or broken Unicode")
    return value


def prose(value: Any) -> str:
    """Text of any form and length, line ends too."""
    if not isinstance(value, str) or _SURROGATE.search(value):
        raise Unfit("must be text (in quotes), in valid Unicode")
    return value


def file_path(value: Any) -> str:
    return text(os.fspath(value) if isinstance(value, os.PathLike) else value)


def one_of(words: Any) -> Rule:
    """One of the words of this `Literal`."""
    allowed: tuple[str, ...] = get_args(words)

    def rule(value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise Unfit(f"must be one of {', '.join(allowed)}")
        return value

    return rule


def switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else None
    if word in {"true", "1", "yes", "on"}:
        return True
    if word in {"false", "0", "no", "off"}:
        return False
    raise Unfit("must be true or false (or 1/0, yes/no, on/off as text)")


def whole(least: int, most: int | None = None) -> Rule:
    wanted = f"a whole number from {least} to {most}"
    if most is None:
        wanted = f"a whole number of at least {least}"

    def rule(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise Unfit(f"must be {wanted}")
        if value < least or (most is not None and value > most):
            raise Unfit(f"must be {wanted}")
        return value

    return rule


def number(low: float, high: float | None = None, *, above: bool = False) -> Rule:
    """A finite number from `low` to `high`, or with `above` one that is greater than `low`."""
    wanted = f"over {low}" if above else f"from {low}"
    if high is not None:
        wanted += f" and up to {high}" if above else f" to {high}"

    def rule(value: Any) -> float:
        result = _finite(value)
        if result is None or result < low or (above and result == low):
            raise Unfit(f"must be a number {wanted}")
        if high is not None and result > high:
            raise Unfit(f"must be a number {wanted}")
        return result

    return rule


def _finite(value: Any) -> float | None:
    plain = isinstance(value, str) and value.isascii() and "_" not in value
    if not plain and (not isinstance(value, int | float) or isinstance(value, bool)):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def url(value: Any) -> str:
    wanted = "must be an absolute http:// or https:// URL"
    if not isinstance(value, str) or re.search(r"[\s\\]", value) or _UNPRINTABLE.search(value):
        raise Unfit(f"{wanted} without blanks")
    try:
        parts = urlsplit(value)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise Unfit(f"{wanted}, its host and its port valid ones") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise Unfit(f"{wanted} with a host")
    if "@" in parts.netloc:
        raise Unfit("must be a URL without credentials in it: they have settings of their own")
    if port == 0 or not re.fullmatch(r"[\w.-]+|[0-9a-f:.]*:[0-9a-f:.]*", host):
        raise Unfit(f"{wanted}, its host and its port valid ones")
    if "#" in value:
        raise Unfit("must be a URL without a fragment ('#')")
    return value


def is_safe_transport(address: str) -> bool:
    """Whether a secret may be sent there: over TLS, or without leaving the machine."""
    return urlsplit(address).scheme == "https" or is_loopback(address)


def is_loopback(address: str) -> bool:
    """Whether the URL is one of this machine."""
    from ipaddress import ip_address

    host = urlsplit(address).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


_STANDARD_PARAMETERS = frozenset(
    {
        "audience",
        "client_assertion",
        "client_assertion_type",
        "client_id",
        "client_secret",
        "grant_type",
        "resource",
        "scope",
    }
)


def parameters(value: Any) -> Mapping[str, str]:
    """More parameters of the token request, as a form-encoded text or as a mapping."""
    wanted = "must be name=value&name=value, form-encoded, or a table of texts"
    if isinstance(value, str):
        try:
            pairs = parse_qsl(value, keep_blank_values=True, strict_parsing=True, errors="strict")
        except ValueError:
            raise Unfit(wanted) from None
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    else:
        raise Unfit(wanted)
    if not all(isinstance(part, str) and not _SURROGATE.search(part) for p in pairs for part in p):
        raise Unfit(wanted)
    names = [name for name, _ in pairs]
    if any(not name.strip() or _UNPRINTABLE.search(name) for name in names):
        raise Unfit("must not have an empty name or one with control characters")
    if len(set(names)) < len(names):
        raise Unfit("must not have the same name twice")
    if standard := sorted(_STANDARD_PARAMETERS.intersection(names)):
        raise Unfit(f"must not replace a standard parameter ({', '.join(standard)})")
    return MappingProxyType(dict(pairs))


def log_level(value: Any) -> str:
    """A standard level by its name, any other by its number."""
    levels = {"CRITICAL": 50, "ERROR": 40, "WARNING": 30, "INFO": 20, "DEBUG": 10, "NOTSET": 0}
    word = value.strip().upper() if isinstance(value, str) else ""
    if type(value) is int and value in range(10_000):
        word = str(value)
    word = {"FATAL": "CRITICAL", "WARN": "WARNING"}.get(word, word)
    if word in levels:
        return word
    if not re.fullmatch("[0-9]{1,4}", word):
        raise Unfit(f"must be one of {', '.join(levels)}, or a number")
    return next((name for name, at in levels.items() if at == int(word)), str(int(word)))


def log_format(value: Any) -> str:
    import logging

    layout = prose(value)
    try:
        logging.Formatter(layout).format(logging.makeLogRecord({}))
    except (ValueError, KeyError, TypeError, OverflowError):
        raise Unfit("must be a format of the logging module, such as '%(message)s'") from None
    return layout
