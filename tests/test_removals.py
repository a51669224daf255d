"""What can be taken out of a module is, each thing once, and the rest still stands."""

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from attrs import evolve
from removals import Removal, removals
from removing import HUNG, LEFT, MISSED, NOTHING, Lane, Passing, Trial, Verdict, tell

TESTS = Path(__file__).parent


def taken(text):
    return [removal.words for removal in removals(textwrap.dedent(text))]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("call()", ["without: call()"]),
        ("await call()", ["without: await call()"]),
        ("yield", []),
        ("return 1", ["without: return 1"]),
        ("raise Error", ["without: raise Error"]),
        (
            "raise Error from cause",
            ["without from: raise Error from cause", "without: raise Error from cause"],
        ),
        ("x.y = 1", ["without: x.y = 1"]),
        ("x.y: int = 1", ["without: x.y: int = 1"]),
        ("x += 1", ["without: x += 1"]),
        ("argument = 1", ["without: argument = 1"]),
        ("only = 1", []),
        ("first, second = pair", []),
        ("first, argument = pair", []),
        ("assert argument", ["without: assert argument"]),
        ("a = redact(b)", ["without: redact(b)"]),
        ("with lock: only = 1", ["without: lock"]),
        ("async with lock: only = 1", ["without: lock"]),
        ("with lock as held: only = 1", []),
        ("a = b if c else d", ["never: c", "always: c"]),
        ("while True: only = 1", []),
        ("while a: only = 1", ["never: a"]),
        ("only = [b for b in c if b]", ["always: b"]),
        (
            "only = a and b and c",
            [f"without {one}: a and b and c" for one in "abc"],
        ),
        ("only = call(a, b=1)", ["without: b=1"]),
        ("only = call(b=1, c=2)", ["without: b=1,", "without: c=2"]),
        ("only = call(**b)", []),
        ("only = call(  # why\n        b=1\n    )", ["without: b=1"]),
    ],
)
def test_each_thing_is_taken_out(body, words):
    assert taken(f"async def f(argument):\n    {body}") == words


def test_nothing_is_caught_any_more():
    text = """
        def f():
            try:
                only = 1
            except (A, B):
                other = 2
            finally:
                a()
                b()
    """

    assert taken(text) == [
        "not caught: (A, B)",
        "not caught: A",
        "not caught: B",
        "no finally: a() b()",
        "without: a()",
        "without: b()",
    ]


def test_a_condition_still_gives_the_name_that_is_wanted_behind_it():
    text = "def f():\n    if (a := g()) and h():\n        print(a)"

    ways = [removal.text.splitlines()[1].strip() for removal in removals(text)]

    assert "if [(a := g()) and h()] and False:" in ways
    assert "if [(a := g()) and h()]:" in ways
    assert "if ((a := g())):" in ways
    assert "if (h()):" not in ways


def test_what_hides_or_checks_a_field_is_taken_out_and_what_else_a_class_says_is_not():
    text = '''
        """Of the module."""
        NAME = call(a=1)

        @frozen(eq=False)
        class C:
            """Of the class."""

            secret: str = field(default="", repr=False)

            def f(self):
                """Of the function."""
    '''

    assert taken(text) == ["without: repr=False"]


def test_lines_go_from_the_nearest_to_the_statements_around_it():
    text = "def f():\n    if a:\n        call(\n            1,\n            b=2,\n        )\n"

    lines = {removal.words: removal.lines for removal in removals(text)}

    assert lines["without: b=2,"] == (5, 3, 2, 1)


def test_each_removal_is_another_text_that_python_reads():
    text = (TESTS.parent / "revos/refresher.py").read_text(encoding="utf-8")

    texts = [removal.text for removal in removals(text)]

    assert len(texts) > 50
    assert len({text, *texts}) == 1 + len(texts)
    for changed in texts:
        ast.parse(changed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_what_a_test_misses_and_what_none_does_are_told_apart(tmp_path):
    script = """
        import sys
        from pathlib import Path
        from removals import Removal
        from removing import Lane, Passing, Trial

        module = "revos/process.py"
        test = sys.argv[2]
        whole = Path(module).read_text()
        lane = Lane(Path(sys.argv[1]), Passing({test: 0.1}, {module: {1: {test}}}))
        for text in (
            whole,
            whole.replace("page[0] = 1", "pass"),
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            whole,
        ):
            print(lane.verdict(Trial(module, Removal((1,), "something", text))))
    """

    test = "tests/test_process.py::test_asking_costs_no_system_call"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), test],
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    words = [line.split()[0] for line in done.stdout.splitlines()]
    assert words == ["left", "missed", "hung", "left"], done
    assert test in done.stdout.splitlines()[1]


def test_tests_are_looked_for_at_the_line_then_around_it_then_in_the_module():
    passing = Passing(
        {"slow": 9, "quick": 1, "other": 2}, {"m.py": {3: {"slow", "quick"}, 1: {"other"}}}
    )

    assert passing.tests("m.py", (3, 1)) == ["quick", "slow"]
    assert passing.tests("m.py", (4, 1)) == ["other"]
    assert passing.tests("m.py", (4, 5)) == ["quick", "other", "slow"]


@pytest.mark.parametrize(
    ("seconds", "chosen"), [(1, ["a.py::one"]), (6, ["a.py::one", "a.py::two", "b.py::one"])]
)
def test_as_many_tests_are_chosen_as_the_time_allows_and_one_at_least(tmp_path, seconds, chosen):
    passing = Passing({"a.py::one": 2, "a.py::two": 1, "b.py::one": 1, "b.py::two": 9})
    (tmp_path / "project").mkdir()

    lane = Lane(tmp_path / "place", passing, project=tmp_path / "project")

    assert lane.chosen("m.py", list(passing.seconds), seconds) == chosen


def verdicts_of(words):
    module = "m.py"
    told = [
        Verdict(Trial(module, Removal((n + 1,), "one", "")), word, "")
        for n, word in enumerate(words)
    ]
    return [Verdict(Trial(module, Removal((0,), NOTHING, "")), LEFT, ""), *told]


@pytest.mark.parametrize(
    ("words", "code"),
    [([MISSED] * 9 + [LEFT], 0), ([MISSED] * 8 + [LEFT], 1), ([MISSED, HUNG], 0), ([], 0)],
)
def test_more_than_a_tenth_that_is_left_is_told_by_the_exit_code(words, code):
    assert tell(verdicts_of(words)) == code


@pytest.mark.parametrize("word", [MISSED, HUNG])
def test_tests_that_fail_with_nothing_taken_out_are_told_by_the_exit_code(word):
    untouched, *told = verdicts_of([MISSED])

    assert tell([evolve(untouched, word=word), *told]) == 2
