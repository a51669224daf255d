"""The gateway for tests: its token endpoint, its API, its script, its server, its fixtures."""

from __future__ import annotations

import base64
import gc
import json
import logging
import socket
import ssl
import subprocess
import sys
import time
import warnings
from functools import partial

import anyio
import httpx
import pytest
import trustme

from revos.testing import (
    Answer,
    Gateway,
    Server,
    serve,
    serve_gateway,
    serve_gateway_in_thread,
    serve_in_thread,
)
from revos.token import fingerprint_of

pytest_plugins = ["pytester"]

POST = {
    "grant_type": "client_credentials",
    "client_id": "revos-demo",
    "client_secret": "revos-demo-secret",
}
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ASK = {"grant_type": "client_credentials"}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "city": {"type": "string"},
    },
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
ADA = {"name": "Ada", "age": 36, "city": "London"}
TEXT = "Extract the person: Ada, 36, London"
TOOL = {"type": "function", "function": {"name": "person", "parameters": PERSON}}
AS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}


def chat(content=TEXT, **more):
    return {"model": "gpt-4", "messages": [{"role": "user", "content": content}], **more}


def client(**options):
    """A client over sockets. To load the certificates of the world takes longer than most tests."""
    return httpx.AsyncClient(verify=NO_CERTIFICATES, **options)


def in_process(gateway, **headers):
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=gateway),
        base_url=gateway.base_url,
        headers=headers,
        verify=NO_CERTIFICATES,
    )


def with_token(gateway):
    return in_process(gateway, authorization=f"Bearer {gateway.issue()}")


async def completion_of(gateway, **more):
    async with with_token(gateway) as http:
        response = await http.post("/chat/completions", json=chat(**more))
    return response.json()["choices"][0]


# The token endpoint.


async def test_a_token_is_issued_for_a_secret_in_the_form(revos_gateway):
    async with client() as http:
        response = await http.post(revos_gateway.token_url, data={**POST, "scope": "chat"})
    token = response.json()["access_token"]
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert response.json() == {
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": 3600,
        "scope": "chat",
    }
    assert len(token) >= 43
    assert revos_gateway.accepts(token)


async def test_basic_authentication_decodes_id_and_secret_as_forms():
    gateway = Gateway(clients={"a b": "p:%&+ä"})
    encoded = base64.b64encode(b"a+b:p%3A%25%26%2B%C3%A4").decode()
    async with in_process(gateway, authorization=f"Basic {encoded}") as http:
        response = await http.post(gateway.token_url, data=ASK)
    assert response.status_code == 200
    assert gateway.token_log[0].method == "client_secret_basic"


