"""What a contributor runs: `nox` alone does lint, typing, the tests of each Python that is here,
those on the lowest versions, and those with servers that others wrote."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True
nox.options.sessions = ["lint", "typing", "tests", "lowest", "servers"]

PROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
SUPPORTED = [
    classifier.rsplit(" ")[-1]
    for classifier in PROJECT["project"]["classifiers"]
    if classifier.startswith("Programming Language :: Python :: 3.")
]


# More would be in each other's way where a test counts milliseconds.
IN_TWO_PROCESSES = ("-n", "2", "--dist", "worksteal")

# The oldest that oidc-provider runs with.
OLDEST_NODE = 20

# pyenv puts stand-ins on the path that fail for all versions but the chosen ones.
PYENV = sorted(Path("~/.pyenv/versions").expanduser().glob("3.*/bin"))
os.environ["PATH"] = os.pathsep.join([*map(str, PYENV), os.environ["PATH"]])


def _is_here(version: str) -> bool:
    found = shutil.which(f"python{version}")
    return found is not None and not subprocess.run([found, "-c", ""], check=False).returncode


HERE = [version for version in SUPPORTED if _is_here(version)]


def _install(session: nox.Session, *groups: str, constraints: Path | None = None) -> None:
    needed = [package for group in groups for package in PROJECT["dependency-groups"][group]]
    limits = [] if constraints is None else ["--constraint", str(constraints)]
    session.install("-e", ".[all]", *needed, *limits)


@nox.session
def lint(session: nox.Session) -> None:
    """Format and lint."""
    session.install("ruff>=0.14", "codespell>=2.4")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("codespell", "revos", "tests", "docs", "benchmarks", *map(str, Path().glob("*.md")))


@nox.session
def typing(session: nox.Session) -> None:
    """The package, and a file that uses every public name as a user would."""
    _install(session, "tests", "typing")
    session.run("mypy", "revos", "tests/typing", "noxfile.py")


@nox.session(python=HERE)
def tests(session: nox.Session) -> None:
    """The suite on asyncio, asyncio with uvloop, and Trio; `-- --backend trio` for one of them."""
    _install(session, "tests")
    session.run("pytest", *IN_TWO_PROCESSES, *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """The suite on the lowest versions that pyproject.toml allows."""
    needed = [
        *PROJECT["project"]["dependencies"],
        *chain(*PROJECT["project"]["optional-dependencies"].values()),
        *PROJECT["dependency-groups"]["tests"],
    ]
    bounds = re.findall(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", "\n".join(needed))
    constraints = Path(session.create_tmp()) / "lowest.txt"
    constraints.write_text("\n".join(f"{name}=={version}" for name, version in bounds))
    _install(session, "tests", constraints=constraints)
    session.run("pytest", *IN_TWO_PROCESSES, *session.posargs)


@nox.session
def servers(session: nox.Session) -> None:
    """The library with an OAuth server (npm's oidc-provider) and a gateway (LiteLLM) that others
    wrote, on loopback ports. Both are installed beside this session's environment, and kept."""
    _require_node(session)
    _install(session, "tests")
    here = Path(session.virtualenv.location)
    oidc, litellm = here / "oidc", here / "litellm"
    _install_oidc_provider(session, oidc)
    _install_litellm(session, litellm)
    session.run(
        "pytest",
        "tests/servers",
        "--timeout=300",  # The first test of the gateway waits for its start.
        *session.posargs,
        env={
            "REVOS_TESTS_OIDC": str(oidc),
            "REVOS_TESTS_LITELLM": str(litellm / "bin" / "litellm"),
        },
    )


def _require_node(session: nox.Session) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    told = node and subprocess.run([node, "--version"], check=False, capture_output=True, text=True)
    version = re.match(r"v(\d+)", told.stdout) if told else None
    if not npm or not version or int(version[1]) < OLDEST_NODE:
        found = told.stdout.strip() if told else "none"
        session.error(
            f"the server tests need Node.js {OLDEST_NODE} or later with npm (here: node {found}, "
            f"npm {npm or 'none'}): install it and put `node` and `npm` on the PATH"
        )


def _install_oidc_provider(session: nox.Session, place: Path) -> None:
    shutil.copytree(Path("tests/servers/oidc"), place, dirs_exist_ok=True)
    with session.chdir(place):
        session.run("npm", "install", external=True)


def _install_litellm(session: nox.Session, place: Path) -> None:
    """In an environment of its own: what it needs is at odds with what the tests need."""
    python = place / "bin" / "python"
    if not python.exists():
        session.run("python", "-m", "venv", str(place))
    needed = PROJECT["dependency-groups"]["gateway"]
    session.run(str(python), "-m", "pip", "install", "-q", *needed, external=True)


@nox.session
def soak(session: nox.Session) -> None:
    """Faults at the TCP level until the time is over: `-- MINUTES [--seed N]`, one where none."""
    _install(session, "tests")
    session.run("python", "tests/soak.py", *session.posargs)


@nox.session
def quick(session: nox.Session) -> None:
    """What speed costs, as counts and ratios in one run."""
    _install(session, "tests")
    session.run("python", "benchmarks/quick.py", *session.posargs)


@nox.session
def many(session: nox.Session) -> None:
    """How fast many documents are beside `abatch` and a bare client; `-- DOCUMENTS ROUNDS`."""
    _install(session)
    session.run("python", "benchmarks/many.py", *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """How many mutants of the core the tests kill; `-- "revos.policy*"` for some of them."""
    _install(session, "tests")
    session.install("mutmut>=3.8")
    session.run("mutmut", "run", *session.posargs)
    session.run("mutmut", "results")


@nox.session
def removals(session: nox.Session) -> None:
    """What no test misses when it is taken out of the core, or of `-- revos/auth.py ...`."""
    _install(session, "tests")
    session.install("coverage>=7.6")
    session.run("python", "tests/removing.py", *session.posargs)
