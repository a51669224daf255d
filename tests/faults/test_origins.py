"""P6 over real sockets: the token goes to the gateway's origin, whatever a redirect says."""

import ssl

import anyio
import httpx
import httpx2
import pytest
import trustme
from support import ScriptedApi, ScriptedEndpoint, manager

from revos import TokenManager
from revos.testing import serve, serve_gateway

# Loading the certificate authorities would take longer than these tests.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])


class Elsewhere:
    """An ASGI application that keeps what it was asked, and redirects where it is told to."""

    def __init__(self):
        self.seen = []
        self.redirect = None

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        body = b""
        more = True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        authorization = dict(scope["headers"]).get(b"authorization")
        self.seen.append((scope["method"], scope["path"], authorization, body))
        status, target = self.redirect or (401, "")
        headers = [(b"location", target.encode())] if target else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def here():
    """What the gateway is configured to be: its application and the address of its API."""
    app = Elsewhere()
    async with serve(app, host="127.0.0.1") as server:
        yield app, server


@pytest.fixture
async def there():
    """Another server on this machine, so another port."""
    app = Elsewhere()
    async with serve(app, host="127.0.0.1") as server:
        yield app, server


def tokens_of(app):
    """What `Authorization` said, request by request."""
    return [authorization for _, _, authorization, _ in app.seen]


@pytest.mark.parametrize("sent_on", [(303, "GET", b""), (307, "POST", b"x" * 9)], ids=str)
@pytest.mark.parametrize("target", ["{there}/landing", "//{netloc}/landing"])
@LIBRARIES
async def test_no_redirect_takes_the_token_to_another_port(library, here, there, sent_on, target):
    status, method, body = sent_on
    endpoint, (app, server), (other, other_server) = ScriptedEndpoint(), here, there
    netloc = other_server.url.removeprefix("http://")
    app.redirect = status, target.format(there=other_server.url, netloc=netloc)

    async with (
        manager(endpoint, base_url=f"{server.url}/v1") as tm,
        library.AsyncClient(verify=NO_TLS, auth=tm.auth, follow_redirects=True) as http,
    ):
        response = await http.post(f"{server.url}/v1/x", content=b"x" * 9)

    assert response.status_code == 401
    assert tokens_of(app) == [b"Bearer token-1"]
    assert other.seen == [(method, "/landing", None, body)]
    # What another origin refuses is no refusal of the token.
    assert endpoint.count == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{there}/x",
        "http://127.0.0.1:{here}@127.0.0.1:{there}/x",
        "http://127.0.0.1%3A{here}@127.0.0.1:{there}/x",
        "http://localhost:{here}/x",
        "http://LOCALHOST:{there}/x",
    ],
)
@LIBRARIES
async def test_another_host_or_port_gets_no_token(library, here, there, url):
    endpoint, (app, server), (other, other_server) = ScriptedEndpoint(), here, there

    async with (
        manager(endpoint, base_url=f"{server.url}/v1") as tm,
        library.AsyncClient(verify=NO_TLS, auth=tm.auth) as http,
    ):
        await http.get(url.format(here=server.port, there=other_server.port))

    assert tokens_of(app) + tokens_of(other) == [None]


@pytest.mark.parametrize(
    "url", ["http://LocalHost:{here}/x", "http://user:password@localhost:{here}/x"]
)
@LIBRARIES
async def test_the_gateway_by_another_spelling_gets_the_token(library, here, url):
    app, server = here

    async with (
        manager(ScriptedEndpoint(), base_url=f"http://localhost:{server.port}/v1") as tm,
        library.AsyncClient(verify=NO_TLS, auth=tm.auth) as http,
    ):
        await http.get(url.format(here=server.port))

    assert tokens_of(app) == [b"Bearer token-1", b"Bearer token-2"]


@pytest.mark.parametrize(
    ("url", "is_ours"),
    [
        ("https://MÜNCHEN.example/x", True),
        ("https://xn--mnchen-3ya.example:443/x", True),
        ("https://xn--mnchen-3ya.example./x", False),
        ("https://munchen.example/x", False),
        ("https://münchen.example.org/x", False),
        ("http://münchen.example/x", False),
    ],
)
@LIBRARIES
async def test_an_international_host_is_compared_as_it_is_looked_up(library, url, is_ours):
    endpoint, api = ScriptedEndpoint(), ScriptedApi()

    async with (
        manager(endpoint, base_url="https://münchen.example/v1") as tm,
        api.client(library, auth=tm.auth) as http,
    ):
        await http.get(url)

    assert api.tokens == ["token-1" if is_ours else None]


@LIBRARIES
async def test_tls_on_the_same_host_is_another_origin(library, here):
    app, server = here
    authority, secure_app = trustme.CA(), Elsewhere()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server_context)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client_context)

    async with (
        serve(secure_app, ssl=server_context) as secure,
        manager(ScriptedEndpoint(), base_url=f"{server.url}/v1") as tm,
        library.AsyncClient(verify=client_context, auth=tm.auth, follow_redirects=True) as http,
    ):
        app.redirect = 307, f"{secure.url}/landing"
        await http.get(f"{server.url}/v1/x")
        await http.get(f"{secure.url}/direct")

    assert tokens_of(app) == [b"Bearer token-1"]
    assert [seen[1:3] for seen in secure_app.seen] == [("/landing", None), ("/direct", None)]


@LIBRARIES
async def test_a_redirect_within_the_gateway_keeps_token_and_body_and_is_healed(library):
    async with (
        serve_gateway() as gateway,
        TokenManager(gateway.config()) as tm,
        library.AsyncClient(verify=NO_TLS, auth=tm.auth, follow_redirects=True) as http,
    ):
        gateway.revoke(await tm.get_token())
        url = f"{gateway.base_url}/redirect"
        with anyio.fail_after(10):
            response = await http.post(url, params={"to": "/v1/echo"}, content=b"x" * 9)

    assert response.status_code == 200
    assert (response.json()["method"], response.json()["path"]) == ("POST", "/v1/echo")
    assert gateway.token_requests == 2
