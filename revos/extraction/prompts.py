"""Prompts: a text or a LangChain template, filled with exactly the variables that it has.

Imports LangChain, so it is imported late.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.prompts import BasePromptTemplate, PromptTemplate

from revos.errors import RevosInputError

__all__ = ["messages_of"]


def messages_of(prompt: Any, variables: Mapping[str, object]) -> list[BaseMessage]:
    """The messages of a prompt, checked before anything is sent.

    :param prompt: an f-string-style text, whose literal braces are doubled, or a LangChain prompt
        template
    :raises RevosInputError: it is neither, it can't be read, or a variable is missing or unknown
    """
    template = _template_of(prompt)
    needed, given = set(template.input_variables), set(variables)
    known = needed | set(template.partial_variables)  # Among these LangChain has optional ones.
    problems = [
        f"{what}: {', '.join(sorted(names))}"
        for what, names in (("missing", needed - given), ("unknown", given - known))
        if names
    ]
    if problems:
        raise RevosInputError(
            f"the prompt's variables do not fit ({'; '.join(problems)}); "
            f"it has: {', '.join(sorted(known)) or 'none'}"
        )
    try:
        return template.format_prompt(**variables).to_messages()
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise RevosInputError(
            f"the prompt can't be filled ({type(error).__name__}): check its format fields"
        ) from error


def _template_of(prompt: Any) -> BasePromptTemplate[Any]:
    if isinstance(prompt, BasePromptTemplate):
        return prompt
    if not isinstance(prompt, str):
        raise RevosInputError(
            f"the prompt must be a str or a LangChain prompt template, not {type(prompt).__name__}"
        )
    try:
        return PromptTemplate.from_template(prompt)
    except ValueError as error:
        raise RevosInputError(
            "the prompt is no template: name each field like {text}, and double literal braces"
        ) from error
