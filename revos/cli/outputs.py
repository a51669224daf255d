"""Results and failures as JSON lines, each written whole; and what is done already.

`people.jsonl` has one line for each document that is done, `people.errors.jsonl` one for each that
failed. Only the first decides what is left to do, so the second may be begun anew by every run. A
run that was killed leaves at most half a line at the end, which the next one cuts off.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import define, field

from revos.cli.documents import Misfit, key_of
from revos.errors import RevosError, RevosInputError, RevosValidationError

__all__ = ["Output", "errors_path", "failure_line", "misfit_line", "open_output", "result_line"]

CHUNK = 1024 * 1024
BEGINNING = b'{"id":'


def errors_path(output: Path) -> Path:
    """Where the failures are.

    >>> errors_path(Path("out/people.jsonl")).as_posix()
    'out/people.errors.jsonl'
    """
    return output.with_name(f"{output.stem}.errors.jsonl")


def result_line(id_: object, value: object) -> bytes:
    """A result, its value as JSON by its type.

    :raises ValueError: the value has no JSON form
    """
    from pydantic_core import to_json, to_jsonable_python

    told = {"id": id_, "value": value}
    try:
        # A float is read from "Infinity" and "NaN" again; JSON has neither.
        return to_json(told, fallback=_unstructured, inf_nan_mode="strings") + b"\n"
    except ValueError:
        # It takes no half of a surrogate pair, which a model may well have written.
        return _line(to_jsonable_python(told, fallback=_unstructured))


def _unstructured(value: Any) -> object:
    """What pydantic knows no JSON form of: an instance of an attrs class, most of all."""
    import attrs
    import cattrs

    if attrs.has(type(value)):
        return {at.name: getattr(value, at.name) for at in attrs.fields(type(value))}
    plain: object = cattrs.unstructure(value)
    if plain is value:
        raise ValueError(f"{type(value).__name__} has no JSON form")
    return plain


def failure_line(id_: object, error: Exception) -> bytes:
    """A failure, as it is kept."""
    told: dict[str, object] = {
        "id": id_,
        "error": type(error).__name__,
        "message": str(error),
        "temporary": isinstance(error, RevosError) and error.temporary,
    }
    if isinstance(error, RevosValidationError):
        told["problems"] = [
            {"path": problem.path, "message": problem.message} for problem in error.problems
        ]
        told["raw"] = error.raw
    return _line(told)


def misfit_line(misfit: Misfit) -> bytes:
    """The failure of what is no document: its place stands for an id."""
    return failure_line(misfit.place, RevosInputError(misfit.problem))


def _line(told: dict[str, object]) -> bytes:
    text = json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Half of a surrogate pair becomes its escape, which is JSON again.
    return text.encode("utf-8", "backslashreplace") + b"\n"


@define
class Output:
    """Where lines go. `write` and `write_failure` block, and write a line whole.

    :ivar path: None for standard output; failures then go to standard error
    :ivar done: the keys of the ids that are in the output already
    """

    path: Path | None
    done: set[bytes]
    _fd: int
    _errors_fd: int | None = field(default=None, init=False)
    _is_new: bool = field(default=False)
    _is_used: bool = field(default=False, init=False)

    @property
    def failures_place(self) -> str:
        return "standard error" if self.path is None else str(errors_path(self.path))

    def begin(self) -> None:
        """All is checked: what failed in an earlier run is tried again, and told again where it
        fails again.
        """
        self._is_used = True
        if self.path is not None:
            errors_path(self.path).unlink(missing_ok=True)

    def write(self, line: bytes) -> None:
        _write_whole(self._fd, line)

    def write_failure(self, line: bytes) -> None:
        if self.path is None:
            # Not its descriptor: a progress bar may stand in between.
            sys.stderr.write(line.decode())
            sys.stderr.flush()
            return
        if self._errors_fd is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _BINARY
            self._errors_fd = os.open(errors_path(self.path), flags, 0o666)
        _write_whole(self._errors_fd, line)

    def take_back(self) -> None:
        """Where nothing was begun, leave no empty file behind that was not there."""
        if self.path is not None and self._is_new and not self._is_used:
            self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self.path is not None:
            os.close(self._fd)
        if self._errors_fd is not None:
            os.close(self._errors_fd)


_BINARY = getattr(os, "O_BINARY", 0)  # Windows


@contextmanager
def open_output(path: Path | None, *, resume: bool = False) -> Iterator[Output]:
    """The output, locked against a second run. Blocks.

    :param resume: go on with one that exists
    :raises RevosInputError: it exists, another run has it, or it can't be written
    """
    if path is None:
        if resume:
            raise RevosInputError("--resume needs -o: only a file tells what is done")
        if sys.stdout is None:  # Its descriptor may be that of something else by now.
            raise RevosInputError("standard output is closed: choose a file with -o")
        yield Output(None, set(), 1)
        return
    output = _opened(path, resume=resume)
    try:
        yield output
    finally:
        output._close()


def _opened(path: Path, *, resume: bool) -> Output:
    errors = errors_path(path)
    for file in (path, errors):
        if file.exists() and not file.is_file():
            raise RevosInputError(f"{file} is no regular file, so no output can be kept there")
        if file.exists() and not os.access(file, os.W_OK):
            raise RevosInputError(f"{file} can't be written: no permission")
        if not resume and file.exists() and file.stat().st_size:
            raise RevosInputError(
                f"{file} exists: go on with --resume, or choose another file with -o"
            )
    is_new = not path.exists()
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _BINARY, 0o666)
    except (OSError, ValueError) as error:
        raise RevosInputError(_unwritable(path, error)) from None
    try:
        _lock(fd, path)
        done = _done_in(fd, path)
    except BaseException:
        os.close(fd)
        raise
    return Output(path, done, fd, is_new)


def _unwritable(path: Path, error: Exception) -> str:
    if not path.parent.is_dir():
        return f"{path} can't be written: there is no directory {path.parent}"
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{path} can't be written: {words}"


def _lock(fd: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no such lock.
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RevosInputError(
            f"another run writes to {path}: wait for its end, or choose another file with -o"
        ) from None
    except OSError:  # A file system without locks.
        return


def _done_in(fd: int, path: Path) -> set[bytes]:
    """The keys of the ids in the file, which ends with a whole line afterwards.

    :raises RevosInputError: there is something else in it
    """
    done: set[bytes] = set()
    good_until = 0  # The offset after the last line that is a result.
    half: int | None = None
    for number, line in enumerate(_lines(fd), 1):
        key = _key_in(line)
        if half is not None or (key is None and not _is_half(line)):
            raise RevosInputError(
                f"{path}:{half or number} is no result of `revos extract`, so it can't be resumed"
            )
        if key is None:
            half = number
        else:
            done.add(key)
            good_until += len(line)
    if half is not None:
        os.ftruncate(fd, good_until)
    return done


def _is_half(line: bytes) -> bool:
    """Whether it is the beginning of a result, or what a file system leaves of one; and nothing
    of anybody else's, as it will be cut off.
    """
    if not line.strip(b"\0"):
        return True
    if not (line.startswith(BEGINNING) or BEGINNING.startswith(line)):
        return False
    with suppress(ValueError, RecursionError):
        return "value" in json.loads(line)  # Whole, but for the end of the line.
    return True


def _lines(fd: int) -> Iterator[bytes]:
    with open(fd, "rb", buffering=CHUNK, closefd=False) as file:
        file.seek(0)
        yield from file


def _key_in(line: bytes) -> bytes | None:
    """The key of the id in a line, or None where it is no whole result."""
    if not line.endswith(b"\n"):
        return None
    with suppress(ValueError, RecursionError):
        told = json.loads(line)
        if isinstance(told, dict) and {"id", "value"} <= told.keys():
            return key_of(told["id"])
    return None


def _write_whole(fd: int, line: bytes) -> None:
    left = memoryview(line)
    while left:
        left = left[os.write(fd, left) :]
