"""What a run leaves in logs, exceptions, reprs, pickles and on the terminal, searched for secrets
in every form (P10).
"""

from __future__ import annotations

import copy
import gc
import html
import io
import json
import logging
import pickle
import traceback
import warnings
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from urllib.parse import quote, quote_plus

# A secret is found in pieces of this length too, wherever a text was cut.
PIECE = 12

# What a log record has of itself: where the call stands, and when it was.
ABOUT_THE_CALL = set(vars(logging.makeLogRecord({}))) - {
    *("msg", "args", "exc_info", "exc_text", "stack_info", "taskName"),
}


def forms_of(secret: str) -> set[str]:
    """The ways in which a secret may stand in a text; base64 with anything before it as well."""
    raw = secret.encode()
    quoted = {quote(secret, safe=safe) for safe in ("", "/", "!*'()", ";,/?:@&=+$!*'()#")}
    quoted.add(quote_plus(secret))
    escaped = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    escaped |= {repr(secret)[1:-1], ascii(secret)[1:-1], repr(raw)[2:-1], html.escape(secret)}
    encoded = set()
    for text in (secret, *quoted):
        for before in range(3):
            for encode in (b64encode, urlsafe_b64encode):
                # What stands before and behind changes the first and the last characters.
                whole = encode(b"\0" * before + text.encode()).decode().rstrip("=")
                encoded.add(whole[4 if before else 0 : -4])
    lower = {form.lower() for form in quoted}
    return {secret, *quoted, *lower, *escaped, *encoded}


def pieces_of(secret: str) -> set[str]:
    """Every leak of a form that is twice as long as a piece holds one of these."""
    pieces = set()
    for form in forms_of(secret):
        pieces.add(form)
        pieces |= {form[at : at + PIECE] for at in range(0, len(form) - PIECE + 1, PIECE)}
    return pieces


def links_of(error: BaseException) -> list[BaseException]:
    """An error, its causes, contexts and members, theirs too, hidden ones as well."""
    links: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop()
        if link is not None and all(link is not known for known in links):
            links.append(link)
            waiting += [link.__cause__, link.__context__, *getattr(link, "exceptions", ())]
    return links


class Evidence(logging.Handler):
    """Texts, and where each was found. As a handler it keeps all that a log record holds.

    `during`, where it is set, stands before each place: which of many things went on.
    """

    def __init__(self) -> None:
        super().__init__(level=0)
        self.texts: list[tuple[str, str]] = []
        self.during = ""

    def add(self, place: str, text: object) -> None:
        self.texts.append((self.during + place, str(text)))
        self.texts.append((self.during + place, repr(text)))

    def emit(self, record: logging.LogRecord) -> None:
        place = f"log {record.name}"
        # Also what a formatter would leave out: arguments, `extra`, cached texts.
        for name, value in vars(record).items():
            if name not in ABOUT_THE_CALL:
                self.add(f"{place} {name}", value)
        self.add(place, record.getMessage())
        self.add(place, logging.Formatter("%(message)s").format(record))
        if record.exc_info and record.exc_info[1] is not None:
            self.add_error(record.exc_info[1], f"{place} exception")

    def add_error(self, error: BaseException, place: str = "exception") -> None:
        """An exception and all that hangs on it, each with the variables of its frames.

        Frames of whoever caught it count too, so that one must hold no secret.
        """
        self.add(f"{place} traceback", "".join(traceback.format_exception(error)))
        for link in links_of(error):
            self.add(place, link)
            self.add(f"{place} args", link.args)
            for name, value in vars(link).items():
                self.add(f"{place} {name}", value)
            self._add_frames(link, f"{place} frames")
            self.add_pickle(link, f"{place} pickle")

    def _add_frames(self, link: BaseException, place: str) -> None:
        """As error reporters show them: variables, each by its repr."""
        for frame, _ in traceback.walk_tb(link.__traceback__):
            where = f"{frame.f_globals.get('__name__')}:{frame.f_code.co_name}"
            for name, value in frame.f_locals.items():
                with suppress(Exception):  # What is half made may have no repr yet.
                    self.texts.append((f"{self.during}{place} {where} {name}", repr(value)))

    def add_pickle(self, thing: object, place: str = "pickle") -> None:
        """What leaves the process with it, where it can, and what a copy shows."""
        try:
            pickled = pickle.dumps(thing)
        except Exception as refusal:  # noqa: BLE001 - whatever it is, its text is looked at
            self.add(place, refusal)
        else:
            self.add(place, pickled.decode("utf-8", "backslashreplace"))
        with suppress(Exception):
            self.add(place, copy.deepcopy(thing))

    def add_objects_of(self, package: str, *, but: str) -> None:
        """Every live object of a package's classes that was made since the gathering began."""
        for found in gc.get_objects():
            module = str(type(found).__module__)
            if module.split(".", maxsplit=1)[0] == package and not module.startswith(but):
                self.add(f"repr {type(found).__qualname__}", found)

    def places_of(self, *secrets: str, within: str = "") -> set[str]:
        """Where any form of a secret, or a piece of one, was found."""
        pieces = {piece for secret in secrets for piece in pieces_of(secret)}
        texts = [(place, text) for place, text in self.texts if place.startswith(within)]
        everything = "\n".join({text for _, text in texts})
        found = {piece for piece in pieces if piece in everything}
        return {place for place, text in texts if any(piece in text for piece in found)}


@contextmanager
def gathered() -> Iterator[Evidence]:
    """Everything that is logged, at any level by any logger, every warning of the block, and all
    that it prints.
    """
    evidence, root = Evidence(), logging.getLogger()
    printed = io.StringIO()
    loggers = [root, *(one for one in root.manager.loggerDict.values() if hasattr(one, "level"))]
    before = [(one, one.level, one.propagate, one.disabled) for one in loggers]
    for one in loggers:
        one.setLevel(logging.DEBUG if one is root else logging.NOTSET)
        one.propagate, one.disabled = True, False
    root.addHandler(evidence)
    gc.freeze()  # Only what is made from here on is looked at, or it would take seconds.
    try:
        with (
            warnings.catch_warnings(record=True) as warned,
            redirect_stdout(printed),
            redirect_stderr(printed),
        ):
            warnings.simplefilter("always")
            yield evidence
            gc.collect()
        evidence.during = ""
        evidence.add("printed", printed.getvalue())
        for warning in warned:
            evidence.add("warning", warning.message)
            evidence.add("warning", warning)
    finally:
        gc.unfreeze()
        root.removeHandler(evidence)
        for one, level, propagate, disabled in before:
            one.setLevel(level)
            one.propagate, one.disabled = propagate, disabled
