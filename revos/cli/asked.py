"""What a user asks for by name: the type to extract and the prompt."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from revos.config import nearest
from revos.errors import RevosInputError

__all__ = ["prompt_given", "target_named"]

MODULE_OR_SCHEMA = "give module:Class, or a file schema.json with a JSON schema"


def target_named(name: str) -> Any:
    """The type `module:Class`, from the current directory too, or the JSON schema of a file.

    :raises RevosInputError: there is none

    >>> target_named("datetime:date")
    <class 'datetime.date'>
    """
    if name.lower().endswith(".json"):
        return _schema_in(Path(name))
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise RevosInputError(f"--target {name!r} names no type: {MODULE_OR_SCHEMA}")
    found: Any = _module(module_name)
    told = module_name
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            others = [other for other in vars(found) if not other.startswith("_")]
            hint = f"; the nearest is {nearest(part, others)!r}" if others else ""
            raise RevosInputError(f"--target {name!r}: {told} has no {part!r}{hint}") from None
        told = f"{told}.{part}"
    return found


def _module(name: str) -> Any:
    here = os.getcwd()  # noqa: PTH109 - an entry of sys.path
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise RevosInputError(
                f"the module {name!r} needs {error.name!r}, which is not installed"
            ) from error
        raise RevosInputError(
            f"there is no module {error.name!r}: neither in {here} nor among what is installed"
        ) from None
    except (Exception, SystemExit) as error:
        raise RevosInputError(
            f"the module {name!r} can't be imported: {type(error).__name__}: {error}"
        ) from error


def _schema_in(path: Path) -> Any:
    text = _text_of(path)
    try:
        schema = json.loads(text)
    except json.JSONDecodeError as error:
        raise RevosInputError(
            f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RevosInputError(f"{path} is not JSON that can be read: {error}") from None
    if not isinstance(schema, dict):
        raise RevosInputError(f"{path} is no JSON schema: that is a JSON object")
    return schema


def prompt_given(given: str) -> str:
    """The prompt itself, or with `@` the text of a file; `@@` begins a prompt with an `@`.

    :raises RevosInputError: the file can't be read
    """
    if not given.startswith("@"):
        return given
    if given.startswith("@@"):
        return given[1:]
    return _text_of(Path(given[1:])).removesuffix("\n").removesuffix("\r")


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RevosInputError(
            f"{path} is not UTF-8: the byte 0x{error.object[error.start]:02x} at position "
            f"{error.start + 1}"
        ) from None
    except (OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RevosInputError(f"{path} can't be read: {words}") from None
