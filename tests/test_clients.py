"""How HTTP clients are made: which proxies they use, which certificates they trust."""

from __future__ import annotations

import contextlib

import httpx
import httpx2
import pytest
import trustme
from sockets import raw_server
from support import config

from revos import RevosAuthenticationError, RevosConfigurationError, TokenManager
from revos.clients import make_client
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


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "nonsense://user:pa55@127.0.0.1:9"])
async def test_a_proxy_that_cannot_be_used_is_a_configuration_error_on_entering(monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)

    with pytest.raises(RevosConfigurationError, match="ALL_PROXY") as caught:
        async with TokenManager(config()):
            pytest.fail("entered")

    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_an_unusable_ca_file_is_a_configuration_error_on_entering(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    settings = config(token_url="https://127.0.0.1:9/token", ca_file=str(path))

    with pytest.raises(RevosConfigurationError, match="REVOS_CA_FILE"):
        async with TokenManager(settings):
            pytest.fail("entered")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_certificates_of_ca_file_are_trusted_and_others_are_not(tmp_path, host):
    import ssl

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


@pytest.mark.parametrize("kind", [httpx.AsyncClient, httpx2.AsyncClient, httpx2.Client])
def test_every_kind_of_client_is_made_alike(kind):
    client = make_client(kind, ["https://gateway.example/v1"], None)

    assert client.timeout is not None
