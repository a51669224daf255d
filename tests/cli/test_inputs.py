"""Files and streams: checked first, read again; what is named wrongly."""

import os
import threading
import tracemalloc

import anyio
import pytest

from revos import RevosInputError
from revos.cli.documents import key_of
from revos.cli.inputs import Inputs, sources_of


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inputs(*names, format_=None, id_field=None):
    return Inputs(sources_of(names, format_), frozenset({"text"}), id_field)


async def ids_of(found, done=()):
    """The ids of the documents, and what was no document."""
    misfits = []

    async def failed(misfit):
        misfits.append(str(misfit))

    ids = [document.id async for document in found.documents({key_of(id_) for id_ in done}, failed)]
    return ids, misfits


async def test_files_of_all_formats_are_read_in_their_order(directory):
    (directory / "a.jsonl").write_text('{"id": 1, "text": "a"}\n"b"\n')
    (directory / "b.csv").write_text("text\nc\n")
    (directory / "c.txt").write_text("d")
    (directory / "README").write_text("e")
    found = inputs("a.jsonl", "b.csv", "c.txt", "README")
    survey = found.survey()
    assert survey.total == 5
    assert survey.left({key_of(1), key_of("of another input")}) == 4
    expected = [1, "a.jsonl:2", "b.csv:2", "c.txt", "README"]
    assert await ids_of(found) == (expected, [])
    assert await ids_of(found, done=["b.csv:2", "1"]) == (["a.jsonl:2", "c.txt", "README"], [])


async def test_a_format_that_is_given_goes_for_all_files(directory):
    (directory / "lines").write_text('"a"\n"b"\n')
    assert await ids_of(inputs("lines", format_="jsonl")) == (["lines:1", "lines:2"], [])


async def test_many_small_files_are_all_read(directory):
    names = [f"{number}.txt" for number in range(150)]
    for name in names:
        (directory / name).write_text(name)
    found = inputs(*names)
    assert found.survey().total == 150
    assert await ids_of(found) == (names, [])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], "there are no documents"),
        (["nowhere.jsonl"], "nowhere.jsonl can't be read: No such file or directory"),
        (["."], ". is a directory"),
        (["-", "-"], "standard input (-) is named twice"),
        (["a\0b"], "can't be read"),
    ],
)
def test_what_is_named_wrongly_is_told(names, told, directory):
    with pytest.raises(RevosInputError) as caught:
        inputs(*names)
    assert told in str(caught.value)


def test_two_documents_with_one_id_are_both_named(directory):
    (directory / "a.jsonl").write_text('{"id": "x", "text": "a"}\n{"id": 7, "text": "b"}\n')
    (directory / "b.csv").write_text("id,text\n1,a\n7,b\n")
    with pytest.raises(RevosInputError, match=r"^b.csv:3 has the id '7', which a.jsonl:2 has too$"):
        inputs("a.jsonl", "b.csv").survey()


@pytest.mark.parametrize(
    ("again", "also"),
    [("a.txt", ""), ("./a.txt", ", also as ./a.txt"), ("link", ", also as link")],
)
def test_a_file_that_is_named_twice_is_told(directory, again, also):
    (directory / "a.txt").write_text("a")
    (directory / "link").symlink_to("a.txt")
    with pytest.raises(RevosInputError, match=rf"^a.txt is named twice{also}$"):
        inputs("a.txt", again)


def test_hard_links_are_files_of_their_own(directory):
    (directory / "a.txt").write_text("a")
    (directory / "b.txt").hardlink_to(directory / "a.txt")
    assert inputs("a.txt", "b.txt").survey().total == 2


def test_the_first_line_that_is_no_document_is_named(directory):
    (directory / "a.jsonl").write_text('"a"\n' * 6 + "{\n" * 2)
    with pytest.raises(RevosInputError, match=r"^a.jsonl:7: not JSON"):
        inputs("a.jsonl").survey()


def test_a_field_that_no_document_has_is_no_id(directory):
    (directory / "a.jsonl").write_text('{"id": "x", "text": "a"}\n')
    with pytest.raises(RevosInputError, match="no document has the field 'nom'"):
        inputs("a.jsonl", id_field="nom").survey()


async def test_a_file_that_changes_after_the_survey_fails_by_line(directory):
    (directory / "a.jsonl").write_text('"a"\n')
    found = inputs("a.jsonl")
    found.survey()
    (directory / "a.jsonl").write_text('"a"\n{\n"b"\n')
    ids, (misfit,) = await ids_of(found)
    assert ids == ["a.jsonl:1", "a.jsonl:3"]
    assert misfit.startswith("a.jsonl:2: not JSON")


async def through_a_pipe(directory, data, name="pipe.jsonl", **kwargs):
    os.mkfifo(directory / name)
    found = inputs(name, **kwargs)
    assert found.survey().total is None
    writer = threading.Thread(target=(directory / name).write_bytes, args=[data])
    writer.start()
    try:
        with anyio.fail_after(5):
            return await ids_of(found)
    finally:
        writer.join()


async def test_a_pipe_is_read_once_and_its_bad_lines_fail_alone(directory):
    ids, misfits = await through_a_pipe(
        directory, b'"a"\n{\n{"id": 1, "text": "b"}\n{"id": 1, "text": "c"}\n"d"'
    )
    assert ids == ["pipe.jsonl:1", 1, "pipe.jsonl:5"]
    assert misfits[0].startswith("pipe.jsonl:2: not JSON")
    assert misfits[1] == "pipe.jsonl:4: another document has the id 1, too"


async def test_a_pipe_that_begins_wrong_is_an_error(directory):
    with pytest.raises(RevosInputError, match=r"^pipe.jsonl:1: there is no key 'text'"):
        await through_a_pipe(directory, b'{"txt": "a"}\n"b"\n')


async def test_a_pipe_gives_each_line_as_it_comes_and_its_reading_can_be_cancelled(directory):
    os.mkfifo(directory / "pipe.jsonl")
    found = inputs("pipe.jsonl")
    # Both ends are here, so that opening it waits for nobody.
    fd = os.open(directory / "pipe.jsonl", os.O_RDWR)
    try:
        os.write(fd, b'"a"\n"half')
        documents = found.documents(set(), None)
        with anyio.fail_after(5):
            assert (await anext(documents)).id == "pipe.jsonl:1"
        with anyio.move_on_after(0.05) as scope:
            await anext(documents)
        assert scope.cancelled_caught
    finally:
        os.close(fd)


async def test_memory_does_not_grow_with_the_texts_of_a_file(directory):
    with (directory / "big.jsonl").open("w") as file:
        file.writelines(f'{{"id": {number}, "text": "{"x" * 5000}"}}\n' for number in range(4000))
    found = inputs("big.jsonl")  # Of 20 MB.
    tracemalloc.start()
    try:
        assert found.survey().total == 4000
        ids, _ = await ids_of(found)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(ids) == 4000
    assert peak < 6_000_000
