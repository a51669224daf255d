"""What comes out of an extraction, or a list of models, that fails: fields and words."""

from __future__ import annotations

import json
import traceback

import httpx2
import openai
import pydantic
import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from sockets import RawEndpoint, http_answer, raw_server, then_reset

from revos import (
    RevosAPIError,
    RevosAuthenticationError,
    RevosInputError,
    RevosTokenError,
    RevosValidationError,
    TokenManager,
)
from revos.testing import Answer

PROMPT = "Extract the person: {text}"


class Person(pydantic.BaseModel):
    name: str
    age: int


@pytest.fixture
async def api():
    """The API of a gateway, byte for byte."""
    return RawEndpoint()


@pytest.fixture
async def over_raw_api(revos_gateway, api):
    """A manager whose tokens come from the gateway, and whose API is raw."""
    async with raw_server(api) as port:
        config = revos_gateway.config(base_url=f"http://127.0.0.1:{port}/v1/", max_retries=1)
        async with TokenManager(config) as manager:
            yield manager


async def refused(extractor):
    """The error of an extraction that the gateway refuses."""
    with pytest.raises(RevosAPIError) as caught:
        await extractor.extract(Person, PROMPT, text="Ada, 36")
    return caught.value


def error_body(message="odd", **more):
    return {"error": {"message": message, **more}}


def models_body(*ids):
    return json.dumps({"data": [{"id": one} for one in ids]}).encode()


# What a refusal says.


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (400, "check the request and the gateway"),
        (401, "check that the client may use this model"),
        (403, "check that the client may use this model"),
        (404, "check the model's id"),
        (409, "check the request and the gateway"),
        (429, "try again later"),
        (500, "try again later"),
    ],
)
async def test_a_refusal_tells_its_status_the_gateways_words_and_what_to_do(
    gpt4, revos_gateway, status, advice
):
    revos_gateway.chat_script.extend([Answer(status=status, body=error_body("as it says"))] * 2)

    error = await refused(gpt4)

    assert str(error) == f"the gateway refused with HTTP {status}: as it says ({advice})"
    assert error.status_code == status


async def test_a_refusal_without_a_word_is_told_in_those_of_the_client(gpt4, revos_gateway):
    revos_gateway.chat_script.append(Answer(status=403, body=b""))

    assert "refused with HTTP 403: Error code: 403 (" in str(await refused(gpt4))


async def test_a_refusal_keeps_the_code_of_the_gateway_and_how_long_to_wait(gpt4, revos_gateway):
    revos_gateway.chat_script.append(
        Answer(status=400, body=error_body(code="odd_code"), headers={"retry-after": "7"})
    )

    error = await refused(gpt4)

    assert (error.code, error.retry_after, error.temporary) == ("odd_code", 7, False)
    assert isinstance(error.__cause__, openai.BadRequestError)


@pytest.mark.parametrize(
    "error_object", [{"message": ["odd"]}, {"message": {}}, {"code": {"odd": 1}}, 5]
)
async def test_an_error_object_of_another_shape_is_told_as_it_came(
    gpt4, revos_gateway, error_object
):
    body = {"error": error_object}
    revos_gateway.chat_script.append(Answer(status=400, body=body))

    error = await refused(gpt4)

    assert json.dumps(body) in str(error)


async def test_a_refusal_for_too_long_a_prompt_is_a_refusal(gpt4, revos_gateway):
    body = error_body("too long", code="context_length_exceeded")
    revos_gateway.chat_script.append(Answer(status=400, body=body))

    error = await refused(gpt4)

    assert (error.status_code, error.code) == (400, "context_length_exceeded")


# No answer.


async def test_a_gateway_that_does_not_answer_in_time_is_a_temporary_api_error(revos_gateway):
    revos_gateway.chat_delay = 30
    config = revos_gateway.config(LLM_MODELS_GPT_4_TIMEOUT="0.05", max_retries=1)

    async with TokenManager(config) as tm, tm.extractor("gpt-4") as extractor:
        error = await refused(extractor)

    assert str(error) == "the gateway did not answer in time"
    assert error.temporary


async def test_a_gateway_that_can_not_be_reached_is_told_with_the_kind_of_the_failure(
    over_raw_api, api
):
    api.script = [then_reset()]

    async with over_raw_api.extractor("gpt-4") as extractor:
        error = await refused(extractor)

    assert "(ReadError)" in str(error)


# No token.


