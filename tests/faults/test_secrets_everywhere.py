"""P10 under every failure at once, over real sockets, with every logger of the process at DEBUG.

One test runs all the failures of the table and keeps what each leaves: records, exceptions with the
variables of their frames, reprs, pickles, status, warnings, output. Then it looks for the secrets.
That the search finds one in each of these places and in every form shows `tests/test_evidence.py`.
"""

from __future__ import annotations

import datetime as dt
import json
import socket
import ssl
from base64 import b64decode
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import parse_qs, quote

import anyio
import httpx
import httpx2
import pydantic
import trustme
from anyio import to_thread
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSStream
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from evidence import gathered
from sockets import raw_server
from support import ManualClock, completion, config

import revos.extraction.chat
import revos.extraction.prompts
import revos.extraction.targets
from revos import BearerAuth, TokenManager, blocking, endpoint, get_token_info, load_config
from revos.testing import Answer, serve_gateway

SECRET = 's3cr3t/Zq+with&=odd "chars"\\ünd%41-0123456789'
OTHER_SECRET = "fallback-secret-5c1f9a7e22b04d6f8e1a"
TOKEN = "eyJhbGciOi.J9-token_of/the+test~0a1b2c3d4e5f.signature-7788"
PASSWORD = "password-of-the-proxy-71d3e0b2c5a84f69"
BOTH_WAYS = {
    "client_secret": SECRET,
    "fallback_auth_method": "client_secret_basic",
    "fallback_client_secret": OTHER_SECRET,
    "max_retries": 1,
}
PROMPT = "Who is meant: {text}"


class Person(pydantic.BaseModel):
    name: str
    age: int


# The servers.


class Quoting:
    """A TCP server that sends back what it was sent; `answer` says how."""

    def __init__(self):
        self.answer = None
        self.forms = []

    async def __call__(self, stream):
        async with stream:
            try:
                head, body = await read_request(stream)
                self.forms.append(body)
                await self.answer(stream, everything_in(head, body))
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return


async def read_request(stream):
    received = b""
    while b"\r\n\r\n" not in received:
        received += await stream.receive()
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while lengths and len(body) < int(lengths[0].partition(b":")[2]):
        body += await stream.receive()
    return head.decode(), body.decode()


def everything_in(head, body):
    """What was sent, as it was sent and as it is meant."""
    values = [value for values in parse_qs(body).values() for value in values]
    basic = [line.partition("Basic ")[2] for line in head.split("\r\n") if "Basic " in line]
    written = [encode_uri(value) for value in values]
    pairs = [b64decode(one).decode() for one in basic]
    return " ".join([body, *values, *written, *basic, *pairs, head])


def on_one_line(said):
    return " ".join(said.split())


def host_in(said):
    """The one of the secrets that could be a host, where it was sent."""
    return OTHER_SECRET if OTHER_SECRET in said else "other"


def encode_uri(text):
    """As JavaScript does."""
    return quote(text, safe=";,/?:@&=+$!*'()#")


