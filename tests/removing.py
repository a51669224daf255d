"""Takes one thing at a time out of modules, and names what no test misses.

    python tests/removing.py [--map FILE] [--at-once N] [revos/auth.py ...]

What can be taken out is in `removals.py`; without modules it is taken out of the core. For each
removal tests that pass through its line, or else around it, are run in a copy of the project: some
seconds of them, and where those miss nothing a minute of them. Which tests pass where is recorded
before, on asyncio and on Trio, in some minutes; or it is read from FILE, which is written where it
is not there, or of another state of the project. Exit code 1 where more than a tenth of a module's
removals is not missed, and 2 where tests fail with nothing taken out.
"""

# ruff: noqa: T201 - it is run by hand, and tells what it saw.

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import cache_from_source
from itertools import chain
from pathlib import Path

import pytest
from attrs import Factory, define, evolve, field, frozen
from removals import Removal, removals

PROJECT = Path(__file__).resolve().parent.parent
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "node_modules")
CORE = [f"revos/{name}.py" for name in ("policy", "oauth2", "broadcast", "manager")]
BACKENDS = ("asyncio", "trio")
FORK = multiprocessing.get_context("fork")
# What the tests import of others takes seconds, and each removal has a process of its own.
PRELOADED = (
    "cattrs",
    "h11",
    "httpx",
    "hypothesis",
    "langchain_core.callbacks",
    "langchain_core.prompts",
    "langchain_openai",
    "openai.types.chat",
    "trio.testing",
    "trustme",
)

SECONDS_FIRST, SECONDS_THEN = 5, 60  # as the tests took when they were recorded
SECONDS_OF_FILE, SECONDS_OF_TEST = 0.5, 0.02  # that it takes to collect one
LONGEST_TEST = 15
DEADLINE = 3  # times as long as all should take
OF_ONE_FILE = 3  # tests in a row, before those of the next have their turn
MOST_LEFT = 0.1

NOTHING = "nothing taken out"
MISSED, HUNG, LEFT = "missed", "hung", "left"


@define
class Passing:
    """:ivar seconds: that each test takes
    :ivar through: a module, and a line of it, to the tests that pass there
    """

    seconds: dict[str, float] = Factory(dict)
    through: dict[str, dict[int, set[str]]] = Factory(dict)

    def add(self, other: Passing) -> None:
        self.seconds |= other.seconds
        for module, lines in other.through.items():
            mine = self.through.setdefault(module, {})
            for line, tests in lines.items():
                mine.setdefault(line, set()).update(tests)

    def tests(self, module: str, lines: Iterable[int]) -> list[str]:
        """Through the first of the lines that has any, or through any of the module."""
        through = self.through.get(module, {})
        found = next((through[line] for line in lines if through.get(line)), None)
        return sorted(found or set().union(*through.values()), key=self.seconds.__getitem__)


class Recorder:
    """A plugin of pytest's."""

    def __init__(self) -> None:
        import coverage

        self.passing = Passing()
        self._failed: set[str] = set()
        self._coverage = coverage.Coverage(data_file=None, source=["revos"], config_file=False)

    def pytest_sessionstart(self) -> None:
        self._coverage.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seconds = self.passing.seconds
        seconds[report.nodeid] = seconds.get(report.nodeid, 0) + report.duration
        if report.failed:
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        for name in self._failed:
            del self.passing.seconds[name]
        known = {name: name for name in self.passing.seconds}
        for file in data.measured_files():
            self.passing.through[str(Path(file).relative_to(PROJECT))] = {
                line: {known[name] for name in names if name in known}
                for line, names in data.contexts_by_lineno(file).items()
            }


def recorded(backend: str) -> Passing:
    """In a process of its own."""
    recorder = Recorder()
    pytest.main(["-q", "-p", "no:cacheprovider", "--backend", backend], [recorder])
    return recorder.passing


