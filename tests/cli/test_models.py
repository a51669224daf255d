"""`revos models`: what is configured against what the gateway offers."""

import os
import sys

TABLE = """\
name\tid\toffered
gpt_4\tgpt-4\tyes
gpt_4o_mini\tgpt-4o-mini\tyes
claude_4\tclaude-4\tyes
"""


def test_in_a_pipe_the_models_are_rows_with_tabs(backend, revos):
    told = revos("models", "--backend", backend)
    assert (told.code, told.out, told.err) == (0, TABLE, "")


def test_what_is_offered_and_not_configured_comes_last(revos, gateway):
    gateway.models = (*gateway.models, "gpt-5", "gpt-5")
    told = revos("models")
    assert (told.code, told.out) == (0, TABLE + "-\tgpt-5\tyes\n")


def test_a_configured_model_that_is_not_offered_is_a_failure(revos, gateway):
    gateway.models = ("gpt-4", "gpt-4o-mini")
    told = revos("models")
    assert told.code == 1
    assert told.out == TABLE.replace("claude-4\tyes", "claude-4\tno")
    assert told.err == "revos: the gateway does not offer the model of: claude_4\n"


def test_a_configuration_that_does_not_do_is_told(revos, gateway, monkeypatch):
    monkeypatch.delenv("REVOS_TOKEN_URL")
    told = revos("models")
    assert (told.code, told.out) == (2, "")
    assert "REVOS_TOKEN_URL" in told.err
    assert gateway.token_requests == 0


def test_a_configuration_may_be_in_a_file(revos, gateway, directory, monkeypatch):
    for name in [name for name in os.environ if name.startswith("LLM_MODELS_")]:
        monkeypatch.delenv(name)
    (directory / "revos.toml").write_text('[models.mine]\nmodel = "gpt-4"\n')
    told = revos("models", "--config", "revos.toml")
    assert told.code == 0
    assert "mine\tgpt-4\tyes\n" in told.out
    assert revos("models", "--config", "nowhere.toml").code == 2


def test_a_gateway_that_refuses_is_told(revos, gateway):
    gateway.auth_methods = set()
    told = revos("models")
    assert (told.code, told.out) == (1, "")
    assert "invalid_client" in told.err


def test_on_a_terminal_the_models_are_a_table(revos, gateway, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda stream: True, raising=False)
    told = revos("models")
    assert told.code == 0
    assert "\t" not in told.out
    assert "┃ name" in told.out
    assert "│ gpt_4 " in told.out
