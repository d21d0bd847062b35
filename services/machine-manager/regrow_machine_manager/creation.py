"""Creating machines: who takes the command records what is wanted, and any manager with room makes it.

The command stays in hand until the machine is ready or refused, so if its taker dies another one goes on where the
record says. Machines that wait for room are taken oldest first (`Takers`).
"""

from __future__ import annotations

import asyncio
import time

import msgspec
from msgspec.structs import replace
from regrow_protocol import messages, values
from regrow_protocol.bus import Received
from regrow_protocol.bus.values import ValueMissing
from regrow_protocol.errors import RegrowError
from regrow_protocol.images import InvalidImage
from regrow_protocol.machines import Create, MachineRecord
from regrow_protocol.messages import Command, Failure
from regrow_service.answers import Answer, checked, failure
from regrow_service.consumer import Later, Rejected
from regrow_service.logs import get_logger

from .backend import MachineLost
from .capacity import Need, NoCapacity, full, misfit
from .context import Context, NoSuchSnapshot, machine_id, ref_of
from .ending import Ending
from .measures import CREATED
from .once import Once, value
from .records import ENDED
from .registry import UnknownBackend
from .warm import Warm

AT_ONCE = 2.0
"""Seconds in which a node that may have room must have taken a machine that shall not wait."""
NODE_GONE = 30.0
"""Seconds without any manager after which what a node was making is given to others."""
LOOK = 5.0
MAX_WAIT = 30 * 86_400.0


