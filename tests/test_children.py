"""What happens in the other process is told, or the tests of forks and scripts could not fail."""

import os
import time

import children
import pytest
from children import in_child, run_script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


def test_a_child_tells_what_its_function_returns_and_is_another_process():
    assert in_child(os.getpid) != str(os.getpid())
    assert in_child(lambda: 1 + 1) == "2"


def test_a_child_tells_what_its_function_raises():
    assert in_child([].pop) == "IndexError: pop from empty list"


def test_a_child_that_hangs_is_killed_and_tells_nothing(monkeypatch):
    monkeypatch.setattr(children, "CHILD_SECONDS", 1)

    assert in_child(lambda: time.sleep(30)) == ""


def test_a_script_has_its_environment_and_its_arguments():
    done = run_script(
        {"MADE_UP": "7"}, "import os, sys; print(os.environ['MADE_UP'], *sys.argv)", "8"
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "7 -c 8\n", "")


def test_in_a_script_a_warning_is_an_error():
    done = run_script({}, "import warnings; warnings.warn('made up')")

    assert done.returncode == 1
    assert "UserWarning: made up" in done.stderr
