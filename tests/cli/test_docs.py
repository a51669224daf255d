"""The section of the how-to about the command line: its commands do what it shows."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to.md"
(SECTION,) = re.findall(
    r"^## From the command line\n(.*?)^## ",
    PAGE.read_text(encoding="utf-8"),
    re.DOTALL | re.MULTILINE,
)
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE)
COMMANDS = [text for kind, text in BLOCKS if kind == "sh"]


def block(kind):
    (text,) = (text for found, text in BLOCKS if found == kind)
    return text


def by_id(text):
    return sorted(map(json.loads, text.splitlines()), key=lambda line: line["id"])


@pytest.fixture
def files_of_the_page(directory, forget):
    (directory / "people.py").write_text(block("python"))
    (directory / "documents.jsonl").write_text(block("json"))
    forget("people")
    return directory


@pytest.fixture
def type_in(revos):
    """Runs a command as it stands on the page, in this process."""

    def run(command):
        program, *args = shlex.split(command.partition(" < ")[0])
        assert program == "revos"
        return revos(*args)

    return run


@pytest.fixture
def standard_input():
    """Makes a file the standard input of this process."""
    kept = os.dup(0)

    def use(path):
        with path.open("rb") as file:
            os.dup2(file.fileno(), 0)

    yield use
    os.dup2(kept, 0)
    os.close(kept)


def test_the_commands_do_what_the_page_shows(files_of_the_page, type_in, standard_input, gateway):
    first, again, piped, models = COMMANDS

    assert type_in(first).code == 0
    written = (files_of_the_page / "people.jsonl").read_text()
    assert by_id(written) == by_id(block("jsonl"))

    assert type_in(again).code == 0
    assert (files_of_the_page / "people.jsonl").read_text() == written
    assert len(gateway.chat_log) == 2

    standard_input(files_of_the_page / "documents.jsonl")
    told = type_in(piped)
    assert told.code == 0
    assert by_id(told.out.replace("stdin:", "documents.jsonl:")) == by_id(written)

    assert type_in(models).out.startswith("name\tid\toffered\n")
