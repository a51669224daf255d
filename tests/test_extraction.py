"""Text in, typed objects out: over real sockets, through LangChain."""

from __future__ import annotations

import gc
import json
import logging
import threading
from enum import Enum
from functools import partial

import anyio
import httpx
import pydantic
import pytest
from anyio import to_thread
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from sockets import Hostile, raw_server
from support import ScriptedEndpoint, completion

from revos import (
    Config,
    ModelConfig,
    RevosAPIError,
    RevosAuthenticationError,
    RevosClosedError,
    RevosConfigurationError,
    RevosInputError,
    RevosValidationError,
    TokenManager,
    get_langchain_extractor,
)
from revos.testing import Answer

PROMPT = "Extract the person: {text}"


class Person(pydantic.BaseModel):
    name: str
    age: int
    city: str


ADA = Person(name="Ada", age=36, city="London")


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class Note(pydantic.BaseModel):
    title: str
    mood: Mood | None = None


class Counts(pydantic.BaseModel):
    by_name: dict[str, int]


@pytest.fixture
async def tm(revos_gateway):
    async with TokenManager(revos_gateway.config(max_retries=2)) as manager:
        yield manager


@pytest.fixture
async def gpt4(tm):
    async with tm.extractor("gpt-4") as extractor:
        yield extractor


@pytest.fixture
async def at_once(tm):
    """An extractor that sends no answer back."""
    async with tm.extractor("gpt-4", repairs=0) as extractor:
        yield extractor


async def test_a_text_becomes_a_typed_object(gpt4):
    assert await gpt4.extract(Person, PROMPT, text="Ada, 36, London") == ADA


async def test_a_short_token_that_stands_in_an_answer_by_chance_leaves_it_as_it_is(revos_gateway):
    endpoint = ScriptedEndpoint()
    endpoint.name = lambda _: revos_gateway.issue("Ada")

    async with (
        TokenManager(revos_gateway.config(), http_client=endpoint.client()) as tm,
        tm.extractor("gpt-4") as gpt4,
    ):
        assert await gpt4.extract(Person, PROMPT, text="Ada, 36, London") == ADA


async def test_a_prompt_template_serves_as_a_prompt(gpt4):
    prompt = PromptTemplate.from_template(PROMPT)

    assert await gpt4.extract(Person, prompt, text="Ada, 36, London") == ADA


async def test_a_chat_prompt_template_serves_as_a_prompt(gpt4):
    prompt = ChatPromptTemplate.from_messages([("system", "You read {what}."), ("human", PROMPT)])

    assert await gpt4.extract(Person, prompt, what="letters", text="Ada, 36, London") == ADA


async def test_doubled_braces_are_literal(gpt4, revos_gateway):
    await gpt4.extract(Person, "As {{json}}: {text}", text="Ada, 36, London")

    assert (
        revos_gateway.chat_log[-1].payload["messages"][-1]["content"]
        == "As {json}: Ada, 36, London"
    )


async def test_variables_may_have_the_names_of_the_parameters(gpt4):
    person = await gpt4.extract(
        Person, "{target} {prompt}: {text}", target="b", prompt="c", text="Ada, 36, London"
    )

    assert person == ADA


@pytest.mark.parametrize(
    ("prompt", "variables", "words"),
    [
        (PROMPT, {}, "missing: text"),
        (PROMPT, {"text": "x", "tone": "y"}, "unknown: tone"),
        ("{a} {b}", {"a": "x"}, "it has: a, b"),
        ("open { brace", {"text": "x"}, "no template"),
        (42, {"text": "x"}, "not int"),
    ],
)
async def test_a_prompt_that_cannot_work_is_refused_before_anything_is_sent(
    gpt4, revos_gateway, prompt, variables, words
):
    with pytest.raises(RevosInputError, match=words):
        await gpt4.extract(Person, prompt, **variables)

    assert revos_gateway.api_requests == 0


async def test_a_target_without_a_schema_is_refused_before_anything_is_sent(gpt4, revos_gateway):
    with pytest.raises(RevosInputError, match="an instance of object is no type"):
        await gpt4.extract(object(), PROMPT, text="x")

    assert revos_gateway.api_requests == 0


async def test_a_schema_with_every_property_required_is_sent_as_strict(gpt4, revos_gateway):
    await gpt4.extract(Person, PROMPT, text="Ada, 36, London")

    sent = revos_gateway.chat_log[-1].payload["response_format"]["json_schema"]
    assert sent["strict"] is True
    assert sent["schema"]["additionalProperties"] is False


