"""Machines as the fold sees them: commands under their operations' ids, answers, pieces of answers, and keepsakes."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from fold_world import World
from msgspec import Raw, Struct
from regrow import ExecutionFailed, agent_process, spawn
from regrow.machines import (
    ExecTimeout,
    LocalImage,
    Machine,
    MachineLost,
    NoCapacity,
    from_snapshot,
    machine,
)
from regrow_protocol import machines as wire
from regrow_protocol import messages as m
from regrow_protocol.messages import Failure

BOX = wire.MachineRef("m_1", "app", "node-1", "local")


@pytest.fixture
def world() -> World:
    return World(__name__)


def asked(world: World, name: str) -> list[tuple[str, m.Command, Any]]:
    """Commands of a name so far, with their arguments."""
    return [
        (subject, command, msgspec.json.decode(command.args, type=wire.ARGUMENTS[name]))
        for subject, command in world.commands
        if command.name == name
    ]


def serve(world: World, command: m.Command, answer: Any = None, failure: Failure | None = None) -> None:
    """Answer a command, as its service does."""
    assert command.by is not None
    assert command.op is not None
    value = m.UNSET if failure is not None else Raw(m.encode(answer))
    world.send(command.by.pid, m.Result(incarnation=command.by.incarnation, op=command.op, value=value, error=failure))
    world.settle(timers=False)


def piece(world: World, command: m.Command, channel: str, offset: int, data: bytes) -> None:
    assert command.by is not None
    assert command.op is not None
    chunk = m.Chunk(incarnation=command.by.incarnation, op=command.op, channel=channel, offset=offset, data=data)
    world.send(command.by.pid, chunk)
    world.settle(timers=False)


def begin(world: World, type_: Any, *args: Any) -> str:
    """Start a process whose first operation is a machine, and give it one."""
    pid = world.start(type_, *args)
    world.settle(timers=False)
    ((_, create, _),) = asked(world, "create")
    serve(world, create, BOX)
    return pid


@agent_process
async def builder(command: str = "make") -> dict[str, Any]:
    box = await machine(LocalImage(env={"A": "1"}), labels={"gpu": "1"}, wait=5, name="b")
    result = await box.exec(command, timeout=9, env={"B": "2"}, cwd="src", stdin="in")
    await box.write_file("a/b", b"\0\xff", mode=0o600)
    return {"box": box, "code": result.exit_code, "out": result.stdout, "ok": result.ok, "cut": result.truncated}


def test_commands_carry_what_their_service_needs(world: World) -> None:
    """A command has the operation's id, its echo, and the sender's inbox as where the answer goes."""
    pid = begin(world, builder)
    ((subject, create, args),) = asked(world, "create")
    assert subject == "regrow.command.machine.app.create"
    assert create.id == f"{pid}.0.{create.op.n}"
    assert create.reply.endswith(f".{pid}")
    assert (args.labels, args.wait, args.name, args.keep) == ({"gpu": "1"}, 5, "b", False)
    ((subject, exec_, args),) = asked(world, "exec")
    assert subject == "regrow.command.machine.app.node.node-1.m_1"
    assert args == wire.Exec("make", "agent", 9, {"B": "2"}, "src", b"in")
    serve(world, exec_, wire.ExecDone(2, b"out\xff", b"err", left_out=7, duration=0.5))
    ((_, write, args),) = asked(world, "write")
    assert args == wire.Write("a/b", b"\0\xff", 0o600)
    serve(world, write)
    box = {"id": "m_1", "app": "app", "node": "node-1", "backend": "local"}
    assert world.result(pid) == {"box": box, "code": 2, "out": "out\ufffd", "ok": False, "cut": True}
    world.check()


@agent_process
async def unlucky() -> str:
    try:
        await machine(LocalImage())
    except NoCapacity as error:
        return f"{type(error).__name__}: {error.message}"
    return "?"


def test_failures_are_raised_by_their_code(world: World) -> None:
    """What the service refuses is the error of that code in the body."""
    pid = world.start(unlucky)
    world.settle()
    ((_, create, _),) = asked(world, "create")
    serve(world, create, failure=Failure("NoCapacity", "all full", "no-capacity"))
    assert world.result(pid) == "NoCapacity: all full"
    world.check()


@agent_process
async def impatient() -> str:
    box = await machine(LocalImage())
    try:
        async with asyncio.timeout(1):
            await box.exec("sleep 1000")
    except TimeoutError:
        pass
    try:
        await box.exec("sleep 1000", timeout=2)
    except ExecTimeout as error:
        kind = "a timeout" if isinstance(error, TimeoutError) else "?"
        return f"{kind} {error.result.stdout if error.result else ''}"
    return "?"


def test_cancelling_kills_the_command(world: World) -> None:
    """Who is cancelled while it waits for a command has it killed; its own timeout is the manager's to enforce."""
    pid = begin(world, impatient)
    ((_, first, _),) = asked(world, "exec")
    world.settle()
    ((subject, kill, args),) = asked(world, "kill")
    assert (args.exec, kill.reply) == (first.id, "")
    assert subject.endswith(".m_1")
    serve(world, first, wire.ExecDone(143, killed=True))  # too late: nobody waits
    (_, (_, second, args)) = asked(world, "exec")
    assert args.timeout == 2
    serve(world, second, wire.ExecDone(143, b"so far", timed_out=True))
    assert world.result(pid) == "a timeout so far"
    assert len(asked(world, "kill")) == 1
    world.check()


