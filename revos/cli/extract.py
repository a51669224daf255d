"""`revos extract`: documents in, one line of JSON out for each.

First all is checked that can be known before anything is sent, without an event loop; then the loop
runs, and ends by itself, by a failure that no document can escape, or by a signal.
"""

from __future__ import annotations

import shlex
import signal
import sys
import time
from contextlib import AsyncExitStack, ExitStack, aclosing
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from anyio.abc import TaskStatus
from attrs import define, field
from cyclopts import Parameter

from revos.cli.asked import prompt_given, target_named
from revos.cli.documents import Document, Format, Misfit
from revos.cli.inputs import Inputs, sources_of
from revos.cli.outputs import (
    Output,
    errors_path,
    failure_line,
    misfit_line,
    open_output,
    result_line,
)
from revos.cli.progress import Bar, Tally
from revos.cli.shared import BAD_INPUT, FAILED, INTERRUPTED, Backend, check_backend, say
from revos.config import Config
from revos.errors import (
    RevosAPIError,
    RevosAuthenticationError,
    RevosClosedError,
    RevosConfigurationError,
    RevosError,
    RevosInputError,
    RevosTokenError,
)
from revos.extraction.strategies import Strategy
from revos.loading import load_config
from revos.logs import configure_logging
from revos.manager import TokenManager
from revos.threads import run_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from revos.extraction.answers import Extraction

__all__ = ["extract", "is_hopeless"]

# When as many of the first documents fail in the same words, so will the others.
ALIKE = 20


def extract(
    # With hyphens, as - is standard input; so an unknown option looks like a document.
    *documents: Annotated[str, Parameter(allow_leading_hyphen=True)],
    model: str,
    target: str,
    prompt: Annotated[str, Parameter(allow_leading_hyphen=True)],
    output: Annotated[
        str | None, Parameter(name=["--output", "-o"], allow_leading_hyphen=True)
    ] = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    concurrency: int = 16,
    strategy: Strategy = "auto",
    repairs: int = 1,
    format_: Annotated[Format | None, Parameter(name="--format")] = None,
    id_: Annotated[str | None, Parameter(name="--id")] = None,
    config: str | None = None,
    backend: Backend = "asyncio",
) -> int:
    """Extract a typed object from each of many documents.

    Each result is a line {"id": ..., "value": ...} of the output, each failure one of the file
    beside it that ends in .errors.jsonl. Exit code: 0 all done, 1 some failed, 2 bad input or
    configuration, 130 interrupted.

    :param documents: Files: JSON lines (.jsonl, .ndjson; an object has the variables of the prompt,
        a string is the only one), CSV (.csv; the first row has the names), any other is one
        document; - is standard input, with JSON lines.
    :param model: A configured model.
    :param target: module:Class, from the current directory too, or a file with a JSON schema
        (.json).
    :param prompt: The prompt with {variables}, or @file.
    :param output: Where results go; standard output without it, and failures to standard error.
    :param resume: Go on with an output that exists: what is in it is not done again.
    :param concurrency: How many documents are under way at once.
    :param strategy: How the gateway is asked for the shape.
    :param repairs: How often an answer that does not fit is sent back.
    :param format_: Of all documents, whatever their names say.
    :param id_: The field with the id of a document; without it, it is file:line.
    :param config: A configuration file (TOML, YAML, JSON); the environment and .env go first.
    :param backend: The event loop that it runs on.
    """
    with ExitStack() as stack:
        try:
            check_backend(backend)
            if concurrency < 1 or repairs < 0:
                raise RevosInputError("--concurrency is at least 1, --repairs at least 0")
            loaded = load_config(config)
            loaded.model(model)
            text = prompt_given(prompt)
            inputs = Inputs(sources_of(documents, format_), frozenset(), id_)
            path = None if output in {None, "-"} else Path(str(output))
            _check_apart(path, inputs)
            kept = stack.enter_context(open_output(path, resume=resume))
            stack.callback(kept.take_back)
            wanted = target_named(target)
            inputs.names = _variables(wanted, text)
            survey = inputs.survey()
            tally = Tally(survey.left(kept.done), before=survey.done(kept.done))
            bar = stack.enter_context(Bar(tally))
            configure_logging(loaded)  # With a handler that prints above the bar.
            # The manager would do it in a thread, and no signal ends a thread that imports.
            import_module("revos.extraction.chat")
        except RevosError as error:
            stack.close()
            say(error)
            return BAD_INPUT
        run = Run(
            config=loaded,
            model=model,
            target=wanted,
            prompt=text,
            inputs=inputs,
            output=kept,
            options={"strategy": strategy, "repairs": repairs, "max_concurrency": concurrency},
            tally=tally,
            bar=bar,
        )
        kept.begin()
        tally.began_at = time.monotonic()
        try:
            anyio.run(run.until_ended, backend=backend)
        except* KeyboardInterrupt:  # The second, or on Windows.
            run.signal = run.signal or signal.SIGINT
    return run.told()


def _check_apart(output: Path | None, inputs: Inputs) -> None:
    """:raises RevosInputError: what is read would be written to"""
    for file in () if output is None else (output, errors_path(output)):
        for source in inputs.sources:
            if source.path is not None and file.exists() and source.path.samefile(file):
                raise RevosInputError(f"{file} is an input, too: choose another file with -o")


