"""`extract_many`: any number of documents, few at once, each accounted for, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time

import anyio
import httpx
import pytest
from extracting import ON_ASYNCIO, PROMPT, Said, ScriptedModel, Source, refused, said
from leftovers import frozen_heap
from support import BASE_URL, ManualClock, ScriptedEndpoint, bearer_of, config, manager, settle
from wires import Wire

from revos import (
    RevosAPIError,
    RevosClosedError,
    RevosInputError,
    RevosValidationError,
    TokenManager,
)
from revos.extraction import many
from revos.extraction.answers import Usage
from revos.extraction.runtime import Runtime

BOTH_KINDS = pytest.mark.parametrize("kind", ["in_step", "in_async_step"])
AT_ONCE = 4


@pytest.fixture
def model(monkeypatch):
    return ScriptedModel(monkeypatch)


@pytest.fixture
async def tm():
    async with manager(ScriptedEndpoint(), ManualClock()) as tm:
        yield tm


@pytest.fixture
async def ex(tm, model):
    async with tm.extractor("gpt-4", max_concurrency=AT_ONCE, repairs=0) as extractor:
        yield extractor


def texts_of(results):
    return [result.value.text for result in results]


async def all_of(ex, documents, prompt=PROMPT, **options):
    async with ex.extract_many(Said, prompt, documents, **options) as results:
        return [result async for result in results]


# Documents and results.


async def _each(documents):
    for document in documents:
        yield document


SOURCES = {
    "list": list,
    "generator": iter,
    "keys": lambda documents: dict.fromkeys(documents).keys(),
    "async generator": _each,
}


@pytest.mark.parametrize("made", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("ordered", [False, True])
async def test_each_document_has_a_result_that_names_it(ex, made, ordered):
    results = await all_of(ex, made(["a", "b"]), ordered=ordered)

    assert sorted((one.index, one.item, one.value.text) for one in results) == [
        (0, "a", "a"),
        (1, "b", "b"),
    ]


async def test_a_document_is_a_text_or_the_variables(ex):
    documents = ["a", {"text": "b"}]

    results = await all_of(ex, documents, ordered=True)

    assert texts_of(results) == ["a", "b"]
    assert [result.item for result in results] == documents


async def test_results_come_as_they_end(ex, model):
    first_may_end = anyio.Event()

    async def slowly(text):
        if text == "0":
            await first_may_end.wait()
        return said(text)

    model.answer = slowly
    async with ex.extract_many(Said, PROMPT, list("0123456789")) as results:
        early = [await anext(results) for _ in range(9)]
        first_may_end.set()
        late = [result async for result in results]

    assert sorted(texts_of(early)) == list("123456789")
    assert texts_of(late) == ["0"]


class _Spiteful:
    def __format__(self, spec):
        raise RuntimeError("not today")


class _Unreadable(dict):
    def keys(self):
        raise RuntimeError("not today")


BAD_DOCUMENTS = {
    "number": 7,
    "nothing": None,
    "list": ["a"],
    "missing": {},
    "unknown": {"text": "a", "tone": "b"},
    "no names": {1: "a"},
    "spiteful": {"text": _Spiteful()},
    "unreadable": _Unreadable(text="a"),
}


@pytest.mark.parametrize("document", BAD_DOCUMENTS.values(), ids=BAD_DOCUMENTS)
async def test_a_bad_document_is_a_result_with_an_error(ex, model, document):
    results = await all_of(ex, ["a", document, "b"], ordered=True)

    before, bad, after = results
    assert texts_of([before, after]) == ["a", "b"]
    assert isinstance(bad.error, RevosInputError)
    assert bad.item is document
    assert (bad.index, bad.attempts, bad.usage) == (1, 0, Usage())
    assert model.asked.count("a") + model.asked.count("b") == len(model.asked) == 2


async def test_a_text_is_no_document_for_a_prompt_of_two_variables(ex):
    results = await all_of(ex, ["a", {"text": "b", "tone": "c"}], "{text} {tone}", ordered=True)

    assert "text, tone" in str(results[0].error)
    assert texts_of(results[1:]) == ["b c"]


FAILURES = {
    "refused": refused(400),
    "busy for long": refused(429, retry_after=3600),
    "no answer": None,
    "wrong": '{"text": 7}',
    "no json": "hm",
}


@pytest.mark.parametrize("ordered", [False, True])
async def test_one_that_fails_is_a_result_and_never_the_end_of_the_others(ex, model, ordered):
    model.answer = lambda text: FAILURES.get(text, said(text))
    documents = [*FAILURES, *"abcdefgh"]

    results = sorted(await all_of(ex, documents, ordered=ordered), key=lambda one: one.index)

    failed, rest = results[: len(FAILURES)], results[len(FAILURES) :]
    assert [type(one.error) for one in failed] == [RevosAPIError] * 2 + [RevosValidationError] * 3
    assert texts_of(rest) == list("abcdefgh")
    with pytest.raises(RevosAPIError) as caught:
        _ = failed[0].value
    assert caught.value is not failed[0].error
    assert str(caught.value) == str(failed[0].error)


# At once.


async def test_all_that_an_extractor_does_is_no_more_than_so_many_requests_at_once(ex, model):
    done = []

    async def extract(number):
        done.append((await ex.extract(Said, PROMPT, text=f"alone {number}")).text)

    async def extract_from_many():
        done.extend(texts_of(await all_of(ex, map(str, range(10)))))

    async with anyio.create_task_group() as tasks:
        with model.hold():
            for number in range(5):
                tasks.start_soon(extract, number)
                tasks.start_soon(extract_from_many)
            await settle()
            assert model.in_flight == AT_ONCE

    assert model.most_in_flight == AT_ONCE
    assert len(done) == 55


@BOTH_KINDS
async def test_the_next_document_is_pulled_when_there_is_room_for_it(ex, kind):
    source, distances = Source(), []

    async with ex.extract_many(Said, PROMPT, getattr(source, kind)()) as results:
        async for _ in results:
            distances.append(source.pulled - len(distances))
            await settle()
            if len(distances) == 20:
                break

    assert max(distances) == AT_ONCE
    assert source.pulled == 19 + AT_ONCE + 1


@BOTH_KINDS
@pytest.mark.parametrize(("ordered", "most"), [(False, AT_ONCE), (True, 4 * AT_ONCE)])
async def test_a_consumer_that_takes_nothing_holds_up_no_more_than_the_room(
    ex, kind, ordered, most
):
    source = Source()
    documents = getattr(source, kind)()

    async with ex.extract_many(Said, PROMPT, documents, ordered=ordered) as results:
        await settle()

        assert (source.pulled, results.progress.done) == (most, most)


async def test_taking_what_is_there_is_a_checkpoint_that_loses_nothing(ex):
    async with ex.extract_many(Said, PROMPT, ["a"]) as results:
        await settle()
        assert results.progress.done == 1

        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(results)
            pytest.fail("no checkpoint")

        assert texts_of([await anext(results)]) == ["a"]


async def test_order_is_kept_with_bounded_memory_however_slow_the_first_is(ex, model):
    source, first_may_end = Source(30), anyio.Event()

    async def slowly(text):
        if text == "0":
            await first_may_end.wait()
        return said(text)

    model.answer = slowly
    async with ex.extract_many(Said, PROMPT, source.in_step(), ordered=True) as results:
        with model.hold():
            await settle()
            assert (source.pulled, results.progress.in_flight) == (AT_ONCE, AT_ONCE)
        await settle()
        assert source.pulled == 4 * AT_ONCE
        assert (results.progress.done, results.progress.in_flight) == (4 * AT_ONCE - 1, 1)
        first_may_end.set()
        texts = texts_of([result async for result in results])

    assert texts == list(map(str, range(30)))


@pytest.mark.parametrize("ordered", [False, True])
async def test_several_may_take_from_one(ex, model, ordered):
    taken = []

    async def take(results):
        taken.extend([result async for result in results])

    async def slowly(text):
        for _ in range(3 * (int(text) % 5 == 0)):
            await anyio.lowlevel.checkpoint()
        return said(text)

    model.answer = slowly
    with anyio.fail_after(5):
        async with (
            ex.extract_many(Said, PROMPT, map(str, range(40)), ordered=ordered) as results,
            anyio.create_task_group() as tasks,
        ):
            for _ in range(3):
                tasks.start_soon(take, results)

    assert sorted(result.index for result in taken) == list(range(40))


# Leaving early.


async def _by_break(results):
    async for _ in results:
        break


async def _by_exception(results):
    async for _ in results:
        raise ZeroDivisionError


async def _by_cancellation(results):
    with anyio.CancelScope() as scope:
        async for _ in results:
            scope.cancel()
            await anyio.sleep_forever()


async def _by_timeout(results):
    await anext(results)
    with anyio.fail_after(0.001):
        await anyio.sleep_forever()


LEAVING = pytest.mark.parametrize(
    ("leave", "raises"),
    [
        (_by_break, None),
        (_by_exception, ZeroDivisionError),
        (_by_cancellation, None),
        (_by_timeout, TimeoutError),
    ],
    ids=["break", "exception", "cancellation", "timeout"],
)


def raised(error):
    return contextlib.nullcontext() if error is None else pytest.raises(error)


@BOTH_KINDS
@LEAVING
async def test_leaving_early_ends_the_rest_and_closes_the_source_in_the_task_that_pulled(
    ex, model, kind, leave, raises
):
    source = Source()
    model.answer = lambda text: said(text) if int(text) < AT_ONCE else anyio.sleep_forever()

    with raised(raises):
        async with ex.extract_many(Said, PROMPT, getattr(source, kind)()) as results:
            await leave(results)

    assert source.closed_in == source.pulled_in is not None
    assert model.in_flight == 0
    assert results.progress.in_flight == 0
    model.answer = said
    assert texts_of(await all_of(ex, ["a"])) == ["a"]


async def test_a_generator_around_the_block_that_is_closed_ends_the_rest(ex, model):
    source = Source()

    async def texts():
        async with ex.extract_many(Said, PROMPT, source.in_async_step()) as results:
            async for result in results:
                yield result.value.text

    async with contextlib.aclosing(texts()) as generator:
        assert await anext(generator) == "0"

    assert source.closed_in == source.pulled_in is not None
    assert model.in_flight == 0


async def test_the_gateway_sees_at_once_that_the_block_was_left(revos_gateway):
    revos_gateway.chat_delay = 60

    with anyio.fail_after(5):
        async with (
            TokenManager(revos_gateway.config()) as tm,
            tm.extractor("gpt-4", max_concurrency=AT_ONCE) as ex,
        ):
            async with ex.extract_many(Said, PROMPT, map(str, range(99))):
                while revos_gateway.in_flight_api_requests < AT_ONCE:
                    await anyio.sleep(0.001)
                began = time.perf_counter()
            while revos_gateway.in_flight_api_requests:
                await anyio.sleep(0.001)
            seconds = time.perf_counter() - began

    assert seconds < 0.1
    assert len(revos_gateway.chat_log) == AT_ONCE


@pytest.mark.parametrize("taking", [1, None])
async def test_a_source_may_hold_scopes_of_its_own_and_wait_while_it_is_closed(ex, taking):
    async def documents():
        with anyio.CancelScope(), anyio.fail_after(60):
            try:
                for text in map(str, range(30)):
                    yield text
            finally:
                await anyio.sleep(0.02)
                closed.append(True)

    closed, taken = [], 0
    async with ex.extract_many(Said, PROMPT, documents()) as results:
        async for result in results:
            assert result.error is None
            taken += 1
            if taken == taking:
                break

    assert closed == [True]


class Texts:
    """A source that is no generator."""

    def __init__(self, texts):
        self.texts = iter(texts)

    def __aiter__(self):
        return self

    async def __anext__(self):
        for text in self.texts:
            return text
        raise StopAsyncIteration


class Slow(Texts):
    """Its closing takes long."""

    async def aclose(self):
        await anyio.sleep(2)


@pytest.mark.parametrize("texts", ["a", "abcdefghijklmn"], ids=["at its end", "left early"])
async def test_a_source_whose_closing_takes_long_holds_up_no_block(ex, monkeypatch, texts):
    monkeypatch.setattr(many, "CLOSING_SECONDS", 0.01)

    with anyio.fail_after(1):
        async with ex.extract_many(Said, PROMPT, Slow(texts)) as results:
            assert (await anext(results)).error is None


async def test_closing_that_was_given_up_does_not_make_a_cancelled_batch_look_whole(
    ex, monkeypatch
):
    monkeypatch.setattr(many, "CLOSING_SECONDS", 0.01)

    with anyio.CancelScope() as outside:
        async with ex.extract_many(Said, PROMPT, Slow("abcdefghijklmn")) as results:
            await settle()
            outside.cancel()
            with anyio.CancelScope(shield=True), pytest.raises(RevosClosedError):
                _ = [result async for result in results]


async def test_results_that_come_as_the_block_is_left_are_no_error(ex, model):
    with contextlib.ExitStack() as held:
        async with ex.extract_many(Said, PROMPT, map(str, range(9))):
            held.enter_context(model.hold())
            await settle()
            assert model.in_flight == AT_ONCE
            held.close()  # They go on in the same step of the loop in which the block is left.

    assert model.in_flight == 0


# Exceptions.


class SourceError(Exception):
    pass


def _failing(kind, end):
    def in_step():
        yield from map(str, range(end))
        try:
            raise KeyError(end)
        except KeyError:
            raise ERROR  # noqa: B904 - its context is what matters

    async def in_async_step():
        for document in in_step():
            yield document

    return {"in_step": in_step, "in_async_step": in_async_step}[kind]()


ERROR = SourceError("no more")


@BOTH_KINDS
@pytest.mark.parametrize("end", [0, 1, 10])
@pytest.mark.parametrize("ordered", [False, True])
async def test_the_exception_of_the_source_comes_bare_after_the_results_so_far(
    ex, kind, end, ordered
):
    texts = []

    with pytest.raises(SourceError) as caught:  # noqa: PT012
        async with ex.extract_many(Said, PROMPT, _failing(kind, end), ordered=ordered) as results:
            async for result in results:
                texts.append(result.value.text)  # noqa: PERF401 - each one before the exception

    assert sorted(texts, key=int) == list(map(str, range(end)))
    assert caught.value is ERROR
    assert isinstance(caught.value.__context__, KeyError)


class _NotToBeIterated:
    def __iter__(self):
        raise SourceError


class _NotToBeIteratedAsync:
    def __aiter__(self):
        raise SourceError


@pytest.mark.parametrize("documents", [_NotToBeIterated(), _NotToBeIteratedAsync()])
async def test_so_does_that_of_one_that_cannot_even_begin(ex, documents):
    with pytest.raises(SourceError):
        await all_of(ex, documents)


async def test_the_exception_of_the_source_is_not_raised_to_whoever_has_left(ex):
    async with ex.extract_many(Said, PROMPT, _failing("in_step", 0)):
        await settle()


def _failing_as_it_closes(kind):
    def in_step():
        try:
            yield from map(str, range(9))
        finally:
            raise ERROR

    async def in_async_step():
        try:
            for text in map(str, range(9)):
                yield text
        finally:
            raise ERROR

    return {"in_step": in_step, "in_async_step": in_async_step}[kind]()


class _FailingToClose(Texts):
    async def aclose(self):
        raise ERROR


async def test_a_source_that_fails_as_it_is_closed_at_its_end_costs_no_result(ex, model):
    texts = []

    async def late(text):
        await settle()
        return said(text)

    async def take():
        async with ex.extract_many(Said, PROMPT, _FailingToClose("abc")) as results:
            async for result in results:
                texts.append(result.value.text)  # noqa: PERF401 - each one before the exception

    model.answer = late
    with pytest.raises(SourceError) as caught:
        await take()

    assert sorted(texts) == list("abc")
    assert caught.value is ERROR


async def test_of_a_source_that_fails_and_fails_to_close_the_first_is_told(ex):
    class Failing(_FailingToClose):
        async def __anext__(self):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await all_of(ex, Failing("abc"))


@BOTH_KINDS
async def test_a_source_that_fails_as_it_is_closed_early_fails_the_block_bare(ex, kind):
    with pytest.raises(SourceError) as caught:
        async with ex.extract_many(Said, PROMPT, _failing_as_it_closes(kind)) as results:
            await anext(results)

    assert caught.value is ERROR


async def test_what_was_cancelled_from_outside_does_not_look_as_if_it_had_come_to_its_end(ex):
    with anyio.CancelScope() as outside:
        async with ex.extract_many(Said, PROMPT, Source().in_step()) as results:
            outside.cancel()
            with anyio.CancelScope(shield=True):
                await settle()
                with pytest.raises(RevosClosedError, match="cancelled before its end"):
                    _ = [result async for result in results]


@ON_ASYNCIO
async def test_a_source_that_waits_for_a_cancelled_task_does_not_look_as_if_it_were_at_its_end(ex):
    async def documents():
        yield "a"
        await taken.wait()
        await cancelled

    taken = anyio.Event()
    cancelled = asyncio.ensure_future(anyio.sleep_forever())
    cancelled.cancel()

    async with ex.extract_many(Said, PROMPT, documents()) as results:
        assert (await anext(results)).value.text == "a"
        taken.set()
        with pytest.raises(RevosClosedError, match="cancelled before its end"):
            await anext(results)


@ON_ASYNCIO
async def test_a_result_that_comes_as_its_taker_is_cancelled_is_for_the_next(ex, model):
    with contextlib.ExitStack() as held:
        held.enter_context(model.hold())
        async with ex.extract_many(Said, PROMPT, ["a"]) as results:
            taker = asyncio.ensure_future(anext(results))
            await settle()
            held.close()
            while not results.progress.done:
                await asyncio.sleep(0)
            taker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await taker
            with anyio.fail_after(5):
                assert texts_of([result async for result in results]) == ["a"]


# A manager that is left.


@pytest.mark.parametrize("ordered", [False, True])
async def test_the_manager_is_left_in_the_middle(model, ordered):
    taken, caught = [], []

    async def take(tm, entered):
        async with (
            tm.extractor("gpt-4", max_concurrency=AT_ONCE) as ex,
            ex.extract_many(Said, PROMPT, source.in_async_step(), ordered=ordered) as results,
        ):
            taken.append(await anext(results))
            model.answer = lambda text: anyio.sleep_forever()
            entered.set()
            try:
                async for result in results:
                    taken.append(result)  # noqa: PERF401 - each one before the exception
            except RevosClosedError as error:
                caught.append(error)

    source, entered = Source(), anyio.Event()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks, manager(ScriptedEndpoint()) as tm:
            tasks.start_soon(take, tm, entered)
            await entered.wait()
            await settle()

    assert len(caught) == 1
    assert "its block was left" in str(caught[0])
    assert source.closed_in == source.pulled_in


async def test_the_manager_is_left_while_the_source_has_nothing_to_give(model):
    caught = []

    async def take(tm):
        async with tm.extractor("gpt-4") as ex:
            try:
                await all_of(ex, documents())
            except RevosClosedError as error:
                caught.append(error)

    async def documents():
        waiting.set()
        await anyio.sleep_forever()
        yield "never"

    waiting = anyio.Event()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks, manager(ScriptedEndpoint()) as tm:
            tasks.start_soon(take, tm)
            await waiting.wait()

    assert len(caught) == 1


async def test_the_manager_is_left_while_a_block_is_entered_whose_source_has_nothing_to_give(
    monkeypatch,
):
    building, built, caught = threading.Event(), threading.Event(), []

    def build(*_):
        building.set()
        built.wait(10)

    async def take(tm):
        try:
            await all_of(tm.extractor("gpt-4"), nothing())
        except RevosClosedError as error:
            caught.append(error)

    async def nothing():
        await anyio.sleep_forever()
        yield "never"

    monkeypatch.setattr(Runtime, "_make_llm", build)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            async with manager(ScriptedEndpoint()) as tm:
                tasks.start_soon(take, tm)
                while not building.is_set():
                    await anyio.sleep(0.001)
            built.set()

    assert len(caught) == 1


# The block.


async def test_a_block_that_is_not_entered_says_what_to_do(ex):
    results = ex.extract_many(Said, PROMPT, ["a"])

    with pytest.raises(RevosClosedError, match="`async with`"):
        await anext(results)
    assert results.progress.total == 1
    assert results.progress.seconds == 0


async def test_a_block_is_entered_once(ex):
    async with ex.extract_many(Said, PROMPT, ["a"]) as results:
        with pytest.raises(RevosClosedError, match="make another"):
            await results.__aenter__()
        assert texts_of([result async for result in results]) == ["a"]
    with pytest.raises(RevosClosedError, match="make another"):
        await results.__aenter__()


async def test_a_block_that_was_left_has_no_more_results(ex):
    async with ex.extract_many(Said, PROMPT, ["a"]) as results:
        await settle()

    with pytest.raises(RevosClosedError, match="was left"):
        await anext(results)


async def test_a_taker_in_another_task_is_told_that_the_block_was_left(ex, model):
    caught = []

    async def take(results):
        try:
            await anext(results)
        except RevosClosedError as error:
            caught.append(error)

    with model.hold():
        async with (
            anyio.create_task_group() as tasks,
            ex.extract_many(Said, PROMPT, ["a"]) as results,
        ):
            tasks.start_soon(take, results)
            await settle()

    assert "was left" in str(caught[0])


async def test_the_end_stays_the_end(ex):
    async with ex.extract_many(Said, PROMPT, []) as results:
        for _ in range(2):
            with pytest.raises(StopAsyncIteration):
                await anext(results)


@pytest.mark.parametrize(
    "documents",
    ["one text", b"bytes", {"text": "a"}, 7, None, object()],
    ids=lambda it: type(it).__name__,
)
async def test_documents_that_are_none_are_refused_before_anything_is_sent(ex, documents):
    with pytest.raises(RevosInputError, match="iterable of dict or str"):
        ex.extract_many(Said, PROMPT, documents)


@pytest.mark.parametrize(("target", "prompt"), [(object(), PROMPT), (Said, 7), (Said, "{")])
async def test_target_and_prompt_are_checked_on_entering(ex, model, target, prompt):
    source = Source()

    with pytest.raises(RevosInputError):
        async with ex.extract_many(target, prompt, source.in_step()):
            pytest.fail("entered")

    assert (source.pulled, model.asked) == (0, [])


# What it costs.


async def test_usage_and_progress_are_exact(ex, model, tm):
    model.answer = lambda text: {"bad": "hm", "refused": refused(400)}.get(text, said(text))
    documents = ["a", "bad", "b", "refused"]

    async with ex.extract_many(Said, PROMPT, documents) as results:
        with model.hold():
            await settle()
            before = results.progress
            await tm._clock.advance(7)
        taken = [result async for result in results]
        after = results.progress

    assert (before.done, before.failed, before.in_flight, before.total) == (0, 0, 4, 4)
    assert before.seconds == 0
    assert (after.done, after.failed, after.in_flight, after.total) == (2, 2, 0, 4)
    assert after.seconds == 7
    assert results.usage == Usage(3 * 2, 3 * 3, 3 * 5)
    assert sum((one.usage for one in taken), Usage()) == results.usage
    assert {one.seconds for one in taken} == {7}


async def test_what_repairs_cost_counts(tm, model):
    answers = ["hm", "hm", said("a")]
    model.answer = lambda text: answers.pop(0)

    async with (
        tm.extractor("gpt-4", repairs=2) as ex,
        ex.extract_many(Said, PROMPT, ["a"]) as results,
    ):
        (result,) = [result async for result in results]

    assert (result.attempts, result.usage) == (3, Usage(6, 9, 15))
    assert results.usage == result.usage


class _Unsized(list):
    def __len__(self):
        raise TypeError("nobody knows")


@pytest.mark.parametrize(
    ("documents", "total"),
    [(["a"], 1), ((), 0), ({"a": 1}.keys(), 1), (iter("a"), None), (_Unsized("a"), None)],
)
async def test_the_total_is_known_where_the_source_tells_it(ex, documents, total):
    async with ex.extract_many(Said, PROMPT, documents) as results:
        assert results.progress.total == total


# Ten thousand.


class Unsteady:
    """A gateway without HTTP, behind the auth of a manager: some documents are refused, a token is
    revoked in the middle, and later everything is for a while.
    """

    def __init__(self, auth, number):
        self.auth = auth
        self.revoked_after, self.down_after = number * 3 // 10, number * 6 // 10
        self.asked = 0
        self.refusals = 0

    async def __call__(self, text):
        self.asked += 1
        if self.down_after <= self.asked < self.down_after + 20:
            return refused(503)
        if int(text) % 100 == 7:
            return refused(400)
        request = httpx.Request("POST", f"{BASE_URL}/chat/completions")
        async with contextlib.aclosing(self.auth.async_auth_flow(request)) as flow:
            response = self._answer_to(await anext(flow))
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    response = self._answer_to(await flow.asend(response))
        return said(text) if response.status_code == 200 else refused(response.status_code)

    def _answer_to(self, request):
        if bearer_of(request) == "token-1" and self.asked > self.revoked_after:
            self.refusals += 1
            challenge = {"www-authenticate": 'Bearer error="invalid_token"'}
            return httpx.Response(401, headers=challenge, request=request)
        return httpx.Response(200, request=request)


# On the others fewer will do: what they do differently shows in a thousand.
TEN_THOUSAND = {"asyncio": 10_000, "uvloop": 1_000, "trio": 1_000}


async def test_each_of_ten_thousand_is_accounted_for_once_and_none_is_kept(model, request):
    number = TEN_THOUSAND[request.node.callspec.id]
    endpoint, clock = ScriptedEndpoint(), ManualClock()
    indexes, failed, objects = [], [], []

    async def turn():
        while True:
            await anyio.sleep(0.001)
            clock.turn(1)

    async with (
        manager(endpoint, clock, token={"enable_periodic_refresh": False}) as tm,
        tm.extractor("gpt-4", max_concurrency=50) as ex,
        anyio.create_task_group() as turning,
    ):
        turning.start_soon(turn)
        model.answer = Unsteady(tm.auth, number)
        documents, ordered = Source(number).in_async_step(), number < 10_000
        async with ex.extract_many(Said, PROMPT, documents, ordered=ordered) as results:
            async for result in results:
                indexes.append(result.index)
                failed.extend([result.item] * (result.error is not None))
                assert result.error is not None or result.value.text == result.item
                if len(indexes) in (number // 5, number * 9 // 10):
                    gc.collect()
                    objects.append(len(gc.get_objects()))
        turning.cancel_scope.cancel()

    assert sorted(indexes) == list(range(number))
    assert sorted(failed, key=int) == [str(n) for n in range(number) if n % 100 == 7]
    assert (results.progress.done, results.progress.failed) == (number * 99 // 100, number // 100)
    assert results.usage.total_tokens == 5 * number * 99 // 100
    assert endpoint.count == 2
    assert 1 < model.most_in_flight <= 50
    assert 1 <= model.answer.refusals <= 50
    assert model.answer.asked == number + 20
    assert objects[1] - objects[0] < 500


# Cancelled at each checkpoint.


def test_many_are_cancelled_anywhere_and_the_extractor_serves_on(everywhere):
    async def trial(attempt):
        source = Source(3)
        with Wire(completion={"text": "a"}).in_use() as wire:
            settings = config(token={"enable_periodic_refresh": False})
            async with TokenManager(settings) as tm, tm.extractor("gpt-4", max_concurrency=2) as ex:

                async def live():
                    documents = source.in_async_step()
                    async with ex.extract_many(Said, PROMPT, documents, ordered=True) as results:
                        async for result in results:
                            assert result.value.text == "a"

                await attempt(live)
                assert source.closed_in == source.pulled_in
                with anyio.fail_after(5):
                    following = await all_of(ex, list("abcde"))
                assert texts_of(following) == ["a"] * 5
                assert ex._bound.pace._room.available_tokens == 2
            assert (wire.connections, wire.token_requests) == (set(), 1)

    with frozen_heap():
        swept = everywhere(trial, exact=False)

    assert swept.count_in("Extractions.__anext__") >= 3
    assert swept.count_in("Block.__aexit__") >= 1
    assert swept.slowest < 0.1


async def test_documents_that_wait_for_a_token_when_the_manager_is_left_give_no_results(
    revos_gateway,
):
    taken, ended_by = [], []

    async def take(extractor):
        try:
            async with extractor.extract_many(Said, PROMPT, ["a", "b"]) as results:
                async for result in results:
                    taken.append(result)  # noqa: PERF401 - it may end in an error
        except RevosClosedError as error:
            ended_by.append(error)

    revos_gateway.delay = 60
    config = revos_gateway.config(enable_periodic_refresh=False)
    async with anyio.create_task_group() as tasks, TokenManager(config) as tm:
        tasks.start_soon(take, tm.extractor("gpt-4"))
        while not revos_gateway.token_requests:
            await anyio.sleep(0.001)

    assert (taken, len(ended_by)) == ([], 1)
