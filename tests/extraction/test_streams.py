"""`extract_stream`: what is known grows, is validated at the end, and is left without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import time
import warnings
from operator import eq

import anyio
import pydantic
import pytest
from extracting import ON_ASYNCIO
from leftovers import frozen_heap

from revos import (
    RevosAPIError,
    RevosClosedError,
    RevosInputError,
    RevosValidationError,
    TokenManager,
    Usage,
)
from revos.extraction.streaming import PartialExtraction
from revos.testing import Answer, serve_gateway

PROMPT = "{text}"
WORDS = [f"word {number}" for number in range(3)]


class Fruit(pydantic.BaseModel):
    name: str
    weight: int
    ripe: bool
    notes: list[str]
    sizes: list[float]


FIG = Fruit(name='Fig "é😀" 12', weight=1234, ripe=True, notes=WORDS, sizes=[1.25, -30.5, 1e20])
STRATEGIES = pytest.mark.parametrize("strategy", ["json_schema", "tools", "json_text"])


@pytest.fixture
async def tm(revos_gateway):
    revos_gateway.chunk_size = 3
    async with TokenManager(revos_gateway.config(max_retries=2)) as manager:
        yield manager


@pytest.fixture
async def ex(tm):
    async with tm.extractor("gpt-4") as extractor:
        yield extractor


def grows(before, after):
    """Whether all that was known still is."""
    if isinstance(before, dict):
        return before.keys() <= after.keys() and all(grows(before[k], after[k]) for k in before)
    if isinstance(before, list):
        return len(before) <= len(after) and all(map(grows, before, after))
    return after.startswith(before) if isinstance(before, str) else after == before


async def all_of(parts):
    return [part async for part in parts]


@STRATEGIES
@pytest.mark.parametrize("chunk_size", [1, 10_000])
@pytest.mark.parametrize("ascii_only", [True, False])
async def test_what_is_known_grows_and_is_validated_at_the_end(
    tm, revos_gateway, strategy, chunk_size, ascii_only
):
    revos_gateway.chunk_size = chunk_size
    revos_gateway.chat_script.append(json.dumps(FIG.model_dump(), ensure_ascii=ascii_only))

    async with (
        tm.extractor("gpt-4", strategy=strategy) as ex,
        ex.extract_stream(Fruit, PROMPT, text="x") as parts,
    ):
        known = await all_of(parts)

    assert all(map(grows, known, known[1:]))
    assert not any(map(eq, known, known[1:]))
    assert known[-1] == FIG.model_dump()
    assert len(known) > 20 or chunk_size > 1
    assert parts.value == FIG
    assert parts.result.strategy == strategy
    assert parts.result.attempts == 1


@pytest.mark.parametrize(
    "answer",
    [
        "Sure:\n```json\n{}\n```\nThat is all [1].",
        'Not {{"name": 1}} but {}',
        "See [1]: {}",
        '<think>{{"name": 1}}</think>{}',
        '{} or {{"name": "Plum"}}',
    ],
)
async def test_an_answer_in_prose_is_known_whole_before_its_end(tm, revos_gateway, answer):
    fig = json.dumps(FIG.model_dump())
    revos_gateway.chat_script.append(
        answer.replace("{}", fig).replace("{{", "{").replace("}}", "}")
    )

    async with (
        tm.extractor("gpt-4", strategy="json_text") as ex,
        ex.extract_stream(Fruit, PROMPT, text="x") as parts,
    ):
        known = await all_of(parts)

    assert parts.value == FIG
    assert all(map(grows, known, known[1:]))
    assert known[-1] == FIG.model_dump()


@pytest.mark.parametrize(
    ("target", "answer", "kind"),
    [
        (list[int], "[11, 222, 3333]", list),
        (Fruit, f'["dried", "fresh"] {json.dumps(FIG.model_dump())}', dict),
    ],
    ids=["a list", "an object behind a list"],
)
async def test_what_is_known_is_of_the_kind_of_the_target(tm, revos_gateway, target, answer, kind):
    revos_gateway.chat_script.append(answer)

    async with (
        tm.extractor("gpt-4", strategy="json_text") as ex,
        ex.extract_stream(target, PROMPT, text="x") as parts,
    ):
        known = await all_of(parts)

    assert len(known) > 1
    assert {type(part) for part in known} == {kind}


async def test_there_is_no_value_before_the_end(ex):
    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        with pytest.raises(RevosClosedError, match="has not ended"):
            _ = parts.value
        await all_of(parts)
        with pytest.raises(StopAsyncIteration):
            await anext(parts)


def chunk(delta, finish_reason=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4",
        "choices": [choice],
    }


def streamed(*events, **how):
    data = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events)
    return Answer(headers={"content-type": "text/event-stream"}, body=data, **how)


BEGUN = chunk({"role": "assistant", "content": '{"name": "Fi'})
DOES_NOT_FIT = {
    "wrong": ('{"name": 7}', "invalid", "name"),
    "no json": ("hm", "invalid", "no JSON"),
    "cut off": (streamed(BEGUN, chunk({}, "length")), "length", "max_tokens"),
    "filtered": (streamed(BEGUN, chunk({}, "content_filter")), "content_filter", "filter"),
    "refused": (
        streamed(chunk({"refusal": "I "}), chunk({"refusal": "won't."}), chunk({}, "stop")),
        "refusal",
        "I won't",
    ),
    "refused in a part": (
        streamed(chunk({"content": [{"type": "refusal", "refusal": "I won't."}]})),
        "refusal",
        "I won't",
    ),
    "empty": (streamed(chunk({}, "stop")), "invalid", "no answer"),
    "whole, without a reason": (streamed(chunk({"content": '{"name": 7}'})), "invalid", "name"),
    "prose, without a reason": (streamed(chunk({"content": "Sorry {."})), "invalid", "no JSON"),
    "in mid-value, with a reason of the gateway's": (
        streamed(BEGUN, chunk({}, "unfinished")),
        "invalid",
        "no JSON",
    ),
}


@pytest.mark.parametrize(("answer", "reason", "words"), DOES_NOT_FIT.values(), ids=DOES_NOT_FIT)
async def test_an_answer_that_does_not_fit_is_told_at_its_end_and_not_sent_back(
    ex, revos_gateway, answer, reason, words
):
    revos_gateway.chat_script.append(answer)

    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        with pytest.raises(RevosValidationError, match=words) as at_the_end:
            await all_of(parts)
        with pytest.raises(RevosValidationError, match=words) as at_the_value:
            _ = parts.value

    assert at_the_end.value.reason == at_the_value.value.reason == reason
    assert at_the_end.value is not at_the_value.value
    assert len(revos_gateway.chat_log) == 1


def events(body):
    return Answer(headers={"content-type": "text/event-stream"}, body=body)


PASSES_BY_ITSELF = {
    "reset": (streamed(BEGUN, BEGUN, truncate=True), "could not be reached"),
    "told": (streamed(BEGUN, {"error": {"message": "overloaded now"}}), "overloaded now"),
    "the end in mid-value": (streamed(BEGUN), "in the middle"),
    "the end in mid-value, after another": (
        streamed(chunk({"content": 'See [1]: {"name": "Fi'})),
        "in the middle",
    ),
    "the end behind a bracket": (streamed(chunk({"content": "{"})), "in the middle"),
    "the end in thoughts": (streamed(chunk({"content": "<think>Fi"})), "in the middle"),
    "the end before a value": (streamed(chunk({"content": ""})), "before there was one"),
}
NO_COMPLETION = {
    "nonsense": (events(b"data: {]\n\n"), "no chat completion"),
    "words": (events(b"data: out of memory\n\n"), "out of memory"),
    "blanks": (events(b"data:  \n\n"), r"no chat completion \(JSONDecodeError\)"),
    "nothing": (streamed(), "no chat completion"),
    "half of a chunk": (
        events(b'data: {"choices": [\n\n'),
        r"no chat completion \(JSONDecodeError\)",
    ),
}
BROKEN = PASSES_BY_ITSELF | NO_COMPLETION


@pytest.mark.parametrize("how", BROKEN)
async def test_an_answer_that_breaks_in_the_middle_is_told_and_not_asked_for_again(
    ex, revos_gateway, how
):
    answer, words = BROKEN[how]
    revos_gateway.chat_script.extend([answer] * 2)

    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        with pytest.raises(RevosAPIError, match=words) as caught:
            await all_of(parts)
        with pytest.raises(RevosAPIError, match=words):
            _ = parts.value

    assert caught.value.temporary == (how in PASSES_BY_ITSELF)

    assert len(revos_gateway.chat_log) == 1


async def test_a_value_that_was_broken_off_may_be_whole_the_next_time(ex, revos_gateway):
    revos_gateway.chat_script.append(streamed(BEGUN))

    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        with pytest.raises(RevosAPIError, match="broke its answer off") as caught:
            await all_of(parts)

    assert caught.value.temporary
    assert isinstance(caught.value.__cause__, RevosValidationError)


async def test_a_broken_one_is_asked_for_again_while_nothing_was_known(ex, revos_gateway):
    revos_gateway.chat_script.append(Answer(status=503, headers={"retry-after": "0"}))

    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        known = await all_of(parts)

    assert known[-1] == parts.value.model_dump()
    assert len(revos_gateway.chat_log) == 2


async def test_strategies_step_down_in_a_stream_too(ex, revos_gateway):
    revos_gateway.unsupported |= {"json_schema", "tools"}

    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        known = await all_of(parts)

    assert known[-1] == parts.value.model_dump()
    assert parts.result.strategy == "json_text"


async def test_a_revoked_token_costs_one_token_request(tm, ex, revos_gateway):
    revos_gateway.revoke(await tm.get_token())

    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        await all_of(parts)

    assert isinstance(parts.value, Fruit)
    assert revos_gateway.token_requests == 2


async def test_a_refusal_is_told_at_iteration_and_at_the_value(ex, revos_gateway):
    revos_gateway.chat_script.append(Answer(status=403, body={"error": {"message": "not you"}}))

    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        for ask in (lambda: anext(parts), lambda: anext(parts)):
            with pytest.raises(RevosAPIError, match="not you"):
                await ask()
        with pytest.raises(RevosAPIError, match="not you"):
            _ = parts.result


@pytest.mark.parametrize(
    ("target", "prompt", "variables"),
    [(object(), PROMPT, {"text": "x"}), (Fruit, 7, {}), (Fruit, PROMPT, {"tone": "x"})],
)
async def test_what_cannot_work_is_refused_on_entering(
    ex, revos_gateway, target, prompt, variables
):
    with pytest.raises(RevosInputError):
        async with ex.extract_stream(target, prompt, **variables):
            pytest.fail("entered")

    assert revos_gateway.chat_log.maxlen
    assert not revos_gateway.chat_log


async def test_a_block_that_is_not_entered_was_entered_or_left_says_so(ex):
    parts = ex.extract_stream(Fruit, PROMPT, text="x")

    with pytest.raises(RevosClosedError, match="`async with`"):
        await anext(parts)
    async with parts:
        with pytest.raises(RevosClosedError, match="make another"):
            await parts.__aenter__()
    with pytest.raises(RevosClosedError, match="was left"):
        await anext(parts)


# Leaving early.


async def _by_break(parts):
    async for _ in parts:
        break


async def _by_exception(parts):
    async for _ in parts:
        raise ZeroDivisionError


async def _by_timeout(parts):
    with anyio.fail_after(0.05):
        await all_of(parts)


async def _at_once(parts):
    pass


LEAVING = {
    "break": (_by_break, contextlib.nullcontext),
    "exception": (_by_exception, lambda: pytest.raises(ZeroDivisionError)),
    "timeout": (_by_timeout, lambda: pytest.raises(TimeoutError)),
    "at once": (_at_once, contextlib.nullcontext),
}


@STRATEGIES
@pytest.mark.parametrize(("leave", "raising"), LEAVING.values(), ids=LEAVING)
async def test_the_gateway_sees_at_once_that_a_stream_was_left(
    tm, revos_gateway, strategy, leave, raising
):
    revos_gateway.stream_delay = 0.01
    revos_gateway.chat_script.append(json.dumps(FIG.model_dump()))

    async with tm.extractor("gpt-4", strategy=strategy) as ex:
        with anyio.fail_after(5), raising():
            async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
                await leave(parts)
        began = time.perf_counter()
        with anyio.fail_after(5):
            while revos_gateway.in_flight_api_requests:
                await anyio.sleep(0.001)
        assert time.perf_counter() - began < 0.1
        revos_gateway.chat_script.clear()
        assert isinstance(await ex.extract(Fruit, PROMPT, text="x"), Fruit)


async def test_the_manager_is_left_in_the_middle_of_a_stream(revos_gateway):
    caught = []

    async def read(tm):
        async with (
            tm.extractor("gpt-4") as ex,
            ex.extract_stream(Fruit, PROMPT, text="x") as parts,
        ):
            await anext(parts)
            begun.set()
            try:
                await all_of(parts)
            except RevosClosedError as error:
                caught.append(error)

    revos_gateway.stream_delay, revos_gateway.chunk_size = 0.002, 1
    revos_gateway.chat_script.append(json.dumps({"name": "x" * 10_000}))
    begun = anyio.Event()
    with anyio.fail_after(5):
        async with (
            anyio.create_task_group() as tasks,
            TokenManager(revos_gateway.config()) as tm,
        ):
            tasks.start_soon(read, tm)
            await begun.wait()

    assert "its block was left" in str(caught[0])


def test_a_stream_is_cancelled_anywhere_and_leaves_nothing(everywhere):
    async def trial(attempt):
        async with serve_gateway() as gateway:
            gateway.chunk_size = 30
            settings = gateway.config(enable_periodic_refresh=False)
            async with TokenManager(settings) as tm, tm.extractor("gpt-4") as ex:

                async def live():
                    async with ex.extract_stream(Fruit, PROMPT, text="Fig, 12") as parts:
                        await all_of(parts)
                        assert parts.value.weight == 12

                await attempt(live)
                with anyio.fail_after(5):
                    await live()
                assert ex._bound.pace._room.available_tokens == 16

    with frozen_heap():
        swept = everywhere(trial, exact=False)

    assert swept.count_in("PartialExtraction.__anext__") >= 1
    assert swept.count_in("Block.__aexit__") >= 1
    assert swept.slowest < 0.1


def ended(**more):
    counted = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return chunk({}, "stop") | {"usage": counted} | more


async def test_what_a_stream_says_in_each_of_its_parts_is_counted_and_told_once(ex, revos_gateway):
    revos_gateway.chat_script.append(
        streamed(chunk({"content": json.dumps(FIG.model_dump())}), ended(), ended())
    )

    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        await all_of(parts)

    assert parts.value == FIG
    assert parts.result.usage == Usage(10, 5, 15)
    assert parts.result.model == "gpt-4"


@pytest.mark.parametrize("after", ["length", "stop"])
async def test_a_stream_ends_for_the_first_reason_that_is_said(ex, revos_gateway, after):
    revos_gateway.chat_script.append(streamed(BEGUN, chunk({}, "length"), chunk({}, after)))

    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        with pytest.raises(RevosValidationError) as raised:
            await all_of(parts)

    assert raised.value.reason == "length"


REFUSED_OPTIONS = {
    "of old azure": (400, {"message": "Unrecognized request argument supplied: stream_options"}),
    "by param": (400, {"message": "unknown", "param": "stream_options"}),
    "of pydantic": (422, {"message": "body.stream_options: Extra inputs are not permitted"}),
}


@pytest.mark.parametrize(("status", "error"), REFUSED_OPTIONS.values(), ids=REFUSED_OPTIONS)
async def test_a_gateway_that_does_not_count_streams_is_asked_without(
    ex, revos_gateway, status, error
):
    revos_gateway.chat_script.extend(
        [
            Answer(status=status, body={"error": error}),
            streamed(chunk({"content": json.dumps(FIG.model_dump())}), chunk({}, "stop")),
        ]
    )

    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        await all_of(parts)

    assert parts.value == FIG
    assert parts.result.usage == Usage()
    asked = [request.payload.get("stream_options") for request in revos_gateway.chat_log]
    assert asked == [{"include_usage": True}, None]


async def test_a_gateway_that_refuses_for_another_cause_is_not_asked_again(ex, revos_gateway):
    refusal = {"error": {"message": "stream_options are not for you"}}
    revos_gateway.chat_script.append(Answer(status=403, body=refusal))

    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        with pytest.raises(RevosAPIError, match="not for you"):
            await all_of(parts)

    assert len(revos_gateway.chat_log) == 1


@pytest.mark.parametrize("role", ["user", "model", "tool", ""])
async def test_what_is_streamed_is_the_answer_whatever_role_is_named(ex, revos_gateway, role):
    revos_gateway.chat_script.append(
        streamed(chunk({"role": role, "content": json.dumps(FIG.model_dump())}), ended())
    )

    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        await all_of(parts)

    assert parts.value == FIG


def call(index=0, arguments="", **more):
    """A part of a call of the tool."""
    function = {"arguments": arguments} | ({"name": more.pop("name")} if "name" in more else {})
    return chunk({"tool_calls": [{"index": index, "function": function, **more}]})


SAID = json.dumps(FIG.model_dump())
BEGIN = {"id": "1", "type": "function", "name": "Fruit"}
ENDED = chunk({}, "stop")
IN_OTHER_WAYS = {
    "without an index": [call(None, SAID[:9], **BEGIN), call(None, SAID[9:])],
    "without an index or a name": [call(None, SAID[:9], id="1"), call(None, SAID[9:])],
    "named in each part": [call(None, SAID[:9], **BEGIN), call(None, SAID[9:], **BEGIN)],
    "with an id that is empty from then on": [call(0, SAID[:9], **BEGIN), call(0, SAID[9:], id="")],
    "with an id of its own for each part": [
        call(0, SAID[:9], **BEGIN),
        call(0, SAID[9:20], id="b"),
        call(0, SAID[20:], id="c"),
    ],
    "encoded twice": [call(0, json.dumps(SAID)[:9], **BEGIN), call(0, json.dumps(SAID)[9:])],
    "encoded twice, with line breaks": [
        call(0, json.dumps(SAID.replace("{", "{\n")).replace("\\n", "\n"), **BEGIN)
    ],
    "not encoded": [call(0, json.loads(SAID), **BEGIN)],
    "beside one of another tool": [
        call(0, '{"q": [', **BEGIN | {"name": "search"}),
        call(1, SAID[:9], **BEGIN | {"id": "2"}),
        call(0, "1]}"),
        call(1, SAID[9:]),
    ],
    "twice, by turns": [
        call(0, SAID[:9], **BEGIN),
        call(1, SAID[:7], **BEGIN | {"id": "2"}),
        call(0, SAID[9:]),
        call(1, SAID[7:]),
    ],
    "as it was before tools": [
        chunk({"function_call": {"name": "Fruit", "arguments": SAID[:9]}}),
        chunk({"function_call": {"arguments": SAID[9:]}}),
    ],
    "as it was before tools, by its name first": [
        chunk({"function_call": {"name": "Fruit"}}),
        chunk({"function_call": {"arguments": SAID}}),
    ],
    "an object in place of a text": [chunk({"content": json.loads(SAID)})],
    "with a message beside it": [chunk({"content": SAID}) | {"message": "hello"}],
    "parts": [
        chunk({"content": [{"type": "thinking", "thinking": "{}"}]}),
        chunk({"content": [{"type": "text", "text": SAID}]}),
    ],
    "an empty call and text": [call(0, "{}", **BEGIN), chunk({"content": SAID})],
    "after what only its end tells to be thoughts": [
        chunk({"content": '{"name": "Kiwi", "ripe": true'}),
        chunk({"content": "}? No.</think>" + SAID[:9]}),
        chunk({"content": SAID[9:]}),
    ],
    "in a channel": [
        chunk({"content": '<|channel|>analysis<|message|>{"name": "Kiwi"}<|end|>'}),
        chunk({"content": "<|start|>assistant<|channel|>final<|message|>" + SAID}),
    ],
}


@pytest.mark.parametrize("events", IN_OTHER_WAYS.values(), ids=IN_OTHER_WAYS)
async def test_a_stream_is_read_in_whatever_way_it_comes(tm, revos_gateway, events):
    revos_gateway.chat_script.append(streamed(*events, ENDED))

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        async with (
            tm.extractor("gpt-4", strategy="tools") as ex,
            ex.extract_stream(Fruit, PROMPT, text="x") as parts,
        ):
            known = await all_of(parts)

    assert parts.value == FIG
    assert known[-1] == FIG.model_dump()
    assert [str(one.message) for one in warned] == []


FRUIT = [FIG, FIG.model_copy(update={"name": "Kiwi"})]
ONE, OTHER = [json.dumps({"value": [one.model_dump()]}) for one in FRUIT]
PLUM = OTHER.replace("Kiwi", "Plum")
SECOND = BEGIN | {"id": "2"}
OF_TWO_CALLS = {
    "by turns": [
        call(0, ONE[:20], **BEGIN),
        call(1, OTHER[:30], **SECOND),
        call(0, ONE[20:]),
        call(1, OTHER[30:]),
    ],
    "with one index": [call(0, ONE, **BEGIN), call(0, OTHER, **SECOND)],
    "with one index, in parts": [
        call(0, ONE[:20], **BEGIN),
        call(0, ONE[20:]),
        call(0, OTHER[:30], **SECOND),
        call(0, OTHER[30:]),
    ],
    "with one index, by turns": [
        call(0, ONE[:20], **BEGIN),
        call(0, OTHER[:30], **SECOND),
        call(0, ONE[20:], id="1"),
        call(0, OTHER[30:], id="2"),
    ],
    "without an index": [call(None, ONE, **BEGIN), call(None, OTHER, **SECOND)],
    "without an index or an id": [
        call(None, ONE[:20], name="Fruit"),
        call(None, ONE[20:]),
        call(None, OTHER, name="Fruit"),
    ],
    "without an index, and an id from the second on": [
        call(None, ONE, name="Fruit"),
        call(None, OTHER, **SECOND),
    ],
    "without an index, and an id of the first alone": [
        call(None, ONE, **BEGIN),
        call(None, OTHER, name="Fruit"),
    ],
    "without an index, and one id for the parts of each": [
        call(None, ONE[:20], **BEGIN),
        call(None, ONE[20:], **BEGIN),
        call(None, OTHER, **SECOND),
    ],
    "named in each part": [
        call(0, ONE[:20], name="Fruit"),
        call(0, ONE[20:], name="Fruit"),
        call(1, OTHER, name="Fruit"),
    ],
    "beside one of another tool": [
        call(0, PLUM[:20], name="search"),
        call(1, ONE[:20], name="list_Fruit"),
        call(0, PLUM[20:]),
        call(1, ONE[20:]),
        call(2, OTHER, name="list_Fruit"),
    ],
    "named in pieces, beside one of another tool": [
        call(0, PLUM, name="search"),
        call(1, name="list_"),
        call(1, ONE, name="Fruit"),
        call(2, OTHER, name="list_Fruit"),
    ],
}


@pytest.mark.parametrize("events", OF_TWO_CALLS.values(), ids=OF_TWO_CALLS)
async def test_the_items_of_a_list_in_two_calls_are_all_known(tm, revos_gateway, events):
    revos_gateway.chat_script.append(streamed(*events, ENDED))

    async with (
        tm.extractor("gpt-4", strategy="tools") as ex,
        ex.extract_stream(list[Fruit], PROMPT, text="x") as parts,
    ):
        known = await all_of(parts)

    assert parts.value == FRUIT
    assert all(map(grows, known, known[1:]))
    assert known[-1] == [one.model_dump() for one in FRUIT]


@pytest.mark.parametrize("name", ["Fruit", "anything", None])
async def test_a_call_that_nobody_asked_for_is_known_while_it_comes(ex, revos_gateway, name):
    parts = call(0, ONE[:-9], **{"name": name} if name else {}), call(0, ONE[-9:])
    revos_gateway.chat_script.append(streamed(*parts, ENDED))

    async with ex.extract_stream(list[Fruit], PROMPT, text="x") as parts:
        known = await all_of(parts)

    assert parts.value == FRUIT[:1]
    assert len(known) > 1
    assert all(map(grows, known, known[1:]))


@pytest.mark.parametrize("strategy", ["json_schema", "tools"])
async def test_a_character_in_two_parts_is_one(tm, revos_gateway, strategy):
    text = json.dumps(FIG.model_dump(), ensure_ascii=False)
    first, second = text.split("😀")
    texts = [first + "\ud83d", "\ude00" + second]
    events = [chunk({"content": one}) for one in texts]
    if strategy == "tools":
        events = [call(0, texts[0], **BEGIN), call(0, texts[1])]
    revos_gateway.chat_script.append(streamed(*events, ENDED))

    async with (
        tm.extractor("gpt-4", strategy=strategy) as ex,
        ex.extract_stream(Fruit, PROMPT, text="x") as parts,
    ):
        known = await all_of(parts)

    assert parts.value == FIG
    assert known[-1] == FIG.model_dump()


ERRORS = {
    "without a key": b'event: error\ndata: {"message": "overloaded now"}\n\n',
    "of FastAPI": b'data: {"detail": "overloaded now"}\n\n',
    "a text": b'event: error\ndata: "overloaded now"\n\n',
    "a text in a key": b'data: {"error": "overloaded now"}\n\n',
    "of old vLLM": b'data: {"object": "error", "message": "overloaded now", "code": 400}\n\n',
}


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("event", ERRORS.values(), ids=ERRORS)
async def test_an_error_in_a_stream_keeps_its_words(tm, ex, revos_gateway, event, begun):
    answer = streamed(*[BEGUN] * begun)
    token = await tm.get_token()
    event = event.replace(b"overloaded", b"overloaded " + token.encode())
    headers = {"content-type": "text/event-stream"}
    revos_gateway.chat_script.extend([Answer(headers=headers, body=answer.body + event)] * 2)

    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        with pytest.raises(RevosAPIError, match=r"overloaded \*\*\* now") as caught:
            await all_of(parts)

    assert token not in f"{caught.value!r} {caught.value.__cause__!r}"


async def test_of_costs_that_are_told_in_each_part_the_last_counts(ex, revos_gateway):
    first, last = [
        {"usage": {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": 1 + count}}
        for count in (1, 5)
    ]
    nothing = [ENDED | {"usage": {"prompt_tokens": None}}, ENDED | {"usage": {"cost": "0.1"}}]
    revos_gateway.chat_script.append(
        streamed(chunk({"content": SAID}) | first, ENDED | last, *nothing)
    )

    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        await all_of(parts)

    assert parts.result.usage == Usage(1, 5, 6)


DETAILS = {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": "x"}}


@pytest.mark.parametrize(
    "usage", [[1], "7", {"completion_tokens": 5.5}, {"prompt_tokens": "3"}, DETAILS]
)
async def test_no_stream_is_lost_for_how_its_cost_is_said(ex, revos_gateway, usage):
    revos_gateway.chat_script.append(
        streamed(chunk({"content": SAID}), chunk({}, "stop") | {"usage": usage})
    )

    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        await all_of(parts)

    assert parts.value == FIG
    assert type(parts.result.usage.completion_tokens) is int


async def test_a_long_stream_takes_its_length_and_no_more(tm, revos_gateway):
    items = [{"name": f"n{number}", "weight": number} for number in range(3000)]
    text = json.dumps({"value": items})
    parts_of_text = [chunk({"content": text[at : at + 24]}) for at in range(0, len(text), 24)]
    revos_gateway.chat_script.append(streamed(*parts_of_text, ENDED))

    async with (
        tm.extractor("gpt-4") as ex,
        ex.extract_stream(list[dict[str, int | str]], PROMPT, text="x") as parts,
    ):
        known = await all_of(parts)

    assert parts.value == known[-1] == items
    assert 100 < len(known) < 1000


async def test_half_a_character_at_the_end_of_a_part_does_not_fit(ex, revos_gateway):
    revos_gateway.chat_script.append(
        streamed(chunk({"content": '{"name": "\ud83d'}), chunk({}, "stop"))
    )

    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        with pytest.raises(RevosValidationError):
            await all_of(parts)


async def test_a_stream_that_breaks_off_leaves_nothing_to_the_garbage_collector(
    ex, revos_gateway, caplog
):
    """A task of nobody's would close its generators, and fails in that under Trio."""
    revos_gateway.chat_script.append(streamed(BEGUN, {"error": {"message": "overloaded now"}}))

    async with ex.extract_stream(Fruit, PROMPT, text="x") as parts:
        with pytest.raises(RevosAPIError):
            await all_of(parts)
    gc.collect()
    for _ in range(3):
        await ex.run_asyncio(asyncio.sleep, 0)
    gc.collect()

    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


@ON_ASYNCIO
async def test_a_stream_that_is_left_while_a_part_is_handed_on_is_ended_by_its_own_task(
    ex, revos_gateway, monkeypatch
):
    """On asyncio the collector would end it in a task of nobody's."""
    revos_gateway.chat_script.append(streamed(BEGUN, *[chunk({"content": "g"})] * 9))
    handing_on, finalized = anyio.Event(), []

    async def slowly(parts, part):
        handing_on.set()
        with anyio.move_on_after(0.05):
            await anyio.sleep_forever()

    monkeypatch.setattr(PartialExtraction, "_hand_on", slowly)
    first, last = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(first, lambda it: (finalized.append(it.__name__), last(it)))
    try:
        async with ex.extract_stream(Fruit, PROMPT, text="x"):
            await handing_on.wait()
        gc.collect()
    finally:
        sys.set_asyncgen_hooks(first, last)

    assert finalized == []
