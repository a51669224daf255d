"""`LangChainExtractor`: a prompt and a type in, an instance of the type out.

Making one does nothing. Entering it, or its first use, binds it to an open manager, whose runtime
has the pool of connections and the chat models; a new token costs an extractor nothing, since the
auth of that pool puts the current one into each request.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, TypeVarTuple

from attrs import frozen

from revos import policy, scope
from revos.config import Config, ModelConfig, match_key
from revos.errors import RevosAPIError, RevosClosedError, RevosConfigurationError, RevosError
from revos.extraction.strategies import Strategy, next_step, request_options, steps_of
from revos.redact import redact

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_openai import ChatOpenAI

    from revos.extraction.chat import Completion
    from revos.extraction.runtime import Runtime
    from revos.extraction.targets import Target
    from revos.manager import TokenManager

__all__ = ["Extractors", "LangChainExtractor", "open_extractors"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
E = TypeVar("E")

logger = logging.getLogger("revos.extraction")


@frozen
class _Bound:
    """What an extractor has once it belongs to a manager."""

    manager: TokenManager
    runtime: Runtime
    config: ModelConfig
    llm: ChatOpenAI


class LangChainExtractor:
    """Extracts typed objects with one configured model.

    An async context manager; used directly, it binds at its first use to `manager` or to the
    ambient one, and lives as long as that.

    :param model_name: a configured name; case and `-`, `_`, `.` do not matter
    :param manager: the manager; the innermost open one where None
    :param settings: a configuration whose models are used in place of the manager's
    :param strategy: `auto`, `json_schema` or `tools`
    :raises RevosInputError: no such strategy

    >>> import anyio, pydantic
    >>> from revos import TokenManager
    >>> from revos.testing import serve_gateway
    >>> class Person(pydantic.BaseModel):
    ...     name: str
    ...     age: int
    >>> async def main():
    ...     async with serve_gateway() as gateway, TokenManager(gateway.config()) as tm:
    ...         async with tm.extractor("gpt-4") as gpt4:
    ...             print(await gpt4.extract(Person, "Extract the person: {text}", text="Ada, 36"))
    >>> anyio.run(main)
    name='Ada' age=36
    """

    def __init__(
        self,
        model_name: str,
        *,
        manager: TokenManager | None = None,
        settings: Config | None = None,
        strategy: Strategy = "auto",
    ) -> None:
        self.model_name = model_name
        self._steps = steps_of(strategy)
        self._manager = manager
        self._settings = settings
        self._bound: _Bound | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._bind()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held that has to be waited for: the pool is the manager's."""
        self._closed = True

    async def extract(self, target: type[T], prompt: Any, /, **variables: Any) -> T:
        """An instance of `target`, from the prompt filled with the variables.

        :param target: a pydantic model class
        :param prompt: an f-string-style `str`, or a LangChain prompt template
        :param variables: exactly those of the prompt
        :raises RevosInputError: prompt, variables or target can't work; nothing was sent
        :raises RevosValidationError: the answer does not fit
        :raises RevosAPIError: the gateway refused, or could not be reached
        :raises RevosTokenError: no token could be had
        """
        bound = await self._bind()
        from revos.extraction.prompts import messages_of

        wanted = bound.runtime.target_of(target)
        messages = messages_of(prompt, variables)
        with bound.runtime.while_open():
            completion = await self._complete(bound, wanted, messages)
        return wanted.read(completion.answer)  # type: ignore[return-value]  # of the target's type

    @property
    def llm(self) -> ChatOpenAI:
        """The chat model for your own chains; its requests carry the current token.

        Under Trio await its coroutines through `run_asyncio`. Its blocking methods belong in a
        worker thread.

        :raises RevosClosedError: the extractor is not entered
        """
        if self._bound is None:
            raise RevosClosedError(
                f"the extractor {self.model_name!r} is not entered yet: use it in `async with`"
            )
        return self._bound.llm

    async def run_asyncio(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run an asyncio-only coroutine function, as those of `llm` are, under either backend.

        On asyncio it runs where it is; under Trio in the event loop that LangChain has there:
        `await ex.run_asyncio(ex.llm.ainvoke, "Hello")`.
        """
        bound = await self._bind()
        with bound.runtime.while_open():
            return await bound.runtime.call(function, *args)

    def __repr__(self) -> str:
        return f"<LangChainExtractor {self.model_name!r}>"

    def _bound_manager(self) -> TokenManager:
        """The manager that it has or will have.

        :raises RevosConfigurationError: there is none
        """
        if self._bound is not None:
            return self._bound.manager
        manager = self._manager if self._manager is not None else scope.innermost()
        if manager is None:
            raise RevosConfigurationError(
                f"the extractor {self.model_name!r} found no open TokenManager around it: use it "
                "inside `async with TokenManager(...)`, or pass manager=..."
            )
        return manager

    async def _bind(self) -> _Bound:
        if self._closed:
            raise RevosClosedError(
                f"the extractor {self.model_name!r} is closed: its block was left"
            )
        if self._bound is not None:
            self._bound.manager._check_here()
            return self._bound
        manager = self._bound_manager()
        config = (self._settings or manager.config).model(self.model_name)
        runtime = await manager._langchain()
        llm = await runtime.llm_for(self.model_name, config)
        self._bound = _Bound(manager, runtime, config, llm)
        return self._bound

    async def _complete(
        self, bound: _Bound, target: Target, messages: list[BaseMessage]
    ) -> Completion:
        """The completion by the first strategy that the gateway takes."""
        step = bound.runtime.remembered.get(bound.config, self._steps[0])
        if step not in self._steps:
            step = self._steps[0]
        while True:
            try:
                return await self._complete_with_retries(
                    bound, messages, request_options(step, target)
                )
            except RevosAPIError as error:
                following = next_step(self._steps, step, error)
                if following is None:
                    raise await _with_model_ids(bound, error) from error.__cause__
            if bound.runtime.remembered.get(bound.config) != following:
                bound.runtime.remembered[bound.config] = following
                logger.info(
                    "the gateway refuses %s for %r: using %s", step, self.model_name, following
                )
            step = following

    async def _complete_with_retries(
        self, bound: _Bound, messages: list[BaseMessage], options: dict[str, Any]
    ) -> Completion:
        """The one layer of retries for what passes by itself: 429, 5xx, no connection."""
        from revos.extraction.chat import complete

        manager = bound.manager
        failures = 0
        while True:
            try:
                return await bound.runtime.call(complete, bound.llm, messages, options)
            except RevosAPIError as error:
                failures += 1
                told = error.retry_after
                if (
                    not error.temporary
                    or failures >= manager.config.revos.max_retries
                    or (told is not None and told > policy.LONGEST_RETRY_AFTER_IN_CYCLE)
                ):
                    raise
                seconds = policy.pause(failures, manager._random()) if told is None else told
                logger.info("%r: %s; again in %.1f s", self.model_name, error, seconds)
            await manager._clock.sleep(seconds)


async def _with_model_ids(bound: _Bound, error: RevosAPIError) -> RevosAPIError:
    """For an unknown model id, the error with the ids that the gateway accepts.

    OpenAI says 404 to one, LiteLLM 400; the list tells whether it is one.
    """
    if error.status_code not in (400, 404) or "model" not in f"{error} {error.code}".lower():
        return error
    try:
        ids = tuple(await bound.runtime.model_ids())
    except RevosError:  # What was asked for is the first error; that stands without the list.
        return error
    if not ids or bound.config.model in ids:
        return error
    return RevosAPIError(
        f"{error}; the gateway accepts: {redact(', '.join(ids), ())}",
        status_code=error.status_code,
        code=error.code,
        retry_after=error.retry_after,
        available_models=ids,
    )


class Extractors(Mapping[str, E], Generic[E]):
    """Extractors by model name; keys match as model names do."""

    def __init__(self, by_name: Mapping[str, E]) -> None:
        self._by_name = dict(by_name)
        self._names = {match_key(name): name for name in by_name}

    def __getitem__(self, name: str) -> E:
        return self._by_name[self._names.get(match_key(name), name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


@asynccontextmanager
async def open_extractors(
    manager: TokenManager, names: tuple[str, ...]
) -> AsyncIterator[Extractors[LangChainExtractor]]:
    """All configured extractors, or the named ones, entered."""
    made = {
        name: LangChainExtractor(name, manager=manager) for name in names or manager.config.models
    }
    for extractor in made.values():
        await extractor.__aenter__()
    try:
        yield Extractors(made)
    finally:
        for extractor in made.values():
            extractor.close()
