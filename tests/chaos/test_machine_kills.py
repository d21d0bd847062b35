"""Commands on machines go on, run once and are answered whole, whatever of Regrow is killed; then nothing is left.

A command leaves `<name>.count` with a line for each of its runs, and `<name>.ended` when it has come to its end; what
that holds is how many lines it wrote.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from chaoskit import LONG, Stack, until
from regrow.client import RemoteProcess
from regrow.testing.managers import Manager
from regrow_protocol.machines import MachineRecord, NodeRecord
from regrow_protocol.messages import decode

sys.path.append(str(Path(__file__).parents[1] / "integration" / "machines"))  # the sshd of the backends' tests

from ssh_server import SSHServer, make_login

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200 if LONG else 180)]

PROGRAM = Path(__file__).with_name("programs_machines.py")
SECONDS = 600.0 if LONG else 4.0
PAUSE = 0.1 if LONG else 0.05
LINES = round(SECONDS / PAUSE)
BETWEEN_KILLS = (20.0, 30.0) if LONG else (0.8, 1.2)
KILLS = 15 if LONG else 2
"""Of each kind, at least: the commands go on until then, however slow the computer is."""
ROUNDS = 5 if LONG else 1
PROCESSES = 10


@dataclass
class Place:
    """Where machines are made.

    Attributes:
        backend: its name.
        marks: folder on this computer into which their commands can write.
        ssh: the image's arguments.
        server: that the machines' host is behind.
    """

    backend: str
    marks: Path
    ssh: dict[str, object] | None = None
    server: SSHServer | None = None

    @property
    def enough(self) -> Path:
        """Is there when `numbers` may end."""
        return self.marks / "enough"

    def runs(self, name: str) -> str:
        """What `<name>.count` holds."""
        with contextlib.suppress(FileNotFoundError):
            return (self.marks / f"{name}.count").read_text()
        return ""

    def ended(self, *names: str) -> bool:
        """Whether the commands have come to their end."""
        return all((self.marks / f"{name}.ended").exists() for name in names)

    def lines(self, name: str) -> list[str]:
        """What a command has written that has come to its end."""
        return [str(i + 1) for i in range(int((self.marks / f"{name}.ended").read_text()))]

    def numbers(self, name: str) -> str:
        """A command that writes numbered lines to both outputs all the time, for `SECONDS` and until `enough`."""
        return (
            f"echo ran >>'{self.marks}/{name}.count'; i=0; while [ $i -lt {LINES} ] || ! [ -e '{self.enough}' ]; do "
            f"i=$((i+1)); echo $i; echo e$i >&2; sleep {PAUSE}; done; "
            f"echo $i >'{self.marks}/{name}.new'; mv '{self.marks}/{name}.new' '{self.marks}/{name}.ended'; exit 23"
        )

    def gated(self, name: str, gate: Path, code: int) -> str:
        """A command that ends when `gate` is there."""
        return (
            f"echo ran >>'{self.marks}/{name}.count'; echo begin; until [ -e '{gate}' ]; do sleep 0.05; done; "
            f"echo {name}; touch '{self.marks}/{name}.ended'; exit {code}"
        )


@contextlib.contextmanager
def local_place(folder: Path) -> Iterator[Place]:
    folder.mkdir()
    yield Place("local", folder)


@contextlib.contextmanager
def ssh_place(_: Path) -> Iterator[Place]:
    with make_login() as login, SSHServer(login) as server:
        image = msgspec.to_builtins(server.image())
        known = ("host", "port", "user", "key", "known_hosts")
        yield Place("ssh", login.home, {name: image[name] for name in known}, server)


@dataclass
class Managers:
    """Machine-managers, started one after the other."""

    stack: Stack
    all: list[Manager] = field(default_factory=list)

    async def start(self, backend: str, beside: Manager | None = None) -> Manager:
        """One on a node of its own, or on that of another one."""
        options = ["--node", beside.node, "--folder", str(beside.folder / "machines")] if beside else []
        made = Manager(self.stack.server.url, backends=backend, options=options)
        self.all.append(made)
        if beside:
            made.node = beside.node
        await made.start_async()
        return made

    def marked(self) -> list[int]:
        """The OS processes of their local machines."""
        marks = [f"\0REGROW_MACHINE_HOME={manager.folder}/".encode() for manager in self.all]
        return [pid for pid, environ in _environments() if any(mark in environ for mark in marks)]

    def folders(self) -> list[Path]:
        """The folders of their local machines, those in the making too."""
        return [path for manager in self.all for path in manager.folder.glob("machines/*/local/machines/*")]

    def close(self) -> None:
        """End them and what they left; what they logged is shown where a test failed."""
        for manager in self.all:
            manager.stop()
            sys.stdout.write(manager.log())
        for pid in self.marked():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for manager in self.all:
            manager.close()


def _environments() -> Iterator[tuple[int, bytes]]:
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            yield int(path.parent.name), b"\0" + path.read_bytes()


@pytest.fixture
async def managers(stack: Stack) -> AsyncIterator[Managers]:
    made = Managers(stack)
    yield made
    await asyncio.to_thread(made.close)


async def machines_gone(stack: Stack, managers: Managers, count: int) -> None:
    """Wait until nothing is left of `count` machines: records, claims, folders, OS processes."""
    bucket = stack.bus.kv("regrow_machines")
    records: list[MachineRecord] = []

    async def stopped() -> bool:
        records[:] = [decode(entry.value, MachineRecord) async for entry in bucket.items("machine.*")]
        return all(record.state == "stopped" for record in records)

    async def unclaimed() -> bool:
        nodes = [decode(entry.value, NodeRecord) async for entry in bucket.items("node.*")]
        return bool(nodes) and not any(node.claimed for node in nodes)

    await until(stopped, "the machines to be stopped")
    assert len(records) == count, "no process asked twice for its machine"
    await until(unclaimed, "the claims to be given up")
    marks = [f"\0REGROW_MACHINE={record.id}\0".encode() for record in records]

    def left() -> list[object]:
        marked = [pid for pid, environ in _environments() if any(mark in environ for mark in marks)]
        return [*managers.folders(), *managers.marked(), *marked]

    await until(_so(lambda: not left()), "the end of what is left")


async def result_of(stack: Stack, process: RemoteProcess, timeout: float) -> Any:
    """The result of a process, or who is parked instead."""
    try:
        return await process.result(timeout)
    except TimeoutError as error:
        raise AssertionError(f"no result of {process.pid} in {timeout:g} s; parked: {await stack.stuck()}") from error


async def again_and_again(
    kind: int, kill: Callable[[], Awaitable[object]], over: Callable[[], bool], done: list[int]
) -> None:
    """Do it until it is over, each kind at moments of its own; a number in `done` for each time."""
    pace = random.Random(kind)
    while True:
        until_next = time.monotonic() + pace.uniform(*BETWEEN_KILLS)
        while time.monotonic() < until_next:
            if over():
                return
            await asyncio.sleep(0.02)  # the pace of the kills is what the test is about
        await kill()
        done.append(len(done) + 1)


@pytest.mark.parametrize("where", [local_place, ssh_place])
async def test_commands_outlive_manager_host_and_connections(
    stack: Stack,
    managers: Managers,
    tmp_path: Path,
    where: Callable[[Path], contextlib.AbstractContextManager[Place]],
) -> None:
    """Killed every second, all of them: the real exit code, the whole output, every streamed line; each ran once."""
    with where(tmp_path / "marks") as place:
        await stack.supervise()
        await stack.host(PROGRAM)
        manager = await managers.start(place.backend)
        names = ["kept", "streamed"]
        process = await stack.start(
            "commander", ssh=place.ssh, commands=[place.numbers("kept")], streamed=[place.numbers("streamed")]
        )
        result = asyncio.create_task(result_of(stack, process, SECONDS + 120))
        await until(_so(lambda: all(place.runs(name) for name in names)), "the commands to run")
        deadline = time.monotonic() + SECONDS + 90
        done: list[list[int]] = []
        cutting = False

        def over() -> bool:
            assert time.monotonic() < deadline, f"the commands do not end; kills: {done}"
            assert place.ended(*names) or not result.done(), result.result()
            if min(map(len, done)) >= KILLS:
                place.enough.touch()
            return place.ended(*names)

        async def kill_manager() -> None:
            # on a slow computer one that is killed every second never has a connection that could be cut
            await until(_so(lambda: over() or not cutting), "the cut that a manager is spared for")
            await asyncio.to_thread(manager.kill)
            await manager.start_async()

        async def kill_host() -> None:
            await stack.kill(stack.last_host)
            await stack.host(PROGRAM)

        async def cut() -> None:
            nonlocal cutting
            assert place.server is not None
            cutting = True
            await until(_so(lambda: over() or place.server.logins()), "a connection")
            cutting = False
            await asyncio.to_thread(place.server.cut)

        harm = [kill_manager, kill_host, *([cut] if place.server else [])]
        done += [[] for _ in harm]
        async with asyncio.TaskGroup() as group:
            for kind, (one, times) in enumerate(zip(harm, done, strict=True)):
                group.create_task(again_and_again(kind, one, over, times))
        found = await result
        ((code, out, err, duration),) = found["done"]
        kept, streamed = place.lines("kept"), place.lines("streamed")
        assert (code, out.split("\n"), err.split("\n")) == (23, [*kept, ""], [*(f"e{n}" for n in kept), ""])
        assert duration >= SECONDS
        assert found["streamed"] == [[23, {"stdout": streamed, "stderr": [f"e{n}" for n in streamed]}]]
        assert [place.runs(name) for name in names] == ["ran\n", "ran\n"]
        await machines_gone(stack, managers, 1)
        if place.server is not None:
            assert list(place.marks.glob(".regrow/machines/m_*")) == []


async def test_everything_is_killed_amid_many_machines(stack: Stack, managers: Managers, tmp_path: Path) -> None:
    """The server, host, supervisor and managers at once, restarted on the same store: every process gets the result of
    its command, which ran once, whether it ended while all was down or goes on after it; no machine is left."""
    with local_place(tmp_path / "marks") as place:
        supervisor = await stack.supervise()
        await stack.host(PROGRAM)
        first = await managers.start("local")
        every = [first, await managers.start("local", beside=first), await managers.start("local")]
        for turn in range(ROUNDS):
            meanwhile, later = tmp_path / f"meanwhile-{turn}", tmp_path / f"later-{turn}"
            names = [f"{turn}-{i}" for i in range(PROCESSES)]
            gates = [meanwhile if i % 2 else later for i in range(PROCESSES)]
            processes = [
                await stack.start("commander", ssh=None, commands=[place.gated(name, gate, i)], streamed=[])
                for i, (name, gate) in enumerate(zip(names, gates, strict=True))
            ]
            await until(_so(lambda names=names: all(map(place.runs, names))), "the commands to run")
            assert len(managers.folders()) == PROCESSES

            for manager in every:
                manager.kill()
            await asyncio.gather(
                stack.kill(stack.last_host), stack.end(supervisor), asyncio.to_thread(stack.server.kill)
            )
            meanwhile.touch()
            await until(_so(lambda names=names: place.ended(*names[1::2])), "commands to end while all is down")
            await asyncio.to_thread(stack.server.restart)
            supervisor = await stack.supervise()
            await asyncio.gather(stack.host(PROGRAM), *(manager.start_async() for manager in every))
            later.touch()
            results = await asyncio.gather(*(result_of(stack, process, 60) for process in processes))
            assert [_brief(result["done"]) for result in results] == [
                [(i, f"begin\n{name}\n")] for i, name in enumerate(names)
            ]
            assert [place.runs(name) for name in names] == ["ran\n"] * PROCESSES
            await machines_gone(stack, managers, PROCESSES * (turn + 1))
        assert {manager.process.poll() for manager in every if manager.process} == {None}


def _brief(done: Sequence[tuple[int, str, str, float]]) -> list[tuple[int, str]]:
    """Exit codes and standard outputs."""
    return [(code, out) for code, out, *_ in done]


def _so(condition: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    """A plain condition, for `until`."""

    async def look() -> object:
        return condition()

    return look
