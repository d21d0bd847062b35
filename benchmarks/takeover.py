"""Take-over: 1,000 parked processes of a killed host, each of which must answer a call.

The time runs from the SIGKILL to the last answer; all 1,000 calls are made at once, right after it. Another host stands
by, so the processes are chosen from the partitions of the one that dies. How the death becomes known: its launcher saw
it (`announced`), or its key's TTL of 2 s. `started again`: no other host; the launcher starts a new one. `NATS killed
too`: so was the server, which is started again on its store at once.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from figures import Figure, of_rounds
from harness import APP, Stack, copy_store, running
from meter import Patience
from regrow.client import RemoteProcess
from regrow.codec import to_raw
from regrow.launcher import HostProcess
from regrow_protocol import ids, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.server import Durability

PROCESSES = 1000
EARLIER, EARLIER_INPUTS, EARLIER_EVENTS = 50_000, 8, 2
"""Processes of the past, and what each left: 500,000 messages."""

WAYS = ("announced", "NATS killed too", "by TTL", "started again")


async def run(
    durability: Durability, store: Path | None, ways: tuple[str, ...], patience: Patience, say: Callable[[str], None]
) -> list[Figure]:
    """Every way, each on a stack of its own."""
    place = "empty store" if store is None else "500,000 messages"
    found: list[Figure] = []
    for way in ways:
        say(f"take-over, {place}, {way}")
        async with running(durability, hosts=0, store=store, patience=patience) as stack:
            last, first = await _one(stack, way)
        name = f"take-over, {place}, {way}"
        found.append(of_rounds(name, "time", [last], PROCESSES, cost={"first answer s": first}))
    return found


async def _one(stack: Stack, way: str) -> tuple[float, float]:
    """Seconds to the last and to the first answer."""
    victim = await stack.add_host(announced=way != "by TTL", restart=way == "started again")
    if way != "started again":
        await stack.add_host()
    assert victim.ready is not None
    name = victim.ready.host
    parts = {part for part, owner in (await stack.owners()).items() if owner == name}
    processes = await stack.start_many("echo", PROCESSES, parts)
    await asyncio.gather(*(process.call("ping", v=0) for process in processes))
    await stack.at_rest()
    await stack.patience.quiet()
    restarted = _kill(stack, victim, nats=way == "NATS killed too")
    began = time.perf_counter()
    times = await asyncio.gather(restarted, *(_answer(process) for process in processes))
    answers = [at - began for at in times if at is not None]
    return max(answers), min(answers)


def _kill(stack: Stack, victim: HostProcess, *, nats: bool) -> asyncio.Future[None]:
    os.kill(victim.os_pid, signal.SIGKILL)
    if nats:
        stack.server.kill()
        return asyncio.ensure_future(asyncio.to_thread(stack.server.restart))
    return asyncio.ensure_future(asyncio.sleep(0))


async def _answer(process: RemoteProcess) -> float:
    assert await process.call("ping", v=1, timeout=60) == 2
    return time.perf_counter()


async def earlier_messages(folder: Path, processes: int = EARLIER) -> Path:
    """A store that holds the inboxes and events of processes of the past, listed by the supervisor.

    Built in `fast`: the files are the same.
    """
    store = folder / "earlier"
    async with running("fast", hosts=0) as stack:
        await _fill(stack.bus, stack.stream, processes)
        await stack.bus.drain_publishers(60)
        await stack.listed(120)
        await stack.halt()
        copy_store(stack.server.store_dir, store)
    return store


async def _fill(bus: Bus, stream: str, processes: int) -> None:
    """As real ones write: many processes at once, so the messages of one lie apart."""
    at = time.time() - 86_400
    chooser = random.Random(1)
    living: list[tuple[str, int]] = []
    begun = 0
    written = 0
    while begun < processes or living:
        while begun < processes and len(living) < 200:
            living.append((ids.derived_id(ids.PROCESS, f"earlier {begun}", at + begun / 10), 0))
            begun += 1
        which = chooser.randrange(len(living))
        pid, n = living[which]
        if n == EARLIER_INPUTS + EARLIER_EVENTS:
            living[which] = living[-1]
            living.pop()
            continue
        living[which] = (pid, n + 1)
        _write(bus, stream, pid, n)
        written += 1
        if written % 1000 == 0:
            await bus.ready(stream)
            await bus.ready(streams.EVENTS)


def _write(bus: Bus, stream: str, pid: str, n: int) -> None:
    """Its nth message: a start, results of steps, two events."""
    if n in (1, EARLIER_INPUTS + EARLIER_EVENTS - 1):
        type_ = "started" if n == 1 else "done"
        meta = m.ProcessMeta("steps", "earlier", started=time.time())
        event = m.EventRecord(pid, 0, n, 1 if n == 1 else 2, type_, time.time(), final=n != 1, meta=meta)
        _publish(bus, streams.EVENTS, subjects.event(APP, pid, type_), m.encode(event), f"{pid}.0.{n}")
        return
    if n == 0:
        message: m.Message = m.Start(type="steps", args=to_raw({"n": EARLIER_INPUTS - 1}), build="earlier")
    else:
        op = m.Op(n, "step", "add", "d0c5a11ff3a2b7e4", "4be1c3f0a9d87e26")
        message = m.Result(incarnation=0, op=op, value=to_raw(n))
    subject = subjects.inbox(APP, ids.partition_of(pid, 16), pid)
    _publish(bus, stream, subject, m.encode(message), f"{pid}.0.{n}.r")


def _publish(bus: Bus, stream: str, subject: str, payload: bytes, msg_id: str) -> None:
    """As if long ago: an id of the last two minutes is one that the server, started again, reads into its memory."""
    bus.publish_soon(stream, subject, payload, msg_id, headers={"Nats-Msg-Id": ""})
