"""What a model is told of an answer that does not fit.

Imports LangChain, so it is imported late.
"""

from __future__ import annotations

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from revos.errors import RevosValidationError

__all__ = ["complaint"]

MOST_PROBLEMS = 20


def complaint(answer: str | None, error: RevosValidationError) -> list[BaseMessage]:
    """The answer, as said by the model, and its problems, as said by the user."""
    listed = [
        f"- {problem.path or 'the whole answer'}: {problem.message}"
        for problem in error.problems[:MOST_PROBLEMS]
    ]
    asked = HumanMessage(
        "Your answer does not fit the schema. Its problems:\n"
        + "\n".join(listed)
        + "\nAnswer again, with the whole JSON value, and with these problems solved."
    )
    # Gateways refuse a message of the assistant that says nothing.
    return [AIMessage(answer), asked] if answer and answer.strip() else [asked]
