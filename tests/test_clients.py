"""How HTTP clients are made: which proxies they use, which certificates they trust."""

from __future__ import annotations

import contextlib
import ssl
import sys
import traceback

import anyio
import httpx
import httpx2
import pytest
import trustme
from sockets import raw_server
from support import ScriptedEndpoint, config, manager

from revos import RevosAuthenticationError, RevosConfigurationError, TokenManager
from revos.clients import make_client, ssl_context_for
from revos.testing import Gateway, serve_gateway


@contextlib.asynccontextmanager
async def proxy_that_refuses():
    """A port that answers 407 to everything, and what it was asked."""
    asked = []

    async def refuse(stream):
        async with stream:
            asked.append(await stream.receive())
            await stream.send(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async with raw_server(refuse) as port:
        yield f"http://127.0.0.1:{port}", asked


async def test_a_secret_for_loopback_does_not_leave_by_a_proxy(monkeypatch):
    async with proxy_that_refuses() as (proxy, asked), serve_gateway() as gateway:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        async with TokenManager(gateway.config()) as tm, tm.extractor("gpt-4"):
            await tm.get_token()
            assert await tm.list_models() == list(gateway.models)

    assert asked == []


async def test_a_token_request_to_elsewhere_goes_by_the_proxy_of_the_environment(monkeypatch):
    async with proxy_that_refuses() as (proxy, asked):
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        elsewhere = config(token_url="https://auth.example/token", max_retries=1)
        async with TokenManager(elsewhere) as tm:
            with pytest.raises(RevosAuthenticationError):
                await tm.get_token()

    assert asked[0].startswith(b"CONNECT auth.example:443")


PROXIES = pytest.mark.parametrize(
    "proxy",
    [
        "socks5://user:pa55@127.0.0.1:9",
        "nonsense://user:pa55@127.0.0.1:9",
        "http://user:pa55/word@127.0.0.1:9",
        "http://user:pa55\x01@127.0.0.1:9",
    ],
)


@PROXIES
async def test_a_proxy_that_cannot_be_used_is_a_configuration_error_on_entering(monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)

    with pytest.raises(RevosConfigurationError, match="ALL_PROXY") as caught:
        async with TokenManager(config()):
            pytest.fail("entered")

    assert "pa55" not in "".join(traceback.format_exception(caught.value))


@PROXIES
async def test_a_proxy_that_cannot_be_used_for_models_is_the_error_of_the_extractor(
    monkeypatch, proxy
):
    async with manager(ScriptedEndpoint()) as tm:
        monkeypatch.setenv("ALL_PROXY", proxy)
        with pytest.raises(RevosConfigurationError, match="ALL_PROXY") as caught:
            await tm.list_models()
        assert await tm.get_token() == "token-1"

    assert "pa55" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_an_unusable_ca_file_is_a_configuration_error_on_entering(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    settings = config(token_url="https://127.0.0.1:9/token", ca_file=str(path))

    with pytest.raises(RevosConfigurationError, match="REVOS_CA_FILE") as caught:
        async with TokenManager(settings):
            pytest.fail("entered")

    assert "During handling" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_certificates_of_ca_file_are_trusted_and_others_are_not(tmp_path, host):
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(server_side)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))

    async with serve_gateway(Gateway(), host=host, ssl=server_side) as gateway:
        async with TokenManager(gateway.config(ca_file=str(ca_file))) as tm:
            assert gateway.accepts(await tm.get_token())
            assert await tm.list_models() == list(gateway.models)
        async with TokenManager(gateway.config(max_retries=1)) as tm:
            with pytest.raises(RevosAuthenticationError, match="ca_file"):
                await tm.get_token()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets")
async def test_a_handshake_that_fails_on_a_unix_socket_is_a_failure_like_others(tmp_path):
    path = tmp_path / "socket"
    settings = config(token_url="https://auth.example/token", max_retries=1)

    async def hang_up(stream):
        await stream.aclose()

    async with (
        await anyio.create_unix_listener(path) as listener,
        anyio.create_task_group() as tasks,
        httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as http,
    ):
        tasks.start_soon(listener.serve, hang_up)
        async with TokenManager(settings, http_client=http) as tm:
            with pytest.raises(RevosAuthenticationError, match="no answer"):
                await tm.get_token()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["by-another-authority", "for-another-host"])
async def test_with_ca_file_no_other_certificate_is_trusted(tmp_path, monkeypatch, name):
    ours, theirs = trustme.CA(), trustme.CA()
    issued = {
        "by-another-authority": theirs.issue_cert("127.0.0.1"),
        "for-another-host": ours.issue_cert("localhost.example"),
    }
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued[name].configure_cert(server_side)
    ours.cert_pem.write_to_path(str(tmp_path / "ours.pem"))
    theirs.cert_pem.write_to_path(str(tmp_path / "theirs.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "theirs.pem"))

    async with serve_gateway(Gateway(), ssl=server_side) as gateway:
        settings = gateway.config(ca_file=str(tmp_path / "ours.pem"), max_retries=1)
        async with TokenManager(settings) as tm:
            with pytest.raises(RevosAuthenticationError, match="ca_file"):
                await tm.get_token()

    assert gateway.token_requests == 0


def test_a_client_for_a_url_in_capitals_has_the_usual_authorities():
    context = ssl_context_for(["http://127.0.0.1:9/token", "HTTPS://gateway.example"], None)

    assert context.cert_store_stats()["x509_ca"] > 0


def test_a_client_for_plain_http_trusts_no_certificate():
    context = ssl_context_for(["http://127.0.0.1:9/token"], None)

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.get_ca_certs() == []


@pytest.mark.parametrize("kind", [httpx.AsyncClient, httpx2.AsyncClient, httpx2.Client])
def test_every_kind_of_client_is_made_alike(kind):
    client = make_client(kind, ["https://gateway.example/v1"], None)

    assert client.timeout is not None


def raising(error):
    def make(**options):
        raise error

    return make


@pytest.mark.parametrize(
    ("error", "is_socks"), [(ImportError("socksio"), True), (ValueError("scheme"), False)]
)
def test_only_where_a_package_is_missing_it_is_the_remedy(error, is_socks):
    with pytest.raises(RevosConfigurationError, match="ALL_PROXY") as caught:
        make_client(raising(error), ["https://gateway.example/v1"], None)

    assert ("pip install" in str(caught.value)) is is_socks


def test_what_no_proxy_can_have_caused_is_told_as_itself():
    with pytest.raises(ZeroDivisionError):
        make_client(raising(ZeroDivisionError()), ["https://gateway.example/v1"], None)
