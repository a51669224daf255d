"""Files that hold secrets: read without waiting for a writer, and a warning where others may read.

Reading blocks all the same, as any disk does, so it belongs in a thread.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import stat

from revos.errors import RevosConfigurationError

__all__ = ["read_secret_file", "warn_if_others_may_read"]

# Without O_NONBLOCK a named pipe that nobody writes to would hold its thread for ever, and with it
# the end of the interpreter. Windows has O_BINARY alone.
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
)


def read_secret_file(path: str) -> tuple[str, os.stat_result]:
    """What is in a file that is read again and again, and who may read it.

    :raises OSError: it can't be read
    :raises UnicodeDecodeError: it is not UTF-8; the error holds what is in the file
    :raises RevosConfigurationError: it is no regular file; a pipe gives its content once
    """
    descriptor = os.open(path, _FLAGS)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(found.st_mode):
            kind = "named pipe" if stat.S_ISFIFO(found.st_mode) else "device"
            raise RevosConfigurationError(
                f"the file {path!r} is a {kind}: it is read again for every token request, so it "
                "must be a regular file"
            )
        with open(descriptor, encoding="utf-8", newline="", closefd=False) as file:
            return file.read(), found
    finally:
        os.close(descriptor)


def warn_if_others_may_read(
    logger: logging.Logger, path: str | os.PathLike[str], found: os.stat_result
) -> bool:
    """Log a warning with the remedy where every user of the machine may read the file.

    A group's right to read is none of that: it is how Kubernetes gives a secret to a container.
    """
    is_exposed = (
        os.name == "posix"  # Elsewhere the mode says nothing about who may read.
        and stat.S_ISREG(found.st_mode)
        and bool(found.st_mode & stat.S_IROTH)
    )
    if is_exposed:
        logger.warning(
            "every user of this machine may read the secret in %s (its mode is %04o): "
            "chmod 600 %s (or 640 where a group needs it; for a secret that Kubernetes mounts, "
            "defaultMode: 0440)",
            path,
            stat.S_IMODE(found.st_mode),
            shlex.quote(os.fspath(path)),
        )
    return is_exposed
