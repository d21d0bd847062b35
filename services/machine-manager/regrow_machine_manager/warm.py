"""Machines made in advance: `--warm python-dev=3` keeps three containers of that image ready on the node.

A creation of an equal image takes one by compare-and-set, from any manager, in the time of one write. They count in the
node's capacity, but are given up when there is room for nothing else.
"""

from __future__ import annotations

import asyncio
import json
import time

from msgspec import Raw
from msgspec.structs import replace
from regrow_protocol.errors import RegrowError
from regrow_protocol.ids import MACHINE, new_id
from regrow_protocol.images import IMAGES, DockerImage, Image, InvalidImage, decode_image, encode_image
from regrow_protocol.machines import MachineRecord
from regrow_protocol.messages import Command
from regrow_service.logs import get_logger

from .capacity import Need, misfit
from .context import Context
from .ending import Ending
from .measures import CREATED

LOOK = 5.0
PAUSE_AFTER_FAILURE = 30.0


def same(image: Image) -> str:
    """A text that is equal for equal images, whether or not they spell their defaults out."""
    kind = IMAGES.get(image.backend)
    if kind is None:
        return f"{image.backend} {bytes(image.options).decode()}"
    options = json.loads(bytes(encode_image(decode_image(image, kind)).options))
    return f"{image.backend} {json.dumps(options, sort_keys=True)}"


class Warm:
    """The warm machines; `run` keeps those of this node ready."""

    def __init__(self, context: Context, ending: Ending) -> None:
        self._here = context
        self._ending = ending
        self._ready: dict[str, str] = {}
        self._taken: dict[str, str] = {}
        self._look = asyncio.Event()
        self._log = get_logger("warm")
        context.records.subscribe(self._changed)

    def _changed(self, id_: str) -> None:
        record = self._here.records.live(id_) if id_ else None
        if record is not None and record.state == "warm":
            self._ready[id_] = same(record.image)
        elif self._ready.pop(id_, None) is not None:
            self._look.set()
        if record is not None and record.labels.get(TAKEN):
            self._taken[record.command] = id_
        elif record is None and self._taken:
            self._taken = {command: machine for command, machine in self._taken.items() if machine != id_}

    def taken_by(self, command: Command) -> MachineRecord | None:
        """The machine that a repeated command took before."""
        id_ = self._taken.get(command.id)
        record = self._here.records.live(id_) if id_ else None
        return record if record is not None and record.app == command.app else None

    def spare(self, node: str) -> set[str]:
        """Ids of those on a node that could be given up."""
        records = self._here.records
        return {id_ for id_ in self._ready if (record := records.live(id_)) and record.node == node}

    def of(self, node: str, *states: str) -> set[str]:
        """Ids of the machines on a node that nobody has taken, in these states."""
        records = [kept.record for kept in self._here.records.machines.values()]
        return {each.id for each in records if each.node == node and not each.app and each.state in states}

    async def take(self, wanted: MachineRecord) -> MachineRecord | None:
        """Turn a warm machine into the one that is wanted; None when there is no equal one."""
        if not self._ready:
            return None
        here = self._here
        try:
            image = same(wanted.image)
        except InvalidImage:
            return None  # the backend will say so
        for id_ in [id_ for id_, warm in self._ready.items() if warm == image]:
            record = here.records.live(id_)
            node = here.records.nodes.get(record.node) if record else None
            if record is None or node is None or not here.records.node_lives(record.node):
                continue
            if misfit(node.record, Need(record.backend, wanted.labels)):
                continue

            def take(now: MachineRecord) -> MachineRecord | None:
                if now.state != "warm":
                    return None
                return replace(
                    wanted,
                    id=now.id,
                    state="ready",
                    node=now.node,
                    manager=now.manager,
                    backend=now.backend,
                    data=now.data,
                    host=now.host,
                    labels={**wanted.labels, TAKEN: "1"},
                )

            found, changed = await here.records.change(id_, take)
            if changed:
                here.metrics[CREATED].labels("warm").inc()
                return found
        return None

    async def give_up_one(self) -> None:
        """There is no room for what is wanted: stop a warm machine of this node."""
        for id_ in self.spare(self._here.node):
            await self._ending.mark(id_, "room is needed", only=_is_warm)
            return

    async def run(self) -> None:
        """Keep the node's warm machines ready, for ever; may be cancelled at any moment."""
        wanted = {
            same(encode_image(image)): (image, number)
            for image, number in ((DockerImage(name), n) for name, n in self._here.settings.warm.items())
        }
        paused_until = 0.0
        while True:
            now = asyncio.get_running_loop().time()
            try:
                await self._drop_unwanted(wanted)
                if now >= paused_until and not self._here.records.requested and not await self._refill(wanted):
                    paused_until = now + PAUSE_AFTER_FAILURE
            except RegrowError as error:
                self._log.warning("warm machines could not be looked after", reason=str(error))
            try:
                async with asyncio.timeout(LOOK):
                    await self._look.wait()
            except TimeoutError:
                pass  # time to look again
            self._look.clear()

    def _mine(self) -> list[MachineRecord]:
        here = self._here
        return [kept.record for kept in here.records.machines.values() if kept.record.node == here.node]

    async def _drop_unwanted(self, wanted: dict[str, tuple[DockerImage, int]]) -> None:
        """Give up those beyond what is wanted, as when two managers of the node made them at the same time."""
        counts: dict[str, int] = {}
        for record in sorted(self._mine(), key=lambda record: record.id):
            if record.state != "warm":
                continue
            key = same(record.image)
            counts[key] = counts.get(key, 0) + 1
            if counts[key] > wanted.get(key, (None, 0))[1]:
                await self._ending.mark(record.id, "no longer wanted", only=_is_warm)

    async def _refill(self, wanted: dict[str, tuple[DockerImage, int]]) -> bool:
        """Begin to make those that are missing; false when one has failed and it is too early to try again."""
        here = self._here
        for key, (image, number) in wanted.items():
            if DockerImage.backend not in here.backends.opened:
                return True
            there = [r for r in self._mine() if not r.app and r.state in ("creating", "warm") and same(r.image) == key]
            for _ in range(number - len(there)):
                if not await self._make(image):
                    return False
        return True

    async def _make(self, image: DockerImage) -> bool:
        here = self._here
        id_ = new_id(MACHINE)
        backend = here.backends.get(image.backend).backend
        if await here.claims.claim(here.node, {id_: backend.memory(image)}):
            return True  # no room: nothing is wrong with that
        now = time.time()
        record = MachineRecord(
            id=id_,
            app="",
            command="",
            image=encode_image(image),
            state="creating",
            node=here.node,
            manager=here.id,
            backend=image.backend,
            data=Raw(b"null"),
            created=now,
            seen=now,
        )
        await here.records.create(record)
        self._ending.making.begin(id_)
        await here.records.wait(
            id_,
            lambda: (found := here.records.live(id_)) is None or found.state != "creating",
            here.settings.machine_patience,
        )
        found = here.records.live(id_)
        return found is not None and found.state in ("warm", "ready")


def _is_warm(record: MachineRecord) -> bool:
    return record.state == "warm"  # not taken meanwhile


TAKEN = "regrow.warm"
"""Label in the record of a machine that was warm: its id is not made from its command's."""
