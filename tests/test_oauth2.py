"""Token requests, their answers and challenges, against the table of design section 5."""

import base64
import doctest
import json
import math
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime, formatdate
from pathlib import Path
from urllib.parse import parse_qsl, unquote_plus

import httpx
import joserfc.jwt
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import RSAKey

from revos import assertion, http_headers, oauth2
from revos.errors import RevosAuthenticationError, RevosConfigurationError
from revos.http_headers import asks_for_new_token, challenge_error, retry_after_of
from revos.oauth2 import (
    MAX_BODY,
    Credential,
    Failure,
    Grant,
    authentication_error,
    build_request,
    parse_response,
    request_failure,
    transport_failure,
)

URL = "https://auth.example/oauth/token"
SECRET = "hunter22/+ %&é"
TOKEN = "eyJhbGciOi.T0KEN-that_nobody.sees"
NOW = 1_700_000_000.0
TEN_YEARS = 10 * 365 * 86_400
METHODS = ["client_secret_post", "client_secret_basic"]
FORM = {"content-type": "application/json"}
GOOD = json.dumps({"access_token": TOKEN})


def credential(method="client_secret_post", **changes):
    return Credential(
        **{"method": method, "token_url": URL, "client_id": "app", "secret": SECRET} | changes
    )


def request(method="client_secret_post", parameters=None, **changes):
    return build_request(credential(method, **changes), parameters or {}, now=NOW, jti="1")


