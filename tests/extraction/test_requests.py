"""What an extraction sends: the schema, the settings, the headers; and over which connections."""

from __future__ import annotations

import gc
import json
import logging
import socket
from functools import partial
from typing import Annotated, Any, Generic, TypeVar

import anyio
import httpcore2
import openai
import pydantic
import pytest
import trustme
from anyio import to_thread
from anyio.abc import SocketStream
from langchain_core.messages import HumanMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from pydantic import WithJsonSchema
from sockets import RawEndpoint, http_answer, over_tls, raw_server, then_closed

from revos import RevosAPIError, TokenManager
from revos.extraction.idle import IdleGuard
from revos.testing import Answer

PROMPT = "Extract the person: {text}"
T = TypeVar("T")


class Person(pydantic.BaseModel):
    name: str
    age: int


def format_sent(gateway):
    return gateway.chat_log[-1].payload["response_format"]["json_schema"]


# The schema.


class Box(pydantic.BaseModel, Generic[T]):
    content: T


LONG = pydantic.create_model("Long" * 30, content=(str, ...))


@pytest.mark.parametrize(
    ("target", "name"),
    [(Box[int], "Box_int"), (LONG, ("Long" * 30)[:64]), (Person, "Person")],
    ids=["characters", "length", "as it is"],
)
async def test_the_name_of_a_schema_has_at_most_64_of_the_characters_that_openai_allows(
    gpt4, revos_gateway, target, name
):
    revos_gateway.chat_script.append('{"content": "5", "name": "Ada", "age": 36}')

    await gpt4.extract(target, PROMPT, text="x")

    assert format_sent(revos_gateway)["name"] == name


class Open(pydantic.BaseModel, extra="allow"):
    content: str


class Loose(pydantic.BaseModel):
    content: Annotated[Any, WithJsonSchema({"type": "object"})]


class InList(pydantic.BaseModel):
    content: tuple[dict[str, int], int]


@pytest.mark.parametrize(
    ("target", "content"), [(Open, "x"), (Loose, {"a": 1}), (InList, [{"a": 1}, 5])]
)
async def test_a_schema_with_a_free_key_anywhere_is_not_sent_as_strict(
    gpt4, revos_gateway, target, content
):
    revos_gateway.chat_script.append(json.dumps({"content": content}))

    await gpt4.extract(target, PROMPT, text="x")

    assert format_sent(revos_gateway)["strict"] is False


class Keywords(pydantic.BaseModel):
    """Its fields have names that are keywords of JSON schema."""

    properties: str
    items: int


async def test_fields_with_the_names_of_keywords_stay_fields(gpt4, revos_gateway):
    revos_gateway.chat_script.append('{"properties": "x", "items": 5}')

    await gpt4.extract(Keywords, PROMPT, text="x")

    sent = format_sent(revos_gateway)
    assert sent["strict"] is True
    assert set(sent["schema"]["properties"]) == {"properties", "items"}
    assert sent["schema"]["additionalProperties"] is False


INNER = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


class Inside(pydantic.BaseModel):
    content: Annotated[Any, WithJsonSchema({"anyOf": [INNER, {"type": "null"}]})]


async def test_an_object_inside_a_list_of_a_strict_schema_is_closed_too(gpt4, revos_gateway):
    revos_gateway.chat_script.append('{"content": {"a": 1}}')

    await gpt4.extract(Inside, PROMPT, text="x")

    sent = format_sent(revos_gateway)
    assert sent["strict"] is True
    assert sent["schema"]["properties"]["content"]["anyOf"][0]["additionalProperties"] is False


async def test_the_schema_of_a_target_is_made_once(gpt4):
    made = []

    class Counted(Person):
        @classmethod
        def __get_pydantic_json_schema__(cls, schema, handler):
            made.append(cls)
            return handler(schema)

    await gpt4.extract(Counted, PROMPT, text="Ada, 36")
    made_for_the_first = len(made)
    for _ in range(3):
        await gpt4.extract(Counted, PROMPT, text="Ada, 36")

    assert made_for_the_first > 0
    assert len(made) == made_for_the_first


# The way to ask for it.


async def test_the_tool_is_one_that_must_be_called(tm, revos_gateway):
    async with tm.extractor("gpt-4", strategy="tools") as extractor:
        await extractor.extract(Person, PROMPT, text="Ada, 36")

    named = {"type": "function", "function": {"name": "Person"}}
    assert revos_gateway.chat_log[-1].payload["tool_choice"] == named


@pytest.mark.parametrize("words", ["structured output is not for you", "no JSON_SCHEMA here"])
async def test_a_refusal_names_the_feature_in_other_words_too(gpt4, revos_gateway, words):
    revos_gateway.chat_script.append(Answer(status=400, body={"error": words}))

    await gpt4.extract(Person, PROMPT, text="Ada, 36")

    assert "tools" in revos_gateway.chat_log[-1].payload


