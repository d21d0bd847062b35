"""Processes that nobody can go on with: of a build without hosts, of a parent that has ended."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import pytest_asyncio
from fleet import Fleet
from regrow_protocol import messages, streams, subjects
from regrow_protocol.ids import PROCESS, new_id, partition_of
from regrow_protocol.messages import AppRecord, BuildRecord, Cancel, Input, ProcessRecord, Program, Upgrade

Until = Callable[..., Awaitable[None]]
GRACE = 1.0


class Listed:
    """Processes in the list, and what came into their inboxes."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.inbox: dict[str, list[Input]] = {}
        self.ids: dict[str, list[str | None]] = {}

    async def open(self) -> None:
        stream = await streams.ensure_app(self.fleet.bus, self.fleet.app)

        def take(batch: list[messages.Any]) -> None:
            for message in batch:
                pid = subjects.pid_of(message.subject)
                assert message.subject == subjects.inbox(self.fleet.app, partition_of(pid, 16), pid)
                self.inbox.setdefault(pid, []).append(messages.decode_input(message.data))
                self.ids.setdefault(pid, []).append(message.header("Nats-Msg-Id"))

        reader = self.fleet.bus.read(stream, f"regrow.inbox.{subjects.token(self.fleet.app)}.>", 1, take)
        self.fleet.stack.push_async_callback(reader.stop)

    async def add(
        self,
        build: str = "b1",
        *,
        type_: str = "main",
        status: str = "running",
        parent: str | None = None,
        target: str = "",
        root: str = "",
        app: str = "",
    ) -> str:
        pid = new_id(PROCESS)
        record = ProcessRecord(
            pid=pid,
            app=app or self.fleet.app,
            type=type_,
            build=build,
            status=status,
            seq=1,
            parent=parent,
            root=root or pid,
            program=Program(target) if target else None,
        )
        await self.fleet.bus.kv("regrow_processes").create(pid, messages.encode(record))
        return pid


@pytest_asyncio.fixture
async def listed(fleet: Fleet) -> Listed:
    made = Listed(fleet)
    await made.open()
    return made


async def test_processes_of_a_forsaken_build_go_to_a_living_one(fleet: Fleet, listed: Listed, until: Until) -> None:
    """After the grace, each running one once, though two supervisors look; the list says where they are now."""
    await fleet.supervise(grace=GRACE)
    await fleet.supervise(grace=GRACE)
    old = await fleet.host("b1", types="main worker")
    await until(lambda: fleet.owned_by(old))
    running = [await listed.add(type_=type_) for type_ in ("main", "worker", "main")]
    await listed.add(status="done")
    await listed.add(type_="removed")
    await listed.add("b2")
    await fleet.host("b2", types="main worker")
    left = await old.leave()
    await until(lambda: set(listed.inbox) == set(running))
    assert time.monotonic() - left >= GRACE
    await until(lambda: all(fleet.processes[pid].build == "b2" for pid in running))
    removed = await listed.add()  # whoever starts late is found by a later reading
    await until(lambda: removed in listed.inbox)
    assert all(got == [Upgrade(build="b2")] for got in listed.inbox.values())
    assert [msg_id.rsplit(".", 1)[0] for msg_id in listed.ids[removed]] == [f"{removed}.upgrade.b2"]
    assert set(listed.inbox) == {*running, removed}


async def test_nothing_moves_while_the_build_has_a_host(fleet: Fleet, listed: Listed, until: Until) -> None:
    """Nor when it is back within the grace; seen by a process of another build, which does move."""
    await fleet.supervise(grace=6.0)
    gone, old = await fleet.host("b0"), await fleet.host("b1")
    await until(lambda: fleet.owned_by(old) and fleet.owned_by(gone, build="b0"))
    stays, moves = await listed.add("b1"), await listed.add("b0")
    await fleet.host("b2")
    await gone.leave()
    await old.leave()
    back = await fleet.host("b1")
    await until(lambda: fleet.owned_by(back))
    await until(lambda: moves in listed.inbox)
    assert stays not in listed.inbox


