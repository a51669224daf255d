"""The errors of revos: what happened, to whom, and what to do.

Every error is a `RevosError`. None holds a token, a secret or an assertion in its text, its
arguments or its attributes. An outcome that several waiting callers share is raised to each as a
copy of its own (`own_copy`), or their tracebacks would pile up on one object.
"""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

import anyio
from attrs import frozen

__all__ = [
    "Problem",
    "RevosAPIError",
    "RevosAuthenticationError",
    "RevosClosedError",
    "RevosConfigurationError",
    "RevosError",
    "RevosInputError",
    "RevosTokenError",
    "RevosValidationError",
]


class RevosError(Exception):
    """Anything that revos raises on purpose.

    `temporary` is true where trying the same again later can help.

    >>> try:
    ...     raise RevosConfigurationError("REVOS_CLIENT_ID is missing")
    ... except RevosError as error:
    ...     print(error.temporary, error)
    False REVOS_CLIENT_ID is missing
    """

    temporary: bool = False


class RevosConfigurationError(RevosError):
    """Something is configured wrongly or missing; the text names each problem and its remedy.

    `problems` has them one by one.
    """

    def __init__(self, message: str = "", *, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems or ((message,) if message else ())


class RevosTokenError(RevosError):
    """No token can be given."""


class RevosAuthenticationError(RevosTokenError):
    """A cycle of token requests failed (RFC 6749 §5.2, or no answer at all).

    :ivar attempts: token requests of the whole cycle
    :ivar retry_after: seconds to the next cycle, or None
    :ivar status_code: HTTP status of the last attempt, or None where no answer came
    :ivar error: the OAuth `error` of the last attempt, or None
    :ivar error_description: its `error_description`, masked, or None
    :ivar method: the client authentication method of the last attempt (RFC 7591 §2 name)

    A transport error is the `__cause__`, without its traceback: frames hold headers and forms.
    """

    def __init__(
        self,
        message: str = "",
        *,
        attempts: int = 0,
        retry_after: float | None = None,
        status_code: int | None = None,
        error: str | None = None,
        error_description: str | None = None,
        method: str | None = None,
        temporary: bool = False,
    ) -> None:
        super().__init__(message)
        self.attempts = attempts
        self.retry_after = retry_after
        self.status_code = status_code
        self.error = error
        self.error_description = error_description
        self.method = method
        self.temporary = temporary


class RevosClosedError(RevosTokenError, anyio.ClosedResourceError):
    """The manager is closed, or is not entered yet."""


class RevosAPIError(RevosError):
    """The gateway refused a request or could not be reached.

    :ivar status_code: HTTP status, or None where no answer came
    :ivar code: the gateway's own `error.code`, or None
    :ivar retry_after: seconds that the gateway asked to wait, or None
    :ivar available_models: for an unknown model id, the ids that the gateway accepts
    :ivar features: what of the request the gateway's words name: `json_schema`, `tools`,
        `stream_options`
    """

    def __init__(
        self,
        message: str = "",
        *,
        status_code: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        available_models: tuple[str, ...] = (),
        features: tuple[str, ...] = (),
        temporary: bool = False,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code
        self.features = features
        self.retry_after = retry_after
        self.available_models = available_models
        self.temporary = temporary


@frozen
class Problem:
    """One thing that does not fit: where (`people.0.age`; empty for the whole) and what."""

    path: str
    message: str


class RevosValidationError(RevosError):
    """The model's answer did not fit the target.

    :ivar reason: `invalid`: it does not fit, not after the repairs either; `refusal`: the model
        would not answer; `content_filter`: the gateway held it back; `length`: it was cut off at
        `max_tokens`
    :ivar raw: the answer as it came
    :ivar problems: what did not fit, each with `path` and `message`
    :ivar target: the type that was asked for
    """

    def __init__(
        self,
        message: str = "",
        *,
        reason: Literal["invalid", "refusal", "content_filter", "length"] = "invalid",
        raw: str | None = None,
        problems: tuple[Problem, ...] = (),
        target: object = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.raw = raw
        self.problems = problems
        self.target = target


class RevosInputError(RevosError, ValueError):
    """A prompt, its variables or a target that cannot work; nothing was sent."""


E = TypeVar("E", bound=RevosError)


def own_copy(error: E) -> E:
    """The same error as an object of its own, for one more waiter: no traceback, same cause."""
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__  # Which hides the context, too.
    return twin
