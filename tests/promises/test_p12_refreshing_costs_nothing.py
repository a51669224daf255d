"""P12. No LangChain model or HTTP client is rebuilt for a new token; connections survive."""

from __future__ import annotations

import pydantic

from revos import TokenManager
from revos.extraction import chat

PROMPT = "Extract the person: {text}"


class Person(pydantic.BaseModel):
    name: str
    age: int


async def test_a_refresh_keeps_the_model_and_its_connection(revos_gateway):
    async with TokenManager(revos_gateway.config()) as tm, tm.extractor("gpt-4") as extractor:
        await extractor.extract(Person, PROMPT, text="Ada, 36")
        model, client = extractor.llm, extractor.llm.root_async_client
        await tm.refresh()
        await extractor.extract(Person, PROMPT, text="Ada, 36")
        assert extractor.llm is model
        assert extractor.llm.root_async_client is client

    assert revos_gateway.token_requests == 2
    assert revos_gateway.api_connections == 1
    first, second = (record.token_fingerprint for record in revos_gateway.chat_log)
    assert first != second


async def test_a_revocation_keeps_the_connection_too(revos_gateway):
    async with TokenManager(revos_gateway.config()) as tm, tm.extractor("gpt-4") as extractor:
        await extractor.extract(Person, PROMPT, text="Ada, 36")
        revos_gateway.revoke()
        await extractor.extract(Person, PROMPT, text="Ada, 36")

    assert revos_gateway.refusals == 1
    assert revos_gateway.api_connections == 1


async def test_no_chat_model_is_made_but_the_first_of_each_model(revos_gateway, monkeypatch):
    made = []

    def counted(*args, _make=chat.make_llm):
        made.append(args[0].model)
        return _make(*args)

    monkeypatch.setattr(chat, "make_llm", counted)
    async with TokenManager(revos_gateway.config()) as tm:
        for _ in range(3):
            async with tm.extractor("gpt-4"), tm.extractor("GPT_4"), tm.extractor("claude-4"):
                await tm.refresh()

    assert sorted(made) == ["claude-4", "gpt-4"]


async def test_opening_extractors_costs_no_token_request(revos_gateway):
    config = revos_gateway.config(enable_periodic_refresh=False)

    async with TokenManager(config) as tm:
        extractors = [await tm.extractor("gpt-4").__aenter__() for _ in range(500)]

    assert len(extractors) == 500
    assert revos_gateway.token_requests == 0