async def test_another_program_does_not_take_them(fleet: Fleet, listed: Listed, until: Until) -> None:
    """Two programs of one app that both have a `main`: a process waits for its own, also as a child of a root."""
    await fleet.supervise(grace=GRACE)
    host = await fleet.host("b1", target="/srv/shop.py")
    await until(lambda: fleet.owned_by(host))
    root = await listed.add(target="/srv/shop.py")
    child = await listed.add(root=root, parent=root)
    other = await listed.add(target="/srv/survey.py")
    await fleet.host("b2", target="/srv/survey.py")
    await host.leave()
    await until(lambda: other in listed.inbox)
    assert set(listed.inbox) == {other}
    await fleet.host("b3", target="/releases/2/shop.py")
    await until(lambda: {root, child} <= set(listed.inbox))
    assert listed.inbox[child] == [Upgrade(build="b3")]


async def test_orphans_of_a_deserted_app_are_cancelled(fleet: Fleet, listed: Listed, until: Until) -> None:
    """A running process whose parent has ended, where no host is left that could do it; once, by two supervisors."""
    await fleet.supervise(grace=GRACE)
    await fleet.supervise(grace=GRACE)
    host = await fleet.host()
    await until(lambda: fleet.owned_by(host))
    ended, alive = await listed.add(status="failed"), await listed.add()
    orphan = await listed.add(parent=ended)
    await listed.add(parent=alive)
    await listed.add(parent=ended, status="done")
    await host.leave()
    await until(lambda: orphan in listed.inbox)
    late = await listed.add(parent=ended)
    await until(lambda: late in listed.inbox)
    assert set(listed.inbox) == {orphan, late}
    assert listed.inbox[orphan] == [Cancel(reason=f"its parent {ended} has ended")]


async def test_orphans_are_left_to_a_living_host(fleet: Fleet, listed: Listed, until: Until) -> None:
    """The fold of the parent ends its children; the supervisor only does what no host can."""
    await fleet.supervise(grace=GRACE)
    host, gone = await fleet.host("b1"), await fleet.host("b0")
    await until(lambda: fleet.owned_by(host) and fleet.owned_by(gone, build="b0"))
    orphan = await listed.add(parent=await listed.add(status="failed"))
    moves = await listed.add("b0")
    await gone.leave()
    await until(lambda: moves in listed.inbox)
    assert orphan not in listed.inbox


async def test_apps_that_are_half_gone_hold_up_nobody(fleet: Fleet, listed: Listed, until: Until) -> None:
    """An app without its record, one without its stream, junk in the list: others are looked after all the same."""
    kv = fleet.bus.kv("regrow_partitions")
    for app in ("unrecorded", "streamless"):
        await kv.create(f"build.{app}.b1", messages.encode(BuildRecord(since=0)))
        await listed.add(app=app, parent=await listed.add(app=app, status="failed"))
    await kv.create("app.streamless", messages.encode(AppRecord()))
    await fleet.bus.kv("regrow_processes").put("p_junk", b"junk")
    await fleet.supervise(grace=GRACE)
    old = await fleet.host("b1")
    await until(lambda: fleet.owned_by(old))
    pid = await listed.add()
    await fleet.host("b2")
    await old.leave()
    await until(lambda: pid in listed.inbox)


async def test_a_build_that_wants_them_gets_processes_of_older_ones_at_once(
    fleet: Fleet, listed: Listed, until: Until
) -> None:
    """With `upgrade="auto"`, though theirs has hosts; the upgrade says which patches the code before had."""
    bucket = fleet.bus.kv("regrow_partitions")
    await bucket.create(f"build.{fleet.app}.b1", messages.encode(BuildRecord(0, 100.0, ["one"])))
    await bucket.create(f"build.{fleet.app}.b2", messages.encode(BuildRecord(0, 200.0, ["one", "two"])))
    await fleet.supervise(grace=GRACE)
    old = await fleet.host("b1")
    await until(lambda: fleet.owned_by(old))
    pid = await listed.add("b1")
    await fleet.host("b2", upgrade="auto")
    await until(lambda: pid in listed.inbox)
    assert listed.inbox[pid] == [Upgrade(build="b2", had=["one"])]
