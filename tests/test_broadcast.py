"""P5: the latest value wins, nobody is slowed, and the end is the end."""

import anyio
import pytest
from anyio.abc import ObjectReceiveStream

from revos import broadcast as broadcast_module
from revos.broadcast import Broadcast, LatestStream, TokenStream


class Box:
    """A task that waits in `receive`, and what came of it."""

    def __init__(self, tasks, stream):
        self.values = []
        self.error = None
        self.is_done = False
        tasks.start_soon(self._run, stream)

    async def _run(self, stream):
        try:
            self.values.append(await stream.receive())
        except (anyio.EndOfStream, anyio.ClosedResourceError) as error:
            self.error = error
        self.is_done = True


class CountingEvent:
    """Stands in for `anyio.Event` and counts over all of them."""

    made = set_ = woken = 0

    def __init__(self):
        type(self).made += 1
        self._event = anyio.Event()

    def set(self):
        type(self).set_ += 1
        self._event.set()

    async def wait(self):
        await self._event.wait()
        type(self).woken += 1


class CountingAnyio:
    """The module `anyio` with another `Event`."""

    def __init__(self, event):
        self.Event = event

    def __getattr__(self, name):
        return getattr(anyio, name)


@pytest.fixture
def events(monkeypatch):
    class Events(CountingEvent):
        pass

    monkeypatch.setattr(broadcast_module, "anyio", CountingAnyio(Events))
    return Events


def published(*values):
    source = Broadcast()
    for value in values:
        source.publish(value)
    return source


# Without waiting.


def test_a_new_subscriber_gets_the_current_value_at_once():
    assert LatestStream(published("one", "two")).receive_nowait() == "two"


def test_a_value_is_given_once_to_each_subscriber():
    source = published("one")
    first, second = LatestStream(source), LatestStream(source)

    assert [first.receive_nowait(), second.receive_nowait()] == ["one", "one"]
    for stream in (first, second):
        with pytest.raises(anyio.WouldBlock):
            stream.receive_nowait()


def test_without_a_value_receiving_would_block():
    with pytest.raises(anyio.WouldBlock):
        LatestStream(Broadcast()).receive_nowait()


def test_each_newer_value_is_given():
    source = Broadcast()
    stream = LatestStream(source)

    received = []
    for value in ("one", "two", "three"):
        source.publish(value)
        received.append(stream.receive_nowait())

    assert received == ["one", "two", "three"]


def test_a_slow_subscriber_skips_to_the_newest():
    source = published("one")
    stream = LatestStream(source)
    stream.receive_nowait()

    source.publish("two")
    source.publish("three")

    assert stream.receive_nowait() == "three"
    with pytest.raises(anyio.WouldBlock):
        stream.receive_nowait()


def test_an_equal_value_that_is_published_again_is_new():
    source = published(["one"])
    stream = LatestStream(source)
    stream.receive_nowait()

    source.publish(["one"])

    assert stream.receive_nowait() == ["one"]


@pytest.mark.parametrize("value", [0, "", ()])
def test_a_value_may_be_falsy(value):
    assert LatestStream(published(value)).receive_nowait() == value


def test_latest_is_the_current_value_and_counts_as_no_receipt():
    source = Broadcast()
    stream = LatestStream(source)

    assert (source.latest, stream.latest) == (None, None)
    source.publish("one")
    assert (source.latest, stream.latest) == ("one", "one")
    assert stream.receive_nowait() == "one"
    assert stream.latest == "one"


def test_a_value_that_has_gone_bad_counts_as_none():
    goods = [True]
    source = Broadcast(lambda: goods[-1])
    source.publish("one")
    stream = LatestStream(source)

    goods.append(False)

    assert (source.latest, stream.latest) == (None, None)
    with pytest.raises(anyio.WouldBlock):
        stream.receive_nowait()
    goods.append(True)
    assert stream.latest == "one"
    assert stream.receive_nowait() == "one"


def test_whether_nothing_is_good_is_not_asked():
    asked = []
    source = Broadcast(lambda: asked.append("asked") or True)

    assert source.latest is None
    assert asked == []


def test_a_closed_broadcast_has_no_value_and_every_stream_is_at_its_end():
    source = published("one")
    stream = LatestStream(source)

    source.close()

    assert (source.latest, stream.latest) == (None, None)
    for late in (stream, LatestStream(source)):
        with pytest.raises(anyio.EndOfStream):
            late.receive_nowait()


def test_closing_a_broadcast_again_changes_nothing():
    source = published("one")

    source.close()
    source.close()

    with pytest.raises(anyio.EndOfStream):
        LatestStream(source).receive_nowait()


