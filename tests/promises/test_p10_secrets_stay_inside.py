"""P10: no token, secret or assertion in any log record, exception, repr, status or warning."""

import asyncio
import json
import logging
import pickle
from contextlib import suppress
from functools import partial
from urllib.parse import parse_qs, quote

import anyio
import httpx
import httpx2
import pytest
import uvloop
from anyio import to_thread
from evidence import gathered
from sockets import raw_server
from support import (
    BASE_URL,
    TOKEN_URL,
    ManualClock,
    ScriptedApi,
    ScriptedEndpoint,
    config,
    manager,
    settle,
)

from revos import BearerAuth, RevosError, TokenManager, blocking, get_token_info
from revos.testing import Answer, serve_gateway

SECRET = 's3cr3t/Zq+with&=odd "chars"\\ünd%41-0123456789'
OTHER_SECRET = "fallback-secret-5c1f9a7e22b04d6f8e1a"
TOKEN = "eyJhbGciOi.J9-token_of/the+test~0a1b2c3d4e5f.signature-7788"
SECRETS = (SECRET, OTHER_SECRET, TOKEN)
ALL = {
    "client_secret": SECRET,
    "fallback_auth_method": "client_secret_basic",
    "fallback_client_secret": OTHER_SECRET,
}


def granted(value=TOKEN, **more):
    return httpx.Response(200, json={"access_token": value, "token_type": "Bearer", **more})


def sent_with(request):
    """All that a server could send back of what it was sent."""
    form = request.content.decode()
    secrets = [value for values in parse_qs(form).values() for value in values]
    return " ".join([form, *secrets, request.headers.get("authorization", "")])


def with_description(request, status=401):
    body = {"error": "invalid_client", "error_description": f"I got {sent_with(request)}"}
    return httpx.Response(status, json=body)


def raising(kind):
    def answer(request):
        try:
            headers = dict(request.headers)
            raise ValueError(f"{sent_with(request)} {headers}")
        except ValueError as error:
            raise kind(f"could not send {sent_with(request)}", request=request) from error

    return answer


HOSTILE = {
    "description": with_description,
    "error code": lambda r: httpx.Response(400, json={"error": sent_with(r)}),
    "retried": lambda r: with_description(r, 503),
    "html": lambda r: httpx.Response(500, html=f"<p>{sent_with(r)}</p>"),
    "no json": lambda r: httpx.Response(200, text=sent_with(r)),
    "location": lambda r: httpx.Response(
        302, headers={"location": f"https://{SECRET[:6]}.example/?{quote(sent_with(r))}"}
    ),
    "www-authenticate": lambda r: httpx.Response(
        401, headers={"www-authenticate": f'Basic realm="{quote(sent_with(r))}"'}
    ),
    "token type": lambda r: httpx.Response(
        200, json={"access_token": TOKEN, "token_type": sent_with(r)}
    ),
    "token but bad lifetime": lambda r: granted(expires_in=TOKEN),
    "token in the error": lambda r: httpx.Response(
        400, json={"error": "x", "error_description": f"you have {TOKEN}", "access_token": TOKEN}
    ),
    "scope": lambda r: granted(scope=f"{sent_with(r)} {TOKEN}"),
    "connect error": raising(httpx.ConnectError),
    "timeout": raising(httpx.ReadTimeout),
    "protocol error": raising(httpx.RemoteProtocolError),
    "granted": lambda r: granted(),
}


async def provoke(tm, evidence, clock):
    """Use a manager in every way that can fail, and keep what comes of it."""
    asks = [
        tm.get_token,
        lambda: tm.get_token(force_refresh=True),
        lambda: tm.get_token(use_fallback=True),
        tm.refresh,
        tm.refresh_extractor,
    ]
    for ask in asks:
        for _ in range(2):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(keep, evidence, ask)
                await settle()
                for _ in range(10):
                    await clock.advance(1)
                tasks.cancel_scope.cancel()
    look_at(tm, evidence)


async def keep(evidence, ask):
    """Call, and keep the exception."""
    try:
        evidence.add("result", type(await ask()))
    except RevosError as error:
        evidence.add_error(error)


def look_at(tm, evidence):
    """What a manager shows of itself."""
    evidence.add("status", tm.status)
    evidence.add("status", json.dumps(get_token_info(manager=tm)))
    evidence.add("status", tm.health())
    for shown in (tm, tm.auth, BearerAuth(tm), tm.config, tm.config.revos, tm.extractor("gpt-4")):
        evidence.add("repr", shown)
    evidence.add_objects_of("revos", but="revos.testing")


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
async def test_whatever_a_server_sends_back_nothing_leaks(answer):
    clock = ManualClock()
    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    settings = config(**ALL, max_retries=2)

    with gathered() as evidence:
        tm = TokenManager(settings, http_client=client, _clock=clock)
        async with tm, tm.subscribe() as stream:
            await provoke(tm, evidence, clock)
            evidence.add("repr", stream)
            evidence.add("repr", stream.latest)
        look_at(tm, evidence)

    assert len(evidence.texts) > 100
    assert evidence.places_of(*SECRETS) == set()


