"""What each place says about the configuration: the environment, `.env`, a file.

Each becomes a `Source`: raw values by `Key`, each with the name under which its author finds it
(`REVOS_TOKEN_URL in .env`, `revos.token_url in revos.toml`). Here is judged what things are called,
never what they are worth; `config.py` does that.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from io import StringIO
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from attrs import NOTHING, AttrsInstance, define, field, fields, fields_dict, frozen

from revos.config import (
    Config,
    GatewayConfig,
    LoggingConfig,
    ModelConfig,
    TokenConfig,
    match_key,
    name_problems,
    nearest,
)
from revos.config_file import UnreadableError, read_text, read_tree
from revos.secret_files import warn_if_others_may_read

__all__ = [
    "FilePath",
    "Key",
    "Names",
    "Source",
    "from_env_file",
    "from_file",
    "from_variables",
    "plain",
]

logger = logging.getLogger("revos.sources")

FilePath: TypeAlias = str | os.PathLike[str]

Key: TypeAlias = tuple[str, ...]
"""("revos", "token_url"), or ("models", "gpt_4", "timeout") where a model has its match key."""

_FIXED_TABLES = MappingProxyType(
    {"revos": GatewayConfig, "token": TokenConfig, "logging": LoggingConfig}
)
_FIXED_KEYS: tuple[Key, ...] = tuple(
    (table, name) for table, kind in _FIXED_TABLES.items() for name in fields_dict(kind)
)
_SECRETS = frozenset(("revos", at.name) for at in fields(GatewayConfig) if not at.repr)


@frozen
class Names:
    """What each setting is called in the environment."""

    prefixes: Mapping[str, str]

    def variable(self, key: Key) -> str:
        table, *rest = key
        return self.prefixes[table] + "_".join(rest).upper()

    def fixed(self) -> dict[str, Key]:
        """The settings whose variables are known beforehand: all but those of models."""
        return {self.variable(key): key for key in _FIXED_KEYS}

    def model_setting(self, variable: str) -> tuple[str, str] | None:
        """The name of the model and the field, where it is a variable of a model."""
        prefix = self.prefixes["models"]
        if not variable.startswith(prefix):
            return None
        rest = variable.removeprefix(prefix)
        for last in fields_dict(ModelConfig):  # None ends in another.
            name = rest.removesuffix(f"_{last.upper()}")
            if name not in {rest, ""}:
                return name, last
        return None

    def problems(self) -> Iterator[str]:
        arguments = {"models": "llm_prefix", "revos": "revo_prefix"}
        for one, two in combinations(self.prefixes, 2):
            if self.prefixes[one] == self.prefixes[two]:
                first, second = (arguments.get(table, f"{table}_prefix") for table in (one, two))
                yield f"{first} and {second} are both {self.prefixes[one]!r}: each needs its own"
        owners: dict[str, Key] = {}
        for key in _FIXED_KEYS:
            owner = owners.setdefault(self.variable(key), key)
            if owner != key:
                yield f"{self.variable(key)} would be both {'.'.join(owner)} and {'.'.join(key)}"


@define
class Source:
    """What one place says, and what is wrong with how it says it.

    :ivar places: what was read, in words
    :ivar values: as they came
    :ivar origins: where the author of each value finds it
    :ivar models: how the model of each match key is spelt
    :ivar unreadable: it says something, but nobody knows what
    """

    places: tuple[str, ...] = ()
    values: dict[Key, object] = field(factory=dict, repr=False)
    origins: dict[Key, str] = field(factory=dict)
    models: dict[str, str] = field(factory=dict)
    problems: list[str] = field(factory=list)
    unreadable: bool = False

    def put(self, key: Key, value: object, origin: str) -> None:
        self.values[key] = value
        self.origins[key] = origin

    def spell_models(self, names: Iterable[str], where: str) -> None:
        names = tuple(dict.fromkeys(names))
        self.problems.extend(f"{where}: {problem}" for problem in name_problems(names))
        for name in filter(str.strip, names):
            self.models.setdefault(match_key(name), name)

    def put_table(self, table: object, at: Key, path: FilePath, kind: type[AttrsInstance]) -> None:
        """The settings of one table of a file; null is unset."""
        for name, value in self.entries(table, at, path, fields_dict(kind)):
            if value is not None:
                key = (*at[:1], *map(match_key, at[1:]), name)
                self.put(key, value, f"{plain('.'.join((*at, name)))} in {path}")

    def entries(
        self, table: object, at: Key, path: FilePath, known: Collection[str] | None = None
    ) -> Iterator[tuple[str, object]]:
        """What is in a table of a file; other keys than the known ones are problems."""
        here = f"{plain('.'.join(at))} in {path}" if at else str(path)
        if not isinstance(table, Mapping | None):
            self.problems.append(f"{here} must be a table")
        for key, value in table.items() if isinstance(table, Mapping) else ():
            if not isinstance(key, str):
                self.problems.append(f"{here} has a key that is not text: put it in quotes")
            elif known is not None and key not in known:
                self.problems.append(
                    f"{plain('.'.join((*at, key)))} in {path} is unknown: "
                    f"the nearest that is known is {nearest(key, known)}"
                )
            else:
                yield key, value

    def lay_on(self, over: Source) -> None:
        """Take over all that the other one says. A model keeps the spelling that it has."""
        self.places += over.places
        self.values.update(over.values)
        self.origins.update(over.origins)
        self.models = self.models | {k: v for k, v in over.models.items() if k not in self.models}
        self.problems.extend(over.problems)
        self.unreadable |= over.unreadable

    def dotted(self, key: Key) -> str:
        table, *rest = key
        return ".".join((table, *(self.models.get(part, part) for part in rest[:-1]), rest[-1]))

    def tables(self) -> dict[str, Any]:
        """The values as `Config` is structured from them; what is required and missing is None."""
        required = {at.name: None for at in fields(GatewayConfig) if at.default is NOTHING}
        models = {spelt: self._table("models", key) for key, spelt in self.models.items()}
        return {
            "revos": required | self._table("revos"),
            "token": self._table("token"),
            "models": {spelt: {"model": None} | table for spelt, table in models.items()},
            "logging": self._table("logging"),
        }

    def _table(self, *start: str) -> dict[str, object]:
        return {key[-1]: value for key, value in self.values.items() if key[:-1] == start}


def from_variables(
    variables: Mapping[str, str | None], names: Names, place: str = "the environment"
) -> Source:
    """The settings among these variables."""
    source = Source(places=(place,))
    where = "" if place == "the environment" else f" in {place}"
    fixed = names.fixed()
    spellings: list[str] = []
    for variable, value in variables.items():
        if not value:
            continue
        key = fixed.get(variable)
        if key is None and (setting := names.model_setting(variable)):
            name, last = setting
            spellings.append(name)
            key = ("models", match_key(name), last)
        if key is not None:
            source.put(key, value, f"{plain(variable)}{where}")
    source.spell_models(spellings, f"{names.prefixes['models']}<NAME>_...{where}")
    source.models = {key: name.lower() for key, name in source.models.items()}
    return source


def from_env_file(path: FilePath | None, names: Names) -> Source:
    """The settings in a `.env` file, where there is one."""
    if path is None:
        return Source()
    try:
        text = read_text(path)
    except (FileNotFoundError, IsADirectoryError):  # A directory `.env` is a virtual environment.
        return Source()
    except UnreadableError as unreadable:
        return Source(places=(str(path),), problems=[str(unreadable)], unreadable=True)
    from dotenv import dotenv_values

    variables = dotenv_values(stream=StringIO(text), interpolate=False)
    source = from_variables(variables, names, str(path))
    _warn_if_exposed(source, path)
    return source


def from_file(path: FilePath | None) -> Source:
    """The settings in a TOML, YAML or JSON file."""
    if path is None:
        return Source()
    try:
        tree = read_tree(path)
    except UnreadableError as unreadable:
        return Source(places=(str(path),), problems=[str(unreadable)], unreadable=True)
    source = Source(places=(str(path),))
    for table, content in source.entries(tree, (), path, fields_dict(Config)):
        if table == "models":
            models = dict(source.entries(content, ("models",), path))
            source.spell_models(models, f"models in {path}")
            for name, settings in models.items():
                source.put_table(settings, ("models", name), path, ModelConfig)
        else:
            source.put_table(content, (table,), path, _FIXED_TABLES[table])
    _warn_if_exposed(source, path)
    return source


def _warn_if_exposed(source: Source, path: FilePath) -> None:
    if not _SECRETS.isdisjoint(source.values):
        with suppress(OSError):  # It was read a moment ago; if it is gone, it is not exposed.
            warn_if_others_may_read(logger, path, Path(path).stat())


def plain(name: str) -> str:
    """A name for a message, which has one line for each problem."""
    return name if name.isprintable() else ascii(name)