@pytest.mark.parametrize(("target", "strict"), [(Note, True), (Counts, False)])
async def test_only_a_schema_that_strict_mode_cannot_express_is_sent_without(
    gpt4, revos_gateway, target, strict
):
    revos_gateway.chat_script.append('{"title": "T", "mood": "bad", "by_name": {"a": 1}}')

    await gpt4.extract(target, PROMPT, text="x")

    assert revos_gateway.chat_log[-1].payload["response_format"]["json_schema"]["strict"] is strict


async def test_auto_steps_down_to_tools_and_remembers_it(tm, gpt4, revos_gateway, caplog):
    revos_gateway.unsupported.add("json_schema")

    with caplog.at_level(logging.INFO, "revos.extraction"):
        first = await gpt4.extract(Person, PROMPT, text="Ada, 36, London")
        async with tm.extractor("gpt_4") as other:
            second = await other.extract(Person, PROMPT, text="Ada, 36, London")

    assert first == second == ADA
    assert ["response_format" in record.payload for record in revos_gateway.chat_log] == [
        True,
        False,
        False,
    ]
    assert [record.message for record in caplog.records if "refuses" in record.message] == [
        "the gateway refuses json_schema for 'gpt-4': using tools"
    ]


async def test_a_fixed_strategy_does_not_step_down(tm, revos_gateway):
    revos_gateway.unsupported.add("json_schema")

    async with tm.extractor("gpt-4", strategy="json_schema") as extractor:
        with pytest.raises(RevosAPIError) as caught:
            await extractor.extract(Person, PROMPT, text="Ada, 36, London")

    assert caught.value.status_code == 400
    assert not caught.value.temporary


async def test_the_tools_strategy_extracts_too(tm):
    async with tm.extractor("gpt-4", strategy="tools") as extractor:
        assert await extractor.extract(Person, PROMPT, text="Ada, 36, London") == ADA


def test_an_unknown_strategy_is_refused_at_once():
    with pytest.raises(RevosInputError, match="auto, json_schema, tools"):
        TokenManager().extractor("gpt-4", strategy="guess")


async def test_an_answer_that_does_not_fit_tells_where_and_what(at_once, revos_gateway):
    revos_gateway.chat_script.append('{"name": "Ada", "age": "old"}')

    with pytest.raises(RevosValidationError) as caught:
        await at_once.extract(Person, PROMPT, text="x")

    error = caught.value
    assert [problem.path for problem in error.problems] == ["age", "city"]
    assert error.raw == '{"name": "Ada", "age": "old"}'
    assert error.target is Person
    assert isinstance(error.__cause__, pydantic.ValidationError)
    assert "old" not in str(error)


@pytest.mark.parametrize("answer", ["", "not json", "[1, 2]"])
async def test_an_answer_that_is_no_object_is_a_validation_error(at_once, revos_gateway, answer):
    revos_gateway.chat_script.append(answer)

    with pytest.raises(RevosValidationError):
        await at_once.extract(Person, PROMPT, text="x")


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 503])
async def test_what_passes_by_itself_is_tried_again_by_one_layer(gpt4, revos_gateway, status):
    revos_gateway.chat_script.append(Answer(status=status, headers={"retry-after": "0"}))

    assert await gpt4.extract(Person, PROMPT, text="Ada, 36, London") == ADA
    assert len(revos_gateway.chat_log) == 2


async def test_retries_end_at_max_retries(gpt4, revos_gateway):
    revos_gateway.chat_script.extend([Answer(status=503, headers={"retry-after": "0"})] * 9)

    with pytest.raises(RevosAPIError) as caught:
        await gpt4.extract(Person, PROMPT, text="x")

    assert caught.value.status_code == 503
    assert caught.value.temporary
    assert len(revos_gateway.chat_log) == 2
    assert gpt4.llm.max_retries == 0