def test_a_closed_stream_gives_nothing_and_the_others_go_on():
    source = published("one")
    closed, other = LatestStream(source), LatestStream(source)

    closed.close()

    with pytest.raises(anyio.ClosedResourceError):
        closed.receive_nowait()
    assert other.receive_nowait() == "one"


def test_a_stream_that_is_closed_and_at_its_end_is_closed():
    source = published("one")
    stream = LatestStream(source)

    stream.close()
    source.close()

    with pytest.raises(anyio.ClosedResourceError):
        stream.receive_nowait()


def test_a_token_stream_is_an_object_receive_stream():
    assert isinstance(TokenStream(Broadcast()), ObjectReceiveStream)


# Waiting.


async def test_receiving_waits_for_the_first_value():
    source = Broadcast()
    async with anyio.create_task_group() as tasks:
        box = Box(tasks, LatestStream(source))
        await anyio.wait_all_tasks_blocked()
        assert not box.is_done

        source.publish("one")

    assert box.values == ["one"]


async def test_receiving_gives_a_value_that_is_there_at_once():
    with anyio.fail_after(10):
        assert await LatestStream(published("one")).receive() == "one"


async def test_receiving_waits_for_a_value_that_was_not_given_yet():
    source = published("one")
    stream = LatestStream(source)
    await stream.receive()
    async with anyio.create_task_group() as tasks:
        box = Box(tasks, stream)
        await anyio.wait_all_tasks_blocked()
        assert not box.is_done

        source.publish("two")

    assert box.values == ["two"]


