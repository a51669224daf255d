"""Which refusals step down, which do not, and what is remembered of them."""

from __future__ import annotations

import json
import logging
import warnings

import anyio
import pydantic
import pytest

from revos import Config, ModelConfig, RevosAPIError, TokenManager, get_langchain_extractor
from revos.extraction.strategies import features_in, instruction
from revos.extraction.targets import target_of
from revos.testing import Answer

PROMPT = "Extract the person: {text}"
TEXT = "Ada, 36, London"


class Person(pydantic.BaseModel):
    name: str
    age: int
    city: str


ADA = Person(name="Ada", age=36, city="London")


def openai_says(message, param=None, code=None):
    return {"error": {"message": message, "type": "invalid_request_error", "param": param}} | (
        {"code": code} if code else {}
    )


def vllm_says(message):
    return {
        "object": "error",
        "message": message,
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    }


# As gateways were reported to refuse a `response_format` with a schema.
NO_JSON_SCHEMA = {
    "OpenAI": openai_says(
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this "
        "model. Learn more about supported models at the Structured Outputs guide.",
        "response_format",
    ),
    "OpenAI, in param alone": openai_says("Invalid parameter.", "response_format"),
    "OpenAI, in code alone": openai_says("Bad request.", code="response_format_unsupported"),
    "Azure": {
        "error": {
            "code": "BadRequest",
            "message": "response_format value as json_schema is enabled only for api versions "
            "2024-08-01-preview and later",
        }
    },
    "DeepSeek": openai_says("This response_format type is unavailable now"),
    "DeepSeek, Rust": b"Failed to deserialize the JSON body into the target type: "
    b"response_format: response_format.type `json_schema` is unavailable now at line 1 column 9",
    "Groq": openai_says("This model does not support response format `json_schema`."),
    "LiteLLM": {
        "error": {
            "message": "litellm.UnsupportedParamsError: openai does not support parameters: "
            "['response_format'], for model=gpt-4. To drop these, set `litellm.drop_params=True`",
            "type": "None",
            "param": None,
            "code": "400",
        }
    },
    "LiteLLM before Bedrock": openai_says(
        'litellm.BadRequestError: BedrockException - {"message":"The model returned the following '
        'errors: output_config.format: Extra inputs are not permitted"}'
    ),
    "Mistral": {
        "object": "error",
        "message": {
            "detail": [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "response_format", "json_schema"],
                    "msg": "Extra inputs are not permitted",
                    "input": {"name": "Person"},
                }
            ]
        },
    },
    "FastAPI": {"detail": [{"loc": ["body", "response_format"], "msg": "value is not a dict"}]},
    "vLLM": vllm_says(
        "[{'type': 'literal_error', 'loc': ('body', 'response_format', 'type'), 'msg': \"Input "
        "should be 'text' or 'json_object'\", 'input': 'json_schema'}]"
    ),
    "vLLM, its backend": vllm_says("guided decoding is not supported by this engine"),
    "TGI": {"error": "Input validation error: grammar is not supported", "error_type": "x"},
    "Gemini": [
        {
            "error": {
                "code": 400,
                "message": "Json mode is not enabled for models/gemini-pro",
                "status": "INVALID_ARGUMENT",
            }
        }
    ],
    "llama.cpp": openai_says(
        'response_format type must be one of "text" or "json_object", but got: json_schema'
    ),
    "a text": {"error": "structured outputs are not available for this model"},
}

# And tools.
NO_TOOLS = {
    "OpenAI": openai_says("Unsupported parameter: 'tools' is not supported with this model."),
    "OpenAI, in param alone": openai_says("Invalid parameter.", "tools[0].function.parameters"),
    "Ollama": openai_says("registry.ollama.ai/library/gemma3:4b does not support tools"),
    "Ollama, its own API": {"error": "registry.ollama.ai/library/gemma3:4b does not support tools"},
    "vLLM": vllm_says(
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
    ),
    "LiteLLM": openai_says(
        "litellm.UnsupportedParamsError: perplexity does not support parameters: ['tools', "
        "'tool_choice'], for model=sonar."
    ),
    "Bedrock": {"message": "This model doesn't support tool use."},
    "Bedrock, its field": {"message": "The model does not support the toolConfig field."},
    "Gemini": [{"error": {"message": "Function calling is not enabled for models/gemma-3-27b-it"}}],
    "DashScope": openai_says(
        "The tool_choice parameter does not support being set to required or object in thinking "
        "mode"
    ),
    "FastAPI": {"detail": [{"loc": ["body", "tool_choice"], "msg": "extra fields not permitted"}]},
}

