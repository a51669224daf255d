"""An object that grows while its answer arrives, and is validated at the end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from revos.errors import RevosClosedError, RevosError, own_copy
from revos.extraction.answers import Extraction
from revos.extraction.asking import Asking, Bound
from revos.extraction.block import Block
from revos.extraction.json_text import known_so_far

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from revos.extraction.targets import Target

__all__ = ["PartialExtraction"]

T = TypeVar("T")

# A text that is longer is read anew only once it has grown by that part of it, or the time for a
# long answer would grow with the square of its length.
SHORT, GROWN_BY = 4096, 64


class PartialExtraction(Block[str], Generic[T]):
    """What `extract_stream` gives: an async context manager, and inside it an async iterator of
    what is known so far.
    """

    def __init__(
        self,
        bind: Callable[[], Awaitable[Bound]],
        target: Any,
        prompt: Any,
        variables: Mapping[str, Any],
    ) -> None:
        super().__init__("extract_stream")
        self._bind, self._wanted, self._prompt, self._variables = bind, target, prompt, variables
        self._text = ""
        self._looks_at = 0
        self._said: str | None = None
        self._last: Any = None
        self._result: Extraction[T] | None = None
        self._failure: RevosError | None = None
        self._target: Target
        self._is_wrapped: bool

    async def _prepare(self) -> Callable[[], Awaitable[None]]:
        bound = await self._bind()
        from revos.extraction.prompts import prompt_of

        self._target = bound.runtime.target_of(self._wanted)
        # Then an answer without the wrapping object is one, too.
        self._is_wrapped = self._target.unwrapped({"value": None}) is None
        messages = prompt_of(self._prompt).messages(self._variables)
        return partial(self._extract, bound, messages)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        """What is known now, where that is more than before: a dict, or a list where the target is
        one.

        :raises RevosValidationError: the answer, which has ended, does not fit
        :raises RevosAPIError: the gateway refused, or could not be reached
        :raises RevosTokenError: no token could be had
        """
        while True:
            part = await self._take()
            if part is None:
                if self._failure is not None:
                    raise own_copy(self._failure)
                if self._said is None:
                    raise StopAsyncIteration
                # What stood before may not have been it: as thoughts that are known by their end.
                known = self._target.unwrapped(json.loads(self._said))
                self._said = None
            else:
                self._text += part
                length = len(self._text)
                if length < self._looks_at:
                    continue
                self._looks_at = length + max(0, length - SHORT) // GROWN_BY
                known = self._target.unwrapped(
                    known_so_far(self._text, self._fits, "[{" if self._is_wrapped else "{")
                )
            if known is not None and known != self._last:
                self._last = known
                return known

    @property
    def value(self) -> T:
        """The instance of the target, once the answer has ended.

        :raises RevosError: why there is none
        """
        return self.result.value

    @property
    def result(self) -> Extraction[T]:
        """The instance and what it cost, once the answer has ended.

        :raises RevosError: why there is none
        """
        if self._failure is not None:
            raise own_copy(self._failure)
        if self._result is None:
            raise RevosClosedError("the answer has not ended: read all of its parts first")
        return self._result

    def _fits(self, text: str) -> bool:
        try:
            self._target.read(text)
        except Exception:  # noqa: BLE001 - a validator may raise anything; it is told at the end
            return False
        return True

    async def _hand_on(self, part: str) -> None:
        self._give(part)

    async def _extract(self, bound: Bound, messages: list[BaseMessage]) -> None:
        asking = Asking(bound, self._target, on_part=self._hand_on)
        clock = bound.manager._clock
        began_at = clock.monotonic()
        try:
            with bound.runtime.while_open():
                value = await asking.instance(messages)
        except RevosError as error:
            self._failure = error
        else:
            self._said = asking.said
            self._result = asking.extraction(value, clock.monotonic() - began_at)
