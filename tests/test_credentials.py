"""Where the two ways to authenticate get their credentials from."""

from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support import TOKEN_URL, ScriptedEndpoint, config, manager

from revos import RevosConfigurationError
from revos.credentials import credential_sources
from revos.policy import Way


def ways(**gateway):
    return credential_sources(config(**gateway).revos)


def secret_in(path):
    return ways(client_secret=None, client_secret_file=str(path))[Way.PRIMARY].read(set()).secret


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"s3cret", "s3cret"),
        (b"s3cret\n", "s3cret"),
        (b"s3cret\r\n", "s3cret"),
        (b" s3cret \n\n", " s3cret \n"),
        (b"s3\rcr\r\net\r", "s3\rcr\r\net\r"),
        ("gehéim\n".encode(), "gehéim"),
    ],
)
def test_a_secret_file_loses_one_newline_at_its_end_and_nothing_else(tmp_path, content, secret):
    path = tmp_path / "secret"
    path.write_bytes(content)

    assert secret_in(path) == secret


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "is empty"), (b" \r\n", "is empty"), (b"s3cret\xff", "is not UTF-8 text")],
)
def test_a_secret_file_that_is_no_secret_is_an_error_without_what_it_holds(
    tmp_path, content, problem
):
    path = tmp_path / "secret"
    path.write_bytes(content)

    with pytest.raises(RevosConfigurationError, match=problem) as caught:
        secret_in(path)

    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("settings", "pair"),
    [
        ({}, ("primary", None)),
        ({"fallback_client_secret": "own"}, ("own", None)),
        ({"fallback_client_secret_file": "own"}, (None, "own")),
        ({"client_secret": None, "client_secret_file": "primary"}, (None, "primary")),
        (
            {
                "client_secret": None,
                "client_secret_file": "primary",
                "fallback_client_secret": "own",
            },
            ("own", None),
        ),
    ],
)
def test_a_fallback_with_a_secret_of_its_own_takes_nothing_of_the_primarys(settings, pair):
    both = {"client_secret": "primary", "fallback_auth_method": "client_secret_basic"} | settings
    fallback = ways(**both)[Way.FALLBACK]

    assert (fallback.secret, fallback.secret_file) == pair


@pytest.mark.parametrize("name", ["fallback_client_secret", "fallback_client_secret_file"])
def test_a_way_that_signs_has_no_use_for_a_secret(name):
    signing = {
        "auth_method": "private_key_jwt",
        "fallback_auth_method": "private_key_jwt",
        "private_key_file": "key.pem",
    }

    assert set(ways(**signing, **{name: "another"})) == {Way.PRIMARY}


def test_a_way_with_a_secret_does_not_read_the_key():
    settings = {"private_key_file": "/nowhere/key.pem", "client_secret": "s3cret"}

    assert ways(**settings)[Way.PRIMARY].read(set()).secret == "s3cret"


def test_a_fallback_that_signs_needs_a_key_and_no_secret():
    signing = {"fallback_auth_method": "private_key_jwt"}

    assert set(ways(**signing)) == {Way.PRIMARY}
    assert set(ways(**signing, private_key_file="key.pem")) == {Way.PRIMARY, Way.FALLBACK}


NAMED = {"private_key_id": "key-7", "assertion_audience": "https://audience.example/"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [({}, (None, TOKEN_URL)), (NAMED, ("key-7", "https://audience.example/"))],
    ids=["by default", "named"],
)
async def test_each_attempt_signs_an_assertion_with_an_id_of_its_own(tmp_path, settings, told):
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    path = tmp_path / "key.pem"
    path.write_bytes(key)
    endpoint = ScriptedEndpoint()

    async with manager(
        endpoint,
        auth_method="private_key_jwt",
        private_key_file=str(path),
        assertion_algorithm="ES256",
        **settings,
    ) as tm:
        for _ in range(3):
            await tm.get_token(force_refresh=True)

    assertions = [
        parse_qs(request.content.decode())["client_assertion"][0] for request in endpoint.requests
    ]
    claims = [jwt.decode(one, options={"verify_signature": False}) for one in assertions]
    assert len({one["jti"] for one in claims}) == endpoint.count >= 3
    kids = {jwt.get_unverified_header(one).get("kid") for one in assertions}
    assert (kids, {one["aud"] for one in claims}) == ({told[0]}, {told[1]})