async def test_the_error_that_no_token_can_be_had_leads_into_no_frame_of_the_request(revos_gateway):
    revos_gateway.outage = Answer(status=401, body={"error": "invalid_client"})

    async with TokenManager(revos_gateway.config()) as tm, tm.extractor("gpt-4") as extractor:
        with pytest.raises(RevosAuthenticationError) as caught:
            await extractor.extract(Person, PROMPT, text="x")

    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert not [name for name in files if "/openai/" in name or "/httpx2/" in name]
    assert caught.value.__context__ is None


async def test_the_error_that_no_token_can_be_had_keeps_the_transport_error_as_its_cause(
    revos_gateway,
):
    config = revos_gateway.config(token_url="http://127.0.0.1:9/token", max_retries=1)

    async with TokenManager(config) as tm, tm.extractor("gpt-4") as extractor:
        with pytest.raises(RevosAuthenticationError) as caught:
            await extractor.extract(Person, PROMPT, text="x")

    assert type(caught.value.__cause__).__name__ == "ConnectError"


class Wrapping(AsyncCallbackHandler):
    """A callback that wraps an error of revos, as some versions of the OpenAI client do."""

    raise_error = True

    def __init__(self):
        self.wrapped = RevosTokenError("no token")

    async def on_chat_model_start(self, *_, **__):
        raise ValueError("wrapped") from self.wrapped


class Mishandling(Wrapping):
    """A callback that fails while it handles an error of revos."""

    async def on_chat_model_start(self, *_, **__):
        try:
            raise self.wrapped
        except RevosTokenError:
            raise ValueError("mishandled")  # noqa: B904 - as in code of others


@pytest.mark.parametrize("kind", [Wrapping, Mishandling])
async def test_an_error_of_revos_that_others_wrapped_is_what_comes_out(gpt4, kind):
    callback = kind()
    gpt4.llm.callbacks = [callback]

    with pytest.raises(RevosTokenError, match="no token") as caught:
        await gpt4.extract(Person, PROMPT, text="x")

    assert caught.value is not callback.wrapped


@pytest.mark.parametrize("event", ['event: error\ndata: "{}"', "data: {}"], ids=["error", "words"])
async def test_the_token_of_a_request_is_masked_though_none_is_held_before_and_after(
    revos_gateway, event
):
    token = revos_gateway.issue("token-of-the-request")
    granted = {"access_token": token, "token_type": "Bearer", "expires_in": 3600}
    revos_gateway.token_script.append(Answer(body=granted))
    quoting = f"{event.format(f'overloaded {token} now')}\n\n".encode()
    headers = {"content-type": "text/event-stream"}
    revos_gateway.chat_script.append(Answer(headers=headers, body=quoting))
    config = revos_gateway.config(max_retries=1, enable_periodic_refresh=False)

    async with TokenManager(config) as tm, tm.extractor("gpt-4") as extractor:
        revos_gateway.refuse_if = lambda _: tm.invalidate()
        async with extractor.extract_stream(Person, PROMPT, text="x") as parts:
            with pytest.raises(RevosAPIError, match=r"overloaded \*\*\* now") as caught:
                await anext(parts)

    assert token not in f"{caught.value!r} {caught.value.__cause__!r}"


def _quoting(token):
    message = {"role": "assistant", "content": f"overloaded {token} now"}
    return {
        "error": {"error": {"message": f"overloaded {token} now"}},
        "refusal": {"choices": [{"message": message | {"refusal": message["content"]}}]},
        "answer that does not fit": {"choices": [{"message": message}]},
    }


@pytest.mark.parametrize("kind", _quoting(""))
async def test_the_token_of_a_request_is_masked_in_a_whole_answer_too(revos_gateway, kind):
    token = revos_gateway.issue("token-of-the-request")
    granted = {"access_token": token, "token_type": "Bearer", "expires_in": 3600}
    revos_gateway.token_script.append(Answer(body=granted))
    revos_gateway.chat_script.append(Answer(body=_quoting(token)[kind]))
    config = revos_gateway.config(max_retries=1, enable_periodic_refresh=False)

    async with TokenManager(config) as tm, tm.extractor("gpt-4", repairs=0) as extractor:
        revos_gateway.refuse_if = lambda _: tm.invalidate()
        with pytest.raises((RevosAPIError, RevosValidationError)) as caught:
            await extractor.extract(Person, PROMPT, text="x")

    error = caught.value
    assert "***" in f"{error} {getattr(error, 'raw', '')}"
    assert token not in f"{error!r} {error.__cause__!r} {vars(error)}"


