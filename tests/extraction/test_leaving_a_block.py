"""What ends just when the block of many documents is left."""

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
