"""The API for code without an event loop, and what it does among threads."""

from __future__ import annotations

import gc
import os
import threading
import time
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor

import anyio
import httpx
import pytest
from anyio import to_thread
from children import run_script
from pydantic import BaseModel

import revos
from revos import (
    RevosAuthenticationError,
    RevosClosedError,
    RevosConfigurationError,
    RevosInputError,
    RevosTokenError,
    RevosValidationError,
    blocking,
)
from revos.scope import innermost

THREADS = 50


class Person(BaseModel):
    name: str
    age: int


PROMPT = "Extract the person: {text}"


@pytest.fixture
def gateway(revos_gateway_sync):
    return revos_gateway_sync


@pytest.fixture
def tm(gateway):
    with blocking.TokenManager(gateway.config()) as manager:
        yield manager


def until(condition, seconds=5):
    """Wait for another thread."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


def thread_names():
    return {thread.name for thread in threading.enumerate()}


class Call(threading.Thread):
    """A call in a thread of its own, and what came of it."""

    def __init__(self, function):
        super().__init__(daemon=True)
        self.function = function
        self.value = self.error = None
        self.start()

    def run(self):
        try:
            self.value = self.function()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def ended(self, seconds):
        self.join(seconds)
        return not self.is_alive()

    def outcome(self):
        assert self.ended(5), "the call still waits"
        return self.error if self.error is not None else self.value


# One thread.


def test_a_token_is_fetched_once_and_held(gateway, tm):
    assert gateway.accepts(tm.get_token())
    assert tm.get_token() == tm.get_token_nowait() == blocking.get_revos_token()
    assert gateway.token_requests == 1


def test_a_forced_refresh_brings_another_token(gateway, tm):
    first = tm.get_token()
    assert tm.get_token(force_refresh=True) != first
    assert gateway.token_requests == 2


def test_refresh_supersedes_only_the_current_token(gateway, tm):
    first = tm.refresh()
    second = tm.refresh(superseding=first)
    assert tm.refresh(superseding=first) == second
    assert second != first


def test_the_fallback_can_be_asked_for(gateway, tm):
    tm.get_token()
    assert tm.refresh(use_fallback=True).method == "client_secret_basic"


def test_what_the_manager_knows_is_at_hand(gateway, tm):
    tm.get_token()
    assert tm.status.has_token
    assert tm.health().state == "healthy"
    assert tm.consecutive_failures == blocking.get_consecutive_failures() == 0
    assert blocking.get_token_info()["has_token"] is True
    assert tm.config.revos.token_url == gateway.token_url
    assert tm.get_token() not in repr(tm)
    assert repr(tm).startswith("<blocking ")


def test_what_a_manager_is_given_is_used(gateway):
    def grant(request):
        return httpx.Response(200, json={"access_token": "by-my-client", "token_type": "Bearer"})

    client = httpx.AsyncClient(transport=httpx.MockTransport(grant))

    with blocking.TokenManager(settings_instance=gateway.config(), http_client=client) as tm:
        assert tm.get_token() == "by-my-client"
    assert gateway.token_requests == 0


def test_after_a_reset_the_token_is_another(gateway, tm):
    tm.get_token()

    tm.reset()

    tm.get_token()
    assert gateway.token_requests == 2


def test_an_invalidated_token_is_not_given_again(gateway, tm):
    first = tm.get_token()
    tm.invalidate()
    assert tm.get_token() != first
    second = tm.get_token()
    tm.invalidate(first)
    assert tm.get_token() == second


@pytest.mark.parametrize(
    "use", [lambda tm, token: tm.refresh(superseding=token), lambda tm, token: tm.invalidate(token)]
)
def test_an_error_takes_no_token_along_that_was_passed(gateway, use):
    with blocking.TokenManager(gateway.config()) as tm:
        token = tm.get_token()

    with pytest.raises(RevosClosedError) as caught:
        use(tm, token)

    frames = [frame for frame, _ in traceback.walk_tb(caught.tb)]
    held = [frame.f_locals for frame in frames if frame.f_globals["__name__"].startswith("revos.")]
    assert held
    assert token not in repr(held)


def test_an_extractor_whose_block_is_left_by_an_exception_is_closed(gateway, tm):
    with pytest.raises(ZeroDivisionError), tm.extractor("gpt-4") as extractor:
        raise ZeroDivisionError

    with pytest.raises(RevosClosedError):
        extractor.extract(int, "{text}", text="7")


def test_refresh_extractor_tells_whether_it_worked(gateway, tm):
    assert tm.refresh_extractor() is True
    gateway.fail_next(status=403)
    gateway.fail_next(status=403)
    assert tm.refresh_extractor() is False


def test_a_failure_is_raised_with_its_facts(gateway):
    gateway.auth_methods = set()
    with (
        blocking.TokenManager(gateway.config()) as tm,
        pytest.raises(RevosAuthenticationError, match="invalid_client") as caught,
    ):
        tm.get_token()
    assert caught.value.status_code == 401
    assert caught.value.attempts == 2  # The primary method, then the fallback.
    assert caught.value.retry_after > 0


def test_an_exception_of_the_body_leaves_as_itself(gateway):
    with pytest.raises(ZeroDivisionError), blocking.TokenManager(gateway.config()):
        raise ZeroDivisionError


def test_a_broken_configuration_is_told_on_entering(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REVOS_CLIENT_ID", raising=False)
    with pytest.raises(RevosConfigurationError, match="REVOS_CLIENT_ID is missing"):
        blocking.TokenManager().__enter__()
    assert "revos-blocking" not in thread_names()


def test_an_exit_leaves_no_manager_around(gateway):
    with blocking.TokenManager(gateway.config()) as tm:
        assert innermost() is not None
    assert innermost() is None
    assert not tm.is_background_service_running()


def test_outside_its_block_a_manager_says_so(gateway):
    tm = blocking.TokenManager(gateway.config())
    with pytest.raises(RevosClosedError, match="not entered yet"):
        tm.get_token()
    with pytest.raises(RevosClosedError, match="not entered yet"), tm.extractor("gpt-4"):
        pass
    with tm:
        pass
    with pytest.raises(RevosClosedError, match="its block was left"):
        tm.get_token()
    with pytest.raises(RevosClosedError, match="its block was left"), tm.extractors():
        pass
    assert tm.refresh_extractor() is False
    with pytest.raises(RevosClosedError, match="entered before"):
        tm.__enter__()


def test_a_manager_that_was_never_started_may_be_stopped(gateway):
    manager = blocking.TokenManager(gateway.config())

    manager.stop_background_service()

    assert not manager.is_background_service_running()


def test_start_and_stop_are_the_same_as_the_block(gateway):
    tm = blocking.TokenManager(gateway.config())
    assert not tm.is_background_service_running()
    tm.start_background_service()
    try:
        assert tm.is_background_service_running()
        assert gateway.accepts(blocking.get_revos_token())
    finally:
        tm.stop_background_service()
    assert not tm.is_background_service_running()


def test_leaving_stops_the_thread_of_the_event_loop(gateway):
    with blocking.TokenManager(gateway.config()) as tm:
        tm.get_token()
        assert "revos-blocking" in thread_names()
    assert "revos-blocking" not in thread_names()


def test_get_revos_token_opens_a_manager_for_one_call(gateway, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in gateway.environ().items():
        monkeypatch.setenv(name, value)
    assert gateway.accepts(blocking.get_revos_token())
    assert gateway.accepts(blocking.get_revos_token(use_fallback=True))
    assert gateway.token_log[-1].method == "client_secret_basic"
    assert innermost() is None


# HTTP clients and extractors.


def test_an_httpx_client_sends_the_token_and_replays_a_401(gateway, tm):
    with httpx.Client(auth=tm.auth) as http:
        gateway.revoke(tm.get_token())
        assert http.get(gateway.base_url + "/models").status_code == 200
    assert gateway.token_requests == 2


def test_models_are_listed(gateway, tm):
    assert tm.list_models() == blocking.list_remote_models() == list(gateway.models)


def test_an_extractor_gives_typed_objects(gateway, tm):
    with tm.extractor("gpt-4") as gpt4:
        assert gpt4.extract(Person, PROMPT, text="Ada, 36") == Person(name="Ada", age=36)
    with pytest.raises(RevosClosedError, match="its block was left"):
        gpt4.extract(Person, PROMPT, text="Ada, 36")


def test_an_extractor_is_made_as_it_is_asked_for(gateway, tm):
    gateway.chat_script.append("no JSON")

    with tm.extractor("gpt-4", strategy="tools", repairs=0) as gpt4:
        with pytest.raises(RevosValidationError):
            gpt4.extract(Person, PROMPT, text="Ada, 36")
        assert gpt4.model_name == "gpt-4"
    with (
        pytest.raises(RevosInputError, match="max_concurrency"),
        tm.extractor("gpt-4", max_concurrency=0),
    ):
        pytest.fail("entered")

    (asked,) = gateway.chat_log
    assert "tools" in asked.payload


def test_all_extractors_come_as_a_mapping(gateway, tm):
    with tm.extractors() as models:
        assert set(models) == set(tm.config.models)
        assert models["GPT-4"].extract(Person, PROMPT, text="Ada, 36").age == 36
    with tm.extractors("claude-4") as models:
        assert list(models) == ["claude-4"]
    with pytest.raises(RevosConfigurationError, match="There is no model 'gpt-5'"):
        tm.extractors("gpt-5").__enter__()


def test_an_extractor_may_be_made_before_its_manager_opens(gateway):
    gpt4 = blocking.get_langchain_extractor("gpt-4")
    with blocking.TokenManager(gateway.config()):
        assert gpt4.extract(Person, PROMPT, text="Ada, 36").name == "Ada"


def test_an_extractor_stays_with_the_manager_of_its_first_use(gateway, tm):
    gpt4 = blocking.get_langchain_extractor("gpt-4")
    gpt4.extract(Person, PROMPT, text="Ada, 36")

    with blocking.TokenManager(gateway.config()):
        assert gpt4.extract(Person, PROMPT, text="Bob, 7").name == "Bob"

    first, second = gateway.chat_log
    assert first.token_fingerprint == second.token_fingerprint


# Many threads.


def test_fifty_threads_at_once_cost_one_token_request(gateway, tm):
    gateway.delay = 0.2
    everyone = threading.Barrier(THREADS)

    def ask():
        everyone.wait()
        return tm.get_token()

    with ThreadPoolExecutor(THREADS) as pool:
        tokens = {future.result() for future in [pool.submit(ask) for _ in range(THREADS)]}
    assert len(tokens) == 1
    assert gateway.token_requests == 1


def test_fifty_threads_that_are_refused_cost_one_refresh(gateway, tm):
    tm.get_token()
    gateway.revoke()
    everyone = threading.Barrier(THREADS)
    with httpx.Client(auth=tm.auth, timeout=30) as http, ThreadPoolExecutor(THREADS) as pool:

        def get():
            everyone.wait()
            return http.get(gateway.base_url + "/models").status_code

        codes = [future.result() for future in [pool.submit(get) for _ in range(THREADS)]]
    assert set(codes) == {200}
    assert gateway.token_requests == 2


def test_each_waiting_thread_gets_an_exception_of_its_own(gateway):
    gateway.auth_methods = set()
    gateway.delay = 0.2
    with blocking.TokenManager(gateway.config()) as tm:
        calls = [Call(tm.get_token) for _ in range(5)]
        errors = [call.outcome() for call in calls]
    assert {type(error) for error in errors} == {RevosAuthenticationError}
    assert len({id(error) for error in errors}) == 5
    assert gateway.token_requests == 2


def test_plain_threads_pass_the_manager(gateway, tm):
    token = tm.get_token()
    assert Call(lambda: blocking.get_revos_token(manager=tm)).outcome() == token
    assert Call(lambda: blocking.get_token_info(manager=tm)).outcome()["has_token"] is True
    assert Call(lambda: blocking.get_consecutive_failures(manager=tm)).outcome() == 0
    assert Call(lambda: blocking.list_remote_models(manager=tm)).outcome() == list(gateway.models)
    gpt4 = Call(lambda: blocking.get_langchain_extractor("gpt-4", manager=tm)).outcome()
    extract = Call(lambda: gpt4.extract(Person, PROMPT, text="Ada, 36"))
    assert extract.outcome().name == "Ada"
    assert Call(lambda: blocking.invalidate_revos_token(manager=tm)).outcome() is None
    assert Call(lambda: blocking.reset_token_manager(manager=tm)).outcome() is None
    inherits_none = Call(blocking.get_token_info).outcome()
    assert isinstance(inherits_none, RevosConfigurationError)


def test_leaving_the_block_frees_the_threads_that_wait_for_a_token(gateway):
    gateway.fail_next(hang=True)
    with blocking.TokenManager(gateway.config()) as tm:
        calls = [Call(tm.get_token) for _ in range(3)]
        until(lambda: gateway.in_flight_token_requests == 1)
        assert not any(call.ended(0.05) for call in calls)
        left_at = time.monotonic()
    assert time.monotonic() - left_at < 2
    assert {type(call.outcome()) for call in calls} == {RevosClosedError}


def test_leaving_the_block_frees_the_threads_that_wait_for_an_answer(gateway):
    with blocking.TokenManager(gateway.config()) as tm, tm.extractor("gpt-4") as gpt4:
        gpt4.extract(Person, PROMPT, text="Ada, 36")
        gateway.chat_delay = 3
        call = Call(lambda: gpt4.extract(Person, PROMPT, text="Ada, 36"))
        until(lambda: gateway.in_flight_api_requests == 1)
        left_at = time.monotonic()
    assert time.monotonic() - left_at < 2
    assert isinstance(call.outcome(), RevosClosedError)


def test_leaving_the_block_does_not_wait_for_an_extractor_that_is_open(gateway):
    tm = blocking.TokenManager(gateway.config())
    tm.start_background_service()
    is_open, is_left = threading.Event(), threading.Event()

    def use():
        with tm.extractor("gpt-4"):
            is_open.set()
            is_left.wait(30)

    user = Call(use)
    assert is_open.wait(10)
    leaving = Call(tm.stop_background_service)
    ended = leaving.ended(10)
    is_left.set()
    assert ended
    assert user.outcome() is None


def test_a_manager_that_was_left_is_kept_by_nothing(gateway):
    tm = blocking.TokenManager(gateway.config())
    with tm:
        kept = [weakref.ref(tm), weakref.ref(innermost())]

    del tm
    gc.collect()

    assert [reference() for reference in kept] == [None, None]


def test_an_error_of_the_callers_own_code_comes_out_as_itself(gateway):
    class Broken(type):
        def __hash__(cls):
            raise RuntimeError("made up")

    class Target(metaclass=Broken):
        pass

    with (
        blocking.TokenManager(gateway.config()) as tm,
        tm.extractor("gpt-4") as gpt4,
        pytest.raises(RuntimeError, match="made up"),
    ):
        gpt4.extract(Target, PROMPT, text="")


# Event loops.


async def test_in_the_thread_of_the_event_loop_a_waiting_call_is_an_error(revos_gateway):
    async with revos.TokenManager(revos_gateway.config()) as tm:
        for call in (
            blocking.get_revos_token,
            blocking.list_remote_models,
            lambda: blocking.get_langchain_extractor("gpt-4").extract(Person, PROMPT, text=""),
        ):
            with pytest.raises(RevosTokenError) as caught:
                call()
            assert str(caught.value) == (
                "this call waits, and in the thread of the event loop it would wait for itself: "
                "use the async form, or run it in a worker thread (anyio.to_thread.run_sync)"
            )
        assert blocking.get_consecutive_failures() == 0
        assert await tm.get_token() == tm.get_token_nowait()


async def test_a_worker_thread_may_wait_for_the_manager_of_its_event_loop(revos_gateway):
    async with revos.TokenManager(revos_gateway.config()) as tm:
        token = await to_thread.run_sync(blocking.get_revos_token)
        with httpx.Client(auth=tm.auth) as http:
            response = await to_thread.run_sync(http.get, revos_gateway.base_url + "/models")
        assert (token, response.status_code) == (await tm.get_token(), 200)
    assert revos_gateway.token_requests == 1


async def test_a_running_loop_that_is_not_the_managers_does_not_matter(revos_gateway_sync):
    """As in a notebook, whose cells run inside a loop."""
    with blocking.TokenManager(revos_gateway_sync.config()) as tm:
        assert tm.get_token() == blocking.get_revos_token()


async def test_start_and_stop_may_be_in_different_tasks_and_its_auth_serves_this_loop(
    revos_gateway,
):
    tm = blocking.TokenManager(revos_gateway.config())

    async def start():
        await to_thread.run_sync(tm.start_background_service)

    async def stop():
        await to_thread.run_sync(tm.stop_background_service)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start)
    async with httpx.AsyncClient(auth=tm.auth) as http:
        assert (await http.get(revos_gateway.base_url + "/models")).status_code == 200
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop)
    assert not tm.is_background_service_running()


# Processes.


def test_ctrl_c_ends_a_call_that_waits(gateway):
    gateway.fail_next(hang=True)
    done = run_script(
        gateway.environ(),
        """
        import os, signal, threading
        from revos import blocking

        try:
            with blocking.TokenManager() as tm:
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
                tm.get_token()
        except KeyboardInterrupt:
            print("interrupted")
        """,
    )
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_a_script_that_never_stops_its_manager_ends_all_the_same(gateway):
    done = run_script(
        gateway.environ(),
        """
        from revos import blocking

        tm = blocking.TokenManager()
        tm.start_background_service()
        tm.get_token()
        raise SystemExit("a script with a bug")
        """,
    )
    assert (done.returncode, done.stderr) == (1, "a script with a bug\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_after_a_fork_every_call_says_so_and_leaving_touches_nothing(gateway):
    done = run_script(
        gateway.environ(),
        """
        import os, signal, warnings
        from revos import RevosClosedError, blocking

        warnings.simplefilter("ignore", DeprecationWarning)  # Of a fork beside threads.
        with blocking.TokenManager() as tm:
            tm.get_token()
            if os.fork() == 0:
                signal.alarm(5)
                for call in (tm.get_token_nowait, tm.get_token, tm.invalidate, tm.list_models):
                    try:
                        call()
                    except RevosClosedError as error:
                        assert "before a fork" in str(error)
                    else:
                        os._exit(1)
                tm.stop_background_service()
                os._exit(0)
            print(os.wait()[1])
        """,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