async def test_what_serves_others_is_no_way_for_an_extractor_with_one_of_its_own(
    tm, gpt4, revos_gateway
):
    revos_gateway.unsupported.add("json_schema")
    await gpt4.extract(Person, PROMPT, text="Ada, 36")

    async with tm.extractor("gpt-4", strategy="json_schema") as extractor:
        with pytest.raises(RevosAPIError):
            await extractor.extract(Person, PROMPT, text="Ada, 36")

    assert "response_format" in revos_gateway.chat_log[-1].payload


async def test_many_extractions_that_step_down_together_tell_it_once(gpt4, revos_gateway, caplog):
    revos_gateway.unsupported.add("json_schema")
    revos_gateway.chat_delay = 0.05

    with caplog.at_level("INFO", "revos.extraction"):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(_extract, gpt4)

    assert len([record for record in caplog.records if "refuses" in record.message]) == 1


async def _extract(extractor):
    await extractor.extract(Person, PROMPT, text="Ada, 36")


# The prompt.


async def test_an_optional_variable_of_a_template_may_be_left_out_or_given(gpt4, revos_gateway):
    prompt = ChatPromptTemplate.from_messages(
        [MessagesPlaceholder("history", optional=True), ("human", PROMPT)]
    )

    await gpt4.extract(Person, prompt, text="Ada, 36")
    await gpt4.extract(Person, prompt, text="Ada, 36", history=[HumanMessage("before")])

    lengths = [len(record.payload["messages"]) for record in revos_gateway.chat_log]
    assert lengths == [1, 2]


async def test_a_variable_that_a_template_has_may_be_given_anew(gpt4, revos_gateway):
    prompt = ChatPromptTemplate.from_messages([("system", "In {tongue}"), ("human", PROMPT)])

    await gpt4.extract(Person, prompt.partial(tongue="Latin"), text="Ada, 36", tongue="Greek")

    assert revos_gateway.chat_log[-1].payload["messages"][0]["content"] == "In Greek"


# Settings, headers, address.


@pytest.mark.parametrize("model", ["o1-mini", "gpt-5-pro", "codex-7b"])
async def test_what_langchain_knows_of_a_model_by_its_name_changes_nothing(revos_gateway, model):
    revos_gateway.models = (model,)

    async with TokenManager(revos_gateway.config()) as tm, tm.extractor(model) as extractor:
        await extractor.extract(Person, PROMPT, text="Ada, 36")

    sent = set(revos_gateway.chat_log[-1].payload)
    assert sent == {"messages", "model", "response_format", "stream"}


COMPLETION = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": '{"name": "Ada", "age": 36}'},
        }
    ],
}


def completion(*headers):
    body = json.dumps(COMPLETION).encode()
    return http_answer(body, "200 OK", "Content-Type: application/json", *headers)


@pytest.fixture
async def api():
    """The API of a gateway, byte for byte."""
    return RawEndpoint()


@pytest.fixture
async def api_config(revos_gateway, api):
    """What makes configurations whose tokens come from the gateway, and whose API is raw."""
    async with raw_server(api) as port:

        def make(**settings):
            return revos_gateway.config(
                base_url=f"http://127.0.0.1:{port}/v1", max_retries=1, **settings
            )

        yield make


@pytest.mark.parametrize(
    ("settings", "seconds"), [({}, b"600"), ({"LLM_MODELS_GPT_4_TIMEOUT": "7"}, b"7.0")]
)
async def test_a_request_has_the_timeout_of_its_model_or_that_of_the_openai_client(
    api_config, api, settings, seconds
):
    api.script = [completion()]

    async with TokenManager(api_config(**settings)) as tm, tm.extractor("gpt-4") as extractor:
        await _extract(extractor)

    assert b"\r\nx-stainless-read-timeout: " + seconds + b"\r\n" in api.requests[0].lower()


async def test_headers_that_are_no_ascii_do_not_matter(api_config, api):
    async with TokenManager(api_config()) as tm, tm.extractor("gpt-4") as extractor:
        token = await tm.get_token()
        api.script = [completion("X-Name: Ren\u00e9", f"X-Token: {token}")]

        await _extract(extractor)

    assert len(api.requests) == 1


async def test_headers_that_come_twice_reach_an_llm_of_ones_own_twice(api_config, api):
    async with TokenManager(api_config()) as tm, tm.extractor("gpt-4") as extractor:
        token = await tm.get_token()
        api.script = [completion(f"X-Token: {token}", "Set-Cookie: a=1", "Set-Cookie: b=2")]

        client = extractor.llm.root_async_client
        response = await extractor.run_asyncio(_raw_completion, client)

    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert response.headers["x-token"] == "***"
    assert response.elapsed.total_seconds() > 0


