"""P11. Files, signing, TLS contexts and the building of clients run in threads."""

from __future__ import annotations

import threading

import anyio
import pytest
from anyio import to_thread
from support import ManualClock, ScriptedEndpoint, config
from support import manager as manager_over

from revos import RevosAuthenticationError, TokenManager, endpoint, manager
from revos.extraction import runtime


@pytest.fixture
def threads_of(monkeypatch):
    """Records the thread in which a function of a module runs."""

    def watch(module, name):
        seen = []
        original = getattr(module, name)

        def watched(*args, **kwargs):
            seen.append(threading.get_ident())
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, watched)
        return seen

    return watch


async def test_the_loop_runs_on_while_a_secret_file_blocks(tmp_path, hung_disk):
    path = tmp_path / "secret"
    path.write_text("from-the-disk\n")
    token_endpoint = ScriptedEndpoint()
    settings = config(client_secret=None, client_secret_file=str(path))

    async with TokenManager(settings, http_client=token_endpoint.client()) as tm:
        await hung_disk.until_begun()  # The reader is stuck in its thread, and we are not.
        assert tm.health().reason == "no usable token yet"
        hung_disk.release()
        await tm.get_token()

    assert b"client_secret=from-the-disk" in token_endpoint.requests[0].content


async def test_leaving_does_not_wait_for_a_secret_file_that_blocks(hung_disk):
    settings = config(client_secret=None, client_secret_file="secret")

    with anyio.fail_after(10):
        async with TokenManager(settings, http_client=ScriptedEndpoint().client()):
            await hung_disk.until_begun()


async def test_a_secret_file_that_never_answers_holds_one_thread(hung_disk):
    clock, errors = ManualClock(), []
    settings = config(client_secret=None, client_secret_file="never", request_timeout=7)

    async def ask():
        with pytest.raises(RevosAuthenticationError) as caught:
            await tm.get_token()
        errors.append(caught.value)

    async with manager_over(ScriptedEndpoint(), clock, config=settings) as tm:
        async with anyio.create_task_group() as callers:
            callers.start_soon(ask)
            await hung_disk.until_begun()
            await clock.advance(7)
        for _ in range(2):
            tm.reset()
            await ask()

    assert hung_disk.begun == ["never"]
    assert [error.temporary for error in errors] == [True, True, True]
    assert "no complete answer within 7 s" in str(errors[0])
    assert "an earlier attempt still waits for its file" in str(errors[1])


async def test_a_token_is_fetched_although_the_code_of_others_holds_every_worker_thread():
    limiter = to_thread.current_default_thread_limiter()
    holders = [object() for _ in range(int(limiter.total_tokens))]
    for holder in holders:
        await limiter.acquire_on_behalf_of(holder)

    with anyio.fail_after(5):
        async with TokenManager(config(), http_client=ScriptedEndpoint().client()) as tm:
            token = await tm.get_token()

    for holder in holders:
        limiter.release_on_behalf_of(holder)
    assert token == "token-1"


async def test_the_environment_is_read_in_a_thread(threads_of, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in {"CLIENT_ID": "x", "CLIENT_SECRET": "y"}.items():
        monkeypatch.setenv(f"REVOS_{name}", value)
    for name in ("TOKEN_URL", "BASE_URL"):
        monkeypatch.setenv(f"REVOS_{name}", "http://127.0.0.1:9/")
    readers = threads_of(manager, "load_config")

    async with TokenManager(http_client=ScriptedEndpoint().client()) as tm:
        assert tm.config.revos.client_id == "x"

    assert readers
    assert threading.get_ident() not in readers


async def test_requests_are_built_and_signed_in_a_thread(threads_of):
    builders = threads_of(endpoint.oauth2, "build_request")

    async with TokenManager(config(), http_client=ScriptedEndpoint().client()) as tm:
        await tm.get_token()

    assert builders
    assert threading.get_ident() not in builders


async def test_clients_and_tls_contexts_are_made_in_threads(threads_of, revos_gateway):
    token_clients = threads_of(endpoint, "make_client")
    api_clients = threads_of(runtime, "make_client")
    imports = threads_of(runtime, "_import_langchain")

    async with TokenManager(revos_gateway.config()) as tm, tm.extractor("gpt-4"):
        await tm.get_token()

    assert token_clients
    assert api_clients
    assert imports
    assert threading.get_ident() not in {*token_clients, *api_clients, *imports}