def form_of(sent):
    pairs = parse_qsl(sent.body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def answer(body=b"", status=200, headers=(), method="client_secret_post"):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return parse_response(
        request(method),
        "app",
        status,
        httpx.Headers(headers),
        body,
        now=NOW,
        default_lifetime=3600,
    )


def token_with(**members):
    return answer({"access_token": TOKEN, "token_type": "Bearer"} | members)


def everything_shown(failure):
    error = authentication_error(failure, attempts=1, retry_after=None)
    texts = [
        repr(failure),
        str(failure),
        failure.reason,
        repr(error),
        str(error),
        repr(vars(error)),
    ]
    while error is not None:
        assert error.__traceback__ is None
        texts += [repr(error), str(error), repr(error.args)]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


# Requests


def test_post_sends_both_in_the_form():
    sent = request(parameters={"scope": "a b", "audience": None, "resource": "urn:x"})

    assert list(form_of(sent).items()) == [
        ("grant_type", "client_credentials"),
        ("scope", "a b"),
        ("resource", "urn:x"),
        ("client_id", "app"),
        ("client_secret", SECRET),
    ]
    assert dict(sent.headers) == {
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    assert (sent.url, sent.method) == (URL, "client_secret_post")


def test_basic_sends_the_secret_in_the_header_only():
    sent = request("client_secret_basic", {"scope": "a"})

    assert form_of(sent) == {"grant_type": "client_credentials", "scope": "a"}
    assert basic_of(sent) == ["app", SECRET]


def basic_of(sent):
    scheme, value = dict(sent.headers)["Authorization"].split(" ")
    assert scheme == "Basic"
    pair = base64.b64decode(value, validate=True).decode("ascii")
    return [unquote_plus(part, errors="strict") for part in pair.split(":")]


def test_basic_is_form_encoded_first():
    sent = request("client_secret_basic", client_id="a:b c", secret="p%:ö+")

    pair = base64.b64decode(dict(sent.headers)["Authorization"].removeprefix("Basic "))
    assert pair == b"a%3Ab+c:p%25%3A%C3%B6%2B"


PROPER = st.text(st.characters(codec="utf-8"), min_size=1)


@settings(max_examples=50, deadline=None)
@given(client_id=PROPER, secret=PROPER)
def test_basic_decodes_back(client_id, secret):
    sent = request("client_secret_basic", client_id=client_id, secret=secret)

    assert basic_of(sent) == [client_id, secret]


@settings(max_examples=50, deadline=None)
@given(
    client_id=PROPER,
    secret=PROPER,
    parameters=st.dictionaries(
        PROPER.map("x_".__add__), st.none() | st.text(st.characters(codec="utf-8"))
    ),
)
def test_a_form_decodes_back(client_id, secret, parameters):
    sent = request(parameters=parameters, client_id=client_id, secret=secret)

    assert form_of(sent) == {
        "grant_type": "client_credentials",
        **{name: value for name, value in parameters.items() if value is not None},
        "client_id": client_id,
        "client_secret": secret,
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["client_secret", "grant_type", "client_assertion", "client_id"])
def test_a_standard_parameter_is_not_replaced(method, name):
    with pytest.raises(RevosConfigurationError, match=f"extra_token_params.* {name}"):
        request(method, {name: "x"})


def test_each_standard_parameter_that_would_be_replaced_is_named():
    with pytest.raises(RevosConfigurationError, match=r"must not have client_id, grant_type$"):
        request(parameters={"grant_type": "x", "scope": "a", "client_id": "y"})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("secret", [None, ""])
def test_a_missing_secret_is_an_error(method, secret):
    with pytest.raises(RevosConfigurationError, match="client_secret of client id 'app' is empty"):
        request(method, secret=secret)


def test_an_unknown_method_is_an_error_that_lists_the_known():
    with pytest.raises(RevosConfigurationError, match=r"use client_secret_post, .*private_key_jwt"):
        request("tls_client_auth")


@pytest.mark.parametrize(
    ("changes", "parameters", "named"),
    [
        ({"secret": "s3cret\udcff"}, {}, "client_secret"),
        ({"client_id": "\ud800"}, {}, "client_id"),
        ({}, {"scope": "\udfff"}, "scope"),
        ({}, {"x\udfff": "y"}, "x"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_unicode_is_an_error_without_the_text(method, changes, parameters, named):
    with pytest.raises(RevosConfigurationError, match=f"^'{named}") as caught:
        request(method, parameters, **changes)

    assert "s3cret" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("method", METHODS)
def test_a_request_knows_its_secrets_and_shows_none(method):
    sent = request(method)

    assert SECRET in sent.secrets
    assert all(secret for secret in sent.secrets)
    assert repr(sent) == f"TokenRequest(url='{URL}', method='{method}')"
    assert "hunter" not in repr(credential(method, private_key="hunter22"))


def test_basic_knows_its_header_as_a_secret():
    sent = request("client_secret_basic")
    header = dict(sent.headers)["Authorization"]

    assert {header, header.removeprefix("Basic ")} <= set(sent.secrets)


def test_a_further_parameter_is_a_secret_from_sixteen_characters_on():
    sent = request(parameters={"api_key": "k" * 16, "version": "v" * 15, "scope": "s" * 16})

    assert "k" * 16 in sent.secrets
    assert {"v" * 15, "s" * 16}.isdisjoint(sent.secrets)


def test_a_query_of_the_url_is_sent_but_not_shown():
    asked = credential(token_url=URL + "?key=1")

    sent = build_request(asked, {}, now=NOW, jti="1")
    assert sent.url == URL + "?key=1"
    assert "key=1" not in repr(asked) + repr(sent)
    failure = parse_response(sent, "app", 500, {}, b"", now=NOW, default_lifetime=1)
    assert "key=1" not in failure.reason


# private_key_jwt


def pem_of(key, encryption=None):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        encryption or serialization.NoEncryption(),
    ).decode()


@pytest.fixture(scope="module")
def keys():
    return {
        "RS256": rsa.generate_private_key(65537, 2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }


def signed(key, algorithm="RS256", *, now=NOW, jti="jti-1", **changes):
    asked = credential(
        "private_key_jwt", secret=None, private_key=pem_of(key), algorithm=algorithm, **changes
    )
    return build_request(asked, {"scope": "a"}, now=now, jti=jti)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_an_assertion_is_verified_with_the_public_key(keys, algorithm):
    sent = signed(keys[algorithm], algorithm, now=NOW + 0.9, key_id="k1")

    form = form_of(sent)
    encoded = form.pop("client_assertion")
    assert form == {
        "grant_type": "client_credentials",
        "scope": "a",
        "client_id": "app",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    }
    assert "Authorization" not in dict(sent.headers)
    assert jwt.get_unverified_header(encoded) == {"alg": algorithm, "kid": "k1", "typ": "JWT"}
    claims = jwt.decode(
        encoded,
        keys[algorithm].public_key(),
        algorithms=[algorithm],
        audience=URL,
        options={"verify_exp": False, "verify_iat": False, "require": ["exp", "iat", "jti"]},
    )
    assert claims == {
        "iss": "app",
        "sub": "app",
        "aud": URL,
        "jti": "jti-1",
        "iat": int(NOW),
        "exp": int(NOW) + 55,
    }


def test_another_library_verifies_an_assertion_too(keys):
    sent = signed(keys["RS256"])

    key = RSAKey.import_key(
        keys["RS256"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    token = joserfc.jwt.decode(form_of(sent)["client_assertion"], key, algorithms=["RS256"])
    assert token.claims["sub"] == "app"
    assert "kid" not in token.header


def test_the_audience_can_be_configured(keys):
    sent = signed(keys["ES256"], "ES256", assertion_audience="https://issuer.example")

    payload = jwt.decode(form_of(sent)["client_assertion"], options={"verify_signature": False})
    assert payload["aud"] == "https://issuer.example"


def test_an_assertion_and_its_signature_are_secrets_of_the_request(keys):
    sent = signed(keys["ES256"], "ES256")

    encoded = form_of(sent)["client_assertion"]
    assert sent.secrets == (encoded, encoded.split(".")[2])


def bad_keys():
    key = ec.generate_private_key(ec.SECP256R1())
    good = pem_of(key)
    yield "not PEM", "hunter22 hunter22", "ES256"
    yield "broken", good.replace("M", "", 1), "ES256"
    yield "encrypted", pem_of(key, serialization.BestAvailableEncryption(b"pw")), "ES256"
    yield "of another kind", good, "RS256"
    yield (
        "public",
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode(),
        "ES256",
    )
    yield "with a shared key", "hunter22" * 8, "HS256"
    yield "with none", good, "none"
    yield "with an unknown algorithm", good, "RS1"


@pytest.mark.parametrize(
    ("key", "algorithm"), [pytest.param(*case[1:], id=case[0]) for case in bad_keys()]
)
def test_a_bad_key_is_an_error_without_anything_of_the_key(key, algorithm):
    with pytest.raises(RevosConfigurationError, match=r"private_key_file|assertion_algorithm") as e:
        build_request(
            credential("private_key_jwt", private_key=key, algorithm=algorithm),
            {},
            now=NOW,
            jti="1",
        )

    assert e.value.__cause__ is None
    assert e.value.__context__ is None
    assert not [line for line in key.splitlines() if line in str(e.value)]


def test_what_the_signing_library_says_of_a_key_is_not_shown(monkeypatch, keys):
    def encode(claims, key, **options):
        raise ValueError(f"can't use {key}")

    monkeypatch.setattr(jwt, "encode", encode)

    with pytest.raises(RevosConfigurationError, match=r"with ES256 \(ValueError\)") as caught:
        signed(keys["ES256"], "ES256")

    assert "PRIVATE KEY" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_missing_key_is_an_error():
    with pytest.raises(RevosConfigurationError, match=r"private_key_file of .* is empty"):
        request("private_key_jwt")


@pytest.mark.parametrize("missing", ["jwt", "cryptography"])
def test_a_missing_extra_is_an_error_that_names_it(monkeypatch, keys, missing):
    monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(RevosConfigurationError, match=r'pip install "revos\[jwt\]"'):
        signed(keys["ES256"], "ES256")


# Answers: the first row of the table


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
@pytest.mark.parametrize("body", [b"", b"<html>", {"error": "server_error"}, b"x" * (MAX_BODY + 1)])
def test_a_busy_server_may_be_asked_again(status, body):
    failure = answer(body, status, {"Retry-After": "7"})

    assert (failure.retryable, failure.temporary) == (True, True)
    assert (failure.status_code, failure.retry_after) == (status, 7.0)
    assert f"(HTTP {status}): wait" in failure.reason


def test_a_400_that_is_temporarily_unavailable_may_be_asked_again():
    failure = answer({"error": "temporarily_unavailable"}, 400)

    assert (failure.retryable, failure.error) == (True, "temporarily_unavailable")


@pytest.mark.parametrize("status", [401, 403, 200])
def test_another_status_that_is_temporarily_unavailable_is_not_asked_again(status):
    failure = answer({"error": "temporarily_unavailable"}, status)

    assert (failure.retryable, failure.error) == (False, "temporarily_unavailable")


def test_an_encoded_body_of_a_busy_server_does_not_matter():
    assert answer(b"\x1f\x8b", 503, {"Content-Encoding": "gzip"}).retryable


# The second row


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 409, 413, 422, 451, 499, 600, 99])
@pytest.mark.parametrize("body", [b"", b"<html>", {"error": "invalid_client"}, {"error": 5}, [1]])
def test_a_refusal_is_not_asked_again(status, body):
    failure = answer(body, status)

    assert (failure.retryable, failure.temporary) == (False, False)
    assert failure.status_code == status


def test_a_refusal_says_what_happened_to_whom_and_what_to_check():
    failure = answer({"error": "invalid_client"}, 401)

    assert failure.reason == (
        "the token endpoint https://auth.example/oauth/token refused client id 'app' with "
        "invalid_client (HTTP 401): check client id, client secret and authentication method "
        "client_secret_post"
    )


@pytest.mark.parametrize(
    ("status", "error", "check"),
    [
        (401, None, "check client id, client secret and authentication method client_secret_basic"),
        (400, "invalid_scope", "check scope"),
        (400, "invalid_target", "check audience and resource"),
        (400, "invalid_request", "check scope, audience, resource and extra_token_params"),
        (400, "unauthorized_client", "check that this client may use the client_credentials"),
        (400, "unsupported_grant_type", "check that token_url is right"),
        (401, "their_own", "check client id, client secret and authentication method"),
        (403, None, "check token_url, scope and the rights of this client"),
        (407, None, "it is a proxy that refused: check the one that HTTP_PROXY or ALL_PROXY names"),
        (400, "their_own", "check token_url, scope and the rights of this client"),
    ],
)
def test_each_refusal_names_what_to_check(status, error, check):
    failure = answer({"error": error}, status, method="client_secret_basic")

    assert f"(HTTP {status}): {check}" in failure.reason
    assert failure.method == "client_secret_basic"


def test_an_oauth_error_is_kept_whatever_the_content_type():
    body = {"error": "invalid_scope", "error_description": "no such scope: {x}\n\x00 sorry"}
    failure = answer(body, 400, {"Content-Type": "text/html"})

    assert failure.error == "invalid_scope"
    assert failure.error_description == "no such scope: {x} sorry"
    assert failure.reason.endswith('check scope; the server says "no such scope: {x} sorry"')


@pytest.mark.parametrize("value", [5, None, [], {}, True, "", "\x00"])
def test_an_oauth_error_that_is_no_text_is_not_kept(value):
    failure = answer({"error": value, "error_description": value}, 400)

    assert (failure.error, failure.error_description) == (None, None)


def test_what_the_server_says_is_cut():
    failure = answer({"error": "e" * 9_000, "error_description": "d" * 900_000}, 400)

    assert (failure.error, failure.error_description) == ("e" * 500, "d" * 500)


@pytest.mark.parametrize("method", METHODS)
def test_what_the_server_echoes_is_masked(method):
    sent = request(method)
    echo = " | ".join([*sent.secrets, sent.body.decode(), str(sent.headers)])
    failure = answer({"error": SECRET, "error_description": echo}, 400, method=method)

    assert failure.error == "***"
    assert "hunter22" not in everything_shown(failure)
    assert not [secret for secret in sent.secrets if secret in everything_shown(failure)]


@pytest.mark.parametrize("secret", ["client", "invalid", "a", "token", "HTTP"])
def test_a_secret_that_is_a_common_word_does_not_garble_codes_and_our_own_words(secret):
    sent = request(secret=secret)
    failure = parse_response(
        sent, "app", 401, {}, b'{"error": "invalid_client"}', now=NOW, default_lifetime=1
    )

    assert failure.error == "invalid_client"
    assert "invalid_client (HTTP 401): check client id, client secret and" in failure.reason


@pytest.mark.parametrize("method", METHODS)
def test_what_the_server_encodes_once_more_is_masked(method):
    sent = request(method, secret="hunter 22/+")
    echo = b'{"error": "form hunter%2B22%252F%252B, URL hunter%252022%252F%252B"}'
    failure = parse_response(sent, "app", 400, {}, echo, now=NOW, default_lifetime=1)

    assert failure.error == "form ***, URL ***"


def test_a_client_id_and_an_endpoint_with_the_secret_in_it_are_masked():
    asked = credential(token_url="https://hunter22.example/hunter22", secret="hunter22")
    sent = build_request(asked, {}, now=NOW, jti="1")
    failures = [
        parse_response(
            sent, "a-hunter22", status, {"location": "/"}, b"", now=1, default_lifetime=1
        )
        for status in (500, 302)
    ]

    assert [failure.reason.partition(" (HTTP")[0] for failure in failures] == [
        "the token endpoint https://***.example/*** did not serve client id 'a-***'",
        "the token endpoint https://***.example/*** sent client id 'a-***' on to https://***.example/",
    ]


# The third row


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_not_followed_and_names_its_origin_only(status):
    failure = answer(b"", status, {"Location": "https://u:p@login.example:444/sso?state=x#y"})

    assert not failure.retryable
    assert (
        f"sent client id 'app' on to https://login.example:444/ (HTTP {status})" in failure.reason
    )
    assert not {"sso", "state", "u:p"} & set(failure.reason.replace("/", " ").split())


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/login?x", "https://auth.example/"),
        ("//other.example/x", "https://other.example/"),
        ("http://[", "(not a URL)"),
        ("mailto:a@b", "(not a URL)"),
        ("", "https://auth.example/"),
    ],
)
def test_a_redirect_to_anywhere_is_named(location, shown):
    assert answer(b"", 302, {"Location": location}).reason.endswith(
        f"on to {shown} (HTTP 302): redirects are not followed, check token_url"
    )


def test_headers_are_asked_by_lower_case_names():
    said = {
        "location": "https://login.example/",
        "retry-after": "Tue, 14 Nov 2023 22:13:50 GMT",
        "date": "Tue, 14 Nov 2023 22:13:20 GMT",
        "content-encoding": "gzip",
    }

    moved, encoded = (
        parse_response(request(), "app", status, said, b"{}", now=0, default_lifetime=1)
        for status in (302, 200)
    )

    assert "on to https://login.example/ " in moved.reason
    assert moved.retry_after == 30
    assert "the body is encoded" in encoded.reason


@pytest.mark.parametrize("status", [199, 300, 302, 400])
def test_a_token_in_an_answer_that_is_no_success_is_none(status):
    assert answer(GOOD.encode(), status).status_code == status


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b'{"access_token": "a"', "not JSON"),
        (b'{"access_token": "\xff"}', "not JSON"),
        (GOOD.encode("utf-16"), "not JSON"),
        (b'{"access_token": "a", "expires_in": NaN}', "not JSON"),
        (b'{"access_token": "a", "x": [Infinity]}', "not JSON"),
        (b'{"access_token": "a", "x": -Infinity}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b'{"access_token": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"token"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"9" * 5_000, "not a JSON object"),
        (b'{"access_token": "a", "access_token": "b"}', "names are unique"),
        (b'{"access_token": "a", "x": 1, "x": 1}', "names are unique"),
        (b'{"access_token": "a"}'.ljust(MAX_BODY + 1), "over 1048576 bytes"),
    ],
    ids=range(18),
)
def test_a_body_that_is_no_json_object_is_not_usable(body, problem):
    failure = answer(body)

    assert (failure.retryable, failure.temporary, failure.status_code) == (False, False, 200)
    assert problem in failure.reason
    assert "gave client id 'app' no usable token (HTTP 200)" in failure.reason


@pytest.mark.parametrize(
    ("body", "headers", "problem"),
    [
        (b"", {}, "the body is not JSON"),
        (b"[]", {}, "the body is not a JSON object whose names are unique"),
        (
            b" " * (MAX_BODY + 1),
            {},
            "the body is over 1048576 bytes, too large for a token response",
        ),
        (
            GOOD.encode(),
            {"content-encoding": "gzip"},
            "the body is encoded although no encoding was accepted",
        ),
        (b"{}", {}, "there is no access_token of visible ASCII in the body"),
        (GOOD[:-1].encode() + b', "token_type": "mac"}', {}, "token_type 'mac' is not Bearer"),
        (
            GOOD[:-1].encode() + b', "expires_in": 0}',
            {},
            "expires_in is not a number of seconds from 1 up",
        ),
    ],
)
def test_an_answer_that_is_not_usable_is_told_in_one_sentence(body, headers, problem):
    failure = parse_response(request(), "app", 200, headers, body, now=NOW, default_lifetime=1)

    assert failure.reason == (
        f"the token endpoint {URL} gave client id 'app' no usable token (HTTP 200): {problem}; "
        "check token_url"
    )


def test_a_name_that_stands_twice_further_down_does_not_matter():
    assert isinstance(answer(b'{"access_token": "a", "x": {"y": 1, "y": 2}}'), Grant)


def test_a_body_of_exactly_the_limit_is_read():
    assert isinstance(answer(GOOD.encode().ljust(MAX_BODY)), Grant)


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "x"])
def test_an_encoded_body_is_not_usable(encoding):
    failure = answer(GOOD.encode(), 200, {"Content-Encoding": encoding})

    assert not failure.retryable
    assert "encoded" in failure.reason


