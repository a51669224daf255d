"""`revos models`: the configured models, and whether the gateway offers them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

import anyio
from attrs import frozen

from revos.cli.shared import BAD_INPUT, FAILED, Backend, check_backend, say
from revos.config import Config
from revos.errors import RevosConfigurationError, RevosError
from revos.loading import load_config
from revos.logs import configure_logging
from revos.manager import TokenManager

__all__ = ["Row", "compare", "models"]

COLUMNS = ("name", "id", "offered")
NO_NAME = "-"


def models(*, config: str | None = None, backend: Backend = "asyncio") -> int:
    """Show the configured models, and which the gateway offers.

    On a terminal as a table, in a pipe with a tab between the columns; then the models that are
    offered and not configured. The exit code is 1 where a configured one is not offered.

    :param config: A configuration file (TOML, YAML, JSON); the environment and .env go first.
    :param backend: The event loop that it runs on.
    """
    try:
        check_backend(backend)
        loaded = load_config(config)
        configure_logging(loaded)
        offered = anyio.run(_offered, loaded, backend=backend)
    except RevosConfigurationError as error:
        say(error)
        return BAD_INPUT
    except RevosError as error:
        say(error)
        return FAILED
    configured = {name: model.model for name, model in loaded.models.items()}
    rows = compare(configured, offered)
    _show(rows)
    missing = [row.name for row in rows if not row.is_offered]
    if missing:
        say(f"the gateway does not offer the model of: {', '.join(missing)}")
        return FAILED
    return 0


async def _offered(config: Config) -> list[str]:
    async with TokenManager(config) as tm:
        return await tm.list_models()


@frozen
class Row:
    """A model, configured under a name or only offered."""

    name: str
    id: str
    is_offered: bool

    def cells(self) -> tuple[str, str, str]:
        return self.name, self.id, "yes" if self.is_offered else "no"


def compare(configured: Mapping[str, str], offered: Iterable[str]) -> list[Row]:
    """The configured models, then the others that are offered.

    >>> [row.cells() for row in compare({"gpt_4": "gpt-4-0613"}, ["claude-4"])]
    [('gpt_4', 'gpt-4-0613', 'no'), ('-', 'claude-4', 'yes')]
    """
    ids = list(dict.fromkeys(offered))
    rows = [Row(name, id_, id_ in ids) for name, id_ in configured.items()]
    known = set(configured.values())
    return rows + [Row(NO_NAME, id_, is_offered=True) for id_ in ids if id_ not in known]


def _show(rows: Sequence[Row]) -> None:
    if not sys.stdout.isatty():
        for cells in (COLUMNS, *(row.cells() for row in rows)):
            print(*cells, sep="\t")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*COLUMNS)
    for row in rows:
        style = "" if row.is_offered else "bold red"
        table.add_row(*(Text(cell, style) for cell in row.cells()))
    Console(highlight=False).print(table)
