"""One document's way to an instance: strategies, retries, repairs, and what they cost."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from attrs import define, field, frozen

from revos import policy
from revos.config import ModelConfig
from revos.errors import (
    Problem,
    RevosAPIError,
    RevosError,
    RevosTokenError,
    RevosValidationError,
)
from revos.extraction.answers import UNFINISHED, Completion, Extraction, Usage
from revos.extraction.json_text import is_cut_off, json_values
from revos.extraction.pacing import Pace
from revos.extraction.strategies import (
    THIS_SCHEMA,
    Step,
    instruction,
    later,
    next_step,
    request_options,
)
from revos.redact import redact

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_openai import ChatOpenAI

    from revos.extraction.runtime import Runtime
    from revos.extraction.targets import Target
    from revos.manager import TokenManager

__all__ = ["Asking", "Bound"]

logger = logging.getLogger("revos.extraction")

# Where a gateway lets few through at a time, one may be refused that many times as often as it may
# fail, while others get on. One that is refused for ever has an end, too.
UNLUCKY = 10


@frozen(eq=False)
class Bound:
    """What an extractor has once it belongs to a manager."""

    name: str
    manager: TokenManager
    runtime: Runtime
    config: ModelConfig
    llm: ChatOpenAI
    steps: tuple[Step, ...]
    repairs: int
    pace: Pace


@define(eq=False)
class Asking:
    """:ivar patient: one of many documents: what keeps all of them waiting is waited for longer
    :ivar on_part: takes the text as it comes; after the first part nothing is tried again
    :ivar said: the JSON that the instance was made of
    """

    bound: Bound
    target: Target
    patient: bool = False
    on_part: Callable[[str], Awaitable[None]] | None = None
    said: str = field(default="", init=False, repr=False)
    _usage: Usage = field(factory=Usage, init=False)
    _raw: str | None = field(default=None, init=False, repr=False)
    _strategy: Step | None = field(default=None, init=False)
    _attempts: int = field(default=0, init=False)
    _model: str | None = field(default=None, init=False)
    _has_begun: bool = field(default=False, init=False)

    async def instance(self, messages: list[BaseMessage]) -> Any:
        """An instance of the target.

        :raises RevosValidationError: the answers do not fit, or there is none
        :raises RevosAPIError: the gateway refused, or could not be reached
        :raises RevosTokenError: no token could be had
        """
        from revos.extraction.repairs import complaint

        repairs = 0 if self.on_part is not None else self.bound.repairs
        while True:
            completion = await self._complete(messages)
            try:
                return self._read(completion)
            except RevosValidationError as error:
                if error.reason != "invalid" or repairs == 0:
                    raise
                repairs -= 1
                messages = [*messages, *complaint(completion.answer, error)]

    def extraction(self, value: Any, seconds: float, **more: Any) -> Extraction[Any]:
        """What came of it, with what it cost."""
        return Extraction(
            value=value,
            usage=self._usage,
            raw=self._raw,
            strategy=self._strategy,
            attempts=self._attempts,
            model=self._model,
            seconds=seconds,
            **more,
        )

    def _read(self, completion: Completion) -> Any:
        """The first value of the answer that fits, or what is wrong with the first of all."""
        try:
            _check_whole(completion)
            if not completion.answer:
                raise _no_answer(self.target)
            if len(completion.calls) > 1:
                return self._read_calls(completion.calls)
            return self._first_that_fits(completion.answer)
        except RevosValidationError as error:
            error.raw, error.target = completion.answer, self.target.type
            if completion.finish_reason != UNFINISHED or error.reason == "refusal":
                raise
            if completion.answer and not is_cut_off(completion.answer):
                raise
            where = "in the middle" if completion.answer else "before there was one"
            raise RevosAPIError(
                f"the gateway broke its answer off, {where} and without a finish_reason",
                temporary=True,
            ) from error

    def _read_calls(self, calls: tuple[str, ...]) -> Any:
        """Of several calls of the tool nothing may be lost: the items of a list stand together,
        and else all that fit must say the same.
        """
        joined = self.target.joined(calls)
        if joined is not None:
            return self._first_that_fits(joined)
        fitting: dict[str, Any] = {}
        misfits: list[RevosValidationError] = []
        for call in calls:
            try:
                value = self._first_that_fits(call)
            except RevosValidationError as error:
                misfits.append(error)
            else:
                fitting.setdefault(json.dumps(json.loads(self.said), sort_keys=True), value)
        if not fitting:
            raise misfits[0]
        if len(fitting) > 1 or self.target.is_list:
            raise _several_calls(self.target, len(calls))
        return next(iter(fitting.values()))

    def _first_that_fits(self, answer: str) -> Any:
        first: RevosValidationError | None = None
        for text in json_values(answer):
            try:
                value = self._read_value(text)
            except RevosValidationError as error:
                first = first or error
            else:
                self.said = text
                return value
        if first is None:
            first = RevosValidationError(
                f"the model's answer does not fit {self.target.name}: there is no JSON in it",
                problems=(Problem("", "no JSON value in the answer"),),
            )
        raise first

    def _read_value(self, text: str) -> Any:
        try:
            return self.target.read(text)
        except RevosError:
            raise
        except Exception as error:
            # Raised by code of the target's: a validator, a converter.
            problem = Problem("", f"{type(error).__name__}: {error}")
            raise RevosValidationError(
                f"the model's answer does not fit {self.target.name}: {problem.message}",
                problems=(problem,),
            ) from error

    async def _complete(self, messages: list[BaseMessage]) -> Completion:
        """The completion by the first strategy that the gateway takes."""
        steps = self.bound.steps
        step = self._first_step()
        refused: list[Step] = []
        is_of_schema = False
        while True:
            try:
                completion = await self._complete_by(step, messages)
            except RevosAPIError as error:
                following = next_step(steps, step, error)
                if following is None:
                    raise await self._with_model_ids(error) from error.__cause__
                refused.append(step)
                is_of_schema |= THIS_SCHEMA in error.features
                step = later(following, self._first_step())
            else:
                self._strategy, self._raw = step, completion.answer
                self._attempts += 1
                self._usage += completion.usage
                self._model = completion.model or self._model
                self._remember(refused, step, is_of_schema=is_of_schema)
                return completion

    def _first_step(self) -> Step:
        first = self.bound.steps[0]
        runtime = self.bound.runtime
        of_schema = runtime.remembered_of_schemas.get(self.target, {})
        for remembered in (runtime.remembered, of_schema):
            step = remembered.get(self.bound.config)
            if step in self.bound.steps:
                first = later(first, step)
        return first

    def _remember(self, refused: list[Step], served: Step, *, is_of_schema: bool) -> None:
        """Once the gateway has taken the same request another way: then it was the feature, or the
        schema of the one target.
        """
        remembered = self.bound.runtime.remembered
        if is_of_schema:
            remembered = self.bound.runtime.remembered_of_schemas.setdefault(self.target, {})
        if refused and remembered.get(self.bound.config) in (None, *refused):
            remembered[self.bound.config] = served
            logger.info(
                "the gateway refuses %s for %r%s: using %s",
                " and ".join(refused),
                self.bound.name,
                f" with the schema of {self.target.name}" if is_of_schema else "",
                served,
            )

    async def _complete_by(self, step: Step, messages: list[BaseMessage]) -> Completion:
        from revos.extraction.chat import complete, stream
        from revos.extraction.prompts import with_instruction

        if step == "json_text":
            messages = with_instruction(messages, instruction(self.target))
        ask: Callable[..., Awaitable[Completion]] = complete
        if (on_part := self.on_part) is not None:

            async def hand_on(part: str) -> None:
                self._has_begun = True
                await on_part(part)

            ask = partial(stream, on_part=self.bound.runtime.callable_from_asyncio(hand_on))
        return await self._with_retries(ask, messages, request_options(step, self.target))

    async def _with_retries(
        self,
        ask: Callable[..., Awaitable[Completion]],
        messages: list[BaseMessage],
        options: dict[str, Any],
    ) -> Completion:
        """The one layer of retries for what passes by itself: 429, 5xx, no connection."""
        bound, pace = self.bound, self.bound.pace
        failures = successes = 0
        while True:
            try:
                async with pace.turn(patient=self.patient):
                    if failures == 0:
                        successes = pace.successes
                    completion = await bound.runtime.call(ask, bound.llm, messages, options)
            except (RevosAPIError, RevosTokenError) as error:
                others_get_on = pace.successes != successes
                failures += 1
                successes = pace.successes
                if not self._may_try_again(error, failures, others_get_on=others_get_on):
                    raise
                told = _told(error)
                if told is None and others_get_on:
                    in_a_row = 1 if _is_busy(error) else failures
                    pause = policy.pause(in_a_row, bound.manager._random())
                else:
                    pause = pace.hold(told, bound.manager._random())
                    if told is None and not self.patient:
                        pause = policy.pause(failures, bound.manager._random())
                # Not the gateway's words: they may repeat the prompt.
                logger.info("%r: %s; again in %.1f s", bound.name, _brief(error), pause)
            else:
                pace.succeeded()
                return completion
            await bound.manager._clock.sleep(pause)

    def _may_try_again(
        self, error: RevosAPIError | RevosTokenError, failures: int, *, others_get_on: bool
    ) -> bool:
        if self._has_begun or not error.temporary:
            return False
        if isinstance(error, RevosTokenError) and not self.patient:
            return False  # It comes of a whole cycle of tries.
        longest = policy.LONGEST_RETRY_AFTER_IN_CYCLE
        if self.patient:
            longest = policy.LONGEST_RETRY_AFTER
        told = _told(error)
        if told is not None and told > longest:
            return False
        most = self.bound.manager.config.revos.max_retries
        its_turn_comes = others_get_on or (self.patient and not self.bound.pace.is_at_longest)
        if _is_busy(error) and its_turn_comes:
            most *= UNLUCKY
        return failures < most

    async def _with_model_ids(self, error: RevosAPIError) -> RevosAPIError:
        """For an unknown model id, the error with the ids that the gateway accepts.

        OpenAI says 404 to one, LiteLLM 400; the list tells whether it is one.
        """
        if error.status_code not in (400, 404) or "model" not in f"{error} {error.code}".lower():
            return error
        try:
            ids = tuple(await self.bound.runtime.model_ids())
        except RevosError:  # What was asked for is the first error; that stands without the list.
            return error
        if not ids or self.bound.config.model in ids:
            return error
        return RevosAPIError(
            f"{error}; the gateway accepts: {redact(', '.join(ids), ())}",
            status_code=error.status_code,
            code=error.code,
            retry_after=error.retry_after,
            available_models=ids,
        )


def _told(error: RevosAPIError | RevosTokenError) -> float | None:
    """Seconds to wait, where the gateway or the manager knows them."""
    told: float | None = getattr(error, "retry_after", None)
    return told


def _brief(error: RevosAPIError | RevosTokenError) -> str:
    if isinstance(error, RevosTokenError):
        return "no token could be had"
    if error.status_code is None:
        return "the gateway could not be reached"
    return f"the gateway refused with HTTP {error.status_code}"


def _is_busy(error: RevosError) -> bool:
    return isinstance(error, RevosAPIError) and error.status_code == 429


_HELD_BACK: dict[str, tuple[Literal["length", "content_filter"], str]] = {
    "length": ("length", "the answer was cut off at its longest: raise max_tokens of this model"),
    "content_filter": ("content_filter", "the gateway's content filter held the answer back"),
}


def _check_whole(completion: Completion) -> None:
    """:raises RevosValidationError: the model refused, or its answer is not whole"""
    reason: Literal["refusal", "length", "content_filter"]
    if completion.refusal is not None:
        reason, words = "refusal", f"the model refused to answer: {completion.refusal}"
    elif completion.finish_reason in _HELD_BACK:
        reason, words = _HELD_BACK[completion.finish_reason]
    else:
        return
    raise RevosValidationError(words, reason=reason)


def _no_answer(target: Target) -> RevosValidationError:
    return RevosValidationError(
        f"the model gave no answer to fit {target.name}",
        problems=(Problem("", "no answer"),),
    )


def _several_calls(target: Target, count: int) -> RevosValidationError:
    words = f"{target.name} was called {count} times, and only one answer is wanted"
    return RevosValidationError(
        f"the model's answer does not fit {target.name}: {words}",
        problems=(Problem("", f"{words}: call it once, with all that belongs to it"),),
    )