@pytest.mark.parametrize(
    "encoding", ["", "identity", " Identity ", "identity,identity", "identity,"]
)
def test_a_body_that_says_it_is_not_encoded_is_read(encoding):
    assert isinstance(answer(GOOD.encode(), 200, {"content-encoding": encoding}), Grant)


@pytest.mark.parametrize(
    "token", [None, "", 5, True, [TOKEN], {"a": TOKEN}, "a b", "a\n", "\ta", "é", "a\x7f", "\ud800"]
)
def test_an_unusable_access_token_is_a_failure_without_it(token):
    failure = answer({"access_token": token})

    assert not failure.retryable
    assert "access_token" in failure.reason
    assert TOKEN not in everything_shown(failure)


def test_a_body_without_access_token_is_a_failure():
    assert "no access_token" in answer({"token": TOKEN}).reason


@pytest.mark.parametrize("kind", ["mac", "DPoP", "", 5, False, [], " bearer", "{0}"])
def test_a_wrong_token_type_is_a_failure(kind):
    failure = token_with(token_type=kind)

    assert not failure.retryable
    assert "is not Bearer" in failure.reason


def test_a_token_in_its_type_is_masked():
    failure = token_with(token_type=f"mac {TOKEN}")

    assert "token_type 'mac ***' is not Bearer" in failure.reason