async def test_a_long_retry_after_is_told_and_not_waited_for(gpt4, revos_gateway):
    revos_gateway.chat_script.append(Answer(status=429, headers={"retry-after": "3600"}))

    with pytest.raises(RevosAPIError) as caught:
        await gpt4.extract(Person, PROMPT, text="x")

    assert caught.value.retry_after == 3600
    assert len(revos_gateway.chat_log) == 1


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"choices": null}', b'{"choices": []}', b"{}"]
)
async def test_an_answer_that_is_no_completion_is_an_api_error(gpt4, revos_gateway, body):
    revos_gateway.chat_script.append(
        Answer(status=200, headers={"content-type": "application/json"}, body=body)
    )

    with pytest.raises(RevosAPIError, match="no chat completion"):
        await gpt4.extract(Person, PROMPT, text="x")


async def test_an_unknown_model_id_names_those_that_the_gateway_accepts(revos_gateway):
    config = revos_gateway.config(LLM_MODELS_NEW_MODEL="gpt-99")

    async with TokenManager(config) as tm, tm.extractor("new") as extractor:
        with pytest.raises(RevosAPIError) as caught:
            await extractor.extract(Person, PROMPT, text="x")

    assert caught.value.available_models == revos_gateway.models
    assert revos_gateway.models[0] in str(caught.value)


async def test_an_unreachable_gateway_is_a_temporary_api_error(revos_gateway):
    config = revos_gateway.config(base_url="http://127.0.0.1:9/v1", max_retries=1)

    async with TokenManager(config) as tm, tm.extractor("gpt-4") as extractor:
        with pytest.raises(RevosAPIError, match="could not be reached") as caught:
            await extractor.extract(Person, PROMPT, text="x")

    assert caught.value.temporary
    assert caught.value.status_code is None


async def test_where_no_token_can_be_had_the_token_error_comes_out(revos_gateway):
    revos_gateway.outage = Answer(status=401, body={"error": "invalid_client"})

    async with (
        TokenManager(revos_gateway.config()) as tm,
        tm.extractor("gpt-4") as extractor,
    ):
        with pytest.raises(RevosAuthenticationError) as caught:
            await extractor.extract(Person, PROMPT, text="x")

    assert caught.value.error == "invalid_client"


@pytest.mark.parametrize("name", ["gpt-4", "gpt_4", "GPT.4"])
async def test_model_names_match_whatever_case_and_separator(tm, name):
    async with tm.extractor(name) as extractor:
        assert await extractor.extract(Person, PROMPT, text="Ada, 36, London") == ADA


async def test_an_unknown_model_name_lists_the_configured_ones_and_the_nearest(tm):
    with pytest.raises(RevosConfigurationError, match=r"gpt_4.*nearest"):
        async with tm.extractor("gpt-5"):
            pytest.fail("entered")


async def test_model_settings_are_sent_and_nothing_else_is(revos_gateway):
    config = revos_gateway.config(LLM_MODELS_GPT_4_TEMPERATURE="0.5")

    async with TokenManager(config) as tm, tm.extractors("gpt-4", "claude-4") as extractors:
        await extractors["gpt-4"].extract(Person, PROMPT, text="Ada, 36, London")
        await extractors["claude_4"].extract(Person, PROMPT, text="Ada, 36, London")

    first, second = (record.payload for record in revos_gateway.chat_log)
    assert first["temperature"] == 0.5
    assert "temperature" not in second
    assert "max_tokens" not in second


async def test_settings_of_another_configuration_override_the_model(tm, revos_gateway):
    other = Config(
        revos=tm.config.revos,
        models={"gpt-4": ModelConfig(model="gpt-4o-mini")},
    )

    async with get_langchain_extractor("gpt-4", other, manager=tm) as extractor:
        await extractor.extract(Person, PROMPT, text="Ada, 36, London")

    assert revos_gateway.chat_log[-1].payload["model"] == "gpt-4o-mini"


async def test_an_extractor_used_directly_binds_at_its_first_use(revos_gateway):
    extractor = get_langchain_extractor("gpt-4")

    async with TokenManager(revos_gateway.config()):
        person = await extractor.extract(Person, PROMPT, text="Ada, 36, London")

    assert person == ADA
    with pytest.raises(RevosClosedError):
        await extractor.extract(Person, PROMPT, text="Ada, 36, London")


async def test_an_extractor_with_no_manager_around_says_what_to_do():
    with pytest.raises(RevosConfigurationError, match="async with TokenManager"):
        await get_langchain_extractor("gpt-4").extract(Person, PROMPT, text="x")


async def test_an_extractor_is_closed_after_its_block(tm):
    async with tm.extractor("gpt-4") as extractor:
        pass

    with pytest.raises(RevosClosedError):
        await extractor.extract(Person, PROMPT, text="x")


