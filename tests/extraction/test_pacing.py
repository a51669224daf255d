"""How many documents ask together: rate limits, outages, and documents that nobody can help."""

from __future__ import annotations

from collections import Counter
from functools import partial

import anyio
import pytest
from extracting import PROMPT, Said, ScriptedModel, refused, said, unreachable
from support import ManualClock, ScriptedEndpoint, manager, settle

from revos import RevosAPIError, RevosAuthenticationError, RevosTokenError, policy
from revos.extraction.pacing import Pace


@pytest.fixture
def model(monkeypatch):
    return ScriptedModel(monkeypatch)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def endpoint():
    return ScriptedEndpoint()


@pytest.fixture
async def tm(clock, endpoint):
    on_demand = {"enable_periodic_refresh": False}
    async with manager(endpoint, clock, random=0.5, max_retries=3, token=on_demand) as tm:
        yield tm


async def gather(results, taken):
    async for result in results:
        taken.append(result)


class Batch:
    """Documents that are extracted from while the clock is turned.

    :ivar taken: the results
    """

    def __init__(self, tm, clock, documents, at_once):
        self._tm, self._clock, self._documents, self._at_once = tm, clock, documents, at_once
        self.taken = []
        self.ended = False

    async def run(self, turn):
        """:param turn: is awaited while there are documents"""
        async with (
            self._tm.extractor("gpt-4", max_concurrency=self._at_once, repairs=0) as self.ex,
            self.ex.extract_many(Said, PROMPT, self._documents) as results,
            anyio.create_task_group() as tasks,
        ):

            async def take():
                self.taken = [result async for result in results]
                self.ended = True

            tasks.start_soon(take)
            with anyio.fail_after(20):
                await settle()
                while not self.ended:
                    await turn()
        return self

    @property
    def failed(self):
        return [result for result in self.taken if result.error is not None]

    def assert_whole(self, number):
        assert sorted(result.index for result in self.taken) == list(range(number))


async def test_a_retry_after_holds_all_of_them_and_one_asks_first_afterwards(tm, clock, model):
    busy = [refused(429, retry_after=30)]
    model.answer = lambda text: busy.pop() if busy else said(text)
    at_once = 8

    async with (
        tm.extractor("gpt-4", max_concurrency=at_once) as ex,
        ex.extract_many(Said, PROMPT, map(str, range(99))) as results,
        anyio.create_task_group() as tasks,
    ):
        with model.hold():
            tasks.start_soon(gather, results, taken := [])
            await settle()
            assert model.in_flight == at_once
        # The first of them is told to wait; the others, of before, are answered after that.
        with model.hold():
            await settle()
            assert len(taken) == at_once - 1
            await clock.advance(29.9)
            assert (model.in_flight, len(model.asked)) == (0, at_once)
            await clock.advance(0.1)
            assert model.in_flight == 1
        with model.hold():
            await settle()
            assert model.in_flight == 2
        await settle()

    assert sorted(result.index for result in taken) == list(range(99))
    assert len(model.asked) == 99 + 1
    assert model.most_in_flight == at_once


class Window:
    """A gateway that lets some requests through in each so many seconds, and refuses the others."""

    def __init__(self, clock, room, seconds, *, tells):
        self.clock, self.room, self.seconds, self.tells = clock, room, seconds, tells
        self.let_through = Counter()
        self.refused = 0

    def answer(self, text):
        number = self.clock.monotonic() // self.seconds
        if self.let_through[number] == self.room:
            self.refused += 1
            rest = (number + 1) * self.seconds - self.clock.monotonic()
            return refused(429, retry_after=rest if self.tells else None)
        self.let_through[number] += 1
        return said(text)


@pytest.mark.parametrize(("tells", "most"), [(True, 1), (False, 5)])
async def test_no_document_is_lost_to_a_gateway_that_lets_few_through(
    tm, clock, model, tells, most
):
    window = Window(clock, 10, 5, tells=tells)
    model.answer = window.answer
    number = 80

    batch = await Batch(tm, clock, list(map(str, range(number))), 50).run(
        partial(clock.advance, 0.5)
    )

    batch.assert_whole(number)
    assert batch.failed == []
    assert window.refused < most * number
    assert clock.monotonic() - 1000 <= number / 10 * 5 + 5


