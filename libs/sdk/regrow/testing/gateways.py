"""An agent-gateway for tests: the real program, on a port of loopback, that can be killed.

`python -m regrow_agent_gateway` must be installed (`regrow[gateway]` brings it); it is known here only as a program.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

READY = 30.0
"""Seconds that a gateway may take to start."""


class GatewayDied(RuntimeError):
    """It ended by itself; what it printed is in the text."""


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Gateway:
    """One replica, which may be ended and started again; it keeps its port.

    Args:
        nats: URL of the NATS server.
        port: of the doors; 0: one that is free. Replicas may share one.
        env: further settings.

    Attributes:
        url: of the doors.
        process: the program that was started last.
    """

    def __init__(self, nats: str, *, port: int = 0, env: dict[str, str] | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._health = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="regrow-gateway-"))
        self._argv = [sys.executable, "-P", "-m", "regrow_agent_gateway"]
        self._env = {
            **os.environ,
            "REGROW_LOG_LEVEL": "warning",
            "REGROW_GATEWAY_SHARE_PORT": "true",
            **(env or {}),
            "REGROW_NATS_URL": nats,
            "REGROW_GATEWAY_PORT": str(self.port),
            "REGROW_HEALTH_PORT": str(self._health),
        }
        self._log = (self._folder / "log").open("ab")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns when agents can come.

        Raises:
            GatewayDied: it did not start.
        """
        self.process = subprocess.Popen(  # noqa: S603 - its own program
            self._argv, env=self._env, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        deadline = time.monotonic() + READY
        while not self._ready():
            if self.process.poll() is not None:
                raise GatewayDied(f"the agent-gateway ended with {self.process.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                raise GatewayDied(f"the agent-gateway was not ready within {READY:g} s:\n{self.log()}")
            time.sleep(0.02)

    async def start_async(self) -> None:
        """As `start`, on a running loop."""
        await asyncio.to_thread(self.start)

    def _ready(self) -> bool:
        return self._asked("/readyz") is not None

    def metrics(self) -> str:
        """What it measures, in Prometheus' text format."""
        return self._asked("/metrics") or ""

    def _asked(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._health}{path}", timeout=2.0) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            pass
        return None

    def log(self) -> str:
        """What it printed."""
        return (self._folder / "log").read_text(errors="replace")[-20_000:]

    def kill(self) -> None:
        """End it as a crash would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """End it gracefully; its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.wait()

    def close(self) -> None:
        """End it, and remove what it left."""
        if self.process is not None:
            self.stop()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)
