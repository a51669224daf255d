"""The command `revos`: one file a command; here they are put together.

It needs the extra `cli`, so nothing of that is imported before `main` has looked for it.
"""

from __future__ import annotations

import sys
from importlib.metadata import version

__all__ = ["main"]

EXTRA = ("cyclopts", "rich")
USAGE_ERROR = 2
INTERRUPTED = 130


def main() -> None:
    """Run the command that `sys.argv` names; ends in `SystemExit`."""
    try:
        _run()
    except KeyboardInterrupt:  # Before a command could take care of it.
        raise SystemExit(INTERRUPTED) from None


def _run() -> None:
    try:
        import cyclopts
        import rich  # noqa: F401 - the commands need it
    except ModuleNotFoundError as missing:
        if missing.name not in EXTRA:
            raise
        print('revos: the command line needs an extra: pip install "revos[cli]"', file=sys.stderr)
        raise SystemExit(USAGE_ERROR) from None

    from revos.cli.demo import demo
    from revos.cli.extract import extract
    from revos.cli.models import models

    app = cyclopts.App(
        name="revos",
        help="Short-lived OAuth 2.0 tokens for LLM gateways, and typed objects from text.",
        version=lambda: f"revos {version('revos')}",
    )
    for command in (extract, models, demo):
        app.command(command)
    try:
        app(sys.argv[1:], exit_on_error=False)
    except cyclopts.CycloptsError:  # It has said what is wrong.
        raise SystemExit(USAGE_ERROR) from None
