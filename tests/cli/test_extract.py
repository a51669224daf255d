"""`revos extract` against a gateway: what comes out, what is refused, and how to go on."""

import json
import os
import sys
import threading

import pytest

from revos.testing import Answer

ADA = {"name": "Ada", "age": 36}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
FORBIDDEN = Answer(status=403, body={"error": {"message": "not for you", "code": "forbidden"}})


def test_documents_of_all_formats_are_extracted(backend, extract, directory, files, gateway):
    (directory / "a.jsonl").write_text('{"id": "x", "text": "Ada, 36"}\n"Ada, 36"\n')
    (directory / "b.csv").write_text('id,text\n7,"Ada, 36"\n')
    (directory / "c.txt").write_text("Ada, 36")
    told = extract("a.jsonl", "b.csv", "c.txt", "-o", "out.jsonl", backend=backend)
    assert (told.code, told.out) == (0, "")
    assert sorted(files.lines("out.jsonl"), key=lambda line: line["id"]) == [
        {"id": "7", "value": ADA},
        {"id": "a.jsonl:2", "value": ADA},
        {"id": "c.txt", "value": ADA},
        {"id": "x", "value": ADA},
    ]
    assert not (directory / "out.errors.jsonl").exists()
    assert told.err.startswith("revos: 4 done, 0 failed, ")
    assert told.err.count("\n") == 1
    assert len(gateway.chat_log) == 4


def test_without_an_output_results_are_printed_and_failures_told(extract, files, gateway):
    gateway.chat_script.append(FORBIDDEN)
    told = extract(files.people(2), concurrency=1)
    assert told.code == 1
    assert json.loads(told.out) == {"id": 1, "value": {"name": "Ada", "age": 1}}
    failure, summary = told.err.splitlines()
    assert json.loads(failure)["id"] == 0
    assert summary.startswith("revos: 1 done, 1 failed (standard error), ")


