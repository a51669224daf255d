"""How a class of settings checks itself: by the rule beside each of its fields.

A setting is written `name: Annotated[type, rule] = default` in an attrs class that inherits from
`Settings`, in a module without `from __future__ import annotations`, since the rules are read from
the annotations. Construction applies every rule and reports all that are broken in one error; so
whoever holds such an object holds a valid one, and there is no second way to check. A setting with
`repr=False` is a secret: its value stands in no message either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from attrs import NOTHING, fields

from revos.errors import RevosConfigurationError
from revos.rules import Unfit

if TYPE_CHECKING:
    from revos.rules import Rule

__all__ = ["Problem", "Ref", "Settings", "SettingsError", "headed", "shown", "worded"]


class Ref(NamedTuple):
    """Stands in a `Problem` for a setting's name, which depends on where it was set."""

    field: str


Problem: TypeAlias = tuple[str | Ref, ...]


class SettingsError(RevosConfigurationError):
    """What construction raises. `found` has the problems with their names left open."""

    found: tuple[Problem, ...] = ()


def worded(problem: Problem, name: Callable[[str], str] = str) -> str:
    return "".join(name(part.field) if isinstance(part, Ref) else part for part in problem)


def headed(what: str, problems: Iterable[str]) -> str:
    """A headline, then one line a problem."""
    lines = tuple(problems)
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    return "\n  - ".join((f"{what} has {count}:", *lines))


def shown(value: object) -> str:
    """A value that is no secret, for a message; nothing of it where it might hold credentials."""
    if isinstance(value, Mapping):
        return " (got a table)"
    if value is not None and not isinstance(value, str | int | float):
        return f" (got a {type(value).__name__})"
    if isinstance(value, int) and abs(value) > 10**30:
        return " (got a huge number)"
    if isinstance(value, str):
        if "@" in value or "%40" in value:
            return ""
        start, query, _ = value.partition("?")
        value = start[:80] + ("..." if query or len(start) > 80 else "")
    return f" (got {value!r})"


class Settings:
    """The one mechanism: `__attrs_post_init__` applies the rule of every field."""

    __slots__ = ()

    def __attrs_post_init__(self) -> None:
        found: list[Problem] = []
        fit: dict[str, Any] = {}
        for setting in fields(type(self)):  # type: ignore[arg-type]  # Each subclass is attrs'.
            value = getattr(self, setting.name)
            if value is None and setting.default is None:
                continue
            if value is None and setting.default is NOTHING:
                found.append((Ref(setting.name), " is missing"))
                continue
            rule: Rule = setting.type.__metadata__[0]
            try:
                fit[setting.name] = rule(value)
            except Unfit as unfit:
                found.append((Ref(setting.name), f" {unfit}{shown(value) if setting.repr else ''}"))
        found.extend(self._together(fit))
        if found:
            problems = tuple(worded(problem) for problem in found)
            error = SettingsError(headed(type(self).__name__, problems), problems=problems)
            error.found = tuple(found)
            raise error
        for name, value in fit.items():
            object.__setattr__(self, name, value)

    def _together(self, fit: Mapping[str, Any]) -> Iterable[Problem]:  # noqa: ARG002 - overridden.
        """What is wrong between settings. `fit` has those that keep their own rule."""
        return ()