# What names a feature by chance: refused for what is in the prompt, or repeats it.
SOMETHING_ELSE = {
    "OpenAI, a long prompt": openai_says(
        "This model's maximum context length is 8192 tokens. However, your messages resulted in "
        "9000 tokens (8900 in the messages, 100 in the functions).",
        "messages",
        "context_length_exceeded",
    ),
    "LiteLLM, a long prompt": openai_says(
        "litellm.ContextWindowExceededError: OpenAIException - too long (100 in the functions)"
    ),
    "vLLM, a long prompt": vllm_says(
        "Input length (9000) exceeds model's maximum context length (8192), response_format and "
        "tools included."
    ),
    "Azure, a filter": openai_says(
        "The prompt triggered Azure OpenAI's content management policy: a tool for harm",
        code="content_filter",
    ),
    "LiteLLM, a filter": openai_says(
        "litellm.ContentPolicyViolationError: json_schema of a tool for harm"
    ),
    "FastAPI, what was sent": {
        "detail": [
            {
                "type": "missing",
                "loc": ["body", "user"],
                "msg": "Field required",
                "input": {"response_format": {"type": "json_schema"}, "tools": []},
            }
        ]
    },
    "a page": b"<html><script>function tools() {}</script>response_format</html>",
    "a word": openai_says("This functionality is dysfunctional: see the toolbox"),
}


# Of one schema, where others may pass: named as it was sent as a format, or as a tool.
NOT_THIS_SCHEMA = {
    "OpenAI": (
        openai_says(
            "Invalid schema for response_format 'Person': In context=('properties', 'age'), "
            "'format' is not permitted.",
            "response_format",
        ),
        "json_schema",
    ),
    "OpenAI, a tool": (
        openai_says(
            "Invalid schema for function 'Person': In context=(), 'anyOf' is not permitted.",
            "tools[0].function.parameters",
            "invalid_function_parameters",
        ),
        "tools",
    ),
    "vLLM": (vllm_says("Failed to convert the grammar from JSON schema: unknown"), "json_schema"),
    "Gemini": (
        openai_says("The specified response_schema produces a constraint that has too many states"),
        "json_schema",
    ),
    "Anthropic": (openai_says("output_config: the schema is too complex"), "json_schema"),
}


def strategies_of(gateway):
    """How each request asked for the shape."""
    return [
        "json_schema"
        if "response_format" in record.payload
        else "tools"
        if "tools" in record.payload
        else "json_text"
        for record in gateway.chat_log
    ]


def steps_told(caplog):
    return [record.message for record in caplog.records if "refuses" in record.message]


@pytest.mark.parametrize("said", NO_JSON_SCHEMA.values(), ids=NO_JSON_SCHEMA)
def test_a_refusal_of_a_schema_names_it(said):
    assert "json_schema" in features_in(said.decode() if type(said) is bytes else json.dumps(said))


@pytest.mark.parametrize("said", NO_TOOLS.values(), ids=NO_TOOLS)
def test_a_refusal_of_tools_names_them(said):
    assert features_in(json.dumps(said)) == ("tools",)


@pytest.mark.parametrize(("said", "feature"), NOT_THIS_SCHEMA.values(), ids=NOT_THIS_SCHEMA)
def test_a_refusal_of_one_schema_is_told_from_that_of_all(said, feature):
    assert features_in(json.dumps(said)) == (feature, "schema")


@pytest.mark.parametrize("said", NO_JSON_SCHEMA.values(), ids=NO_JSON_SCHEMA)
def test_a_refusal_of_all_schemas_is_not_of_one(said):
    said = said.decode() if type(said) is bytes else json.dumps(said)

    assert "schema" not in features_in(said)


