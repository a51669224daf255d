"""How a gateway is asked for an answer of a given shape, and when it is asked another way.

A strategy is data for the request. `auto` steps down when the gateway refuses the feature that a
strategy needs; which one serves is remembered for each model, or where it was but one schema that
was refused, for that. The last one needs nothing: the
schema stands in the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, get_args

from revos.errors import RevosAPIError, RevosInputError

if TYPE_CHECKING:
    from revos.extraction.targets import Target

__all__ = [
    "STEPS",
    "THIS_SCHEMA",
    "Step",
    "Strategy",
    "features_in",
    "instruction",
    "later",
    "next_step",
    "request_options",
    "steps_of",
]

Step = Literal["json_schema", "tools", "json_text"]
Strategy = Literal["auto", "json_schema", "tools", "json_text"]

STEPS: tuple[Step, ...] = get_args(Step)

# What a gateway's refusal of the feature has in its text, param or code.
_NAMES: dict[str, re.Pattern[str]] = {
    "json_schema": re.compile(
        r"response[_ ]?(format|schema|mime_?type)|output[_ ](format|config)|json[_ -]?(schema|mode)"
        r"|structured[_ ]?output|guided[_ ](json|decoding)|\bgrammar\b"
    ),
    # Not what is functional.
    "tools": re.compile(
        r"(?<![a-z])(tool|function)s?(?![a-z])|(tool|function)(choice|config|call)"
    ),
    # What a stream has besides.
    "stream_options": re.compile(r"stream[_ ]?options?|include_usage"),
}
# Refusals of what was sent, whose words may name anything: OpenAI's of a long prompt tells how many
# of its tokens are in functions.
_OF_THE_CONTENT = re.compile(
    r"context[_ ]?(length|window)|content[_ ]?(filter|polic|management)|maximum context"
)
# Refusals of the one schema that was sent, where others may pass: OpenAI's, Azure's and those of
# engines that make a grammar of it.
_OF_THE_SCHEMA = re.compile(
    r"(invalid|unsupported)[_ ](json[_ ])?schema|invalid_function_parameters|\bin context=\("
    r"|(compil|convert|pars)\w* (the |your |this )?(json )?(schema|grammar)"
    r"|(schema|grammar) (is|was|has|produces|exceeds|contains)\b.{0,40}"
    r"\b(too|invalid|unsupported|exceed|maximum)"
)
THIS_SCHEMA = "schema"
# FastAPI sends back what was sent.
_ECHO = "input"
# Shorter ones may stand in it by chance.
SHORTEST_ECHO = 20


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
    further = steps[steps.index(refused) + 1 :]
    return further[0] if further else None


def later(one: Step, other: Step) -> Step:
    """The one further down: several requests step down at once, in any order.

    >>> later("json_text", "tools")
    'json_text'
    """
    return max(one, other, key=STEPS.index)


def features_in(words: str, sent: Iterable[str] = ()) -> tuple[str, ...]:
    """The features that a gateway's refusal names, wherever in it but where it repeats the prompt,
    and whether it is of the one schema; none where it refuses what is in the prompt.

    :param sent: the texts of the prompt

    >>> features_in('{"detail": [{"loc": ["body", "response_format"], "msg": "not permitted"}]}')
    ('json_schema',)
    >>> features_in("Invalid schema for function 'Person': 'format' is not permitted")
    ('tools', 'schema')
    """
    if words.lstrip().startswith("<"):
        return ()  # A page of some proxy's, with scripts.
    with suppress(ValueError, RecursionError):
        words = json.dumps(_without_echoes(json.loads(words)), ensure_ascii=False)
    for text in map(str.strip, sent):
        for form in (text, json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]):
            words = words.replace(form, " ") if len(text) >= SHORTEST_ECHO else words
    words = words.lower()
    if _OF_THE_CONTENT.search(words):
        return ()
    names = tuple(name for name, pattern in _NAMES.items() if pattern.search(words))
    return (*names, THIS_SCHEMA) if names and _OF_THE_SCHEMA.search(words) else names


def _without_echoes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_echoes(v) for key, v in value.items() if key != _ECHO}
    if isinstance(value, list):
        return [_without_echoes(part) for part in value]
    return value


def request_options(step: Step, target: Target) -> dict[str, Any]:
    """What the step adds to a chat completion request."""
    if step == "json_text":
        return {}
    if step == "json_schema":
        schema = {"name": target.name, "schema": target.schema, "strict": target.strict}
        # As a part of the body that LangChain does not look at: of what it knows to be a format it
        # would have each answer parsed once more, and lose what a cut-off one cost.
        wanted = {"type": "json_schema", "json_schema": schema}
        return {"extra_body": {"response_format": wanted}}
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


def instruction(target: Target) -> str:
    """What a model is told where nothing but the prompt can tell it the schema."""
    return (
        f"{target.description}\nAnswer with nothing but one JSON value that fits this JSON schema, "
        f"without any other text:\n{json.dumps(target.schema, ensure_ascii=False)}"
    )
