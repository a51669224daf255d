"""What must not be shown is taken out here: secrets from texts, frames and requests from errors.

Pure: it does no I/O and keeps nothing. Everything that a server or a transport says passes through
`redact` or `strip` before it stands in an error, a log record or a status (P10).
"""

from __future__ import annotations

import html
import json
import re
import traceback
from contextlib import suppress
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "LONGEST_TEXT",
    "MASK",
    "endpoint_of",
    "forget_values",
    "redact",
    "strip",
    "without_token",
]

MASK = "***"

# In characters. Only the beginning of a text is read: a server may send a megabyte.
LONGEST_TEXT = 500
_LONGEST_READ = 8_192

# In characters. A token that is shorter may stand in a text by chance, which is then spoilt.
SHORTEST_TO_HIDE = 16

# What percent-encoding leaves alone: for `quote` in Python nothing or the slash, for
# `encodeURIComponent` and `encodeURI` in JavaScript what follows.
_SAFE = ("", "/", "!*'()", ";,/?:@&=+$!*'()#")
_UNRESERVED = re.compile(r"[A-Za-z0-9._-]+")
_PERCENT = re.compile("%[0-9A-F]{2}")


def redact(text: str, secrets: Iterable[str]) -> str:
    r"""The first 500 printable characters of `text`, with every known secret as `***`.

    A secret is found raw, percent- and form-encoded, escaped as in JSON, HTML or a `repr`, and with
    spaces, line breaks or control characters inside, so a wrapped one is found too. Characters that
    don't print become a space, and runs of spaces become one.

    >>> redact("client 'app':\n a%2Fb is no\x00 secret", ["a/b"])
    "client 'app': *** is no secret"
    """
    read = text[:_LONGEST_READ]
    # The search looks at visible characters alone; `positions` leads back to where they stand.
    positions = [at for at, character in enumerate(read) if _is_visible(character)]
    visible = "".join(read[at] for at in positions)
    forms = {_visible(form) for secret in secrets for form in _forms(secret[:_LONGEST_READ])} - {""}
    # Mark first, replace afterwards: where two secrets overlap, no end of either is left over.
    hidden = bytearray(len(read))
    for form in forms:
        at = visible.find(form)
        while at >= 0:
            begin, end = positions[at], positions[at + len(form) - 1] + 1
            hidden[begin:end] = b"\x01" * (end - begin)
            at = visible.find(form, at + 1)
    if len(text) > len(read):
        # A secret that goes on behind what was read is not found. It begins in this tail.
        cut = max(len(positions) - max(map(len, forms), default=0), 0)
        read = read[: positions[cut]] if cut < len(positions) else read
    shown = "".join(
        MASK if is_hidden else "".join(c if c.isprintable() else " " for c, _ in run)
        for is_hidden, run in groupby(zip(read, hidden, strict=False), key=itemgetter(1))
    )
    return " ".join(shown.split())[:LONGEST_TEXT]


def without_token(text: str, token: str) -> str:
    """A text that goes on to be used, with `***` for a token that was sent back in it, in any of
    the forms that `redact` finds it in.

    >>> without_token("I got eyJhbGciOi.J9-token.sig", "eyJhbGciOi.J9-token.sig")
    'I got ***'
    """
    if len(token) < SHORTEST_TO_HIDE:
        return text
    # Most tokens are written in one way only, and the other ways take long to find out.
    forms = {token} if _UNRESERVED.fullmatch(token) else _forms(token)
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, MASK)
    return text