async def test_what_the_client_of_the_user_is_set_to_does_not_reach_the_token_request():
    asked = []

    def redirect(request):
        asked.append(request)
        return httpx.Response(307, headers={"location": "http://other.example/token"})

    theirs = httpx.AsyncClient(
        transport=httpx.MockTransport(redirect),
        auth=("user", "password"),
        follow_redirects=True,
        timeout=0.01,
    )
    async with theirs as http, TokenManager(config(), http_client=http) as tm:
        with pytest.raises(RevosError, match=r"on to http://other\.example/ "):
            await tm.get_token()

    (request,) = asked
    assert "authorization" not in request.headers
    assert set(request.extensions["timeout"].values()) == {None}  # The whole has one deadline.


async def test_nothing_that_holds_a_secret_is_pickled(revos_gateway):
    async with TokenManager(revos_gateway.config()) as tm:
        token = await tm.refresh()
        told = {}
        for thing in (tm, token, tm.auth, tm.extractor("gpt-4"), tm.config, tm.config.revos):
            with pytest.raises(TypeError) as caught:
                pickle.dumps(thing)
            told[type(thing).__name__] = str(caught.value)

    manager = "a TokenManager is not pickled: it belongs to one event loop"
    assert told.pop("AccessToken").startswith("AccessToken is not pickled: a pickle would carry")
    assert told.pop("Config").startswith("Config is not pickled: a pickle would carry")
    assert told.pop("GatewayConfig").startswith("GatewayConfig is not pickled: a pickle would")
    assert set(told.values()) == {manager}


async def test_no_live_object_shows_more_parameters_of_the_token_request():
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: granted()))

    with gathered() as evidence:
        settings = config(extra_token_params={"api_key": SECRET})
        async with TokenManager(settings, http_client=client) as tm:
            await tm.get_token()
            look_at(tm, evidence)

    assert evidence.places_of(SECRET) == set()


async def test_an_extra_parameter_that_the_server_sends_back_is_masked():
    extra = "extra-s3cret/0123456789"
    client = httpx.AsyncClient(transport=httpx.MockTransport(partial(with_description, status=400)))

    with gathered() as evidence:
        settings = config(extra_token_params={"api_key": extra, "version": "1"})
        async with TokenManager(settings, http_client=client) as tm:
            await keep(evidence, tm.get_token)
            look_at(tm, evidence)

    assert any(place == "exception" for place, _ in evidence.texts)
    assert evidence.places_of(extra) == set()


async def test_the_token_in_use_is_masked_where_the_endpoint_sends_it_back_in_a_later_answer():
    said = {"error": "invalid_request", "error_description": f"{TOKEN} is still good"}
    broken = httpx.RemoteProtocolError(f"illegal header line: {TOKEN!r}")
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    endpoint.name = lambda _: TOKEN
    endpoint.script = [200, httpx.Response(400, json=said), 200, broken]

    with gathered() as evidence:
        settings = {"max_retries": 1, "token": {"enable_periodic_refresh": False}}
        async with manager(endpoint, clock, **settings) as tm:
            for _ in range(4):
                await keep(evidence, tm.refresh)
                look_at(tm, evidence)
                await clock.advance(1)

    assert endpoint.count == 4
    assert sum(place == "exception" for place, _ in evidence.texts) >= 2
    assert evidence.places_of(TOKEN) == set()


@pytest.mark.parametrize("content", [b"whole", iter([b"streamed"])], ids=["replayed", "streamed"])
async def test_no_live_object_shows_the_tokens_of_a_request_that_was_refused(content):
    tokens = iter([TOKEN, TOKEN[::-1]])
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: granted(next(tokens))))

    with gathered() as evidence:
        request = httpx.Request("POST", BASE_URL, content=content)
        async with TokenManager(config(), http_client=client) as tm:
            flow = tm.auth.async_auth_flow(request)
            await flow.__anext__()
            with suppress(StopAsyncIteration):
                await flow.asend(httpx.Response(401, request=request))
            look_at(tm, evidence)
            await flow.aclose()

    assert evidence.places_of(TOKEN, TOKEN[::-1]) == set()