def _variables(target: Any, prompt: str) -> frozenset[str]:
    """The variables of the prompt, once it and the target are known to work.

    :raises RevosInputError: one of them does not
    """
    # They import LangChain and pydantic; what comes first here need not be waited for later.
    from revos.extraction.prompts import prompt_of
    from revos.extraction.targets import target_of

    names = prompt_of(prompt).needed
    if not names:
        raise RevosInputError(
            "the prompt has no variable, so each document would be asked the same: name one, "
            "like {text}"
        )
    target_of(target)
    return names


def is_hopeless(error: RevosError) -> bool:
    """Whether every other document will fail in the same way.

    >>> is_hopeless(RevosAPIError("no such model", available_models=("gpt-4",)))
    True
    >>> is_hopeless(RevosAPIError("try again later", status_code=503, temporary=True))
    False
    """
    if isinstance(error, RevosAPIError):
        return bool(error.available_models) or error.status_code == 401
    if isinstance(error, RevosAuthenticationError):
        return not error.temporary
    return isinstance(error, RevosClosedError | RevosConfigurationError)


@define
class Run:
    """One run over all documents, and what ended it."""

    config: Config
    model: str
    target: Any
    prompt: str
    inputs: Inputs
    output: Output
    options: dict[str, Any]
    tally: Tally
    bar: Bar

    ended_by: RevosError | None = field(default=None, init=False)
    signal: int | None = field(default=None, init=False)
    _under_way: dict[int, Document] = field(factory=dict, init=False)
    _last_words: str | None = field(default=None, init=False)
    _alike: int = field(default=0, init=False)

    async def until_ended(self) -> None:
        async with anyio.create_task_group() as tasks:
            if sys.platform != "win32":  # There Ctrl-C is a KeyboardInterrupt.
                await tasks.start(self._watch_signals, tasks.cancel_scope)
            tasks.start_soon(self.bar.keep_drawn)
            try:
                await self._extract_all()
            except RevosError as error:
                self.ended_by = error
            except OSError as error:  # Of the output.
                self.ended_by = RevosError(_unwritable(self.output, error))
            tasks.cancel_scope.cancel()

    async def _watch_signals(
        self, scope: anyio.CancelScope, *, task_status: TaskStatus[None]
    ) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                self.signal = number
                scope.cancel()
                return  # A second one ends the process as it would any other.

    async def _extract_all(self) -> None:
        async with AsyncExitStack() as stack:
            tm = await stack.enter_async_context(TokenManager(self.config))
            ex = await stack.enter_async_context(tm.extractor(self.model, **self.options))
            documents = await stack.enter_async_context(aclosing(self._variables()))
            results = await stack.enter_async_context(
                ex.extract_many(self.target, self.prompt, documents)
            )
            async for result in results:
                await self._keep(result)

    async def _variables(self) -> AsyncGenerator[dict[str, object], None]:
        """What `extract_many` pulls; it numbers the documents as they are pulled."""
        index = 0
        async with aclosing(self.inputs.documents(self.output.done, self._fail)) as documents:
            async for document in documents:
                self._under_way[index] = document
                index += 1
                yield document.variables

    async def _fail(self, misfit: Misfit) -> None:
        await self._write_failure(misfit_line(misfit))

    async def _keep(self, result: Extraction[Any]) -> None:
        document = self._under_way.pop(result.index or 0)
        self.tally.usage += result.usage
        if result.error is None:
            try:
                line = result_line(document.id, result.value)
            except ValueError as error:
                await self._write_failure(failure_line(document.id, error))
            else:
                await run_in_thread(self._write_result, line, abandon=False)
            return
        if is_hopeless(result.error):
            raise result.error
        await self._write_failure(failure_line(document.id, result.error))
        self._stop_where_all_fail(result.error)

    # Counted where it is written, or a signal could come between the two.

    def _write_result(self, line: bytes) -> None:
        self.output.write(line)
        self.tally.done += 1

    async def _write_failure(self, line: bytes) -> None:
        def write() -> None:
            self.output.write_failure(line)
            self.tally.failed += 1

        await run_in_thread(write, abandon=False)

    def _stop_where_all_fail(self, error: RevosError) -> None:
        """A gateway that has answered no document, and refuses each in the same words."""
        words = str(error) if isinstance(error, RevosAPIError | RevosTokenError) else None
        self._alike = self._alike + 1 if words == self._last_words else 1
        self._last_words = words
        if words is not None and not self.tally.done and self._alike >= ALIKE:
            raise error

    # The end.

    def told(self) -> int:
        """The exit code, once the user knows."""
        if self.ended_by is not None:
            say(f"stopped: {self.ended_by}")
        elif self.signal is not None:
            say(f"stopped by {signal.Signals(self.signal).name}")
        say(self.tally.summary(self.output.failures_place, time.monotonic()))
        if self.signal is not None or self.ended_by is not None:
            say(self._how_to_go_on())
        if self.signal is not None:
            return INTERRUPTED + self.signal
        if isinstance(self.ended_by, RevosInputError | RevosConfigurationError):
            return BAD_INPUT
        return FAILED if self.ended_by is not None or self.tally.failed else 0

    def _how_to_go_on(self) -> str:
        if self.output.path is None:
            return "with -o FILE a run can be gone on with"
        arguments = sys.argv[1:]
        if "--resume" not in arguments:
            arguments = [*arguments, "--resume"]
        return f"go on with: {shlex.join(['revos', *arguments])}"


def _unwritable(output: Output, error: OSError) -> str:
    if isinstance(error, BrokenPipeError):
        return "nobody reads standard output any more"
    place = "standard output" if output.path is None else output.path
    return f"{place} can't be written: {error.strerror}"
