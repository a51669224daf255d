"""Servers that others wrote, each in a process of its own on a loopback port.

Starting and stopping block; in an asynchronous test they belong in a worker thread. What a server
prints goes to a file; lines that are JSON objects are its events.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

# Below these the system takes the ports of outgoing connections, so that one which is free stays
# free while a server restarts.
PORTS = range(20_000, 32_000)


def free_port() -> int:
    """A loopback port that nobody listens on."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class ServerProcess:
    """A server by its command, which may say `{port}`.

    :param ready: the path that is answered with 200 once the server serves
    :param seconds: how long starting may take
    :ivar url: of the server's root, without a slash at the end
    :ivar patience: seconds that it gets to end when it is asked to
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        ready: str,
        seconds: float,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self.patience = 5.0
        self._command = [str(part).replace("{port}", str(self.port)) for part in command]
        self._ready = self.url + ready
        self._seconds = seconds
        self._environ = {**os.environ, **(environ or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._seen = 0
        log.touch()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and wait until it serves; again after `stop`, on the same port.

        :raises RuntimeError: it ended, or did not serve in time; the end of its log is told
        """
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environ,
                cwd=self.log.parent,
            )
        deadline_at = time.monotonic() + self._seconds
        while not _is_served(self._ready):
            ended = self._process.poll()
            if ended is None and time.monotonic() < deadline_at:
                time.sleep(0.05)
                continue
            self.stop()
            what = f"does not serve {self._ready} after {self._seconds:g} s"
            what = what if ended is None else f"ended with status {ended}"
            raise RuntimeError(f"{self._command[0]} {what}; its log ends:\n{self._log_end()}")

    def ensure_running(self) -> None:
        if not self.is_running:
            self.start()

    def stop(self) -> None:
        """End it: it is asked to, and killed where it does not in time."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(self.patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End it as a crash would: nobody is told."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def running(self):
        """Started, and stopped at the end of the block."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def forget(self) -> None:
        """From here on `events` has what comes after."""
        self._seen = self.log.stat().st_size

    def events(self, **wanted: object) -> list[dict[str, object]]:
        """The events since `forget` that have these members."""
        lines = self.log.read_bytes()[self._seen :].split(b"\n")
        found = [json.loads(line) for line in lines if line.startswith(b'{"event"')]
        return [event for event in found if wanted.items() <= event.items()]

    def _log_end(self) -> str:
        return self.log.read_text(errors="replace")[-4_000:]


def _is_served(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
