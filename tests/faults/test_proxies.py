"""Token requests by a proxy that the environment names."""

import contextlib

import anyio
import httpx
import httpx2
import pytest
import trustme
from evidence import gathered
from sockets import (
    GONE,
    ConnectProxy,
    RawEndpoint,
    closed_port,
    http_answer,
    over_tls,
    raw_server,
    then_closed,
)
from support import CLIENT_SECRET, ManualClock, manager_at, outcome_over_sockets

from revos import RevosAuthenticationError
from revos.clients import ConnectionGuard, make_client

ELSEWHERE = "https://auth.example/token"
AUTHORITY = trustme.CA()
USER, PASSWORD = "pr0xy-user", "pa55w0rd-of-the-proxy"


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_a_tunnel_brings_the_token_and_shows_the_proxy_no_secret(
    monkeypatch, ca_file, variable
):
    clock = ManualClock()
    endpoint = RawEndpoint(clock=clock)
    server = over_tls(endpoint, AUTHORITY.issue_cert("auth.example"))

    async with raw_server(server) as port:
        proxy = ConnectProxy(port)
        async with raw_server(proxy) as proxy_port:
            monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy_port}")
            async with manager_at(ELSEWHERE, clock, ca_file=ca_file) as tm:
                token = await outcome_over_sockets(tm, clock)

    assert token == "token-1"
    assert proxy.asked[0].startswith(b"CONNECT auth.example:443 HTTP/1.1\r\n")
    assert b"authorization" not in proxy.asked[0].lower()
    assert len(endpoint.requests) == 1


async def test_a_certificate_for_another_host_behind_a_tunnel_is_told(monkeypatch, ca_file):
    clock = ManualClock()
    endpoint = RawEndpoint(clock=clock)
    server = over_tls(endpoint, AUTHORITY.issue_cert("another.example"))

    async with raw_server(server) as port, raw_server(ConnectProxy(port)) as proxy_port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy_port}")
        async with manager_at(ELSEWHERE, clock, ca_file=ca_file, max_retries=1) as tm:
            error = await outcome_over_sockets(tm, clock)

    assert "certificate is not valid for 'auth.example'" in str(error)
    assert endpoint.accepted == 0


@pytest.mark.parametrize("exempt", ["auth.example", ".example", "*"])
async def test_what_no_proxy_names_goes_by_none(monkeypatch, exempt):
    clock = ManualClock()
    proxy = RawEndpoint(clock=clock)

    async with raw_server(proxy) as proxy_port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy_port}")
        monkeypatch.setenv("NO_PROXY", exempt)
        async with manager_at("https://auth.example:1/token", clock, max_retries=1) as tm:
            with anyio.move_on_after(0.2):  # Nobody knows that name, or who has it may be slow.
                await outcome_over_sockets(tm, clock)

    assert proxy.accepted == 0


REFUSALS = {
    "407": (http_answer(b"", "407 Proxy Authentication Required"), "ProxyError: 407 Proxy Auth"),
    "403": (http_answer(b"<html>", "403 Forbidden"), "ProxyError: 403 Forbidden"),
    "502": (http_answer(b"", "502 Bad Gateway"), "ProxyError: 502 Bad Gateway"),
    "302": (http_answer(b"", "302 Found", "Location: http://127.0.0.1:9/"), "ProxyError: 302 Fou"),
    "no answer": (then_closed(b""), "disconnected"),
    "garbage": (then_closed(b"SSH-2.0-OpenSSH_9.7\r\n\r\n"), "illegal status line"),
}


