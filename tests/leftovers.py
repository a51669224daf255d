"""What a block leaves behind: tasks, threads, sockets, files and warnings of the collector."""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
import threading
import time
import warnings

import anyio
from support import settle


@contextlib.contextmanager
def leaving_nothing(patience=5.0):
    """Fails where its block leaves threads, open sockets, or warnings of the collector.

    :param patience: seconds that a thread may take to end: one that was abandoned is still on its
        way out when that on which it hung is over
    """
    unraisable = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda found: unraisable.append(repr(found))
    threads = set(threading.enumerate())
    frozen = gc.get_freeze_count() > 0
    gc.collect()
    gc.freeze()  # What is here already is none of our business, and would be slow to look through.
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield
            open_sockets = [one for one in gc.get_objects() if is_open_socket(one)]
            for _ in range(3):
                gc.collect()
    finally:
        if not frozen:
            gc.unfreeze()
        sys.unraisablehook = hook
    new_threads = threads_left(threads, patience)
    assert open_sockets == []
    assert [str(warning.message) for warning in warned] == []
    assert unraisable == []
    assert new_threads == []


@contextlib.contextmanager
def frozen_heap():
    """Around many blocks that leave nothing: each looks through what was made since, no more."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def threads_left(before, patience):
    until = time.monotonic() + patience
    while True:
        new = set(threading.enumerate()) - before
        found = [one for one in new if not is_idle_worker(one)]
        if not found or time.monotonic() >= until:
            return found
        time.sleep(0.001)


def is_open_socket(one):
    return isinstance(one, socket.socket) and one.fileno() != -1


def is_idle_worker(thread):
    """Whether it is a thread of AnyIO's pool, of Trio's cache or of a loop's default executor."""
    name = thread.name.lower()
    in_pool = "anyio worker" in name or "trio thread" in name
    return in_pool or name.startswith(("asyncio_", "uvloop_"))


async def tasks_of_loop():
    await settle()
    return {task.id for task in anyio.get_running_tasks()}
