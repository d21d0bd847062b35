"""The list of processes, made from events by one supervisor or two, killed or not."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fleet import Fleet, chance
from msgspec import Raw
from regrow_protocol import messages, streams, subjects
from regrow_protocol.bus import Bus
from regrow_protocol.ids import PROCESS, new_id
from regrow_protocol.messages import EventRecord, ProcessMeta, ProcessRecord, Program
from regrow_protocol.server import NatsServer
from regrow_protocol.subjects import token
from regrow_service import dead
from regrow_service.metrics import Metrics
from regrow_supervisor.measures import PROJECTED, TABLE
from regrow_supervisor.projection import Projection
from regrow_supervisor.records import fold

Until = Callable[..., Awaitable[None]]


class Life:
    """What one process announces."""

    def __init__(self, fleet: Fleet, *, name: str = "", build: str = "b1", parent: str | None = None) -> None:
        self.fleet = fleet
        self.pid = new_id(PROCESS)
        self.meta = ProcessMeta(
            type="main", build=build, parent=parent, root=self.pid, name=name, program=Program("/a.py"), started=100.0
        )
        self.n = 0
        self.incarnation = 0
        self.recorded: list[tuple[int, EventRecord]] = []

    async def says(self, type_: str, data: bytes = b"null", **more: Any) -> None:
        self.n += 1
        event = EventRecord(self.pid, self.incarnation, self.n, self.n, type_, 100.0 + self.n, data=Raw(data), **more)
        ack = await self.fleet.bus.publish(
            streams.EVENTS,
            subjects.event(self.fleet.app, self.pid, type_),
            messages.encode(event),
            f"{self.pid}.{self.incarnation}.{self.n}",
        )
        self.recorded.append((ack.seq, event))

    async def starts(self) -> None:
        await self.says("started", meta=self.meta)

    async def restarts(self) -> None:
        self.incarnation += 1
        await self.says("restarted")

    async def ends(self, how: str = "done", data: bytes = b"null") -> None:
        await self.says(how, data, final=True, meta=self.meta)

    @property
    def listed(self) -> ProcessRecord | None:
        return self.fleet.processes.get(self.pid)

    @property
    def status(self) -> str:
        return self.listed.status if self.listed else ""


async def test_a_process_is_listed_from_its_start_to_its_end(fleet: Fleet, until: Until) -> None:
    """With what lists show of it, and why it failed."""
    await fleet.supervise()
    life = Life(fleet, parent="p_parent")
    await life.starts()
    await until(lambda: life.status == "running")
    assert life.listed == ProcessRecord(
        pid=life.pid,
        app=fleet.app,
        type="main",
        build="b1",
        status="running",
        seq=life.recorded[0][0],
        parent="p_parent",
        root=life.pid,
        program=Program("/a.py"),
        started=100.0,
    )
    await life.says("progress")
    await life.says("done")  # an event of its own
    await life.ends("failed", b'"no disk"')
    await until(lambda: life.status == "failed")
    assert life.listed is not None
    assert (life.listed.error, life.listed.ended) == ("no disk", 104.0)


async def test_poison_does_not_stop_the_list(fleet: Fleet, until: Until) -> None:
    """What is no event becomes a dead letter; what follows is listed; so is a process whose record somebody spoiled."""
    await fleet.supervise()
    life, spoiled = Life(fleet), Life(fleet)
    await fleet.bus.kv("regrow_processes").put(spoiled.pid, b"junk")
    for body, pid in ((b"junk", "p_1"), (b"", "p_2"), (b"\xff\x00", "p_3"), (messages.encode(event_of("p_4")), "p_5")):
        await fleet.bus.publish(streams.EVENTS, subjects.event(fleet.app, pid, "started"), body, fleet.bus.fresh_id())
    await life.starts()
    await spoiled.starts()
    await until(lambda: life.status == spoiled.status == "running")
    async with asyncio.timeout(20):
        while len(letters := [letter.letter async for letter in dead.letters(fleet.bus, "supervisor")]) < 4:
            await asyncio.sleep(0.01)
    reasons = {letter.subject.split(".")[3]: letter.reason for letter in letters}
    assert (len(letters), sorted(reasons)) == (4, ["p_1", "p_2", "p_3", "p_5"])
    assert "an event of p_4" in reasons["p_5"]


def event_of(pid: str) -> EventRecord:
    return EventRecord(pid, 0, 1, 1, "started", 1.0, meta=ProcessMeta(type="main", build="b1"))


async def test_a_name_belongs_to_the_first_that_runs(fleet: Fleet, until: Until) -> None:
    """Until it ends; then the next one that starts has it."""
    await fleet.supervise()
    key = f"name.{token(fleet.app)}.{token('my shop')}"
    first, second, third = [Life(fleet, name="my shop") for _ in range(3)]
    await first.starts()
    await until(lambda: fleet.names.get(key) == first.pid)
    await second.starts()
    await until(lambda: second.status == "running")
    await second.ends()
    await until(lambda: second.status == "done")
    assert fleet.names[key] == first.pid
    await first.ends()
    await third.starts()
    await until(lambda: fleet.names.get(key) == third.pid)
    await third.ends("cancelled")
    await until(lambda: key not in fleet.names)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_two_at_once_make_the_same_list_as_one(fleet: Fleet, until: Until, seed: int) -> None:
    """Random lives, interleaved at random, taken by whichever projection comes first: each record is the one that its
    events
    give in order, and names belong to those that run."""
    stopping = asyncio.Event()
    lives = await random_lives(fleet, 60, seed)
    metrics = [Metrics(TABLE) for _ in range(2)]
    async with asyncio.TaskGroup() as group:
        for each in metrics:
            bus = await fleet.stack.enter_async_context(await Bus.connect(fleet.url, name="projection"))
            group.create_task(Projection(bus, each, "supervisor").run(stopping))
        lives += await random_lives(fleet, 60, seed + 100)
        await until(lambda: all(right(life) for life in lives), "the list to be right")
        await until(lambda: all(fleet.processes[pid].status == "running" for pid in fleet.names.values()), "the names")
        stopping.set()


async def test_a_killed_supervisor_loses_no_event(fleet: Fleet, until: Until) -> None:
    """kill -9 in the middle: what it had in hand comes to the other one."""
    one = await fleet.supervisor_program()
    await fleet.supervise()
    lives = await random_lives(fleet, 40, 5)
    await until(lambda: bool(fleet.processes))
    writing = asyncio.create_task(random_lives(fleet, 200, 6))
    one.send_signal(signal.SIGKILL)
    lives += await writing
    await until(lambda: all(right(life) for life in lives), "the list to be right", timeout=30)


async def test_an_outage_in_the_middle(fleet: Fleet, private_server: NatsServer, until: Until) -> None:
    """The server is killed while events are listed: in the end the list is right."""
    await fleet.supervise()
    writing = asyncio.create_task(random_lives(fleet, 150, 8))
    await until(lambda: len(fleet.processes) > 5)
    await asyncio.to_thread(private_server.kill)
    await asyncio.to_thread(private_server.restart)
    lives = await writing
    await until(lambda: all(right(life) for life in lives), "the list to be right", timeout=30)


async def test_what_is_listed_is_counted(fleet: Fleet, until: Until) -> None:
    """Events and the lag are measured."""
    stopping, metrics = asyncio.Event(), Metrics(TABLE)
    async with asyncio.TaskGroup() as group:
        group.create_task(Projection(fleet.bus, metrics, "supervisor").run(stopping))
        life = Life(fleet)
        await life.starts()
        await life.ends()
        await until(lambda: metrics.registry.get_sample_value(f"{PROJECTED.name}_total") == 2)
        lag = metrics.registry.get_sample_value("regrow_projection_lag_seconds")
        assert lag is not None
        assert 0 < lag < 20
        stopping.set()


def right(life: Life) -> bool:
    """The list shows what the events of the process say, in order."""
    return life.listed == fold(None, life.fleet.app, life.recorded)


async def random_lives(fleet: Fleet, count: int, seed: int) -> list[Life]:
    """Processes that start, restart and perhaps end, their events interleaved; some share a name."""
    dice = chance(seed)
    lives = [Life(fleet, name=f"n{number % 7}" if number % 3 == 0 else "") for number in range(count)]
    left: list[tuple[Life, list[Callable[[], Awaitable[None]]]]] = []
    for life in lives:
        steps: list[Callable[[], Awaitable[None]]] = [life.starts]
        steps += [dice.choice([life.restarts, lambda life=life: life.says("done")]) for _ in range(dice.randrange(3))]
        if dice.random() < 0.7:
            how = dice.choice(["done", "failed", "cancelled"])
            steps.append(lambda life=life, how=how: life.ends(how))
        left.append((life, steps))
    while left:
        some = dice.sample(left, min(8, len(left)))
        await asyncio.gather(*[steps.pop(0)() for _, steps in some])
        left = [each for each in left if each[1]]
    return lives