async def test_the_llm_is_not_there_before_the_block(tm):
    with pytest.raises(RevosClosedError, match="not entered"):
        _ = tm.extractor("gpt-4").llm


async def test_the_llm_carries_the_current_token(tm, gpt4, revos_gateway):
    revos_gateway.revoke(await tm.get_token())

    answer = await gpt4.run_asyncio(gpt4.llm.ainvoke, "hello")

    assert "hello" in answer.text
    assert revos_gateway.token_requests == 2


async def test_the_blocking_llm_carries_it_in_a_worker_thread(tm, gpt4, revos_gateway):
    revos_gateway.revoke(await tm.get_token())

    answer = await to_thread.run_sync(gpt4.llm.invoke, "hello")

    assert "hello" in answer.text
    assert revos_gateway.token_requests == 2


async def test_extractors_maps_all_configured_models(tm, revos_gateway):
    async with tm.extractors() as extractors:
        assert len(extractors) == len(revos_gateway.models)
        assert extractors["GPT-4"] is extractors["gpt_4"]
        assert "nope" not in extractors
    async with tm.extractors("claude-4") as extractors:
        assert list(extractors) == ["claude-4"]


async def test_the_models_of_the_gateway_are_listed(tm, revos_gateway):
    assert await tm.list_models() == list(revos_gateway.models)


async def test_a_list_of_models_that_is_none_is_an_api_error(tm, gpt4, revos_gateway):
    revos_gateway.refuse_all = True

    with pytest.raises(RevosAPIError) as caught:
        await tm.list_models()

    assert caught.value.status_code == 401


async def test_cancelling_an_extraction_leaves_the_others_running(gpt4, revos_gateway):
    revos_gateway.chat_delay = 0.05
    people = []

    async def extract():
        people.append(await gpt4.extract(Person, PROMPT, text="Ada, 36, London"))

    async with anyio.create_task_group() as tg:
        tg.start_soon(extract)
        with anyio.move_on_after(0.01) as scope:
            await gpt4.extract(Person, PROMPT, text="Ada, 36, London")

    assert scope.cancelled_caught
    assert people == [ADA]


async def test_opening_is_not_lost_to_the_others_when_the_first_opener_is_cancelled(revos_gateway):
    async with TokenManager(revos_gateway.config()) as tm:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await tm.extractor("gpt-4").__aenter__()
        async with tm.extractor("gpt-4") as extractor:
            assert await extractor.extract(Person, PROMPT, text="Ada, 36, London") == ADA


async def test_leaving_the_manager_ends_extractions_in_flight(revos_gateway):
    revos_gateway.chat_delay = 30
    outcomes = []

    async def extract(extractor):
        try:
            await extractor.extract(Person, PROMPT, text="Ada, 36, London")
        except (RevosAPIError, RevosClosedError) as error:
            outcomes.append(error)

    async with anyio.create_task_group() as tg:
        async with TokenManager(revos_gateway.config(max_retries=1)) as tm:
            extractor = await tm.extractor("gpt-4").__aenter__()
            tg.start_soon(extract, extractor)
            while not revos_gateway.chat_log:
                await anyio.sleep(0.005)
        with anyio.fail_after(5):
            while not outcomes:
                await anyio.sleep(0.005)

    assert len(outcomes) == 1


async def test_an_extraction_that_is_cancelled_in_the_tls_handshake_leaves_no_socket(revos_gateway):
    server = Hostile()

    async with raw_server(server) as port:
        config = revos_gateway.config(base_url=f"https://127.0.0.1:{port}/v1")
        async with (
            TokenManager(config) as tm,
            tm.extractor("gpt-4") as extractor,
            anyio.create_task_group() as extracting,
        ):
            extracting.start_soon(partial(extractor.extract, Person, PROMPT, text="x"))
            await server.asked.wait()
            extracting.cancel_scope.cancel()
        gc.collect()  # A ResourceWarning is an error here.


async def test_nothing_of_the_runtime_is_left_after_the_manager(revos_gateway):
    async with TokenManager(revos_gateway.config()) as tm, tm.extractor("gpt-4") as extractor:
        await extractor.extract(Person, PROMPT, text="Ada, 36, London")
    gc.collect()

    assert not [t for t in threading.enumerate() if t.name.startswith("revos")]


