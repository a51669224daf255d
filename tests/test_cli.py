"""The command line, as a user starts it: a process of its own."""

import os
import re
import socket
import subprocess
import sys
import threading
from importlib.metadata import entry_points
from importlib.util import find_spec

import pytest

from revos.cli import main

pytestmark = pytest.mark.skipif(
    find_spec("cyclopts") is None or find_spec("rich") is None, reason="needs the extra cli"
)

STEPS = [
    "configuration",
    "token",
    "extractors",
    "object",
    "object",
    "refresh",
    "revocation",
    "exit",
]


def python(*args, cwd, env=None):
    """Run Python with nothing in the environment but `env`."""
    return subprocess.run(
        [sys.executable, *args],
        check=False,
        cwd=cwd,
        env=env or {},
        capture_output=True,
        text=True,
        timeout=60,
    )


def revos(*args, cwd, env=None):
    return python("-m", "revos", *args, cwd=cwd, env=env)


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def demo(request, tmp_path_factory):
    """The demo in an empty directory, each warning an error, and the CPU seconds that it took.

    Not those of the wall, which tell how busy the machine is: the demo waits for 0.2 s in all.
    """
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    before = os.times()
    done = python(
        *("-W", "error", "-X", "dev", "-m", "revos", "demo", "--backend", request.param),
        cwd=tmp_path_factory.mktemp("empty"),
    )
    after = os.times()
    return done, sum(after[2:4]) - sum(before[2:4])


def test_the_demo_ends_well_and_says_nothing_on_standard_error(demo):
    done, _ = demo

    assert done.stderr == ""
    assert done.returncode == 0


def test_the_demo_takes_less_than_ten_seconds(demo):
    _, seconds = demo

    assert seconds < 10


def test_each_step_of_the_demo_is_a_plain_line_with_its_figures(demo):
    done, _ = demo

    _, *steps, foot = done.stdout.splitlines()
    assert [line.split()[:2] for line in steps] == [["ok", step] for step in STEPS]
    assert "1 token request so far" in steps[2]
    assert "Person(name='Ada Lovelace', age=36, city='London')" in steps[3]
    assert "Person(name='Grace Hopper', age=45, city='New York')" in steps[4]
    assert "sent by 2 of 2 extractors; connections 1 before, 1 after" in steps[5]
    assert re.search(r"by 1 token request, .* 20 right$", steps[6])
    assert steps[7].endswith("with 1 token request hanging; 0 tasks and 0 threads left")
    assert foot.startswith("All as promised")
    assert "\x1b" not in done.stdout


def test_nothing_in_the_environment_or_the_directory_changes_the_demo(tmp_path):
    (tmp_path / ".env").write_text("REVOS_MAX_RETRIES=nonsense\nTOKEN_ENABLE_FALLBACK=nonsense\n")
    with Trap() as trap:
        hostile = {
            **dict.fromkeys(["HTTP_PROXY", "https_proxy", "ALL_PROXY", "OPENAI_PROXY"], trap.url),
            **dict.fromkeys(["OPENAI_BASE_URL", "OPENAI_API_BASE"], trap.url),
            **dict.fromkeys(["LANGSMITH_ENDPOINT", "LANGCHAIN_ENDPOINT"], trap.url),
            **dict.fromkeys(["LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"], "true"),
            **dict.fromkeys(["LANGSMITH_API_KEY", "OPENAI_API_KEY", "OPENAI_ORG_ID"], "made-up"),
            **dict.fromkeys(["REVOS_TOKEN_URL", "REVOS_BASE_URL"], trap.url),
            "REVOS_CLIENT_ID": "made-up",
            "TOKEN_REFRESH_INTERVAL_MINUTES": "nonsense",
            "LLM_MODELS_GPT_4_MODEL": "made-up",
            "LOG_LEVEL": "DEBUG",
            "LOG_FILE": "demo.log",
            "SSL_CERT_FILE": "/nowhere",
        }

        done = revos("demo", cwd=tmp_path, env=hostile)

    assert trap.visits == 0
    assert done.stderr == ""
    assert done.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


def test_a_figure_that_is_not_as_promised_is_said_and_fails_the_demo(tmp_path):
    code = "import sys; from revos.cli import demo as d; d.LONGEST_EXIT_MS = -1; sys.exit(d.demo())"

    done = python("-c", code, cwd=tmp_path)

    assert done.returncode == 1
    assert re.search(r"^FAILED +exit .* \[promised: at most -1 ms\]$", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("\nNot as promised: exit.\n")


def test_a_step_that_raises_ends_the_demo_with_its_error(tmp_path):
    code = """
import sys
from functools import partial
from revos.cli import demo as d
from revos.testing import Gateway
d.serve_gateway_in_thread = partial(d.serve_gateway_in_thread, Gateway(auth_methods=set()))
sys.exit(d.demo())
"""

    done = python("-c", code, cwd=tmp_path)

    assert done.returncode == 1
    *_, step, foot = done.stdout.splitlines()
    assert re.match(r"FAILED +token +RevosAuthenticationError: .*invalid_client", step)
    assert foot.startswith("The demo ends here")
    assert "revos-demo-secret" not in done.stdout + done.stderr


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
def test_without_the_extra_one_line_says_what_to_install(missing, tmp_path):
    code = f"import sys; sys.modules[{missing!r}] = None; from revos.cli import main; main()"

    done = python("-c", code, cwd=tmp_path)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert 'pip install "revos[cli]"' in done.stderr


def test_without_trio_one_line_says_what_to_install(tmp_path):
    code = """
import sys
from revos.cli import demo as d
d.find_spec = lambda name: None
sys.exit(d.demo(backend="trio"))
"""

    done = python("-c", code, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert 'pip install "revos[trio]"' in done.stderr


@pytest.mark.parametrize("args", [["dmeo"], ["demo", "--backend", "curio"], ["demo", "--nonsense"]])
def test_a_command_or_option_that_does_not_exist_is_a_usage_error(args, tmp_path):
    done = revos(*args, cwd=tmp_path)

    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert args[-1] in done.stderr


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "demo"),
        (["--help"], "demo"),
        (["demo", "--help"], "--backend"),
        (["extract", "--help"], "--resume"),
        (["models", "--help"], "--config"),
        (["--version"], "revos 1."),
    ],
)
def test_help_and_version(args, told, tmp_path):
    done = revos(*args, cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert told in done.stdout


def test_ctrl_c_before_a_command_runs_shows_no_traceback(tmp_path):
    code = """
import builtins, sys
import revos.cli
def interrupted(name, *args, load=builtins.__import__):
    if name == "cyclopts":
        raise KeyboardInterrupt
    return load(name, *args)
builtins.__import__ = interrupted
revos.cli.main()
"""

    done = python("-c", code, cwd=tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_script_revos_is_this_command():
    (script,) = entry_points(group="console_scripts", name="revos")

    assert script.load() is main


class Trap:
    """A port of this machine that nobody should visit; it counts who does, and hangs up."""

    def __enter__(self):
        self.visits = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._count)
        self._thread.start()
        return self

    def _count(self):
        while True:
            visitor, _ = self._socket.accept()
            with visitor:
                if self._closing:
                    return
                self.visits += 1

    _closing = False

    def __exit__(self, *exc_info):
        self._closing = True
        socket.create_connection(self._socket.getsockname()).close()
        self._thread.join()
        self._socket.close()
