"""How HTTP clients are made, of httpx and of httpx2: trust, proxies, handshakes, what they log.

Making one blocks (it loads certificates and modules), so it is done in a thread.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from revos.errors import RevosConfigurationError
from revos.rules import is_loopback

__all__ = ["CLOSING_SECONDS", "ConnectionGuard", "hide_answer", "make_client", "ssl_context_for"]

C = TypeVar("C")

# What closing a client or a connection may take.
CLOSING_SECONDS = 0.05


def make_client(
    kind: Callable[..., C],
    urls: Sequence[str],
    ca_file: str | None,
    *,
    context: ssl.SSLContext | None = None,
    **options: Any,
) -> C:
    """A client of that kind for requests to these URLs.

    Proxies come from the environment, as those of httpx do, but not for loopback: what goes to this
    machine without TLS must not leave it.

    :param context: one that was made for them before, which costs most of the time
    :raises RevosConfigurationError: the certificates or a proxy of the environment can't be used
    """
    context = context if context is not None else ssl_context_for(urls, ca_file)
    mounts = {f"all://{_netloc_host(url)}": None for url in urls if is_loopback(url)}
    try:
        return kind(verify=context, mounts=mounts, **options)
    except Exception as error:
        # By name: each of the two libraries has an InvalidURL of its own.
        if not isinstance(error, ImportError | ValueError) and type(error).__name__ != "InvalidURL":
            raise
        remedy = ' (pip install "httpx[socks]" for SOCKS)' if isinstance(error, ImportError) else ""
    # Raised out here: the text and the frames of the first error may hold the proxy's password.
    raise RevosConfigurationError(
        "the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names can't be used: correct or "
        "unset the variable; in a password, anything but letters and digits must be "
        f"percent-encoded{remedy}"
    )


def _netloc_host(url: str) -> str:
    host = urlsplit(url).hostname or ""
    return f"[{host}]" if ":" in host else host


def ssl_context_for(urls: Iterable[str], ca_file: str | None) -> ssl.SSLContext:
    """A context that verifies; loading the authorities blocks for long.

    :param ca_file: the certificates to trust instead of the usual ones
    :raises RevosConfigurationError: the file can't be read or holds no certificate
    """
    if not any(url.lower().startswith("https:") for url in urls):
        # Nobody will ask the authorities, and loading them costs more than all the rest. This
        # context trusts none.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file is None:
        return httpx.create_ssl_context()
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise RevosConfigurationError(
            f"REVOS_CA_FILE: {ca_file!r} has no readable certificates ({error.strerror or error})"
        ) from None


_HANDSHAKE_FAILED = frozenset(("connection.start_tls.failed", "proxy.start_tls.failed"))


def hide_answer(event: str, info: dict[str, Any]) -> None:
    """A `trace` extension of httpcore, which logs `info` at DEBUG behind it: headers, and errors
    that quote what came, have no place there. A server may send back what it was sent.
    """
    if ".receive_response" in event and "return_value" in info:
        info["return_value"] = None
    if ".receive_response" in event and "exception" in info:
        info["exception"] = type(info["exception"]).__name__


class ConnectionGuard:
    """Closes a connection that is cancelled in its TLS handshake, which httpcore leaves open, and
    hides answers as `hide_answer` does.

    A `trace` extension of httpcore: it is told of each step of a connection.
    """

    def __init__(self) -> None:
        self._stream: Any = None

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        hide_answer(event, info)
        if event == "connection.connect_tcp.complete":
            self._stream = info["return_value"]
        elif event in _HANDSHAKE_FAILED and self._stream is not None:
            await self._stream.aclose()