async def test_receiving_lets_other_tasks_run_although_a_value_is_there():
    ran = []
    source = published("one")
    stream = LatestStream(source)

    async def other():
        ran.append(True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        for value in range(5):
            source.publish(value)
            await stream.receive()

        assert ran


async def test_whoever_is_woken_gets_the_newest_of_several_values():
    source = Broadcast()
    async with anyio.create_task_group() as tasks:
        box = Box(tasks, LatestStream(source))
        await anyio.wait_all_tasks_blocked()

        source.publish("one")
        source.publish("two")

    assert box.values == ["two"]


async def test_two_tasks_that_wait_on_one_stream_get_each_value_once():
    source = Broadcast()
    stream = LatestStream(source)
    async with anyio.create_task_group() as tasks:
        boxes = [Box(tasks, stream), Box(tasks, stream)]
        await anyio.wait_all_tasks_blocked()

        source.publish("one")
        await anyio.wait_all_tasks_blocked()
        assert sorted(box.is_done for box in boxes) == [False, True]
        source.publish("two")

    assert sorted(box.values for box in boxes) == [["one"], ["two"]]


@pytest.mark.parametrize("pace", [1, 2, 7, 50])
async def test_no_subscriber_gets_an_older_value_after_a_newer_and_each_gets_the_last(pace):
    source = Broadcast()
    received = []

    async def subscribe():
        stream = LatestStream(source)
        while not received or received[-1] < 100:
            received.append(await stream.receive())
            for _ in range(pace):
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(subscribe)
        for value in range(101):
            source.publish(value)
            await anyio.lowlevel.checkpoint()

    assert received == sorted(set(received))
    assert received[-1] == 100


# Cancellation loses nothing.


async def test_a_cancelled_receive_loses_no_value():
    source = Broadcast()
    stream = LatestStream(source)
    async with anyio.create_task_group() as tasks:
        box = Box(tasks, stream)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    source.publish("one")

    assert not box.is_done
    assert await stream.receive() == "one"


async def test_a_receive_that_is_cancelled_before_it_begins_takes_no_value():
    stream = LatestStream(published("one"))

    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.receive()

    assert scope.cancelled_caught
    assert stream.receive_nowait() == "one"


@pytest.mark.parametrize("published_first", [True, False])
async def test_a_value_that_comes_with_the_cancellation_is_given_next_time(published_first):
    source = Broadcast()
    stream = LatestStream(source)
    async with anyio.create_task_group() as tasks:
        box = Box(tasks, stream)
        await anyio.wait_all_tasks_blocked()

        acts = [lambda: source.publish("one"), tasks.cancel_scope.cancel]
        for act in acts if published_first else reversed(acts):
            act()

    left = [] if box.values else [stream.receive_nowait()]
    assert box.values + left == ["one"]


async def test_the_others_are_woken_although_one_that_waits_with_them_is_cancelled():
    source = Broadcast()
    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as cancelled:
            first = Box(cancelled, LatestStream(source))
            second = Box(tasks, LatestStream(source))
            await anyio.wait_all_tasks_blocked()
            cancelled.cancel_scope.cancel()

        source.publish("one")

    assert (first.values, second.values) == ([], ["one"])


# The end.


async def test_closing_a_broadcast_ends_all_that_wait():
    source = Broadcast()
    async with anyio.create_task_group() as tasks:
        boxes = [Box(tasks, LatestStream(source)) for _ in range(3)]
        await anyio.wait_all_tasks_blocked()

        source.close()

    assert [type(box.error) for box in boxes] == 3 * [anyio.EndOfStream]


async def test_receiving_from_a_closed_broadcast_is_the_end():
    source = published("one")
    source.close()

    with pytest.raises(anyio.EndOfStream):
        await LatestStream(source).receive()


async def test_a_value_that_comes_with_the_end_is_not_given():
    source = Broadcast()
    async with anyio.create_task_group() as tasks:
        box = Box(tasks, LatestStream(source))
        await anyio.wait_all_tasks_blocked()

        source.publish("one")
        source.close()

    assert isinstance(box.error, anyio.EndOfStream)


async def test_iterating_gives_the_values_and_ends_when_the_broadcast_is_closed():
    source = published("one")
    received = []

    async def iterate():
        received.extend([value async for value in LatestStream(source)])
        received.append("the end")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(iterate)
        await anyio.wait_all_tasks_blocked()
        source.publish("two")
        await anyio.wait_all_tasks_blocked()
        source.close()

    assert received == ["one", "two", "the end"]


async def test_closing_a_stream_tells_the_task_that_waits_on_it_and_no_other():
    source = Broadcast()
    stream = LatestStream(source)
    async with anyio.create_task_group() as tasks:
        closed, other = Box(tasks, stream), Box(tasks, LatestStream(source))
        await anyio.wait_all_tasks_blocked()

        stream.close()
        await anyio.wait_all_tasks_blocked()
        assert isinstance(closed.error, anyio.ClosedResourceError)
        assert not other.is_done
        source.publish("one")

    assert other.values == ["one"]


async def test_receiving_from_a_closed_stream_is_an_error():
    stream = LatestStream(published("one"))
    await stream.aclose()
    await stream.aclose()

    with pytest.raises(anyio.ClosedResourceError):
        await stream.receive()


async def test_leaving_the_block_of_a_stream_closes_it():
    async with LatestStream(published("one")) as stream:
        assert await stream.receive() == "one"

    with pytest.raises(anyio.ClosedResourceError):
        stream.receive_nowait()


async def test_a_stream_is_closed_although_its_task_is_cancelled():
    stream = LatestStream(published("one"))

    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.aclose()

    assert scope.cancelled_caught
    with pytest.raises(anyio.ClosedResourceError):
        stream.receive_nowait()


# What it costs.


async def test_ten_thousand_idle_subscribers_cost_the_publisher_nothing(events):
    source = published("one")
    streams = [LatestStream(source) for _ in range(10_000)]
    for stream in streams:
        stream.receive_nowait()
    before = known_to(source)

    source.publish("two")

    assert (events.made, events.set_, known_to(source)) == (0, 0, before)
    assert {stream.receive_nowait() for stream in streams} == {"two"}


def known_to(source):
    """What the broadcast holds besides its value and version: nothing of a subscriber."""
    return source._changed, source._closed, set(Broadcast.__slots__)


async def test_a_publication_sets_one_event_and_wakes_each_that_waits_once(events):
    source = Broadcast()
    async with anyio.create_task_group() as tasks:
        boxes = [Box(tasks, LatestStream(source)) for _ in range(1_000)]
        await anyio.wait_all_tasks_blocked()
        assert events.made == 1

        source.publish("one")

    assert [box.values for box in boxes] == 1_000 * [["one"]]
    assert (events.made, events.set_, events.woken) == (1, 1, 1_000)


async def test_without_anybody_waiting_a_publication_sets_no_event(events):
    source = Broadcast()
    async with anyio.create_task_group() as tasks:
        Box(tasks, LatestStream(source))
        await anyio.wait_all_tasks_blocked()
        source.publish("one")

    source.publish("two")
    source.close()

    assert events.set_ == 1


async def test_a_slow_subscriber_keeps_no_other_waiting():
    source = published("one")
    slow, quick = LatestStream(source), LatestStream(source)
    slow.receive_nowait()
    received = []

    for value in range(100):
        source.publish(value)
        received.append(await quick.receive())

    assert received == list(range(100))
    assert slow.receive_nowait() == 99