@pytest.mark.parametrize(
    ("form", "authorization", "status", "error"),
    [
        ({**POST, "client_secret": "wrong"}, None, 401, "invalid_client"),
        ({**POST, "client_id": "wrong"}, None, 401, "invalid_client"),
        (ASK, None, 401, "invalid_client"),
        (ASK, "Basic !", 401, "invalid_client"),
        (ASK, "Basic bm8tY29sb24=", 401, "invalid_client"),
        (ASK, "Bearer revos-demo-secret", 401, "invalid_client"),
        ({**POST, "grant_type": "password"}, None, 400, "unsupported_grant_type"),
        ({**POST, "grant_type": ""}, None, 400, "invalid_request"),
        (POST, "Basic eDp5", 400, "invalid_request"),
        ({**POST, "scope": ["a", "b"]}, None, 400, "invalid_request"),
        ({**ASK, "client_assertion": "x"}, None, 401, "invalid_client"),
    ],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_wrong_token_request_gets_the_error_of_rfc_6749(form, authorization, status, error):
    headers = {"authorization": authorization} if authorization else {}
    gateway = Gateway()
    async with in_process(gateway, **headers) as http:
        response = await http.post(gateway.token_url, data=form)
    assert (response.status_code, response.json()["error"]) == (status, error)
    assert ("www-authenticate" in response.headers) == (status == 401)
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_token_request_is_a_form_and_a_post():
    gateway = Gateway()
    async with in_process(gateway) as http:
        as_json = await http.post(gateway.token_url, json=POST)
        by_get = await http.get(gateway.token_url, params=POST)
    assert (as_json.status_code, as_json.json()["error"]) == (400, "invalid_request")
    assert (by_get.status_code, by_get.headers["allow"]) == (405, "POST")


async def test_an_assertion_is_judged_by_the_check_of_the_test():
    gateway = Gateway(assertion_check=lambda assertion: assertion == "good")
    form = {
        **ASK,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    }
    async with in_process(gateway) as http:
        for assertion in ("good", "bad"):
            await http.post(gateway.token_url, data={**form, "client_assertion": assertion})
    assert [record.status for record in gateway.token_log] == [200, 401]
    assert {record.method for record in gateway.token_log} == {"private_key_jwt"}


@pytest.mark.parametrize(
    ("lifetime", "sent"), [(60, {"expires_in": 60}), (0.5, {"expires_in": 0.5}), (None, {})]
)
async def test_the_lifetime_is_told_unless_it_is_none(lifetime, sent):
    gateway = Gateway(lifetime=lifetime)
    async with in_process(gateway) as http:
        answer = (await http.post(gateway.token_url, data=POST)).json()
    assert {key: answer[key] for key in answer if key == "expires_in"} == sent


async def test_a_token_ends_by_the_clock_of_the_gateway():
    now = 1000.0
    gateway = Gateway(lifetime=60, now=lambda: now)
    token = gateway.issue()
    async with in_process(gateway, authorization=f"Bearer {token}") as http:
        before = await http.get("/models")
        now = 1060.0
        after = await http.get("/models")
    assert (before.status_code, after.status_code) == (200, 401)


async def test_no_secret_is_kept_in_the_log_or_shown():
    gateway = Gateway()
    async with in_process(gateway) as http:
        token = (await http.post(gateway.token_url, data=POST)).json()["access_token"]
    shown = repr(gateway) + repr(gateway.token_log)
    assert gateway.client_secret not in shown
    assert token not in shown
    assert gateway.token_log[0].params == {
        "grant_type": "client_credentials",
        "client_id": "revos-demo",
    }


# Its script.


async def test_scripted_answers_come_in_order_and_then_tokens_again():
    gateway = Gateway()
    gateway.fail_next(2, 503, headers={"Retry-After": "7"})
    gateway.token_script.append(Answer(status=400, body={"error": "temporarily_unavailable"}))
    async with in_process(gateway) as http:
        answers = [await http.post(gateway.token_url, data=POST) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [503, 503, 400, 200]
    assert answers[0].headers["retry-after"] == "7"
    assert answers[2].json() == {"error": "temporarily_unavailable"}


async def test_a_scripted_answer_can_wait_for_one_authentication_method():
    gateway = Gateway()
    gateway.fail_next(method="client_secret_basic")
    gateway.outage = Answer(status=500, method="client_secret_post")
    async with in_process(gateway) as http:
        posted = await http.post(gateway.token_url, data=POST)
        auth = httpx.BasicAuth("revos-demo", "revos-demo-secret")
        basic = [await http.post(gateway.token_url, data=ASK, auth=auth) for _ in range(2)]
    assert [answer.status_code for answer in (posted, *basic)] == [500, 503, 200]


async def test_an_outage_lasts_as_long_as_it_is_set():
    gateway = Gateway()
    statuses = []
    async with in_process(gateway) as http:
        for gateway.outage in (True, Answer(status=429), False):
            statuses.append((await http.post(gateway.token_url, data=POST)).status_code)
    assert statuses == [503, 429, 200]


async def test_one_authentication_method_can_be_switched_off():
    gateway = Gateway(auth_methods={"client_secret_basic"})
    async with in_process(gateway) as http:
        response = await http.post(gateway.token_url, data=POST)
    assert response.json()["error"] == "invalid_client"


async def test_a_delay_holds_the_answer_and_requests_in_flight_are_counted(revos_gateway):
    revos_gateway.delay = 0.05
    began = time.perf_counter()
    async with client() as http, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(partial(http.post, revos_gateway.token_url, data=POST))
    assert time.perf_counter() - began >= 0.05
    assert revos_gateway.token_requests == 3
    assert revos_gateway.max_token_requests_in_flight == 3


@pytest.mark.parametrize("script", [{"delay": 60}, {"outage": Answer(hang=True)}])
async def test_a_client_that_gives_up_is_noticed(revos_gateway, script):
    for name, value in script.items():
        setattr(revos_gateway, name, value)
    async with client() as http:
        timeout = httpx.Timeout(5, read=0.05)
        with pytest.raises(httpx.ReadTimeout):
            await http.post(revos_gateway.token_url, data=POST, timeout=timeout)
    with anyio.fail_after(5):
        while not revos_gateway.token_log:
            await anyio.sleep(0.005)
    assert revos_gateway.in_flight_token_requests == 0
    assert revos_gateway.token_log[0].status is None


async def test_a_truncated_answer_ends_the_connection(revos_gateway):
    revos_gateway.token_script.append(Answer(body={"access_token": "x"}, truncate=True))
    async with client() as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post(revos_gateway.token_url, data=POST)


async def test_counters_start_again_at_nought_when_they_are_told_to(revos_gateway):
    async with client() as http:
        token = (await http.post(revos_gateway.token_url, data=POST)).json()["access_token"]
        await http.get(f"{revos_gateway.base_url}/models")
        headers = {"authorization": f"Bearer {token}"}
        await http.post(f"{revos_gateway.base_url}/chat/completions", json=chat(), headers=headers)

    def counted():
        gateway = revos_gateway
        return (
            gateway.token_requests,
            gateway.api_requests,
            gateway.refusals,
            gateway.connections,
            gateway.token_connections,
            gateway.api_connections,
            gateway.max_token_requests_in_flight,
            gateway.max_api_requests_in_flight,
            len(gateway.token_log),
            len(gateway.chat_log),
        )

    assert counted() == (1, 2, 1, 1, 1, 1, 1, 1, 1, 1)
    revos_gateway.reset_counters()
    assert counted() == (0,) * 10


# Tokens at the API.


async def test_the_api_refuses_a_request_without_a_good_token(revos_gateway):
    url = f"{revos_gateway.base_url}/models"
    async with client() as http:
        without = await http.get(url)
        wrong = await http.get(url, headers={"authorization": "Bearer wrong"})
    assert (without.status_code, without.headers["www-authenticate"]) == (401, "Bearer")
    assert (wrong.status_code, wrong.headers["www-authenticate"]) == (
        401,
        'Bearer error="invalid_token"',
    )
    assert wrong.json()["error"]["code"] == "invalid_api_key"
    assert revos_gateway.refusals == 2


async def test_a_revoked_token_is_refused_and_the_others_are_not():
    gateway = Gateway()
    first, second = gateway.issue(), gateway.issue()
    gateway.revoke(first)
    assert (gateway.accepts(first), gateway.accepts(second)) == (False, True)
    gateway.revoke()
    assert not gateway.accepts(second)
    assert gateway.accepts(gateway.issue())


async def test_refusals_can_be_had_for_all_for_a_model_or_by_a_rule():
    gateway = Gateway(refuse_models={"gpt-4"}, refuse_if=lambda request: request.method == "PUT")
    async with with_token(gateway) as http:
        by_model = [
            await http.post("/chat/completions", json={**chat(), "model": model})
            for model in ("gpt-4", "claude-4")
        ]
        by_rule = [await http.request(method, "/echo") for method in ("PUT", "GET")]
        gateway.refuse_all, gateway.refusal_status = True, 403
        gateway.challenge = 'Bearer error="insufficient_scope"'
        for_all = await http.get("/echo")
        gateway.challenge = None
        silent = await http.get("/echo")
    statuses = [response.status_code for response in (*by_model, *by_rule, for_all, silent)]
    assert statuses == [401, 200, 401, 200, 403, 403]
    assert for_all.headers["www-authenticate"] == 'Bearer error="insufficient_scope"'
    assert "www-authenticate" not in silent.headers


async def test_echo_tells_what_came_and_with_which_token(revos_gateway):
    token = revos_gateway.issue("a-token")
    async with client(headers={"authorization": f"Bearer {token}"}) as http:
        protected = await http.post(f"{revos_gateway.base_url}/echo", content=b"abc")
        is_open = await http.get(f"{revos_gateway.url}/echo", headers={"authorization": ""})
    assert protected.json() == {
        "token_fingerprint": fingerprint_of(token),
        "method": "POST",
        "path": "/v1/echo",
        "body_sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "n": 1,
    }
    assert is_open.json()["token_fingerprint"] is None


async def test_a_redirect_leads_anywhere_and_needs_no_token():
    gateway = Gateway()
    async with in_process(gateway) as http:
        response = await http.get("/redirect", params={"to": "http://localhost:1/x?y=z"})
    assert response.status_code == 307
    assert response.headers["location"] == "http://localhost:1/x?y=z"
    assert gateway.refusals == 0


async def test_models_are_listed_and_found_by_id():
    gateway = Gateway(models=("a", "b"))
    async with with_token(gateway) as http:
        listed = (await http.get("/models")).json()
        one = (await http.get("/models/b")).json()
        unknown = await http.get("/models/c")
    assert [model["id"] for model in listed["data"]] == ["a", "b"]
    assert (listed["object"], one["object"], one["id"]) == ("list", "model", "b")
    assert unknown.status_code == 404


# Chat completions.


async def test_a_json_schema_is_filled_from_the_text(revos_gateway):
    headers = {"authorization": f"Bearer {revos_gateway.issue()}"}
    async with client(base_url=revos_gateway.base_url, headers=headers) as http:
        response = await http.post("/chat/completions", json=chat(response_format=AS_SCHEMA))
    body = response.json()
    assert json.loads(body["choices"][0]["message"]["content"]) == ADA
    assert (body["object"], body["model"]) == ("chat.completion", "gpt-4")
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["prompt_tokens"] == 9
    assert body["usage"]["total_tokens"] == 9 + body["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    ("tool_choice", "reason"),
    [
        ({"type": "function", "function": {"name": "person"}}, "stop"),
        ("required", "tool_calls"),
        ("auto", "tool_calls"),
    ],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_tool_is_called_with_arguments_from_the_text(tool_choice, reason):
    choice = await completion_of(Gateway(), tools=[TOOL], tool_choice=tool_choice)
    call = choice["message"]["tool_calls"][0]
    assert call["function"]["name"] == "person"
    assert json.loads(call["function"]["arguments"]) == ADA
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == reason


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_no_tool_is_called_where_none_is_wanted_or_one_has_answered():
    gateway = Gateway()
    unwanted = await completion_of(gateway, tools=[TOOL], tool_choice="none")
    answered = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "tool_calls": []},
        {"role": "tool", "content": "done"},
    ]
    after = await completion_of(gateway, tools=[TOOL], messages=answered)
    assert unwanted["message"]["content"] == f"You said: {TEXT}"
    assert after["message"]["content"] == "You said: Hello"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": f"{TEXT}\n\nAnswer with JSON only, by this schema:\n@"}],
        [{"role": "user", "content": f"Answer by the JSON schema\n```json\n@\n```\n{TEXT}"}],
        [{"role": "system", "content": "Schema: @"}, {"role": "user", "content": TEXT}],
        [{"role": "user", "content": [{"type": "text", "text": f"{TEXT}\n@"}]}],
        [
            {"role": "user", "content": f"{TEXT}\n@"},
            {"role": "assistant", "content": '{"name": 1}'},
            {"role": "user", "content": "The answer does not fit the schema: name: not a string"},
        ],
    ],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_schema_in_the_prompt_is_answered_in_a_fence(messages):
    spelled = json.loads(json.dumps(messages).replace("@", json.dumps(json.dumps(PERSON))[1:-1]))
    choice = await completion_of(Gateway(), messages=spelled)
    content = choice["message"]["content"]
    assert content.startswith("```json\n")
    assert json.loads(content.removeprefix("```json\n").removesuffix("\n```")) == ADA


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_json_mode_answers_with_an_object():
    choice = await completion_of(Gateway(), response_format={"type": "json_object"})
    assert isinstance(json.loads(choice["message"]["content"]), dict)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_answer_that_is_too_long_is_cut():
    choice = await completion_of(Gateway(), max_completion_tokens=3)
    assert (choice["message"]["content"], choice["finish_reason"]) == ("You said:", "length")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_script_of_the_model_is_spoken_as_content_or_as_arguments():
    gateway = Gateway()
    gateway.chat_script.extend(["{]", '{"name": 1}', Answer(status=500)])
    content = await completion_of(gateway, response_format=AS_SCHEMA)
    called = await completion_of(gateway, tools=[TOOL], tool_choice="required")
    async with with_token(gateway) as http:
        failed = await http.post("/chat/completions", json=chat())
    assert content["message"]["content"] == "{]"
    assert called["message"]["tool_calls"][0]["function"]["arguments"] == '{"name": 1}'
    assert failed.status_code == 500


