"""`snapshot`, `drop` and `fork`: a machine's state, kept and multiplied."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace
from regrow_protocol import messages
from regrow_protocol.ids import SNAPSHOT
from regrow_protocol.images import SnapshotImage, decode_image
from regrow_protocol.machines import MachineFork, MachineRecord, Snapshot, SnapshotRecord
from regrow_protocol.messages import Command
from regrow_service.answers import Answer, failure
from regrow_service.consumer import Later, Rejected

from .backend import BackendUnavailable, Data, MachineFailed, MachineLost, Spawned, Unsupported
from .capacity import NoCapacity
from .context import Context, id_for, machine_id, ref_of
from .ending import Ending
from .making import BUS_ERRORS
from .once import NOTHING, value
from .patience import patiently
from .registry import Opened

MAX_FORKS = 256
LOOK = 1.0


class Snapshots:
    """Of one manager."""

    def __init__(self, context: Context, ending: Ending) -> None:
        self._here = context
        self._ending = ending

    async def snapshot(self, command: Command, record: MachineRecord, opened: Opened, data: Data) -> Answer:
        """Keep a machine's state."""
        here, backend = self._here, opened.backend
        args = messages.decode(command.args, Snapshot)
        id_ = id_for(SNAPSHOT, command.id)
        if await here.records.snapshot(id_) is None:
            kept = await patiently(here, backend.name, lambda: backend.snapshot(data, id_))
            await here.records.keep_snapshot(
                SnapshotRecord(
                    id=id_,
                    app=record.app,
                    machine=record.id,
                    backend=record.backend,
                    image=await self._origin(record),
                    node="" if backend.anywhere else record.node,
                    data=Raw(msgspec.json.encode(kept)),
                    name=args.name,
                    created=time.time(),
                )
            )
        return value(id_)

    async def drop(self, command: Command, id_: str) -> Answer:
        """Remove a snapshot."""
        here = self._here
        record = await here.records.snapshot(id_)
        if record is None:
            return NOTHING
        if record.app != command.app:
            raise Rejected(f"the snapshot {id_} is not of the app {command.app!r}")
        if record.node not in ("", here.node):
            raise MachineFailed(f"The snapshot {id_} is on the node {record.node}", hint="send it to that node")
        backend = here.backends.get(record.backend).backend
        await patiently(here, record.backend, lambda: backend.drop(msgspec.json.decode(record.data)))
        await here.records.forget_snapshot(id_)
        return NOTHING

    async def _origin(self, record: MachineRecord) -> Any:
        """The image of a backend that a machine goes back to, through snapshots."""
        image = record.image
        if image.backend != SnapshotImage.backend:
            return image
        wanted = decode_image(image, SnapshotImage)
        snapshot = await self._here.records.snapshot(wanted.id)
        if snapshot is None:
            raise MachineFailed(f"The snapshot {wanted.id}, which the machine {record.id} is from, was removed")
        return snapshot.image

    # forks ------------------------------------------------------------------------------------------------------------

    async def fork(self, command: Command, source: MachineRecord, opened: Opened, data: Data) -> Answer:
        """Make machines in a machine's present state, on its node.

        A manager that takes over finds the records of those that were begun, and makes what is not ready.
        """
        here, backend = self._here, opened.backend
        args = messages.decode(command.args, MachineFork)
        if not 1 <= args.n <= MAX_FORKS:
            raise MachineFailed(f"n={args.n}: no so many forks", hint=f"1 to {MAX_FORKS}")
        if not (backend.has("fork") or backend.has("snapshot")):
            raise Unsupported(f"A {backend.name} machine cannot be forked")
        image = await self._origin(source)
        memory = backend.memory(decode_image(image, backend.image))
        ids = [machine_id(command.id, f".fork{number}") for number in range(args.n)]
        await self._room(source.node, dict.fromkeys(ids, memory), args.wait)
        now = time.time()
        forks: list[MachineRecord] = []
        for id_ in ids:
            wanted = MachineRecord(
                id=id_,
                app=source.app,
                command=command.id,
                image=image,
                state="creating",
                owner=source.owner,
                node=source.node,
                manager=here.id,
                backend=source.backend,
                name=source.name,
                keep=source.keep,
                snapshot_on_failure=source.snapshot_on_failure,
                created=now,
                seen=now,
                source=source.id,
            )
            forks.append(wanted if await here.records.create(wanted) else await self._take_over(id_))
        missing = [record.id for record in forks if record.state == "creating"]
        making = self._ending.making
        making.active.update(missing)  # who stops one meanwhile waits until it is there
        try:
            if missing:
                await self._make(command, missing, image, opened, data)
        except BUS_ERRORS:
            raise
        except Exception as error:
            why = failure(error, retryable=isinstance(error, BackendUnavailable))
            for id_ in missing:
                await making.fail(id_, why)
            for record in forks:
                await self._ending.mark(record.id, "its siblings failed")
            raise
        finally:
            making.active.difference_update(missing)
            for id_ in missing:
                self._ending.look(id_)
        return value([ref_of(record) for record in forks])

    async def give_up(self, command: Command) -> None:
        """A fork is answered with an error: whatever was begun of it is nobody's."""
        for kept in list(self._here.records.machines.values()):
            record = kept.record
            if record.source and record.command == command.id and record.app == command.app:
                await self._ending.mark(record.id, "its fork was given up")

    async def _room(self, node: str, wanted: dict[str, int], wait: float) -> None:
        """Claim room for forks; wait for it at most `wait` seconds."""
        here = self._here
        deadline = time.monotonic() + wait
        while reason := await here.claims.claim(node, wanted):
            left = deadline - time.monotonic()
            if left <= 0:
                raise NoCapacity(
                    f"There is no room for {len(wanted)} forks: {node} {reason}", hint="stop some, or give wait="
                )
            if here.stopping.is_set():
                raise Later("this manager stops")
            before = here.records.nodes.get(node)
            await here.records.wait(
                "",
                lambda before=before: here.records.nodes.get(node) != before or here.stopping.is_set(),
                min(left, LOOK),
            )

    async def _take_over(self, id_: str) -> MachineRecord:
        """A fork that was begun before."""
        here = self._here

        def mine(now: MachineRecord) -> MachineRecord | None:
            return replace(now, manager=here.id) if now.state == "creating" and now.manager != here.id else None

        record, _ = await here.records.change(id_, mine)
        if record is None or record.state not in ("creating", "ready"):
            raise MachineLost(f"The fork {id_} is {record.state if record else 'unknown'}")
        return record

    async def _make(self, command: Command, ids: list[str], image: Any, opened: Opened, data: Data) -> None:
        here, backend = self._here, opened.backend
        decoded = decode_image(image, backend.image)
        spawned: list[Spawned]
        if backend.has("fork"):
            spawned = await patiently(here, backend.name, lambda: backend.fork(data, ids, decoded))
        else:
            kept_id = id_for(SNAPSHOT, command.id, ".fork")
            kept = await patiently(here, backend.name, lambda: backend.snapshot(data, kept_id))
            try:
                spawned = []
                for id_ in ids:
                    load = here.load(backend.name)
                    spawned.append(
                        await patiently(
                            here,
                            backend.name,
                            lambda id_=id_, load=load: backend.restore(id_, decoded, kept, load=load),
                        )
                    )
            finally:
                await patiently(here, backend.name, lambda: backend.drop(kept))
        for id_, each in zip(ids, spawned, strict=True):
            record = await self._ending.making.made(id_, each)
            if record is None or record.state != "ready":
                raise MachineLost(f"The fork {id_} was stopped before it was ready")
