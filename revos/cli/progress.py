"""How far a run is: counted always, shown by a bar on a terminal, told in a line at the end."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import anyio
from attrs import define, field

from revos.extraction.answers import Usage
from revos.threads import run_in_thread

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Bar", "Tally"]

SECONDS_BETWEEN_DRAWS = 0.1


@define
class Tally:
    """What was counted in this run.

    :ivar total: documents to do; None where a stream does not tell
    :ivar before: documents that earlier runs have done
    :ivar began_at: monotonic

    >>> tally = Tally(1000, began_at=0.0, done=95, failed=5, usage=Usage(20_000, 1_500, 21_500))
    >>> print(tally.head(), tally.tail(at=50.0), sep=" | ")
    100/1,000 | 5 failed  2.0/s  21,500 tokens  0:07:30 left
    >>> tally.summary("errors.jsonl", at=50.0)
    '95 done, 5 failed (errors.jsonl), 21,500 tokens (20,000 prompt, 1,500 completion), 50.0 s'
    """

    total: int | None = None
    before: int = 0
    began_at: float = field(factory=time.monotonic)
    done: int = 0
    failed: int = 0
    usage: Usage = field(factory=Usage)

    @property
    def ended(self) -> int:
        return self.done + self.failed

    def head(self) -> str:
        return f"{self.ended:,}" if self.total is None else f"{self.ended:,}/{self.total:,}"

    def tail(self, at: float) -> str:
        rate = self.ended / max(at - self.began_at, 0.001)
        told = [f"{self.failed:,} failed", f"{rate:.1f}/s", f"{self.usage.total_tokens:,} tokens"]
        if self.total is not None and rate:
            minutes, seconds = divmod(round(max(0, self.total - self.ended) / rate), 60)
            told.append(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left")
        return "  ".join(told)

    def summary(self, failures_place: str, at: float) -> str:
        where = f" ({failures_place})" if self.failed else ""
        before = f" (and {self.before:,} before)" if self.before else ""
        return (
            f"{self.done:,} done{before}, {self.failed:,} failed{where}, "
            f"{self.usage.total_tokens:,} tokens ({self.usage.prompt_tokens:,} prompt, "
            f"{self.usage.completion_tokens:,} completion), {at - self.began_at:.1f} s"
        )


class Bar:
    """A bar on standard error while the block runs, where that is a terminal.

    Meanwhile `sys.stderr` is one that prints above it.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        # Not what rich takes for a terminal: a variable of the environment can make one of a pipe.
        if sys.stderr is None or not sys.stderr.isatty():
            return self
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[tail]}"),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            expand=True,
        )
        self._task = self._progress.add_task(self._tally.head(), total=self._tally.total, tail="")
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            with suppress(OSError):  # The terminal is gone.
                self._progress.stop()

    async def keep_drawn(self) -> None:
        """Draw it again and again, until cancelled; in a thread, as a terminal may stop taking."""
        while self._progress is not None:
            await run_in_thread(self._draw, self._progress, abandon=False)
            await anyio.sleep(SECONDS_BETWEEN_DRAWS)

    def _draw(self, progress: Progress) -> None:
        tally = self._tally
        with suppress(OSError):
            progress.update(
                self._task,
                completed=tally.ended,
                description=tally.head(),
                tail=tally.tail(time.monotonic()),
                refresh=True,
            )