@agent_process
async def reader() -> dict[str, Any]:
    box = await machine(LocalImage())
    stream = box.exec_stream("make")
    lines = [[line.channel, str(line)] async for line in stream]
    result = await stream.result()
    return {"lines": lines, "code": result.exit_code}


def test_pieces_become_lines(world: World) -> None:
    """Pieces may be repeated, and cut anywhere, by a manager that was killed: the lines are whole and there once."""
    pid = begin(world, reader)
    ((_, exec_, args),) = asked(world, "exec")
    assert args.stream
    piece(world, exec_, "stdout", 0, b"one\ntw")
    piece(world, exec_, "stdout", 0, b"one\ntw")
    piece(world, exec_, "stderr", 0, b"warn\n")
    piece(world, exec_, "stdout", 3, b"\ntwo\nthr")
    piece(world, exec_, "stdout", 50, b"never\n")
    piece(world, exec_, "stdout", 11, b"ee")
    serve(world, exec_, wire.ExecDone(0))
    assert world.result(pid) == {
        "lines": [["stdout", "one"], ["stderr", "warn"], ["stdout", "two"], ["stdout", "three"]],
        "code": 0,
    }
    world.check()


@agent_process(snapshot_on_failure=True)
async def fragile() -> None:
    await machine(LocalImage())
    raise RuntimeError("broken")


@agent_process
async def guardian() -> dict[str, Any]:
    try:
        await fragile()
    except ExecutionFailed as error:
        return {"reason": error.reason, "snapshots": error.snapshots}
    return {}


def test_a_failure_tells_its_machines_snapshots(world: World) -> None:
    """A process that fails has its machines snapshotted first; the event and the error tell their ids."""
    pid = begin(world, guardian)
    (child,) = [each for each in world.processes if each != pid]
    assert world.processes[child].status == "running"
    ((subject, snapshot, _),) = asked(world, "snapshot")
    assert subject.endswith(".m_1")
    serve(world, snapshot, "s_9")
    assert world.result(pid) == {"reason": "broken", "snapshots": {"m_1": "s_9"}}
    failed = world.events(child)[-1]
    assert (failed.type, failed.data["snapshots"]) == ("failed", {"m_1": "s_9"})
    world.check()


def test_a_failure_does_not_wait_for_a_snapshot_for_ever(world: World) -> None:
    """Where nobody answers, or the backend has no snapshots, the process fails all the same."""
    pid = begin(world, guardian)
    ((_, snapshot, _),) = asked(world, "snapshot")
    world.settle()
    assert world.result(pid) == {"reason": "broken", "snapshots": {}}
    serve(world, snapshot, "s_9")
    world.check()
    other = World(__name__)
    pid = begin(other, guardian)
    ((_, snapshot, _),) = asked(other, "snapshot")
    serve(other, snapshot, failure=Failure("Unsupported", "no", "unsupported"))
    assert other.result(pid) == {"reason": "broken", "snapshots": {}}
    other.check()


@agent_process
async def cautious() -> None:
    await machine(LocalImage(env={"A": "1"}, snapshot_on_failure=True))
    raise RuntimeError("broken")


