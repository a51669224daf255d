"""What holds a secret in memory and nowhere else: it is not pickled, and a copy of it is itself."""

from __future__ import annotations

from typing import ClassVar, NoReturn, Self

__all__ = ["Unpickled"]


class Unpickled:
    """For frozen classes. `_instead` says how another process gets what a pickle would carry."""

    __slots__ = ()

    _instead: ClassVar[str]

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} is not pickled: a pickle would carry the secret. "
            f"{self._instead}"
        )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self
