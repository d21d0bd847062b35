"""What a machine-manager's tests need: managers as programs and in this process, and commands as raw messages."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct
from regrow_machine_manager.main import serve
from regrow_machine_manager.records import BUCKET, ENDED
from regrow_machine_manager.settings import ManagerSettings, parse
from regrow_protocol import machines, messages, streams, subjects
from regrow_protocol.bus import Bus, Received
from regrow_protocol.ids import CLIENT, PROCESS, new_id
from regrow_protocol.images import AnyImage, LocalImage, encode_image
from regrow_protocol.machines import (
    Create,
    Exec,
    ExecDone,
    MachineRecord,
    MachineRef,
    NodeRecord,
    Nothing,
    create_subject,
    machine_subject,
)
from regrow_protocol.messages import Chunk, Command, EventRecord, Failure, Op, ProcessRecord, Ref, Result
from regrow_protocol.streams import COMMANDS, EVENTS, REPLIES
from regrow_protocol.values import deflate
from regrow_service import dead

PATIENCE = 45.0


class Refused(Exception):
    """A command was answered with an error."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.code}: {failure.message}")
        self.failure = failure
        self.code = failure.code


async def eventually(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """The first true value of `condition()`, which may be a coroutine function; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        await asyncio.sleep(0.01)


class Caller:
    """Sends commands as a client, or as a process, and collects every answer.

    Attributes:
        answers: by command id, all that came: `Reply`s or `Result`s.
        chunks: by command id.
    """

    def __init__(self, bus: Bus, app: str, pid: str = "") -> None:
        self.bus, self.app, self.pid = bus, app, pid
        self.id = pid or new_id(CLIENT)
        self.incarnation = 0
        self.answers: dict[str, list[Any]] = {}
        self.chunks: dict[str, list[Chunk]] = {}
        self._n = 0
        self._arrived = asyncio.Event()

    async def open(self, stack: AsyncExitStack) -> Caller:
        if self.pid:
            stream = await streams.ensure_app(self.bus, self.app)
            reader = self.bus.read(stream, subjects.inbox(self.app, 3, self.pid), 1, self._inbox)
        else:
            reader = self.bus.read(REPLIES, f"regrow.reply.{self.id}.>", 1, self._replies)
        stack.push_async_callback(reader.stop)
        return self

    def command(self, name: str, args: Struct, id_: str = "") -> Command:
        """A new command; with `id_` one more of that id."""
        if not id_:
            self._n += 1
            id_ = f"{self.id}.{self.incarnation}.{self._n}" if self.pid else f"{self.id}.{self._n}"
        n = int(id_.rpartition(".")[2])
        body = Raw(messages.encode(args))
        if self.pid:
            by, op = Ref(self.pid, self.incarnation, n), Op(n, "command", f"machine.{name}", "0", "0")
            return Command(
                id=id_, app=self.app, name=name, args=body, by=by, op=op, reply=subjects.inbox(self.app, 3, self.pid)
            )
        return Command(id=id_, app=self.app, name=name, args=body, reply=subjects.reply(self.id, n))

    async def send(self, command: Command, ref: MachineRef | None = None, *, msg_id: str = "") -> Command:
        """Publish a command to the managers, or to a machine."""
        subject = machine_subject(ref.app, ref.node, ref.id) if ref else create_subject(self.app)
        small, blobs = deflate(command)
        for blob in blobs:
            await self.bus.put_value(blob)
        await self.bus.publish(COMMANDS, subject, messages.encode(small), msg_id or command.id)
        return command

    async def answer(self, command: Command, type_: Any, timeout: float = PATIENCE) -> Any:
        """The answer to a command. Raises Refused for an error."""
        async with asyncio.timeout(timeout):
            while command.id not in self.answers:
                self._arrived.clear()
                await self._arrived.wait()
        first = self.answers[command.id][0]
        if first.error is not None:
            raise Refused(first.error)
        value = first.value
        if bytes(value).startswith(b'{"$blob"'):
            value = await self.bus.get_value(msgspec.json.decode(value)["$blob"])
        return messages.decode(value, type_)

    async def ask(self, ref: MachineRef, name: str, args: Struct, type_: Any = None, timeout: float = PATIENCE) -> Any:
        """Send a command to a machine, and its answer."""
        return await self.answer(await self.send(self.command(name, args), ref), type_, timeout)

    async def create(self, image: AnyImage | None = None, **options: Any) -> MachineRef:
        """A new machine; a local one by default."""
        create = Create(image=encode_image(image or LocalImage()), **options)
        return await self.answer(await self.send(self.command("create", create)), MachineRef)

    async def exec(self, ref: MachineRef, command: str, **options: Any) -> ExecDone:
        """Run a command on a machine."""
        return await self.ask(ref, "exec", Exec(command, **options), ExecDone)

    async def stop(self, ref: MachineRef) -> None:
        """Stop a machine."""
        await self.ask(ref, "stop", Nothing())

    def _replies(self, batch: list[Received]) -> None:
        for message in batch:
            id_ = f"{self.id}.{message.subject.rpartition('.')[2]}"
            if b'"kind":"chunk"' in message.data:
                self.chunks.setdefault(id_, []).append(messages.decode(message.data, Chunk))
            else:
                self.answers.setdefault(id_, []).append(messages.decode(message.data, messages.Reply))
        self._arrived.set()

    def _inbox(self, batch: list[Received]) -> None:
        for message in batch:
            body = messages.decode_input(message.data)
            if isinstance(body, Chunk | Result):
                id_ = f"{self.id}.{body.incarnation}.{body.op.n}"
                assert body.op.name.startswith("machine.")
                if isinstance(body, Chunk):
                    self.chunks.setdefault(id_, []).append(body)
                else:
                    self.answers.setdefault(id_, []).append(body)
        self._arrived.set()


def working(ref: MachineRef | str, program: str = "sleep") -> int:
    """How many processes of a program work in the folder of a machine, or in one whose path has that text."""
    text = ref if isinstance(ref, str) else ref.id
    found = 0
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if text in str(link.readlink()) and (link.parent / "comm").read_text() == f"{program}\n":
                found += 1
        except OSError:
            continue  # it ended meanwhile
    return found


class Program:
    """A manager as a program of its own, which may be killed."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    async def kill(self) -> None:
        """`kill -9`."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def terminate(self) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), PATIENCE)


class Fleet:
    """Managers on a server of the test's own.

    Attributes:
        bus: connected to it.
        folder: of the machines, one per node in it.
    """

    def __init__(self, bus: Bus, url: str, folder: Path, stack: AsyncExitStack) -> None:
        self.bus, self.url, self.folder, self.stack = bus, url, folder, stack
        self._programs = 0

    def settings(self, node: str = "n1", *options: str) -> ManagerSettings:
        """Of a manager of `node`."""
        environ = {name: value for name, value in os.environ.items() if name.startswith("REGROW_MACHINE")}
        return parse(self.argv(node, *options), environ)

    def argv(self, node: str, *options: str) -> list[str]:
        """Options of a manager of `node`."""
        folder = str(self.folder / node)
        return ["--nats", self.url, "--node", node, "--folder", folder, "--min-free-disk", "0", *options]

    @asynccontextmanager
    async def inside(self, node: str = "n1", *options: str) -> AsyncIterator[None]:
        """A manager in this process, stopped gracefully at the end."""
        stopping = asyncio.Event()
        task = asyncio.create_task(serve(self.settings(node, "--backends", "local", *options), stopping))
        await eventually(lambda: task.done() or self.lives(node), f"a manager of {node}")
        try:
            yield
        finally:
            stopping.set()
            await asyncio.wait_for(task, PATIENCE)

    async def start(self, node: str = "n1", *options: str, before: str = "") -> Program:
        """A manager as a program, which runs the Python in `before` first; killed at the end of the test."""
        self._programs += 1
        log = self.folder / f"manager-{self._programs}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("REGROW_")}
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                f"{before}\nimport sys\nfrom regrow_machine_manager.main import main\nsys.exit(main())",
                *self.argv(node, "--backends", "local", *options),
                stdout=out,
                stderr=out,
                env={**environ, "REGROW_LOG_FORMAT": "json"},
            )
        program = Program(process, log)
        self.stack.push_async_callback(program.kill)
        return program

    async def caller(self, app: str = "", *, process: bool = False) -> Caller:
        """Who sends commands for an app."""
        pid = new_id(PROCESS) if process else ""
        return await Caller(self.bus, app or new_id("app"), pid).open(self.stack)

    # what stands in the bucket ----------------------------------------------------------------------------------------

    async def lives(self, node: str, managers: int = 1) -> bool:
        """Whether so many managers of the node say so."""
        alive = [entry.value and b'"%b"' % node.encode() in entry.value async for entry in self._items("manager.*")]
        return sum(map(bool, alive)) >= managers

    async def node(self, node: str = "n1") -> NodeRecord:
        """A node's record."""
        found = await self.bus.kv(BUCKET).get(f"node.{node}")
        return messages.decode(found[0], NodeRecord) if found else NodeRecord(node=node)

    async def record(self, id_: str) -> MachineRecord:
        """A machine's record."""
        found = await self.bus.kv(BUCKET).get(f"machine.{id_}")
        assert found is not None, f"no record of {id_}"
        return messages.decode(found[0], MachineRecord)

    async def records(self) -> list[MachineRecord]:
        """The records of all machines, of those that have ended too."""
        return [messages.decode(entry.value, MachineRecord) async for entry in self._items("machine.*")]

    async def live(self) -> list[MachineRecord]:
        """The records of those that have not ended."""
        return [record for record in await self.records() if record.state not in ENDED]

    async def ended(self, ref: MachineRef) -> MachineRecord | None:
        """The record of a machine, once it has ended."""
        record = await self.record(ref.id)
        return record if record.state in ENDED else None

    async def letters(self) -> list[dead.Letter]:
        """The managers' dead letters."""
        return [letter async for letter in dead.letters(self.bus, machines.SERVICE)]

    async def pending(self) -> int:
        """Commands that are not done."""
        found = await self.bus.request(f"$JS.API.STREAM.INFO.{COMMANDS}")
        return msgspec.json.decode(found)["state"]["messages"]

    async def idle(self) -> bool:
        """Whether every command is done."""
        return await self.pending() == 0

    async def buried(self, count: int) -> list[dead.Letter]:
        """The dead letters, once there are `count`."""

        async def enough() -> list[dead.Letter]:
            found = await self.letters()
            return found if len(found) >= count else []

        return await eventually(enough, f"{count} dead letters")

    def _items(self, key_filter: str) -> Any:
        return self.bus.kv(BUCKET).items(key_filter)

    # owners -----------------------------------------------------------------------------------------------------------

    async def process(self, caller: Caller, status: str = "running", incarnation: int = 0) -> None:
        """Write what the list of processes says of a caller that is a process."""
        record = ProcessRecord(
            pid=caller.pid, app=caller.app, type="t", build="b", status=status, seq=1, incarnation=incarnation
        )
        await self.bus.kv("regrow_processes").put(caller.pid, messages.encode(record))

    async def announce(self, caller: Caller, type_: str, incarnation: int = 0) -> None:
        """Publish an event of a caller that is a process."""
        event = EventRecord(
            pid=caller.pid,
            incarnation=incarnation,
            n=1000 + incarnation,
            seq=1000 + incarnation,
            type=type_,
            time=time.time(),
            final=type_ in ("done", "failed", "cancelled"),
        )
        subject = subjects.event(caller.app, caller.pid, type_)
        await self.bus.publish(EVENTS, subject, messages.encode(event), self.bus.fresh_id())
