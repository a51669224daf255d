"""What several commands have in common."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Literal, TypeAlias

from revos.errors import RevosConfigurationError

__all__ = ["BAD_INPUT", "FAILED", "INTERRUPTED", "Backend", "check_backend", "say"]

Backend: TypeAlias = Literal["asyncio", "trio"]

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 128  # And the number of the signal.


def check_backend(backend: Backend) -> None:
    """:raises RevosConfigurationError: it is not installed"""
    if find_spec(backend) is None:
        raise RevosConfigurationError(
            f'--backend {backend} needs an extra: pip install "revos[{backend}]"'
        )


def say(words: object) -> None:
    """Tell the user; results alone go to standard output."""
    print(f"revos: {words}", file=sys.stderr, flush=True)