async def test_fifty_at_once_share_the_token_and_heal_with_one_request(tm, gpt4, revos_gateway):
    revos_gateway.revoke(await tm.get_token())

    async with anyio.create_task_group() as tg:
        for _ in range(50):
            tg.start_soon(partial(gpt4.extract, Person, PROMPT, text="Ada, 36, London"))

    assert revos_gateway.token_requests == 2


async def test_the_answer_of_the_gateway_is_in_no_log(gpt4, caplog):
    with caplog.at_level(logging.DEBUG):
        await gpt4.extract(Person, PROMPT, text="Ada-in-secret, 36, London")

    assert "Ada-in-secret" not in json.dumps([record.getMessage() for record in caplog.records])


async def test_the_gateways_words_are_masked_where_they_hold_the_token(tm, gpt4, revos_gateway):
    token = await tm.get_token()
    revos_gateway.chat_script.append(
        Answer(status=400, body={"error": {"message": f"bad request with {token}"}})
    )

    with pytest.raises(RevosAPIError) as caught:
        await gpt4.extract(Person, PROMPT, text="x")

    assert "bad request with ***" in str(caught.value)


async def test_a_redirect_of_the_api_takes_no_token_to_another_origin(tm, revos_gateway):
    other = "http://localhost:9/"

    async with httpx.AsyncClient(auth=tm.auth, follow_redirects=True) as http:
        with pytest.raises(httpx.ConnectError) as caught:
            await http.get(f"{revos_gateway.base_url}/redirect", params={"to": other})

    assert "authorization" not in caught.value.request.headers


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(
    "body",
    [
        {"detail": [{"loc": ["body", "response_format"], "msg": "extra fields not permitted"}]},
        {"detail": "response_format is not supported"},
        {"error": {"message": "Invalid parameter", "param": "response_format"}},
        {"error": "This model does not support json_schema"},
        {"error": {"message": "x " * 300 + "response_format is not supported"}},
        b"response_format unsupported",
    ],
)
async def test_a_refusal_that_names_the_feature_anywhere_steps_down(
    gpt4, revos_gateway, status, body
):
    revos_gateway.chat_script.append(Answer(status=status, body=body))

    assert await gpt4.extract(Person, PROMPT, text="Ada, 36, London") == ADA
    assert "tools" in revos_gateway.chat_log[-1].payload


@pytest.mark.parametrize(
    ("status", "words"), [(400, "too long"), (403, "you may not use json_schema")]
)
async def test_another_refusal_does_not_step_down(gpt4, revos_gateway, status, words):
    revos_gateway.chat_script.append(Answer(status=status, body={"error": {"message": words}}))

    with pytest.raises(RevosAPIError, match=words):
        await gpt4.extract(Person, PROMPT, text="Ada, 36, London")

    assert len(revos_gateway.chat_log) == 1


@pytest.mark.parametrize("strategy", ["json_schema", "tools"])
@pytest.mark.parametrize(
    ("reason", "told"), [("length", "raise max_tokens"), ("content_filter", "content filter held")]
)
async def test_an_answer_that_is_not_whole_is_told_as_one(
    tm, revos_gateway, strategy, reason, told
):
    cut_off = completion({"content": '{"name": "A'}, reason)
    revos_gateway.chat_script.append(Answer(status=200, body=cut_off))

    async with tm.extractor("gpt-4", strategy=strategy) as extractor:
        with pytest.raises(RevosValidationError, match=told) as caught:
            await extractor.extract(Person, PROMPT, text="x")

    assert caught.value.__context__ is None
    assert getattr(caught.value.__cause__, "__traceback__", None) is None
    assert not hasattr(caught.value.__cause__, "completion")


@pytest.mark.parametrize("target", [[int], {int}])
async def test_a_target_that_is_not_even_hashable_is_an_input_error(gpt4, target):
    with pytest.raises(RevosInputError, match="is no type"):
        await gpt4.extract(target, PROMPT, text="x")


async def test_an_opener_outside_the_block_that_is_left_meanwhile_gets_the_closed_error(
    revos_gateway,
):
    caught = []

    async def open_one(tm):
        try:
            await tm.extractor("gpt-4").__aenter__()
        except RevosClosedError as error:
            caught.append(error)

    async with anyio.create_task_group() as tasks, TokenManager(revos_gateway.config()) as tm:
        tasks.start_soon(open_one, tm)
        await anyio.lowlevel.checkpoint()

    assert len(caught) == 1
