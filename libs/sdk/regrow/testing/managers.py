"""A machine-manager for tests: the real program, on a node and in a folder of its own, that can be killed.

`python -m regrow_machine_manager` must be installed (`regrow` brings it); this module knows it only as a program.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from regrow_protocol import ids, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.machines import ManagerRecord, NodeRecord

READY = 30.0
"""Seconds that a manager may take to start."""


class ManagerDied(RuntimeError):
    """It ended by itself; what it printed is in the text."""


class Manager:
    """Managers of one node, one at a time.

    Attributes:
        node: its name.
        folder: of the node's machines.
    """

    def __init__(
        self, url: str, *, backends: str = "local", options: Sequence[str] = (), env: dict[str, str] | None = None
    ):
        self.node = ids.new_id("node")
        self.folder = Path(tempfile.mkdtemp(prefix="regrow-machines-"))
        self._url = url
        self._argv = [
            sys.executable, "-P", "-m", "regrow_machine_manager", "--node", self.node, "--backends", backends, *options,
        ]  # fmt: skip
        self._env = {
            **os.environ,
            "REGROW_LOG_LEVEL": "warning",
            **(env or {}),
            "REGROW_NATS_URL": url,
            "REGROW_MACHINES_FOLDER": str(self.folder / "machines"),
        }
        self._log = (self.folder / "log").open("ab")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start one; returns when it takes commands.

        Raises:
            ManagerDied: it did not start.
        """
        self.process = subprocess.Popen(  # noqa: S603 - its own program
            self._argv, env=self._env, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        asyncio.run(self._until_ready(self.process, time.time()))

    async def start_async(self) -> None:
        """As `start`, on a running loop."""
        await asyncio.to_thread(self.start)

    async def _until_ready(self, process: subprocess.Popen[bytes], since: float) -> None:
        async with await Bus.connect(self._url, name="regrow-test-manager") as bus:
            await streams.ensure(bus)
            bucket = bus.kv("regrow_machines")
            deadline = time.monotonic() + READY
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    raise ManagerDied(f"the machine-manager ended with {process.returncode}:\n{self.log()}")
                found = await bucket.get(f"node.{subjects.token(self.node)}")
                alive = [m.decode(entry.value, ManagerRecord) async for entry in bucket.items("manager.*")]
                new = any(each.node == self.node and each.started >= since - 1 for each in alive)
                if found is not None and m.decode(found[0], NodeRecord).backends and new:
                    return
                await asyncio.sleep(0.02)
        raise ManagerDied(f"the machine-manager was not ready within {READY:g} s:\n{self.log()}")

    def log(self) -> str:
        """What it printed."""
        return (self.folder / "log").read_text(errors="replace")[-20_000:]

    def kill(self) -> None:
        """End it as a crash would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End it gracefully; its machines go on."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()

    def close(self) -> None:
        """End it, and remove the node's folder."""
        self.stop()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def resident(self) -> int:
        """Bytes of memory that it uses; 0 where that cannot be told."""
        assert self.process is not None
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except OSError:
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")