def test_an_image_can_wish_for_a_snapshot(world: World) -> None:
    """On an image it is the same as on `machine()`; its backend does not get to see it."""
    pid = begin(world, cautious)
    ((_, _, create),) = asked(world, "create")
    assert create.snapshot_on_failure
    assert msgspec.json.decode(create.image.options).get("snapshot_on_failure", False) is False
    ((_, snapshot, _),) = asked(world, "snapshot")
    serve(world, snapshot, "s_9")
    assert world.events(pid)[-1].data["snapshots"] == {"m_1": "s_9"}


@agent_process(snapshot_on_failure=True)
async def tidy() -> None:
    box = await machine(LocalImage())
    await box.stop()
    raise RuntimeError("broken")


def test_a_stopped_machine_is_not_snapshotted(world: World) -> None:
    """What the process stopped itself leaves nothing."""
    pid = begin(world, tidy)
    ((_, stop, _),) = asked(world, "stop")
    serve(world, stop)
    with pytest.raises(ExecutionFailed, match="broken"):
        world.result(pid)
    assert asked(world, "snapshot") == []


@agent_process
async def heir() -> str:
    return (await machine()).id


@agent_process
async def ancestor() -> str:
    return await spawn(heir, machine=from_snapshot("s_9"))


def test_a_child_continues_on_the_machine_it_is_given(world: World) -> None:
    """`spawn(..., machine=...)` is the image of the child's `machine()`."""
    pid = world.start(ancestor)
    world.settle()
    ((_, create, args),) = asked(world, "create")
    assert args.image.backend == "snapshot"
    assert msgspec.json.decode(args.image.options) == {"id": "s_9"}
    serve(world, create, BOX)
    assert world.result(pid) == "m_1"
    world.check()


@agent_process
async def user(box: Machine) -> str:
    try:
        return (await box.read_file("a")).decode()
    except MachineLost:
        return "lost"
    except FileNotFoundError:
        return "missing"


@agent_process
async def lender() -> str:
    box = await machine(LocalImage())
    handle = spawn(user, box)
    await box.give(handle)
    return await handle


def test_a_machine_can_be_sent(world: World) -> None:
    """A machine is an argument like any other, and works in the process that gets it."""
    pid = begin(world, lender)
    ((_, give, args),) = asked(world, "give")
    (child,) = [each for each in world.processes if each != pid]
    assert args.pid == child
    serve(world, give)
    ((_, read, _),) = asked(world, "read")
    serve(world, read, failure=Failure("FileNotFoundError", "no a", "exception"))
    assert world.result(pid) == "missing"
    world.check()


@agent_process
async def thief() -> str:
    try:
        await Machine("m_1", "another app", "node-1", "local").exec("true")
    except MachineLost as error:
        return error.message
    return "?"


def test_a_machine_of_another_app_is_refused(world: World) -> None:
    """Nobody would answer: it is an error at once."""
    assert "another app" in world.run(thief)
    assert world.commands == []


@agent_process
async def wrong(what: str) -> None:
    box = await machine(LocalImage())
    calls: dict[str, Any] = {
        "empty": lambda: box.exec(""),
        "nul": lambda: box.exec("a\0b"),
        "timeout": lambda: box.exec("a", timeout=0),
        "output": lambda: box.exec("a", max_output=2**40),
        "env": lambda: box.exec("a", env={"A": 1}),  # type: ignore[dict-item]
        "port": lambda: box.expose_port(70000),
        "forks": lambda: box.fork(0),
        "size": lambda: box.write_file("a", b"x" * (wire.MAX_FILE + 1)),
    }
    await calls[what]()


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("empty", "a command must have characters"),
        ("nul", "no NUL"),
        ("timeout", "timeout must be positive"),
        ("output", "max_output must be"),
        ("env", "Expected `str`"),
        ("port", "no TCP port"),
        ("forks", "one machine or more"),
        ("size", "bytes are too many"),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(world: World, what: str, error: str) -> None:
    """What no machine could do is an error where it is asked for; nothing is sent."""
    pid = begin(world, wrong, what)
    with pytest.raises(ExecutionFailed, match=error):
        world.result(pid)
    assert [command.name for _, command in world.commands] == ["create"]


def test_every_command_has_arguments_and_an_answer() -> None:
    """The tables of the wire name the same commands."""
    assert wire.ARGUMENTS.keys() == wire.ANSWERS.keys()
    assert all(issubclass(type_, Struct) for type_ in wire.ARGUMENTS.values())