@pytest.mark.parametrize("said", SOMETHING_ELSE.values(), ids=SOMETHING_ELSE)
def test_a_refusal_of_something_else_names_none(said):
    said = said.decode() if type(said) is bytes else json.dumps(said)

    assert features_in(said) == ()


@pytest.mark.parametrize(
    "prompt",
    [
        "Die Größe der tools und functions",
        'Die Größe der "tools" und functions',
        "tools\nfunctions " * 2,
    ],
)
def test_what_a_refusal_repeats_of_the_prompt_names_no_feature(prompt):
    said = json.dumps({"error": {"message": f"refused: {prompt}"}})

    assert features_in(said) == ("tools",)
    assert features_in(said, [prompt]) == ()


def test_a_word_of_the_prompt_may_stand_in_a_refusal_by_chance():
    assert features_in("tools are not supported", ["tools"]) == ("tools",)


def test_a_refusal_of_a_schema_that_names_no_feature_is_of_none():
    assert features_in("cannot compile the grammar of the regex: invalid_schema") == (
        "json_schema",
        "schema",
    )
    assert features_in("invalid_schema") == ()


def test_an_instruction_has_the_letters_of_the_schema():
    target = target_of({"type": "object", "description": "Größe", "properties": {}})

    assert instruction(target).count("Größe") == 2


@pytest.mark.parametrize("status", [400, 422])
async def test_each_refusal_steps_down_whatever_its_form(tm, revos_gateway, status):
    both = zip(NO_JSON_SCHEMA.values(), [*NO_TOOLS.values()] * 2, strict=False)
    for number, bodies in enumerate(both):
        revos_gateway.chat_log.clear()
        revos_gateway.chat_script.extend(Answer(status=status, body=body) for body in bodies)
        afresh = Config(
            revos=tm.config.revos, models={"m": ModelConfig(model="gpt-4", max_tokens=99 + number)}
        )
        async with get_langchain_extractor("m", afresh, manager=tm) as extractor:
            assert await extractor.extract(Person, PROMPT, text=TEXT) == ADA
        assert strategies_of(revos_gateway) == ["json_schema", "tools", "json_text"]


async def test_a_refusal_of_something_else_is_told_as_it_is(tm, revos_gateway):
    async with tm.extractor("gpt-4") as gpt4:
        for said in SOMETHING_ELSE.values():
            revos_gateway.chat_script.append(Answer(status=400, body=said))
            with pytest.raises(RevosAPIError) as caught:
                await gpt4.extract(Person, PROMPT, text=TEXT)
            assert caught.value.status_code == 400
        assert await gpt4.extract(Person, PROMPT, text=TEXT) == ADA

    assert set(strategies_of(revos_gateway)) == {"json_schema"}


@pytest.mark.parametrize("status", [401, 403, 404, 405, 409, 413, 429, 500, 501, 503])
async def test_no_other_status_steps_down(tm, revos_gateway, status):
    body = NO_JSON_SCHEMA["OpenAI"]
    revos_gateway.chat_script.extend([Answer(status=status, body=body)] * 2)

    async with tm.extractor("gpt-4") as gpt4:
        with pytest.raises(RevosAPIError, match="response_format") as caught:
            await gpt4.extract(Person, PROMPT, text=TEXT)

    assert caught.value.status_code == status
    assert set(strategies_of(revos_gateway)) == {"json_schema"}


@pytest.mark.parametrize("spelt", [json.dumps, repr, str], ids=["JSON", "repr", "as it is"])
async def test_a_prompt_that_is_sent_back_names_nothing(tm, revos_gateway, spelt):
    text = 'Is a "tool" with a response_format\n a function?'
    said = f"cannot read {spelt(f'Extract the person: {text}')}".encode()
    revos_gateway.chat_script.append(Answer(status=400, body=said))

    async with tm.extractor("gpt-4") as gpt4:
        with pytest.raises(RevosAPIError, match="cannot read"):
            await gpt4.extract(Person, PROMPT, text=text)

    assert strategies_of(revos_gateway) == ["json_schema"]


