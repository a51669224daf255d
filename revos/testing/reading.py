"""What a text offers to a stand-in model: names, numbers, dates and words, each to be taken once.

Pure. Three places are looked at in turn: behind a label ("Age: 36"), behind the last colon (what
stands before it is the instruction), behind the first colon. Without a colon the whole text counts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from attrs import define, field, frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Piece", "Reading", "words_of"]

_PIECE = re.compile(
    r"""
      (?P<email>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)
    | (?P<url>https?://[^\s,;"'<>)\]]+)
    | (?P<uuid>[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})
    | (?P<datetime>\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)
    | (?P<date>\d{4}-\d\d-\d\d)
    | (?P<time>\d\d:\d\d(?::\d\d)?)
    | (?P<number>(?<![\w.-])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)
    | (?P<word>\w(?:[\w'\u2019-]*\w)?)
    """,
    re.VERBOSE,
)
_COLON = re.compile(r":\s+(?=\S)")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_]+")
# Words that are capitalised for standing first, and words that name nothing.
_EMPTY = frozenset(
    re.findall(
        r"\w+",
        """
        a an and are as at by for from has have he her his i in into is it its lives my no not of on
        or our please she that the their them there they this to true false was we were who with yes
        you years old aged extract find get give list parse read return summarise summarize take
        tell text
        """,
    )
)


def words_of(name: str) -> list[str]:
    """The words of a property's name, in lower case.

    >>> words_of("firstName"), words_of("home_city")
    (['first', 'name'], ['home', 'city'])
    """
    return [word.lower() for word in _WORD.findall(name)]


@frozen
class Piece:
    """One thing that the text offers; `kind` is a group of the pattern above, or `name`."""

    kind: str
    text: str
    start: int

    @property
    def number(self) -> float:
        return float(self.text.replace(",", ""))


@define
class Reading:
    """A text and what of it is still free.

    >>> reading = Reading("Extract the person: Ada Lovelace, 36, London")
    >>> reading.take("name").text, reading.take("number").number, reading.take("name").text
    ('Ada Lovelace', 36.0, 'London')
    """

    text: str
    free: list[Piece] = field(init=False)
    _begins: tuple[int, ...] = field(init=False)

    def __attrs_post_init__(self) -> None:
        colons = [match.end() for match in _COLON.finditer(self.text)]
        self._begins = (colons[-1], colons[0]) if colons else (0,)
        self.free = _joined(self.text, _pieces(self.text))

    @property
    def source(self) -> str:
        """The text without the instruction before it."""
        return self.text[self._begins[-1] :].strip()

    @property
    def lines(self) -> list[str]:
        """The parts of the source that may each tell of one thing."""
        parts = (part.strip() for part in re.split(r"[;\n]", self.source))
        return [part for part in parts if part]

    def copy(self) -> Reading:
        """A reading of the same text that can be tried without taking from this one."""
        twin = Reading(self.text)
        twin.free = list(self.free)
        return twin

    def labelled(self, label: str) -> int | None:
        """Where the value stands that the text itself calls by this name, or None."""
        words = words_of(label)
        if not words:
            return None
        name = r"[\s_-]*".join(map(re.escape, words))
        found = re.search(rf"\b{name}\b\s*(?::|=|\bis\b)\s*(?=\S)", self.text, re.IGNORECASE)
        return found.end() if found else None

    def take(
        self,
        *kinds: str,
        label: str = "",
        accept: Callable[[Piece], bool] = lambda _: True,
    ) -> Piece | None:
        """The first free piece of these kinds, the best place first; it is free no longer."""
        at = self.labelled(label)
        for piece in self._in_turn(at):
            if piece.kind in kinds and accept(piece):
                self.free.remove(piece)
                return piece
        return None

    def take_rest(self, label: str) -> str | None:
        """What stands behind "Label:", up to the next comma or the end of the line."""
        at = self.labelled(label)
        if at is None:
            return None
        rest = re.split(r"[,;\n]", self.text[at:], maxsplit=1)[0].strip()
        self.free = [piece for piece in self.free if not at <= piece.start < at + len(rest)]
        return rest.rstrip(".") or None

    def take_all(self, *kinds: str) -> list[Piece]:
        """All free pieces of these kinds in the source."""
        pieces = [p for p in self.free if p.kind in kinds and p.start >= self._begins[-1]]
        self.free = [piece for piece in self.free if piece not in pieces]
        return pieces

    def says(self, value: str) -> bool:
        """Whether the source has this word or these words, in any case."""
        name = r"[\s_-]*".join(map(re.escape, words_of(value) or [value]))
        return re.search(rf"(?<!\w){name}(?!\w)", self.source, re.IGNORECASE) is not None

    def after_comma(self, piece: Piece) -> bool:
        """Whether a comma, or "in", "at", "from", "to", stands before this piece."""
        return re.search(r"(?:,|\b(?:in|at|from|to|of))\s*$", self.text[: piece.start]) is not None

    def _in_turn(self, at: int | None) -> Iterator[Piece]:
        if at is not None:
            yield from (p for p in list(self.free) if at <= p.start <= at + 1)
        for begin in self._begins:
            yield from (p for p in list(self.free) if p.start >= begin)


def _pieces(text: str) -> Iterator[Piece]:
    for match in _PIECE.finditer(text):
        kind = str(match.lastgroup)
        if kind == "word":
            empty = match[0].lower() in _EMPTY
            kind = "filler" if empty else "name" if match[0][0].isupper() else "word"
        yield Piece(kind, match[0], match.start())


def _joined(text: str, pieces: Iterator[Piece]) -> list[Piece]:
    """Neighbouring capitalised words are one name."""
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        gap = text[last.start + len(last.text) : piece.start] if last else ""
        if last and last.kind == piece.kind == "name" and gap == " ":
            joined[-1] = Piece("name", text[last.start : piece.start + len(piece.text)], last.start)
        else:
            joined.append(piece)
    return joined
