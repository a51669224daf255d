"""Code in another process: a script in an interpreter of its own, a function in a forked child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable

STRICT = ("-X", "dev", "-W", "error")
CHILD_SECONDS = 10
# In debug mode asyncio tells of each step that a busy machine was slow to make.
QUIET = "import logging; logging.getLogger('asyncio').setLevel('ERROR')\n"


def run_script(environ: dict[str, str], script: str, *args: str) -> subprocess.CompletedProcess:
    """The script in an interpreter of its own, where every warning is an error."""
    return subprocess.run(
        [sys.executable, *STRICT, "-c", QUIET + textwrap.dedent(script), *args],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def in_child(function: Callable[[], object]) -> str:
    """What the function returns in a forked child, or raises there, in words.

    The child has the thread that called and no other. One that hangs is killed.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # From Python 3.12 on: of a fork beside threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        forget_signals_of_parent()
        signal.alarm(CHILD_SECONDS)
        os.write(writing, _told(function).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:  # noqa: PTH123 - a descriptor has no path
        said = answer.read()
    os.waitpid(child, 0)
    return said


def forget_signals_of_parent() -> None:
    """pytest-timeout has a handler, and Trio warns of a descriptor that is the parent's loop's."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)


def _told(function: Callable[[], object]) -> str:
    try:
        return str(function())
    except BaseException as error:  # noqa: BLE001 - the parent looks at it
        return f"{type(error).__name__}: {error}"
