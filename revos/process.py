"""Whether this is still the process in which something was made, or a forked child of it.

Asking for the process id is a system call, which costs more than all the rest of
`get_token_nowait`; a hook on forks would need a list of all managers. So the kernel tells: it hands
a child that page of memory wiped.
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import Protocol

__all__ = ["Birthplace", "birthplace"]

# Linux 4.14 and newer (madvise(2)); the `mmap` module has no name for it.
_MADV_WIPEONFORK = 18


class Birthplace(Protocol):
    """At 0 there is something true in the process where it was made, and 0 in a child."""

    def __getitem__(self, index: int, /) -> int: ...


class _ProcessId:
    """Where the kernel wipes no memory."""

    __slots__ = ("_pid",)

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, index: int, /) -> int:
        return os.getpid() == self._pid


def birthplace() -> Birthplace:
    """A mark of this process.

    >>> bool(birthplace()[0])
    True
    """
    if sys.platform == "linux":
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        try:
            page.madvise(_MADV_WIPEONFORK)
        except OSError:  # An older kernel, or something that only resembles one.
            page.close()
        else:
            page[0] = 1
            return page
    return _ProcessId()
