"""What each rule says of a value that breaks it, and what it makes of one that does not."""

import traceback

import pytest

from revos import rules
from revos.rules import Unfit

BROKEN = [
    (rules.text, 7, "must be text (in quotes)"),
    (rules.text, " \t", "must not be empty"),
    (rules.text, "a\nb", "must not hold control characters (a line end is one) or broken Unicode"),
    (rules.prose, 7, "must be text (in quotes), in valid Unicode"),
    (rules.prose, "\ud800", "must be text (in quotes), in valid Unicode"),
    (rules.whole(1), 0, "must be a whole number of at least 1"),
    (rules.whole(1), "one", "must be a whole number of at least 1"),
    (rules.whole(1, 9), 10, "must be a whole number from 1 to 9"),
    (rules.number(1), 0.5, "must be a number from 1"),
    (rules.number(1, above=True), 1, "must be a number over 1"),
    (rules.number(1, 9), 9.5, "must be a number from 1 to 9"),
    (rules.number(1, 9, above=True), 1, "must be a number over 1 and up to 9"),
]


@pytest.mark.parametrize(("rule", "value", "words"), BROKEN)
def test_a_rule_that_is_broken_is_told(rule, value, words):
    with pytest.raises(Unfit) as caught:
        rule(value)

    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (rules.url, "https://login.example:s3cret/token"),
        (rules.parameters, "s3cret"),
        (rules.log_format, "%(s3cret)s"),
    ],
    ids=["url", "parameters", "log_format"],
)
def test_what_python_says_of_a_value_is_not_told_with_the_rule(rule, value):
    with pytest.raises(Unfit) as caught:
        rule(value)

    said = "".join(traceback.format_exception(caught.value))
    assert "s3cret" not in said.replace(repr(value), "")
    assert "Error" not in said


def test_a_value_that_fits_is_given_back():
    assert rules.log_format("%(message)s") == "%(message)s"


def test_another_machine_is_not_this_one():
    assert rules.is_loopback("https://gateway.example") is False
