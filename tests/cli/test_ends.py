"""`revos extract` as a process: killed, interrupted, in a pipe, on a terminal."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and terminals of POSIX")

COUNT = 60
AT_ONCE = 4
# What was asked for nothing: those under way, and the one that is being written.
MOST_LOST = AT_ONCE + 1


@pytest.fixture
def slow(gateway):
    """The gateway takes a while, so that there is a middle of the file."""
    gateway.chat_delay = 0.05
    return gateway


def wait_for(condition, seconds=20):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def ids_in(files):
    return sorted(line["id"] for line in files.lines("out.jsonl"))


def test_a_killed_run_is_gone_on_with_and_nothing_is_done_twice(start, extract, files, slow):
    process = start(files.people(COUNT), "-o", "out.jsonl", "--concurrency", AT_ONCE)
    wait_for(lambda: files.count("out.jsonl") >= 10)
    process.kill()
    process.wait()
    done = files.count("out.jsonl")
    assert 10 <= done < COUNT
    with (files.directory / "out.jsonl").open("ab") as output:
        output.write(b'{"id": 59, "va')  # As if it had been in the middle of a line.
    slow.chat_delay = 0

    told = extract("people.jsonl", "-o", "out.jsonl", "--resume")

    assert told.code == 0
    assert ids_in(files) == list(range(COUNT))
    assert f"{COUNT - done} done (and {done} before), 0 failed" in told.err
    assert len(slow.chat_log) <= COUNT + MOST_LOST


def test_ctrl_c_ends_it_at_once_and_it_says_how_to_go_on(backend, start, revos, files, slow):
    process = start(
        files.people(COUNT), "-o", "out.jsonl", "--concurrency", 4, "--backend", backend
    )
    wait_for(lambda: files.count("out.jsonl") >= 10)
    slow.chat_delay = 60  # It waits for no answer.
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=15)
    assert (process.returncode, out) == (130, "")
    stopped, summary, command = err.splitlines()
    assert stopped == "revos: stopped by SIGINT"
    done = files.count("out.jsonl")
    assert summary.startswith(f"revos: {done} done, 0 failed, ")
    assert done < COUNT
    slow.chat_delay = 0

    told = revos(*shlex.split(command.removeprefix("revos: go on with: revos ")))

    assert told.code == 0
    assert ids_in(files) == list(range(COUNT))
    assert len(slow.chat_log) <= COUNT + MOST_LOST


def test_standard_input_is_done_line_by_line_and_sigterm_ends_it(backend, start, files):
    process = start("-", "-o", "out.jsonl", "--backend", backend, stdin=subprocess.PIPE)
    process.stdin.write('"Ada, 36"\n{"text": \n{"text": "Bob, 7"}\n')
    process.stdin.flush()
    wait_for(lambda: files.count("out.jsonl") == 2)  # It waits for no end.
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 143
    assert {line["id"]: line["value"]["age"] for line in files.lines("out.jsonl")} == {
        "stdin:1": 36,
        "stdin:3": 7,
    }
    (failure,) = files.lines("out.errors.jsonl")
    assert (failure["id"], failure["error"]) == ("stdin:2", "RevosInputError")
    assert "not JSON" in failure["message"]
    assert "\x1b" not in process.stderr.read()  # No bar, and no colour, in a pipe.


def test_it_stops_when_nobody_reads_what_it_prints(start, files, gateway):
    process = start(files.people(200), "--concurrency", 2)
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=10) == 1
    assert "stopped: nobody reads standard output any more" in err
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert len(gateway.chat_log) < 200


def test_on_a_terminal_there_is_a_bar_and_records_stand_above_it(
    start, files, gateway, monkeypatch
):
    monkeypatch.setenv("LOG_LEVEL", "INFO")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    gateway.chat_delay = 0.05
    ours, theirs = os.openpty()
    process = start(files.people(COUNT), "-o", "out.jsonl", "--concurrency", AT_ONCE, stderr=theirs)
    os.close(theirs)
    shown = everything(ours)
    assert process.wait(timeout=10) == 0
    assert re.search(r"\d+/60 .*━.* 0 failed  \d+\.\d/s  [\d,]+ tokens  0:00:0\d left", shown)
    assert re.search(r"\x1b\[2K[\d-]+ [\d:,]+ INFO revos\.audit: ", shown)  # On a line of its own.
    *_, summary = shown.strip().splitlines()
    assert "revos: 60 done, 0 failed, " in summary


def everything(fd):
    """What is written to a terminal, until nobody has it any more."""
    parts = []
    with os.fdopen(fd, "rb", buffering=0) as terminal:
        while data := part_of(terminal):
            parts.append(data)
    return b"".join(parts).decode()


def part_of(terminal):
    try:
        return terminal.read(4096)
    except OSError:  # So Linux says that the other end is closed.
        return b""
