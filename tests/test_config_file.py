"""What is said of a file that cannot be read, and nothing of what stands in it."""

import sys
import traceback

import pytest

from revos.config_file import UnreadableError, read_tree

SECRET = "s3cret-HUSH"
LONG = "9" * 5000

COMPLAINTS = {
    "no toml": (".toml", f"a = {SECRET}", "is not valid TOML: Invalid value (at line 1, column 5)"),
    "a long number in toml": (".toml", f"a = {LONG}", "is not valid TOML: a number is too long"),
    "no json": (
        ".json",
        f'{{"a":\n {SECRET}',
        "is not valid JSON: Expecting value (at line 2, column 2)",
    ),
    "a long number in json": (".json", LONG, "is not valid JSON: a number is too long"),
    "a key twice in json": (".json", '{"a": 1, "a": 2}', "has the key 'a' twice in one table"),
    "deep json": (".json", "[" * 100_000, "is nested too deeply"),
    "no yaml": (".yaml", f"a: 1\nb: [{SECRET}", "is not valid YAML (at line 2, column 16)"),
    "an unknown tag in yaml": (
        ".yaml",
        f"\na: !odd {SECRET}",
        "is not valid YAML (at line 2, column 4)",
    ),
    "no date in yaml": (".yaml", f"a: 2026-99-99 # {SECRET}", "is not valid YAML"),
    "a key twice in yaml": (".yaml", "a: 1\na: 2", "has the key 'a' twice in one table"),
    "a list for a key in yaml": (
        ".yaml",
        f"? [{SECRET}]\n: 1",
        "is not valid YAML (at line 1, column 3)",
    ),
    "deep yaml": (".yaml", "[" * 10_000, "is nested too deeply"),
    "no text": (".json", f"\udcff{SECRET}", "cannot be read: it is not UTF-8 text"),
}


def complaint(path):
    """What is said of the file, and by nothing that stands behind it."""
    with pytest.raises(UnreadableError) as caught:
        read_tree(path)
    assert caught.value.__suppress_context__
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


@pytest.mark.parametrize(("suffix", "content", "words"), COMPLAINTS.values(), ids=COMPLAINTS)
def test_a_file_that_cannot_be_read_is_told_without_what_stands_in_it(
    tmp_path, suffix, content, words
):
    path = tmp_path / f"c{suffix}"
    path.write_bytes(content.encode(errors="surrogateescape"))

    assert complaint(path) == f"{path} {words}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.json", "there is no such file"),
        ("c" * 300 + ".json", "File name too long"),
        ("c.yaml", 'pip install "revos[yaml]"'),
    ],
    ids=["missing", "too long", "without yaml"],
)
def test_a_file_that_is_not_there_or_needs_more_is_told(tmp_path, monkeypatch, name, words):
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "c.yaml").write_text("a: 1")

    assert complaint(tmp_path / name) == f"{tmp_path / name} cannot be read: {words}"
