"""Groups of supervised processes, and a host that dies at a certain step of one of them."""

from __future__ import annotations

import os
import signal
from typing import Any

from regrow import agent_process, done, emit, expose, fail, sleep, supervise, wait
from regrow.codec import from_raw
from regrow.host.publishing import Publishing
from regrow.host.resident import Resident
from regrow.operations import Output
from regrow_protocol import messages as m


@agent_process
async def member(tree: int, name: str) -> str:
    """Fails when it is told to; takes a moment to end."""

    @expose
    async def crash() -> None:
        fail("crashed")

    @expose
    async def finish() -> None:
        done(name)

    @expose
    async def hello() -> str:
        return name

    emit("up")
    try:
        return await wait()
    finally:
        await sleep(0.01)
        emit("end")


@agent_process
async def team(tree: int) -> list[str]:
    """Three members, all of which are started again when one has failed."""
    async with supervise(strategy="one_for_all", max_restarts=3, within=1000.0) as group:
        handles = [group.start(member, tree, name, id=name, restart="transient") for name in "abc"]
        emit("pids", {name: handle.pid for name, handle in zip("abc", handles, strict=True)})
    return [await handle for handle in handles]


class Stop:
    """Kills this host when of what a tree sends in a restart, from the end of a member on, so many messages are stored.

    The next one is held back, so it keeps the floor of its partition down, as whatever is not stored yet.

    Args:
        tree: its number.
        left: how many messages.
    """

    def __init__(self, tree: int, left: int) -> None:
        self._tree, self._left = tree, left
        self._begun = self._over = False
        self._residents: dict[str, Resident] = {}
        self._ups_left = 3  # with the last one the restart is over
        self._publish, self._acknowledged = Publishing.publish, Publishing._acknowledged

    def install(self) -> None:
        def publish(publishing: Publishing, resident: Resident, seq: int, outputs: list[Output]) -> None:
            through = self.let_through(resident, outputs)
            self._publish(publishing, resident, seq, through)
            for _ in outputs[len(through) :]:
                publishing._partition.floor.open(seq)
            self.check()

        def acknowledged(publishing: Publishing, resident: Resident, seq: int, outcome: Any) -> None:
            self._acknowledged(publishing, resident, seq, outcome)
            self.check()

        Publishing.publish = publish  # type: ignore[method-assign]
        Publishing._acknowledged = acknowledged  # type: ignore[method-assign]

    def _is_mine(self, resident: Resident) -> bool:
        start = resident.process.start
        return start is not None and from_raw(start.args)["tree"] == self._tree

    def let_through(self, resident: Resident, outputs: list[Output]) -> list[Output]:
        if not self._is_mine(resident) or not self._ups_left:
            return outputs
        self._residents[resident.pid] = resident
        self._begun |= any(isinstance(output.message, m.Child) for output in outputs)
        if not self._begun:
            return outputs
        through = [] if self._over else outputs[: self._left]
        self._ups_left -= sum(isinstance(o.message, m.EventRecord) and o.message.type == "up" for o in through)
        if not self._ups_left:
            return outputs
        self._over |= len(through) < len(outputs)
        self._left -= len(through)
        return through

    def check(self) -> None:
        if self._over and not any(resident.unacked for resident in self._residents.values()):
            os.kill(os.getpid(), signal.SIGKILL)


if at := os.environ.get("CHAOS_STOP"):
    Stop(*(int(n) for n in at.split(":"))).install()
