"""LangChain's callbacks and chains see what they would see without revos, under both backends."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import partial

import pydantic
import pytest
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    get_usage_metadata_callback,
)
from langchain_core.exceptions import ContextOverflowError
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.context import collect_runs

from revos import TokenManager
from revos.testing import Answer

PROMPT = "Extract the person: {text}"
TEXT = "Ada, 36, London"


class Person(pydantic.BaseModel):
    name: str
    age: int


ADA = Person(name="Ada", age=36)


class Watcher(BaseCallbackHandler):
    def __init__(self):
        self.seen = []

    def on_chat_model_start(self, serialized, messages, **_):
        self.seen.append(("start", messages[0][-1].content))

    def on_llm_end(self, response, **_):
        self.seen.append(("end", response.generations[0][0].message.text))

    def on_llm_error(self, error, **_):
        self.seen.append(("error", type(error).__name__))


class AsyncWatcher(AsyncCallbackHandler):
    def __init__(self):
        self.seen = []

    async def on_chat_model_start(self, serialized, messages, **_):
        self.seen.append(("start", messages[0][-1].content))

    async def on_llm_end(self, response, **_):
        self.seen.append(("end", response.generations[0][0].message.text))

    async def on_llm_error(self, error, **_):
        self.seen.append(("error", type(error).__name__))


class Broken(AsyncCallbackHandler):
    async def on_chat_model_start(self, *_, **__):
        raise RuntimeError("broken")

    async def on_llm_end(self, *_, **__):
        raise RuntimeError("broken")


WATCHERS = pytest.mark.parametrize("watcher_type", [Watcher, AsyncWatcher])
SAID = '{"name": "Ada", "age": 36}'
CHAIN = ChatPromptTemplate.from_template("Hello {name}")


@pytest.fixture
async def gpt4(revos_gateway):
    async with (
        TokenManager(revos_gateway.config(max_retries=1)) as tm,
        tm.extractor("gpt-4") as extractor,
    ):
        yield extractor


@contextmanager
def watched_by(handler):
    """As what runs inside of a chain is that was given callbacks."""
    token = var_child_runnable_config.set({"callbacks": [handler]})
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


@WATCHERS
async def test_the_ambient_callbacks_see_each_request(gpt4, revos_gateway, watcher_type):
    watcher = watcher_type()
    revos_gateway.chat_script.extend(["no", SAID])

    with watched_by(watcher):
        await gpt4.extract(Person, PROMPT, text=TEXT)
    await gpt4.extract(Person, PROMPT, text=TEXT)

    first, answer, _, last = watcher.seen
    assert (first, answer) == (("start", f"Extract the person: {TEXT}"), ("end", "no"))
    assert last == ("end", SAID)


@WATCHERS
async def test_the_ambient_callbacks_see_a_refusal(gpt4, revos_gateway, watcher_type):
    watcher = watcher_type()
    revos_gateway.unsupported.add("json_schema")

    with watched_by(watcher):
        await gpt4.extract(Person, PROMPT, text=TEXT)

    assert [what for what, _ in watcher.seen] == ["start", "error", "start", "end"]


@WATCHERS
async def test_the_ambient_callbacks_see_a_stream(gpt4, revos_gateway, watcher_type):
    watcher = watcher_type()

    with watched_by(watcher):
        async with gpt4.extract_stream(Person, PROMPT, text=TEXT) as parts:
            async for _ in parts:
                pass

    assert parts.value == ADA
    assert [what for what, _ in watcher.seen] == ["start", "end"]


async def test_the_ambient_callbacks_see_many(gpt4, revos_gateway):
    watcher = Watcher()

    with watched_by(watcher):
        async with gpt4.extract_many(Person, PROMPT, [TEXT] * 5) as results:
            values = [result.value async for result in results]

    assert values == [ADA] * 5
    assert sorted(what for what, _ in watcher.seen) == ["end"] * 5 + ["start"] * 5


async def test_the_context_managers_of_langchain_see_what_is_inside(gpt4):
    with get_usage_metadata_callback() as counted, collect_runs() as collected:
        result = await gpt4.extract_result(Person, PROMPT, text=TEXT)
    await gpt4.extract(Person, PROMPT, text=TEXT)

    (usage,) = counted.usage_metadata.values()
    assert usage["total_tokens"] == result.usage.total_tokens > 0
    assert [(run.name, run.error) for run in collected.traced_runs] == [("ChatOpenAI", None)]


async def test_a_broken_handler_loses_no_extraction(gpt4, caplog):
    with watched_by(Broken()), caplog.at_level(logging.ERROR):
        assert await gpt4.extract(Person, PROMPT, text=TEXT) == ADA


@WATCHERS
async def test_callbacks_of_a_call_of_the_llm_are_its_own(gpt4, watcher_type):
    watcher = watcher_type()
    ask = partial(gpt4.llm.ainvoke, config={"callbacks": [watcher]})

    await gpt4.run_asyncio(ask, "Hello")

    assert watcher.seen == [("start", "Hello"), ("end", "You said: Hello")]


async def test_the_llm_works_in_a_chain(gpt4):
    chain = CHAIN | gpt4.llm | StrOutputParser()

    one = await gpt4.run_asyncio(chain.ainvoke, {"name": "Ada"})
    two = await gpt4.run_asyncio(chain.abatch, [{"name": "Bob"}, {"name": "Eve"}])

    assert one == "You said: Hello Ada"
    assert two == ["You said: Hello Bob", "You said: Hello Eve"]


async def test_a_chain_is_streamed_where_langchain_runs(gpt4):
    chain = CHAIN | gpt4.llm | StrOutputParser()

    async def collected():
        return [part async for part in chain.astream({"name": "Ada"}) if part]

    parts = await gpt4.run_asyncio(collected)

    assert len(parts) > 1
    assert "".join(parts) == "You said: Hello Ada"


@pytest.mark.parametrize("method", ["function_calling", "json_mode"])
async def test_a_structured_output_of_langchains_own_works_too(gpt4, revos_gateway, method):
    revos_gateway.chat_script.append(SAID)
    asked = CHAIN | gpt4.llm.with_structured_output(Person, method=method)

    assert await gpt4.run_asyncio(asked.ainvoke, {"name": TEXT}) == ADA
    assert TEXT in revos_gateway.chat_log[-1].payload["messages"][-1]["content"]


async def test_what_a_chain_adds_to_the_body_stands_beside_the_messages(gpt4, revos_gateway):
    asked = CHAIN | gpt4.llm.bind(extra_body={"user_tag": "mine"})

    await gpt4.run_asyncio(asked.ainvoke, {"name": TEXT})

    sent = revos_gateway.chat_log[-1].payload
    assert (sent["user_tag"], len(sent["messages"])) == ("mine", 1)


async def test_what_a_chain_raises_comes_out_as_it_is(gpt4):
    def fail(_):
        raise LookupError("my own")

    chain = gpt4.llm | fail

    with pytest.raises(LookupError, match="my own"):
        await gpt4.run_asyncio(chain.ainvoke, "Hello")


async def test_a_chain_meets_the_errors_that_langchain_makes_of_the_gateways(gpt4, revos_gateway):
    told = {"message": "context_length_exceeded: too long", "code": "context_length_exceeded"}
    revos_gateway.chat_script.append(Answer(status=400, body={"error": told}))

    with pytest.raises(ContextOverflowError):
        await gpt4.run_asyncio(gpt4.llm.ainvoke, "Hello")
