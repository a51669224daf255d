"""JSON is found wherever a model puts it; what is inside of more is never taken for it."""

import json
import math
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from revos.extraction.json_text import is_cut_off, json_values, known_so_far

ADA = '{"name": "Ada"}'

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
CONTAINERS = st.lists(JSON) | st.dictionaries(st.text(), JSON)
PROSE = st.text(st.characters(exclude_characters="{}[]<>`"))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        pytest.param(ADA, [ADA], id="nothing else"),
        pytest.param(f"\r\n\t {ADA} \r\n", [ADA], id="white space around it"),
        pytest.param(f"\ufeff{ADA}", [ADA], id="a byte order mark"),
        pytest.param("\ufeff 5", ["5"], id="a number after a byte order mark"),
        pytest.param(f"Sure! {ADA}", [ADA], id="prose before"),
        pytest.param(f"{ADA}\n\nAnything else?", [ADA], id="prose after"),
        pytest.param('The {name} of [him]: {"a": 1}', ['{"a": 1}'], id="brackets of the prose"),
        pytest.param(f"{ADA} or [1, 2]", [ADA, "[1, 2]"], id="several"),
        pytest.param('{"a": {"b": [{}]}}', ['{"a": {"b": [{}]}}'], id="nested"),
        pytest.param('x {"a": "}{ ] \\" {"} y', ['{"a": "}{ ] \\" {"}'], id="brackets in a text"),
        pytest.param('x {"名": "é\\u00e9🙂"} y', ['{"名": "é\\u00e9🙂"}'], id="beyond ASCII"),
        pytest.param("Here: [] {}", ["[]", "{}"], id="empty ones"),
        pytest.param("5", ["5"], id="a number"),
        pytest.param('"good"', ['"good"'], id="a text"),
        pytest.param("null", ["null"], id="null"),
        pytest.param("", [], id="nothing"),
        pytest.param("It is 5.", [], id="a number in prose"),
        pytest.param("```json\n5\n```", ["5"], id="a number in a fence"),
        pytest.param('```\r\n"good"\r\n```', ['"good"'], id="a text in a fence"),
        pytest.param("__import__('os').abort()", [], id="code"),
        pytest.param("{'name': 'Ada'}", [], id="a dict of Python"),
    ],
)
def test_a_value_is_found(text, values):
    assert list(json_values(text)) == values


@pytest.mark.parametrize("language", ["", "json", "JSON", "json5", "js\r"])
def test_what_is_fenced_comes_before_what_is_not(language):
    values = json_values(f"As in [1]:\n```{language}\n{ADA}\n```\nfrom [2].")

    assert list(values)[:2] == [ADA, "[1]"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('<think>{"name": "Bob"}?</think>' + ADA, id="in tags"),
        pytest.param('<thinking>\n{"name": "Bob"}\n</thinking>\n' + ADA, id="in other tags"),
        pytest.param('<THINK>{"name": "Bob"}</THINK>' + ADA, id="in capitals"),
        pytest.param('<thought>{"name": "Bob"}</thought>' + ADA, id="in a third tag"),
        pytest.param('<reasoning>{"name": "Bob"}</reasoning>' + ADA, id="in a fourth tag"),
        pytest.param('[THINK]{"name": "Bob"}[/THINK]' + ADA, id="in brackets"),
        pytest.param(
            '<|channel|>analysis<|message|>{"name": "Bob"}<|end|><|start|>assistant'
            "<|channel|>final <|constrain|>json<|message|>" + ADA,
            id="in a channel",
        ),
        pytest.param('{"name": "Bob"}? No.\n</think>\n' + ADA, id="begun in the prompt"),
        pytest.param('<think>{</think> so <think>["Bob"]</think>' + ADA, id="twice"),
        pytest.param(ADA + "<think>", id="begun and never had"),
    ],
)
def test_what_a_model_thinks_is_no_answer(text):
    assert list(json_values(text)) == [ADA]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"<think>So {ADA}", id="without an end"),
        pytest.param(f"<think>So {ADA}</think>", id="with nothing behind"),
        pytest.param(f"<think>a</think> Well. <think>So ```json\n{ADA}\n```", id="twice"),
        pytest.param(f"{ADA}? No.\n</think>", id="begun in the prompt"),
        pytest.param(f"<|channel|>analysis<|message|>{ADA}", id="in a channel"),
    ],
)
def test_thoughts_that_come_to_no_answer_are_none(text):
    assert list(json_values(text)) == []


@pytest.mark.parametrize("behind", ["<think>or [1]", "<think>or [1]</think>"])
def test_an_answer_may_come_before_thoughts(behind):
    assert list(json_values(f"It is {ADA} {behind}")) == [ADA]


def test_what_comes_after_thoughts_is_the_answer_where_there_is_some():
    assert list(json_values(f"[1]? <think>No.</think> {ADA}")) == [ADA]


@pytest.mark.parametrize(
    ("text", "known"),
    [
        pytest.param('{"name": "Bob"}? No.</think>{"name": "Ad', {"name": "Ad"}, id="thoughts"),
        pytest.param('{name: "Eve", friend: {"name": "Bob"', None, id="keys of JavaScript"),
    ],
)
def test_nothing_else_is_known_of_an_answer_that_arrives(text, known):
    assert known_so_far(text, lambda value: True) == known


def test_a_tag_in_a_value_does_not_hide_what_is_behind():
    value = '{"html": "<think>"}'

    assert list(json_values(f"It is {value} or {ADA}")) == [value, ADA]


