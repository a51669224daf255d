"""Where documents come from: files and standard input, checked first and then read again.

What can be read twice, a regular file, is checked as a whole before anything is sent, one chunk of
it in memory at a time; of each document its id is remembered, as 16 bytes. A pipe can be read once,
so it is checked as it comes: a line of it that is no document fails like one, and the others go on;
only where it is the first thing that comes at all is it an error of the whole run.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing, closing, suppress
from pathlib import Path

import anyio
from attrs import define, field, frozen

from revos.cli.documents import ID_FIELD, Document, Format, Item, Misfit, Reader, format_of
from revos.errors import RevosInputError
from revos.threads import run_in_thread

__all__ = ["Inputs", "Source", "Survey", "sources_of"]

STDIN = "-"
CHUNK = 256 * 1024
# Of text files, each of which is a document, so that 100,000 small ones are not as many threads.
FILES_AT_ONCE = 64


@frozen
class Source:
    """One file, or standard input where `path` is None.

    :ivar label: as the user named it
    :ivar file: the regular file, by one name; None: it can be read only once
    """

    label: str
    path: Path | None
    format: Format
    file: str | None

    @property
    def is_stream(self) -> bool:
        return self.file is None


def sources_of(names: Sequence[str], format_: Format | None) -> list[Source]:
    """The inputs that were named.

    :param format_: of all of them; by their suffixes where None
    :raises RevosInputError: there is none, or one can't be read
    """
    if not names:
        raise RevosInputError("there are no documents: name files, or - for standard input")
    if options := [name for name in names if name.startswith("-") and name != STDIN]:
        raise RevosInputError(
            f"there is no option {options[0]}; a file can be named ./{options[0]}"
        )
    if names.count(STDIN) > 1:
        raise RevosInputError("standard input (-) is named twice, and can be read only once")
    sources = [_source_of(name, format_) for name in names]
    labels: dict[str, str] = {}
    for source in sources:
        if source.file is None:
            continue
        if (first := labels.get(source.file)) is not None:
            also = f", also as {source.label}" if first != source.label else ""
            raise RevosInputError(f"{first} is named twice{also}")
        labels[source.file] = source.label
    return sources


def _source_of(name: str, format_: Format | None) -> Source:
    if name == STDIN:
        if sys.stdin is None:
            raise RevosInputError("standard input is closed")
        return Source("stdin", None, format_ or "jsonl", file=None)
    path = Path(name)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise RevosInputError(f"{name} is a directory: name its files")
        if stat.S_ISREG(mode):
            path.open("rb").close()
    except (OSError, ValueError) as error:
        raise RevosInputError(_unreadable(name, error)) from None
    file = os.path.realpath(path) if stat.S_ISREG(mode) else None
    return Source(name, path, format_ or format_of(name), file)


def _unreadable(name: str, error: Exception) -> str:
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{name} can't be read: {words}"


@frozen
class Survey:
    """What the files have.

    :ivar keys: of the ids of all documents in files
    :ivar total: how many these are; None where there is a stream, too
    """

    keys: set[bytes]
    total: int | None

    def done(self, done: set[bytes]) -> int:
        """How many of the documents in files are done."""
        return len(self.keys & done)

    def left(self, done: set[bytes]) -> int | None:
        """How many documents are not done."""
        return None if self.total is None else self.total - self.done(done)


@define
class Inputs:
    """All that is named, as the documents of one prompt.

    :ivar names: the variables of the prompt
    :ivar id_field: where the id of a document is; None: `id`, and nobody insists on it
    """

    sources: Sequence[Source]
    names: frozenset[str]
    id_field: str | None = None
    _seen: set[bytes] = field(factory=set, init=False)

    def survey(self) -> Survey:
        """Read all files once. Blocks.

        :raises RevosInputError: names the first thing in them that is no document
        """
        keys: set[bytes] = set()
        has_ids = False
        for readers, items in self._in_files():
            for item in items:
                if isinstance(item, Misfit):
                    raise RevosInputError(str(item))
                if (key := item.key) in keys:
                    raise RevosInputError(self._told_twice(item))
                keys.add(key)
            has_ids = has_ids or any(reader.has_ids for reader in readers)
        has_stream = any(source.is_stream for source in self.sources)
        if self.id_field is not None and keys and not has_ids and not has_stream:
            raise RevosInputError(
                f"no document has the field {self.id_field!r}, which --id says is its id"
            )
        self._seen = keys
        return Survey(keys, None if has_stream else len(keys))

    def _told_twice(self, second: Document) -> str:
        first = next(
            item.place
            for _, items in self._in_files()
            for item in items
            if isinstance(item, Document) and item.key == second.key
        )
        return f"{second.place} has the id {second.id!r}, which {first} has too"

    def _in_files(self) -> Iterator[tuple[list[Reader], list[Item]]]:
        for group in _grouped(self.sources):
            if not group[0].is_stream:
                yield from self._read(group)

    def _read(
        self, group: Sequence[Source]
    ) -> Generator[tuple[list[Reader], list[Item]], None, None]:
        """The items of regular files: of several small ones at once, of a larger one by chunks."""
        readers: list[Reader] = []
        items: list[Item] = []
        size = 0
        for source in group:
            assert source.path is not None  # noqa: S101 - of a regular file
            reader = self._reader(source)
            readers.append(reader)
            try:
                with source.path.open("rb", buffering=0) as file:
                    while data := file.read(CHUNK):
                        items += reader.feed(data)
                        size += len(data)
                        if size >= CHUNK:
                            yield readers, items
                            items, size = [], 0
                items += reader.end()
            except OSError as error:
                raise RevosInputError(_unreadable(source.label, error)) from None
        yield readers, items

    def _reader(self, source: Source) -> Reader:
        return Reader(source.label, source.format, self.names, self.id_field or ID_FIELD)

    async def documents(
        self, done: set[bytes], failed: Callable[[Misfit], Awaitable[None]]
    ) -> AsyncGenerator[Document, None]:
        """All documents whose keys are not in `done`; files are read in threads, by chunks.

        :param failed: is told what is no document, in a stream or in a file that was changed since
            the survey
        :raises RevosInputError: the first thing of all is none, or a file is gone
        """
        is_first = True
        for group in _grouped(self.sources):
            is_stream = group[0].is_stream
            batches = self._from_stream(group[0]) if is_stream else self._from_files(group)
            async with aclosing(batches):
                async for batch in batches:
                    for given in batch:
                        item = self._judged(given) if is_stream else given
                        if isinstance(item, Document):
                            if item.key not in done:
                                yield item
                        elif is_first:
                            raise RevosInputError(str(item))
                        else:
                            await failed(item)
                        is_first = False

    def _judged(self, item: Item) -> Item:
        if isinstance(item, Misfit):
            return item
        if (key := item.key) in self._seen:
            return Misfit(item.place, f"another document has the id {item.id!r}, too")
        self._seen.add(key)
        return item

    async def _from_files(self, group: Sequence[Source]) -> AsyncGenerator[list[Item], None]:
        read = self._read(group)

        def following() -> list[Item] | None:
            _, items = next(read, (None, None))
            return items

        with closing(read):
            # Not left to themselves: what they read is closed here.
            while (batch := await run_in_thread(following, abandon=False)) is not None:
                yield batch

    async def _from_stream(self, source: Source) -> AsyncGenerator[list[Item], None]:
        reader = self._reader(source)
        fd = 0 if source.path is None else _opened(source.label)
        try:
            read = _read_when_ready if _can_be_waited_for(fd) else _read_in_thread
            while data := await read(fd):
                yield list(reader.feed(data))
            yield list(reader.end())
        finally:
            if fd != 0:
                os.close(fd)


def _grouped(sources: Iterable[Source]) -> Iterator[list[Source]]:
    """Streams alone, files some together."""
    group: list[Source] = []
    for source in sources:
        if group and (source.is_stream or group[0].is_stream or len(group) >= FILES_AT_ONCE):
            yield group
            group = []
        group.append(source)
    if group:
        yield group


def _opened(name: str) -> int:
    """A pipe, opened without waiting for whoever writes to it."""
    try:
        return os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise RevosInputError(_unreadable(name, error)) from None


def _can_be_waited_for(fd: int) -> bool:
    """Whether the event loop can tell when there is something to read: no thread hangs in a read
    that nothing ends, which would hold up the end of the process.
    """
    mode = os.fstat(fd).st_mode
    return sys.platform != "win32" and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd))


async def _read_when_ready(fd: int) -> bytes:
    while True:
        await anyio.wait_readable(fd)
        with suppress(BlockingIOError):  # Another reader of the pipe was faster.
            return os.read(fd, CHUNK)


async def _read_in_thread(fd: int) -> bytes:
    return await run_in_thread(os.read, fd, CHUNK)