@pytest.mark.parametrize(("answer", "words"), REFUSALS.values(), ids=REFUSALS)
async def test_a_proxy_that_refuses_is_named_and_its_password_is_not(monkeypatch, answer, words):
    clock = ManualClock()
    proxy = RawEndpoint([answer] * 3, clock)

    async with raw_server(proxy) as proxy_port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{USER}:{PASSWORD}@127.0.0.1:{proxy_port}")
        with gathered() as evidence:
            async with manager_at(ELSEWHERE, clock) as tm:
                error = await outcome_over_sockets(tm, clock)
                evidence.add("status", tm.status)
                evidence.add_error(error)

    assert type(error) is RevosAuthenticationError
    assert (error.attempts, error.status_code, error.temporary) == (3, None, True)
    assert proxy.pauses == [0.75, 1.5]
    assert words in str(error)
    assert "check token_url, network, proxy" in str(error)
    assert b"\r\nproxy-authorization: basic " in proxy.requests[0].lower()
    assert evidence.places_of(PASSWORD) == set()
    assert evidence.places_of(CLIENT_SECRET) == set()


async def test_a_proxy_that_is_not_there_is_named(monkeypatch):
    clock = ManualClock()
    monkeypatch.setenv("HTTPS_PROXY", f"http://{USER}:{PASSWORD}@127.0.0.1:{closed_port()}")

    async with manager_at(ELSEWHERE, clock, max_retries=1) as tm:
        error = await outcome_over_sockets(tm, clock)

    assert "no answer (ConnectError: " in str(error)
    assert "check token_url, network, proxy" in str(error)
    assert PASSWORD not in str(error)


async def test_a_proxy_that_serves_again_heals(monkeypatch, ca_file):
    clock = ManualClock()
    endpoint = RawEndpoint(clock=clock)
    server = over_tls(endpoint, AUTHORITY.issue_cert("auth.example"))

    async with raw_server(server) as port:
        handlers = [RawEndpoint([http_answer(b"", "502 No")], clock), ConnectProxy(port)]

        async def serve(stream):
            await handlers.pop(0)(stream)

        async with raw_server(serve) as proxy_port:
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy_port}")
            async with manager_at(ELSEWHERE, clock, ca_file=ca_file) as tm:
                token = await outcome_over_sockets(tm, clock)

    assert (token, endpoint.count) == ("token-1", 1)


@pytest.mark.parametrize(
    ("status", "words", "attempts"),
    [
        ("407 Proxy Authentication Required", "(HTTP 407): it is a proxy that refused: check", 1),
        ("502 Bad Gateway", "did not serve client id 'client-7' (HTTP 502)", 3),
    ],
)
async def test_without_tls_the_answer_of_a_proxy_is_all_that_comes(
    monkeypatch, status, words, attempts
):
    clock = ManualClock()
    proxy = RawEndpoint([http_answer(b"", status)] * attempts, clock)

    async with raw_server(proxy) as proxy_port:
        monkeypatch.setenv("HTTP_PROXY", f"http://{USER}:{PASSWORD}@127.0.0.1:{proxy_port}")
        url = "http://auth.example/token"
        async with manager_at(url, clock, allow_insecure_http=True) as tm:
            error = await outcome_over_sockets(tm, clock)
            clock.turn(error.retry_after)
            token = await tm.get_token()

    assert proxy.requests[0].startswith(b"POST http://auth.example/token HTTP/1.1\r\n")
    assert words in str(error)
    assert (error.attempts, proxy.count) == (attempts, attempts + 1)
    assert PASSWORD not in str(error)
    assert token == f"token-{attempts + 1}"


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda library: library.__name__)
async def test_a_request_cancelled_in_the_tls_handshake_of_a_tunnel_closes_the_connection(
    monkeypatch, library
):
    """Else it would stay open as long as the client, which for the gateway is the manager's."""
    began, ended = anyio.Event(), anyio.Event()

    async def tunnel(stream):
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await stream.receive()
            began.set()
            with contextlib.suppress(*GONE):
                await stream.receive()
            ended.set()

    async def send(http):
        await http.get("https://auth.example/", extensions={"trace": ConnectionGuard()})

    async with raw_server(tunnel) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        async with (
            make_client(library.AsyncClient, ["https://auth.example/"], None) as http,
            anyio.create_task_group() as tasks,
        ):
            with anyio.fail_after(5, shield=True):
                tasks.start_soon(send, http)
                await began.wait()
                tasks.cancel_scope.cancel()
                await ended.wait()
