"""Prompts: a text or a LangChain template, filled with exactly the variables that it has.

Imports LangChain, so it is imported late.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen
from langchain_core.messages import BaseMessage, SystemMessage
from langchain_core.prompts import BasePromptTemplate, PromptTemplate

from revos.errors import RevosInputError

__all__ = ["Prompt", "prompt_of", "with_instruction"]


@frozen(eq=False)
class Prompt:
    """A template, and the names of its variables.

    :ivar needed: those without which it can't be filled
    :ivar known: all of them
    """

    template: BasePromptTemplate[Any]
    needed: frozenset[str]
    known: frozenset[str]

    def messages(self, variables: Mapping[str, object]) -> list[BaseMessage]:
        """Its messages, filled; checked before anything is sent.

        :raises RevosInputError: a variable is missing or unknown, or it can't be filled with them
        """
        # Values, partial variables and the document are of the user's, and so is what they raise.
        try:
            given = frozenset(variables.keys())
            if self.needed <= given <= self.known:
                return self.template.format_prompt(**variables).to_messages()
        except Exception as error:
            raise RevosInputError(
                f"the prompt can't be filled ({type(error).__name__}): check its format fields and "
                "its values"
            ) from error
        raise self._misfit(given)

    def variables_of(self, document: object) -> Mapping[str, object]:
        """A document of many as variables: a mapping is them, a text is the only one.

        :raises RevosInputError: it is neither, or there is not just one
        """
        if isinstance(document, Mapping):
            return document
        if not isinstance(document, str):
            raise RevosInputError(
                "a document must be a dict of the prompt's variables or a str, not "
                f"{type(document).__name__}"
            )
        if len(self.needed) != 1:
            raise RevosInputError(
                "a str as a document needs a prompt with one variable; this one has: "
                f"{', '.join(sorted(self.known)) or 'none'}"
            )
        return dict.fromkeys(self.needed, document)

    def _misfit(self, given: frozenset[str]) -> RevosInputError:
        problems = [
            f"{what}: {', '.join(sorted(map(str, names)))}"
            for what, names in (
                ("missing", self.needed - given),
                ("unknown", given - self.known),
            )
            if names
        ]
        if not all(map(str.isidentifier, self.needed - given)):
            problems.append("double literal braces")
        return RevosInputError(
            f"the prompt's variables do not fit ({'; '.join(problems)}); "
            f"it has: {', '.join(sorted(self.known)) or 'none'}"
        )


def prompt_of(prompt: Any) -> Prompt:
    """What to fill.

    :param prompt: an f-string-style text, whose literal braces are doubled, or a LangChain prompt
        template
    :raises RevosInputError: it is neither, or can't be read
    """
    template = _template_of(prompt)
    needed = set(template.input_variables)
    known = needed | set(template.partial_variables)  # Among these LangChain has optional ones.
    if "" in known:
        raise RevosInputError("the prompt has a field without a name: {}; name each, like {text}")
    if "self" in known:
        raise RevosInputError("LangChain takes no variable that is named self: name it otherwise")
    return Prompt(template, frozenset(needed), frozenset(known))


def with_instruction(messages: list[BaseMessage], text: str) -> list[BaseMessage]:
    """The messages with one more thing said by the system, in front: some models take it nowhere
    else, and take one only.
    """
    first = messages[0] if messages else None
    if not isinstance(first, SystemMessage):
        return [SystemMessage(text), *messages]
    content: Any = (
        f"{first.content}\n\n{text}"
        if isinstance(first.content, str)
        else [*first.content, {"type": "text", "text": text}]
    )
    # A copy, since it may be the developer's message, which is another role.
    return [first.model_copy(update={"content": content}), *messages[1:]]


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