def endpoint_of(url: str) -> str:
    """A URL as it may be shown: without credentials, query and fragment.

    >>> endpoint_of("https://user:pw@auth.example:8443/token?key=1")
    'https://auth.example:8443/token'
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if host else "(not a URL)"


def strip(error: BaseException, secrets: Iterable[str] = ()) -> BaseException:
    """A copy of an error that is safe to keep: its type and its masked arguments, nothing else.

    A copy, since an exception can hold anything anywhere: frames with headers and form, httpx's
    `request`, another exception as an argument, notes, the whole input of a decoder. What is built
    anew has only what is put in, and whoever else holds the error still has it as it was. The chain
    that a traceback would show comes along in the same way, up to where it repeats itself. So does
    what is hidden behind an error without a text: httpcore raises `from None`, and only behind that
    stands why a TLS handshake failed under Trio, or a connection broke under asyncio.

    A type that wants more than its arguments comes without what its `__init__` would have set; one
    that then has no text becomes an `Exception` whose text begins with the name of the type.

    >>> strip(ConnectionRefusedError(111, "refused, key=s3cret"), ["s3cret"])
    ConnectionRefusedError(111, 'refused, key=***')
    """
    known = tuple(secrets)
    copied = twin = _twin(error, known)
    seen = {id(error)}
    while True:
        is_cause = error.__cause__ is not None
        is_hidden = error.__suppress_context__ and str(error) != ""
        follows = error.__cause__ if is_cause or is_hidden else error.__context__
        if follows is None or id(follows) in seen:
            return copied
        seen.add(id(follows))
        next_twin = _twin(follows, known)
        if is_cause:
            twin.__cause__ = next_twin
        else:
            twin.__context__ = next_twin
        error, twin = follows, next_twin


def forget_values(error: BaseException) -> None:
    """Empty the frames of an error and of all that hangs on it: where it came from stays to be
    seen, and what the variables there held is gone. For errors that must leave as they are.
    """
    waiting, seen = [error], {id(error)}
    while waiting:
        link = waiting.pop()
        traceback.clear_frames(link.__traceback__)
        for other in (link.__cause__, link.__context__, *getattr(link, "exceptions", ())):
            if other is not None and id(other) not in seen:
                seen.add(id(other))
                waiting.append(other)


def _is_visible(character: str) -> bool:
    return character.isprintable() and not character.isspace()


def _visible(text: str) -> str:
    return "".join(filter(_is_visible, text))


def _forms(secret: str) -> set[str]:
    """The ways in which a server, a library or a log may have written a secret."""
    # Not every secret is proper Unicode: one from the environment can have lone surrogates.
    encoded = secret.encode(errors="surrogatepass")
    quoted = {quote(encoded, safe=safe) for safe in _SAFE}
    # Python's, and that of URLSearchParams in JavaScript and of browsers.
    quoted |= {quote_plus(encoded), quote_plus(encoded, safe="*").replace("~", "%7E")}
    quoted |= {_PERCENT.sub(lambda escape: escape[0].lower(), form) for form in quoted}
    as_json = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    as_repr = {repr(secret)[1:-1], ascii(secret)[1:-1], repr(encoded)[2:-1]}
    # PHP escapes the slash in JSON; a repr escapes a quote where the text around it has both kinds.
    as_json |= {form.replace("/", r"\/") for form in as_json}
    as_repr |= {form.replace("'", r"\'") for form in as_repr}
    return {secret, html.escape(secret), *quoted, *as_json, *as_repr}


def _twin(error: BaseException, secrets: tuple[str, ...]) -> BaseException:
    """An error of the same type, without chain, traceback and attributes of its own."""
    kind = type(error)
    arguments: list[object]
    if isinstance(error, BaseExceptionGroup):
        arguments = [redact(error.message, secrets), [_twin(e, secrets) for e in error.exceptions]]
    else:
        arguments = [_plain(argument, secrets) for argument in error.args]
    for make in (kind, partial(kind.__new__, kind)):
        with suppress(Exception):  # Any type, so its constructor may raise anything.
            twin = make(*arguments)
            if type(twin) is kind and (str(twin) or not str(error)):
                return twin
    return Exception(f"{kind.__name__}: {redact(str(error), secrets)}")


def _plain(argument: object, secrets: tuple[str, ...]) -> object:
    """An argument of an error as a number or a text that may be kept."""
    if argument is None or isinstance(argument, int | float):
        return argument
    if isinstance(argument, str | BaseException):
        return redact(str(argument), secrets)
    return type(argument).__name__  # Bytes, a request, a response: they can hold a token.
