"""How a gateway is asked for an answer of a given shape, and when it is asked another way.

A strategy is data for the request. `auto` steps down when the gateway refuses the feature that a
strategy needs; which one serves is remembered for each model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from revos.errors import RevosAPIError, RevosInputError

if TYPE_CHECKING:
    from revos.extraction.targets import Target

__all__ = ["STEPS", "Step", "Strategy", "features_in", "next_step", "request_options", "steps_of"]

Step = Literal["json_schema", "tools"]
Strategy = Literal["auto", "json_schema", "tools"]

STEPS: tuple[Step, ...] = ("json_schema", "tools")

# What a gateway's refusal of the feature has in its text, param or code.
_NAMES: dict[Step, tuple[str, ...]] = {
    "json_schema": ("response_format", "json_schema", "structured output"),
    "tools": ("tool", "function"),
}


def steps_of(strategy: Strategy) -> tuple[Step, ...]:
    """The steps that a strategy may take, the first one first.

    :raises RevosInputError: there is no such strategy
    """
    if strategy == "auto":
        return STEPS
    if strategy in STEPS:
        return (strategy,)
    raise RevosInputError(f"no strategy {strategy!r}: there are auto, {', '.join(STEPS)}")


def next_step(steps: tuple[Step, ...], refused: Step, error: RevosAPIError) -> Step | None:
    """The step after one that the gateway refused, or None where the error is about something
    else or there is no further one.
    """
    if error.status_code not in (400, 422) or refused not in error.features:
        return None
    later = steps[steps.index(refused) + 1 :]
    return later[0] if later else None


def features_in(words: str) -> tuple[str, ...]:
    """The features that a gateway's answer names, wherever in it.

    >>> features_in('{"detail": [{"loc": ["body", "response_format"], "msg": "not permitted"}]}')
    ('json_schema',)
    """
    words = words.lower()
    return tuple(step for step in STEPS if any(name in words for name in _NAMES[step]))


def request_options(step: Step, target: Target) -> dict[str, Any]:
    """What the step adds to a chat completion request."""
    if step == "json_schema":
        schema = {"name": target.name, "schema": target.schema, "strict": target.strict}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    function = {
        "name": target.name,
        "description": target.description,
        "parameters": target.schema,
        "strict": target.strict,
    }
    return {
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": target.name}},
    }
