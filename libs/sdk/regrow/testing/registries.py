"""A registry for tests: the real program, that can be killed.

`python -m regrow_registry` must be installed (`regrow[registry]` brings it); this module knows it only as a program.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import IO

READY = 30.0
"""Seconds that a registry may take to start."""


class RegistryDied(RuntimeError):
    """It ended by itself; what it printed is in the text."""


class Registry:
    """One registry at a time; make several for replicas.

    Args:
        url: of the NATS server.
        env: further variables, as `REGROW_CALL_PATIENCE`.
    """

    def __init__(self, url: str, *, env: dict[str, str] | None = None) -> None:
        self._env = {**os.environ, "REGROW_LOG_LEVEL": "warning", **(env or {}), "REGROW_NATS_URL": url}
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start one; returns when it takes commands and requests.

        Raises:
            RegistryDied: it did not start.
        """
        port = _free_port()
        argv = [sys.executable, "-P", "-m", "regrow_registry"]
        self.process = subprocess.Popen(  # noqa: S603 - its own program
            argv,
            env={**self._env, "REGROW_HEALTH_PORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        deadline = time.monotonic() + READY
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RegistryDied(f"the registry ended with {self.process.returncode}:\n{self.log()}")
            if _is_ready(port):
                return
            time.sleep(0.02)
        raise RegistryDied(f"the registry was not ready within {READY:g} s:\n{self.log()}")

    async def start_async(self) -> None:
        """As `start`, on a running loop."""
        await asyncio.to_thread(self.start)

    def log(self) -> str:
        """What it printed."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-20_000:]

    def kill(self) -> None:
        """End it as a crash would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End it gracefully."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()

    def close(self) -> None:
        """End it, and forget what it printed."""
        self.stop()
        self._log.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
