"""Managers that are killed at any moment: what they had in hand goes on, once, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import psutil
import pytest
from machinekit import Fleet, Program, Refused, eventually, working
from msgspec.structs import replace
from regrow_machine_manager.records import Records
from regrow_protocol.images import LocalImage, encode_image
from regrow_protocol.machines import Create, Exec, ExecDone, MachineFork, MachineRef, Nothing, Read, Write
from regrow_protocol.server import NatsServer


@pytest.mark.parametrize("replicas", [1, 2])
async def test_a_command_survives_the_kill_of_its_manager(fleet: Fleet, replicas: int) -> None:
    """It runs on, once; another manager, or the same one started again, answers with its exit code and output."""
    caller = await fleet.caller(process=True)
    programs = [await fleet.start() for _ in range(replicas)]
    ref = await caller.create()
    await caller.exec(ref, "mkfifo fifo")
    command = caller.command("exec", Exec("echo begun >> log; cat fifo; exit 7"))
    await caller.send(command, ref)
    await eventually(lambda: working(ref, "cat") == 1, "it runs")
    for program in programs:
        await program.kill()
    assert working(ref, "cat") == 1
    await fleet.start()
    await caller.exec(ref, "echo out > fifo")
    done = await caller.answer(command, ExecDone)
    assert (done.exit_code, done.stdout) == (7, b"out\n")
    assert (await caller.exec(ref, "cat log")).stdout == b"begun\n"
    assert len(caller.answers[command.id]) == 1


async def test_a_stream_goes_on_where_it_was(fleet: Fleet) -> None:
    """What a killed manager has sent is not sent again, but for the last second of it; nothing is missing."""
    caller = await fleet.caller()
    program = await fleet.start()
    ref = await caller.create()
    line = "head -c 100000 /dev/zero"
    script = f"for i in 1 2 3 4 5 6; do {line}; sleep 0.5; done; until [ -e go ]; do sleep 0.1; done; echo end"
    command = await caller.send(caller.command("exec", Exec(script, stream=True, max_output=2_000_000)), ref)

    def taken() -> list[tuple[int, int]]:
        return [(chunk.offset, len(chunk.data)) for chunk in caller.chunks.get(command.id, [])]

    await eventually(lambda: sum(size for _, size in taken()) == 600_000, "all is sent, and some of it noted")
    await program.kill()
    before = len(taken())
    await fleet.start()
    await caller.ask(ref, "write", Write("go", b""))
    await caller.answer(command, ExecDone)
    again = taken()[before:]
    assert min(offset for offset, _ in again) > 0
    covered = 0
    for offset, size in sorted(taken()):
        assert offset <= covered
        covered = max(covered, offset + size)
    assert covered == 600_004


async def test_a_graceful_stop_gives_running_commands_to_the_next(fleet: Fleet) -> None:
    """SIGTERM ends a manager soon, with 0, while a command runs; the other manager answers it."""
    caller = await fleet.caller()
    first = await fleet.start()
    ref = await caller.create()
    await caller.exec(ref, "mkfifo fifo")
    command = caller.command("exec", Exec("cat fifo"))
    await caller.send(command, ref)
    await eventually(lambda: working(ref, "cat") == 1, "it runs")
    second = await fleet.start()
    await eventually(lambda: fleet.lives("n1", managers=2), "the other one is there")
    assert await first.terminate() == 0
    assert working(ref, "cat") == 1
    await caller.exec(ref, "echo out > fifo")
    assert (await caller.answer(command, ExecDone)).stdout == b"out\n"
    assert await second.terminate() == 0


async def test_a_server_that_is_killed_loses_no_command(fleet: Fleet, private_server: NatsServer) -> None:
    """The command runs on; after the server's restart it is answered, and the machine is still there."""
    caller = await fleet.caller()
    async with fleet.inside():
        ref = await caller.create()
        command = caller.command("exec", Exec("echo x >> log; sleep 2; cat log"))
        await caller.send(command, ref)
        await eventually(lambda: working(ref) == 1, "it runs")
        private_server.kill()
        private_server.restart()
        assert (await caller.answer(command, ExecDone)).stdout == b"x\n"
        assert (await caller.exec(ref, "echo fine")).stdout == b"fine\n"