async def test_a_token_that_comes_back_in_a_head_is_hidden_in_a_thread_too(api_config, api, caplog):
    async with TokenManager(api_config()) as tm, tm.extractor("gpt-4") as extractor:
        token = await tm.get_token()
        api.script = [completion(f"X-Token: {token}")]
        create = extractor.llm.root_client.chat.completions.with_raw_response.create
        with caplog.at_level(logging.DEBUG):
            response = await to_thread.run_sync(partial(create, model="gpt-4", messages=[]))

    assert response.headers["x-token"] == "***"
    assert {"httpcore2.http11", "openai._base_client"} <= {one.name for one in caplog.records}
    assert token not in caplog.text


async def _raw_completion(client):
    return await client.chat.completions.with_raw_response.create(model="gpt-4", messages=[])


# Connections.


async def test_a_stream_that_goes_on_behind_an_error_is_ended_with_its_connection(api_config, api):
    event = b'data: {"error": {"message": "overloaded now"}}\n\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n"
    api.script = [head + event]

    with anyio.fail_after(5):
        async with TokenManager(api_config()) as tm, tm.extractor("gpt-4") as extractor:
            async with extractor.extract_stream(Person, PROMPT, text="x") as parts:
                with pytest.raises(RevosAPIError, match="overloaded now") as caught:
                    await anext(parts)
            while not api.ended:
                await anyio.sleep(0.001)

    assert type(caught.value.__cause__) is openai.APIError


async def test_more_than_a_hundred_extractions_run_at_once_over_connections_that_are_kept(
    tm, revos_gateway
):
    async def until_all_are_there(seconds):
        if revos_gateway.in_flight_api_requests == at_once:
            everyone.set()
        await everyone.wait()

    revos_gateway.chat_delay, revos_gateway.sleep = 1, until_all_are_there

    with anyio.fail_after(20):
        async with tm.extractor("gpt-4", max_concurrency=101) as extractor:
            for at_once in (101, 40):
                everyone = anyio.Event()
                async with anyio.create_task_group() as tasks:
                    for _ in range(at_once):
                        tasks.start_soon(_extract, extractor)

    assert revos_gateway.api_connections <= 102


@pytest.fixture(params=[False, True], ids=["tcp", "tls"])
async def over_either(request, revos_gateway, tmp_path, api):
    """A manager whose API is raw, over TCP or over TLS."""
    authority, trusted = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    settings = {"ca_file": str(trusted)} if request.param else {}
    handle = over_tls(api, authority.issue_cert("127.0.0.1")) if request.param else api
    async with raw_server(handle) as port:
        base_url = f"{'https' if request.param else 'http'}://127.0.0.1:{port}/v1"
        config = revos_gateway.config(base_url=base_url, max_retries=1, **settings)
        async with TokenManager(config) as tm:
            yield tm


async def test_a_connection_that_the_gateway_has_closed_while_it_was_idle_is_not_used(
    over_either, api
):
    api.script = [then_closed(completion()), completion(), completion()]

    async with over_either.extractor("gpt-4") as extractor:
        await _extract(extractor)
        while not api.ended:
            await anyio.sleep(0.001)
        await _extract(extractor)
        await _extract(extractor)

    assert api.connections == [1, 2, 2]


async def test_an_idle_connection_asks_its_socket_and_looks_nothing_up(
    over_either, api, monkeypatch
):
    api.script = [completion(), completion()]
    looked_up, known = [], SocketStream.extra_attributes.fget

    def noted(stream):
        looked_up.append(stream)
        return known(stream)

    async with over_either.extractor("gpt-4") as extractor:
        await _extract(extractor)
        monkeypatch.setattr(SocketStream, "extra_attributes", property(noted))
        await _extract(extractor)

    assert looked_up == []
    assert api.connections == [1, 1]


async def test_a_connection_whose_socket_is_gone_is_one_that_was_closed():
    class Stream:
        def get_extra_info(self, info):
            return {"socket": sock, "client_addr": "mine"}.get(info)

    stream = Stream()
    with socket.socket() as sock:
        await IdleGuard()("connection.connect_tcp.complete", {"return_value": stream})

    assert stream.get_extra_info("is_readable")
    assert stream.get_extra_info("client_addr") == "mine"


async def test_a_further_extractor_opens_no_pool_of_connections(tm, revos_gateway):
    async with tm.extractor("gpt-4") as first:
        await first.extract(Person, PROMPT, text="Ada, 36")
        pools = _pools()  # Some may be of tests before.
        async with tm.extractors() as others, tm.extractor("gpt-4", strategy="tools") as again:
            for extractor in (again, *others.values()):
                await extractor.extract(Person, PROMPT, text="Ada, 36")
            assert [one for one in _pools() if all(one is not known for known in pools)] == []

    assert revos_gateway.api_connections == 1


def _pools():
    pools = (httpcore2.AsyncConnectionPool, httpcore2.ConnectionPool)
    return [one for one in gc.get_objects() if type(one) in pools]  # No proxy is asked.
