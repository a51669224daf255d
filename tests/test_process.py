"""The mark of a process, by the kernel's help and without it."""

import mmap
import os
import sys

import pytest
from children import in_child

from revos.process import birthplace

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


def refuse(*args):
    raise OSError("made up")


class Unwiped(mmap.mmap):
    madvise = refuse


@pytest.mark.parametrize("page", [mmap.mmap, Unwiped])
def test_a_forked_child_is_another_process_and_its_parent_stays_the_same(monkeypatch, page):
    monkeypatch.setattr(mmap, "mmap", page)
    here = birthplace()

    assert in_child(lambda: bool(here[0])) == "False"
    assert here[0]


def test_a_child_of_a_child_is_another_process_too():
    here = birthplace()

    assert in_child(lambda: in_child(lambda: bool(here[0]))) == "False"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel wipes no memory")
def test_asking_costs_no_system_call(monkeypatch):
    here = birthplace()
    monkeypatch.setattr(os, "getpid", refuse)

    assert here[0]