@pytest.mark.parametrize("kind", ["bearer", "Bearer", "BEARER", "bEaReR", None])
def test_a_bearer_in_any_case_is_a_grant(kind):
    assert isinstance(token_with(token_type=kind), Grant)


@pytest.mark.parametrize(
    "expires_in",
    ["0", "0.999", "-1", "1e999", "-1e999", "true", "false", "[]", "{}", "[60]", '""', '"soon"',
     '"NaN"', '"Infinity"', '"inf"', '"-5"', '" 60"', '"60 "', '"6e3"', '"0x10"', '"1_000"',
     '"٣٦٠٠"', '"0"', '"0.5"', '".5"', '"60."', '"60\\n"', "-" + "9" * 5_000],
)  # fmt: skip
def test_an_unusable_expires_in_is_a_failure(expires_in):
    failure = answer(f'{{"access_token": "{TOKEN}", "expires_in": {expires_in}}}'.encode())

    assert isinstance(failure, Failure)
    assert not failure.retryable
    assert "expires_in" in failure.reason
    assert TOKEN not in everything_shown(failure)


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [
        ("1", 1),
        ("1.5", 1.5),
        ("3600", 3600),
        ('"3600"', 3600),
        ('"3600.0"', 3600),
        ("3.6e3", 3600),
        ("null", 3600),
        (str(TEN_YEARS), TEN_YEARS),
        (str(TEN_YEARS + 1), TEN_YEARS),
        ("1e308", TEN_YEARS),
        ("1" + "0" * 400, TEN_YEARS),
        ("9" * 5_000, TEN_YEARS),
        (f'"{"9" * 5_000}"', TEN_YEARS),
        (f'"{"9" * 5_000}.5"', TEN_YEARS),
    ],
)
def test_a_lifetime_is_read(expires_in, lifetime):
    body = f'{{"access_token": "{TOKEN}", "expires_in": {expires_in}}}'.encode()
    grant = answer(body)

    assert grant == Grant(TOKEN, float(lifetime), None)
    assert type(grant.lifetime) is float


