"""What comes back: the answer of a model, what it cost, and what was extracted. Pure data."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from attrs import field, frozen

from revos.errors import RevosError, own_copy

__all__ = ["UNFINISHED", "Completion", "Extraction", "Progress", "Usage"]

T = TypeVar("T")

UNFINISHED = "unfinished"


@frozen
class Usage:
    """Tokens of a model, as the gateway counted them; zeros where it does not say.

    >>> Usage(10, 5, 15) + Usage(1, 1, 2)
    Usage(prompt_tokens=11, completion_tokens=6, total_tokens=17)
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
        )


@frozen
class Completion:
    """One answer of a model.

    :ivar answer: its text, or the arguments of the tool that it called (JSON)
    :ivar calls: where the answer is of calls, the arguments of each
    :ivar finish_reason: as the API names them: `length` and `content_filter` are no whole answer;
        `unfinished` where a stream ended without one, as all of some do, and any that breaks off
    :ivar refusal: why the model would not answer, in its words
    :ivar model: the model that answered, as the gateway names it
    """

    answer: str | None = field(repr=False)
    finish_reason: str | None = None
    refusal: str | None = field(default=None, repr=False)
    usage: Usage = Usage()
    model: str | None = None
    calls: tuple[str, ...] = field(default=(), repr=False)


@frozen(eq=False)
class Extraction(Generic[T]):
    """What was extracted from one document, and how.

    :ivar error: why there is no value; None where there is one
    :ivar usage: tokens of all attempts
    :ivar raw: the last answer as it came
    :ivar strategy: the one that served: `json_schema`, `tools` or `json_text`
    :ivar attempts: answers of the model, those that were sent back included
    :ivar model: the model that answered, as the gateway names it
    :ivar seconds: from the first request to the value, pauses included
    :ivar index: of the document, from 0, where there are many
    :ivar item: the document, where there are many
    """

    _value: T | None = field(alias="value")
    error: RevosError | None = None
    usage: Usage = Usage()
    raw: str | None = field(default=None, repr=False)
    strategy: str | None = None
    attempts: int = 0
    model: str | None = None
    seconds: float = 0.0
    index: int | None = None
    item: Any = field(default=None, repr=False)

    @property
    def value(self) -> T:
        """The instance of the target.

        :raises RevosError: `error`, where there is one
        """
        if self.error is not None:
            raise own_copy(self.error)
        return self._value  # type: ignore[return-value]  # None is a value of some targets


@frozen
class Progress:
    """How far `extract_many` is.

    :ivar done: documents with a value
    :ivar failed: documents with an error
    :ivar in_flight: documents under way
    :ivar total: how many there are, where that is known
    :ivar seconds: since the block was entered
    """

    done: int
    failed: int
    in_flight: int
    total: int | None
    seconds: float