def test_results_that_have_nowhere_to_go_are_not_asked_for(extract, files, gateway, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # As in `revos extract … >&-`.
    told = extract(files.people(2))
    assert told.code == 2
    assert "standard output is closed: choose a file with -o" in told.err
    assert (gateway.token_requests, len(gateway.chat_log)) == (0, 0)


@pytest.mark.parametrize(
    ("target", "value"),
    [
        ("cli_people:Outer.Inner", ADA),
        ("cli_people:PEOPLE", [ADA]),
        ("builtins:int", 36),
        ("person.json", ADA),
    ],
)
def test_a_target_may_be_whatever_the_library_takes(target, value, extract, directory, files):
    (directory / "a.txt").write_text("Ada, 36")
    (directory / "person.json").write_text(json.dumps(SCHEMA))
    assert extract("a.txt", "-o", "out.jsonl", target=target).code == 0
    assert files.lines("out.jsonl") == [{"id": "a.txt", "value": value}]


def test_a_prompt_may_be_in_a_file(extract, directory, files, gateway):
    (directory / "a.txt").write_text("Ada, 36")
    (directory / "prompt.md").write_text("Hello {text}\n")
    assert extract("a.txt", "-o", "out.jsonl", prompt="@prompt.md").code == 0
    assert gateway.chat_log[0].payload["messages"][-1]["content"] == "Hello Ada, 36"
    assert extract("a.txt", prompt="@@{text}").code == 0
    assert gateway.chat_log[1].payload["messages"][-1]["content"] == "@Ada, 36"
    assert extract("a.txt", prompt="- {text}").code == 0


def test_options_reach_the_extractor(extract, files, gateway):
    gateway.chat_script.append("{}")
    assert extract(files.people(2), strategy="tools", concurrency=1, repairs=2).code == 0
    assert len(gateway.chat_log) == 3
    assert all("tools" in record.payload for record in gateway.chat_log)


# Failures.


def test_a_failed_document_is_told_and_the_others_are_done(extract, files, gateway):
    gateway.chat_script.extend([FORBIDDEN, '{"name": "Ada"}'])
    told = extract(files.people(4), "-o", "out.jsonl", concurrency=1, repairs=0)
    assert told.code == 1
    assert [line["id"] for line in files.lines("out.jsonl")] == [2, 3]
    refused, unfit = files.lines("out.errors.jsonl")
    assert (refused["id"], refused["error"], refused["temporary"]) == (0, "RevosAPIError", False)
    assert "not for you" in refused["message"]
    assert (unfit["id"], unfit["error"]) == (1, "RevosValidationError")
    assert unfit["raw"] == '{"name": "Ada"}'
    assert [problem["path"] for problem in unfit["problems"]] == ["age"]
    assert told.err.startswith("revos: 2 done, 2 failed (out.errors.jsonl), ")


def test_resuming_does_what_failed_and_what_is_missing(backend, extract, files, gateway):
    gateway.chat_script.extend([FORBIDDEN, FORBIDDEN])
    extract(files.people(3), "-o", "out.jsonl", concurrency=1)
    assert len(files.lines("out.errors.jsonl")) == 2
    gateway.chat_script.append(FORBIDDEN)
    files.people(5)
    again = ("people.jsonl", "-o", "out.jsonl", "--resume")
    told = extract(*again, concurrency=1, backend=backend)
    assert told.code == 1
    assert [line["id"] for line in files.lines("out.errors.jsonl")] == [0]
    assert "3 done (and 1 before), 1 failed" in told.err
    assert extract(*again, backend=backend).code == 0
    assert sorted(line["id"] for line in files.lines("out.jsonl")) == [0, 1, 2, 3, 4]
    assert len(gateway.chat_log) == 3 + 4 + 1
    assert extract(*again, backend=backend).code == 0
    assert len(gateway.chat_log) == 8


def test_a_model_that_is_unknown_ends_it_at_once(backend, extract, files, directory, gateway):
    gateway.models = ("gpt-5", "claude-5")
    told = extract(files.people(500), "-o", "out.jsonl", concurrency=4, backend=backend)
    assert told.code == 1
    assert "revos: stopped: " in told.err
    assert "the gateway accepts: gpt-5, claude-5" in told.err
    assert "go on with: revos extract people.jsonl" in told.err
    assert told.err.count("\n") == 3
    assert len(gateway.chat_log) <= 8
    assert not (directory / "out.errors.jsonl").exists()


def test_a_client_that_is_refused_ends_it_at_once(extract, files, directory, gateway):
    gateway.auth_methods = set()
    told = extract(files.people(500), "-o", "out.jsonl")
    assert told.code == 1
    assert "invalid_client" in told.err
    assert told.err.count("\n") == 3
    assert gateway.api_requests == 0
    assert gateway.client_secret not in told.err
    assert not (directory / "out.errors.jsonl").exists()


def test_refusals_in_the_same_words_from_the_first_on_end_it(extract, files, gateway):
    gateway.chat_script.extend([FORBIDDEN] * 100)
    told = extract(files.people(100), "-o", "out.jsonl", concurrency=1)
    assert told.code == 1
    assert "stopped: the gateway refused with HTTP 403" in told.err
    assert files.count("out.errors.jsonl") == 20
    assert len(gateway.chat_log) <= 21  # One more may be under way.


def test_a_gateway_that_is_not_there_ends_it(extract, files, monkeypatch):
    monkeypatch.setenv("REVOS_BASE_URL", "http://127.0.0.1:1/v1")
    told = extract(files.people(100), "-o", "out.jsonl")
    assert told.code == 1
    assert "stopped: the gateway could not be reached" in told.err
    assert files.count("out.errors.jsonl") == 20


def test_the_same_refusals_after_a_success_do_not(extract, files, gateway):
    gateway.chat_script.extend(['{"name": "Ada", "age": 1}', *[FORBIDDEN] * 30])
    told = extract(files.people(32), "-o", "out.jsonl", concurrency=1)
    assert told.err.startswith("revos: 2 done, 30 failed")


# What is wrong is named before anything is sent.


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('"a"\n' * 6 + "{\n", "in.jsonl:7: not JSON: "),
        ('"a"\n' * 6 + '{"txt": "a"}\n', "in.jsonl:7: there is no key 'text'"),
        (b'"a"\n' * 6 + b'"\xff"\n', "in.jsonl:7: not UTF-8"),
        ('{"id": 1, "text": "a"}\n' * 2, "in.jsonl:2 has the id 1, which in.jsonl:1 has too"),
    ],
)
def test_a_line_that_does_not_do_is_named(content, told, extract, directory, gateway):
    data = content if isinstance(content, bytes) else content.encode()
    (directory / "in.jsonl").write_bytes(data)
    refused(extract("in.jsonl", "-o", "out.jsonl"), told, gateway)
    assert not (directory / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model": "gpt-9"}, "There is no model 'gpt-9'. Configured: "),
        ({"target": "nowhere:Person"}, "there is no module 'nowhere'"),
        ({"target": "cli_people.deep:Person"}, "there is no module 'cli_people.deep'"),
        ({"target": "broken:Person"}, "the module 'broken' can't be imported: ValueError: oh no"),
        (
            {"target": "needy:Person"},
            "the module 'needy' needs 'not_there', which is not installed",
        ),
        ({"target": "cli_people:Persn"}, "cli_people has no 'Persn'; the nearest is 'Person'"),
        ({"target": "cli_people:Outer.Iner"}, "cli_people.Outer has no 'Iner'"),
        ({"target": "cli_people"}, "--target 'cli_people' names no type: give module:Class"),
        ({"target": "cli_people:NUMBER"}, "an instance of int is no type"),
        ({"target": "nowhere.json"}, "nowhere.json can't be read: No such file or directory"),
        ({"target": "half.json"}, "half.json:2: not JSON: "),
        ({"target": "list.json"}, "list.json is no JSON schema"),
        ({"target": "bad.json"}, "it is no JSON schema: type: 'thing'"),
        ({"prompt": "Hello"}, "the prompt has no variable"),
        ({"prompt": "Hello {text"}, "the prompt is no template"),
        ({"prompt": "{text} {more}"}, "in.jsonl:1: there is no key 'more'"),
        ({"prompt": "@nowhere.md"}, "nowhere.md can't be read"),
        ({"prompt": "@latin.md"}, "latin.md is not UTF-8: the byte 0xfc at position 5"),
        ({"output": "nowhere/out.jsonl"}, "there is no directory nowhere"),
        ({"output": "half.json"}, "half.json exists: go on with --resume"),
        ({"id": "key"}, "no document has the field 'key'"),
        ({"concurrency": 0}, "--concurrency is at least 1"),
        ({"config": "nowhere.toml"}, "nowhere.toml"),
    ],
)
def test_an_option_that_does_not_do_is_told(options, told, extract, directory, gateway):
    (directory / "in.jsonl").write_text('{"text": "Ada, 36"}\n')
    (directory / "broken.py").write_text("raise ValueError('oh no')")
    (directory / "needy.py").write_text("import not_there")
    (directory / "half.json").write_text('{\n"type": ')
    (directory / "list.json").write_text("[]")
    (directory / "bad.json").write_text('{"type": "thing"}')
    (directory / "latin.md").write_bytes(b"Gr\xc3\xbc\xfc")
    refused(extract("in.jsonl", **options), told, gateway)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "there are no documents"),
        (["nowhere.jsonl"], "nowhere.jsonl can't be read"),
        (["in.jsonl", "--resume"], "--resume needs -o"),
        (["in.jsonl", "--resumee"], "there is no option --resumee"),
        (["in.jsonl", "-o", "./in.jsonl", "--resume"], "in.jsonl is an input, too"),
        (["a.errors.jsonl", "-o", "a.jsonl"], "a.errors.jsonl is an input, too"),
    ],
)
def test_arguments_that_do_not_do_are_told(args, told, extract, directory, gateway):
    for name in ("in.jsonl", "a.errors.jsonl"):
        (directory / name).write_text('{"text": "Ada, 36"}\n')
    refused(extract(*args), told, gateway)


