"""The stand-ins that the tests of extraction share."""

from __future__ import annotations

import anyio
import pytest
from extracting import PROMPT, Said, ScriptedModel, Source, refused
from support import ScriptedEndpoint, manager, settle

from revos import RevosAPIError


async def test_the_model_says_what_it_is_told_once_it_is_not_held(monkeypatch):
    model, said = ScriptedModel(monkeypatch), []

    async def extract(ex):
        said.append(await ex.extract(Said, PROMPT, text="a"))

    async with (
        manager(ScriptedEndpoint()) as tm,
        tm.extractor("gpt-4") as ex,
        anyio.create_task_group() as tasks,
    ):
        with model.hold():
            tasks.start_soon(extract, ex)
            tasks.start_soon(extract, ex)
            await settle()
            assert (said, model.in_flight) == ([], 2)

    assert said == [Said(text="a")] * 2
    assert (model.asked, model.in_flight, model.most_in_flight) == (["a", "a"], 0, 2)


async def test_the_model_fails_by_script(monkeypatch):
    model = ScriptedModel(monkeypatch)
    model.answer = lambda text: refused(400)

    async with manager(ScriptedEndpoint()) as tm, tm.extractor("gpt-4") as ex:
        with pytest.raises(RevosAPIError, match="HTTP 400"):
            await ex.extract(Said, PROMPT, text="a")


async def test_a_source_counts_and_tells_where_it_was_closed():
    source, endless = Source(2), Source()

    assert [text async for text in source.in_async_step()] == ["0", "1"]
    generator = endless.in_step()
    assert [next(generator) for _ in range(3)] == ["0", "1", "2"]
    assert (source.pulled, endless.pulled, endless.closed_in) == (2, 3, None)
    generator.close()
    assert endless.closed_in == source.closed_in == anyio.get_current_task().id