@pytest.mark.parametrize(
    ("features", "request_", "param"),
    [
        ({"json_schema"}, {"response_format": AS_SCHEMA}, "response_format"),
        ({"tools"}, {"tools": [TOOL]}, "tools"),
        ({"stream"}, {"stream": True}, "stream"),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_unsupported_feature_is_refused_by_name(features, request_, param, status):
    gateway = Gateway(unsupported=features, unsupported_status=status)
    async with with_token(gateway) as http:
        refused = await http.post("/chat/completions", json=chat(**request_))
        plain = await http.post("/chat/completions", json=chat())
    assert (refused.status_code, plain.status_code) == (status, 200)
    assert refused.json()["error"]["param"] == param
    assert param in refused.json()["error"]["message"]


LOOSE = {**PERSON, "required": []}
STRICT_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "p", "strict": True, "schema": LOOSE},
}
STRICT_TOOL = {
    "type": "function",
    "function": {"name": "p", "strict": True, "parameters": LOOSE},
}


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        ({}, 400, "model"),
        ({"model": "gpt-4"}, 400, "messages"),
        ({"model": "gpt-4", "messages": ["x"]}, 400, "messages"),
        ({**chat(), "model": "gpt-5"}, 404, None),
        (chat(response_format={"type": "json_schema"}), 400, "response_format"),
        (chat(response_format={"type": "xml"}), 400, "response_format"),
        (chat(response_format=STRICT_FORMAT), 400, "response_format"),
        (chat(tools=[STRICT_TOOL]), 400, "tools[0].function.parameters"),
        (
            chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "x"}}),
            400,
            "tool_choice",
        ),
    ],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_wrong_chat_request_gets_the_error_of_openai(body, status, param):
    gateway = Gateway()
    content = body if isinstance(body, bytes) else json.dumps(body)
    async with with_token(gateway) as http:
        response = await http.post("/chat/completions", content=content)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert (error["code"] == "model_not_found") == (status == 404)