@pytest.mark.parametrize("seconds", [60, 300])
async def test_a_long_retry_after_is_waited_for_by_many_and_told_to_one(tm, clock, model, seconds):
    answers = [refused(429, retry_after=seconds)] * 2
    model.answer = lambda text: answers.pop() if answers else said(text)

    async with tm.extractor("gpt-4") as ex:
        with pytest.raises(RevosAPIError) as caught:
            await ex.extract(Said, PROMPT, text="a")
    began = clock.monotonic()
    batch = await Batch(tm, clock, ["a"], 2).run(partial(clock.advance, 10))

    assert caught.value.retry_after == seconds
    assert batch.failed == []
    assert clock.monotonic() - began == seconds


async def test_nobody_waits_for_longer_than_that(tm, clock, model):
    model.answer = lambda text: refused(429, retry_after=301) if text == "a" else said(text)

    batch = await Batch(tm, clock, ["a", "b"], 2).run(partial(clock.advance, 1))

    (failed,) = batch.failed
    assert (failed.item, failed.error.retry_after) == ("a", 301)
    assert clock.monotonic() < 1010


@pytest.mark.parametrize(("status", "most"), [(500, 3), (429, 30)])
async def test_a_document_that_is_refused_for_ever_fails_and_the_others_get_on(
    tm, clock, model, status, most
):
    model.answer = lambda text: refused(status) if text == "7" else said(text)
    number = 240

    async def documents():
        for index in range(number):
            await clock.sleep(0.1)
            yield str(index)

    batch = await Batch(tm, clock, documents(), 4).run(partial(clock.advance, 0.1))

    batch.assert_whole(number)
    (failed,) = batch.failed
    assert (failed.item, failed.error.status_code) == ("7", status)
    assert model.asked.count("7") == most
    assert len(model.asked) - most == number - 1
    # Nobody was held up by it: each was extracted from as it came.
    assert clock.monotonic() - 1000 < number * 0.1 + 1


@pytest.mark.parametrize("how", [partial(refused, 503), unreachable])
async def test_an_outage_of_minutes_costs_no_document(tm, clock, model, how):
    ends_at = clock.monotonic() + 300
    asked_in_outage = []

    def answer(text):
        if len(model.asked) < 20 or clock.monotonic() >= ends_at:
            return said(text)
        asked_in_outage.append(text)
        return how()

    model.answer = answer
    batch = await Batch(tm, clock, list(map(str, range(60))), 16).run(partial(clock.advance, 1))

    batch.assert_whole(60)
    assert batch.failed == []
    assert len(asked_in_outage) < 2 * 16
    assert clock.monotonic() < ends_at + 90


def pauses_told(caplog):
    return [one.message.rpartition("again in ")[2] for one in caplog.records]


async def test_a_document_that_fails_while_others_get_on_is_paused_for_longer_each_time(
    tm, clock, model, caplog
):
    busy = [refused(503)] * 2

    async def answer(text):
        await clock.sleep(0.5)
        return busy.pop() if text == "0" and busy else said(text)

    model.answer = answer

    with caplog.at_level("INFO", "revos.extraction"):
        batch = await Batch(tm, clock, map(str, range(30)), 2).run(partial(clock.advance, 0.25))

    batch.assert_whole(30)
    assert batch.failed == []
    assert pauses_told(caplog) == ["0.8 s", "1.5 s"]


@pytest.mark.parametrize("told", [5, None])
async def test_how_long_a_pause_is_stands_in_the_log(tm, clock, model, caplog, told):
    busy = []
    model.answer = lambda text: busy.pop() if busy else said(text)

    async def alone():
        async with tm.extractor("gpt-4") as ex, anyio.create_task_group() as tasks:
            tasks.start_soon(partial(ex.extract, Said, PROMPT, text="a"))
            await settle()
            while busy or clock.timers_waiting:
                await clock.advance(0.25)

    for ask in (alone, partial(Batch(tm, clock, ["a"], 1).run, partial(clock.advance, 0.25))):
        busy += [refused(429, retry_after=told)] * 2
        with caplog.at_level("INFO", "revos.extraction"):
            await ask()
        assert pauses_told(caplog) == (["5.0 s"] * 2 if told else ["0.8 s", "1.5 s"])
        caplog.clear()