async def test_an_assertion_and_its_key_leak_nowhere(tmp_path):
    jwt = pytest.importorskip("jwt")
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / "key.pem").write_bytes(key)
    assertions = []

    def answer(request):
        assertions.append(parse_qs(request.content.decode())["client_assertion"][0])
        return with_description(request)

    clock = ManualClock()
    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    settings = config(
        client_secret=None,
        auth_method="private_key_jwt",
        private_key_file=str(tmp_path / "key.pem"),
        fallback_auth_method="private_key_jwt",
    )

    with gathered() as evidence:
        async with TokenManager(settings, http_client=client, _clock=clock) as tm:
            for _ in range(3):
                await keep(evidence, tm.refresh)
                await clock.advance(2)
            look_at(tm, evidence)

    assert jwt.get_unverified_header(assertions[0])["alg"] == "RS256"
    lines = key.decode().splitlines()[1:-1]
    signatures = [assertion.rpartition(".")[2] for assertion in assertions]
    assert evidence.places_of(*assertions, *signatures, *lines) == set()


@pytest.mark.parametrize("content", [SECRET.encode("latin-1"), b"\xff\xfe" + SECRET.encode(), b""])
async def test_a_secret_file_that_cannot_be_used_leaks_nothing(tmp_path, content):
    path = tmp_path / "secret"
    path.write_bytes(content)
    clock = ManualClock()
    settings = config(client_secret=None, client_secret_file=str(path))

    with gathered() as evidence:
        async with TokenManager(settings, http_client=httpx.AsyncClient(), _clock=clock) as tm:
            await keep(evidence, tm.get_token)
            look_at(tm, evidence)

    assert evidence.places_of(SECRET) == set()


# Over sockets, with the logs of everybody who takes part.


@pytest.mark.parametrize("auth_method", ["client_secret_post", "client_secret_basic"])
@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
async def test_nothing_leaks_over_real_connections(library, auth_method):
    tokens = []

    with gathered() as evidence:
        async with serve_gateway() as gateway:
            gateway.client_secret = SECRET
            settings = gateway.config(auth_method=auth_method, max_retries=1)
            async with TokenManager(settings) as tm:
                async with library.AsyncClient(auth=tm.auth) as http:
                    url = f"{gateway.base_url}/models"
                    tokens.append(await tm.get_token())
                    await http.get(url)
                    gateway.revoke()
                    await http.get(url)
                    tokens.append(await tm.get_token())
                    gateway.refuse_all = True
                    await http.get(url)
                    tokens.append(await tm.get_token())

                    def send():
                        with library.Client(auth=tm.auth) as sync_http:
                            sync_http.get(url)

                    await to_thread.run_sync(send)
                    await http.get(f"http://localhost:{url.split(':')[2]}")
                gateway.fail_next(5, status=401, body={"error": "invalid_client"})
                await keep(evidence, tm.refresh)
                look_at(tm, evidence)

    logged = {place.split()[1].split(".")[0] for place, _ in evidence.texts if "log" in place}
    assert {"revos", "httpx", "httpcore"} <= logged
    assert evidence.places_of(SECRET, *tokens) == set()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 2", b"nonsense\r\n\r\n"],
    ids=["nothing", "half-a-status-line", "no-http"],
)
async def test_nothing_leaks_when_a_connection_breaks(scheme, answer):
    async def handle(stream):
        async with stream:
            await stream.receive()
            await stream.send(answer or b" ")

    with gathered() as evidence:
        async with raw_server(handle) as port:
            url = f"{scheme}://127.0.0.1:{port}/token"
            async with TokenManager(config(**ALL, token_url=url, max_retries=1)) as tm:
                await keep(evidence, tm.get_token)
                await keep(evidence, lambda: tm.get_token(use_fallback=True))
                look_at(tm, evidence)

    assert any(place == "exception" for place, _ in evidence.texts)
    assert evidence.places_of(*SECRETS) == set()


def keep_blocking(evidence, ask):
    """As `keep`. The frame that catches is evidence too, so it has no token of its own."""
    try:
        ask()
    except RevosError as error:
        evidence.add_error(error)


async def test_the_blocking_manager_leaks_nothing():
    tokens = []

    def use(gateway, evidence):
        with blocking.TokenManager(gateway.config(max_retries=1)) as tm:
            tokens.append(tm.get_token())
            evidence.add("repr", tm)
            evidence.add("repr", tm.auth)
            gateway.fail_next(5, status=401, body={"error": "invalid_client"})
            keep_blocking(evidence, lambda: tm.get_token(force_refresh=True))

    with gathered() as evidence:
        async with serve_gateway() as gateway:
            gateway.client_secret = SECRET
            await to_thread.run_sync(use, gateway, evidence)

    assert evidence.places_of(SECRET, *tokens) == set()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_the_debug_log_of_asyncio_shows_no_secret(run):
    async def main(evidence):
        asyncio.get_running_loop().slow_callback_duration = 0
        client = httpx.AsyncClient(transport=httpx.MockTransport(lambda r: granted()))
        async with TokenManager(config(**ALL), http_client=client) as tm, tm.subscribe() as stream:
            await stream.receive()
            api = ScriptedApi(lambda token: False)
            async with api.client(auth=tm.auth) as http:
                await http.get("/models")

            def send():
                with api.sync_client(auth=tm.auth) as http:
                    http.get("/models")

            await to_thread.run_sync(send)
            evidence.add("tasks", [repr(task) for task in asyncio.all_tasks()])

    with gathered() as evidence:
        run(main(evidence), debug=True)

    assert any(place.startswith("log asyncio") for place, _ in evidence.texts)
    assert evidence.places_of(*SECRETS) == set()