def test_a_200_with_an_oauth_error_keeps_it():
    failure = answer({"error": "invalid_client", "error_description": "bad client"}, 200)

    assert (failure.error, failure.error_description) == ("invalid_client", "bad client")
    assert (
        "refused client id 'app' with invalid_client (HTTP 200): check client id" in failure.reason
    )


def test_a_token_beside_an_oauth_error_is_a_grant():
    assert isinstance(token_with(error="odd"), Grant)


def test_a_token_in_an_unusable_answer_is_nowhere():
    failure = token_with(
        expires_in="soon",
        error="tok:" + TOKEN,
        error_description=f"{TOKEN} and {TOKEN[:9]}\n{TOKEN[9:]}, R3FRESH-T0KEN and 1D-T0KEN",
        refresh_token="R3FRESH-T0KEN",
        id_token="1D-T0KEN",
    )

    assert failure.error == "tok:***"
    assert failure.error_description == "*** and ***, *** and ***"
    assert TOKEN not in everything_shown(failure)


# Grants


@pytest.mark.parametrize("status", [200, 201, 203, 299])
def test_any_2xx_may_bring_a_token(status):
    assert answer(GOOD.encode(), status) == Grant(TOKEN, 3600.0, None)


def test_a_byte_order_mark_is_ignored():
    assert isinstance(answer(b"\xef\xbb\xbf" + GOOD.encode()), Grant)


def test_a_grant_does_not_show_its_token():
    assert repr(token_with()) == "Grant(lifetime=3600.0, scope=None)"


@pytest.mark.parametrize(
    ("scope", "kept"), [("a b", "a b"), (None, None), (5, None), (["a"], None), ("", None)]
)
def test_a_scope_is_kept_where_it_is_a_text(scope, kept):
    assert token_with(scope=scope).scope == kept


def test_a_token_in_its_scope_is_masked():
    assert token_with(scope=f"a {TOKEN}").scope == "a ***"


VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_good_answer_comes_through(data):
    token = "T0KEN" + data.draw(VISIBLE)
    seconds = data.draw(
        st.none()
        | st.integers(1, TEN_YEARS)
        | st.floats(1, TEN_YEARS)
        | st.integers(1, TEN_YEARS).map(str)
    )
    scope = data.draw(
        st.none() | st.from_regex(r"[a-z:/]{1,9}( [a-z:/]{1,9}){0,3}", fullmatch=True)
    )
    extra = data.draw(st.dictionaries(st.sampled_from(["x", "note", "refresh"]), st.text()))
    kinds = st.sampled_from(["bearer", "Bearer", "BEARER", None])
    members = {"expires_in": seconds, "scope": scope, "token_type": data.draw(kinds)}
    present = data.draw(st.sets(st.sampled_from(sorted(members))))
    body = {"access_token": token} | {name: members[name] for name in sorted(present)}
    text = json.dumps(extra | body, ensure_ascii=data.draw(st.booleans()), indent=1)

    grant = answer(text.encode(errors="replace"))

    said = seconds is not None and "expires_in" in present
    assert grant.value == token
    assert math.isclose(grant.lifetime, float(seconds) if said else 3600.0)
    assert grant.scope == (scope if "scope" in present else None)


# Any answer


def json_bodies():
    echoes = st.sampled_from([SECRET, TOKEN, f"x{TOKEN}y", f"{SECRET[:5]}\n{SECRET[5:]}"])
    texts = st.text() | echoes | st.sampled_from(["bearer", "invalid_client", "3600", "1e5"])
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=4,
    )
    names = ["token_type", "expires_in", "scope", "error", "error_description", "refresh_token"]
    # The second one is unusable, and a secret all the same.
    tokens = {"access_token": st.sampled_from([TOKEN, TOKEN + " "])}
    return st.fixed_dictionaries(tokens, optional=dict.fromkeys(names, values)).map(
        lambda members: json.dumps(members).encode()
    )


ANY_HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "content-encoding": st.text() | st.just("identity"),
        "retry-after": st.text() | st.integers().map(str),
        "location": st.text() | st.just(f"https://{SECRET}/x") | st.just("http://["),
    },
)


@settings(max_examples=100, deadline=None)
@given(
    status=st.integers(-1, 700) | st.sampled_from([200, 302, 400, 401, 429, 503]),
    headers=ANY_HEADERS,
    body=st.binary() | json_bodies(),
    method=st.sampled_from(METHODS),
)
def test_any_answer_is_a_grant_or_a_failure_that_shows_no_secret(status, headers, body, method):
    outcome = parse_response(
        request(method), "app", status, headers, body, now=NOW, default_lifetime=3600
    )

    shown = repr(outcome)
    if isinstance(outcome, Grant):
        assert 1 <= outcome.lifetime <= TEN_YEARS
        assert outcome.value == TOKEN
    else:
        shown = everything_shown(outcome)
        assert outcome.reason.isprintable()
        assert outcome.retry_after is None or 0 <= outcome.retry_after <= 365 * 86_400
        assert len(outcome.error or "") <= 500
        assert len(outcome.error_description or "") <= 500
    # Only its name says of a text that it is a token.
    assert TOKEN not in shown or b"access_token" not in body
    assert "hunter22" not in shown


# Retry-After

WHEN = datetime.fromtimestamp(NOW + 90, UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("1.5", 1.5),
        ("2.", 2),
        ("9" * 5_000, 365 * 86_400),
        (format_datetime(WHEN, usegmt=True), 90),
        (WHEN.strftime("%A, %d-%b-%y %H:%M:%S GMT"), 90),
        (WHEN.strftime("%a %b %d %H:%M:%S %Y"), 90),
        (format_datetime(WHEN.astimezone(timezone(timedelta(hours=2)))), 90),
        (formatdate(NOW - 5, usegmt=True), 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 365 * 86_400),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0),
        (None, None),
        ("", None),
        ("-5", None),
        ("1e5", None),
        ("٣", None),
        ("soon", None),
        ("5, 6", None),
        ("Wed, 99 Foo 2020 99:99:99 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -99999999", None),
    ],
)
def test_retry_after_is_read(value, seconds):
    assert retry_after_of(value, NOW) == seconds


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone can't be set")
def test_a_date_without_a_zone_is_in_utc_wherever_the_host_is(monkeypatch):
    monkeypatch.setenv("TZ", "UTC-5")
    time.tzset()
    try:
        seconds = retry_after_of(WHEN.strftime("%a %b %d %H:%M:%S %Y"), NOW)
    finally:
        monkeypatch.undo()
        time.tzset()

    assert seconds == 90


@pytest.mark.parametrize("wrong_by", [-86_400, -30, 0, 30, 86_400])
def test_a_date_counts_from_the_date_of_the_response(wrong_by):
    until, said_at = formatdate(NOW + 7, usegmt=True), formatdate(NOW, usegmt=True)

    assert retry_after_of(until, NOW + wrong_by, said_at) == 7


def test_a_date_of_the_response_that_is_none_does_not_count():
    assert retry_after_of(formatdate(NOW + 7, usegmt=True), NOW, "yesterday") == 7


def test_a_date_tells_nothing_without_the_time():
    assert (retry_after_of(formatdate(NOW, usegmt=True)), retry_after_of("5")) == (None, 5)


@settings(max_examples=50, deadline=None)
@given(
    st.text()
    | st.from_regex(r"[A-Z]{3}, \d+ (Jan|Feb) \d+ \d+:\d+:\d+ [+-]?[0-9A-Z]+", fullmatch=True)
)
def test_retry_after_never_raises(value):
    seconds = retry_after_of(value, NOW)

    assert seconds is None or 0 <= seconds <= 365 * 86_400


