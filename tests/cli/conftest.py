"""The command line against a gateway on loopback: in this process, or as users start it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from attrs import frozen

if find_spec("cyclopts") is None or find_spec("rich") is None:
    collect_ignore_glob = ["test_*.py"]  # They need the extra `cli`.

PEOPLE = """
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


class Outer:
    class Inner(Person):
        pass


PEOPLE = list[Person]
NUMBER = 7
"""
PROMPT = "Extract the person: {text}"
BASE = ("--model", "gpt-4", "--target", "cli_people:Person", "--prompt", PROMPT)


@frozen
class Told:
    """What a command ended with."""

    code: int
    out: str
    err: str


@pytest.fixture(params=["asyncio", "trio"])
def backend(request):
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture
def forget():
    """Modules that are to be gone after the test, by their names."""
    names = []
    yield names.append
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def directory(tmp_path, monkeypatch, forget):
    """The current directory, with a module of types that nobody else has loaded."""
    (tmp_path / "cli_people.py").write_text(PEOPLE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    forget("cli_people")
    return tmp_path


@pytest.fixture
def gateway(revos_gateway_sync, monkeypatch):
    """A gateway, which the environment names."""
    for name, value in revos_gateway_sync.environ(max_retries=1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    return revos_gateway_sync


@pytest.fixture
def logger():
    """The logger of revos, as it was, afterwards."""
    logger = logging.getLogger("revos")
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture
def revos(directory, gateway, logger, capfd, monkeypatch):
    """A command in this process, by its arguments."""
    from revos.cli import main

    def run(*args):
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["revos", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capfd.readouterr()
        return Told(ended.value.code, told.out, told.err)

    return run


@pytest.fixture
def extract(revos):
    """`revos extract` for a person in this process; later options go before these."""

    def run(*args, **options):
        given = dict(zip(BASE[::2], BASE[1::2], strict=True))
        given |= {f"--{name}": value for name, value in options.items()}
        return revos("extract", *args, *(part for pair in given.items() for part in pair))

    return run


@pytest.fixture
def start(directory, gateway):
    """`revos extract` in a process of its own, which is gone at the end of the test."""
    started = []

    def run(*args, **kwargs):
        process = subprocess.Popen(
            [sys.executable, "-m", "revos", "extract", *BASE, *map(str, args)],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **kwargs},
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@frozen
class Files:
    """The current directory, and what a test writes and reads there."""

    directory: Path

    def people(self, count, name="people.jsonl"):
        """A file of as many documents, whose ids are their numbers."""
        lines = [json.dumps({"id": n, "text": f"Ada, {n}"}) + "\n" for n in range(count)]
        (self.directory / name).write_text("".join(lines))
        return name

    def lines(self, name):
        """The lines of a file, as they were written."""
        return [json.loads(line) for line in (self.directory / name).read_bytes().splitlines()]

    def count(self, name):
        """How many whole lines a file has."""
        path = self.directory / name
        return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture
def files(directory):
    return Files(directory)
