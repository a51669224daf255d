"""What ends, or is waited for, when the block of many documents is left."""

import contextlib

import anyio
import pytest

from revos import RevosClosedError
from revos.extraction.block import Block


class Late(Block):
    """Its work gives a result when it is cancelled already."""

    async def _prepare(self):
        return self._work

    async def _work(self):
        try:
            await anyio.sleep_forever()
        finally:
            self._give("late")


class Slow(Late):
    """Entering it takes long."""

    async def _prepare(self):
        await anyio.wait_all_tasks_blocked()
        return await super()._prepare()


async def leave_by_an_error():
    async with Late("a test"):
        await anyio.wait_all_tasks_blocked()
        raise ZeroDivisionError


async def test_a_result_that_comes_too_late_takes_no_place_of_the_bodys_error():
    with pytest.raises(ZeroDivisionError):
        await leave_by_an_error()


async def test_the_bodys_error_leaves_a_block_that_was_cancelled_meanwhile():
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - cancelled and left around the block
        with anyio.CancelScope() as outside:
            async with Late("a test"):
                outside.cancel()
                raise ZeroDivisionError


async def test_the_second_of_two_tasks_that_enter_a_block_at_the_same_time_is_refused():
    block, entered, refused = Slow("a test"), [], []

    async def enter():
        try:
            async with block:
                entered.append(True)
        except RevosClosedError as error:
            refused.append(str(error))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(enter)
            tasks.start_soon(enter)

    assert len(entered) == len(refused) == 1
    assert "make another" in refused[0]


class Failing(Block):
    """Its work raises an error of this kind."""

    def __init__(self, kind):
        super().__init__("a test")
        self._kind = kind

    async def _prepare(self):
        return self._work

    async def _work(self):
        raise self._kind


@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_what_ends_the_work_leaves_the_block_bare_though_nobody_takes_a_result(run, kind):
    caught = []

    async def main():
        try:
            async with Failing(kind):
                await anyio.wait_all_tasks_blocked()
        except BaseException as error:  # noqa: BLE001 - it is looked at afterwards
            caught.append(type(error))

    with contextlib.suppress(kind):  # Which would end the whole run of the tests.
        run(main)

    assert caught == [kind]


class FailingBesideOthers(Failing):
    """Its work raises that error in a task of a task group, beside one that ends as cancelled."""

    async def _work(self):
        async with anyio.create_task_group() as outer, anyio.create_task_group() as inner:
            outer.start_soon(self._wait)
            inner.start_soon(self._fail)

    async def _wait(self):
        try:
            await anyio.sleep_forever()
        finally:
            self._give("cancelled")

    async def _fail(self):
        raise self._kind


async def test_what_ends_the_work_in_a_task_of_its_own_leaves_the_block_bare():
    with pytest.raises(ZeroDivisionError):
        async with FailingBesideOthers(ZeroDivisionError):
            await anyio.wait_all_tasks_blocked()


class FailingOnItsWayOut(FailingBesideOthers):
    """Its work raises that error when it is cancelled, after what is beside it has ended."""

    async def _work(self):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._wait)
            tasks.start_soon(self._fail)

    async def _fail(self):
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
            raise self._kind


async def test_what_fails_on_its_way_out_leaves_the_block_bare():
    with pytest.raises(ZeroDivisionError):
        async with FailingOnItsWayOut(ZeroDivisionError):
            await anyio.wait_all_tasks_blocked()


class Lingering(Block):
    """Its work takes its time to end, unless it is told that the taker is gone."""

    def __init__(self):
        super().__init__("a test")
        self.told = anyio.Event()
        self.was_told = False

    async def _prepare(self):
        return self._work

    async def _work(self):
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.move_on_after(2, shield=True):
                await self.told.wait()
                self.was_told = True


async def test_who_waits_in_another_task_is_told_before_the_work_has_ended():
    block = Lingering()

    async def take():
        with pytest.raises(RevosClosedError, match="was left"):
            await block._take()
        block.told.set()

    async with anyio.create_task_group() as tasks, block:
        tasks.start_soon(take)
        await anyio.wait_all_tasks_blocked()

    assert block.was_told


async def test_who_is_cancelled_with_the_work_is_cancelled_and_not_told_of_it():
    async def enter_and_be_cancelled():
        with anyio.CancelScope() as outside:
            async with Late("a test") as block, anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(take, block)
                await anyio.wait_all_tasks_blocked()
                block._wake()  # As where another task was first to take what was given.
                outside.cancel()

    async def take(block):
        while True:
            await block._take()

    for _ in range(20):  # Trio has no order in which the tasks of one step run.
        await enter_and_be_cancelled()


class Failing(Block):
    """Its work ends in an error that nobody has thought of."""

    def __init__(self, error):
        super().__init__("a test")
        self._error = error

    async def _prepare(self):
        return self._work

    async def _work(self):
        raise self._error


@pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit])
async def test_the_taker_and_the_block_meet_what_the_work_has_ended_in(kind):
    met = []

    async def take():
        async with Failing(kind()) as block:
            try:
                await block._take()
            except BaseException as error:  # noqa: BLE001 - leaving would put another in its place
                met.append(type(error))

    with pytest.raises(kind):
        await take()

    assert met == [kind]