def test_a_refusal_keeps_retry_after_too():
    assert answer(b"", 401, {"retry-after": "9"}).retry_after == 9


def test_the_date_of_a_retry_after_is_read_by_the_time_of_the_answer():
    headers = {"retry-after": formatdate(NOW + 60, usegmt=True)}
    failure = parse_response(request(), "app", 503, headers, b"", now=NOW, default_lifetime=1)

    assert failure.retry_after == 60


# Failures without an answer


@pytest.mark.parametrize("method", METHODS)
def test_a_transport_error_may_be_tried_again_and_shows_no_secret(method):
    sent = request(method)
    error = httpx.ConnectError(f"no route; sent {sent.headers} {sent.body!r}")
    error.request = httpx.Request("POST", sent.url, headers=sent.headers, content=sent.body)
    error.__cause__ = OSError(113, f"no route for {SECRET}")

    failure = transport_failure(sent, "app", error)

    assert (failure.retryable, failure.temporary, failure.status_code) == (True, True, None)
    assert failure.method == method
    assert failure.reason.startswith(
        f"the token endpoint {URL} gave client id 'app' no answer (ConnectError: no route"
    )
    assert failure.reason.endswith("): check token_url, network, proxy and, for TLS, ca_file")
    assert type(failure.cause) is httpx.ConnectError
    assert failure.cause._request is None
    assert not [secret for secret in sent.secrets if secret in everything_shown(failure)]


@pytest.mark.parametrize(
    "error", [httpx.ReadTimeout("slow"), httpx.PoolTimeout("full"), TimeoutError()]
)
def test_a_timeout_says_so(error):
    failure = transport_failure(request(), "app", error)

    said = f": {error}" if str(error) else ""
    assert failure.reason.endswith(
        f"no answer in time ({type(error).__name__}{said}): "
        "check request_timeout, network and proxy"
    )


class OddError(httpx.ConnectError):
    def __str__(self):
        return f"no\n route for {SECRET} " * 99


def test_a_transport_error_of_any_type_is_told_in_one_short_line():
    reason = transport_failure(request(), "app", OddError("")).reason

    assert "no answer (OddError: no route for *** no route for *** " in reason
    assert len(reason) < 700


def test_an_error_without_a_text_says_what_stands_behind_it():
    error, between = httpx.ConnectError(""), OSError()
    error.__cause__ = between
    between.__context__ = OSError("certificate has expired")

    failure = transport_failure(request(), "app", error)

    assert "no answer (ConnectError: certificate has expired): check " in failure.reason


def test_an_error_with_no_text_behind_it_either_is_called_by_its_type():
    error = httpx.ConnectError("")
    error.__cause__ = OSError()

    failure = transport_failure(request(), "app", error)

    assert "no answer (ConnectError): check " in failure.reason


def test_a_missing_file_can_come_back_but_is_not_waited_for():
    error = FileNotFoundError(2, "No such file or directory", "/run/secret")
    failure = request_failure("client_secret_post", "app", URL, error)

    assert (failure.retryable, failure.temporary) == (False, True)
    assert failure.method == "client_secret_post"
    assert failure.reason == (
        f"the token endpoint {URL} was not asked: no request for client id 'app' can be built "
        "([Errno 2] No such file or directory: '/run/secret'); "
        "check client_secret or client_secret_file"
    )
    assert type(failure.cause) is FileNotFoundError


def test_the_error_of_a_file_is_cut_and_kept_without_its_frames():
    with pytest.raises(OSError, match="too long") as caught:
        Path("/" + "x" * 9_000).read_text(encoding="utf-8")

    failure = request_failure("client_secret_post", "app", URL, caught.value)

    assert len(failure.reason) < 700
    assert caught.value.__traceback__ is not None
    assert failure.cause.__traceback__ is None


def test_a_wrong_configuration_stays_wrong():
    error = RevosConfigurationError("it is empty")
    failure = request_failure("private_key_jwt", "app", URL, error)

    assert (failure.retryable, failure.temporary) == (False, False)
    assert failure.reason.endswith("(it is empty); check private_key_file")
    assert type(failure.cause) is RevosConfigurationError


def test_the_text_of_an_unknown_error_is_not_shown():
    error = UnicodeDecodeError("utf-8", b"hunter22", 0, 1, "hunter22")
    failure = request_failure("client_secret_basic", "app", URL, error)

    assert "(UnicodeDecodeError)" in failure.reason
    assert failure.cause is None
    assert "hunter22" not in everything_shown(failure)


def test_an_authentication_error_has_all_of_the_failure():
    failure = Failure(
        "why", True, True, 503, "e", "d", 5.0, method="client_secret_basic", cause=OSError("x")
    )
    error = authentication_error(failure, attempts=3, retry_after=2.5)

    assert type(error) is RevosAuthenticationError
    assert error.__cause__ is failure.cause
    assert (str(error), vars(error)) == (
        "why",
        {
            "attempts": 3,
            "retry_after": 2.5,
            "status_code": 503,
            "error": "e",
            "error_description": "d",
            "method": "client_secret_basic",
            "temporary": True,
        },
    )


