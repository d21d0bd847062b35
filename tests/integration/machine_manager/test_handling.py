"""A machine's life by raw commands, on the local backend: made, used, given, stopped; every command done once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from machinekit import Fleet, Refused, eventually, working
from msgspec import Raw
from msgspec.structs import replace
from regrow_protocol.images import Image, LocalImage, SnapshotImage, encode_image
from regrow_protocol.machines import (
    Create,
    Describe,
    Description,
    Exec,
    ExecDone,
    Expose,
    Give,
    Kill,
    MachineFork,
    MachineRef,
    Nothing,
    Pack,
    Port,
    Read,
    Snapshot,
    Unpack,
    Write,
)
from regrow_protocol.messages import Ref


@pytest.mark.parametrize("process", [False, True], ids=["client", "process"])
async def test_a_machine_is_made_used_and_stopped(fleet: Fleet, process: bool) -> None:
    """Create, exec and stop are answered to clients as replies and to processes as results."""
    caller = await fleet.caller(process=process)
    async with fleet.inside():
        ref = await caller.create(name="box")
        assert (ref.app, ref.node, ref.backend) == (caller.app, "n1", "local")
        done = await caller.exec(ref, "echo out; echo err >&2; exit 3")
        assert (done.exit_code, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
        assert list((await fleet.node()).claimed) == [ref.id]
        await caller.stop(ref)
        assert (await fleet.record(ref.id)).state == "stopped"
        assert (await fleet.node()).claimed == {}
    assert await fleet.letters() == []


async def test_files_go_both_ways(fleet: Fleet) -> None:
    """Small ones in the message, large ones by the object store, folders as archives."""
    caller = await fleet.caller()
    async with fleet.inside():
        ref = await caller.create()
        for data in (b"\x00\xffsmall", bytes(range(256)) * 4096):
            await caller.ask(ref, "write", Write("a/b.bin", data, 0o600))
            assert await caller.ask(ref, "read", Read("a/b.bin"), bytes) == data
        parts = await caller.ask(ref, "pack", Pack("a"), list[str])
        await caller.ask(ref, "unpack", Unpack("c", parts))
        assert await caller.ask(ref, "read", Read("c/b.bin"), bytes) == data
        with pytest.raises(Refused, match="outside-root"):
            await caller.ask(ref, "read", Read("../../etc/passwd"), bytes)
        with pytest.raises(Refused) as error:
            await caller.ask(ref, "read", Read("none"), bytes)
        assert (error.value.failure.error, error.value.failure.retryable) == ("FileNotFoundError", False)


async def test_large_arguments_and_answers_travel_as_values(fleet: Fleet) -> None:
    """A megabyte of input through `stdin`, and out again."""
    caller = await fleet.caller(process=True)
    data = b"0123456789abcdef" * 65536
    async with fleet.inside():
        ref = await caller.create()
        done = await caller.exec(ref, "cat", stdin=data, max_output=2 * len(data))
        assert done.stdout == data


@pytest.mark.timeout(180)
async def test_many_large_answers_at_once_take_little_memory(fleet: Fleet) -> None:
    """As much as fits the budget is fetched at a time; all are answered whole."""
    caller = await fleet.caller()
    program = await fleet.start()
    ref = await caller.create()
    commands = [caller.command("exec", Exec("head -c 15000000 /dev/zero", max_output=15_000_000)) for _ in range(24)]
    for command in commands:
        await caller.send(command, ref)
    for command in commands:
        done = await caller.answer(command, ExecDone, 90)
        assert (done.exit_code, done.left_out) == (0, 0)
        assert done.stdout == bytes(15_000_000)
    await caller.exec(ref, "head -c 30000000 /dev/zero > big")
    reads = [await caller.send(caller.command("read", Read("big")), ref) for _ in range(10)]
    for command in reads:
        assert await caller.answer(command, bytes, 90) == bytes(30_000_000)
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    assert peak < 600 * 1024 * 1024, "without a budget it is more than a GiB"


async def test_output_is_streamed_in_pieces_before_the_answer(fleet: Fleet) -> None:
    """All bytes come as chunks with their offsets, while the command runs; the answer holds none."""
    caller = await fleet.caller()
    async with fleet.inside():
        ref = await caller.create()
        command = caller.command("exec", Exec("echo one; read x < fifo; echo $x", stream=True))
        await caller.exec(ref, "mkfifo fifo")
        await caller.send(command, ref)
        await eventually(lambda: command.id in caller.chunks, "the first line while it runs")
        assert command.id not in caller.answers
        await caller.exec(ref, "echo two > fifo")
        done = await caller.answer(command, ExecDone)
        assert (done.exit_code, done.stdout) == (0, b"")
        text = b""
        for chunk in caller.chunks[command.id]:
            assert chunk.channel == "stdout"
            assert chunk.offset <= len(text)
            text = text[: chunk.offset] + chunk.data
        assert text == b"one\ntwo\n"


async def test_every_command_is_done_once_however_often_it_comes(fleet: Fleet) -> None:
    """A repeat, with another message id, gets the same answer and changes nothing."""
    caller = await fleet.caller(process=True)
    async with fleet.inside():
        create = caller.command("create", Create(encode_image(LocalImage())))
        await asyncio.gather(*[caller.send(create, msg_id=f"{create.id}.{n}") for n in range(5)])
        ref = await caller.answer(create, MachineRef)
        await eventually(fleet.idle, "all repeats handled")
        assert len(await fleet.records()) == 1
        exec_ = caller.command("exec", Exec("echo x >> log; wc -l < log"))
        write = caller.command("write", Write("file", b"first"))
        for command in (exec_, write):
            await caller.send(command, ref)
            await caller.answer(command, object)
        await caller.ask(ref, "write", Write("file", b"second"))
        for command in (exec_, write, create):
            await caller.send(command, None if command is create else ref, msg_id=f"{command.id}.again")
        await eventually(fleet.idle, "all repeats handled")
        assert await caller.ask(ref, "read", Read("file"), bytes) == b"second"
        assert (await caller.exec(ref, "cat log")).stdout == b"x\n"
        stop = caller.command("stop", Nothing())
        await caller.send(stop, ref)
        await caller.answer(stop, None)
        for command in (stop, create):
            await caller.send(command, None if command is create else ref, msg_id=f"{command.id}.late")
        await eventually(fleet.idle, "all repeats handled")
        assert len(await fleet.records()) == 1
        for answers in caller.answers.values():
            assert len({repr(answer) for answer in answers[:1]}) == 1


async def test_a_machine_of_another_app_is_out_of_reach(fleet: Fleet) -> None:
    """Its commands are put aside, and answered as those to a machine that is not there; the machine goes on."""
    owner, stranger = await fleet.caller(), await fleet.caller()
    async with fleet.inside():
        ref = await owner.create()
        theirs = replace(ref, app=stranger.app)
        for name, args in (("exec", Exec("touch mark")), ("stop", Nothing()), ("describe", Describe())):
            with pytest.raises(Refused, match=r"machine-lost: The machine m_[a-z0-9]* is unknown"):
                await stranger.ask(theirs, name, args)
        await fleet.buried(3)
        assert (await owner.exec(ref, "ls")).stdout == b""


async def test_poison_is_put_aside_and_the_next_is_handled(fleet: Fleet) -> None:
    """Undecodable, of another app, without an id, or to be answered where the app may not write: dead letters."""
    caller, other = await fleet.caller(process=True), await fleet.caller(process=True)
    async with fleet.inside():
        ref = await caller.create()
        good = caller.command("exec", Exec("true"))
        poison = [
            replace(good, id="../x"),
            replace(good, id="1.1.2", app=other.app),
            replace(good, id="1.1.3", reply=f"regrow.inbox.{other.app}.3.{other.pid}"),
            replace(good, id="1.1.4", reply=f"regrow.inbox.{caller.app}.3.{other.pid}"),
            replace(good, id="1.1.5", reply="regrow.command.machine.x.create"),
            replace(good, id="1.1.6", reply="regrow.reply.*"),
            replace(good, id="1.1.7", name="reboot"),
            replace(good, id="1.1.8", name="create"),
            replace(good, id="1.1.9", reply="", by=Ref("a b *", 0, 1)),
        ]
        for number, command in enumerate(poison):
            await caller.send(command, ref, msg_id=f"poison{number}")
        subject = f"regrow.command.machine.{caller.app}.node.n1.{ref.id}"
        for number, body in enumerate((b"\xff{not json", b"", b'{"id":1}')):
            await fleet.bus.publish("REGROW_COMMANDS", subject, body, f"junk{number}")
        assert (await caller.exec(ref, "echo fine")).stdout == b"fine\n"
        reasons = sorted(letter.letter.reason for letter in await fleet.buried(12))
        assert len(reasons) == 12
        assert other.answers == {}
        await eventually(fleet.idle, "the last acknowledgements")


async def test_what_cannot_be_done_is_answered_so(fleet: Fleet) -> None:
    """Stopped and unknown machines, bad images, bad arguments, unknown snapshots: errors with their codes."""
    caller = await fleet.caller(process=True)
    async with fleet.inside():
        ref = await caller.create()
        await caller.stop(ref)
        await caller.stop(ref)
        for gone in (ref, replace(ref, id="m_unknown")):
            with pytest.raises(Refused, match="machine-lost"):
                await caller.exec(gone, "true")
        wrong = Image("local", Raw(b'{"user":5}'))
        for image, code in (
            (encode_image(SnapshotImage("s_none")), "no-such-snapshot"),
            (wrong, "invalid-image"),
            (Image("loacl"), "unknown-backend"),
        ):
            with pytest.raises(Refused, match=code):
                await caller.answer(await caller.send(caller.command("create", Create(image))), MachineRef)
        missing = replace(caller.command("create", Nothing()), args=Raw(b'{"$blob":"00ff","size":5}'))
        with pytest.raises(Refused, match="value-missing"):
            await caller.answer(await caller.send(missing), MachineRef)
        ref = await caller.create()
        with pytest.raises(Refused, match="machine-failed"):
            await caller.ask(ref, "give", Give("a b *"))
        with pytest.raises(Refused, match="invalid-arguments"):
            await caller.ask(ref, "exec", Nothing())
        with pytest.raises(Refused, match="command-refused"):
            await caller.exec(ref, "true", env={"no name": "x"})


async def test_a_port_is_exposed(fleet: Fleet) -> None:
    """Of a local machine: where it is."""
    caller = await fleet.caller()
    async with fleet.inside():
        assert (await caller.ask(await caller.create(), "expose", Expose(8080), Port)).port == 8080


async def test_a_description_says_what_is_known(fleet: Fleet) -> None:
    """Of a machine that runs, and of one that is stopped."""
    caller = await fleet.caller(process=True)
    async with fleet.inside():
        ref = await caller.create(name="box")
        known = await caller.ask(ref, "describe", Describe(), Description)
        assert (known.id, known.state, known.owner, known.name) == (ref.id, "ready", caller.pid, "box")
        assert Path(known.workdir).is_dir()
        assert known.shell
        await caller.stop(ref)
        assert (await caller.ask(ref, "describe", Describe(), Description)).state == "stopped"
        assert not Path(known.workdir).exists()


async def test_a_running_command_is_killed_and_a_machine_is_stopped_at_full_load(fleet: Fleet) -> None:
    """When every hand is busy with a long command, and more wait, `kill` and `stop` get through."""
    caller = await fleet.caller()
    async with fleet.inside("n1", "--concurrency", "2"):
        ref = await caller.create()
        long = [caller.command("exec", Exec("sleep 300")) for _ in range(6)]
        for command in long:
            await caller.send(command, ref)
        await eventually(lambda: working(ref) == 2, "two commands run")
        for command in long:
            if command.id not in caller.answers:
                await caller.send(caller.command("kill", Kill(command.id)), ref)
        for command in long:
            assert (await caller.answer(command, ExecDone)).killed
        for command in [caller.command("exec", Exec("sleep 300")) for _ in range(4)]:
            await caller.send(command, ref)
            long.append(command)
        await eventually(lambda: working(ref) == 2, "two commands run")
        await caller.stop(ref)
        for command in long[6:]:
            with pytest.raises(Refused, match="machine-lost"):
                await caller.answer(command, ExecDone)
        await eventually(lambda: working(ref) == 0, "nothing runs")


async def test_a_snapshot_is_kept_restored_and_dropped(fleet: Fleet) -> None:
    """A new machine from it has the files of then; a dropped one makes none."""
    caller, stranger = await fleet.caller(), await fleet.caller()
    async with fleet.inside():
        ref = await caller.create()
        known = await caller.ask(ref, "describe", Describe(), Description)
        if "snapshot" not in known.can:
            pytest.skip("the local backend has no snapshots")
        await caller.ask(ref, "write", Write("f", b"then"))
        snapshot = await caller.ask(ref, "snapshot", Snapshot("s"), str)
        await caller.ask(ref, "write", Write("f", b"now"))
        again = await caller.create(SnapshotImage(snapshot))
        assert await caller.ask(again, "read", Read("f"), bytes) == b"then"
        with pytest.raises(Refused, match="no-such-snapshot"):
            await stranger.create(SnapshotImage(snapshot))
        await caller.ask(replace(ref, id=snapshot), "drop", Nothing())
        with pytest.raises(Refused, match="no-such-snapshot"):
            await caller.create(SnapshotImage(snapshot))


async def test_forks_have_the_state_of_their_source(fleet: Fleet) -> None:
    """As many as asked for, each of its own."""
    caller = await fleet.caller()
    async with fleet.inside("n1", "--max-machines", "4"):
        ref = await caller.create()
        known = await caller.ask(ref, "describe", Describe(), Description)
        if "fork" not in known.can:
            pytest.skip("the local backend has no forks")
        await caller.ask(ref, "write", Write("f", b"x"))
        command = caller.command("fork", MachineFork(3))
        forks = await caller.answer(await caller.send(command, ref), list[MachineRef])
        for each in forks:
            await caller.exec(each, f"echo {each.id} > f")
        assert [(await caller.exec(each, "cat f")).stdout.decode().strip() for each in forks] == [r.id for r in forks]
        assert await caller.ask(ref, "read", Read("f"), bytes) == b"x"
        with pytest.raises(Refused, match="no-capacity"):
            await caller.ask(ref, "fork", MachineFork(1))
        await caller.send(command, ref, msg_id="again")
        await eventually(fleet.idle, "the repeat handled")
        assert len(await fleet.live()) == 4


async def test_a_machine_that_was_given_lives_with_its_new_owner(fleet: Fleet) -> None:
    """The end of the giver leaves it alone; the end of the other stops it."""
    giver = await fleet.caller(process=True)
    taker = await fleet.caller(giver.app, process=True)
    async with fleet.inside():
        ref, other = await giver.create(), await giver.create()
        await giver.ask(ref, "give", Give(taker.pid))
        await fleet.announce(giver, "done")
        await eventually(lambda: fleet.ended(other), "the other one is stopped")
        assert (await taker.exec(ref, "echo here")).stdout == b"here\n"
        await fleet.announce(taker, "failed")
        record = await eventually(lambda: fleet.ended(ref), "it is stopped")
        assert record.reason == "owner failed"
