"""What crashes leave behind, found at the start and again and again.

- Machines that a dead manager was making or stopping: another manager of the node goes on; of a node without managers,
  any that has the backend, where its machines are reached from anywhere.
- Machines that no record knows: removed, after a grace.
- Records whose machine is gone: they fail, and their users are told `machine-lost`.
- Claims without a machine, and machines without a claim.
- Output of commands that ended long ago.
"""

from __future__ import annotations

import asyncio

import msgspec
from msgspec.structs import replace
from regrow_protocol.errors import RegrowError
from regrow_protocol.images import InvalidImage
from regrow_protocol.machines import MachineRecord, NodeRecord
from regrow_protocol.messages import Failure
from regrow_service.logs import get_logger

from .backend import BackendUnavailable, Data, MachineLost
from .context import Context
from .ending import Ending
from .measures import LOST, ORPHANS
from .records import ENDED
from .registry import Opened

TAKE_OVER = 0.5
SWEEP = 15.0
CLAIM_GRACE = 10.0
PRUNE = 3600.0
OLD_OUTPUT = 7 * 86_400.0
"""Seconds for which a command can be repeated and finds its result."""


class Repair:
    """Of one manager; `run` does it."""

    def __init__(self, context: Context, ending: Ending) -> None:
        self._here = context
        self._ending = ending
        self._unknown: dict[tuple[str, str], float] = {}
        self._odd_claims: dict[str, float] = {}
        self._met: set[str] = set()
        self._pruned: dict[str, float] = {}
        self._log = get_logger("repair")

    async def run(self) -> None:
        """Look, for ever; may be cancelled at any moment."""
        loop = asyncio.get_running_loop()
        pause = min(SWEEP, self._here.settings.machine_grace / 2)
        swept = float("-inf")
        while True:
            try:
                await self._take_over()
                if loop.time() - swept >= pause:
                    await self._sweep()
                    swept = loop.time()
            except RegrowError as error:
                self._log.warning("repairs could not be made", reason=str(error))
            await asyncio.sleep(TAKE_OVER)

    # what dead managers were at ---------------------------------------------------------------------------------------

    async def _take_over(self) -> None:
        here, records = self._here, self._here.records
        for kept in list(records.machines.values()):
            record = kept.record
            if record.state not in ("creating", "stopping") or not self._reaches(record):
                continue
            if record.manager == here.id:
                self._go_on(record)
            elif records.manager_gone(record.manager):
                await self._adopt(record)

    def _reaches(self, record: MachineRecord) -> bool:
        here = self._here
        if record.node == here.node:
            return True
        opened = here.backends.opened.get(record.backend)
        anywhere = opened is not None and opened.backend.anywhere
        return anywhere and record.state == "stopping" and here.records.node_gone(record.node)

    async def _adopt(self, record: MachineRecord) -> None:
        here, gone = self._here, record.manager
        if record.source and record.state == "creating":
            return  # the `fork` that it is of is in hand somewhere, or comes again

        def mine(now: MachineRecord) -> MachineRecord | None:
            if now.manager != gone or now.state not in ("creating", "stopping"):
                return None
            return replace(now, manager=here.id)

        found, changed = await here.records.change(record.id, mine)
        if changed and found is not None:
            self._log.info("taken over from a dead manager", machine=record.id, state=found.state, manager=gone)
            self._go_on(found)

    def _go_on(self, record: MachineRecord) -> None:
        if record.state == "stopping":
            self._ending.begin(record.id)
        elif not record.source:
            self._ending.making.begin(record.id)

    # machines and records ---------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        here = self._here
        await self._claims()
        for name, opened in list(here.backends.opened.items()):
            try:
                made = await opened.backend.made() if opened.backend.has("made") else None
                await self._lost(name, opened, made)
                if made is not None:
                    await self._orphans(name, opened, made)
                await self._prune(name, opened)
            except RegrowError as error:
                self._log.warning("a backend could not be looked at", backend=name, reason=str(error))
            except Exception:  # noqa: BLE001 - somebody else's backend must not end the others' repairs
                self._log.exception("a backend failed", backend=name)

    async def _orphans(self, name: str, opened: Opened, made: dict[str, Data]) -> None:
        """Remove what no record knows."""
        here, now = self._here, asyncio.get_running_loop().time()
        self._unknown = {
            (backend, id_): since for (backend, id_), since in self._unknown.items() if backend != name or id_ in made
        }
        for id_, data in made.items():
            key = name, id_
            record = here.records.live(id_) or await here.records.fetch(id_)
            ours = record is not None and record.state not in ENDED and record.backend == name
            if ours and record is not None and (record.node == here.node or opened.backend.anywhere):
                self._unknown.pop(key, None)
                continue
            since = self._unknown.setdefault(key, now)
            if now - since < here.settings.machine_grace:
                continue
            self._log.warning("a machine without a record is removed", machine=id_, backend=name)
            await opened.backend.stop(data)
            self._unknown.pop(key, None)
            here.metrics[ORPHANS].inc()

    async def _lost(self, name: str, opened: Opened, made: dict[str, Data] | None) -> None:
        """Find machines that are gone; each that is met for the first time is asked."""
        here = self._here
        for kept in list(here.records.machines.values()):
            record = kept.record
            if record.node != here.node or record.backend != name or record.state not in ("ready", "warm"):
                continue
            suspect = record.id not in self._met if made is None else record.id not in made
            if not suspect:
                continue
            try:
                there = await opened.backend.attach(msgspec.json.decode(record.data))
            except MachineLost:
                there = False
            except BackendUnavailable as error:
                self._log.info("a machine cannot be reached", machine=record.id, reason=str(error))
                continue
            if there:
                self._met.add(record.id)
                continue
            await self._declare_lost(record)
        self._met &= here.records.machines.keys()

    async def _declare_lost(self, record: MachineRecord) -> None:
        here = self._here
        await here.claims.release(record.node, [record.id])

        def lost(now: MachineRecord) -> MachineRecord | None:
            if now.state not in ("ready", "warm"):
                return None
            why = Failure("MachineLost", f"The machine {now.id} is gone", MachineLost.code, False)
            return replace(now, state="failed", reason="lost", failure=why)

        _, changed = await here.records.change(record.id, lost)
        if changed:
            here.metrics[LOST].inc()
            self._log.error("a machine is gone", machine=record.id, app=record.app, backend=record.backend)

    # claims -----------------------------------------------------------------------------------------------------------

    async def _claims(self) -> None:
        here, now = self._here, asyncio.get_running_loop().time()
        kept = here.records.nodes.get(here.node)
        if kept is None:
            return
        mine = {each.record.id: each.record for each in here.records.machines.values() if each.record.node == here.node}
        odd = kept.record.claimed.keys() - mine.keys()
        self._odd_claims = {id_: self._odd_claims.get(id_, now) for id_ in odd}
        late = [id_ for id_, since in self._odd_claims.items() if now - since >= CLAIM_GRACE]
        over: list[str] = []
        for id_ in late:
            record = await here.records.fetch(id_)
            if record is None or record.state in ENDED or record.node != here.node:
                over.append(id_)
        if over:
            self._log.info("claims without a machine are given up", node=here.node, machines=over)
            await here.claims.release(here.node, over)
        missing = {id_: self._memory(record) for id_, record in mine.items() if id_ not in kept.record.claimed}
        if missing:
            await here.records.change_node(here.node, lambda found: _with(found, missing))

    def _memory(self, record: MachineRecord) -> int:
        try:
            return self._here.memory(record.image)
        except InvalidImage:
            return 0  # an older manager took it; it promises nothing

    # output -----------------------------------------------------------------------------------------------------------

    async def _prune(self, name: str, opened: Opened) -> None:
        here, now = self._here, asyncio.get_running_loop().time()
        for kept in list(here.records.machines.values()):
            record = kept.record
            if record.node != here.node or record.backend != name or record.state != "ready":
                continue
            if now - self._pruned.setdefault(record.id, now) < PRUNE:
                continue
            self._pruned[record.id] = now
            await opened.commands.prune(msgspec.json.decode(record.data), OLD_OUTPUT)
        self._pruned = {id_: at for id_, at in self._pruned.items() if id_ in here.records.machines}


def _with(node: NodeRecord, missing: dict[str, int]) -> NodeRecord | None:
    new = {id_: memory for id_, memory in missing.items() if id_ not in node.claimed}
    return replace(node, claimed={**node.claimed, **new}) if new else None