@pytest.mark.parametrize(
    ("used", "told"), [("tools", "json_schema"), ("json_text", "json_schema and tools")]
)
async def test_fifty_at_once_step_down_and_say_it_once(tm, revos_gateway, caplog, used, told):
    revos_gateway.unsupported |= set(told.split(" and "))
    people = []

    async def extract(extractor):
        people.append(await extractor.extract(Person, PROMPT, text=TEXT))

    with caplog.at_level(logging.DEBUG, "revos"):
        async with tm.extractor("gpt-4", max_concurrency=50) as gpt4:
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(extract, gpt4)
            revos_gateway.chat_log.clear()
            result = await gpt4.extract_result(Person, PROMPT, text=TEXT)

    assert people == [ADA] * 50
    assert result.strategy == used
    assert strategies_of(revos_gateway) == [used]
    assert steps_told(caplog) == [f"the gateway refuses {told} for 'gpt-4': using {used}"]


async def test_what_was_learnt_is_the_models(tm, revos_gateway):
    revos_gateway.unsupported.add("json_schema")
    async with tm.extractor("gpt-4") as first:
        await first.extract(Person, PROMPT, text=TEXT)
    revos_gateway.chat_log.clear()

    async with tm.extractor("GPT_4") as same, tm.extractor("claude-4") as other:
        await same.extract(Person, PROMPT, text=TEXT)
        await other.extract(Person, PROMPT, text=TEXT)

    assert strategies_of(revos_gateway) == ["tools", "json_schema", "tools"]


class Town(pydantic.BaseModel):
    city: str


@pytest.mark.parametrize("person", [Person, Person.model_json_schema()], ids=["type", "schema"])
async def test_what_was_learnt_of_one_schema_is_that_schemas(tm, revos_gateway, caplog, person):
    refusal = Answer(status=400, body=NOT_THIS_SCHEMA["OpenAI"][0])

    with caplog.at_level(logging.INFO, "revos"):
        async with tm.extractor("gpt-4") as gpt4:
            for target in (person, person, Town, person):
                revos_gateway.chat_script.extend([refusal] * (not revos_gateway.chat_log))
                await gpt4.extract(target, PROMPT, text=TEXT)

    asked = ["json_schema", "tools", "tools", "json_schema", "tools"]
    assert strategies_of(revos_gateway) == asked
    assert steps_told(caplog) == [
        "the gateway refuses json_schema for 'gpt-4' with the schema of Person: using tools"
    ]


async def test_what_was_learnt_of_the_model_is_known_where_a_schema_was_refused(tm, revos_gateway):
    async with tm.extractor("gpt-4") as gpt4:
        revos_gateway.chat_script.append(Answer(status=400, body=NOT_THIS_SCHEMA["OpenAI"][0]))
        await gpt4.extract(Person, PROMPT, text=TEXT)
        revos_gateway.unsupported |= {"json_schema", "tools"}
        await gpt4.extract(Town, PROMPT, text=TEXT)
        revos_gateway.chat_log.clear()
        await gpt4.extract(Person, PROMPT, text=TEXT)

    assert strategies_of(revos_gateway) == ["json_text"]


@pytest.mark.parametrize("body", [NO_JSON_SCHEMA["OpenAI"], NOT_THIS_SCHEMA["OpenAI"][0]])
async def test_a_step_down_lets_no_warning_out(tm, revos_gateway, body):
    revos_gateway.chat_script.append(Answer(status=400, body=body))

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        async with tm.extractor("gpt-4") as gpt4:
            result = await gpt4.extract_result(Person, PROMPT, text=TEXT)

    assert result.strategy == "tools"
    assert [str(one.message) for one in warned] == []


async def test_what_was_learnt_stays_learnt(tm, revos_gateway):
    revos_gateway.unsupported.add("json_schema")
    async with tm.extractor("gpt-4") as gpt4:
        await gpt4.extract(Person, PROMPT, text=TEXT)
        revos_gateway.unsupported.clear()
        revos_gateway.chat_log.clear()
        for _ in range(2):
            await gpt4.extract(Person, PROMPT, text=TEXT)

    assert strategies_of(revos_gateway) == ["tools", "tools"]


