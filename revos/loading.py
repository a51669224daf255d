"""Where configuration is read from: the environment, `.env` and a file, in this order.

The sources (`sources.py`) are laid over each other, and `Config` judges the result; here no value
is looked at. What the sources and the classes find wrong is raised together, at the end and outside
of any `except`: the errors of parsers and of cattrs hold what they were given, and none of them may
hang on ours.

Nothing is written to `os.environ`, and `${...}` in `.env` is left alone: it may be in a secret.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from revos.config import Config, GatewayConfig, LoggingConfig, ModelConfig, TokenConfig, match_key
from revos.errors import RevosConfigurationError
from revos.settings import Problem, SettingsError, headed, worded
from revos.sources import (
    FilePath,
    Key,
    Names,
    Source,
    from_env_file,
    from_file,
    from_variables,
    plain,
)

__all__ = ["create_config_with_prefixes", "load_config"]


def load_config(
    path: FilePath | None = None,
    *,
    env_file: FilePath | None = ".env",
    environ: Mapping[str, str] | None = None,
    revo_prefix: str = "REVOS_",
    llm_prefix: str = "LLM_MODELS_",
    logging_prefix: str = "LOG_",
    token_prefix: str = "TOKEN_",  # noqa: S107 - the start of a variable's name, no token.
) -> Config:
    """What the environment says; what it leaves open, `.env` says; then the file; then defaults.

    An empty variable is an unset one, and an unknown one is passed over; an unknown key in the file
    is an error. A prefix replaces the part before a variable's name.

    :param path: a `.toml`, `.yaml`, `.yml` or `.json` file with the tables `revos`, `token`,
        `models.<name>` and `logging`
    :param env_file: read where it exists, or None
    :param environ: instead of `os.environ`
    :raises RevosConfigurationError: names all that is missing or wrong at once

    >>> config = load_config(
    ...     env_file=None,
    ...     environ={
    ...         "REVOS_CLIENT_ID": "app",
    ...         "REVOS_CLIENT_SECRET": "s3cret",
    ...         "REVOS_TOKEN_URL": "https://login.example/token",
    ...         "REVOS_BASE_URL": "https://gateway.example/v1",
    ...         "LLM_MODELS_GPT_4_MODEL": "gpt-4-0613",
    ...     },
    ... )
    >>> config.model("gpt-4").model
    'gpt-4-0613'
    """
    names = Names(
        prefixes={
            "revos": revo_prefix,
            "token": token_prefix,
            "models": llm_prefix,
            "logging": logging_prefix,
        }
    )
    if problems := tuple(names.problems()):
        raise RevosConfigurationError(headed("The choice of prefixes", problems), problems=problems)

    merged = Source()
    merged.lay_on(from_file(path))
    merged.lay_on(from_env_file(env_file, names))
    merged.lay_on(from_variables(os.environ if environ is None else environ, names))
    del environ  # An error takes this frame along, and a mapping shows what it holds.
    # What stands in a text that nobody could read is not missing.
    config, found = (None, []) if merged.unreadable else _structured(merged.tables())

    def name(key: Key) -> str:
        if key in merged.origins:
            return merged.origins[key]
        in_file = f" (or {plain(merged.dotted(key))} in {path})" if path is not None else ""
        return plain(names.variable(key)) + in_file

    def sentence(table: Key, problem: Problem) -> str:
        return worded(problem, lambda setting: name((*table, setting)))

    problems = (*merged.problems, *(sentence(table, problem) for table, problem in found))
    if config is None or problems:
        headline = f"The configuration (read from {', '.join(reversed(merged.places))})"
        raise RevosConfigurationError(headed(headline, problems), problems=problems)
    return config


def create_config_with_prefixes(
    revo_prefix: str = "REVOS_",
    llm_prefix: str = "LLM_MODELS_",
    logging_prefix: str = "LOG_",
    token_prefix: str = "TOKEN_",  # noqa: S107 - the start of a variable's name, no token.
) -> Config:
    """`load_config` from the environment and `.env` alone, for several gateways in one process.

    :raises RevosConfigurationError: names all that is missing or wrong at once

    >>> create_config_with_prefixes("MYAPP_", token_prefix="MYAPP_")
    Traceback (most recent call last):
    revos.errors.RevosConfigurationError: The choice of prefixes has 1 problem:
      - revo_prefix and token_prefix are both 'MYAPP_': each needs its own
    """
    return load_config(
        revo_prefix=revo_prefix,
        llm_prefix=llm_prefix,
        logging_prefix=logging_prefix,
        token_prefix=token_prefix,
    )


def _structured(tables: Mapping[str, Any]) -> tuple[Config | None, list[tuple[Key, Problem]]]:
    """The configuration, or what is wrong in which table."""
    from cattrs import BaseValidationError, Converter

    converter = Converter()
    for kind in (GatewayConfig, TokenConfig, ModelConfig, LoggingConfig):
        # cattrs nests the tables and collects what is wrong; the rules take values as they came.
        converter.register_structure_hook(kind, lambda table, kind: kind(**table))
    try:
        return converter.structure(tables, Config), []
    except BaseValidationError as invalid:
        return None, list(_found_in(invalid, ()))


def _found_in(error: Exception, at: Key) -> Iterator[tuple[Key, Problem]]:
    from cattrs import ClassValidationError, IterableValidationError

    if isinstance(error, SettingsError):
        yield from ((at, problem) for problem in error.found)
    elif isinstance(error, ClassValidationError):
        for inner, note in error.group_exceptions()[0]:
            yield from _found_in(inner, (*at, note.name))
    elif isinstance(error, IterableValidationError):
        for inner, entry in error.group_exceptions()[0]:
            yield from _found_in(inner, (*at, match_key(str(entry.index))))
    else:
        raise error