async def test_a_token_that_comes_back_as_the_name_of_the_model_is_masked(revos_gateway):
    async with TokenManager(revos_gateway.config()) as tm, tm.extractor("gpt-4") as extractor:
        message = {"role": "assistant", "content": '{"name": "Ada", "age": 36}'}
        said = {"model": f"gpt {await tm.get_token()}", "choices": [{"message": message}]}
        revos_gateway.chat_script.append(Answer(body=said))

        result = await extractor.extract_result(Person, PROMPT, text="x")

    assert (result.value, result.model) == (Person(name="Ada", age=36), "gpt ***")


# Errors of others.


class Circle(AsyncCallbackHandler):
    """A callback of a user whose error has itself among its causes."""

    raise_error = True

    async def on_chat_model_start(self, *_, **__):
        first, second = ValueError("first"), ValueError("second")
        first.__cause__, second.__cause__ = second, first
        raise first


async def test_an_error_whose_causes_go_in_a_circle_ends_in_an_error(gpt4):
    gpt4.llm.callbacks = [Circle()]

    error = await refused(gpt4)

    assert "ValueError" in str(error)


class OddRequestError(ValueError):
    """Of something else than HTTP."""

    request = "of its own"


class Raising(AsyncCallbackHandler):
    """A callback of a user that fails in its own way."""

    raise_error = True

    def __init__(self, error):
        self._error = error

    async def on_chat_model_start(self, *_, **__):
        raise self._error


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (ValueError(), "no chat completion (ValueError)"),
        (KeyError({"message": "mine"}), "no chat completion (KeyError)"),
        (OddRequestError("mine"), "no chat completion (OddRequestError)"),
        (httpx2.ReadError("mine"), "could not be reached (ReadError)"),
    ],
    ids=str,
)
async def test_an_error_of_an_odd_shape_is_told_by_its_name(gpt4, own, words):
    gpt4.llm.callbacks = [Raising(own)]

    assert words in str(await refused(gpt4))


async def test_an_error_in_place_of_an_answer_that_has_no_words_is_told_as_it_came(
    gpt4, revos_gateway
):
    revos_gateway.chat_script.append(Answer(body={"error": {"type": "odd"}}))

    assert "{'type': 'odd'}" in str(await refused(gpt4))


# Model ids that the gateway accepts.


async def test_a_model_that_is_not_known_by_status_400_is_told_with_those_that_are(
    revos_gateway,
):
    config = revos_gateway.config(LLM_MODELS_NEW_MODEL="gpt-99", max_retries=1)
    said = error_body("Invalid MODEL name passed", code="odd_code")
    revos_gateway.chat_script.append(Answer(status=400, body=said, headers={"retry-after": "7"}))

    async with TokenManager(config) as tm, tm.extractor("new") as extractor:
        error = await refused(extractor)

    assert isinstance(error.__cause__, openai.BadRequestError)
    assert error.available_models == revos_gateway.models
    assert (error.status_code, error.code, error.retry_after) == (400, "odd_code", 7)


async def test_a_model_that_is_not_known_by_the_code_alone_is_told_with_those_that_are(
    revos_gateway,
):
    config = revos_gateway.config(LLM_MODELS_NEW_MODEL="gpt-99", max_retries=1)
    said = error_body("no such deployment", code="model_not_found")
    revos_gateway.chat_script.append(Answer(status=400, body=said))

    async with TokenManager(config) as tm, tm.extractor("new") as extractor:
        error = await refused(extractor)

    assert error.available_models == revos_gateway.models


@pytest.mark.parametrize(("status", "words"), [(400, "too long"), (422, "an odd model")])
async def test_another_refusal_asks_for_no_list_of_models(revos_gateway, status, words):
    config = revos_gateway.config(LLM_MODELS_NEW_MODEL="gpt-99", max_retries=1)
    revos_gateway.chat_script.append(Answer(status=status, body=error_body(words)))

    async with TokenManager(config) as tm, tm.extractor("new") as extractor:
        error = await refused(extractor)

    assert error.available_models == ()
    assert revos_gateway.api_requests == 1


async def test_a_model_that_is_in_the_list_is_not_told_as_unknown(gpt4, revos_gateway):
    revos_gateway.chat_script.append(Answer(status=404, body=error_body("no such model")))

    error = await refused(gpt4)

    assert error.available_models == ()
    assert "accepts" not in str(error)


async def test_an_empty_list_of_models_is_not_told(gpt4, revos_gateway):
    revos_gateway.models = ()

    error = await refused(gpt4)

    assert "accepts" not in str(error)


async def test_a_list_of_models_that_can_not_be_had_leaves_the_first_error(gpt4, revos_gateway):
    revos_gateway.models = ()
    revos_gateway.refuse_if = lambda request: request.path == "/v1/models"

    error = await refused(gpt4)

    assert (error.status_code, error.code) == (404, "model_not_found")