def refused(told, words, gateway):
    assert (told.code, told.out) == (2, "")
    assert words in told.err
    assert told.err.startswith("revos: ")
    assert "Traceback" not in told.err
    assert gateway.token_requests == gateway.api_requests == 0


def test_a_pipe_that_begins_wrong_is_refused(extract, directory, gateway):
    os.mkfifo(directory / "pipe.jsonl")
    writer = threading.Thread(
        target=(directory / "pipe.jsonl").write_text, args=['{"txt": "Ada"}\n{"text": "Bob"}\n']
    )
    writer.start()
    told = extract("pipe.jsonl", "-o", "out.jsonl")
    writer.join()
    assert told.code == 2
    assert "pipe.jsonl:1: there is no key 'text'" in told.err
    assert gateway.api_requests == 0


def test_an_output_that_another_run_writes_is_not_touched(extract, files, directory, gateway):
    from revos.cli.outputs import open_output

    with open_output(directory / "out.jsonl"):
        told = extract(files.people(1), "-o", "out.jsonl", "--resume")
    refused(told, "another run writes to out.jsonl", gateway)


def test_variables_that_the_prompt_does_not_have_are_ignored(extract, directory, gateway):
    (directory / "in.jsonl").write_text('{"text": "Ada, 36", "source": "x", "n": 7}\n')
    assert extract("in.jsonl").code == 0


def test_an_empty_input_gives_an_empty_output(extract, directory):
    (directory / "in.jsonl").touch()
    told = extract("in.jsonl", "-o", "out.jsonl")
    assert told.code == 0
    assert (directory / "out.jsonl").read_bytes() == b""
