"""What is left behind on purpose is found, or the tests of P9 could not fail."""

import asyncio
import contextlib
import gc
import socket
import threading
import time

import pytest
from leftovers import frozen_heap, leaving_nothing


def leave_socket():
    socket.socket()


def leave_coroutine():
    asyncio.sleep(0)


def leave_file():
    open(__file__)  # noqa: PTH123, SIM115 - it is to be forgotten


def leave_error_in_finalizer():
    class Failing:
        def __del__(self):
            raise ZeroDivisionError

    Failing()


def leave_thread():
    threading.Thread(target=time.sleep, args=(0.05,), daemon=True).start()


@pytest.mark.parametrize(
    "leave", [leave_socket, leave_coroutine, leave_file, leave_error_in_finalizer, leave_thread]
)
def test_what_is_left_behind_on_purpose_is_found(leave):
    with pytest.raises(AssertionError), leaving_nothing(patience=0):
        leave()


def test_an_open_socket_that_is_still_held_is_found():
    with contextlib.ExitStack() as stack, pytest.raises(AssertionError), leaving_nothing():
        stack.enter_context(socket.socket())


def is_looked_through(one):
    """Whether the collector sees it: what is frozen it passes over."""
    return any(other is one for other in gc.get_objects())


def test_what_is_left_in_one_of_many_blocks_is_found_and_the_next_one_is_clean():
    old, seen = [], []

    with contextlib.ExitStack() as stack, frozen_heap():
        seen.append(is_looked_through(old))
        with pytest.raises(AssertionError), leaving_nothing():
            stack.enter_context(socket.socket())
        seen.append(is_looked_through(old))
        with leaving_nothing():
            pass
        seen.append(is_looked_through(old))

    assert seen == [False, False, False]
    assert is_looked_through(old)
    assert gc.get_freeze_count() == 0
