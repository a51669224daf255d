"""Files that hold secrets: a warning where others may read them, an error where they can't work."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path

import anyio
import pytest
from support import ScriptedEndpoint, config, manager

from revos import RevosAuthenticationError, TokenManager, load_config

SECRET = "s3cret-of-a-file-4f9a2c77"
VARIABLES = {
    "REVOS_CLIENT_ID": "app",
    "REVOS_TOKEN_URL": "https://login.example/token",
    "REVOS_BASE_URL": "https://gateway.example/v1",
}
TOML = """
[revos]
client_id = "app"
client_secret = "s3cret-of-a-file-4f9a2c77"
token_url = "https://login.example/token"
base_url = "https://gateway.example/v1"
"""


def warnings_in(caplog):
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and "may read the secret" in record.getMessage()
    ]


def a_file(path, mode, text=SECRET):
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o444, 0o777])
async def test_a_secret_file_that_others_may_read_is_warned_of_once(tmp_path, caplog, mode):
    path = a_file(tmp_path / "the secret", mode)
    endpoint = ScriptedEndpoint()

    async with manager(endpoint, client_secret=None, client_secret_file=path) as tm:
        for _ in range(3):
            await tm.get_token(force_refresh=True)

    (warning,) = warnings_in(caplog)
    assert endpoint.count >= 3
    assert path in warning
    assert f"{mode:04o}" in warning
    assert f"chmod 600 '{path}'" in warning
    assert "defaultMode: 0440" in warning
    assert SECRET not in caplog.text
    assert {r.name for r in caplog.records if "may read" in r.message} == {"revos.credentials"}


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440, 0o660, 0o602])
async def test_a_secret_file_that_others_may_not_read_is_no_matter(tmp_path, caplog, mode):
    path = a_file(tmp_path / "secret", mode)

    async with manager(ScriptedEndpoint(), client_secret=None, client_secret_file=path) as tm:
        await tm.get_token()

    assert warnings_in(caplog) == []


async def test_each_manager_warns_and_each_file_counts(tmp_path, caplog):
    paths = [a_file(tmp_path / name, 0o644) for name in ("one", "two")]
    settings = {"client_secret": None, "client_secret_file": paths[0]}
    settings |= {"fallback_auth_method": "client_secret_basic"}
    settings |= {"fallback_client_secret_file": paths[1]}

    for _ in range(2):
        async with manager(ScriptedEndpoint(), **settings) as tm:
            await tm.get_token(force_refresh=True)
            await tm.get_token(force_refresh=True, use_fallback=True)

    told = warnings_in(caplog)
    assert [sum(path in warning for warning in told) for path in paths] == [2, 2]


async def test_what_a_link_leads_to_is_judged_as_kubernetes_mounts_secrets(tmp_path, caplog):
    target = a_file(tmp_path / "..data", 0o644)
    link = tmp_path / "secret"
    link.symlink_to(target)

    async with manager(ScriptedEndpoint(), client_secret=None, client_secret_file=str(link)) as tm:
        await tm.get_token()

    (warning,) = warnings_in(caplog)
    assert str(link) in warning


async def test_a_private_key_that_others_may_read_is_warned_of(tmp_path, caplog):
    path = a_file(tmp_path / "key.pem", 0o644, "no key at all")
    settings = {"client_secret": None, "auth_method": "private_key_jwt", "private_key_file": path}

    async with manager(ScriptedEndpoint(), **settings) as tm:
        with pytest.raises(RevosAuthenticationError):
            await tm.get_token()

    (warning,) = warnings_in(caplog)
    assert path in warning


@pytest.mark.parametrize(("mode", "told"), [(0o644, 1), (0o640, 0), (0o600, 0)])
@pytest.mark.parametrize("name", [".env", "revos.toml"])
def test_a_configuration_with_a_secret_that_others_may_read_is_warned_of(
    tmp_path, caplog, name, mode, told
):
    dotenv = "\n".join(f"{key}={value}" for key, value in VARIABLES.items())
    texts = {".env": f"{dotenv}\nREVOS_CLIENT_SECRET={SECRET}\n", "revos.toml": TOML}
    path = a_file(tmp_path / name, mode, texts[name])
    load = {
        ".env": partial(load_config, env_file=path, environ={}),
        "revos.toml": partial(load_config, path, env_file=None, environ={}),
    }

    loaded = load[name]()

    assert loaded.revos.client_secret == SECRET
    found = warnings_in(caplog)
    assert len(found) == told
    assert all(f"chmod 600 {path}" in warning for warning in found)
    assert SECRET not in caplog.text


def test_the_secret_of_the_fallback_is_one_too(tmp_path, caplog):
    path = a_file(tmp_path / ".env", 0o644, f"REVOS_FALLBACK_CLIENT_SECRET={SECRET}\n")

    load_config(env_file=path, environ=VARIABLES | {"REVOS_CLIENT_SECRET": SECRET})

    assert len(warnings_in(caplog)) == 1


def test_a_configuration_without_a_secret_may_be_read_by_anybody(tmp_path, caplog):
    path = a_file(tmp_path / ".env", 0o644, "LLM_MODELS_GPT_4_MODEL=gpt-4\n")

    load_config(env_file=path, environ=VARIABLES | {"REVOS_CLIENT_SECRET": SECRET})

    assert warnings_in(caplog) == []


@pytest.mark.parametrize("setting", ["client_secret_file", "private_key_file"])
async def test_a_named_pipe_is_refused_at_once_and_holds_no_thread(tmp_path, setting):
    path = tmp_path / "secret"
    os.mkfifo(path)
    method = {"client_secret_file": "client_secret_post", "private_key_file": "private_key_jwt"}
    settings = config(client_secret=None, auth_method=method[setting], **{setting: str(path)})

    with anyio.fail_after(5):
        async with TokenManager(settings) as tm:
            with pytest.raises(RevosAuthenticationError, match="is a named pipe") as caught:
                await tm.get_token()

    assert "must be a regular file" in str(caught.value)
    assert not caught.value.temporary


@pytest.mark.parametrize(
    ("path", "said"), [("/dev/null", "is a device"), ("/", "Is a directory: '/'")]
)
async def test_what_is_no_file_is_refused_with_its_kind(path, said):
    descriptors = len(list(Path("/dev/fd").iterdir()))

    async with TokenManager(config(client_secret=None, client_secret_file=path)) as tm:
        with pytest.raises(RevosAuthenticationError, match=said):
            await tm.get_token()

    assert len(list(Path("/dev/fd").iterdir())) <= descriptors


def test_a_configuration_may_come_by_a_pipe_that_is_read_once(tmp_path, caplog):
    path = tmp_path / ".env"
    os.mkfifo(path)
    path.chmod(0o644)

    with anyio.from_thread.start_blocking_portal() as portal:
        writing = portal.start_task_soon(
            anyio.to_thread.run_sync, path.write_text, f"REVOS_CLIENT_SECRET={SECRET}\n"
        )
        loaded = load_config(env_file=path, environ=VARIABLES)
        writing.result()

    assert loaded.revos.client_secret == SECRET
    assert warnings_in(caplog) == []