# Challenges


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([], None),
        (["Bearer"], None),
        (["Bearer realm=x"], None),
        (['Bearer error="invalid_token"'], "invalid_token"),
        (["bEARER ERROR=invalid_token"], "invalid_token"),
        (['Bearer realm="a, b=\\"c\\"", error="x"'], "x"),
        (['Bearer error="a\\"b\\\\c"'], 'a"b\\c'),
        (['Bearer  realm="x" ,, error = "y"'], "y"),
        (['Basic realm="x", Bearer error="y"'], "y"),
        (['Bearer realm="x", Basic error="y"'], None),
        (["Negotiate", "Bearer error=y"], "y"),
        (["Negotiate dGVzdA==, Bearer error=y"], "y"),
        (["Negotiate, Bearer error=y"], "y"),
        (["Bearer dGVzdA==, Basic error=y"], None),
        (['Digest realm="Bearer error=y", Bearer realm="z"'], None),
        (['Bearer realm="x" error="y"'], "y"),
        (["Bearer realm=https://a/b?c=d, error=y"], "y"),
        (["Bearer error=a, Bearer error=b"], "a"),
        (["Bearer error=a, error=b"], "a"),
        (["Bearer error="], None),
        (['Bearer error=""'], ""),
        (['Bearer realm="open, error=y'], None),
        (['error="y"', "Bearer"], None),
        (["Bearer", 'error="y"'], None),
        (["Bearer \x00, error=y"], None),
        (["Bearer\xa0error=y"], None),
        (["Bearer error_description=x"], None),
        (["\x00", "Bearer error=y"], "y"),
        (['Bearer error="a\x00b"'], "a b"),
    ],
)
def test_the_error_of_a_challenge_is_read(headers, error):
    assert challenge_error(headers) == error


@pytest.mark.parametrize(
    ("status", "headers", "asks"),
    [
        (401, [], True),
        (401, ["Bearer"], True),
        (401, ['Bearer error="invalid_token"'], True),
        (401, ['Bearer error="Invalid_Token"'], True),
        (401, ['Bearer error="insufficient_scope"'], False),
        (401, ['Basic error="insufficient_scope"'], True),
        (401, ["Bearer error=invalid_token", "Bearer error=invalid_request"], False),
        (401, ["%$§ garbage ="], True),
        (403, [], False),
        (403, ["Bearer"], False),
        (403, ['Bearer error="invalid_token"'], True),
        (403, ['Basic error="invalid_token"'], False),
        (403, ['Bearer error="insufficient_scope"'], False),
        (403, ['Basic realm="x", Bearer error="invalid_token"'], True),
        (200, ['Bearer error="invalid_token"'], False),
        (500, ['Bearer error="invalid_token"'], False),
    ],
)
def test_a_new_token_is_asked_for_where_it_can_help(status, headers, asks):
    assert asks_for_new_token(status, headers) is asks


SYNTAX = st.text('Bearer error="invalid_token\\", \t=/\x00é')


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text() | SYNTAX | SYNTAX.map("Bearer ".__add__)))
def test_any_challenge_can_be_read(headers):
    challenge_error(headers)
    assert isinstance(asks_for_new_token(401, headers), bool)


def test_a_long_challenge_is_read_in_no_time():
    for piece in ("a", "a=", 'a="', ", ", "a ", "a\t", "Bearer a", '\\"', "=", 'a="\\'):
        challenge_error(["Bearer " + piece * 50_000])


NAMES = st.text("!#$%&'*+-.^_`|~abzABZ019", min_size=1, max_size=8)
SPACES = st.sampled_from(["", " ", "\t", " \t "])
QUOTABLE = st.text(st.sampled_from('ab, ="\\/éB\t'), max_size=8)


@st.composite
def challenges(draw):
    """A field value as RFC 9110 §11.6.1 has it, and the errors of its Bearer challenges."""
    rendered, errors = [], []
    for _ in range(draw(st.integers(1, 3))):
        scheme = draw(st.sampled_from(["Bearer", "bearer", "BEARER", "Basic"]) | NAMES)
        names = ["error", "Error", "realm", "scope", "error_description"]
        pairs = draw(
            st.lists(st.tuples(st.sampled_from(names) | NAMES, QUOTABLE | NAMES), max_size=4)
        )
        token68 = draw(st.from_regex(r"[A-Za-z0-9._~+/-]+=*", fullmatch=True))
        if draw(st.booleans()):
            rendered.append(f"{scheme} {token68}" if draw(st.booleans()) else scheme)
            continue
        if scheme.lower() == "bearer":
            errors += [value for name, value in pairs if name.lower() == "error"]
        rendered.append(scheme + " " + draw_parameters(draw, pairs))
    return draw_joined(draw, rendered), errors


def draw_parameters(draw, pairs):
    rendered = []
    for name, value in pairs:
        is_name = value != "" and all(c in "!#$%&'*+-.^_`|~abzABZ019" for c in value)
        escaped = draw(st.sampled_from(['"\\', '"\\ab,']))
        quoted = "".join("\\" + c if c in escaped else c for c in value)
        shown = value if is_name and draw(st.booleans()) else f'"{quoted}"'
        rendered.append(f"{name}{draw(SPACES)}={draw(SPACES)}{shown}")
    return draw_joined(draw, rendered)


def draw_joined(draw, parts):
    text = ""
    for part in parts:
        commas = draw(st.integers(1, 3)) if text else 0
        text += "".join(f"{draw(SPACES)},{draw(SPACES)}" for _ in range(commas)) + part
    return text


@settings(max_examples=50, deadline=None)
@given(st.lists(challenges(), max_size=2))
def test_a_well_formed_challenge_is_read_as_it_was_meant(fields):
    errors = [error for _, found in fields for error in found]

    assert list(http_headers._bearer_errors([text for text, _ in fields])) == errors


@pytest.mark.parametrize("module", [oauth2, assertion, http_headers])
def test_the_examples_run(module):
    assert doctest.testmod(module).failed == 0