def state() -> str:
    """Of all that a line may mean something else by."""
    digest = hashlib.sha256()
    for file in sorted((*PROJECT.glob("revos/**/*.py"), *PROJECT.glob("tests/**/*.py"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def passing_as_in(known: Path | None) -> Passing:
    if known is not None and known.exists():
        of_state, passing = pickle.loads(known.read_bytes())
        if of_state == state():
            return passing
    passing = Passing()
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as processes:
        for part in processes.map(recorded, BACKENDS):
            passing.add(part)
    if known is not None:
        known.write_bytes(pickle.dumps((state(), passing)))
    return passing


@frozen
class Trial:
    module: str
    removal: Removal

    def __str__(self) -> str:
        return f"{self.module}:{self.removal}"


@frozen
class Verdict:
    trial: Trial
    word: str
    by: str

    def __str__(self) -> str:
        return f"{self.word:6} {self.trial} ({self.by})"


@define
class Lane:
    """A copy of the project, in which one module at a time lacks something."""

    place: Path
    passing: Passing
    project: Path = PROJECT
    _missing: Counter[tuple[str, str]] = field(factory=Counter, init=False)

    def __attrs_post_init__(self) -> None:
        shutil.copytree(self.project, self.place, ignore=NOT_COPIED, dirs_exist_ok=True)

    def verdict(self, trial: Trial) -> Verdict:
        module = self.place / trial.module
        whole = module.read_text(encoding="utf-8")
        passing = self.passing.tests(trial.module, trial.removal.lines)
        try:
            self._write(module, trial.removal.text)
            tests = self.chosen(trial.module, passing, SECONDS_FIRST)
            verdict = self._tried(trial, tests, SECONDS_FIRST)
            if verdict.word == LEFT and len(tests) < len(passing):
                tests = self.chosen(trial.module, passing, SECONDS_THEN)
                verdict = self._tried(trial, tests, SECONDS_THEN)
        finally:
            self._write(module, whole)
        return evolve(verdict, by=f"{len(tests)} of {len(passing)} tests, {verdict.by}")

    @staticmethod
    def _write(module: Path, text: str) -> None:
        """What was compiled of the text before may be as old and as long."""
        Path(cache_from_source(module)).unlink(missing_ok=True)
        module.write_text(text, encoding="utf-8")

    def _tried(self, trial: Trial, tests: list[str], seconds: float) -> Verdict:
        said = self.place / "said.txt"
        process = FORK.Process(target=run_tests, args=(self.place, tests, said))
        process.start()
        process.join(DEADLINE * seconds + LONGEST_TEST)
        with contextlib.suppress(ProcessLookupError):  # What a test has started goes, too.
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        code = process.exitcode
        if code == 0:
            return Verdict(trial, LEFT, "all passed")
        if code < 0:
            return Verdict(trial, HUNG, f"killed by signal {-code}")
        lines = said.read_text(errors="replace").splitlines()
        failed = [line.split()[1] for line in lines if line.startswith(("FAILED ", "ERROR "))]
        for test in failed:
            self._missing[trial.module, file_of(test)] += 1
        return Verdict(trial, MISSED, failed[0] if failed else f"exit code {code}")

    def chosen(self, module: str, passing: list[str], seconds: float) -> list[str]:
        """First those of files that have missed something of this module before, or have its name;
        of each file in turn the fastest.
        """
        in_file: Counter[str] = Counter()
        ranked = []
        for test in passing:
            file = file_of(test)
            is_own = Path(file).stem.startswith(f"test_{Path(module).stem}")
            near = self._missing[module, file] + is_own
            ranked.append((-near, in_file[file] // OF_ONE_FILE, file, test))
            in_file[file] += 1
        costs: dict[str, float] = {}
        chosen = []
        for _, _, file, test in sorted(ranked):
            cost = self.passing.seconds[test] + costs.get(file, SECONDS_OF_FILE)
            if cost <= seconds or not chosen:
                seconds -= cost
                costs[file] = SECONDS_OF_TEST
                chosen.append(test)
        return chosen


def file_of(test: str) -> str:
    return test.partition("::")[0]


def run_tests(place: Path, tests: list[str], said: Path) -> None:
    """In a process that was forked for it, and that ends with pytest's exit code."""
    os.setpgid(0, 0)
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(place)
    os.environ["PYTHONPATH"] = str(place)
    sys.path.insert(0, str(place))
    options = ["-x", "-q", "-p", "no:cacheprovider", f"--timeout={LONGEST_TEST}"]
    # Of what is preloaded, pytest would have rewritten some.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = 99
    try:
        code = int(pytest.main([*options, *tests]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def tried(trials: list[Trial], passing: Passing) -> list[Verdict]:
    """One after the other, in a process of its own."""
    for name in PRELOADED:
        importlib.import_module(name)
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="removals-") as place:
        lane = Lane(Path(place), passing)
        for trial in trials:
            verdicts.append(lane.verdict(trial))
            print(verdicts[-1], flush=True)
    return verdicts


def tell(verdicts: list[Verdict]) -> int:
    """The exit code."""
    untouched = [verdict for verdict in verdicts if verdict.trial.removal.words == NOTHING]
    if any(verdict.word != LEFT for verdict in untouched):
        return 2
    code = 0
    for module in (verdict.trial.module for verdict in untouched):
        words = Counter(
            verdict.word
            for verdict in verdicts
            if verdict.trial.module == module and verdict not in untouched
        )
        shares = ", ".join(f"{words[word]} {word}" for word in (MISSED, HUNG, LEFT))
        print(f"{module}: {words.total()} removals, {shares}")
        if words[LEFT] > MOST_LEFT * words.total():
            code = 1
    return code


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--map", type=Path)
    parser.add_argument("--at-once", type=int, default=os.cpu_count())
    parser.add_argument("modules", nargs="*", default=CORE)
    options = parser.parse_args()
    trials = []
    for module in (str(Path(name).resolve().relative_to(PROJECT)) for name in options.modules):
        text = (PROJECT / module).read_text(encoding="utf-8")
        untouched = Removal(lines=(0,), words=NOTHING, text=text)
        trials += [Trial(module, removal) for removal in (untouched, *removals(text))]
    in_lane = partial(tried, passing=passing_as_in(options.map))
    lanes = [trials[first :: options.at_once] for first in range(options.at_once)]
    with ProcessPoolExecutor(options.at_once, mp_context=FORK) as processes:
        return tell([*chain(*processes.map(in_lane, lanes))])


if __name__ == "__main__":
    sys.exit(main())
