"""Documents: bytes in, the variables of a prompt out, each with an id and its place.

Pure: a `Reader` is fed with what was read and gives what is whole by then, so that a file and a
pipe are read by the same code, with one document in memory at a time, or one chunk of them. What
cannot be read is given as well, as a `Misfit`: it is for the caller to end or to go on.

| format | a document | its variables |
|---|---|---|
| `jsonl` | a line, but for blank ones | the keys of an object; a string is the only variable |
| `csv` | a row, but for blank ones | the columns, by the names in the first row |
| `text` | the whole file | the only variable |

What the prompt does not ask for is left out. What is neither text nor number is given as JSON.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from math import isfinite
from typing import Any, Literal, TypeAlias

from attrs import define, field, frozen

from revos.config import nearest

__all__ = ["Document", "Format", "Item", "Misfit", "Reader", "format_of", "key_of"]

Format: TypeAlias = Literal["jsonl", "csv", "text"]

ID_FIELD = "id"
MOST_NAMED = 10  # Keys of a line, in an error.
# The csv module has one limit for the whole process, of 128 KiB; this is the largest everywhere.
LONGEST_FIELD = 2**31 - 1
_BOM = "\ufeff"


@frozen
class Document:
    """What one request is about.

    :ivar id: the value of its field, or else its place
    :ivar place: `file:line`; of a text file its path
    """

    id: str | int | float
    place: str
    variables: dict[str, object]

    @property
    def key(self) -> bytes:
        return key_of(self.id)


@frozen
class Misfit:
    """What is no document: where, and why."""

    place: str
    problem: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"


Item: TypeAlias = Document | Misfit


def key_of(id_: object) -> bytes:
    """An id as it is remembered: in few bytes, and `7` is `"7"`, as in CSV they can't differ."""
    return blake2b(str(id_).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def format_of(name: str) -> Format:
    """The format by the suffix of a file's name.

    >>> format_of("people.ndjson"), format_of("people.CSV"), format_of("README")
    ('jsonl', 'csv', 'text')
    """
    lower = name.lower()
    if lower.endswith((".jsonl", ".ndjson")):
        return "jsonl"
    return "csv" if lower.endswith(".csv") else "text"


class _MisfitError(Exception):
    """Why something is no document."""


@define
class Reader:
    r"""One file or stream on its way to documents.

    :ivar label: what the place begins with
    :ivar names: the variables of the prompt
    :ivar id_field: where the id is; a document without it has its place as id

    >>> reader = Reader("people.jsonl", "jsonl", frozenset({"text"}))
    >>> list(reader.feed(b'"Ada, 36"\n{"text": "Gra'))
    [Document(id='people.jsonl:1', place='people.jsonl:1', variables={'text': 'Ada, 36'})]
    >>> [*reader.feed(b'ce", "id": 7}'), *reader.end()]
    [Document(id=7, place='people.jsonl:2', variables={'text': 'Grace'})]
    """

    label: str
    format: Format
    names: frozenset[str]
    id_field: str = ID_FIELD

    has_ids: bool = field(default=False, init=False)
    _parts: list[bytes] = field(factory=list, init=False)
    _line: int = field(default=0, init=False)
    _record: list[str] = field(factory=list, init=False)
    _in_quotes: bool = field(default=False, init=False)
    _header: list[str] | None = field(default=None, init=False)
    _is_over: bool = field(default=False, init=False)

    def feed(self, data: bytes) -> Iterator[Item]:
        """What is whole with these bytes."""
        if self.format == "text":
            self._parts.append(data)
            return
        first, *others = data.split(b"\n")
        self._parts.append(first)
        for following in others:
            yield from self._read_line(b"".join(self._parts) + b"\n")
            self._parts = [following]

    def end(self) -> Iterator[Item]:
        """What is left at the end of the file."""
        rest = b"".join(self._parts)
        self._parts = []
        if self.format == "text":
            yield self._text(rest)
            return
        if rest:
            yield from self._read_line(rest)
        if self._record:  # A quote was opened that nobody closed.
            yield self._misfit("the row has an opening quote without a closing one")
        if self.format == "csv" and self._header is None and not self._is_over:
            yield Misfit(f"{self.label}:1", "there is no header row with the names of the columns")

    # Lines.

    def _read_line(self, line: bytes) -> Iterator[Item]:
        if self._is_over:
            return
        self._line += 1
        try:
            text = _decoded(line)
        except _MisfitError as misfit:
            self._record, self._in_quotes = [], False
            yield Misfit(f"{self.label}:{self._line}", str(misfit))
            self._is_over = self.format == "csv" and self._header is None
            return
        if self._line == 1:
            text = text.removeprefix(_BOM)
        if self.format == "jsonl":
            if text.strip():
                yield self._from_json(text)
        else:
            yield from self._from_csv(text)

    @property
    def _place(self) -> str:
        """Where the line, or the row that it ends, begins."""
        return f"{self.label}:{self._line - max(0, len(self._record) - 1)}"

    def _misfit(self, problem: object) -> Misfit:
        return Misfit(self._place, str(problem))

    def _from_json(self, line: str) -> Item:
        try:
            value = _json(line)
            if isinstance(value, str):
                return Document(self._place, self._place, self._only(value))
            if isinstance(value, dict):
                return self._document(value)
        except _MisfitError as misfit:
            return self._misfit(misfit)
        return self._misfit(f"a line must be a JSON object or string, not {_json_type(value)}")

    def _from_csv(self, line: str) -> Iterator[Item]:
        self._record.append(line)
        self._in_quotes = _is_open_after(line, self._in_quotes)
        if self._in_quotes:
            return
        try:
            row = _row(self._record)
            if not row:
                pass
            elif self._header is None:
                self._header = self._columns(row)
            elif len(row) == len(self._header):
                yield self._document(dict(zip(self._header, row, strict=True)))
            else:
                yield self._misfit(
                    f"the row has {len(row)} fields, the header has {len(self._header)}"
                )
        except _MisfitError as misfit:
            yield self._misfit(misfit)
            # Without the names of its columns, no row can be read.
            self._is_over = self._header is None
        self._record = []

    def _columns(self, row: list[str]) -> list[str]:
        names = [name.strip() for name in row]
        twice = {name for name in names if name and names.count(name) > 1}
        if twice:
            raise _MisfitError(f"the header has a column twice: {_listed(sorted(twice))}")
        self._require(names, "column")
        return names

    # Documents.

    def _document(self, fields: Mapping[str, Any]) -> Document:
        self._require(fields, "key")
        id_ = fields.get(self.id_field)
        if isinstance(id_, bool) or not isinstance(id_, str | int | float | None):
            raise _MisfitError(
                f"the id ({self.id_field!r}) must be a string or a number, not {_json_type(id_)}"
            )
        if isinstance(id_, float) and not isfinite(id_):
            raise _MisfitError(
                f"the id ({self.id_field!r}) must be a finite number: JSON, in which it is written "
                "with the result, has no other"
            )
        if id_ is None or id_ == "":
            id_ = self._place
        else:
            self.has_ids = True
        variables = {name: _as_prompted(fields[name]) for name in self.names}
        return Document(id_, self._place, variables)

    def _require(self, given: Mapping[str, Any] | Sequence[str], kind: str) -> None:
        missing = sorted(self.names.difference(given))
        if not missing:
            return
        there = list(given)
        hint = f"; the nearest is {nearest(missing[0], there)!r}" if there else ""
        raise _MisfitError(
            f"there is no {kind} {_listed(missing)}, which the prompt has as a variable "
            f"(there is: {_listed(there) or 'nothing'}{hint})"
        )

    def _only(self, text: str) -> dict[str, object]:
        if len(self.names) != 1:
            raise _MisfitError(
                "a text fills a prompt with one variable only; this one has "
                f"{_listed(sorted(self.names)) or 'none'}"
            )
        return dict.fromkeys(self.names, text)

    def _text(self, data: bytes) -> Item:
        try:
            text = _decoded(data).removeprefix(_BOM)
            return Document(self.label, self.label, self._only(text))
        except _MisfitError as misfit:
            return Misfit(self.label, str(misfit))


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _MisfitError(
            f"not UTF-8: the byte 0x{data[error.start]:02x} at position {error.start + 1}"
        ) from None


def _json(text: str) -> Any:
    try:
        value = json.loads(text)
        if "\\u" in text:  # Half of a surrogate pair is JSON, and no text that can be sent.
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise _MisfitError(f"not JSON: {error.msg} at column {error.colno}") from None
    except UnicodeEncodeError:
        raise _MisfitError("a text has half of a surrogate pair (\\ud800 to \\udfff)") from None
    except RecursionError:
        raise _MisfitError("not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:  # A whole number of more than 4,300 digits.
        raise _MisfitError(f"not JSON that can be read: {error}") from None
    return value


def _row(lines: list[str]) -> list[str]:
    csv.field_size_limit(LONGEST_FIELD)
    try:
        rows = list(csv.reader(lines, strict=True))
    except csv.Error as error:
        raise _MisfitError(f"not CSV: {error}") from None
    return rows[0] if rows else []


# What follows an opening quote, up to and with the closing one.
_QUOTED = re.compile(r'[^"]*+(?:""[^"]*+)*+"')
_OPENING = re.compile(r'(?:^|,)"')


def _is_open_after(line: str, is_open: bool) -> bool:
    """Whether a quoted field goes on in the next line.

    >>> _is_open_after('1,"Ada, 36', False), _is_open_after('London"', True)
    (True, False)
    """
    at = 0
    while True:
        found = (_QUOTED.match if is_open else _OPENING.search)(line, at)
        if found is None:
            return is_open
        at, is_open = found.end(), not is_open


def _as_prompted(value: Any) -> object:
    if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    return json.dumps(value, ensure_ascii=False)


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", list: "a list", dict: "an object", int: "a number"}
    return names.get(type(value), "a number")


def _listed(names: Sequence[str]) -> str:
    told = ", ".join(map(repr, names[:MOST_NAMED]))
    return told + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