async def test_a_long_list_of_models_is_cut_in_the_words_and_whole_in_the_field(revos_gateway):
    config = revos_gateway.config(LLM_MODELS_NEW_MODEL="gpt-99", max_retries=1)
    revos_gateway.models = tuple(f"model-{number}" for number in range(500))

    async with TokenManager(config) as tm, tm.extractor("new") as extractor:
        error = await refused(extractor)

    assert len(str(error)) < 1_000
    assert error.available_models == revos_gateway.models


# The list of models itself.


async def test_models_are_listed_at_one_slash(over_raw_api, api):
    api.script = [http_answer(models_body("gpt-4"))]

    assert await over_raw_api.list_models() == ["gpt-4"]
    assert api.requests[0].startswith(b"GET /v1/models HTTP/1.1\r\n")


async def test_ids_that_hold_the_token_or_do_not_print_are_masked(over_raw_api, api):
    token = await over_raw_api.get_token()
    api.script = [http_answer(models_body(f"gpt-{token}", "gpt\n-4"))]

    assert await over_raw_api.list_models() == ["gpt-***", "gpt -4"]


@pytest.mark.parametrize(
    ("status", "temporary"), [(404, False), (429, True), (500, True), (503, True)]
)
async def test_a_list_with_another_status_is_a_refusal(over_raw_api, api, status, temporary):
    api.script = [http_answer(models_body("gpt-4"), f"{status} Odd", "Retry-After: 7")]

    with pytest.raises(RevosAPIError) as caught:
        await over_raw_api.list_models()

    error = caught.value
    assert (error.status_code, error.retry_after, error.temporary) == (status, 7, temporary)


async def test_a_list_of_another_shape_is_told_as_none(over_raw_api, api):
    api.script = [http_answer(b'{"data": [{"name": "gpt-4"}]}')]

    with pytest.raises(RevosAPIError, match="no list of models"):
        await over_raw_api.list_models()


async def test_a_gateway_that_ends_the_connection_is_a_temporary_error_without_frames(
    over_raw_api, api
):
    api.script = [then_reset()]

    with pytest.raises(RevosAPIError, match=r"could not be reached \(ReadError\)") as caught:
        await over_raw_api.list_models()

    assert caught.value.temporary
    assert caught.value.__cause__.__traceback__ is None
    assert caught.value.__context__ is None


# Prompts, targets and answers.


class Unfilled:
    """A value whose `__format__` fails."""

    def __init__(self, error):
        self.error = error

    def __format__(self, layout):
        raise self.error


@pytest.mark.parametrize(
    "error", [ValueError(), KeyError("x"), TypeError(), AttributeError(), IndexError()]
)
async def test_a_prompt_that_can_not_be_filled_is_an_input_error(gpt4, revos_gateway, error):
    with pytest.raises(RevosInputError, match=f"filled \\({type(error).__name__}\\)") as caught:
        await gpt4.extract(Person, PROMPT, text=Unfilled(error))

    assert caught.value.__cause__ is error
    assert revos_gateway.api_requests == 0


class Callback(pydantic.BaseModel):
    call: type[Unfilled] | None
    act: pydantic.InstanceOf[Unfilled]


class Unfinished(pydantic.BaseModel):
    other: "NowhereDefined"  # noqa: F821, UP037


@pytest.mark.parametrize("target", [Callback, Unfinished])
async def test_a_target_without_a_schema_is_an_input_error(gpt4, revos_gateway, target):
    with pytest.raises(RevosInputError, match=f"{target.__name__} has no JSON schema"):
        await gpt4.extract(target, PROMPT, text="x")

    assert revos_gateway.api_requests == 0


async def test_no_answer_is_told_as_none(tm, revos_gateway):
    revos_gateway.chat_script.append("")

    async with tm.extractor("gpt-4", repairs=0) as extractor:
        with pytest.raises(RevosValidationError, match="gave no answer to fit Person") as caught:
            await extractor.extract(Person, PROMPT, text="x")

    assert caught.value.raw is None
    assert [problem.message for problem in caught.value.problems] == ["no answer"]
    assert caught.value.target is Person


async def test_arguments_of_a_tool_that_are_no_json_are_kept_as_they_came(tm, revos_gateway):
    revos_gateway.chat_script.append("no json")

    async with tm.extractor("gpt-4", strategy="tools", repairs=0) as extractor:
        with pytest.raises(RevosValidationError) as caught:
            await extractor.extract(Person, PROMPT, text="x")

    assert caught.value.raw == "no json"
