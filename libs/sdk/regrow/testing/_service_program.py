"""The program of a service, run as a test needs it: one at a time, killed, started again."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

READY = 45.0
"""Seconds that a service may take to start."""


class ServiceDied(RuntimeError):
    """It ended by itself, or was not ready in time; what it printed is in the text."""


class ServiceProgram:
    """Base of the services for tests; a subclass starts them, with `launch` and `await_ready`.

    Attributes:
        name: of the service, for people.
        died: what is raised when it does not start.
        folder: for what it leaves, removed by `close`.
        process: the program that was started last.
    """

    name: str
    died: type[ServiceDied]

    def __init__(self, module: str, env: Mapping[str, str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="regrow-"))
        self.process: subprocess.Popen[bytes] | None = None
        self._argv = [sys.executable, "-P", "-m", module]
        self._env = {**os.environ, "REGROW_LOG_LEVEL": "warning", **(env or {})}
        self._log = (self.folder / "log").open("ab")

    def start(self) -> None:
        """Start it; returns when it is ready."""
        raise NotImplementedError

    async def start_async(self) -> None:
        """As `start`, on a running loop."""
        await asyncio.to_thread(self.start)

    def launch(self, options: Sequence[str] = (), env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start the program, ready or not."""
        self.process = subprocess.Popen(  # noqa: S603 - its own program
            [*self._argv, *options],
            env={**self._env, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        return self.process

    def await_ready(self, port: int) -> None:
        """Wait until the program that was launched says so at its health port; raises `died`."""
        deadline = time.monotonic() + READY
        while not self._says_ready(port):
            self.check(deadline)
            time.sleep(0.02)

    def _says_ready(self, port: int) -> bool:
        said = asked(port, "/readyz")
        return said is not None and self.process is not None and json.loads(said).get("os_pid") == self.process.pid

    def check(self, deadline: float) -> None:
        """Raise `died` if it has ended, or if `deadline` (of `time.monotonic`) is over."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise self.died(f"the {self.name} ended with {self.process.returncode}:\n{self.log()}")
        if time.monotonic() > deadline:
            raise self.died(f"the {self.name} was not ready within {READY:g} s:\n{self.log()}")

    def log(self) -> str:
        """What it printed."""
        return (self.folder / "log").read_text(errors="replace")[-20_000:]

    def kill(self) -> None:
        """End it as a crash would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int | None:
        """End it gracefully; its exit code, or None where none was started."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.wait()

    def close(self) -> None:
        """End it, and remove what it left."""
        self.stop()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def asked(port: int, path: str) -> str | None:
    """What a service says at its health port; None where it does not answer, or not well."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20.0) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        error.close()
    except (OSError, http.client.HTTPException):
        pass
    return None
