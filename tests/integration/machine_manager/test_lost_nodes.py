"""Nodes that never come back: nobody waits for them for ever, and nothing of theirs stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from machinekit import Fleet, Refused, eventually, working
from regrow_protocol.machines import Exec, ExecDone, MachineFork, MachineRef, Nothing
from ssh_server import SSHServer, make_login

LEASE = ("--node-lease", "1")
LONGER = ("--node-lease", "5")
"""In which somebody else stops a machine before it ends on paper."""


async def test_a_node_that_never_comes_back(fleet: Fleet) -> None:
    """What waits for it, and what is sent later, is answered; its machines end, those of other nodes do not. When it
    comes back after all, it removes what it has left of them."""
    caller, owner = await fleet.caller(process=True), await fleet.caller(process=True)
    program = await fleet.start("n1")
    ref, stopped, ended = await caller.create(), await caller.create(), await owner.create()
    running = await caller.send(caller.command("exec", Exec("touch begun; sleep 600")), ref)
    await eventually(lambda: working(ref) == 1, "it runs")
    await program.kill()
    fork = await caller.send(caller.command("fork", MachineFork(2)), ref)
    stop = await caller.send(caller.command("stop", Nothing()), stopped)
    await fleet.announce(owner, "done")

    async def stopping() -> bool:
        return (await fleet.record(ended.id)).state == "stopping"

    async with fleet.inside("n2"):
        await eventually(stopping, "it is to be stopped, long before the node counts as lost")

    async def unclaimed() -> bool:
        return (await fleet.node("n1")).claimed == {}

    async with fleet.inside("n2", *LEASE):
        other = await caller.create()
        for command in (running, fork):
            with pytest.raises(Refused, match=f"machine-lost: .*{ref.id} is gone: its node n1"):
                await caller.answer(command, ExecDone)
        await caller.answer(stop, None)
        with pytest.raises(Refused, match=r"machine-lost: .*its node n1"):
            await caller.exec(ref, "true")
        with pytest.raises(Refused, match="machine-lost"):
            await caller.exec(MachineRef("m_x", caller.app, "a.node/that never was", "local"), "true")
        for each, state, reason in (
            (ref, "failed", "node lost"),
            (stopped, "failed", "node lost"),
            (ended, "stopped", "owner done, node lost"),
        ):
            record = await eventually(lambda each=each: fleet.ended(each), "its machine has ended")
            assert (record.state, record.reason) == (state, reason)
        await eventually(unclaimed, "their room is free")
        assert [record.id for record in await fleet.live()] == [other.id]
        assert list(fleet.folder.glob(f"n1/*/local/machines/{ref.id}"))
        assert working(ref) == 1

        async with fleet.inside("n1", "--grace", "1"):
            await eventually(lambda: not list(fleet.folder.glob("n1/*/local/machines/m_*")), "its rest is removed")
            assert working(ref) == 0
            assert (await caller.exec(other, "echo fine")).stdout == b"fine\n"
            again = caller.command("exec", Exec("true"))
            await caller.send(again, ref)
            with pytest.raises(Refused, match="machine-lost"):
                await caller.answer(again, ExecDone)
    assert await fleet.letters() == []


@pytest.fixture(scope="module")
def server() -> Iterator[SSHServer]:
    with make_login() as login, SSHServer(login) as made:
        yield made


async def test_machines_that_others_reach_go_on(fleet: Fleet, server: SSHServer) -> None:
    """A machine on an SSH host outlives its node: another manager attaches to its command, runs more, and stops it."""
    caller = await fleet.caller(process=True)
    program = await fleet.start("n1", "--backends", "ssh")
    ref = await caller.create(server.image())
    command = await caller.send(caller.command("exec", Exec("echo x >> log; sleep 2; cat log; exit 7")), ref)
    await eventually(lambda: working(ref) == 1, "it runs")
    await program.kill()
    async with fleet.inside("n2", "--backends", "ssh", *LONGER), fleet.inside("n3", *LONGER):
        done = await caller.answer(command, ExecDone)
        assert (done.exit_code, done.stdout) == (7, b"x\n")
        assert (await caller.exec(ref, "cat log")).stdout == b"x\n"
        assert (await fleet.record(ref.id)).state == "ready"
        folder = server.login.home / ".regrow" / "machines" / ref.id
        assert folder.exists()
        await caller.stop(ref)
        assert not folder.exists()
        record = await fleet.record(ref.id)
        assert (record.state, record.reason) == ("stopped", "asked")