# Prompts and answers.


PROMPT = "Extract-the-person-4f9a2c77 who is meant: {text}"
TEXT = "Adalgisa-Quartermaine-3b1d, 36 years old"


def person():
    pydantic = pytest.importorskip("pydantic")
    return pydantic.create_model("Person", name=(str, ...), age=(int, ...))


async def test_prompts_and_answers_of_an_extraction_stand_in_no_log():
    with gathered() as evidence:
        async with (
            serve_gateway() as gateway,
            TokenManager(gateway.config()) as tm,
            tm.extractor("gpt-4") as gpt4,
        ):
            found = await gpt4.extract(person(), PROMPT, text=TEXT)
            gateway.chat_script.append("Not-what-was-asked-for-77aa")
            await keep(evidence, lambda: gpt4.extract(person(), PROMPT, text=TEXT))
            gateway.refuse_all = True
            await keep(evidence, lambda: gpt4.extract(person(), PROMPT, text=TEXT))
            await keep(evidence, tm.list_models)

    contents = "Extract-the-person-4f9a2c77", "Not-what-was-asked-for-77aa", found.name
    assert evidence.places_of(*contents, within="log") == set()


@pytest.mark.parametrize("status", [400, 401, 404])
async def test_a_gateway_that_sends_the_token_back_makes_no_extraction_leak_it(status):
    with gathered() as evidence:
        async with serve_gateway() as gateway:
            gateway.client_secret = SECRET
            async with TokenManager(gateway.config()) as tm, tm.extractor("gpt-4") as gpt4:
                evidence.add("repr", gpt4.llm)
                evidence.add("repr", gpt4)
                token = await tm.get_token()
                said = f"I refuse {token} in Bearer {token}"
                body = {"error": {"message": said, "code": said, "type": said}}
                challenge = {"www-authenticate": 'Bearer error="insufficient_scope"'}
                refusal = Answer(status=status, body=body, headers=challenge)
                gateway.chat_script.extend([refusal] * 10)
                await keep(evidence, lambda: gpt4.extract(person(), PROMPT, text=TEXT))
                look_at(tm, evidence)

    assert any(place == "exception" for place, _ in evidence.texts)
    assert evidence.places_of(SECRET, token) == set()


async def test_an_answer_with_a_token_that_was_replaced_meanwhile_makes_no_extraction_leak_it():
    with gathered() as evidence:
        async with (
            serve_gateway() as gateway,
            TokenManager(gateway.config()) as tm,
            tm.extractor("gpt-4", repairs=0) as gpt4,
            anyio.create_task_group() as tasks,
        ):
            sent = await tm.get_token()
            gateway.chat_script.append(sent)
            gateway.chat_delay = 0.05
            tasks.start_soon(keep, evidence, partial(gpt4.extract, person(), PROMPT, text=TEXT))
            with anyio.fail_after(5):
                while not gateway.api_requests:
                    await anyio.sleep(0.001)
            kept = await tm.get_token(force_refresh=True)

    assert sent != kept
    assert any(place == "exception" for place, _ in evidence.texts)
    assert evidence.places_of(sent, kept) == set()


# What logs say instead.


async def test_the_audit_log_has_one_record_for_each_token_request(caplog):
    caplog.set_level(logging.INFO, logger="revos.audit")
    answers = [
        httpx.Response(503),
        httpx.Response(401, json={"error": "invalid_client"}),
        granted(),
    ]
    clock = ManualClock()
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda request: answers.pop(0)))
    settings = config(**ALL, token_url=f"{TOKEN_URL}?key=hidden")

    async with TokenManager(settings, http_client=client, _clock=clock) as tm:
        await settle()
        await clock.advance(1)
        held = await tm.refresh(superseding="another")

    records = [r.getMessage() for r in caplog.records if r.name == "revos.audit"]
    assert len(records) == 3
    assert all(TOKEN_URL in record and "hidden" not in record for record in records)
    assert ["503" in records[0], "invalid_client" in records[1]] == [True, True]
    assert held.fingerprint in records[2]
    assert "client_secret_basic" in records[2]
