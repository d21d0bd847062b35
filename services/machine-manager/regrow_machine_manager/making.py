"""Making machines that this manager has claimed: `creating` becomes `ready`, or `failed`.

`spawn` is idempotent by the machine's id, so a manager that takes over from a dead one calls it again. What is not this
manager's any more is let go of without a trace: the machine belongs to who took over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
from msgspec import Raw
from msgspec.structs import replace
from regrow_protocol.errors import RegrowError, StorageFull, Unreachable, WrongRevision
from regrow_protocol.images import SnapshotImage, decode_image
from regrow_protocol.machines import MachineRecord
from regrow_protocol.messages import Failure
from regrow_service.answers import failure
from regrow_service.logs import get_logger

from .backend import BackendUnavailable, Spawned
from .context import Context, NoSuchSnapshot
from .measures import CREATED, CREATING
from .patience import patiently

AGAIN = 1.0
BUS_ERRORS = (Unreachable, StorageFull, WrongRevision)
"""What says nothing of the machine: to be tried again until it works."""


class Making:
    """Of one manager.

    Attributes:
        active: ids of the machines that are being made here now.
        on_stopping: called with the id of a machine that is to be stopped as soon as it was made.
    """

    def __init__(self, context: Context, on_stopping: Callable[[str], None]) -> None:
        self.active: set[str] = set()
        self._on_stopping = on_stopping
        self._here = context
        self._log = get_logger("making")

    def begin(self, id_: str) -> None:
        """Make a machine whose record is `creating` and this manager's, in the background."""
        if id_ not in self.active:
            self.active.add(id_)
            self._here.background(self._run(id_), f"make {id_}")

    async def _run(self, id_: str) -> None:
        try:
            while True:
                if await self._make(id_):
                    break
                await asyncio.sleep(AGAIN)
        finally:
            self.active.discard(id_)
        record = self._here.records.live(id_)
        if record is not None and record.state == "stopping":
            self._on_stopping(id_)

    async def _make(self, id_: str) -> bool:
        """One try; false: another one is due."""
        here = self._here
        record = here.records.live(id_)
        if record is None or record.state != "creating" or record.manager != here.id:
            return True
        try:
            begun = time.perf_counter()
            try:
                spawned = await patiently(here, record.backend, lambda: self.spawn(record))
            except BUS_ERRORS:
                raise
            except BackendUnavailable as error:
                return await self.fail(id_, failure(error))
            except Exception as error:  # noqa: BLE001 - whatever a backend raises: the machine cannot be made
                if not isinstance(error, RegrowError):
                    self._log.exception("a backend failed", machine=id_, backend=record.backend)
                return await self.fail(id_, failure(error, retryable=False))
            here.metrics[CREATING].labels(record.backend).observe(time.perf_counter() - begun)
            await self.made(id_, spawned)
        except BUS_ERRORS as error:
            self._log.warning("a record could not be written", machine=id_, reason=str(error))
            return False
        return True

    async def spawn(self, record: MachineRecord) -> Spawned:
        """Make the machine of a record, or find it if it was made before."""
        here = self._here
        opened = here.backends.get(record.backend)
        backend, load = opened.backend, here.load(record.backend)
        if record.image.backend != SnapshotImage.backend:
            return await backend.spawn(record.id, decode_image(record.image, backend.image), load=load)
        wanted = decode_image(record.image, SnapshotImage)
        snapshot = await here.records.snapshot(wanted.id)
        if snapshot is None or snapshot.app != record.app:
            raise NoSuchSnapshot(f"There is no snapshot {wanted.id} any more")
        image = decode_image(snapshot.image, backend.image)
        return await backend.restore(record.id, image, msgspec.json.decode(snapshot.data), load=load)

    async def made(self, id_: str, spawned: Spawned) -> MachineRecord | None:
        """A machine is there: say so in its record, if it is still this manager's."""
        data = Raw(msgspec.json.encode(spawned.data))

        def ready(now: MachineRecord) -> MachineRecord | None:
            if now.manager != self._here.id or now.state not in ("creating", "stopping"):
                return None
            state = ("ready" if now.app else "warm") if now.state == "creating" else now.state
            return replace(now, state=state, data=data, host=spawned.host)

        record, changed = await self._here.records.change(id_, ready)
        if changed and record is not None and record.state == "ready":
            self._here.metrics[CREATED].labels("ready").inc()
            self._log.info("machine ready", machine=id_, app=record.app, backend=record.backend)
        return record

    async def fail(self, id_: str, why: Failure) -> bool:
        """A machine cannot be made: say so in its record, and give its claim up."""
        here = self._here

        def failed(now: MachineRecord) -> MachineRecord | None:
            if now.manager != here.id or now.state not in ("creating", "stopping"):
                return None
            return replace(now, state="failed", failure=why)

        before = here.records.live(id_)
        if before is not None and before.manager == here.id:
            await here.claims.release(before.node, [id_])
        _, changed = await here.records.change(id_, failed)
        if changed:
            here.metrics[CREATED].labels("failed").inc()
            self._log.warning("machine failed", machine=id_, code=why.code, reason=why.message)
        return True