@pytest.mark.timeout(180)
async def test_creations_and_commands_under_random_kills(fleet: Fleet) -> None:
    """Every creation is answered once, with a machine; no machine is orphaned, none doubled, and all are stopped."""
    caller = await fleet.caller(process=True)
    chance = random.Random(3)
    options = ("--max-machines", "40", "--grace", "1")
    running = [await fleet.start("n1", *options), await fleet.start("n1", *options)]
    creates = [caller.command("create", Create(encode_image(LocalImage()), wait=120.0)) for _ in range(30)]

    async def killing(rounds: int) -> None:
        for _ in range(rounds):
            await asyncio.sleep(chance.uniform(0.2, 1.2))
            await running.pop(0).kill()
            running.append(await fleet.start("n1", *options))

    async def one(command: object) -> MachineRef:
        await asyncio.sleep(chance.uniform(0, 4))
        await caller.send(command)  # type: ignore[arg-type]
        ref = await caller.answer(command, MachineRef, 100.0)  # type: ignore[arg-type]
        done = await caller.ask(ref, "exec", Exec("echo x >> log; sleep 0.5; cat log"), ExecDone, 100.0)
        assert done.stdout == b"x\n"
        return ref

    killer = asyncio.create_task(killing(8))
    refs = await asyncio.gather(*[one(command) for command in creates])
    await killer
    assert len({ref.id for ref in refs}) == len(await fleet.live()) == 30
    assert (await fleet.node()).claimed.keys() == {ref.id for ref in refs}
    assert folders(fleet) == {ref.id for ref in refs}
    killer = asyncio.create_task(killing(3))
    stops = [await caller.send(caller.command("stop", Nothing()), ref) for ref in refs]
    await asyncio.gather(*[caller.answer(command, None, 100.0) for command in stops])
    await killer
    assert all(len({repr(each) for each in answers}) == 1 for answers in caller.answers.values())
    await eventually(lambda: folders(fleet) == set(), "no folder is left")

    async def unclaimed() -> bool:
        return (await fleet.node()).claimed == {} and await fleet.live() == []

    await eventually(unclaimed, "no claim is left")
    assert await fleet.letters() == []


@pytest.mark.timeout(180)
async def test_everything_killed_and_started_again(fleet: Fleet, private_server: NatsServer) -> None:
    """Managers and server: no machine is orphaned and none is lost."""
    caller = await fleet.caller()
    program = await fleet.start()
    refs = [await caller.create() for _ in range(3)]
    half = [
        await caller.send(caller.command("create", Create(encode_image(LocalImage()), wait=120.0))) for _ in range(5)
    ]
    await program.kill()
    private_server.kill()
    private_server.restart()
    await fleet.start()
    refs += [await caller.answer(command, MachineRef, 100.0) for command in half]
    for ref in refs:
        assert (await caller.exec(ref, "echo here")).stdout == b"here\n"
    assert folders(fleet) == {ref.id for ref in refs}
    assert {record.id for record in await fleet.live()} == folders(fleet)


def folders(fleet: Fleet) -> set[str]:
    """Ids of the machines whose folders are there."""
    return {path.name for path in fleet.folder.glob("*/*/local/machines/m_*")}


SUSPENDED = """
import os, signal, types
from regrow_machine_manager import files
inflate = files.values.inflate
async def suspended(*arguments):
    files.values = types.SimpleNamespace(inflate=inflate)
    os.kill(os.getpid(), signal.SIGSTOP)
    return await inflate(*arguments)
files.values = types.SimpleNamespace(inflate=suspended)
"""
"""The manager stands still as soon as it has a file to write in hand, once."""


async def test_a_suspended_manager_does_nothing_again(fleet: Fleet) -> None:
    """What another one has done meanwhile, and others after it: an old file is not written over a new one."""
    caller = await fleet.caller()
    silent = await fleet.start(before=SUSPENDED)
    ref = await caller.create()
    old = caller.command("write", Write("file", os.urandom(1_000_000)))
    await caller.send(old, ref)
    await eventually(lambda: stands_still(silent), "it is suspended")
    await fleet.start()
    await caller.answer(old, None)
    await caller.ask(ref, "write", Write("file", b"new"))
    silent.process.send_signal(signal.SIGCONT)
    await silent.terminate()
    assert await caller.ask(ref, "read", Read("file"), bytes) == b"new"


def stands_still(program: Program) -> bool:
    """Whether a manager was stopped by a signal."""
    return psutil.Process(program.process.pid).status() == psutil.STATUS_STOPPED


COPIES_ONCE = """
import os, signal
from regrow_machine_manager.backends import _files
copy = _files.copy
def copy_and_stop(source, target):
    copy(source, target)
    os.kill(os.getpid(), signal.SIGSTOP)
_files.copy = copy_and_stop
"""
"""The manager stands still when it has copied a machine's files for a fork."""


async def test_forks_of_a_fork_that_is_given_up_are_stopped(fleet: Fleet) -> None:
    """Its manager died in the middle, and its machine was stopped: nothing is left, though nobody owns it."""
    caller = await fleet.caller()
    program = await fleet.start(before=COPIES_ONCE)
    ref = await caller.create()
    await caller.exec(ref, "echo x > file")
    command = await caller.send(caller.command("fork", MachineFork(3)), ref)

    async def begun() -> bool:
        return [record.state for record in await fleet.live()].count("creating") == 3

    await eventually(begun, "they are being made")
    await eventually(lambda: stands_still(program), "one of them is copied")
    await program.kill()
    stopping = Records(fleet.bus).change(ref.id, lambda now: replace(now, state="stopping", reason="asked"))
    assert (await stopping)[1]
    await fleet.start()
    with pytest.raises(Refused, match="machine-lost"):
        await caller.answer(command, list[MachineRef])

    async def nothing() -> bool:
        return not await fleet.live() and not (await fleet.node()).claimed

    await eventually(nothing, "they are stopped, and their room is free")
    assert not list(fleet.folder.glob("n1/*/local/machines/m_*"))