async def test_a_request_that_is_refused_in_every_way_teaches_nothing(tm, revos_gateway, caplog):
    revos_gateway.chat_script.extend(
        [Answer(status=400, body=b"no response_format, no tools, nothing")] * 3
    )

    with caplog.at_level(logging.INFO, "revos"):
        async with tm.extractor("gpt-4") as gpt4:
            with pytest.raises(RevosAPIError, match="nothing"):
                await gpt4.extract(Person, PROMPT, text=TEXT)
            result = await gpt4.extract_result(Person, PROMPT, text=TEXT)

    assert result.strategy == "json_schema"
    assert steps_told(caplog) == []


@pytest.mark.parametrize(
    ("strategy", "unsupported"), [("json_schema", "response_format"), ("tools", "tools")]
)
@pytest.mark.parametrize("status", [400, 422])
async def test_a_chosen_strategy_that_is_refused_is_told_with_status_and_words(
    tm, revos_gateway, strategy, unsupported, status
):
    revos_gateway.unsupported |= {"json_schema", "tools"}
    revos_gateway.unsupported_status = status

    async with tm.extractor("gpt-4", strategy=strategy) as gpt4:
        with pytest.raises(RevosAPIError, match=f"'{unsupported}' .*is not supported") as caught:
            await gpt4.extract(Person, PROMPT, text=TEXT)

    assert caught.value.status_code == status
    assert strategies_of(revos_gateway) == [strategy]


@pytest.mark.parametrize("strategy", ["json_schema", "tools", "json_text"])
async def test_a_result_tells_what_it_cost(tm, revos_gateway, strategy):
    async with tm.extractor("gpt-4", strategy=strategy) as gpt4:
        result = await gpt4.extract_result(Person, PROMPT, text=TEXT)

    usage = result.usage
    assert result.value == ADA
    assert result.error is None
    assert (result.strategy, result.attempts, result.model) == (strategy, 1, "gpt-4")
    assert usage.prompt_tokens > 0
    assert usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert "Ada" in result.raw
    assert "Ada" not in repr(result).replace(repr(ADA), "")
    assert 0 < result.seconds < 10
    assert (result.index, result.item) == (None, None)
    assert strategies_of(revos_gateway) == [strategy]


async def test_nothing_of_prompts_answers_and_tokens_is_in_our_logs(revos_gateway, caplog):
    revos_gateway.unsupported |= {"json_schema", "tools"}

    with caplog.at_level(logging.DEBUG):
        async with (
            TokenManager(revos_gateway.config(max_retries=3)) as patient,
            patient.extractor("gpt-4") as gpt4,
        ):
            secrets = ["Ada-of-the-prompt", "Bob-of-the-answer", await patient.get_token()]
            body = " ".join(secrets).encode()
            busy = Answer(status=503, body=body, headers={"retry-after": "0"})
            revos_gateway.chat_script.extend([busy, "Bob-of-the-answer"])
            await gpt4.extract(Person, PROMPT, text=f"{secrets[0]}, 36, London")

    ours = [r.getMessage() for r in caplog.records if r.name.split(".")[0] == "revos"]
    assert [r for r in ours if "again in" in r]
    assert [r for r in ours if "refuses" in r]
    assert [(r, s) for r in ours for s in secrets if s in r] == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("repairs", value) for value in (-1, True, "1", 1.5, None)),
        *(("max_concurrency", value) for value in (0, -1, False, "2", 2.5, None)),
        *(("strategy", value) for value in ("guess", "", None, 1, ["tools"], "JSON_SCHEMA")),
    ],
)
def test_an_option_that_cannot_be_is_named(option, value):
    with pytest.raises(ValueError, match=option):
        TokenManager().extractor("gpt-4", **{option: value})


async def test_what_auto_remembers_is_not_for_who_asked_for_one_strategy(tm, revos_gateway):
    revos_gateway.unsupported |= {"json_schema"}

    async with tm.extractor("gpt-4") as auto, tm.extractor("gpt-4", strategy="json_schema") as one:
        await auto.extract(Person, PROMPT, text="Ada, 36")
        with pytest.raises(RevosAPIError):
            await one.extract(Person, PROMPT, text="Ada, 36")
