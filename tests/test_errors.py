"""What an error of revos carries, and keeps as a copy."""

import copy
import pickle

import pytest

from revos import (
    RevosAPIError,
    RevosAuthenticationError,
    RevosConfigurationError,
    RevosValidationError,
)
from revos.errors import Problem

FIELDS = {
    RevosConfigurationError: {"problems": ("one", "two")},
    RevosAuthenticationError: {
        "attempts": 3,
        "retry_after": 2.5,
        "status_code": 400,
        "error": "invalid_client",
        "error_description": "who?",
        "method": "client_secret_post",
        "temporary": True,
    },
    RevosAPIError: {
        "status_code": 404,
        "code": "model_not_found",
        "retry_after": 1.0,
        "available_models": ("gpt-4",),
        "features": ("tools",),
        "temporary": True,
    },
    RevosValidationError: {
        "reason": "length",
        "raw": '{"name": ',
        "problems": (Problem("name", "Field required"),),
        "target": int,
    },
}


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize(
    "copied", [lambda error: error, copy.copy, lambda error: pickle.loads(pickle.dumps(error))]
)
def test_an_error_has_its_message_and_its_fields(kind, copied):
    error = copied(kind(message="what was wrong", **FIELDS[kind]))

    assert str(error) == "what was wrong"
    assert {name: getattr(error, name) for name in FIELDS[kind]} == FIELDS[kind]


@pytest.mark.parametrize(("words", "problems"), [("one", ("one",)), ("", ())])
def test_the_problem_of_an_error_without_a_list_is_its_message(words, problems):
    assert RevosConfigurationError(words).problems == problems