def http(status, body, kind="application/json", **headers):
    """An answer of HTTP as bytes; what is no bytes or text becomes JSON."""
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    content = content.encode() if isinstance(content, str) else content
    fields = {"content-type": kind, "content-length": len(content), "connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode() + content


def answering(make):
    async def answer(stream, said):
        await stream.send(make(said))

    return answer


def granting(**more):
    return lambda said: http(200, {"access_token": TOKEN, "token_type": "Bearer", **more})


def resetting(make):
    """Send that much, and then let the connection be reset."""

    async def answer(stream, said):
        await stream.send(make(said) or b" ")
        raw = stream.extra(SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    return answer


async def hanging(stream, said):
    await anyio.sleep_forever()


# Every kind of answer of a token endpoint that gives no token, or one that can't be used.
BAD_ANSWERS = {
    "description": lambda s: http(401, {"error": "invalid_client", "error_description": s}),
    "error code": lambda s: http(400, {"error": s, "error_uri": s}),
    "temporary": lambda s: http(400, {"error": "temporarily_unavailable", "error_description": s}),
    "408": lambda s: http(408, {"error": s, "error_description": s}),
    "425": lambda s: http(425, {"error": s, "error_description": s}),
    "429": lambda s: http(429, {"error_description": s}, retry_after=on_one_line(s)),
    "503": lambda s: http(503, {"error": "x", "error_description": s}, retry_after="600"),
    "html": lambda s: http(500, f"<p>{s}</p>", "text/html"),
    "403": lambda s: http(403, s, "text/plain"),
    "redirect": lambda s: http(302, s, location=f"https://other.example/?{on_one_line(s)}"),
    "redirect to a host": lambda s: http(307, "", location=f"https://{host_in(s)}.example/"),
    "challenge": lambda s: http(401, "", www_authenticate=f'Basic realm="{on_one_line(s)}"'),
    "too large": lambda s: http(200, s * (1 + (1 << 20) // len(s))),
    "no JSON": lambda s: http(200, s),
    "no object": lambda s: http(200, [s]),
    "no UTF-8": lambda s: http(200, b'{"access_token": "\xff' + s.encode()),
    "names twice": lambda s: http(200, f'{{"access_token": "{TOKEN}", "access_token": "x"}}'),
    "nesting": lambda s: http(200, "[" * 100_000 + json.dumps(s)),
    "no token": lambda s: http(200, {"id_token": TOKEN, "error_description": f"{s} {TOKEN}"}),
    "empty token": lambda s: http(200, {"access_token": "", "said": s}),
    "token in lines": lambda s: http(200, {"access_token": f"{TOKEN}\r\n"}),
    "token type": lambda s: http(200, {"access_token": TOKEN, "token_type": f"{s} {TOKEN}"}),
    "error with a token": lambda s: http(
        400, {"error": "x", "error_description": f"you have {TOKEN}", "access_token": TOKEN}
    ),
    "no lifetime": granting(expires_in=0),
    "negative lifetime": granting(expires_in=-1),
    "infinite lifetime": granting(expires_in="Infinity"),
    "boolean lifetime": granting(expires_in=True),
    "lifetime of text": granting(expires_in=TOKEN),
    "gzip": lambda s: http(200, s, content_encoding="gzip"),
    "no HTTP": lambda s: s.encode(),
    "bad header": lambda s: b"HTTP/1.1 200 OK\r\n" + on_one_line(s).encode() + b"\r\n\r\n",
    "bad chunk": lambda s: (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + on_one_line(s).encode() + b"\r\n"
    ),
    "half an answer": lambda s: http(401, {"error_description": s})[:-20],
    "nothing": lambda s: b"",
}
RESETS = {
    "reset at once": lambda s: b"",
    "reset in the head": lambda s: b"HTTP/1.1 200 OK\r\nx-said: " + on_one_line(s).encode(),
    "reset in the body": lambda s: http(200, {"access_token": TOKEN, "said": s})[:-9],
}
GOOD_ANSWERS = {
    "granted": granting(),
    "granted in headers": lambda s: http(
        200, {"access_token": TOKEN}, x_said=on_one_line(f"{s} {TOKEN}"), set_cookie=f"a={TOKEN}"
    ),
    "scope": lambda s: http(200, {"access_token": TOKEN, "scope": f"{s} {TOKEN}"}),
}


# What is kept of each failure.


async def keep(evidence, ask):
    """Call, and keep the exception. Its traceback has this frame, which holds no secret."""
    try:
        await ask()
    except Exception as error:  # noqa: BLE001 - whatever reaches a user
        evidence.add_error(error)


def keep_blocking(evidence, ask):
    try:
        ask()
    except Exception as error:  # noqa: BLE001 - as above
        evidence.add_error(error)


async def keep_cancelled(evidence, ask, started):
    """Call, cancel once it has started, and keep the exception of the cancellation."""

    async def cancelled():
        try:
            await ask()
        except anyio.get_cancelled_exc_class() as error:
            evidence.add_error(error)
            raise

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancelled)
        await started()
        tasks.cancel_scope.cancel()


def look_at(tm, evidence):
    """What a manager shows of itself."""
    evidence.add("status", tm.status)
    evidence.add("status", json.dumps(get_token_info(manager=tm)))
    evidence.add("health", tm.health())
    extractor = tm.extractor("gpt-4")
    for shown in (tm, tm.auth, BearerAuth(tm), tm.config, tm.config.revos, extractor, tm.status):
        evidence.add("repr", shown)
        evidence.add_pickle(shown)


async def ask_in_every_way(evidence, tm):
    await keep(evidence, tm.get_token)
    await keep(evidence, partial(tm.refresh, use_fallback=True))
    look_at(tm, evidence)


async def fail_with(evidence, **settings):
    """By the first way alone, whose failure is the one that is told; then by both."""
    method = settings.get("auth_method", "client_secret_post")
    first_way = {"fallback_client_secret": None, "fallback_auth_method": method}
    async with TokenManager(config(**(BOTH_WAYS | first_way | settings))) as tm:
        await keep(evidence, tm.get_token)
        look_at(tm, evidence)
    async with TokenManager(config(**(BOTH_WAYS | settings))) as tm:
        await ask_in_every_way(evidence, tm)


# The failures, one function for those of a kind; each names what it does in `evidence.during`.


async def bad_answers(evidence, tmp_path, monkeypatch):
    server = Quoting()
    answers = {name: answering(make) for name, make in {**BAD_ANSWERS, **GOOD_ANSWERS}.items()}
    answers |= {name: resetting(make) for name, make in RESETS.items()}
    async with raw_server(server) as port:
        for name, answer in answers.items():
            evidence.during = f"{name}: "
            server.answer = answer
            await fail_with(evidence, token_url=f"http://127.0.0.1:{port}/token")
        evidence.during = "timeout: "
        server.answer = hanging
        await fail_with(evidence, token_url=f"http://127.0.0.1:{port}/token", request_timeout=0.05)
        evidence.during = "exit: "
        await leave_while_hanging(evidence, port)
    evidence.during = "refused connection: "
    await fail_with(evidence, token_url=f"http://127.0.0.1:{port}/token")
    return server.forms


async def leave_while_hanging(evidence, port):
    async with anyio.create_task_group() as tasks:
        settings = config(**BOTH_WAYS, token_url=f"http://127.0.0.1:{port}/token")
        async with TokenManager(settings) as tm, tm.subscribe() as stream:
            tasks.start_soon(keep, evidence, tm.get_token)
            await keep_cancelled(evidence, tm.get_token, partial(anyio.sleep, 0.01))
            keep_blocking(evidence, tm.get_token_nowait)
        await keep(evidence, stream.receive)
        await keep(evidence, tm.get_token)
        keep_blocking(evidence, tm.get_token_nowait)
        look_at(tm, evidence)


@asynccontextmanager
async def tls_server(handle, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    async def wrapped(stream):
        async with stream:
            try:
                encrypted = await TLSStream.wrap(
                    stream, server_side=True, ssl_context=context, standard_compatible=False
                )
                await handle(encrypted)
            except (OSError, anyio.BrokenResourceError, anyio.EndOfStream):
                return

    async with raw_server(wrapped) as port:
        yield f"https://127.0.0.1:{port}/token"


async def without_tls(stream):
    async with stream:
        await stream.receive()
        await stream.send(http(400, "this is no TLS"))


async def tls_failures(evidence, tmp_path, monkeypatch):
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    certificates = {
        "self-signed": stranger.issue_cert("127.0.0.1"),
        "for another host": authority.issue_cert("other.example"),
        "expired": authority.issue_cert("127.0.0.1", not_after=yesterday),
        "over TLS": authority.issue_cert("127.0.0.1"),
    }
    server = Quoting()
    server.answer = answering(BAD_ANSWERS["description"])
    for name, certificate in certificates.items():
        evidence.during = f"{name}: "
        async with tls_server(server, certificate) as url:
            await fail_with(evidence, token_url=url, ca_file=str(tmp_path / "ca.pem"))
    evidence.during = "no TLS: "
    async with raw_server(without_tls) as port:
        await fail_with(evidence, token_url=f"https://127.0.0.1:{port}/token")
    evidence.during = "no authorities: "
    (tmp_path / "empty.pem").write_text(SECRET)
    await keep(
        evidence,
        partial(fail_with, evidence, token_url=url, ca_file=str(tmp_path / "empty.pem")),
    )
    return []


async def proxies(evidence, tmp_path, monkeypatch):
    server = Quoting()
    server.answer = answering(lambda s: http(407, f"<p>{s}</p>", "text/html"))
    insecure = {"allow_insecure_http": True, "token_url": "http://login.example/token"}
    async with raw_server(server) as port:
        urls = {
            "proxy": f"http://user:{PASSWORD}@127.0.0.1:{port}",
            "proxy that is away": f"http://user:{PASSWORD}@127.0.0.1:9",
        }
        for name, url in urls.items():
            monkeypatch.setenv("ALL_PROXY", url)
            evidence.during = f"{name}: "
            await fail_with(evidence, **insecure)
            evidence.during = f"{name}, tunnelled: "
            await fail_with(evidence, token_url="https://login.example/token")
    unusable = {
        "proxy with a slash": f"http://user:{PASSWORD}/{PASSWORD}@127.0.0.1:9",
        "proxy with a port": f"http://{PASSWORD}:{PASSWORD}:x@127.0.0.1:{PASSWORD}",
        "proxy of no kind": f"nothing://user:{PASSWORD}@127.0.0.1:9",
    }
    for name, url in unusable.items():
        monkeypatch.setenv("ALL_PROXY", url)
        evidence.during = f"{name}: "
        await keep(evidence, partial(fail_with, evidence, **insecure))
    monkeypatch.delenv("ALL_PROXY")
    return server.forms


async def credential_files(evidence, tmp_path, monkeypatch):
    contents = {
        "latin-1": SECRET.encode("latin-1"),
        "no text": b"\xff\xfe" + SECRET.encode(),
        "empty": b"",
        "lines": f"{SECRET}\n{SECRET}\n".encode(),
        "surrogates": SECRET.encode() + b"\xed\xa0\x80",
    }
    server = Quoting()
    server.answer = answering(BAD_ANSWERS["description"])
    async with raw_server(server) as port:
        ask = partial(fail_with, evidence, token_url=f"http://127.0.0.1:{port}/token")
        for name, content in contents.items():
            evidence.during = f"secret file, {name}: "
            path = tmp_path / f"{name}.secret"
            path.write_bytes(content)
            path.chmod(0o644)
            await ask(client_secret=None, client_secret_file=str(path))
        evidence.during = "no secret file: "
        await ask(client_secret=None, client_secret_file=str(tmp_path / "nowhere"))
        signing = {"client_secret": None, "auth_method": "private_key_jwt"}
        for name, (content, algorithm) in keys().items():
            evidence.during = f"key, {name}: "
            path = tmp_path / f"{name}.pem"
            path.write_bytes(content)
            await ask(**signing, private_key_file=str(path), assertion_algorithm=algorithm)
    return server.forms


KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(encryption):
    form = serialization.PrivateFormat.PKCS8
    return KEY.private_bytes(serialization.Encoding.PEM, form, encryption)


KEY_LINES = pem(serialization.NoEncryption()).decode().splitlines()[1:-1]


def keys():
    """The last one is a good one: the server sends its assertion back."""
    plain = pem(serialization.NoEncryption())
    return {
        "no key": (SECRET.encode(), "RS256"),
        "cut": (plain[:-200], "RS256"),
        "of another kind": (plain, "ES256"),
        "encrypted": (pem(serialization.BestAvailableEncryption(b"x")), "RS256"),
        "good": (plain, "RS256"),
    }


def fail(*secrets):
    raise ArithmeticError("a bug")


class BrokenTransport(httpx.AsyncHTTPTransport):
    """Fails in a way that nobody expects, with all that was sent in its frames."""

    async def handle_async_request(self, request):
        fail(dict(request.headers), [part async for part in request.stream])


async def unexpected_exceptions(evidence, tmp_path, monkeypatch):
    async def use(settings, client):
        async with TokenManager(settings, http_client=client) as tm:
            await keep(evidence, tm.get_token)
            await anyio.sleep(1)

    evidence.during = "bug in the transport: "
    await keep(
        evidence, partial(use, config(**BOTH_WAYS), httpx.AsyncClient(transport=BrokenTransport()))
    )

    def build(credential, parameters, **more):
        fail(credential.secret, [OTHER_SECRET])

    evidence.during = "bug while signing: "
    with monkeypatch.context() as patch:
        patch.setattr(endpoint.oauth2, "build_request", build)
        await keep(evidence, partial(use, config(**BOTH_WAYS), None))
    return []


async def configurations(evidence, tmp_path, monkeypatch):
    environ = {
        "REVOS_CLIENT_ID": "app",
        "REVOS_CLIENT_SECRET": SECRET,
        "REVOS_FALLBACK_CLIENT_SECRET": OTHER_SECRET,
        "REVOS_TOKEN_URL": "nowhere",
        "REVOS_EXTRA_TOKEN_PARAMS": OTHER_SECRET,
    }
    evidence.during = "bad environment: "
    keep_blocking(evidence, partial(load_config_from, evidence, environ.copy))
    for name, text in {
        ".env": "\n".join(f"{name}={value}" for name, value in environ.items()),
        "bad.toml": f'[revos]\nclient_secret = "{OTHER_SECRET}" x',
        "bad.json": f'{{"revos": {{"client_secret": "{OTHER_SECRET}" x',
        "bad.yaml": f'revos: {{client_secret: "{OTHER_SECRET}", [',
    }.items():
        evidence.during = f"{name}: "
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o644)
        paths = {"env_file": tmp_path / name} if name == ".env" else {"path": tmp_path / name}
        keep_blocking(evidence, partial(load_config, **({"env_file": None} | paths), environ={}))
    return []


def load_config_from(evidence, environ):
    load_config(env_file=None, environ=environ())


# Requests to the gateway.


@asynccontextmanager
async def a_gateway(evidence, **settings):
    async with serve_gateway() as gateway:
        gateway.client_secret = SECRET
        async with TokenManager(gateway.config(max_retries=1, **settings)) as tm:
            token = await tm.refresh()
            evidence.add("repr", token)
            evidence.add_pickle(token)
            yield gateway, tm
            look_at(tm, evidence)


async def refused_requests(evidence, tmp_path, monkeypatch):
    evidence.during = "refused: "
    async with a_gateway(evidence) as (gateway, tm):
        gateway.refuse_all = True
        url = f"{gateway.base_url}/models"
        for library in (httpx, httpx2):
            async with library.AsyncClient(auth=tm.auth) as client:
                await client.get(url)
                gateway.fail_next(9, status=401, body={"error": "invalid_client"})
                await client.get(url)
                gateway.token_script.clear()
                await client.get(f"http://localhost:{url.split(':')[2]}")
                await client.get(f"{gateway.base_url}/redirect?to=/echo", follow_redirects=True)
            await to_thread.run_sync(send_from_a_thread, library, tm, url)
        evidence.during = "no token for a request: "
        gateway.outage = True
        tm.invalidate()
        for library in (httpx, httpx2):
            async with library.AsyncClient(auth=tm.auth) as client:
                await keep(evidence, partial(client.get, url))
        await to_thread.run_sync(ask_from_a_thread, evidence, tm, url)
    evidence.during = "closed: "
    async with httpx.AsyncClient(auth=tm.auth) as client:
        await keep(evidence, partial(client.get, url))
        await keep(evidence, tm.refresh)
    return list(gateway._tokens)


def send_from_a_thread(library, tm, url):
    with library.Client(auth=tm.auth) as client:
        client.get(url)


def ask_from_a_thread(evidence, tm, url):
    with httpx.Client(auth=tm.auth) as client:
        keep_blocking(evidence, partial(client.get, url))


BROKEN_API = {
    "API, nothing": answering(lambda s: b""),
    "API, no HTTP": answering(lambda s: b"nonsense\r\n\r\n"),
    "API, reset": resetting(lambda s: b""),
    "API, reset in an answer": resetting(lambda s: http(200, "x" * 99)[:-9]),
    "API, reset in a refusal": resetting(lambda s: http(401, "x" * 99)[:-9]),
}


async def broken_requests(evidence, tmp_path, monkeypatch):
    server = Quoting()
    async with raw_server(server) as port:
        url = f"http://127.0.0.1:{port}/v1"
        async with a_gateway(evidence, base_url=url) as (gateway, tm):
            for library in (httpx, httpx2):
                async with library.AsyncClient(auth=tm.auth) as client:
                    get = partial(client.get, url)
                    for name, answer in BROKEN_API.items():
                        evidence.during = f"{name}: "
                        server.answer = answer
                        await keep(evidence, get)
                    evidence.during = "API, timeout: "
                    server.answer = hanging
                    await keep(evidence, partial(get, timeout=0.05))
                    evidence.during = "API, cancelled: "
                    await keep_cancelled(evidence, get, partial(anyio.sleep, 0.05))
            evidence.during = "API, reset in a refusal, thread: "
            server.answer = BROKEN_API["API, reset in a refusal"]
            await to_thread.run_sync(ask_from_a_thread, evidence, tm, url)
            evidence.during = "API, refused connection: "
            async with httpx.AsyncClient(auth=BearerAuth(tm, ["http://127.0.0.1:9"])) as client:
                await keep(evidence, partial(client.get, "http://127.0.0.1:9"))
    return list(gateway._tokens)


async def superseding(evidence, tmp_path, monkeypatch):
    """With the value of a token at hand, as whoever was refused has it."""
    evidence.during = "superseding: "
    async with a_gateway(evidence) as (gateway, tm):
        value = await tm.get_token()
        gateway.outage = True
        await keep(evidence, Hidden(tm.refresh, value))
        tokens = [value]
    await keep(evidence, Hidden(tm.refresh, value))
    keep_blocking(evidence, partial(invalidate, tm, Hidden(None, value)))
    evidence.during = "expired: "
    clock = ManualClock()
    async with serve_gateway() as gateway, TokenManager(gateway.config(), _clock=clock) as tm:
        tokens.append(await tm.get_token())
        clock.now_monotonic += 3600
        keep_blocking(evidence, tm.get_token_nowait)
    evidence.during = "superseding without a loop: "
    async with serve_gateway() as gateway:
        await to_thread.run_sync(supersede_from_a_thread, evidence, gateway, tokens)
    return tokens


class Hidden:
    """A call with the value of a token, which its own frame does not hold."""

    def __init__(self, call, value):
        self.call, self.values = call, [value]

    def __call__(self):
        return self.call(superseding=self.values.pop())

    def __repr__(self):
        return "<Hidden>"


def invalidate(tm, hidden):
    tm.invalidate(hidden.values.pop())


def supersede_from_a_thread(evidence, gateway, tokens):
    with blocking.TokenManager(gateway.config(max_retries=1)) as tm:
        tokens.append(tm.get_token())
        gateway.outage = True
        keep_blocking(evidence, Hidden(tm.refresh, tokens[-1]))
        evidence.add_pickle(tm)
        evidence.add("repr", tm)
    keep_blocking(evidence, partial(invalidate, tm, Hidden(None, tokens[-1])))
    keep_blocking(evidence, tm.get_token_nowait)


def said_by_the_gateway(token):
    """Answers of a gateway that has the token in all of them."""
    said = f"I refuse {token} in Bearer {token}"
    error = {"error": {"message": said, "code": said, "type": said, "param": said}}
    forbids = {"www-authenticate": 'Bearer error="insufficient_scope"', "x-request-id": said}
    message = {"content": said}
    fits_not = {"content": json.dumps({"name": token, "age": token})}
    call = {"id": "1", "type": "function", "function": {"name": "Person", "arguments": said}}
    return {
        **{
            f"gateway, {status}": Answer(status=status, body=error, headers=forbids)
            for status in (400, 401, 403, 404, 422, 429, 500, 503)
        },
        "gateway, html": Answer(status=502, body=f"<p>{said}</p>".encode()),
        "gateway, echo": Answer(body={"headers": {"authorization": f"Bearer {token}"}}),
        "gateway, no JSON": Answer(body=said.encode()),
        "gateway, no choices": Answer(body=completion(message) | {"choices": None}),
        "gateway, cut off": Answer(body=completion(message, "length")),
        "gateway, held back": Answer(body=completion(message, "content_filter")),
        "gateway, no answer": Answer(body=completion({})),
        "gateway, token as the answer": Answer(body=completion(message)),
        "gateway, token in the answer": Answer(body=completion(fits_not)),
        "gateway, token in a call": Answer(body=completion({"tool_calls": [call]})),
    }


async def extractions(evidence, tmp_path, monkeypatch):
    async with a_gateway(evidence) as (gateway, tm), tm.extractor("gpt-4") as gpt4:
        extract = partial(gpt4.extract, Person, PROMPT, text="Ada, 36")
        evidence.add("repr", gpt4.llm)
        evidence.add_pickle(gpt4)
        evidence.add_pickle(gpt4.llm)
        for name, answer in said_by_the_gateway(await tm.get_token()).items():
            evidence.during = f"{name}: "
            gateway.chat_script.extend([answer] * 2)
            await keep(evidence, extract)
            gateway.chat_script.clear()
        evidence.during = "models with the token: "
        gateway.models = (await tm.get_token(),)
        await keep(evidence, extract)
        evidence.during = "extraction, refused: "
        gateway.refuse_all = True
        await keep(evidence, extract)
        await keep(evidence, tm.list_models)
        evidence.during = "extraction, no token: "
        gateway.outage = True
        tokens = list(gateway._tokens)
        tm.invalidate()
        await keep(evidence, extract)
    evidence.during = "extraction, closed: "
    await keep(evidence, extract)
    return tokens


async def broken_extractions(evidence, tmp_path, monkeypatch):
    server = Quoting()
    async with raw_server(server) as port:
        url = f"http://127.0.0.1:{port}/v1"
        async with a_gateway(evidence, base_url=url) as (gateway, tm), tm.extractor("gpt-4") as ex:
            extract = partial(ex.extract, Person, PROMPT, text="Ada, 36")
            answers = BROKEN_API | {
                "API, all quoted": answering(
                    lambda s: http(500, s, "text/html", x_said=on_one_line(s))
                ),
                "API, all quoted, reset": resetting(lambda s: http(401, s)[:-9]),
                "API, all quoted, no HTTP": answering(lambda s: on_one_line(s).encode()),
            }
            for name, answer in answers.items():
                evidence.during = f"extraction, {name}: "
                server.answer = answer
                await keep(evidence, extract)
                await keep(evidence, tm.list_models)
            evidence.during = "extraction, cancelled: "
            server.answer = hanging
            await keep_cancelled(evidence, extract, partial(anyio.sleep, 0.05))
    return list(gateway._tokens)


FAILURES = (
    bad_answers,
    tls_failures,
    proxies,
    credential_files,
    unexpected_exceptions,
    configurations,
    refused_requests,
    broken_requests,
    superseding,
    extractions,
    broken_extractions,
)
# The errors of a client of the user's own: httpx keeps the request, whose repr hides the header and
# whose pickle takes it along.
OF_OWN_CLIENTS = {
    f"{name}: exception pickle"
    for name in (
        *BROKEN_API,
        "API, timeout",
        "API, refused connection",
        "API, reset in a refusal, thread",
    )
}
# That end well, or in the gateway's own answer.
NO_EXCEPTION = {*GOOD_ANSWERS, "refused"}
LOGGERS = {"revos", "httpx", "httpx2", "httpcore", "httpcore2", "openai"}


async def test_no_failure_leaves_a_secret_anywhere(tmp_path, monkeypatch):
    assert revos.extraction.chat  # Loaded before, or their loggers would not be at DEBUG.
    found = []

    with gathered() as evidence:
        for failures in FAILURES:
            found += await failures(evidence, tmp_path, monkeypatch)
        evidence.add_objects_of("revos", but="revos.testing")

    whole = [place.partition(": ") for place, _ in evidence.texts]
    provoked = {name for name, colon, _ in whole if colon}
    assert provoked - {name for name, _, where in whole if "exception" in where} == NO_EXCEPTION
    assert {where.split()[1].split(".")[0] for *_, where in whole if "log " in where} >= LOGGERS
    assertion = [a for form in found for a in parse_qs(form).get("client_assertion", ())][-1]
    tokens = [one for one in found if one and "=" not in one]
    secrets = {SECRET, OTHER_SECRET, TOKEN, PASSWORD, *KEY_LINES[2:5], assertion, *tokens}
    assert evidence.places_of(*secrets) == OF_OWN_CLIENTS