async def test_the_pause_of_many_that_stands_in_the_log_is_that_of_all(tm, clock, model, caplog):
    down = [refused(503)] * 3
    model.answer = lambda text: down.pop() if down else said(text)
    taken = []

    with caplog.at_level("INFO", "revos.extraction"):
        # Whichever is the first, they take turns.
        async with (
            tm.extractor("gpt-4", max_concurrency=1) as ex,
            ex.extract_many(Said, PROMPT, ["a"]) as some,
            ex.extract_many(Said, PROMPT, ["b"]) as others,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(gather, some, taken)
            tasks.start_soon(gather, others, taken)
            await settle()
            with anyio.fail_after(20):
                while len(taken) < 2:
                    await clock.advance(0.25)

    assert pauses_told(caplog) == ["0.8 s", "1.5 s", "3.0 s"]


async def test_an_outage_for_ever_is_told(tm, clock, model):
    model.answer = lambda text: refused(503)

    batch = await Batch(tm, clock, list("abcde"), 2).run(partial(clock.advance, 5))

    batch.assert_whole(5)
    assert len(batch.failed) == 5
    assert max(Counter(model.asked).values()) == 3


async def test_a_gateway_that_is_busy_for_ever_is_asked_until_the_pauses_are_at_their_longest(
    tm, clock, model
):
    model.answer = lambda text: refused(429)

    batch = await Batch(tm, clock, ["a"], 1).run(partial(clock.advance, 5))

    batch.assert_whole(1)
    assert len(batch.failed) == 1
    assert len(model.asked) == 8  # With pauses of 1, 2, 4, 8, 16, 32 and 60 s between them.


async def ask_alone(ex, texts, clock, times, error=RevosAPIError):
    """Each in a task; how long each of them took to fail."""

    async def ask(text):
        began = clock.monotonic()
        with pytest.raises(error):
            await ex.extract(Said, PROMPT, text=text)
        times.append(clock.monotonic() - began)

    async with anyio.create_task_group() as tasks:
        for text in texts:
            tasks.start_soon(ask, text)
        with anyio.fail_after(20):
            while len(times) < len(texts):
                await clock.advance(0.25)


async def test_who_asks_for_one_is_told_of_an_outage_as_soon_as_if_alone(tm, clock, model):
    model.answer = lambda text: refused(503)
    alone, at_once, later = [], [], []

    async with tm.extractor("gpt-4", max_concurrency=4) as ex:
        await ask_alone(ex, ["a"], clock, alone)
        await ask_alone(ex, list(map(str, range(20))), clock, at_once)
        await ask_alone(ex, ["b"], clock, later)

    assert len(model.asked) == 22 * 3
    assert model.most_in_flight <= 4
    assert max(*at_once, *later) == max(alone) < 3


async def test_who_asks_for_one_does_not_wait_for_the_pauses_of_many(tm, clock, model):
    model.answer = lambda text: refused(503) if text in "abcd" else said(text)

    async with (
        tm.extractor("gpt-4", max_concurrency=4) as ex,
        ex.extract_many(Said, PROMPT, list("abcd")),
    ):
        await settle()
        for _ in range(8):
            await clock.advance(1)
        now = clock.monotonic()
        asked = len(model.asked)
        with anyio.fail_after(5):
            assert await ex.extract(Said, PROMPT, text="e") == Said(text="e")
        assert (clock.monotonic(), len(model.asked)) == (now, asked + 1)


@pytest.mark.parametrize(("told", "waits"), [(10, 10), (11, 0)])
async def test_who_asks_for_one_waits_as_long_as_the_gateway_has_told_another(
    tm, clock, model, told, waits
):
    busy = [refused(429, retry_after=told)]
    model.answer = lambda text: busy.pop() if busy else said(text)
    took = []

    async def ask():
        began = clock.monotonic()
        with anyio.fail_after(5):
            await ex.extract(Said, PROMPT, text="b")
        took.append(clock.monotonic() - began)

    async with (
        tm.extractor("gpt-4") as ex,
        ex.extract_many(Said, PROMPT, ["a"]),
        anyio.create_task_group() as tasks,
    ):
        await settle()
        tasks.start_soon(ask)
        await settle()
        for _ in range(waits):
            assert took == []
            await clock.advance(1)

    assert took == [waits]


@pytest.mark.parametrize(("told", "waits"), [((2, 8), 9), ((8, 2), 8)])
async def test_who_waits_as_the_gateway_has_told_waits_for_the_longest(
    tm, clock, model, told, waits
):
    told = {text: [seconds] for text, seconds in zip("ac", told, strict=True)}
    took, later = [], anyio.Event()

    async def answer(text):
        if text == "c":
            await later.wait()
        return refused(429, retry_after=told[text].pop()) if told.get(text) else said(text)

    async def ask():
        began = clock.monotonic()
        with anyio.fail_after(5):
            await ex.extract(Said, PROMPT, text="b")
        took.append(clock.monotonic() - began)

    model.answer = answer
    async with (
        tm.extractor("gpt-4") as ex,
        ex.extract_many(Said, PROMPT, ["a", "c"]),
        anyio.create_task_group() as tasks,
    ):
        with model.hold():
            await settle()
            assert model.asked == ["a", "c"]
        await settle()
        tasks.start_soon(ask)
        await settle()
        await clock.advance(1)
        later.set()
        await settle()
        tasks.start_soon(ask)
        await settle()
        for _ in range(waits - 1):
            assert took == []
            await clock.advance(1)

    assert sorted(took) == [waits - 1, waits]


async def test_the_next_to_ask_in_an_outage_is_always_another(tm, clock, model):
    model.answer = lambda text: refused(503)

    async with (
        tm.extractor("gpt-4", max_concurrency=4) as ex,
        ex.extract_many(Said, PROMPT, list("abcd")),
    ):
        await settle()
        for _ in range(40):
            await clock.advance(5)

    assert [sorted(model.asked[at : at + 4]) for at in (0, 4)] == [list("abcd")] * 2


# Tokens.


async def test_an_outage_of_the_token_endpoint_in_the_middle_costs_no_document(
    tm, clock, model, endpoint
):
    endpoint.lifetime = 20
    endpoint.script.extend([200] + [503] * 24)
    without_token = []

    async def with_token(text):
        # As the auth does: without a token nothing is asked.
        try:
            await tm.get_token()
        except RevosTokenError as error:
            without_token.append(text)
            return error
        return said(text)

    async def documents():
        for index in range(40):
            await clock.sleep(1)
            yield str(index)

    model.answer = with_token
    batch = await Batch(tm, clock, documents(), 8).run(partial(clock.advance, 1))

    batch.assert_whole(40)
    assert batch.failed == []
    assert without_token != []


async def test_without_a_token_for_good_each_document_tells_why(tm, clock, model, endpoint):
    endpoint.script.extend([400] * 99)

    async def with_token(text):
        await tm.get_token()
        return said(text)

    model.answer = with_token
    batch = await Batch(tm, clock, list("abcdefgh"), 4).run(partial(clock.advance, 1))

    batch.assert_whole(8)
    assert {type(result.error) for result in batch.failed} == {RevosAuthenticationError}
    assert len(batch.failed) == 8


async def test_without_a_token_who_asks_for_one_is_told_after_one_cycle_of_tries(
    tm, clock, model, endpoint
):
    endpoint.script.extend([503] * 99)

    async def with_token(text):
        await tm.get_token()
        return said(text)

    model.answer = with_token
    async with tm.extractor("gpt-4") as ex:
        await ask_alone(ex, ["a"], clock, [], RevosAuthenticationError)

    assert len(model.asked) == 1


async def test_what_others_were_answered_before_is_no_hope(clock, endpoint, model):
    answers = [said("first"), refused(429)]
    model.answer = lambda text: answers.pop(0)

    async with manager(endpoint, clock, max_retries=1) as tm, tm.extractor("gpt-4") as ex:
        await ex.extract(Said, PROMPT, text="a")
        with anyio.fail_after(5), pytest.raises(RevosAPIError, match="HTTP 429"):
            await ex.extract(Said, PROMPT, text="a")

    assert len(model.asked) == 2


async def test_what_no_time_can_mend_is_asked_once(tm, model):
    model.answer = lambda text: refused(403)

    async with tm.extractor("gpt-4") as ex:
        with anyio.fail_after(5), pytest.raises(RevosAPIError):
            await ex.extract(Said, PROMPT, text="a")

    assert len(model.asked) == 1


async def test_who_is_cancelled_in_a_pause_leaves_the_room_to_others(tm, clock, model):
    busy = [refused(429, retry_after=30)]
    model.answer = lambda text: busy.pop() if busy else said(text)

    async with tm.extractor("gpt-4", max_concurrency=2) as ex:
        async with ex.extract_many(Said, PROMPT, list("abcd")):
            await settle()
        await clock.advance(30)
        with anyio.fail_after(5):
            async with ex.extract_many(Said, PROMPT, ["e"]) as results:
                following = [result.value async for result in results]

    assert following == [Said(text="e")]
    assert model.asked[-1] == "e"
    assert "c" not in model.asked


# Pauses.


class Askers:
    """Ask side by side, and stay until `gate` is set.

    :ivar asking: those that had their turn
    """

    def __init__(self, pace):
        self.gate = anyio.Event()
        self.asking = []
        self._pace = pace

    async def ask(self, name):
        async with self._pace.turn(patient=True):
            self.asking.append(name)
            await self.gate.wait()


async def test_of_those_that_were_let_in_just_before_a_pause_one_asks_first_after_it(clock):
    pace = Pace(3, clock)
    askers, before = Askers(pace), [pace.turn(patient=True) for _ in range(3)]
    for turn in before:
        await turn.__aenter__()

    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(askers.ask, name)
        await settle()
        for turn in before:
            await turn.__aexit__(None, None, None)
        pace.hold(30, 0.5)
        await settle()
        await clock.advance(30)
        first = len(askers.asking)
        askers.gate.set()

    assert first == 1
    assert sorted(askers.asking) == list("abc")


async def test_who_waits_in_a_pause_waits_on_where_the_gateway_tells_a_later_end(clock):
    pace = Pace(2, clock)
    askers = Askers(pace)
    askers.gate.set()
    pace.hold(10, 0.5)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(askers.ask, "a")
        await settle()
        await clock.advance(5)
        pace.hold(30, 0.5)
        await clock.advance(29.9)
        assert askers.asking == []
        await clock.advance(0.1)
        assert askers.asking == ["a"]


async def test_what_another_is_told_does_not_shorten_a_pause(clock):
    pace = Pace(2, clock)
    askers = Askers(pace)
    askers.gate.set()
    pace.hold(30, 0.5)
    pace.hold(5, 0.5)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(askers.ask, "a")
        await settle()
        await clock.advance(29.9)
        assert askers.asking == []
        await clock.advance(0.1)
        assert askers.asking == ["a"]


async def test_a_pause_that_is_on_is_not_prolonged_by_who_was_told_nothing(clock):
    pace = Pace(2, clock)
    seconds = pace.hold(None, 0.5)
    await clock.advance(seconds / 2)

    assert pace.hold(None, 0.5) == pytest.approx(seconds / 2)

    await clock.advance(seconds / 2)
    with anyio.fail_after(1):
        async with pace.turn(patient=True):
            pass


async def test_those_that_are_told_to_wait_together_make_one_pause_and_no_longest(clock):
    pace = Pace(8, clock)
    for _ in range(8):
        pace.hold(1, 0.5)
    await clock.advance(1)

    assert not pace.is_at_longest
    assert pace.hold(None, 0.5) == policy.pause(2, 0.5)


async def test_what_asks_within_a_request_has_a_turn_of_its_own(clock):
    pace = Pace(2, clock)

    async with pace.turn(patient=True), pace.turn(patient=True):
        with anyio.move_on_after(0.01) as waiting:
            async with pace.turn(patient=True):
                pytest.fail("a third")

    assert waiting.cancelled_caught


async def test_successes_let_no_more_in_than_can_ask_so_that_a_pause_holds_the_others(clock):
    pace = Pace(2, clock)
    askers = Askers(pace)
    for _ in range(5):
        pace.succeeded()

    async with anyio.create_task_group() as tasks:
        for name in "abcd":
            tasks.start_soon(askers.ask, name)
        await settle()
        pace.hold(30, 0.5)
        askers.gate.set()
        await settle()
        assert len(askers.asking) == 2
        await clock.advance(30)

    assert sorted(askers.asking) == list("abcd")