class Creation:
    """Handles `create`."""

    def __init__(self, context: Context, ending: Ending, warm: Warm, once: Once) -> None:
        self._here = context
        self._ending = ending
        self._warm = warm
        self._once = once
        self._log = get_logger("creation")

    async def handle(self, command: Command, message: Received) -> None:
        """Answer one command, or raise what the consumer knows to deal with."""
        here = self._here
        checked(command, message.subject.split(".")[3])
        if command.name != "create":
            error = Rejected(f"{command.name!r} is not for {message.subject}", hint="only `create` is")
            await here.answers.send(command, Answer(error=failure(error, retryable=False)))
            raise error
        try:
            answer = await self._answer(command)
        except Rejected as error:
            await here.answers.send(command, Answer(error=failure(error, retryable=False)))
            raise
        await here.answers.send(command, answer)

    async def lost(self, command: Command, reason: str) -> None:
        """Answer a command that is given up; what was begun of it is nobody's."""
        await self._ending.mark(
            machine_id(command.id), "its creation was given up", only=lambda now: now.app == command.app
        )
        await self._here.answers.send(command, Answer(error=Failure("MachineFailed", reason, "machine-failed")))

    async def _answer(self, command: Command) -> Answer:
        here = self._here
        id_ = machine_id(command.id)
        try:
            if (found := self._warm.taken_by(command)) is None:
                record = await here.records.fetch(id_)
                if record is None and (known := await self._once.recall(command)) is not None:
                    return known  # it took a warm machine, which has ended since
                record = record or await self._first(command, id_)
                if record.app != command.app:
                    raise Rejected(f"the machine {id_} is another app's")
                found = await self._outcome(record)
        except (NoCapacity, UnknownBackend) as error:
            here.metrics[CREATED].labels("refused").inc()
            return Answer(error=failure(error))
        except (InvalidImage, MachineLost, ValueMissing, msgspec.MsgspecError) as error:
            return Answer(error=failure(error, retryable=False))
        if found.failure is not None:
            return Answer(error=found.failure)
        answer = value(ref_of(found))
        return answer if found.id == id_ else await self._once.keep(command, answer)

    # the record -------------------------------------------------------------------------------------------------------

    async def _first(self, command: Command, id_: str) -> MachineRecord:
        """Record what is wanted; the record that stands then."""
        here = self._here
        command = await values.inflate(command, here.bus.get_value)
        args = messages.decode(command.args, Create)
        now = time.time()
        record = MachineRecord(
            id=id_,
            app=command.app,
            command=command.id,
            image=args.image,
            state="requested",
            owner=None if args.keep else command.by,
            name=args.name,
            keep=args.keep,
            snapshot_on_failure=args.snapshot_on_failure,
            labels=args.labels,
            deadline=now + min(max(args.wait, 0.0), MAX_WAIT),
            created=now,
            seen=now,
            reply=command.reply,
        )
        try:
            need = await here.need(record)
        except (InvalidImage, NoSuchSnapshot) as error:
            return await self._create(replace(record, state="failed", failure=failure(error, retryable=False)))
        if (taken := await self._warm.take(record)) is not None:
            return taken
        if not here.records.requested and (made := await self._claim_first(record, need)) is not None:
            return made
        if args.wait <= 0:
            if (error := await self.refusal(need)) is not None:
                here.metrics[CREATED].labels("refused").inc()
                return await self._create(replace(record, state="failed", failure=failure(error)))
            record = replace(record, deadline=now + AT_ONCE)
        return await self._create(record)

    async def _create(self, record: MachineRecord) -> MachineRecord:
        """Write a new record; the one that is there, if somebody was faster."""
        if await self._here.records.create(record):
            return record
        found = await self._here.records.fetch(record.id)
        if found is None:
            raise Later(f"the record of {record.id} has just gone")
        return found

    async def _claim_first(self, record: MachineRecord, need: Need) -> MachineRecord | None:
        """Begin at once where this node has room."""
        here = self._here
        if await self.claim(record.id, need):
            return None
        mine = replace(record, state="creating", node=here.node, manager=here.id, backend=need.backend)
        if (there := await self._create(mine)) is mine:
            self._ending.making.begin(record.id)
        elif there.node != here.node or there.state in ENDED:
            await here.claims.release(here.node, [record.id])
        return there

    async def claim(self, id_: str, need: Need) -> str:
        """Claim room on this node; why there is none, or empty."""
        here = self._here
        kept = here.records.nodes.get(here.node)
        if kept is None:
            return "is not registered yet"
        if need.backend not in here.backends.opened:
            return f"has no backend {need.backend!r}"
        return misfit(kept.record, need) or await here.claims.claim(here.node, {id_: need.memory})

    # what becomes of it -----------------------------------------------------------------------------------------------

    async def _outcome(self, record: MachineRecord) -> MachineRecord:
        """Wait until the machine is ready or refused; its record.

        Raises:
            MachineLost: it was stopped meanwhile.
            Later: the manager stops.
        """
        here, id_ = self._here, record.id
        while True:
            state = record.state
            if state in ("ready", "failed"):
                return record
            if state in ("stopping", "stopped"):
                raise MachineLost(f"The machine {id_} was stopped before it was ready", hint=record.reason)
            now = time.time()
            pause = LOOK
            if state == "requested":
                if now >= record.deadline:
                    record = await self._refuse(record)
                    continue
                pause = min(LOOK, record.deadline - now)
            elif here.records.node_gone(record.node, NODE_GONE):
                record = await self._request_again(record)
                continue
            if here.stopping.is_set():
                raise Later("this manager stops")
            before = record

            def changed(before: MachineRecord = before) -> bool:
                return here.records.live(id_) is not before or here.stopping.is_set()

            if not await here.records.wait(id_, changed, pause) or here.stopping.is_set():
                continue
            found = here.records.live(id_) or await here.records.fetch(id_)
            if found is None:
                raise MachineLost(f"The machine {id_} is gone", hint="its record was removed")
            record = found

    async def _refuse(self, record: MachineRecord) -> MachineRecord:
        """Its deadline has passed; it gets a later one while warm machines make room for it."""
        here = self._here
        need = await here.need(record)
        error = await self.refusal(need)
        comes = error is None and time.time() < record.created + here.settings.machine_patience
        comes = comes and self._obstacle(need, warm=True) is not None
        error = error or NoCapacity(f"No node took a {need.backend} machine in time", hint="wait longer")

        def refused(now: MachineRecord) -> MachineRecord | None:
            if now.state != "requested":
                return None
            if comes:
                return replace(now, deadline=time.time() + AT_ONCE)
            return replace(now, state="failed", failure=failure(error))

        found, changed = await here.records.change(record.id, refused)
        if changed and not comes:
            here.metrics[CREATED].labels("refused").inc()
        if found is None:
            raise MachineLost(f"The machine {record.id} is gone", hint="its record was removed")
        return found

    async def _request_again(self, record: MachineRecord) -> MachineRecord:
        """The node that was making it has no manager any more."""
        here = self._here

        def again(now: MachineRecord) -> MachineRecord | None:
            if now.state != "creating" or now.node != record.node or now.source:
                return None
            return replace(
                now, state="requested", node="", manager="", deadline=max(now.deadline, time.time() + AT_ONCE)
            )

        found, changed = await here.records.change(record.id, again)
        if changed:
            self._log.warning("a node is gone: its machine goes to another", machine=record.id, node=record.node)
            await here.claims.release(record.node, [record.id])
        if found is None:
            raise MachineLost(f"The machine {record.id} is gone", hint="its record was removed")
        if not changed:
            await asyncio.sleep(AT_ONCE)
        return found

    async def refusal(self, need: Need) -> RegrowError | None:
        """Why no node can have a machine now; None when one may have room, or that cannot be told yet."""
        if self._obstacle(need) is None:
            return None
        await self._here.records.read_nodes()
        return self._obstacle(need)

    def _obstacle(self, need: Need, *, warm: bool = False) -> RegrowError | None:
        """See `refusal`, as far as is known here; with `warm` the room of warm machines is none."""
        records = self._here.records
        if not records.settled():
            return None
        # A node may have had no time to say that it is there: its machines' users shall not be refused for that.
        nodes = [kept.record for name, kept in sorted(records.nodes.items()) if not records.node_gone(name)]
        reasons: dict[str, str] = {}
        for node in nodes:
            spare = set[str]() if warm else self._warm.of(node.node, "creating", "warm", "stopping")
            reason = misfit(node, need) or full(node, [need.memory], spare)
            if not reason:
                return None
            reasons[node.node] = reason
        known = sorted({name for node in nodes for name in node.backends})
        if need.backend not in known:
            return UnknownBackend(
                f"No machine-manager has the backend {need.backend!r}", hint=f"there are: {', '.join(known) or 'none'}"
            )
        said = "; ".join(f"{node} {reason}" for node, reason in list(reasons.items())[:10])
        return NoCapacity(
            f"There is no room for a {need.backend} machine: {said}", hint="stop some, add a node, or give wait="
        )


