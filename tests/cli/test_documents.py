"""Bytes in, documents out: formats, ids and places, and what is no document."""

import json

import pytest

from revos.cli.documents import Document, Misfit, Reader, key_of

TEXT = frozenset({"text"})


def read(data, format_="jsonl", names=TEXT, step=None, **kwargs):
    """The items of a whole file that comes in pieces of `step` bytes."""
    reader = Reader("f", format_, frozenset(names), **kwargs)
    step = step or len(data) or 1
    items = []
    for at in range(0, len(data), step):
        items += reader.feed(data[at : at + step])
    return items + list(reader.end())


def problem(data, format_="jsonl", **kwargs):
    """The only misfit among the items, as it is told."""
    (misfit,) = (item for item in read(data, format_, **kwargs) if isinstance(item, Misfit))
    return str(misfit)


LINES = '"Ada, 36"\n\n{"id": 7, "text": "Grüße", "more": [1]}\r\n{"text": "no end"}'.encode()
ROWS = (
    '\ufeffid, text ,n\r\n1,"Ada, 36",a\n\n2,"two\nlines, and ""quotes""",b\n3,Grüße,c\n,no id,d'
).encode()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_json_lines_are_the_same_in_whatever_pieces_they_come(step):
    assert read(LINES, step=step) == [
        Document("f:1", "f:1", {"text": "Ada, 36"}),
        Document(7, "f:3", {"text": "Grüße"}),
        Document("f:4", "f:4", {"text": "no end"}),
    ]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_csv_is_the_same_in_whatever_pieces_it_comes(step):
    assert read(ROWS, "csv", step=step) == [
        Document("1", "f:2", {"text": "Ada, 36"}),
        Document("2", "f:4", {"text": 'two\nlines, and "quotes"'}),
        Document("3", "f:6", {"text": "Grüße"}),
        Document("f:7", "f:7", {"text": "no id"}),
    ]


def test_a_text_file_is_one_document():
    data = "\ufeffAda,\n36\n".encode()
    assert read(data, "text", step=1) == [Document("f", "f", {"text": "Ada,\n36\n"})]


def test_a_value_that_is_no_text_is_given_as_json():
    line = b'{"a": 1, "b": [true, "\xc3\xbc"], "c": null, "d": true, "e": 1.5}'
    (document,) = read(line, names="abcde")
    assert document.variables == {"a": 1, "b": '[true, "ü"]', "c": "null", "d": "true", "e": 1.5}


def test_a_field_of_another_name_may_be_the_id():
    assert read(b'{"key": "a", "id": 1, "text": ""}', id_field="key")[0].id == "a"
    assert read(b"key,id,text\na,1,", "csv", id_field="key")[0].id == "a"


@pytest.mark.parametrize("nothing", [b'{"text": ""}', b'{"id": null, "text": ""}'])
def test_without_an_id_the_place_is_it(nothing):
    assert read(nothing)[0].id == "f:1"


def test_a_number_and_its_digits_are_one_id():
    assert key_of(7) == key_of("7") != key_of("8")
    assert key_of("\ud800")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{not json}", "f:2: not JSON: Expecting property name enclosed in double quotes"),
        (b'{"text": "a"} x', "f:2: not JSON: Extra data at column 15"),
        (b'{"text": "\xff"}', "f:2: not UTF-8: the byte 0xff at position 11"),
        (b"[1, 2]", "f:2: a line must be a JSON object or string, not a list"),
        (b"17", "f:2: a line must be a JSON object or string, not a number"),
        (b"null", "f:2: a line must be a JSON object or string, not null"),
        (b'{"id": 1, "txt": "a"}', "f:2: there is no key 'text', which the prompt has"),
        (b'{"id": 1, "txt": "a"}', "(there is: 'id', 'txt'; the nearest is 'txt')"),
        (b"{}", "(there is: nothing)"),
        (b'{"id": [1], "text": "a"}', "f:2: the id ('id') must be a string or a number, not a l"),
        (b'{"id": true, "text": "a"}', "not true or false"),
        (b'{"id": NaN, "text": "a"}', "f:2: the id ('id') must be a finite number"),
        (b'{"id": -1e999, "text": "a"}', "f:2: the id ('id') must be a finite number"),
        (b'{"text": "\\ud800"}', "f:2: a text has half of a surrogate pair"),
        (b"[" * 100_000, "f:2: not JSON that can be read: it is nested too deeply"),
        (b'{"text": ' + b"1" * 5000 + b"}", "f:2: not JSON that can be read: "),
    ],
)
def test_a_line_that_is_no_document_is_named_and_the_others_are_read(line, told):
    items = read(b'"Ada"\n' + line + b'\n"Grace"\n')
    assert [type(item) for item in items] == [Document, Misfit, Document]
    assert told in str(items[1])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (b"1,a,b", "f:3: the row has 3 fields, the header has 2"),
        (b"1", "f:3: the row has 1 fields, the header has 2"),
        (b'1,"a" b', "f:3: not CSV: "),
        (b"1,\xff", "f:3: not UTF-8: the byte 0xff at position 3"),
    ],
)
def test_a_row_that_is_no_document_is_named_and_the_others_are_read(row, told):
    items = read(b"id,text\n0,Ada\n" + row + b"\n2,Grace", "csv")
    assert [type(item) for item in items] == [Document, Misfit, Document]
    assert told in str(items[1])


def test_a_quote_that_is_never_closed_is_named_where_it_opens():
    assert problem(b'id,text\n0,Ada\n1,"Gra\n2,ce\n', "csv") == (
        "f:3: the row has an opening quote without a closing one"
    )


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (b"id,txt", "f:1: there is no column 'text', which the prompt has as a variable"),
        (b"text,text", "f:1: the header has a column twice: 'text'"),
        (b"text,\xff", "f:1: not UTF-8"),
        (b"", "f:1: there is no header row"),
    ],
)
def test_a_header_that_does_not_do_is_the_only_problem(header, told):
    assert problem(header + b"\n1,2\n3,4\n" if header else b"", "csv").startswith(told)


def test_columns_without_a_name_do_no_harm():
    assert len(read(b"text,,\na,,\n", "csv")) == 1


def test_a_field_may_be_longer_than_the_csv_module_takes_by_default():
    (document,) = read(b"text\n" + b"x" * 200_000, "csv")
    assert len(document.variables["text"]) == 200_000


@pytest.mark.parametrize("names", [set(), {"a", "b"}])
@pytest.mark.parametrize(("data", "format_"), [(b'"Ada"', "jsonl"), (b"Ada", "text")])
def test_a_text_needs_a_prompt_with_one_variable(names, data, format_):
    assert "a text fills a prompt with one variable only" in problem(data, format_, names=names)


def test_an_error_names_not_more_than_ten_keys():
    line = json.dumps({f"key{number}": "" for number in range(30)}).encode()
    assert "'key9' and 20 more" in problem(line)
