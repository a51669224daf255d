"""Where the configuration is read from, and what a reader is told about it."""

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from revos.config import Config, GatewayConfig, LoggingConfig, ModelConfig, TokenConfig
from revos.errors import RevosConfigurationError
from revos.loading import create_config_with_prefixes, load_config

SECRET = "s3cret-HUSH"
ENVIRON = {
    "REVOS_CLIENT_ID": "app",
    "REVOS_CLIENT_SECRET": SECRET,
    "REVOS_TOKEN_URL": "https://login.example/token",
    "REVOS_BASE_URL": "https://gateway.example/v1",
}
TREE = {
    "revos": {
        "client_id": "app",
        "client_secret": SECRET,
        "token_url": "https://login.example/token",
        "base_url": "https://gateway.example/v1",
        "max_retries": 4,
        "allow_insecure_http": True,
        "extra_token_params": {"tenant": "a b"},
    },
    "token": {"refresh_interval_minutes": 20.5},
    "models": {"gpt-4.1": {"model": "gpt-4.1-mini", "temperature": 0.5, "max_tokens": 100}},
    "logging": {"level": "debug"},
}
TOML = f"""
[revos]
client_id = "app"
client_secret = "{SECRET}"
token_url = "https://login.example/token"
base_url = "https://gateway.example/v1"
max_retries = 4
allow_insecure_http = true
extra_token_params = {{tenant = "a b"}}
[token]
refresh_interval_minutes = 20.5
[models."gpt-4.1"]
model = "gpt-4.1-mini"
temperature = 0.5
max_tokens = 100
[logging]
level = "debug"
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """No test reads the `.env` or the variables of whoever runs it."""
    monkeypatch.chdir(tmp_path)
    for variable in list(os.environ):
        if variable.startswith(("REVOS_", "TOKEN_", "LLM_MODELS_", "LOG_")):
            monkeypatch.delenv(variable)


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def load(path=None, environ=None, **more):
    return load_config(path, environ={**ENVIRON, **(environ or {})}, **more)


def problems_of(*args, **kwargs):
    with pytest.raises(RevosConfigurationError) as caught:
        load_config(*args, **kwargs)
    error = caught.value
    assert (error.__cause__, error.__context__) == (None, None)
    assert SECRET not in "".join(traceback.format_exception(error))
    return error.problems


# The environment.


def test_the_environment_alone_is_enough():
    config = load()

    assert config.revos.client_id == "app"
    assert config.revos.client_secret == SECRET


def test_every_setting_has_its_variable():
    fields = [
        *(("REVOS_", name) for name in GatewayConfig.__slots__),
        *(("TOKEN_", name) for name in TokenConfig.__slots__),
        *(("LOG_", name) for name in LoggingConfig.__slots__),
        *(("LLM_MODELS_X_", name) for name in ModelConfig.__slots__),
    ]
    names = [prefix + name.upper() for prefix, name in fields if not name.startswith("__")]

    problems = problems_of(environ=dict.fromkeys(names, "\x01\udc80"), env_file=None)

    unmentioned = [name for name in names if not any(name in problem for problem in problems)]
    assert unmentioned == []


def test_text_becomes_what_the_setting_is():
    config = load(
        environ={
            "REVOS_MAX_RETRIES": "7",
            "REVOS_REQUEST_TIMEOUT": "2.5",
            "REVOS_ALLOW_INSECURE_HTTP": "Yes",
            "REVOS_EXTRA_TOKEN_PARAMS": "a=1&b=%20",
            "TOKEN_ENABLE_FALLBACK": "off",
            "LOG_LEVEL": "warning",
        }
    )

    assert (config.revos.max_retries, config.revos.request_timeout) == (7, 2.5)
    assert (config.revos.allow_insecure_http, config.token.enable_fallback) == (True, False)
    assert dict(config.revos.extra_token_params) == {"a": "1", "b": " "}
    assert config.logging.level == "WARNING"


def test_an_empty_variable_is_an_unset_one():
    config = load(environ={"REVOS_SCOPE": "", "REVOS_MAX_RETRIES": "", "LLM_MODELS_X_TIMEOUT": ""})

    assert (config.revos.scope, config.revos.max_retries, dict(config.models)) == (None, 3, {})


def test_unknown_variables_are_passed_over():
    environ = {"REVOS_CLIENTID": "x", "TOKEN_X": "x", "LLM_MODELS_X": "x", "LLM_MODELS_MODEL": "x"}

    assert load(environ=environ) == load()


def test_os_environ_is_the_default(monkeypatch):
    for variable, value in ENVIRON.items():
        monkeypatch.setenv(variable, value)

    assert load_config() == load()


def test_all_that_is_missing_is_named_at_once():
    assert problems_of(environ={}) == (
        "REVOS_CLIENT_ID is missing",
        "REVOS_TOKEN_URL is missing",
        "REVOS_BASE_URL is missing",
        "REVOS_CLIENT_SECRET or REVOS_CLIENT_SECRET_FILE is missing: client_secret_post needs one",
    )


def test_problems_of_all_tables_come_together():
    environ = {
        **ENVIRON,
        "REVOS_MAX_RETRIES": "0",
        "TOKEN_ENABLE_FALLBACK": "perhaps",
        "LLM_MODELS_A_TIMEOUT": "-1",
        "LLM_MODELS_B_MODEL": "b",
        "LLM_MODELS_B_TOP_P": "2",
        "LOG_LEVEL": "loud",
    }

    assert [problem.split()[0] for problem in problems_of(environ=environ)] == [
        "REVOS_MAX_RETRIES",
        "TOKEN_ENABLE_FALLBACK",
        "LLM_MODELS_A_MODEL",
        "LLM_MODELS_A_TIMEOUT",
        "LLM_MODELS_B_TOP_P",
        "LOG_LEVEL",
    ]


def test_a_wrong_value_is_shown_with_its_variable_and_rule():
    assert problems_of(environ={**ENVIRON, "REVOS_MAX_RETRIES": "50"}) == (
        "REVOS_MAX_RETRIES must be a whole number from 1 to 10 (got '50')",
    )


def test_the_message_has_a_headline_and_a_line_for_each_problem():
    with pytest.raises(RevosConfigurationError) as caught:
        load_config(environ={**ENVIRON, "LOG_LEVEL": "loud\nand clear", "REVOS_MAX_RETRIES": "x"})

    headline, *lines = str(caught.value).splitlines()
    assert headline == "The configuration (read from the environment) has 2 problems:"
    assert lines == [f"  - {problem}" for problem in caught.value.problems]


# Models in the environment.


def test_the_name_of_a_model_ends_where_the_longest_field_begins():
    config = load(
        environ={
            "LLM_MODELS_GPT_4_MODEL": "gpt-4",
            "LLM_MODELS_GPT_4_MAX_TOKENS": "9",
            "LLM_MODELS_TIMEOUT_MODEL": "odd",
            "LLM_MODELS_TIMEOUT_TOP_P": "1",
        }
    )

    assert dict(config.models) == {
        "gpt_4": ModelConfig(model="gpt-4", max_tokens=9),
        "timeout": ModelConfig(model="odd", top_p=1),
    }


def test_a_model_without_its_id_is_a_problem():
    assert problems_of(environ={**ENVIRON, "LLM_MODELS_GPT_4_TIMEOUT": "5"}) == (
        "LLM_MODELS_GPT_4_MODEL is missing",
    )


def test_two_names_in_the_environment_that_match_are_a_problem():
    environ = {**ENVIRON, "LLM_MODELS_GPT_4_MODEL": "a", "LLM_MODELS_gpt_4_TIMEOUT": "1"}

    (problem,) = problems_of(environ=environ)

    assert problem.startswith("LLM_MODELS_<NAME>_...: 'GPT_4' and 'gpt_4' name the same model")


# Prefixes.


def test_a_prefix_replaces_the_part_before_the_name(monkeypatch):
    for variable, value in ENVIRON.items():
        monkeypatch.setenv(variable.replace("REVOS_", "MYAPP_"), value)
    monkeypatch.setenv("MYAPP_TOKEN_REFRESH_INTERVAL_MINUTES", "7")
    monkeypatch.setenv("MYAPP_TOKEN_BUFFER_MINUTES", "8")
    monkeypatch.setenv("MYAPP_LLM_GPT_4_MODEL", "m")
    monkeypatch.setenv("MYAPP_LOG_LEVEL", "ERROR")
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")

    config = create_config_with_prefixes("MYAPP_", "MYAPP_LLM_", "MYAPP_LOG_", "MYAPP_TOKEN_")

    assert config.revos.token_url == ENVIRON["REVOS_TOKEN_URL"]
    assert config.revos.token_buffer_minutes == 8
    assert config.token.refresh_interval_minutes == 7
    assert config.model("gpt-4").model == "m"
    assert config.logging.level == "ERROR"


def test_what_is_missing_is_named_with_the_prefix():
    assert problems_of(environ={}, revo_prefix="MYAPP_")[0] == "MYAPP_CLIENT_ID is missing"


def test_prefixes_read_env_files_too(write):
    write(".env", "".join(f"X_{name}={value}\n" for name, value in ENVIRON.items()))

    assert create_config_with_prefixes(revo_prefix="X_REVOS_").revos == load().revos


def test_two_equal_prefixes_are_an_error():
    assert problems_of(environ=ENVIRON, llm_prefix="X_", logging_prefix="X_") == (
        "llm_prefix and logging_prefix are both 'X_': each needs its own",
    )


def test_prefixes_that_give_two_settings_one_variable_are_an_error():
    assert problems_of(environ=ENVIRON, logging_prefix="REVOS_CA_") == (
        "REVOS_CA_FILE would be both revos.ca_file and logging.file",
    )


def test_a_setting_of_the_gateway_is_not_taken_for_a_model():
    environ = {name.replace("REVOS_", "APP_X_"): value for name, value in ENVIRON.items()}
    environ["APP_X_REQUEST_TIMEOUT"] = "9"

    config = load_config(environ=environ, revo_prefix="APP_X_", llm_prefix="APP_")

    assert (config.revos.request_timeout, dict(config.models)) == (9, {})


# .env


def test_env_file_is_read_and_written_nowhere(write):
    write(".env", "# ours\nexport REVOS_SCOPE='a b'\nREVOS_AUDIENCE=\"x\"\nREVOS_RESOURCE\n")

    config = load()

    assert (config.revos.scope, config.revos.audience, config.revos.resource) == ("a b", "x", None)
    assert "REVOS_SCOPE" not in os.environ


def test_env_file_yields_to_the_environment(write):
    write(".env", "REVOS_CLIENT_ID=from-file\nREVOS_SCOPE=from-file\n")

    config = load(environ={"REVOS_SCOPE": ""})

    assert (config.revos.client_id, config.revos.scope) == ("app", "from-file")


def test_env_file_leaves_dollars_in_secrets_alone(write):
    write(".env", "REVOS_CLIENT_SECRET=a${HOME}b$c\n")
    environ = {name: value for name, value in ENVIRON.items() if name != "REVOS_CLIENT_SECRET"}

    assert load_config(environ=environ).revos.client_secret == "a${HOME}b$c"


def test_env_file_may_begin_with_a_byte_order_mark(write):
    write(".env", b"\xef\xbb\xbfREVOS_SCOPE=x\r\n")

    assert load().revos.scope == "x"


def test_env_file_is_named_in_its_problems(write):
    path = write("prod.env", f"REVOS_MAX_RETRIES=0\nREVOS_CLIENT_SECRET=\x01{SECRET}\n")
    environ = {name: value for name, value in ENVIRON.items() if name != "REVOS_CLIENT_SECRET"}

    assert problems_of(environ=environ, env_file=path) == (
        (
            f"REVOS_CLIENT_SECRET in {path} must not hold control characters "
            "(a line end is one) or broken Unicode"
        ),
        f"REVOS_MAX_RETRIES in {path} must be a whole number from 1 to 10 (got '0')",
    )


def test_env_file_can_be_left_out(write):
    write(".env", "REVOS_SCOPE=x")

    assert load(env_file=None).revos.scope is None


def test_env_file_need_not_exist_and_may_be_a_virtual_environment(tmp_path):
    (tmp_path / ".env").mkdir()

    assert load() == load(env_file="nowhere/.env")


def test_env_file_that_is_no_text_is_the_only_problem(write):
    write(".env", b"REVOS_CLIENT_ID=\xff" + SECRET.encode())

    assert problems_of(environ={}) == (".env cannot be read: it is not UTF-8 text",)


# Files.


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("revos.toml", TOML),
        ("revos.json", json.dumps(TREE)),
        ("revos.yaml", yaml.safe_dump(TREE)),
        ("REVOS.YML", yaml.safe_dump(TREE)),
        ("bom.json", b"\xef\xbb\xbf" + json.dumps(TREE).encode()),
    ],
)
def test_a_file_of_each_kind_says_the_same(write, name, content):
    config = load_config(write(name, content), environ={})

    assert config.revos.client_secret == SECRET
    assert (config.revos.max_retries, config.revos.allow_insecure_http) == (4, True)
    assert dict(config.revos.extra_token_params) == {"tenant": "a b"}
    assert config.token == TokenConfig(refresh_interval_minutes=20.5)
    assert dict(config.models) == {
        "gpt-4.1": ModelConfig(model="gpt-4.1-mini", temperature=0.5, max_tokens=100)
    }
    assert config.logging.level == "DEBUG"


def test_a_path_may_be_text(write):
    assert load_config(str(write("revos.toml", TOML)), environ={}).revos.client_id == "app"


def test_environment_goes_before_env_file_before_file_before_default(write):
    write(".env", "REVOS_MAX_RETRIES=5\nREVOS_TOKEN_BUFFER_MINUTES=5.5\n")
    path = write(
        "revos.toml",
        "[revos]\nmax_retries = 6\ntoken_buffer_minutes = 6.5\nrequest_timeout = 66\n",
    )

    revos = load(path, {"REVOS_MAX_RETRIES": "4"}).revos

    assert (revos.max_retries, revos.token_buffer_minutes, revos.request_timeout) == (4, 5.5, 66)
    assert revos.default_lifetime_seconds == 3600


def test_a_model_of_several_sources_is_one_and_keeps_the_spelling_of_the_file(write):
    write(".env", "LLM_MODELS_gpt_4_TOP_P=0.5\nLLM_MODELS_GPT_5_MODEL=five\n")
    path = write("revos.toml", '[models."gpt-4"]\nmodel = "four"\ntimeout = 1\ntop_p = 1\n')

    models = load(path, {"LLM_MODELS_GPT_4_TIMEOUT": "2"}).models

    assert dict(models) == {
        "gpt-4": ModelConfig(model="four", timeout=2, top_p=0.5),
        "gpt_5": ModelConfig(model="five"),
    }


def test_two_names_in_a_file_that_match_are_a_problem(write):
    path = write("revos.toml", '[models."gpt-4"]\nmodel = "a"\n[models.GPT_4]\nmodel = "b"\n')

    (problem,) = problems_of(path, environ=ENVIRON)

    assert problem.startswith(f"models in {path}: 'gpt-4' and 'GPT_4' name the same model")


def test_unknown_keys_are_named_with_the_nearest_known_one(write):
    path = write(
        "revos.toml",
        "[revos]\nclient_idd = 1\n[tokens]\n[models.m]\nmodel='m'\ntemprature = 1\n",
    )

    assert problems_of(path, environ=ENVIRON) == (
        f"revos.client_idd in {path} is unknown: the nearest that is known is client_id",
        f"tokens in {path} is unknown: the nearest that is known is token",
        f"models.m.temprature in {path} is unknown: the nearest that is known is temperature",
    )


def test_what_is_missing_is_named_as_variable_and_as_key(write):
    path = write("revos.toml", '[models."gpt-4"]\n')

    problems = problems_of(path, environ={})

    assert f"REVOS_CLIENT_ID (or revos.client_id in {path}) is missing" in problems
    assert f"LLM_MODELS_GPT_4_MODEL (or models.gpt-4.model in {path}) is missing" in problems


def test_a_wrong_value_is_shown_with_its_key_and_rule(write):
    path = write("revos.toml", "[revos]\nmax_retries = true\nscope = {}\n[token]\n")

    assert problems_of(path, environ=ENVIRON) == (
        f"revos.scope in {path} must be text (in quotes) (got a table)",
        f"revos.max_retries in {path} must be a whole number from 1 to 10 (got True)",
    )


def test_a_contradiction_between_sources_names_both(write):
    path = write("revos.toml", '[revos]\nclient_secret_file = "s"\n')

    assert problems_of(path, environ=ENVIRON) == (
        f"REVOS_CLIENT_SECRET and revos.client_secret_file in {path} are both set: keep one",
    )


def test_null_is_unset(write):
    path = write("revos.yaml", "revos: {scope: null, max_retries: ~}\ntoken:\nmodels:\nlogging: {}")

    assert load(path) == load()


@pytest.mark.parametrize("content", ["", "# nothing\n"])
def test_a_file_may_be_empty(write, content):
    assert load(write("revos.yaml", content)) == load(write("revos.toml", content)) == load()


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (f'["{SECRET}"]', "{path} must be a table"),
        (f'{{"token": "{SECRET}"}}', "token in {path} must be a table"),
        (f'{{"models": ["{SECRET}"]}}', "models in {path} must be a table"),
        (f'{{"models": {{"m": "{SECRET}"}}}}', "models.m in {path} must be a table"),
    ],
)
def test_what_is_no_table_is_refused_unseen(write, content, where):
    path = write("revos.json", content)

    assert where.format(path=path) in problems_of(path, environ=ENVIRON)


@pytest.mark.parametrize("model", [7, {"temperature": "hot"}], ids=["no table", "a wrong value"])
def test_a_key_that_does_not_print_breaks_no_line_of_a_file_s_problems(write, model):
    path = write("c.json", json.dumps(TREE | {"models": {"a\x1b\nb": model}}))

    with pytest.raises(RevosConfigurationError) as caught:
        load_config(path, env_file=None, environ={})

    assert all(problem.isprintable() for problem in caught.value.problems)


def test_a_variable_that_does_not_print_breaks_no_line_of_the_problems():
    environ = ENVIRON | {"LLM_MODELS_A\n_MODEL": "a", "LLM_MODELS_A\n_TEMPERATURE": "hot"}

    with pytest.raises(RevosConfigurationError) as caught:
        load_config(env_file=None, environ=environ)

    assert all(problem.isprintable() for problem in caught.value.problems)


def test_keys_are_text(write):
    path = write("revos.yaml", "4: x\nmodels: {4: {model: x}}\n")

    assert problems_of(path, environ=ENVIRON) == (
        f"{path} has a key that is not text: put it in quotes",
        f"models in {path} has a key that is not text: put it in quotes",
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("revos.json", f'{{"revos": {{"scope": "{SECRET}", "scope": "{SECRET}"}}}}'),
        ("revos.yaml", f"revos:\n  scope: {SECRET}\n  'scope': {SECRET}\n"),
        ("revos.toml", f"[revos]\nscope = '{SECRET}'\nscope = '{SECRET}'\n"),
    ],
)
def test_a_key_that_stands_twice_is_a_problem(write, name, content):
    path = write(name, content)

    (problem,) = problems_of(path, environ=ENVIRON)

    assert str(path) in problem


def test_the_frames_of_an_error_show_no_secret(write, monkeypatch):
    monkeypatch.setenv("REVOS_CLIENT_SECRET", SECRET)
    path = write("revos.toml", f"[revos]\nfallback_client_secret = '{SECRET}'\nmax_retries = 0\n")

    with pytest.raises(RevosConfigurationError) as caught:
        load_config(path, env_file=None)

    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert SECRET not in "".join(told.format())


def test_the_frames_of_an_error_show_nothing_of_a_mapping_that_was_given():
    with pytest.raises(RevosConfigurationError) as caught:
        load_config(env_file=None, environ=ENVIRON | {"REVOS_MAX_RETRIES": "0"})

    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert ENVIRON["REVOS_CLIENT_SECRET"] not in "".join(told.format())


def test_yaml_runs_nothing(write, tmp_path):
    made = tmp_path / "made"
    path = write("revos.yaml", f"revos: {{scope: !!python/object/apply:os.mkdir ['{made}']}}")

    (problem,) = problems_of(path, environ=ENVIRON)

    assert "is not valid YAML" in problem
    assert not made.exists()


def test_yaml_may_share_tables(write):
    path = write(
        "revos.yaml",
        "models:\n  a: &a {model: x, timeout: 1}\n  b: {<<: *a, timeout: 2}\n",
    )

    assert load(path).models["b"] == ModelConfig(model="x", timeout=2)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("revos.toml", f"[revos]\nclient_secret = {SECRET}\n"),
        ("revos.toml", f"[revos]\nclient_secret = '{SECRET}\n"),
        ("revos.toml", f"[revos]\nmax_retries = {'9' * 5000}\n"),
        ("revos.json", f'{{"revos": {{"client_secret": {SECRET}}}}}'),
        ("revos.json", f'{{"revos": "{SECRET}"'),
        ("revos.json", f'{{"revos": {"9" * 5000}}}'),
        ("revos.json", '{"revos":' * 100_000),
        ("revos.json", b'{"revos": "\xff' + SECRET.encode() + b'"}'),
        ("revos.yaml", f"revos: {{client_secret: *{SECRET}}}"),
        ("revos.yaml", f"revos: {{client_secret: !{SECRET} x}}"),
        ("revos.yaml", f"revos: {{client_secret: !!bool {SECRET}}}"),
        ("revos.yaml", f"revos: {{client_secret: !!timestamp {SECRET}}}"),
        ("revos.yaml", f"revos: {{client_secret: !!int ''}}\nx: {SECRET}"),
        ("revos.yaml", "revos: {client_secret: 2024-99-99}"),
        ("revos.yaml", f"revos: {{client_secret: \x01{SECRET}}}"),
        ("revos.yaml", f"a: 1\n---\nb: {SECRET}\n"),
        ("revos.yaml", "[" * 1_000),
    ],
)
def test_a_file_that_cannot_be_parsed_is_the_only_problem(write, name, content):
    path = write(name, content)

    (problem,) = problems_of(path, environ={})

    assert problem.startswith(str(path))
    assert len(problem) < 300


@pytest.mark.parametrize("name", ["revos.ini", "revos", "", ".toml"])
def test_another_suffix_is_refused(name):
    (problem,) = problems_of(name, environ=ENVIRON)

    assert problem.endswith("must end in one of .toml, .yaml, .yml, .json")


def test_a_file_that_does_not_exist_is_refused(tmp_path):
    (tmp_path / "directory.toml").mkdir()

    for name in ("nowhere.toml", "directory.toml"):
        assert problems_of(name, environ=ENVIRON) == (
            f"{name} cannot be read: there is no such file",
        )


def test_a_path_that_cannot_be_read_is_refused():
    (problem,) = problems_of("x" * 5000 + ".toml", environ=ENVIRON)
    (other,) = problems_of("\0.toml", environ=ENVIRON)

    assert "cannot be read: File name too long" in problem
    assert "cannot be read" in other


def test_yaml_without_its_extra_says_what_to_install(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    path = write("revos.yaml", "")

    assert problems_of(path, environ=ENVIRON) == (
        f'{path} cannot be read: pip install "revos[yaml]"',
    )


# Importing, and anything at all.


def test_importing_the_configuration_loads_no_parser():
    heavy = ["cattrs", "dotenv", "yaml", "tomllib", "logging.handlers"]
    code = (
        "import sys, types, os; package = types.ModuleType('revos'); "
        f"package.__path__ = {[str(Path(sys.modules['revos.loading'].__file__).parent)]}; "
        "sys.modules['revos'] = package; import revos.loading, revos.logs; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def outcome(*args, **kwargs):
    try:
        return load_config(*args, **kwargs), None
    except RevosConfigurationError as error:
        return None, error


def is_config_or_presentable(config, error):
    """One line a problem, no secret, nothing chained; or a configuration."""
    if error is None:
        return isinstance(config, Config)
    return (
        (error.__cause__, error.__context__) == (None, None)
        and SECRET not in "".join(traceback.format_exception(error))
        and len(str(error).splitlines()) == len(error.problems) + 1
    )


def test_what_is_presentable_has_a_line_a_problem_no_secret_and_no_cause():
    chained = RevosConfigurationError("One:\n  - a", problems=("a",))
    chained.__cause__ = ValueError("b")

    assert is_config_or_presentable(None, RevosConfigurationError("One:\n  - a", problems=("a",)))
    assert not is_config_or_presentable(None, RevosConfigurationError(f"{SECRET}\na"))
    assert not is_config_or_presentable(None, RevosConfigurationError("a\nb\nc"))
    assert not is_config_or_presentable(None, chained)
    assert not is_config_or_presentable(None, None)


VARIABLES = [
    *ENVIRON,
    *(f"REVOS_{name.upper()}" for name in GatewayConfig.__slots__ if not name.startswith("__")),
    "TOKEN_ENABLE_FALLBACK",
    "LLM_MODELS_A_MODEL",
    "LLM_MODELS_\udc80_TOP_P",
    "LLM_MODELS_\n_TIMEOUT",
    "LOG_FORMAT",
]
SECRETS = ["REVOS_CLIENT_SECRET", "REVOS_FALLBACK_CLIENT_SECRET", "REVOS_EXTRA_TOKEN_PARAMS"]


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from(VARIABLES), st.binary(max_size=20).map(os.fsdecode)),
    st.dictionaries(st.sampled_from(SECRETS), st.binary(max_size=5).map(os.fsdecode)),
)
def test_whatever_the_environment_holds_there_is_a_config_or_one_error_without_secrets(
    environ, secrets
):
    hidden = {name: f"{noise}{SECRET}{noise}" for name, noise in secrets.items()}

    config, error = outcome(environ={**ENVIRON, **environ, **hidden}, env_file=None)

    assert SECRET not in repr(config)
    assert is_config_or_presentable(config, error)


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
KEYS = st.one_of(st.text(), st.sampled_from([*TREE, *TREE["revos"], "model"]))
TREES = st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)


@settings(max_examples=40, deadline=None)
@given(st.one_of(TREES, st.dictionaries(st.sampled_from([*TREE]), TREES)))
def test_whatever_a_file_holds_there_is_a_config_or_one_error(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(tree))

    config, error = outcome(path, environ=ENVIRON, env_file=None)

    assert is_config_or_presentable(config, error)
