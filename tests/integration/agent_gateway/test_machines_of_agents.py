"""What a gateway does on agents' machines: files between them, and messages into spools."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from agentkit import Socket
from gatewaykit import Caller
from regrow.testing.managers import Manager
from regrow_protocol import machines
from regrow_protocol.agents import Connect, Enrolled, Send
from regrow_protocol.images import LocalImage, encode_image
from regrow_protocol.machines import Create, Exec, MachineRef, Nothing, Read, Write

pytestmark = pytest.mark.usefixtures("gateway")


@pytest.fixture(scope="module")
def manager(nats_url: str) -> Iterator[Manager]:
    """Makes local machines."""
    made = Manager(nats_url)
    try:
        made.start()
        yield made
    finally:
        made.close()


class Hands:
    """Does things on machines, as their owner would."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    async def __call__(self, ref: MachineRef, name: str, args: Any) -> Any:
        subject = machines.machine_subject(ref.app, ref.node, ref.id)
        return await self.caller.ask_on(subject, name, args, machines.ANSWERS[name])

    async def make(self) -> MachineRef:
        create = Create(encode_image(LocalImage()))
        return await self.caller.ask_on(machines.create_subject(self.caller.app), "create", create, MachineRef)


@pytest_asyncio.fixture
async def hands(caller: Caller, manager: Manager) -> AsyncIterator[Hands]:
    """Machines of the test's app; they are stopped at its end."""
    made = Hands(caller)
    yield made
    for record in [each async for each in caller.bus.kv("regrow_machines").items("machine.*")]:
        if caller.app in record.value.decode():
            ref = MachineRef(record.key.partition(".")[2], caller.app, manager.node, "local")
            await made(ref, "stop", Nothing())


async def on(caller: Caller, hands: Hands, name: str, harness: str = "command") -> tuple[Enrolled, MachineRef]:
    """An agent on a machine of its own; nobody starts it."""
    machine = await hands.make()
    options = {"command": "true"} if harness == "command" else {}
    return await caller.enrol(name, machine=machine, harness=harness, options=options), machine


async def test_agents_that_are_connected_copy_files_and_folders(caller: Caller, hands: Hands) -> None:
    """From one machine to the other, whichever asks; the receiver of a file is told; a repeated call does it once."""
    (a, on_a), (b, on_b) = await on(caller, hands, "ann"), await on(caller, hands, "bob")
    bare = await caller.enrol("eve")
    await caller.ask("connect", Connect(b.id), a.id)
    await caller.ask("connect", Connect(bare.id), a.id)
    await hands(on_a, "write", Write("out/report.md", b"# All is well"))
    await hands(on_a, "write", Write("out/data/1", b"one"))
    async with Socket(a) as it, Socket(b) as other:
        for _ in range(2):
            sent = await it.call("s", "send_file", to="bob", path="out/report.md")
            assert sent["value"] == "received/ann/report.md"
        assert "received/ann/report.md" in (await other.next("message"))["text"]
        assert (await other.call("d", "download_file", **{"from": "ann", "path": "out"}))["value"] == "received/ann/out"
        assert not [frame for frame in other.frames if frame["type"] == "message"]
        for to, path, why in (("eve", "out", "no machine"), ("bob", "nothing", "could not"), ("bob", "..", "no path")):
            failed = await it.call(f"{to}{path}", "send_file", to=to, path=path)
            assert why in failed["error"]["message"]
    assert await hands(on_b, "read", Read("received/ann/report.md")) == b"# All is well"
    assert await hands(on_b, "read", Read("received/ann/out/data/1")) == b"one"
    async with Socket(bare) as it:
        assert [each["name"] for each in (await it.next("hello"))["tools"]] == ["message"]


async def test_messages_to_a_harness_without_a_door_are_files_in_its_spool(caller: Caller, hands: Hands) -> None:
    """Each once, named by its sequence, as it is to be shown; written in order, whichever command came first."""
    agent, machine = await on(caller, hands, "ann", harness="claude-code")
    sent = [await caller.send(caller.command("send", Send(f"say {n}")), agent.id) for n in range(6)]
    seqs = sorted([await caller.answer(each) for each in sent])
    last = await caller.ask("send", Send("and so on", sender="bob"), agent.id)
    folder = f".regrow/agents/{agent.id}/spool"
    look = Exec(f"until [ -s {folder}/{last:020d} ]; do sleep 0.05; done; ls {folder}")
    listed = (await hands(machine, "exec", look)).stdout.decode().split()
    assert listed == [f"{seq:020d}" for seq in [*seqs, last]]
    shown = await hands(machine, "read", Read(f"{folder}/{last:020d}"))
    assert shown == b"Message from bob:\n\nand so on\n"