async def test_a_stream_is_a_role_the_text_in_pieces_the_reason_the_usage_and_done(revos_gateway):
    headers = {"authorization": f"Bearer {revos_gateway.issue()}"}
    revos_gateway.stream_delay = 0.001
    payload = chat("Hello there", stream=True, stream_options={"include_usage": True})
    url = f"{revos_gateway.base_url}/chat/completions"
    async with (
        client(headers=headers) as http,
        http.stream("POST", url, json=payload) as response,
    ):
        kind = response.headers["content-type"]
        lines = [line async for line in response.aiter_lines() if line]
    *events, done = [line.removeprefix("data: ") for line in lines]
    first, *middle, last, usage = [json.loads(event) for event in events]
    assert kind == "text/event-stream"
    assert done == "[DONE]"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    pieces = [chunk["choices"][0]["delta"]["content"] for chunk in middle]
    assert len(pieces) > 2
    assert "".join(pieces) == "You said: Hello there"
    assert last["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 7


async def test_a_stream_that_nobody_reads_on_ends(revos_gateway):
    headers = {"authorization": f"Bearer {revos_gateway.issue()}"}
    revos_gateway.stream_delay = 0.01
    url = f"{revos_gateway.base_url}/chat/completions"
    payload = chat("word " * 100, stream=True)
    async with (
        client(headers=headers) as http,
        http.stream("POST", url, json=payload) as response,
    ):
        assert response.status_code == 200
    with anyio.fail_after(5):
        while revos_gateway.in_flight_api_requests:
            await anyio.sleep(0.005)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_arguments_of_a_tool_are_streamed_too():
    gateway = Gateway()
    async with with_token(gateway) as http:
        response = await http.post("/chat/completions", json=chat(tools=[TOOL], stream=True))
    *events, _ = response.text.removeprefix("data: ").strip().split("\n\ndata: ")
    first, *rest = [json.loads(event)["choices"][0] for event in events]
    calls = [choice["delta"]["tool_calls"][0] for choice in rest[:-1]]
    assert first["delta"]["tool_calls"][0]["function"]["name"] == "person"
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == ADA
    assert rest[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("script", [{"chat_delay": 60}, {"chat_script": [Answer(hang=True)]}])
async def test_a_completion_that_takes_for_ever_ends_when_the_client_leaves(revos_gateway, script):
    revos_gateway.chat_delay = script.get("chat_delay", 0)
    revos_gateway.chat_script.extend(script.get("chat_script", []))
    headers = {"authorization": f"Bearer {revos_gateway.issue()}"}
    url = f"{revos_gateway.base_url}/chat/completions"
    async with client(headers=headers) as http:
        timeout = httpx.Timeout(5, read=0.05)
        with pytest.raises(httpx.ReadTimeout):
            await http.post(url, json=chat(), timeout=timeout)
    with anyio.fail_after(5):
        while revos_gateway.in_flight_api_requests or not revos_gateway.api_requests:
            await anyio.sleep(0.005)


async def test_an_answer_can_come_late_and_as_plain_text():
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    gateway = Gateway(delay=1, chat_delay=2, sleep=sleep)
    gateway.token_script.append(Answer(status=502, body="Bad gateway", delay=3))
    async with with_token(gateway) as http:
        late = await http.post(gateway.token_url, data=POST)
        await http.post("/chat/completions", json=chat())
    assert (late.status_code, late.text) == (502, "Bad gateway")
    assert slept == [1, 3, 2]


async def test_the_gateway_speaks_http_only():
    with pytest.raises(NotImplementedError, match="websocket"):
        await Gateway()({"type": "websocket"}, anyio.sleep_forever, anyio.sleep)


async def test_what_was_asked_of_the_model_is_kept():
    gateway = Gateway()
    await completion_of(gateway, temperature=0)
    record = gateway.chat_log[0]
    assert record.payload["temperature"] == 0
    assert len(record.token_fingerprint) == 8


# Clients that others wrote.


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_openai_client_gets_what_it_expects(revos_gateway):
    openai = pytest.importorskip("openai")
    async with openai.AsyncOpenAI(
        base_url=revos_gateway.base_url, api_key=revos_gateway.issue(), max_retries=0
    ) as api:
        ids = [model.id async for model in await api.models.list()]
        parsed = await api.chat.completions.create(**chat(response_format=AS_SCHEMA))
        stream = await api.chat.completions.create(
            **chat("Hi", stream=True, stream_options={"include_usage": True})
        )
        chunks = [chunk async for chunk in stream]
        with pytest.raises(openai.NotFoundError) as unknown:
            await api.chat.completions.create(**{**chat(), "model": "nope"})
        revos_gateway.revoke()
        with pytest.raises(openai.AuthenticationError):
            await api.models.list()
    assert ids == list(revos_gateway.models)
    assert json.loads(parsed.choices[0].message.content) == ADA
    texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(texts) == "You said: Hi"
    assert chunks[-1].usage.prompt_tokens == 1
    assert unknown.value.code == "model_not_found"


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_langchain_gets_what_it_expects(revos_gateway, method):
    langchain_openai = pytest.importorskip("langchain_openai")
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int
        city: str | None

    async with httpx_client_of_openai() as http:
        model = langchain_openai.ChatOpenAI(
            model="gpt-4o-mini",
            base_url=revos_gateway.base_url,
            api_key=revos_gateway.issue(),
            http_async_client=http,
        )
        prompt = f"{TEXT}\nAnswer by the JSON schema {json.dumps(Person.model_json_schema())}"
        person = await model.with_structured_output(Person, method=method).ainvoke(prompt)
        said = [chunk.text async for chunk in model.astream("Hello")]
    assert person == Person(**ADA)
    assert "".join(said) == "You said: Hello"


def httpx_client_of_openai():
    import openai

    return openai.DefaultAsyncHttpxClient()


# The server.


async def hello(scope, receive, send):
    """The smallest application; it knows no lifespan."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


async def test_connections_are_kept_and_counted(revos_gateway):
    async with client() as http:
        for _ in range(5):
            await http.get(f"{revos_gateway.base_url}/models")
    async with client() as http:
        await http.get(f"{revos_gateway.base_url}/models")
    assert revos_gateway.api_requests == 6
    assert revos_gateway.api_connections == 2


async def test_the_server_stops_at_once_whatever_is_going_on():
    gateway = Gateway(outage=Answer(hang=True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with client() as http, anyio.create_task_group() as tasks:

            async def hang():
                with pytest.raises(httpx.RemoteProtocolError):
                    await http.post(gateway.token_url, data=POST)

            async with serve_gateway(gateway):
                await http.get(f"{gateway.base_url}/models")  # Kept alive from here on.
                tasks.start_soon(hang)
                while not gateway.in_flight_token_requests:
                    await anyio.sleep(0.005)
                began = time.perf_counter()
            took = time.perf_counter() - began
        gc.collect()
    assert took < 2
    assert gateway.in_flight_token_requests == 0
    assert [str(warning.message) for warning in caught] == []


async def test_a_port_can_be_served_again_at_once():
    gateway = Gateway()
    async with serve_gateway(gateway), client() as http:
        await http.get(gateway.url)
        first = gateway.url
    port = int(first.rpartition(":")[2])
    async with serve_gateway(gateway, port=port), client() as http:
        assert (await http.get(gateway.url)).status_code == 404
    assert gateway.url == first


async def test_an_exception_of_the_block_comes_out_bare():
    with pytest.raises(LookupError, match="mine"):
        async with serve_gateway():
            raise LookupError("mine")


async def test_cancellation_passes_through_the_block():
    with anyio.move_on_after(0.05) as scope:
        async with serve_gateway():
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_port_that_is_taken_is_an_error():
    async with serve(hello) as server:
        second = serve(hello, port=server.port)
        with pytest.raises(OSError, match="in use"):
            await second.__aenter__()


async def test_an_application_without_lifespan_is_served():
    async with serve(hello) as server, client() as http:
        assert (await http.get(f"{server.url}/a%20b")).text == "/a b"
        assert (await http.head(f"{server.url}/a")).text == ""


async def test_a_lifespan_surrounds_the_requests_and_lends_them_its_state():
    events = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            events.append(scope["state"]["word"])
            await hello(scope, receive, send)
            return
        for _ in range(2):
            message = await receive()
            events.append(message["type"])
            scope["state"]["word"] = "hello"
            await send({"type": f"{message['type']}.complete"})

    async with serve(app) as server, client() as http:
        await http.get(server.url)
    assert events == ["lifespan.startup", "hello", "lifespan.shutdown"]


async def test_an_application_whose_lifespan_fails_is_served_on_and_logged(caplog):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await hello(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await anyio.sleep(0)
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR):
        async with serve(app) as server, client() as http:
            assert (await http.get(server.url)).status_code == 200
    assert "lifespan" in caplog.text


async def test_an_application_that_cannot_start_says_so():
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(RuntimeError, match="no database"):
        async with serve(app):
            pass


async def test_an_application_that_fails_is_logged_and_answered_with_500(caplog):
    async def app(scope, receive, send):
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR):
        async with serve(app) as server, client() as http:
            statuses = [(await http.get(server.url)).status_code for _ in range(2)]
    assert statuses == [500, 500]
    assert "the application failed" in caplog.text


async def test_an_application_that_does_not_answer_is_answered_for():
    async def app(scope, receive, send):
        await receive()

    async with serve(app) as server, client() as http:
        assert (await http.get(server.url)).status_code == 500


async def test_a_body_that_the_application_leaves_is_read_away():
    async with serve(hello) as server, client() as http:
        for _ in range(2):
            response = await http.post(f"{server.url}/x", content=b"x" * 300_000)
            assert response.text == "/x"


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 404 "),
        (
            b"GET /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            b"HTTP/1.1 200 ",
        ),
        (
            b"POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n",
            b"HTTP/1.1 100 ",
        ),
        (
            b"GET /echo HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.0\r\n\r\n",
            b"HTTP/1.1 200 ",
        ),
    ],
)
async def test_raw_http_is_answered_by_the_book(revos_gateway, sent, received):
    address = httpx.URL(revos_gateway.url)
    async with await anyio.connect_tcp(address.host, address.port) as stream:
        if sent:
            await stream.send(sent)
        assert (await stream.receive()).startswith(received)


@pytest.mark.parametrize(
    "sent", [b"", b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc"]
)
async def test_a_client_that_leaves_in_the_middle_is_told_nothing(revos_gateway, sent):
    address = httpx.URL(revos_gateway.url)
    async with await anyio.connect_tcp(address.host, address.port) as stream:
        if sent:
            await stream.send(sent)
        await stream.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def test_https_is_served_and_a_client_that_does_not_trust_it_harms_nobody(capfd):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with serve_gateway(ssl=context) as gateway:
        async with client() as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(gateway.token_url)
        async with httpx.AsyncClient(verify=trusting) as http:
            response = await http.post(gateway.token_url, data=POST)
    assert gateway.url.startswith("https://127.0.0.1:")
    assert response.status_code == 200
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_nothing_is_printed_and_no_signal_handler_is_set(capfd):
    import signal

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with serve_gateway() as gateway, client() as http:
        await http.get(gateway.url)
        during = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert before == during
    assert "".join(capfd.readouterr()) == ""


def test_a_thread_of_its_own_serves_code_that_has_no_loop():
    with serve_in_thread(hello) as server:
        assert isinstance(server, Server)
        assert httpx.get(f"{server.url}/x").text == "/x"
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_exception_under_a_server_in_a_thread_comes_out_bare_and_soon(backend):
    began = time.perf_counter()
    with pytest.raises(LookupError, match="mine"), serve_in_thread(hello, backend=backend):
        raise LookupError("mine")
    assert time.perf_counter() - began < 5


def test_a_gateway_in_a_thread_is_scripted_and_read_from_here():
    with serve_gateway_in_thread() as gateway, httpx.Client() as http:
        gateway.fail_next()
        statuses = [http.post(gateway.token_url, data=POST).status_code for _ in range(2)]
    assert statuses == [503, 200]
    assert gateway.token_requests == 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_gateway_runs_under_hypercorn_too(backend):
    """A server that others wrote takes it for an ASGI application, lifespan included."""
    config = pytest.importorskip("hypercorn.config").Config()
    hypercorn = pytest.importorskip(f"hypercorn.{backend}")
    config.errorlog = None
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config.bind = [f"fd://{listener.fileno()}"]
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        gateway = Gateway(url=url)

        async def main():
            stop = anyio.Event()
            async with anyio.create_task_group() as tasks:

                async def run():
                    await hypercorn.serve(gateway, config, shutdown_trigger=stop.wait)

                tasks.start_soon(run)
                async with client() as http:
                    response = await http.post(gateway.token_url, data=POST)
                stop.set()
            return response.status_code

        assert anyio.run(main, backend=backend) == 200
        listener.detach()


# The fixtures.


async def test_the_fixture_is_configured_for_a_token_manager(revos_gateway):
    config = revos_gateway.config(max_retries=1, enable_fallback=False)
    assert config.revos.token_url == revos_gateway.token_url
    assert config.revos.base_url == revos_gateway.base_url
    assert config.revos.max_retries == 1
    assert config.token.enable_fallback is False
    assert {model.model for model in config.models.values()} == set(revos_gateway.models)


def test_the_environment_takes_overrides_by_field_or_by_name():
    environ = Gateway(url="http://127.0.0.1:1", models=("gpt-4.1",)).environ(
        refresh_interval_minutes=5, client_secret=None, LOG_LEVEL="DEBUG"
    )
    assert environ == {
        "REVOS_CLIENT_ID": "revos-demo",
        "REVOS_TOKEN_URL": "http://127.0.0.1:1/oauth2/token",
        "REVOS_BASE_URL": "http://127.0.0.1:1/v1",
        "LLM_MODELS_GPT_4_1_MODEL": "gpt-4.1",
        "TOKEN_REFRESH_INTERVAL_MINUTES": "5",
        "LOG_LEVEL": "DEBUG",
    }


def test_the_sync_fixture_serves_a_plain_test(revos_gateway_sync):
    response = httpx.post(revos_gateway_sync.token_url, data=POST)
    assert revos_gateway_sync.accepts(response.json()["access_token"])


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_the_fixtures_work_in_either_mode_of_the_anyio_plugin(pytester, mode):
    pytester.makepyfile(
        """
        import httpx, pytest

        @pytest.mark.anyio
        async def test_async(revos_gateway):
            async with httpx.AsyncClient() as http:
                assert (await http.get(revos_gateway.url)).status_code == 404

        def test_sync(revos_gateway_sync):
            assert httpx.get(revos_gateway_sync.url).status_code == 404

        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        def test_mistaken(revos_gateway):
            pass
        """
    )
    # To collect garbage, which is what this plugin does, is not what is tested, and takes seconds.
    options = ("-W", "error", "-p", "no:unraisableexception", "--anyio-mode", mode)
    result = pytester.runpytest_inprocess(*options)
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*test_mistaken is not async: it takes revos_gateway_sync"])


def test_importing_the_plugin_imports_nothing_that_it_does_not_need():
    probe = (
        "import sys, revos, pytest; before = set(sys.modules);"
        "import revos.testing.plugin; print(sorted(set(sys.modules) - before))"
    )
    found = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "['revos.testing', 'revos.testing.plugin']"
