"""What tests of extraction share: a target, and a model by script in place of LangChain."""

from __future__ import annotations

import contextlib
import json

import anyio
import pydantic
import pytest
from anyio.lowlevel import checkpoint

from revos.errors import RevosAPIError
from revos.extraction import chat
from revos.extraction.answers import Completion, Usage
from revos.extraction.runtime import Runtime

PROMPT = "{text}"


class Said(pydantic.BaseModel):
    """What the model has read."""

    text: str


ON_ASYNCIO = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)


class ScriptedModel:
    """Says back what it is told, as a `Said`, in the loop of the test on every backend.

    `answer` makes another answer of a text: an answer, an exception to raise, or a coroutine that
    gives one of these. `hold()` keeps requests waiting inside its block.

    :ivar asked: the texts of all requests
    :ivar in_flight: how many are being answered
    :ivar most_in_flight: the most that were at the same time
    """

    def __init__(self, monkeypatch):
        self.answer = said
        self.asked = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._gate = None
        monkeypatch.setattr(chat, "complete", self._complete)
        monkeypatch.setattr(Runtime, "call", _call)

    @contextlib.contextmanager
    def hold(self):
        gate = self._gate = anyio.Event()
        try:
            yield
        finally:
            self._gate = None
            gate.set()

    async def _complete(self, llm, messages, options):
        text = str(messages[-1].text)
        self.asked.append(text)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await checkpoint()
            if self._gate is not None:
                await self._gate.wait()
            answer = self.answer(text)
            if hasattr(answer, "__await__"):
                answer = await answer
        finally:
            self.in_flight -= 1
        if isinstance(answer, Exception):
            raise answer
        return Completion(answer, "stop", usage=Usage(2, 3, 5), model="scripted")


async def _call(runtime, function, *args):
    return await function(*args)


def said(text):
    return json.dumps({"text": text})


def refused(status, retry_after=None):
    """The gateway's answer with that status."""
    passes = status == 429 or status >= 500
    return RevosAPIError(
        f"HTTP {status}", status_code=status, retry_after=retry_after, temporary=passes
    )


def unreachable():
    return RevosAPIError("no connection", temporary=True)


class Source:
    """Documents, one after the other, up to `end` or without end, and what became of them.

    :ivar pulled: how many were taken
    :ivar pulled_in: the task that began with the generator
    :ivar closed_in: the task in which it was closed
    """

    def __init__(self, end=None):
        self.end = end
        self.pulled = 0
        self.pulled_in = None
        self.closed_in = None

    def in_step(self):
        self.pulled_in = anyio.get_current_task().id
        try:
            while self.end is None or self.pulled < self.end:
                self._note()
                yield str(self.pulled - 1)
        finally:
            self.closed_in = anyio.get_current_task().id

    async def in_async_step(self):
        self.pulled_in = anyio.get_current_task().id
        try:
            while self.end is None or self.pulled < self.end:
                await checkpoint()
                self._note()
                yield str(self.pulled - 1)
        finally:
            self.closed_in = anyio.get_current_task().id

    def _note(self):
        self.pulled += 1