class Takers:
    """Takes what waits for room on this node, oldest first; `run` does it."""

    def __init__(self, context: Context, creation: Creation, ending: Ending, warm: Warm) -> None:
        self._here = context
        self._creation = creation
        self._ending = ending
        self._warm = warm
        self._look = asyncio.Event()
        self._log = get_logger("creation")
        context.records.subscribe(self._changed)

    def _changed(self, _: str) -> None:
        if self._here.records.requested:
            self._look.set()

    async def run(self) -> None:
        """Take, for ever; may be cancelled at any moment."""
        while True:
            try:
                async with asyncio.timeout(LOOK):
                    await self._look.wait()
            except TimeoutError:
                pass  # room may have come without a change that is seen: look all the same
            self._look.clear()
            try:
                await self._pass()
            except RegrowError as error:
                self._log.warning("what waits could not be taken", reason=str(error))
                await asyncio.sleep(0.5)
                self._look.set()

    async def _pass(self) -> None:
        records = self._here.records
        waiting = [records.machines[id_].record for id_ in records.requested]
        for record in sorted(waiting, key=lambda record: (record.created, record.id)):
            if await self._try(record):
                continue
            return

    async def _try(self, record: MachineRecord) -> bool:
        """Take one, if it fits; false when there is no room, for those behind it neither."""
        here = self._here
        node = here.records.nodes.get(here.node)
        if node is None:
            return False
        try:
            need = await here.need(record)
        except (InvalidImage, NoSuchSnapshot) as error:
            await self._fail(record, error)
            return True
        empty = replace(node.record, claimed={})
        if misfit(node.record, need) or need.backend not in here.backends.opened or full(empty, [need.memory]):
            return True  # never on this node: it does not stand in the way of others
        if reason := await self._creation.claim(record.id, need):
            leaving = self._warm.of(here.node, "stopping")
            spare = leaving | self._warm.spare(here.node)
            if full(node.record, [need.memory], leaving) and not full(node.record, [need.memory], spare):
                await self._warm.give_up_one()
            self._log.debug("no room yet", machine=record.id, reason=reason)
            return False

        def take(now: MachineRecord) -> MachineRecord | None:
            if now.state != "requested":
                return None
            return replace(now, state="creating", node=here.node, manager=here.id, backend=need.backend)

        found, changed = await here.records.change(record.id, take)
        if changed:
            self._ending.making.begin(record.id)
        elif found is None or found.node != here.node or found.state in ENDED:
            await here.claims.release(here.node, [record.id])
        return True

    async def _fail(self, record: MachineRecord, error: RegrowError) -> None:
        def failed(now: MachineRecord) -> MachineRecord | None:
            if now.state != "requested":
                return None
            return replace(now, state="failed", failure=failure(error, retryable=False))

        await self._here.records.change(record.id, failed)
