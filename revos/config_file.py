"""A configuration file, read and parsed: a path in, nested mappings out.

The complaints say where a file is malformed and never what stands there: it may be a secret, and
the errors of the parsers quote it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

__all__ = ["UnreadableError", "read_text", "read_tree"]


class UnreadableError(Exception):
    """The text is the complaint. It is caught, and reported outside of the `except`."""


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    :raises UnreadableError: it is not UTF-8, or cannot be read
    :raises FileNotFoundError: there is none
    :raises IsADirectoryError: it is a directory, on Windows too
    """
    file = Path(path)
    try:
        if file.is_dir():
            raise IsADirectoryError  # noqa: TRY301 - as reading one does, but for Windows.
        return file.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UnreadableError(f"{path} cannot be read: it is not UTF-8 text") from None


def read_tree(path: str | os.PathLike[str]) -> Any:
    """What is in a TOML, YAML or JSON file; its suffix tells which.

    :raises UnreadableError: there is no such file, or it cannot be read or parsed
    """
    parsers = {".toml": _toml, ".yaml": _yaml, ".yml": _yaml, ".json": _json}
    parser = parsers.get(Path(path).suffix.lower())
    if parser is None:
        raise UnreadableError(f"{path} must end in one of {', '.join(parsers)}")
    try:
        return parser(read_text(path))
    except (FileNotFoundError, IsADirectoryError):
        raise UnreadableError(f"{path} cannot be read: there is no such file") from None
    except ImportError:
        raise UnreadableError(f'{path} cannot be read: pip install "revos[yaml]"') from None
    except _MalformedError as malformed:
        raise UnreadableError(f"{path} {malformed}") from None
    except RecursionError:
        raise UnreadableError(f"{path} is nested too deeply") from None


class _MalformedError(Exception):
    pass


def _toml(text: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # Its messages quote keys and single control characters, no values.
        raise _MalformedError(f"is not valid TOML: {error}") from None
    except ValueError:
        raise _MalformedError("is not valid TOML: a number is too long") from None


def _json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_repeated(key for key, _ in pairs)
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        raise _MalformedError(f"is not valid JSON: {error.msg} (at {at})") from None
    except ValueError:
        raise _MalformedError("is not valid JSON: a number is too long") from None


def _yaml(text: str) -> Any:
    import yaml

    class UniqueKeysLoader(yaml.SafeLoader):
        # Here and not where mappings are constructed: `<<` may repeat a key, and has not yet.
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            _refuse_repeated(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            return node

    try:
        loader = UniqueKeysLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (_MalformedError, RecursionError):
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f" (at line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise _MalformedError(f"is not valid YAML{at}") from None
    except Exception:  # noqa: BLE001 - odd tags let KeyError, IndexError and more out of PyYAML.
        raise _MalformedError("is not valid YAML") from None


def _refuse_repeated(keys: Iterable[str]) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise _MalformedError(f"has the key {key!r} twice in one table")
        seen.add(key)
