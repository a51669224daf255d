"""Certificates that can't be trusted, and what is no TLS at all: the error says why, and no byte of
the request is sent.
"""

import contextlib
import datetime as dt
import ipaddress
import tempfile

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sockets import GONE, RawEndpoint, http_answer, over_tls, raw_server, then_closed, then_reset
from support import ManualClock, manager_at, outcome_over_sockets

from revos import RevosAuthenticationError

DAY = dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC)
AUTHORITY, STRANGER = trustme.CA(), trustme.CA()
GOOD = AUTHORITY.issue_cert("127.0.0.1")


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    return str(path)


BEHAVIOURS = {
    "answers": then_closed(http_answer(b"Plain HTTP only", "400 Bad Request")),
    "resets": then_reset(),
    "closes": then_closed(b""),
}


class SelfSigned:
    """A certificate and its key, as `over_tls` takes one."""

    def __init__(self):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - DAY, NOW + DAY)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.pem = certificate.public_bytes(Encoding.PEM) + key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )

    def configure_cert(self, context):
        with tempfile.NamedTemporaryFile() as file:
            file.write(self.pem)
            file.flush()
            context.load_cert_chain(file.name)


def chain_of(error):
    link = error.__cause__
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def assert_says_why(error, words, port):
    assert type(error) is RevosAuthenticationError
    assert (error.attempts, error.status_code, error.temporary) == (1, None, True)
    assert f"https://127.0.0.1:{port}/token gave client id 'client-7' no answer" in str(error)
    assert words in str(error)
    assert "check token_url, network, proxy and, for TLS, ca_file" in str(error)
    assert any(words in str(link) for link in chain_of(error))


CERTIFICATES = {
    "expired": (
        AUTHORITY.issue_cert("127.0.0.1", not_before=NOW - 9 * DAY, not_after=NOW - DAY),
        "certificate has expired",
    ),
    "not yet valid": (
        AUTHORITY.issue_cert("127.0.0.1", not_before=NOW + DAY, not_after=NOW + 9 * DAY),
        "certificate is not yet valid",
    ),
    "for another host": (
        AUTHORITY.issue_cert("auth.example"),
        "certificate is not valid for '127.0.0.1'",
    ),
    "of an unknown authority": (
        STRANGER.issue_cert("127.0.0.1"),
        "unable to get local issuer certificate",
    ),
}


@pytest.mark.parametrize(("certificate", "words"), CERTIFICATES.values(), ids=CERTIFICATES)
async def test_a_certificate_that_cannot_be_trusted_is_named_and_nothing_is_sent(
    certificate, words, ca_file
):
    clock = ManualClock()
    endpoint = RawEndpoint(clock=clock)
    certificates = [certificate, GOOD]

    async def serve(stream):
        await over_tls(endpoint, certificates.pop(0))(stream)

    async with raw_server(serve) as port:
        url = f"https://127.0.0.1:{port}/token"
        async with manager_at(url, clock, max_retries=1, ca_file=ca_file) as tm:
            error = await outcome_over_sockets(tm, clock)
            asked = endpoint.accepted
            clock.turn(error.retry_after)
            token = await tm.get_token()

    assert_says_why(error, words, port)
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    assert asked == 0
    assert token == "token-1"


async def test_a_certificate_that_its_own_key_has_signed_is_named(ca_file):
    """It is what a server made with `openssl req -x509`."""
    clock = ManualClock()
    endpoint = RawEndpoint(clock=clock)

    async with raw_server(over_tls(endpoint, SelfSigned())) as port:
        url = f"https://127.0.0.1:{port}/token"
        async with manager_at(url, clock, max_retries=1, ca_file=ca_file) as tm:
            error = await outcome_over_sockets(tm, clock)

    assert_says_why(error, "self-signed certificate", port)
    assert endpoint.accepted == 0


async def test_a_ca_file_that_is_gone_later_is_not_missed_after_a_failure(tmp_path):
    clock, path = ManualClock(), tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    endpoint = RawEndpoint([http_answer(b"", "400 Bad Request")], clock)

    async with raw_server(over_tls(endpoint, GOOD)) as port:
        url = f"https://127.0.0.1:{port}/token"
        async with manager_at(url, clock, max_retries=1, ca_file=str(path)) as tm:
            error = await outcome_over_sockets(tm, clock)
            path.unlink()
            clock.turn(error.retry_after)
            token = await tm.get_token()

    assert token == "token-2"


async def test_a_fallback_over_tls_is_trusted_where_the_first_way_needs_no_tls(ca_file):
    clock, endpoint = ManualClock(), RawEndpoint()
    refusing = RawEndpoint([http_answer(b"", "400 Bad Request")])

    async with raw_server(refusing) as port, raw_server(over_tls(endpoint, GOOD)) as tls_port:
        fallback = {
            "fallback_auth_method": "client_secret_basic",
            "fallback_token_url": f"https://127.0.0.1:{tls_port}/token",
        }
        async with manager_at(port, clock, max_retries=1, ca_file=ca_file, **fallback) as tm:
            token = await tm.get_token()

    assert token == "token-1"
    assert endpoint.methods == ["basic"]


async def test_without_a_ca_file_the_authorities_of_the_system_decide():
    clock = ManualClock()
    endpoint = RawEndpoint(clock=clock)

    async with (
        raw_server(over_tls(endpoint, GOOD)) as port,
        manager_at(f"https://127.0.0.1:{port}/token", clock, max_retries=1) as tm,
    ):
        error = await outcome_over_sockets(tm, clock)

    assert_says_why(error, "certificate", port)
    assert endpoint.accepted == 0


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [("answers", "[SSL: "), ("resets", "reset by peer"), ("closes", "")],
)
async def test_what_speaks_no_tls_is_told(ca_file, behaviour, words):
    clock, heard = ManualClock(), []

    async def serve(stream):
        with contextlib.suppress(*GONE):
            async with stream:
                heard.append(await stream.receive())
                await BEHAVIOURS[behaviour](stream)

    async with raw_server(serve) as port:
        url = f"https://127.0.0.1:{port}/token"
        async with manager_at(url, clock, max_retries=1, ca_file=ca_file) as tm:
            error = await outcome_over_sockets(tm, clock)

    assert_says_why(error, words, port)
    assert len(heard) == 1
    assert b"POST" not in heard[0]
    assert b"client" not in heard[0]


async def test_plain_http_to_a_port_of_tls_is_told(ca_file):
    clock = ManualClock()
    endpoint = RawEndpoint(clock=clock)

    async with (
        raw_server(over_tls(endpoint, GOOD)) as port,
        manager_at(port, clock, max_retries=1) as tm,
    ):
        error = await outcome_over_sockets(tm, clock)

    assert (error.status_code, error.attempts, error.temporary) == (None, 1, True)
    assert "no answer (" in str(error)
    assert "check token_url" in str(error)
    assert endpoint.accepted == 0
