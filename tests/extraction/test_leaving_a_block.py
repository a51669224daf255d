"""What ends just when the block of many documents is left."""

import anyio
import pytest

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


async def leave_by_an_error():
    async with Late("a test"):
        await anyio.wait_all_tasks_blocked()
        raise ZeroDivisionError


async def test_a_result_that_comes_too_late_takes_no_place_of_the_bodys_error():
    with pytest.raises(ZeroDivisionError):
        await leave_by_an_error()
