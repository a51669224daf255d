"""What a contributor runs: `nox` alone does lint, typing, the tests of each Python that is here, and
the lowest versions."""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True
nox.options.sessions = ["lint", "typing", "tests", "lowest"]

PROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
SUPPORTED = [
    classifier.rsplit(" ")[-1]
    for classifier in PROJECT["project"]["classifiers"]
    if classifier.startswith("Programming Language :: Python :: 3.")
]
BACKENDS = ["asyncio", "uvloop", "trio"]


def _is_here(version: str) -> bool:
    """This Python, one on the path, or one of pyenv's."""
    this = f"{sys.version_info.major}.{sys.version_info.minor}"
    return version == this or bool(_interpreter(version))


def _interpreter(version: str) -> str | None:
    for root in sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*")):
        if (root / "bin" / "python").exists():
            return str(root / "bin" / "python")
    found = shutil.which(f"python{version}")
    # A shim of pyenv's may be there for a version that is not.
    return None if found is None or ".pyenv/shims" in found else found


HERE = [
    (_interpreter(version) or sys.executable) for version in SUPPORTED if _is_here(version)
]


def _install(session: nox.Session, *groups: str, extras: str = "all") -> None:
    args = [arg for group in groups for arg in ("--group", group)]
    session.install("-e", f".[{extras}]", *args)


@nox.session
def lint(session: nox.Session) -> None:
    """Format and lint."""
    session.install("ruff>=0.14", "codespell>=2.4")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("codespell", "revos", "tests", "docs", "benchmarks", "README.md", "CONTRIBUTING.md")


@nox.session
def typing(session: nox.Session) -> None:
    """The package, and a file that uses every public name as a user would."""
    _install(session, "tests", "typing")
    session.run("mypy", "revos", "tests/typing", "noxfile.py")


@nox.session(python=HERE)
@nox.parametrize("backend", BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """The suite on one backend."""
    _install(session, "tests")
    session.run("pytest", "--backend", backend, *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """The suite on the lowest versions that pyproject.toml allows."""
    session.install(
        "--resolution", "lowest-direct", "-e", ".[all]", "--group", "tests"
    )
    session.run("pytest", *session.posargs)


@nox.session
def quick(session: nox.Session) -> None:
    """The figures of the README, as ratios in one run."""
    _install(session, "tests")
    session.run("python", "benchmarks/quick.py", *session.posargs)
