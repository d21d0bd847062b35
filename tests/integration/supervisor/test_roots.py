"""Roots on a real server: one that has gone down is told to begin again, once, when its back-off is over."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest_asyncio
from fleet import FakeHost, Fleet
from regrow_protocol import ids, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Received

Until = Callable[..., Awaitable[None]]


class Roots:
    """Roots of an app that go down, and what they are told.

    Attributes:
        told: pid → what came into its inbox, and when.
        victim: one of two supervisors, that may be killed.
    """

    victim: asyncio.subprocess.Process

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.told: dict[str, list[tuple[m.Input, float]]] = {}

    def take(self, batch: list[Received]) -> None:
        for message in batch:
            told = self.told.setdefault(subjects.pid_of(message.subject), [])
            told.append((m.decode_input(message.data), message.time))

    async def down(self, wait: float, incarnation: int = 0, *, pid: str = "", own: bool = False) -> str:
        """A root announces that it is down, as its host publishes it; `own`: a program emits an event of that name."""
        pid = pid or ids.new_id(ids.PROCESS)
        data = m.RootDown(status="failed", again_at=time.time() + wait)
        record = m.EventRecord(
            pid=pid, incarnation=incarnation, n=9, seq=2 + incarnation, type="down", time=time.time(),
            data=m.Raw(b"3" if own else m.encode(data)), meta=None if own else m.ProcessMeta(type="main", build="b1"),
        )  # fmt: skip
        subject = subjects.event(self.fleet.app, pid, "down")
        await self.fleet.bus.publish(streams.EVENTS, subject, m.encode(record), f"{pid}.{incarnation}.9")
        return pid


@pytest_asyncio.fixture
async def roots(fleet: Fleet, until: Until) -> Roots:
    made = Roots(fleet)
    stream = await streams.ensure_app(fleet.bus, fleet.app)
    reader = fleet.bus.read(stream, f"regrow.inbox.{subjects.token(fleet.app)}.>", 1, made.take)
    fleet.stack.push_async_callback(reader.stop)
    host: FakeHost = await fleet.host("b1")
    await fleet.supervise()
    made.victim = await fleet.supervisor_program()
    await until(lambda: fleet.owned_by(host))
    return made


def _incarnations(told: list[tuple[m.Input, float]]) -> list[Any]:
    return [input_.incarnation for input_, _ in told if isinstance(input_, m.Again)]


async def test_roots_are_told_once_and_not_too_early(roots: Roots, until: Until) -> None:
    """By two supervisors, each incarnation in its turn; an event of that name from a program says nothing."""
    own = await roots.down(0.0, own=True)
    began = time.time()
    pids = [await roots.down(wait) for wait in (0.0, 0.6)]
    await until(lambda: all(pid in roots.told for pid in pids))
    assert roots.told[pids[1]][0][1] >= began + 0.6
    await roots.down(0.1, 1, pid=pids[0])
    await until(lambda: _incarnations(roots.told[pids[0]]) == [1, 2])
    assert _incarnations(roots.told[pids[1]]) == [1]
    assert own not in roots.told


async def test_a_supervisor_that_is_killed_forgets_none(roots: Roots, until: Until) -> None:
    """Those that it had are told by the other one."""
    pids = [await roots.down(1.0) for _ in range(20)]
    roots.victim.send_signal(signal.SIGKILL)
    await roots.victim.wait()
    await until(lambda: all(pid in roots.told for pid in pids))
    assert [_incarnations(roots.told[pid]) for pid in pids] == [[1]] * 20
