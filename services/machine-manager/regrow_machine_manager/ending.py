"""Ending machines: a record becomes `stopping`, which any manager may write, and who reaches the machine stops it.

The order of steps makes that a crash leaves nothing behind: the machine is stopped, its claim given up, and only then
its record says `stopped`. Whatever was not done is done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from msgspec.structs import replace
from regrow_protocol.images import InvalidImage
from regrow_protocol.machines import MachineRecord
from regrow_service.logs import get_logger
from regrow_service.retry import Retry

from .backend import BackendUnavailable, Data, MachineFailed, MachineLost
from .context import Context
from .making import Making
from .measures import STOPPED

RETRY = Retry(first=0.5, longest=30.0)


class Ending:
    """Of one manager."""

    def __init__(self, context: Context) -> None:
        self.making = Making(context, self.begin)
        self.active: set[str] = set()
        self._here = context
        self._log = get_logger("ending")
        context.records.subscribe(self.look)

    async def mark(
        self, id_: str, reason: str, *, only: Callable[[MachineRecord], bool] | None = None
    ) -> MachineRecord | None:
        """Have a machine stopped, unless that is so already; its record, None for one that is not there.

        Args:
            id_: of the machine.
            reason: why, shown in the record.
            only: asked of the record as it stands when it is changed: whether the reason still holds. What is known
                here may be old: somebody else may have got the machine since.
        """
        here = self._here

        def stop(now: MachineRecord) -> MachineRecord | None:
            if only is not None and not only(now):
                return None
            if now.state == "requested":
                return replace(now, state="stopped", reason=reason)
            if now.state == "creating":
                return replace(now, state="stopping", reason=reason)
            if now.state in ("ready", "warm"):
                mine = now.node == here.node
                return replace(now, state="stopping", reason=reason, manager=here.id if mine else now.manager)
            return None

        record, changed = await here.records.change(id_, stop)
        if changed and record is not None:
            self._log.info("machine to be stopped", machine=id_, app=record.app, node=record.node, reason=reason)
        return record

    def begin(self, id_: str) -> None:
        """Stop a machine whose record is `stopping` and this manager's, in the background."""
        if id_ not in self.active and id_ not in self.making.active:
            self.active.add(id_)
            self._here.background(self._run(id_), f"stop {id_}")

    def look(self, id_: str) -> None:
        """Stop a machine if that is due, and this manager's."""
        record = self._here.records.live(id_) if id_ else None
        if record is not None and record.state == "stopping" and record.manager == self._here.id:
            self.begin(id_)

    async def _run(self, id_: str) -> None:
        attempt = 0
        try:
            while True:
                try:
                    await self._stop(id_)
                except Exception as error:  # noqa: BLE001 - a machine is never given up
                    attempt += 1
                    delay = RETRY.delay(attempt)
                    expected = isinstance(error, BackendUnavailable)
                    self._log.warning(
                        "a machine could not be stopped",
                        machine=id_,
                        again_in=round(delay, 1),
                        reason=f"{type(error).__name__}: {error}",
                        exc_info=not expected,
                    )
                else:
                    return
                await asyncio.sleep(delay)
        finally:
            self.active.discard(id_)

    async def _stop(self, id_: str) -> None:
        here = self._here
        record = here.records.live(id_)
        if record is None or record.state != "stopping" or record.manager != here.id:
            return
        opened = here.backends.get(record.backend)
        data: Data | None = msgspec.json.decode(record.data) or await self._find(record)
        if data is not None:
            try:
                await opened.backend.stop(data)
            except MachineLost:
                self._log.info("a machine to be stopped was gone", machine=id_)
        await here.claims.release(record.node, [id_])

        def stopped(now: MachineRecord) -> MachineRecord | None:
            return replace(now, state="stopped") if now.state == "stopping" else None

        _, changed = await here.records.change(id_, stopped)
        if changed:
            here.metrics[STOPPED].labels(record.reason or "asked").inc()
            self._log.info("machine stopped", machine=id_, app=record.app, reason=record.reason)

    async def _find(self, record: MachineRecord) -> Data | None:
        """A machine whose maker died before it wrote down how to reach it."""
        backend = self._here.backends.get(record.backend).backend
        if backend.has("made"):
            return (await backend.made()).get(record.id)
        try:
            return (await self.making.spawn(record)).data
        except (MachineFailed, InvalidImage) as error:
            self._log.info("a machine to be stopped was never made", machine=record.id, reason=str(error))
            return None
