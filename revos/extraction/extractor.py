"""`LangChainExtractor`: a prompt and a type in, an instance of the type out.

Making one does nothing. Entering it, or its first use, binds it to an open manager, whose runtime
has the pool of connections and the chat models; a new token costs an extractor nothing, since the
auth of that pool puts the current one into each request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, TypeVarTuple, overload

from revos import scope
from revos.config import Config, match_key
from revos.errors import RevosClosedError, RevosConfigurationError, RevosInputError
from revos.extraction.strategies import Strategy, steps_of

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI

    from revos.extraction.answers import Extraction
    from revos.extraction.asking import Bound
    from revos.extraction.many import Documents, Extractions
    from revos.extraction.streaming import PartialExtraction
    from revos.manager import TokenManager

__all__ = ["Extractors", "LangChainExtractor", "open_extractors"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
E = TypeVar("E")


class LangChainExtractor:
    """Extracts typed objects with one configured model.

    An async context manager; used directly, it binds at its first use to `manager` or to the
    ambient one, and lives as long as that.

    :param model_name: a configured name; case and `-`, `_`, `.` do not matter
    :param manager: the manager; the innermost open one where None
    :param settings: a configuration whose models are used in place of the manager's
    :param strategy: how the gateway is asked for the shape: `json_schema` (`response_format`),
        `tools`, `json_text` (the schema stands in the prompt), or `auto`, the first of these that
        it takes
    :param repairs: how often an answer that does not fit is sent back with its problems
    :param max_concurrency: requests at once
    :raises RevosInputError: one of these can't be

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
        repairs: int = 1,
        max_concurrency: int = 16,
    ) -> None:
        self.model_name = model_name
        self._steps = steps_of(strategy)
        self._repairs = _whole("repairs", repairs, at_least=0)
        self._max_concurrency = _whole("max_concurrency", max_concurrency, at_least=1)
        self._manager = manager
        self._settings = settings
        self._bound: Bound | None = None
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

    @overload
    async def extract(self, target: type[T], prompt: Any, /, **variables: Any) -> T: ...

    @overload
    async def extract(self, target: Any, prompt: Any, /, **variables: Any) -> Any: ...

    async def extract(self, target: Any, prompt: Any, /, **variables: Any) -> Any:
        """An instance of `target`, from the prompt filled with the variables.

        :param target: a pydantic model, an attrs class, a dataclass, a TypedDict, an Enum or a
            plain annotation (`list[Person]`, `int | None`, `Literal[...]`), or a JSON schema
        :param prompt: an f-string-style `str`, or a LangChain prompt template
        :param variables: exactly those of the prompt
        :raises RevosInputError: prompt, variables or target can't work; nothing was sent
        :raises RevosValidationError: the answer does not fit, not after the repairs either
        :raises RevosAPIError: the gateway refused, or could not be reached
        :raises RevosTokenError: no token could be had
        """
        result = await self._extract(target, prompt, variables)
        return result.value

    @overload
    async def extract_result(
        self, target: type[T], prompt: Any, /, **variables: Any
    ) -> Extraction[T]: ...

    @overload
    async def extract_result(
        self, target: Any, prompt: Any, /, **variables: Any
    ) -> Extraction[Any]: ...

    async def extract_result(
        self, target: Any, prompt: Any, /, **variables: Any
    ) -> Extraction[Any]:
        """The same, with what it cost: usage, raw answer, strategy, attempts, model, seconds."""
        return await self._extract(target, prompt, variables)

    @overload
    def extract_many(
        self, target: type[T], prompt: Any, documents: Documents, *, ordered: bool = False
    ) -> Extractions[T]: ...

    @overload
    def extract_many(
        self, target: Any, prompt: Any, documents: Documents, *, ordered: bool = False
    ) -> Extractions[Any]: ...

    def extract_many(
        self, target: Any, prompt: Any, documents: Documents, *, ordered: bool = False
    ) -> Extractions[Any]:
        """Extract from many documents, for `async with`; inside, iterate the results.

        A document that fails is a result with `error`, and never the end of the others. Leaving the
        block cancels what is under way and closes the source.

        :param documents: an iterable, which is iterated in the event loop, or an async one; each is
            a dict of variables, or the text of the prompt's only variable. The next is pulled when
            there is room for it
        :param ordered: results in the order of the documents, in place of as they end
        :raises RevosInputError: the documents are none; on entering also: prompt or target can't
            work

        >>> import anyio
        >>> from revos import TokenManager
        >>> from revos.testing import serve_gateway
        >>> async def main():
        ...     async with serve_gateway() as gateway, TokenManager(gateway.config()) as tm:
        ...         async with tm.extractor("gpt-4") as gpt4:
        ...             texts = ["3 apples", "5 pears"]
        ...             prompt = "How many? {text}"
        ...             async with gpt4.extract_many(int, prompt, texts, ordered=True) as results:
        ...                 return [result.value async for result in results]
        >>> anyio.run(main)
        [3, 5]
        """
        from revos.extraction.many import Extractions

        return Extractions(
            self._bind,
            target,
            prompt,
            documents,
            ordered=ordered,
            max_concurrency=self._max_concurrency,
        )

    @overload
    def extract_stream(
        self, target: type[T], prompt: Any, /, **variables: Any
    ) -> PartialExtraction[T]: ...

    @overload
    def extract_stream(
        self, target: Any, prompt: Any, /, **variables: Any
    ) -> PartialExtraction[Any]: ...

    def extract_stream(
        self, target: Any, prompt: Any, /, **variables: Any
    ) -> PartialExtraction[Any]:
        """Extract while the answer arrives, for `async with`: iterate what is known so far, then
        take `value`. An answer that does not fit is not sent back.

        >>> import anyio
        >>> from revos import TokenManager
        >>> from revos.testing import serve_gateway
        >>> async def main():
        ...     async with serve_gateway() as gateway, TokenManager(gateway.config()) as tm:
        ...         async with tm.extractor("gpt-4") as gpt4:
        ...             prompt = "Which fruit? {text}"
        ...             async with gpt4.extract_stream(list[str], prompt, text="figs") as parts:
        ...                 async for part in parts:
        ...                     assert isinstance(part, list)
        ...             return type(parts.value)
        >>> anyio.run(main)
        <class 'list'>
        """
        from revos.extraction.streaming import PartialExtraction

        return PartialExtraction(self._bind, target, prompt, variables)

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

    async def _bind(self) -> Bound:
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
        from revos.extraction.asking import Bound
        from revos.extraction.pacing import Pace

        if self._bound is None:  # Or another task of its users was first.
            self._bound = Bound(
                name=self.model_name,
                manager=manager,
                runtime=runtime,
                config=config,
                llm=llm,
                steps=self._steps,
                repairs=self._repairs,
                pace=Pace(self._max_concurrency, manager._clock),
            )
        return self._bound

    async def _extract(
        self, target: Any, prompt: Any, variables: Mapping[str, Any]
    ) -> Extraction[Any]:
        bound = await self._bind()
        from revos.extraction.asking import Asking
        from revos.extraction.prompts import prompt_of

        asking = Asking(bound, bound.runtime.target_of(target))
        messages = prompt_of(prompt).messages(variables)
        clock = bound.manager._clock
        began_at = clock.monotonic()
        with bound.runtime.while_open():
            value = await asking.instance(messages)
        return asking.extraction(value, clock.monotonic() - began_at)


def _whole(name: str, value: object, *, at_least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise RevosInputError(f"{name} must be a whole number of at least {at_least}: {value!r}")
    return value


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
