"""The Python in the README and in `docs/` runs as it stands there, and prints what it says.

Each fenced block is a program of its own, in an environment that names a gateway. One that calls
`anyio.run` runs on each backend, one with tests goes to pytest, one that makes an ASGI application
called `app` is served and asked. What stands in a comment behind a `print`, or in a text block that
follows, is what it has to print.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import anyio
import httpx
import pytest

from revos.testing import serve_in_thread

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
BACKENDS = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
FENCE = re.compile(
    r"^```python\n(?P<code>.*?)^```$(?:\n\n```text\n(?P<output>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)
SHOWN = re.compile(r"^ *print\(.*\)  # (.*)$", re.MULTILINE)


def blocks(page):
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 2
        where = f"{page.relative_to(ROOT)}:{line}"
        # The lines before it keep their number, for tracebacks.
        yield where, "\n" * (line - 1) + found["code"], found["output"]


PROGRAMS = {where: code for page in PAGES for where, code, _ in blocks(page)}
OUTPUTS = {where: output for page in PAGES for where, _, output in blocks(page)}
WITH_TESTS = [where for where, code in PROGRAMS.items() if "def test_" in code]
APPS = [where for where, code in PROGRAMS.items() if "\napp = " in code]
ON_A_LOOP = [
    where
    for where, code in PROGRAMS.items()
    if "anyio.run(main)" in code and where not in (*WITH_TESTS, *APPS)
]
PLAIN = [where for where in PROGRAMS if where not in (*WITH_TESTS, *APPS, *ON_A_LOOP)]


NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_each_test_that_a_page_names_is_there():
    named = {found for page in PAGES for found in NAMED_TEST.findall(page.read_text("utf-8"))}
    missing = [
        (path, test)
        for path, test in named
        if not (ROOT / path).is_file()
        or (test and f"def {test}(" not in (ROOT / path).read_text("utf-8"))
    ]

    assert len(named) > 50
    assert missing == []


def promised(where):
    """The lines that the page says a program prints, or none."""
    output = OUTPUTS[where]
    return SHOWN.findall(PROGRAMS[where]) if output is None else output.splitlines()


def needs(where):
    for module in re.findall(r"^(?:from|import) (\w+)", PROGRAMS[where], re.MULTILINE):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


@pytest.fixture
def gateway(revos_gateway_sync, monkeypatch, tmp_path):
    """The gateway of whatever variables and files the examples use."""
    monkeypatch.chdir(tmp_path)
    variables = revos_gateway_sync.environ()
    for prefix in ("REVOS_", "MYAPP_"):
        for name, value in variables.items():
            renamed = name.replace("REVOS_", prefix).replace("LLM_MODELS_", prefix + "LLM_")
            monkeypatch.setenv(renamed if prefix == "MYAPP_" else name, value)
    if find_spec("cryptography") is not None:
        write_key(tmp_path / "key.pem")
    revos_gateway_sync.assertion_check = lambda assertion: assertion.count(".") == 2
    audit = logging.getLogger("revos.audit")
    level = audit.level
    yield revos_gateway_sync
    audit.setLevel(level)  # An example sets it.


def write_key(path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    form = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(*form))


def run(where, capsys):
    namespace = {"__name__": "__main__", "__file__": where}
    exec(compile(PROGRAMS[where], where, "exec", dont_inherit=True), namespace)
    printed = capsys.readouterr().out.splitlines()
    assert printed == promised(where)
    return namespace


def test_every_page_has_its_blocks():
    assert len(PAGES) == 8
    assert len(PROGRAMS) > 15
    assert ON_A_LOOP
    assert WITH_TESTS
    assert APPS
    assert PLAIN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_names_of_files_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`(\.?(?:tests|docs|revos)/[\w./]+)`", text):
        assert (ROOT / name).exists(), name
    for name, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert re.search(rf"^(async )?def {test}\(", (ROOT / name).read_text(), re.MULTILINE), test
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        other = page.parent / file if file else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("where", ON_A_LOOP)
def test_a_program_with_a_loop_runs_on_each_backend(where, backend, gateway, monkeypatch, capsys):
    needs(where)
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    monkeypatch.setattr(anyio, "run", partial(anyio.run, **BACKENDS[backend]))
    run(where, capsys)


@pytest.mark.parametrize("where", PLAIN)
def test_a_program_without_a_loop_runs(where, gateway, capsys):
    needs(where)
    run(where, capsys)


@pytest.mark.parametrize("where", WITH_TESTS)
def test_the_tests_pass(where, gateway, tmp_path):
    needs(where)
    (tmp_path / "test_example.py").write_text(PROGRAMS[where], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", tmp_path],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("where", APPS)
def test_an_application_serves(where, gateway, capsys):
    needs(where)
    app = run(where, capsys)["app"]
    with serve_in_thread(app) as server, httpx.Client(base_url=server.url) as http:
        assert http.get("/health").status_code == 200
        assert http.post("/people", json={"text": "Ada, 36"}).json() == {"name": "Ada", "age": 36}
    assert gateway.token_requests == 1
