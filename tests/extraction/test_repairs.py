"""What is made of a model's answer, what goes back to it, and what never does."""

from __future__ import annotations

import json
from typing import Annotated

import pydantic
import pytest

from revos import RevosAPIError, RevosInputError, RevosValidationError
from revos.extraction.answers import Usage
from revos.testing import Answer

PROMPT = "Extract the person: {text}"
TEXT = "Ada, 36, London"
STRATEGIES = ("json_schema", "tools", "json_text")


class Person(pydantic.BaseModel):
    name: str
    age: int


# A call of its tool looks like one, too.
Named = pydantic.create_model("Person", name=(str, ...))
ADA = Person(name="Ada", age=36)
SAID = '{"name": "Ada", "age": 36}'
ELDER = '{"name": "Ada", "age": "old"}'


def called(arguments, name="Person"):
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


def completion(finish_reason="stop", usage=(1, 2, 3), **message):
    """A completion with this message of the assistant."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    choice = {"index": 0, "message": {"role": "assistant", "content": None} | message}
    return Answer(
        body={
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-4-0613",
            "choices": [choice | ({"finish_reason": finish_reason} if finish_reason else {})],
        }
        | ({"usage": dict(zip(names, usage, strict=True))} if usage else {})
    )


@pytest.fixture(params=STRATEGIES)
async def gpt4(tm, request):
    async with tm.extractor("gpt-4", strategy=request.param) as extractor:
        yield extractor


async def extract(extractor, *answers, gateway):
    gateway.chat_script.extend(answers)
    return await extractor.extract_result(Person, PROMPT, text=TEXT)


# What goes back.


HALF_AND_WHOLE = r'{"name": "\ud83d é", "age": "old"}'


async def test_what_goes_back_of_a_call_is_spelt_as_one_would_and_can_be_sent(tm, revos_gateway):
    async with tm.extractor("gpt-4", strategy="tools", repairs=2) as gpt4:
        answers = [HALF_AND_WHOLE, HALF_AND_WHOLE.replace(r"\ud83d ", "")]
        result = await extract(gpt4, *answers, gateway=revos_gateway)

    *_, half, _, whole, _ = revos_gateway.chat_log[-1].payload["messages"]
    assert result.value == ADA
    assert json.loads(half["content"])["name"] == "\ud83d é"
    assert "é" in whole["content"]


async def test_an_answer_that_does_not_fit_goes_back_with_its_problems(gpt4, revos_gateway):
    result = await extract(gpt4, ELDER, gateway=revos_gateway)

    first, second = (record.payload for record in revos_gateway.chat_log)
    answer, complaint = second["messages"][-2:]
    assert result.value == ADA
    assert second["messages"][:-2] == first["messages"]
    assert (answer["role"], complaint["role"]) == ("assistant", "user")
    assert json.loads(answer["content"]) == json.loads(ELDER)
    assert "- age: " in complaint["content"]
    assert "valid integer" in complaint["content"]
    shape = ("response_format", "tools", "tool_choice")
    assert [second.get(name) for name in shape] == [first.get(name) for name in shape]


async def test_a_result_has_what_all_attempts_cost(tm, revos_gateway):
    async with tm.extractor("gpt-4", repairs=3) as gpt4:
        result = await extract(
            gpt4,
            completion(content=ELDER, usage=(10, 20, 30)),
            completion(content="I can't.", usage=None),
            completion(content=SAID, usage=(100, 200, 300)),
            gateway=revos_gateway,
        )

    assert (result.attempts, result.value, result.raw) == (3, ADA, SAID)
    assert result.usage == Usage(110, 220, 330)
    assert result.model == "gpt-4-0613"


@pytest.mark.parametrize("raised", [ValueError, RuntimeError, KeyError])
async def test_the_words_of_a_types_own_checks_go_back(tm, revos_gateway, raised):
    class Grown(Person):
        @pydantic.field_validator("age")
        @classmethod
        def is_grown(cls, age):
            if age < 18:
                raise raised("must be grown up")
            return age

    revos_gateway.chat_script.extend(['{"name": "Ada", "age": 3}', SAID])

    async with tm.extractor("gpt-4") as gpt4:
        grown = await gpt4.extract(Grown, PROMPT, text=TEXT)

    assert grown.age == 36
    assert "must be grown up" in revos_gateway.chat_log[-1].payload["messages"][-1]["content"]


async def test_the_first_value_that_fits_is_the_answer(tm, revos_gateway):
    async with tm.extractor("gpt-4", repairs=0) as gpt4:
        result = await extract(gpt4, f"Not {ELDER} but {SAID}, or so.", gateway=revos_gateway)
        with pytest.raises(RevosValidationError) as caught:
            await extract(gpt4, f'{ELDER} or {{"name": 1}}', gateway=revos_gateway)

    assert result.value == ADA
    assert [problem.path for problem in caught.value.problems] == ["age"]


@pytest.mark.parametrize("repairs", [0, 1, 3])
async def test_an_answer_goes_back_as_often_as_was_said(tm, revos_gateway, repairs):
    async with tm.extractor("gpt-4", repairs=repairs) as gpt4:
        with pytest.raises(RevosValidationError) as caught:
            await extract(gpt4, *[ELDER] * 9, gateway=revos_gateway)

    assert (caught.value.reason, caught.value.raw) == ("invalid", ELDER)
    assert [problem.path for problem in caught.value.problems] == ["age"]
    assert len(revos_gateway.chat_log) == repairs + 1


async def test_where_nothing_was_said_the_complaint_goes_back_alone(gpt4, revos_gateway):
    roles = []

    for content in (None, "", "  \n", []):
        revos_gateway.chat_log.clear()
        await extract(gpt4, completion(content=content), SAID, gateway=revos_gateway)
        first, second = (record.payload["messages"] for record in revos_gateway.chat_log)
        roles.append([message["role"] for message in second[len(first) :]])

    assert roles == [["user"]] * 4


UNFIT = {
    "a call without an end": {"tool_calls": [called('{"name": "Ada"')]},
    "a call that does not fit": {"tool_calls": [called(ELDER)]},
    "a list in a call": {"tool_calls": [called("[1]")]},
    "nothing in a call": {"tool_calls": [called("{}")]},
    "a call nested too deeply": {"tool_calls": [called("[" * 100_000)]},
    "no arguments": {"tool_calls": [called("")]},
    "null for arguments": {"tool_calls": [called(None)]},
    "half of a character in a call": {"tool_calls": [called(r'{"name": "\ud83d"}')]},
    "a call of another tool": {"tool_calls": [called('{"q": 1}', "search")]},
    "prose": {"content": "Ada is 36."},
    "half of a character": {"content": r'{"name": "\ud83d"}'},
    "a comma too many": {"content": f'{{"all": [{SAID}],}}'},
}


async def test_whatever_does_not_fit_can_be_repaired(gpt4, revos_gateway):
    results = {
        name: await extract(gpt4, completion(**message), gateway=revos_gateway)
        for name, message in UNFIT.items()
    }

    assert {name: (r.value, r.attempts) for name, r in results.items()} == dict.fromkeys(
        UNFIT, (ADA, 2)
    )


# What never does.

FOR_GOOD = {
    "a refusal": ("stop", {"refusal": "I won't."}, "refusal"),
    "a part that refuses": (
        "stop",
        {
            "content": [
                {"type": "text", "text": "No.", "refusal": None},
                {"type": "refusal", "refusal": None},
                {"type": "refusal", "refusal": "I won't."},
            ]
        },
        "refusal",
    ),
    "OpenAI's length": ("length", {"content": SAID[:9]}, "length"),
    "Anthropic's": ("MAX_TOKENS", {"content": SAID[:9]}, "length"),
    "Mistral's": ("model_length", {"content": SAID[:9]}, "length"),
    "a call of it": ("length", {"tool_calls": [called(SAID[:9])]}, "length"),
    "a whole one": ("length", {"content": SAID}, "length"),
    "OpenAI's filter": ("content_filter", {}, "content_filter"),
    "Google's": ("SAFETY", {"content": ""}, "content_filter"),
}


async def test_what_no_repair_can_mend_is_told_at_once(gpt4, revos_gateway):
    reasons, raws = {}, {}

    for name, (finish_reason, message, _) in FOR_GOOD.items():
        with pytest.raises(RevosValidationError) as caught:
            await extract(gpt4, completion(finish_reason, **message), gateway=revos_gateway)
        reasons[name], raws[name] = caught.value.reason, caught.value.raw

    assert raws["a whole one"] == SAID
    assert raws["a call of it"] == SAID[:9]
    assert reasons == {name: reason for name, (_, _, reason) in FOR_GOOD.items()}
    assert len(revos_gateway.chat_log) == len(FOR_GOOD)


def _refusing(error):
    def refuse(value):
        raise error

    checked = Annotated[str, pydantic.AfterValidator(refuse)]
    return pydantic.create_model("Person", name=(checked, ...))


Broken = _refusing(RuntimeError("broken"))
TOLD = {
    "misfit": (Person, completion(content=ELDER), ELDER, "age"),
    "no JSON": (Person, completion(content="hm"), "hm", "no JSON value in the answer"),
    "code of the target's": (Broken, completion(content=SAID), SAID, "RuntimeError: broken"),
    "no answer": (Person, completion(), None, "no answer"),
    "misfits in calls": (
        Person,
        completion(tool_calls=[called(ELDER), called("{}"), called('{"age": 7}')]),
        ELDER + '\n{"age": 7}',
        "age",
    ),
    "calls": (
        Person,
        completion(tool_calls=[called(SAID), called('{"name": "Eve", "age": 1}')]),
        SAID + '\n{"name": "Eve", "age": 1}',
        "called 2 times",
    ),
    "a refusal": (Person, completion(refusal="No.", content="{"), "{", None),
    "cut off": (Person, completion("length", content="{"), "{", None),
}


@pytest.mark.parametrize("name", TOLD)
async def test_the_error_tells_what_was_wanted_what_came_and_what_is_wrong_with_it(
    tm, revos_gateway, name
):
    target, answer, raw, problem = TOLD[name]
    revos_gateway.chat_script.append(answer)

    async with tm.extractor("gpt-4", repairs=0) as gpt4:
        with pytest.raises(RevosValidationError) as caught:
            await gpt4.extract(target, PROMPT, text=TEXT)

    error = caught.value
    assert (error.target, error.raw) == (target, raw)
    told = [f"{one.path} {one.message}" for one in error.problems]
    assert len(told) == (problem is not None)
    assert problem is None or problem in told[0]
    if target is Broken:
        assert type(error.__cause__) is RuntimeError


# Answers in other ways than they were asked for.

Call = pydantic.create_model("Call", arguments=(Person, ...))


async def test_what_has_arguments_and_no_name_is_no_call(gpt4, revos_gateway):
    revos_gateway.chat_script.append(completion(content=f'{{"arguments": {SAID}}}'))

    assert await gpt4.extract(Call, PROMPT, text=TEXT) == Call(arguments=ADA)


ELSEWHERE = {
    "text": {"content": SAID},
    "a fence": {"content": f"Sure:\n```json\n{SAID}\n```\nAnything else?"},
    "after thoughts": {"content": f"<think>{ELDER}?</think>{SAID}"},
    "parts": {"content": [{"type": "text", "text": SAID[:9]}, {"type": "text", "text": SAID[9:]}]},
    "a part after thoughts": {
        "content": [{"type": "thinking", "thinking": "{}"}, {"type": "text", "text": SAID}]
    },
    "a part beside one that only speaks of a refusal": {
        "content": [{"type": "reasoning", "refusal": "no"}, {"type": "text", "text": SAID}]
    },
    "a call": {"tool_calls": [called(SAID)]},
    "a call of another tool": {"tool_calls": [called(SAID, "another")]},
    "a call beside one of another tool": {
        "tool_calls": [called(SAID), called('{"name": "Eve", "age": 7}', "another")]
    },
    "an object in a call": {"tool_calls": [called(json.loads(SAID))]},
    "a call that is encoded twice": {"tool_calls": [called(json.dumps(SAID))]},
    "a fence in a call": {"tool_calls": [called(f"```json\n{SAID}\n```")]},
    "a call and prose": {"tool_calls": [called(SAID)], "content": "I call the tool."},
    "an empty call and text": {"tool_calls": [called("{}")], "content": SAID},
    "a call whose arguments are null, and text": {"tool_calls": [called(None)], "content": SAID},
    "a call without arguments, as it was before tools, and text": {
        "function_call": {"name": "Person"},
        "content": SAID,
    },
    "a call as it was before tools": {"function_call": {"name": "Person", "arguments": SAID}},
    "an object in such a call": {
        "function_call": {"name": "Person", "arguments": json.loads(SAID)}
    },
    "such a call that is encoded twice": {
        "function_call": {"name": "Person", "arguments": json.dumps(SAID)}
    },
    "an object in place of a text": {"content": json.loads(SAID)},
    "the user's role": {"role": "user", "content": SAID},
    "a role of others": {"role": "model", "content": SAID},
    "the role of tools": {"role": "tool", "content": SAID},
    "no role": {"role": None, "content": SAID},
}


async def test_an_answer_counts_wherever_it_stands(gpt4, revos_gateway):
    results = {
        name: await extract(gpt4, completion(**message), gateway=revos_gateway)
        for name, message in ELSEWHERE.items()
    }

    assert {name: (r.value, r.attempts, r.usage) for name, r in results.items()} == dict.fromkeys(
        ELSEWHERE, (ADA, 1, Usage(1, 2, 3))
    )


async def test_of_several_calls_that_of_the_tool_that_was_asked_for_counts(tm, revos_gateway):
    calls = [called('{"name": "Eve", "age": 1}', "search"), called(SAID)]

    async with tm.extractor("gpt-4", strategy="tools") as gpt4:
        result = await extract(gpt4, completion(tool_calls=calls), gateway=revos_gateway)

    assert result.value == ADA


IN_TEXT = {
    "of Qwen": f'<tool_call>\n{{"name": "Person", "arguments": {SAID}}}\n</tool_call>',
    "of Llama": f'{{"type": "function", "name": "Person", "parameters": {SAID}}}',
    "of Mistral": f'[TOOL_CALLS] [{{"name": "Person", "arguments": {SAID}}}]',
    "encoded": json.dumps({"name": "Person", "arguments": SAID}),
    "among others": f'[7, {{"name": "Person", "arguments": {SAID}}}]',
    "after thoughts": f'<think>"Person"?</think>{{"name": "Person", "arguments": {SAID}}}',
}


@pytest.mark.parametrize("text", IN_TEXT.values(), ids=IN_TEXT)
async def test_a_call_that_the_gateway_has_left_in_the_text_is_one(tm, revos_gateway, text):
    async with tm.extractor("gpt-4", strategy="tools") as gpt4:
        revos_gateway.chat_script.append(completion(content=text))
        result = await gpt4.extract_result(Named, PROMPT, text=TEXT)

    assert (result.value, result.attempts) == (Named(name="Ada"), 1)


@pytest.mark.parametrize(
    ("begin", "end"), [("<tool_call>", "</tool_call>"), ("```json\n", "\n```")]
)
async def test_no_item_of_calls_that_are_left_in_the_text_is_lost(tm, revos_gateway, begin, end):
    calls = [{"name": "list_int", "arguments": {"value": [number]}} for number in (1, 2)]
    text = "\n".join(begin + json.dumps(call) + end for call in calls)

    async with tm.extractor("gpt-4", strategy="tools") as gpt4:
        revos_gateway.chat_script.append(completion(content=text))

        result = await gpt4.extract_result(list[int], PROMPT, text=TEXT)

    assert (result.value, result.attempts) == ([1, 2], 1)


async def test_a_call_that_is_left_in_the_text_twice_may_be_meant_twice(tm, revos_gateway):
    call = json.dumps({"name": "list_int", "arguments": {"value": [1]}})

    async with tm.extractor("gpt-4", strategy="tools") as gpt4:
        revos_gateway.chat_script.extend(
            [completion(content=f"{call} {call}"), '{"value": [1, 1]}']
        )
        result = await gpt4.extract_result(list[int], PROMPT, text=TEXT)

    assert (result.value, result.attempts) == ([1, 1], 2)


@pytest.mark.parametrize(("strategy", "name"), [("json_schema", "Person"), ("tools", "search")])
async def test_what_only_looks_like_a_call_is_an_answer(tm, revos_gateway, strategy, name):
    said = {"name": name, "arguments": {"name": "Ada"}}

    async with tm.extractor("gpt-4", strategy=strategy) as gpt4:
        revos_gateway.chat_script.append(completion(content=json.dumps(said)))

        assert await gpt4.extract(Named, PROMPT, text=TEXT) == Named(name=name)


async def test_a_call_in_the_text_that_is_cut_off_can_be_repaired(tm, revos_gateway):
    cut_off = f'<tool_call>{{"name": "Person", "arguments": {SAID}'

    async with tm.extractor("gpt-4", strategy="tools") as gpt4:
        result = await extract(gpt4, completion(content=cut_off), SAID, gateway=revos_gateway)

    assert (result.value, result.attempts) == (ADA, 2)


EVE = {"name": "Eve", "age": 1}
ITEMS = {
    "each in a list": ([{"value": [json.loads(SAID)]}, {"value": [EVE]}], 1),
    "each bare": ([json.loads(SAID), EVE], 1),
    "each in a bare list": ([[json.loads(SAID)], [EVE]], 1),
    "one in a bare list": ([{"value": [json.loads(SAID)]}, [EVE]], 1),
    "one of them twice in one": ([{"value": [json.loads(SAID)]}, {"value": [EVE, EVE]}], 1),
    "one of them in two": ([{"value": [json.loads(SAID)]}, {"value": [json.loads(SAID), EVE]}], 2),
    "one that does not fit": ([{"value": [json.loads(SAID)]}, {"name": "Eve"}], 2),
    "one cut off": ([{"value": [json.loads(SAID)]}, '{"value": [{"name"'], 2),
}


@pytest.mark.parametrize(("said", "attempts"), ITEMS.values(), ids=ITEMS)
async def test_no_item_of_a_list_that_is_said_in_several_calls_is_lost(
    gpt4, revos_gateway, said, attempts
):
    calls = [called(one if isinstance(one, str) else json.dumps(one)) for one in said]
    whole = json.dumps({"value": [json.loads(SAID), EVE]})
    revos_gateway.chat_script.extend([completion(tool_calls=calls), whole])

    result = await gpt4.extract_result(list[Person], PROMPT, text=TEXT)

    eves = max(1, json.dumps(said).count("Eve")) if attempts == 1 else 1
    assert result.value == [ADA, *[Person(name="Eve", age=1)] * eves]
    assert result.attempts == attempts


SEVERAL = {
    "the same": ([SAID, '{"age": 36, "name": "Ada"}'], 1),
    "one that fits": ([ELDER, SAID, '{"name": "Eve"}'], 1),
    "two that fit": (['{"name": "Eve", "age": 1}', SAID], 2),
    "none that fits": ([ELDER, '{"name": "Eve"}'], 2),
    "one that says something": (["{}", SAID, ""], 1),
}


@pytest.mark.parametrize(("said", "attempts"), SEVERAL.values(), ids=SEVERAL)
async def test_of_several_calls_that_say_something_else_none_is_chosen(
    gpt4, revos_gateway, said, attempts
):
    calls = [called(one) for one in said]

    result = await extract(gpt4, completion(tool_calls=calls), SAID, gateway=revos_gateway)

    assert (result.value, result.attempts) == (ADA, attempts)


async def test_a_model_that_makes_several_calls_is_told_to_make_one(tm, revos_gateway):
    calls = [called(SAID), called('{"name": "Eve", "age": 1}')]

    async with tm.extractor("gpt-4", strategy="tools", repairs=0) as gpt4:
        with pytest.raises(RevosValidationError, match="called 2 times") as caught:
            await extract(gpt4, completion(tool_calls=calls), gateway=revos_gateway)

    assert "call it once" in caught.value.problems[0].message
    assert "Eve" in caught.value.raw
    assert "Ada" in caught.value.raw


async def test_a_token_that_comes_back_in_several_calls_is_hidden(tm, revos_gateway):
    names = [await tm.get_token(), "Eve"]
    calls = [called(json.dumps({"name": name, "age": 1})) for name in names]

    async with tm.extractor("gpt-4", strategy="tools") as gpt4:
        revos_gateway.chat_script.append(completion(tool_calls=calls))
        people = await gpt4.extract(list[Person], PROMPT, text=TEXT)

    assert [person.name for person in people] == ["***", "Eve"]


async def test_several_calls_that_are_encoded_twice_are_several(tm, revos_gateway):
    calls = [called(json.dumps(SAID)), called(json.dumps(json.dumps(EVE)))]

    async with tm.extractor("gpt-4", strategy="tools") as gpt4:
        revos_gateway.chat_script.append(completion(tool_calls=calls))
        people = await gpt4.extract(list[Person], PROMPT, text=TEXT)

    assert [person.name for person in people] == ["Ada", "Eve"]


ODD_COSTS = {
    "a list": ([1, 2], Usage()),
    "a text": ("7", Usage()),
    "a number": (7, Usage()),
    "a fraction": ({"prompt_tokens": 1, "completion_tokens": 5.5}, Usage(1, 5, 6)),
    "numbers as texts": ({"prompt_tokens": "3", "completion_tokens": 2}, Usage(0, 2, 2)),
    "less than nothing": ({"prompt_tokens": -1, "completion_tokens": 2}, Usage(0, 2, 2)),
    "infinity": ({"prompt_tokens": float("inf")}, Usage()),
    "truth": ({"prompt_tokens": True, "completion_tokens": 2}, Usage(0, 2, 2)),
    "details in a list": (
        {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": [1]},
        Usage(1, 2, 3),
    ),
    "details that are none": (
        {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": "x"}},
        Usage(1, 0, 1),
    ),
}


@pytest.mark.parametrize(("usage", "counted"), ODD_COSTS.values(), ids=ODD_COSTS)
async def test_no_answer_is_lost_for_how_its_cost_is_said(tm, revos_gateway, usage, counted):
    answer = completion(content=SAID)
    answer.body["usage"] = usage

    async with tm.extractor("gpt-4", repairs=0) as gpt4:
        result = await extract(gpt4, answer, gateway=revos_gateway)

    assert result.value == ADA
    assert result.usage == counted
    assert type(result.usage.completion_tokens) is int


@pytest.mark.parametrize("ways", ["whole", "stream"])
async def test_an_llm_of_ones_own_tells_what_the_cost_consists_of(tm, revos_gateway, ways):
    answer = completion(content="Hello")
    answer.body["usage"] = {
        "prompt_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": "x"},
    }
    if ways == "stream":
        event = json.dumps(answer.body | {"choices": []})
        headers = {"content-type": "text/event-stream"}
        answer = Answer(headers=headers, body=f"data: {event}\n\n".encode())
    revos_gateway.chat_script.append(answer)

    async def ask(llm):
        if ways == "whole":
            return await llm.ainvoke("Hello")
        parts = [part async for part in llm.astream("Hello")]
        return parts[0]

    async with tm.extractor("gpt-4") as gpt4:
        message = await gpt4.run_asyncio(ask, gpt4.llm)

    assert message.usage_metadata["input_tokens"] == 7
    assert message.usage_metadata["input_token_details"] == {"cache_read": 5}


async def test_thoughts_without_an_end_are_no_answer(gpt4, revos_gateway):
    thought = completion(content="<think>Is it " + '{"name": "Eve", "age": 1}?')

    result = await extract(gpt4, thought, gateway=revos_gateway)

    assert (result.value, result.attempts) == (ADA, 2)


async def test_what_a_gateway_leaves_out_is_left_out(tm, revos_gateway):
    async with tm.extractor("gpt-4", repairs=0) as gpt4:
        results = [
            await extract(gpt4, completion(reason, usage, content=SAID), gateway=revos_gateway)
            for reason in (None, "", "stop", "tool_calls", "eos_token")
            for usage in (None, (None, None, None))
        ]

    assert [(result.value, result.usage) for result in results] == [(ADA, Usage())] * 10


async def test_a_model_that_is_named_once_is_the_model(tm, revos_gateway):
    unnamed = completion(content=SAID)
    del unnamed.body["model"]

    async with tm.extractor("gpt-4") as gpt4:
        result = await extract(gpt4, completion(content=ELDER), unnamed, gateway=revos_gateway)

    assert (result.attempts, result.model) == (2, "gpt-4-0613")


async def test_a_model_that_is_no_text_is_left_out(tm, revos_gateway):
    answer = completion(content=SAID)
    answer.body["model"] = {"id": 7}

    async with tm.extractor("gpt-4") as gpt4:
        result = await extract(gpt4, answer, gateway=revos_gateway)

    assert (result.value, result.model) == (ADA, None)


# Errors that look like something else.


@pytest.mark.parametrize(
    ("code", "status", "temporary"),
    [(429, 429, True), ("oops", 200, False), (302, 200, False), (1000, 200, False)],
)
async def test_an_error_that_comes_with_a_200_is_told_in_its_words(
    tm, revos_gateway, code, status, temporary
):
    token = await tm.get_token()
    body = {"error": {"message": f"Provider returned error for {token}", "code": code}}

    async with tm.extractor("gpt-4") as gpt4:
        with pytest.raises(RevosAPIError, match=r"Provider returned error for \*\*\*") as caught:
            await extract(gpt4, Answer(body=body), gateway=revos_gateway)

    assert (caught.value.status_code, caught.value.temporary) == (status, temporary)
    assert token not in f"{caught.value!r} {caught.value.__cause__!r}"


WITH_TOKENS = {
    "a refusal": lambda said: completion(refusal=said),
    "an answer that does not fit": lambda said: completion(content=said),
    "an error in place of an answer": lambda said: Answer(body={"error": {"message": said}}),
}


@pytest.mark.parametrize("answering", WITH_TOKENS.values(), ids=WITH_TOKENS)
async def test_what_repeats_the_tokens_of_a_request_that_was_sent_twice_hides_both(
    tm, revos_gateway, answering
):
    old, new = await tm.get_token(), revos_gateway.issue()
    revos_gateway.revoke(old)
    issued = {"access_token": new, "token_type": "Bearer", "expires_in": 3600}
    revos_gateway.token_script.append(Answer(body=issued))

    async with tm.extractor("gpt-4", repairs=0) as gpt4:
        with pytest.raises((RevosAPIError, RevosValidationError)) as caught:
            await extract(gpt4, answering(f"<{old}> or <{new}>"), gateway=revos_gateway)

    error = caught.value
    shown = f"{error} {error!r} {error.__cause__!r} {getattr(error, 'raw', None)}"
    assert await tm.get_token() == new
    assert "<***> or <***>" in shown
    assert old not in shown
    assert new not in shown


async def test_of_a_refusal_its_beginning_is_told_in_what_prints(gpt4, revos_gateway):
    with pytest.raises(RevosValidationError) as caught:
        await extract(gpt4, completion(refusal="I \x1b[1mwon't" + "!" * 999), gateway=revos_gateway)

    assert "\x1b" not in str(caught.value)
    assert str(caught.value).count("!") < 500


async def test_an_error_that_is_but_a_text_and_comes_with_a_200_is_told(tm, revos_gateway):
    async with tm.extractor("gpt-4") as gpt4:
        with pytest.raises(RevosAPIError, match="in place of a completion: the model is asleep"):
            await extract(
                gpt4, Answer(body={"error": "the model is asleep"}), gateway=revos_gateway
            )


async def test_a_text_that_cannot_be_sent_is_the_callers(gpt4, revos_gateway):
    with pytest.raises(RevosInputError, match="lone surrogate"):
        await gpt4.extract(Person, PROMPT, text="A\udcffda")

    assert not revos_gateway.chat_log
