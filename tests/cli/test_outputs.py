"""Results and failures as JSON lines, and what a run that was killed leaves."""

import dataclasses
import datetime as dt
import enum
import json
import uuid
from typing import TypedDict

import attrs
import pydantic
import pytest

from revos import RevosAPIError, RevosInputError, RevosValidationError
from revos.cli.documents import Misfit, key_of
from revos.cli.outputs import failure_line, misfit_line, open_output, result_line
from revos.errors import Problem


class Colour(enum.Enum):
    RED = "red"


class Person(pydantic.BaseModel):
    name: str
    born: dt.date | None = None


@attrs.frozen
class Team:
    lead: Person
    colours: list[Colour]


@dataclasses.dataclass
class Firm:
    team: Team
    id: uuid.UUID


class Note(TypedDict):
    text: str


PERSON = Person(name="Ada", born=dt.date(1815, 12, 10))
PERSON_JSON = {"name": "Ada", "born": "1815-12-10"}
TEAM_JSON = {"lead": PERSON_JSON, "colours": ["red"]}
NIL = uuid.UUID(int=0)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (PERSON, PERSON_JSON),
        (Team(PERSON, [Colour.RED]), TEAM_JSON),
        (Firm(Team(PERSON, [Colour.RED]), NIL), {"team": TEAM_JSON, "id": str(NIL)}),
        (Note(text="ü"), {"text": "ü"}),
        (Colour.RED, "red"),
        ([PERSON, None, 7], [PERSON_JSON, None, 7]),
        ({"a": (1.5, True)}, {"a": [1.5, True]}),
        ("half \ud800", "half \ud800"),
        (float("inf"), "Infinity"),
    ],
)
def test_a_value_is_json_by_its_type(value, told):
    line = result_line("x", value)
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"id": "x", "value": told}


def test_a_value_without_a_json_form_is_an_error():
    with pytest.raises(ValueError, match="object has no JSON form"):
        result_line("x", object())


def test_a_failure_has_its_class_its_words_and_whether_to_try_again():
    assert json.loads(failure_line(7, RevosAPIError("later", temporary=True))) == {
        "id": 7,
        "error": "RevosAPIError",
        "message": "later",
        "temporary": True,
    }


def test_a_failure_of_an_answer_has_the_answer_and_its_problems():
    error = RevosValidationError("no", raw="{}", problems=(Problem("age", "missing"),))
    told = json.loads(failure_line("x", error))
    assert told["raw"] == "{}"
    assert told["problems"] == [{"path": "age", "message": "missing"}]


def test_what_is_no_document_fails_by_its_place():
    told = json.loads(misfit_line(Misfit("stdin:7", "not JSON")))
    assert (told["id"], told["error"], told["message"]) == (
        "stdin:7",
        "RevosInputError",
        "not JSON",
    )


RESULT = result_line("a", 1)
OTHER = result_line("b", 2)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "people.jsonl"


@pytest.fixture
def errors(tmp_path):
    return tmp_path / "people.errors.jsonl"


def test_lines_go_to_the_two_files(path, errors):
    with open_output(path) as output:
        output.begin()
        output.write(RESULT)
        assert path.read_bytes() == RESULT  # At once.
        assert not errors.exists()
        output.write_failure(OTHER)
        assert errors.read_bytes() == OTHER


@pytest.mark.parametrize(
    ("left", "kept", "done"),
    [
        (b"", b"", []),
        (RESULT, RESULT, ["a"]),
        (RESULT + OTHER, RESULT + OTHER, ["a", "b"]),
        (RESULT + OTHER[:-1], RESULT, ["a"]),  # Whole, but for its end.
        (RESULT + OTHER[:7], RESULT, ["a"]),
        (RESULT + OTHER[:7] + b"\n", RESULT, ["a"]),
        (RESULT + b"\0\0\0", RESULT, ["a"]),
        (OTHER[:3], b"", []),
    ],
)
def test_resuming_keeps_whole_lines_and_cuts_off_a_half_written_one(left, kept, done, path):
    path.write_bytes(left)
    with open_output(path, resume=True) as output:
        assert output.done == {key_of(id_) for id_ in done}
        assert path.read_bytes() == kept
        output.write(OTHER)
    assert path.read_bytes() == kept + OTHER


def test_resuming_begins_the_failures_anew_once_all_is_checked(path, errors):
    path.write_bytes(RESULT)
    errors.write_bytes(OTHER)
    with open_output(path, resume=True) as output:
        assert errors.read_bytes() == OTHER
        output.begin()
        assert not errors.exists()


def test_resuming_what_does_not_exist_begins_it(path):
    with open_output(path, resume=True) as output:
        assert output.done == set()


@pytest.mark.parametrize(
    "left",
    [
        b"hello\n" + RESULT,
        RESULT + b'{"id": 1}\n' + OTHER,
        RESULT + OTHER[:7] + b"\n" + OTHER,
        b'{"id":1,"text":"a document"}\n',
        b'{"id":1,"text":"a document"}',
        b"a text\n",
        b"[1]",
    ],
)
def test_a_file_of_something_else_is_not_resumed_and_not_touched(left, path):
    path.write_bytes(left)
    told = r"people.jsonl:\d is no result of `revos extract`"
    with pytest.raises(RevosInputError, match=told), open_output(path, resume=True):
        pass
    assert path.read_bytes() == left


@pytest.mark.parametrize("name", ["people.jsonl", "people.errors.jsonl"])
def test_an_output_that_exists_needs_resume(name, tmp_path, path):
    (tmp_path / name).write_bytes(RESULT)
    told = f"{name} exists: go on with --resume"
    with pytest.raises(RevosInputError, match=told), open_output(path):
        pass
    assert (tmp_path / name).read_bytes() == RESULT


def test_an_empty_output_is_none(path):
    path.touch()
    with open_output(path) as output:
        output.write(RESULT)
    assert path.read_bytes() == RESULT


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere/people.jsonl", "there is no directory"),
        ("", "is no regular file"),
        ("/dev/null", "is no regular file"),
        ("/proc/people.jsonl", "can't be written"),
        ("a\0b", "can't be written"),
    ],
)
def test_an_output_that_cannot_be_written_is_told(name, told, tmp_path):
    with pytest.raises(RevosInputError, match=told), open_output(tmp_path / name):
        pass


def test_resume_needs_a_file():
    with pytest.raises(RevosInputError, match="--resume needs -o"), open_output(None, resume=True):
        pass


@pytest.mark.parametrize("resume", [True, False])
def test_a_second_run_on_one_output_is_refused(resume, path):
    with open_output(path) as first:
        told = "another run writes to"
        with pytest.raises(RevosInputError, match=told), open_output(path, resume=resume):
            pass
        first.write(RESULT)
    assert path.read_bytes() == RESULT


def test_nothing_is_left_where_nothing_was_begun(path):
    with open_output(path) as output:
        output.take_back()
    assert not path.exists()


def test_what_was_there_or_was_begun_is_not_taken_back(path, tmp_path):
    path.touch()
    with open_output(path) as output:
        output.take_back()
    assert path.exists()
    other = tmp_path / "other.jsonl"
    with open_output(other) as output:
        output.begin()
        output.take_back()
    assert other.exists()


def test_without_a_file_results_go_to_standard_output_and_failures_to_standard_error(capfd):
    with open_output(None) as output:
        output.begin()
        output.write(RESULT)
        output.write_failure(OTHER)
    told = capfd.readouterr()
    assert (told.out.encode(), told.err.encode()) == (RESULT, OTHER)
