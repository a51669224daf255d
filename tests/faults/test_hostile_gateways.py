"""Answers of the gateway that are none: `RevosAPIError`, and the next good one heals."""

import json
import zlib

import pytest
from pydantic import BaseModel
from sockets import RawEndpoint, http_answer, raw_server, then_closed, then_reset
from support import completion, config

from revos import RevosAPIError, TokenManager


class Person(BaseModel):
    name: str


UNPACKABLE = http_answer(b"\x1f\x8bgarbage", "200 OK", "Content-Encoding: gzip")
HALF_PACKED = http_answer(
    zlib.compress(b'{"data": []}' * 99, wbits=31)[:20], "200 OK", "Content-Encoding: gzip"
)
BAD = {
    "HTML": http_answer(b"<html>Sign in</html>", "200 OK", "Content-Type: text/html"),
    "HTML that is said to be JSON": http_answer(
        b"<html>", "200 OK", "Content-Type: application/json"
    ),
    "nothing": http_answer(),
    "a list": http_answer(b"[]"),
    "a number": http_answer(b"5"),
    "null": http_answer(b"null"),
    "an empty object": http_answer(b"{}"),
    "null inside": http_answer(b'{"data": null, "choices": null}'),
    "a number inside": http_answer(b'{"data": 5, "choices": 5}'),
    "numbers inside": http_answer(b'{"data": [5], "choices": [5]}'),
    "empty objects inside": http_answer(b'{"data": [{}], "choices": [{}]}'),
    "invalid UTF-8": http_answer(b'{"data": "\xff"}'),
    "100,000 levels": http_answer(b"[" * 100_000),
    "100,000 levels of JSON": http_answer(
        b"[" * 100_000, "200 OK", "Content-Type: application/json"
    ),
    "gzip that can't be unpacked": UNPACKABLE,
    "half a gzip": HALF_PACKED,
    "a redirect to no URL": http_answer(b"", "302 Found", "Location: http://["),
    "a redirect to a broken name": http_answer(b"", "302 Found", "Location: http://xn--/"),
    "a redirect to a mailbox": http_answer(b"", "302 Found", "Location: mailto:a@b"),
    "half a body": then_closed(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
    "garbage": then_closed(b"SSH-2.0-OpenSSH_9.7\r\n\r\n"),
    "a reset": then_reset(b"HTTP/1.1 200 OK\r\nContent-Le"),
}
MODELS = http_answer(json.dumps({"data": [{"id": "gpt-4"}]}).encode())
PERSON = http_answer(
    json.dumps(completion({"content": '{"name": "Ada"}'})).encode(),
    "200 OK",
    "Content-Type: application/json",
)


@pytest.fixture
async def servers():
    """The manager of a raw token endpoint and a raw gateway, and both."""
    endpoint, gateway = RawEndpoint(), RawEndpoint()
    async with raw_server(endpoint) as port, raw_server(gateway) as gateway_port:
        settings = config(
            token_url=f"http://127.0.0.1:{port}/token",
            base_url=f"http://127.0.0.1:{gateway_port}/v1",
            max_retries=1,
        )
        async with TokenManager(settings) as tm:
            yield tm, endpoint, gateway


def assert_told(errors, endpoint):
    assert all(error.startswith("the gateway") for error in errors.values())
    assert not [name for name, error in errors.items() if "token-1" in error]
    assert endpoint.count == 1


async def test_each_ends_the_listing_of_models_in_an_api_error(servers):
    tm, endpoint, gateway = servers
    errors = {}

    for name, answer in BAD.items():
        gateway.script = [answer, MODELS]
        with pytest.raises(RevosAPIError) as caught:
            await tm.list_models()
        errors[name] = str(caught.value)
        assert await tm.list_models() == ["gpt-4"]

    assert_told(errors, endpoint)


async def test_each_ends_an_extraction_in_an_api_error(servers):
    tm, endpoint, gateway = servers
    errors = {}

    async with tm.extractor("gpt-4") as gpt4:
        for name, answer in BAD.items():
            gateway.script = [answer, PERSON]
            with pytest.raises(RevosAPIError) as caught:
                await gpt4.extract(Person, "{text}", text="Ada")
            errors[name] = str(caught.value)
            assert await gpt4.extract(Person, "{text}", text="Ada") == Person(name="Ada")

    assert_told(errors, endpoint)
