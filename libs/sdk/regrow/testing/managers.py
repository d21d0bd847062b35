"""A machine-manager for tests: the real program, on a node and in a folder of its own, that can be killed.

`python -m regrow_machine_manager` must be installed (`regrow` brings it); this module knows it only as a program.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

from regrow_protocol import ids, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.machines import ManagerRecord, NodeRecord

from ._service_program import READY, ServiceDied, ServiceProgram


class ManagerDied(ServiceDied):
    """It ended by itself; what it printed is in the text."""


class Manager(ServiceProgram):
    """Managers of one node, one at a time.

    Attributes:
        node: its name.
        folder: of the node's machines.
    """

    name = "machine-manager"
    died = ManagerDied

    def __init__(
        self, url: str, *, backends: str = "local", options: Sequence[str] = (), env: dict[str, str] | None = None
    ):
        super().__init__("regrow_machine_manager", {**(env or {}), "REGROW_NATS_URL": url})
        self.node = ids.new_id("node")
        self._url = url
        self._options = ["--node", self.node, "--backends", backends, *options]
        self._env["REGROW_MACHINES_FOLDER"] = str(self.folder / "machines")

    def start(self) -> None:
        """Start one; returns when it takes commands.

        Raises:
            ManagerDied: it did not start.
        """
        since = time.time()
        self.launch(self._options)
        asyncio.run(self._until_ready(since))

    async def _until_ready(self, since: float) -> None:
        deadline = time.monotonic() + READY
        async with await Bus.connect(self._url, name="regrow-test-manager") as bus:
            await streams.ensure(bus)
            while not await self._takes_commands(bus, since):
                self.check(deadline)
                await asyncio.sleep(0.02)

    async def _takes_commands(self, bus: Bus, since: float) -> bool:
        bucket = bus.kv("regrow_machines")
        found = await bucket.get(f"node.{subjects.token(self.node)}")
        alive = [m.decode(entry.value, ManagerRecord) async for entry in bucket.items("manager.*")]
        new = any(each.node == self.node and each.started >= since for each in alive)
        return found is not None and bool(m.decode(found[0], NodeRecord).backends) and new

    @property
    def resident(self) -> int:
        """Bytes of memory that it uses; 0 where that cannot be told."""
        assert self.process is not None
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except OSError:
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")
