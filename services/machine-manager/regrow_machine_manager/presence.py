"""What a manager says of itself and its node: a key with a TTL that it renews, and the node's record."""

from __future__ import annotations

import asyncio
import time

from msgspec.structs import replace
from regrow_protocol.errors import RegrowError
from regrow_protocol.machines import ManagerRecord, NodeRecord
from regrow_service.logs import get_logger

from .capacity import disk
from .context import Context
from .measures import MACHINES
from .records import MANAGER_TTL

RENEW = MANAGER_TTL / 3
DISK = 5.0


class Presence:
    """Of one manager; `run` keeps it up."""

    def __init__(self, context: Context) -> None:
        self._here = context
        self._record = ManagerRecord(id=context.id, node=context.node, started=time.time())
        self._shown: set[tuple[str, str]] = set()
        self._log = get_logger("presence")

    async def register(self) -> None:
        """Say what the node offers, and that this manager is there."""
        await self._describe()
        await self._here.records.renew(self._record)

    async def run(self) -> None:
        """Renew, for ever; may be cancelled at any moment."""
        loop = asyncio.get_running_loop()
        described = 0.0
        while True:
            try:
                await self._here.records.renew(self._record)
                if loop.time() - described >= DISK:
                    await self._describe()
                    described = loop.time()
            except RegrowError as error:
                self._log.warning("not renewed", reason=str(error))
            self._measure()
            await asyncio.sleep(RENEW)

    def changed(self) -> None:
        """A backend was opened: the node offers more."""
        self._here.background(self._describe_safely(), "describe the node")

    async def leave(self) -> None:
        """The manager ends by itself: nobody need wait for its key to expire."""
        try:
            async with asyncio.timeout(1.0):
                await self._here.records.leave(self._here.id)
        except (RegrowError, TimeoutError) as error:
            self._log.info("gone without a word", reason=str(error))

    async def _describe_safely(self) -> None:
        try:
            await self._describe()
        except RegrowError as error:
            self._log.warning("the node's record could not be written", reason=str(error))

    async def _describe(self) -> None:
        here, settings = self._here, self._here.settings
        closed = await disk(settings)

        def describe(now: NodeRecord) -> NodeRecord:
            return replace(
                now,
                backends=sorted(here.backends.opened),
                anywhere=sorted(name for name, each in here.backends.opened.items() if each.backend.anywhere),
                labels=settings.labels,
                max_machines=settings.max_machines,
                memory=settings.memory,
                closed=closed,
            )

        record, changed = await here.records.change_node(here.node, describe)
        if changed:
            self._log.info("node", node=here.node, backends=record.backends, labels=record.labels, closed=closed)

    def _measure(self) -> None:
        here = self._here
        counts: dict[tuple[str, str], int] = dict.fromkeys(self._shown, 0)
        for kept in here.records.machines.values():
            if kept.record.node == here.node:
                labels = (kept.record.backend, kept.record.state)
                counts[labels] = counts.get(labels, 0) + 1
        for labels, count in counts.items():
            here.metrics[MACHINES].labels(*labels).set(count)
        self._shown = set(counts)