def test_thoughts_that_are_part_of_a_value_stay_in_it():
    value = '{"html": "<think>so</think>"}'

    assert list(json_values(value)) == [value]
    assert list(json_values(f"Here: {value}!")) == [value]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param('{"name": "Eve", "friends": [{"name": "Bob"}],}', id="a comma too many"),
        pytest.param('{"name": "Eve" "friend": {"name": "Bob"}}', id="a comma too few"),
        pytest.param('{name: "Eve", friend: {"name": "Bob"}}', id="keys of JavaScript"),
        pytest.param("{'name': 'Eve', 'friend': {\"name\": \"Bob\"}}", id="quotes of Python"),
        pytest.param('{ // Eve\n"friend": {"name": "Bob"}}', id="a comment"),
        pytest.param('[{"name": "Eve"}, {"name": "Bob"},]', id="a list"),
        pytest.param('[["a"], {"name": "Bob"} {}]', id="a list of lists"),
    ],
)
def test_nothing_in_a_broken_value_is_taken_for_the_answer(broken):
    assert list(json_values(broken)) == []
    assert list(json_values(f"First: {broken} Well, {ADA}.")) == [ADA]


def test_nothing_in_a_value_that_is_cut_off_is_taken_for_the_answer():
    assert list(json_values('It is {"name": "Eve", "friends": [{"name": "Bob"}')) == []


@settings(max_examples=50)
@example(value=[math.inf, []], before="", after="0", ascii_only=False, wide=False)
@example(value=[-math.inf], before="", after="0", ascii_only=False, wide=True)
@given(value=CONTAINERS, before=PROSE, after=PROSE, ascii_only=st.booleans(), wide=st.booleans())
def test_any_value_is_found_in_any_prose_without_brackets(value, before, after, ascii_only, wide):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=2 if wide else None)

    assert next(iter(json_values(f"{before} {text} {after}"))) == text


NONSENSE = pytest.mark.parametrize(
    "text",
    [
        pytest.param("{" * 1_000_000, id="objects without keys"),
        pytest.param('{"a":' * 200_000, id="objects"),
        pytest.param("[" * 1_000_000, id="arrays"),
        pytest.param(("[" + "1," * 2_500) * 200, id="arrays of numbers"),
        pytest.param('["' * 500_000, id="quotes"),
        pytest.param('{"a' + r"\"" * 500_000, id="a text without an end"),
        pytest.param('{"a",}' * 160_000, id="broken ones"),
        pytest.param("```json " * 125_000, id="fences"),
        pytest.param("</think>" * 125_000, id="thoughts"),
        pytest.param("<think></think>" * 66_000, id="whole thoughts"),
        pytest.param("</think>" + '{"a",}' * 160_000, id="broken ones after thoughts"),
        pytest.param("[" * 1_000_000 + "</think>", id="arrays before thoughts"),
        pytest.param(("{" + " " * 1_000) * 1_000, id="white space"),
        pytest.param("{" + " " * 1_000_000 + "a b", id="white space behind one bracket"),
    ],
)


@NONSENSE
def test_a_megabyte_of_nonsense_takes_its_length_and_no_more(text):
    began = time.thread_time()

    assert list(json_values(text)) == []

    assert time.thread_time() - began < 1


@NONSENSE
def test_whether_a_megabyte_of_nonsense_is_cut_off_is_soon_known(text):
    began = time.thread_time()

    is_cut_off(text)

    assert time.thread_time() - began < 1


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{\n  ",
        "{\n  na",
        "[",
        '"fi',
        "```json\n",
        "<think>Let me",
        "<think>Fine.</think>\n",
        '<think>maybe {"a": no</think>{"name": 7',
        '{"a": {"b": 1}',
    ],
)
def test_a_text_that_ends_before_its_value_is_cut_off(text):
    assert is_cut_off(text)


@pytest.mark.parametrize(
    "text",
    [
        '"figs"',
        "I cannot.",
        "See {name} and [1].",
        '```json\n{"name": 7}\n```',
        'See [1]: {"name": Ada}',
        '<think>maybe {"a": no</think>{"name": 7}',
        '{"name": 7} <think>Fine.</think>',
    ],
)
def test_a_text_whose_value_has_an_end_or_that_has_none_is_whole(text):
    assert not is_cut_off(text)


@pytest.mark.parametrize(
    "text",
    [
        # The opening tag may stand in the prompt: all before the end of thoughts is one.
        '{"a": 1} <think>x</think> {"a": 2} </think> None.',
        "```\nno JSON\n```",
        "```\n```",
    ],
)
def test_a_text_without_a_value_outside_of_thoughts_has_none(text):
    assert list(json_values(text)) == []


def test_what_stands_in_fences_beside_a_value_is_none_of_it():
    assert list(json_values('```json\n{"a": 1} // one\n```')) == ['{"a": 1}']


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ('<think>{"name": "Fi', None),
        ('{"name": "Fig"} <think>Or {"name": "Pl', {"name": "Fig"}),
        ('<think>{"name": "Fig"}</think>{"name": "Pl', {"name": "Pl"}),
        ('{"fruit": {"name": "Fig"}} and', None),
        ('{"name": "Fig"} <think>Is it?</think>', {"name": "Fig"}),
        ('["Fig", {"name": "Pl', {"name": "Pl"}),
        ('{"name": "Fig"} and more', {"name": "Fig"}),
        ('{"name" Fig} {"name": "Pl', {"name": "Pl"}),
        ('{"name": "A12', {"name": "A12"}),
        ('{"size": 12', {}),
        ('{"size": 12,', {"size": 12}),
        ("Nothing yet", None),
    ],
)
def test_what_is_known_so_far_is_of_the_value_alone(text, known):
    def fits(value):
        return value == '{"name": "Fig"}'

    assert known_so_far(text, fits, "{") == known
