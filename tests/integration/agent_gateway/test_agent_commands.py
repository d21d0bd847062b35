"""Commands to the gateway: each is done once, answered the same, and only for who may give it."""

from __future__ import annotations

import asyncio

import pytest
from gatewaykit import Caller, Refused, tool
from regrow_protocol import agents
from regrow_protocol.agents import Connect, Enrol, Lost, ReadConversation, Relaunch, Send, Tools, conversation
from regrow_protocol.bus import Bus
from regrow_protocol.ids import PROCESS, new_id
from regrow_protocol.machines import MachineRef, Nothing
from regrow_protocol.streams import AGENTS

pytestmark = pytest.mark.usefixtures("gateway")


def machine_of(caller: Caller) -> MachineRef:
    """A machine that nobody made: nothing is done on it."""
    return MachineRef("m_1", caller.app, "nowhere", "local")


async def test_an_enrolment_that_is_repeated_makes_one_agent_and_is_answered_the_same(caller: Caller) -> None:
    """Id, token and launch are functions of the command."""
    args = Enrol(
        name="worker", harness="command", machine=machine_of(caller), workdir="/w", options={"command": "true"}
    )
    command = caller.command("enrol", args)
    first = await caller.answer(await caller.send(command))
    again = caller.command("enrol", args, command.id)
    await caller.send(again, msg_id="again." + command.id)
    await caller.settled()
    assert await caller.answer(again) == first
    assert first.launch is not None
    assert first.launch.session == 1
    record = await caller.record(first.id)
    assert record is not None
    assert (record.command, record.state, record.owner.pid) == (command.id, "enrolled", caller.pid)
    living = [each async for each in caller.bus.kv(agents.BUCKET).items("agent.*") if caller.app in each.value.decode()]
    assert len(living) == 1


async def test_what_no_agent_can_be_is_refused(caller: Caller) -> None:
    """An unknown harness, a schema that is none, a name that a living agent of the owner has, nobody's agent."""
    await caller.enrol("worker")
    for code, enrol in {
        "unknown-harness": Enrol(name="a", harness="nothing", machine=machine_of(caller)),
        "bad-setting": Enrol(name="a", harness="command", machine=machine_of(caller), options={"wrong": "1"}),
        "invalid-tool": Enrol(name="a", harness="none", tools=[agents.Tool("no name")]),
        "name-taken": Enrol(name="worker", harness="none"),
        "invalid-agent": Enrol(name="a", harness="command", machine=MachineRef("m_1", "other", "nowhere", "local")),
    }.items():
        with pytest.raises(Refused) as refused:
            await caller.ask("enrol", enrol)
        assert refused.value.code == code, refused.value
    with pytest.raises(Refused, match="belongs to a process"):
        await Caller(caller.bus, caller.app, "").enrol("b")


async def test_a_name_is_free_again_after_its_agent_has_ended(caller: Caller) -> None:
    """And for another incarnation of its owner at once."""
    first = await caller.enrol("worker")
    await caller.ask("stop", Nothing(), first.id)
    second = await caller.enrol("worker")
    assert second.id != first.id
    third = await Caller(caller.bus, caller.app, caller.pid, 1).enrol("worker")
    assert third.id not in (first.id, second.id)


async def test_tools_are_those_of_the_newest_version_whatever_order_they_come_in(caller: Caller) -> None:
    """An older one changes nothing, and a `send` waits for the tools that it names."""
    agent = await caller.enrol("worker")
    said = await caller.send(caller.command("send", Send("go", tools=2)), agent.id)
    await caller.ask("tools", Tools(1, [tool("one")]), agent.id)
    assert await caller.conversation(agent.id, "message") == []
    await caller.ask("tools", Tools(3, [tool("three")]), agent.id)
    await caller.ask("tools", Tools(2, [tool("two")]), agent.id)
    record = await caller.record(agent.id)
    assert record is not None
    assert [each.name for each in record.tools] == ["three"]
    seq = await caller.answer(said)
    (message,) = await caller.conversation(agent.id, "message")
    assert b'"go"' in bytes(message.data)
    repeated = await caller.send(
        caller.command("send", Send("go", tools=2), said.id), agent.id, msg_id="again." + said.id
    )
    await caller.settled()
    assert await caller.answer(repeated) == seq
    assert len(await caller.conversation(agent.id, "message")) == 1


async def test_a_read_waits_for_what_is_not_there_yet(caller: Caller) -> None:
    """A page at once where there is one; else when it has come; and the end of the conversation is told."""
    agent = await caller.enrol("worker")
    assert await caller.ask("read", ReadConversation(wait=False), agent.id) == agents.Page()
    reading = await caller.send(caller.command("read", ReadConversation()), agent.id)
    seq = await caller.ask("send", Send("hello"), agent.id)
    page = await caller.answer(reading)
    assert [(each.type, each.seq) for each in page.entries] == [("message", seq)]
    reading = await caller.send(caller.command("read", ReadConversation(after=seq)), agent.id)
    await caller.ask("stop", Nothing(), agent.id)
    page = await caller.answer(reading)
    assert [each.type for each in page.entries] == ["ended"]
    assert page.ended
    last = await caller.ask("read", ReadConversation(after=page.entries[-1].seq), agent.id)
    assert last == agents.Page(ended=True)


async def test_pages_have_no_more_than_was_asked_for(caller: Caller) -> None:
    """Each goes on where the last one ended."""
    agent = await caller.enrol("worker")
    seqs = [await caller.ask("send", Send(str(n)), agent.id) for n in range(5)]
    page = await caller.ask("read", ReadConversation(most=2), agent.id)
    assert [each.seq for each in page.entries] == seqs[:2]
    page = await caller.ask("read", ReadConversation(after=seqs[1], most=100), agent.id)
    assert [each.seq for each in page.entries] == seqs[2:]


async def test_connected_agents_know_each_other(caller: Caller) -> None:
    """Both ways, or only forward; nobody outside the app."""
    a, b, c = [await caller.enrol(name) for name in "abc"]
    await caller.ask("connect", Connect(b.id), a.id)
    await caller.ask("connect", Connect(c.id, "forward"), a.id)
    links = [record.links for record in [await caller.record(each.id) for each in (a, b, c)] if record]
    assert links == [{b.id: "b", c.id: "c"}, {a.id: "a"}, {}]
    stranger = Caller(caller.bus, new_id("app"), new_id(PROCESS))
    foreign = await stranger.enrol("x")
    with pytest.raises(Refused, match="no other agent"):
        await caller.ask("connect", Connect(foreign.id), a.id)


async def test_only_the_owner_changes_its_agent_and_only_the_app_sees_it(caller: Caller) -> None:
    """Another process of the app may speak to it and stop it; another app learns nothing, not even that it is there."""
    agent = await caller.enrol("worker")
    sibling = Caller(caller.bus, caller.app, new_id(PROCESS))
    later = Caller(caller.bus, caller.app, caller.pid, 1)
    for other in (sibling, later):
        for name, args in {"tools": Tools(9, []), "lost": Lost(1), "relaunch": Relaunch(1)}.items():
            with pytest.raises(Refused) as refused:
                await other.ask(name, args, agent.id)
            assert refused.value.code == "agent-unknown"
    await sibling.ask("send", Send("hi"), agent.id)
    stranger = Caller(caller.bus, new_id("app"), new_id(PROCESS))
    for name, args in {
        "send": Send("hi"),
        "read": ReadConversation(),
        "describe": Nothing(),
        "stop": Nothing(),
    }.items():
        with pytest.raises(Refused) as refused:
            await stranger.ask(name, args, agent.id)
        assert refused.value.code == "agent-unknown"
    await sibling.ask("stop", Nothing(), agent.id)
    with pytest.raises(Refused) as refused:
        await caller.ask("send", Send("hi"), agent.id)
    assert refused.value.code == "agent-ended"


async def test_a_harness_that_has_ended_is_launched_again_once(caller: Caller) -> None:
    """Repeats, and late ones, get the launch of the session that stands."""
    args = Enrol(
        name="worker", harness="command", machine=machine_of(caller), workdir="/w", options={"command": "true"}
    )
    agent = await caller.ask("enrol", args)
    first = await caller.ask("relaunch", Relaunch(1, 7), agent.id)
    again = await caller.ask("relaunch", Relaunch(1, 7), agent.id)
    assert first == again
    assert first.session == 2
    assert first.env["REGROW_AGENT_RESUME"] == "1"
    with pytest.raises(Refused, match="session 2"):
        await caller.ask("relaunch", Relaunch(5), agent.id)
    await caller.ask("lost", Lost(2, 9, "it is of no use"), agent.id)
    record = await caller.record(agent.id)
    assert record is not None
    assert (record.state, record.session, record.reason) == ("lost", 2, "it is of no use")
    assert [each.session for each in await caller.conversation(agent.id, "lost")] == [1, 2]


async def test_what_is_no_command_becomes_a_dead_letter_and_holds_up_nothing(caller: Caller) -> None:
    """Garbage, an unknown name, arguments that do not fit, another app's subject."""
    agent = await caller.enrol("worker")
    for body in (b"", b"{}", b"\xff", b'{"id":"..","app":"x","name":"stop"}'):
        await caller.bus.publish("REGROW_COMMANDS", agents.agent_subject(caller.app, agent.id), body, new_id("t"))
    with pytest.raises(Refused):
        await caller.ask("dance", Nothing(), agent.id)
    command = caller.command("send", Nothing())
    await caller.send(command, agent.id)
    with pytest.raises(Refused) as refused:
        await caller.answer(command)
    assert refused.value.code == "invalid-arguments"
    assert (await caller.ask("describe", Nothing(), agent.id)).id == agent.id


async def test_agents_end_with_the_incarnation_that_owns_them(bus: Bus, caller: Caller) -> None:
    """When it has ended, or a newer one began, their tokens open nothing any more."""
    first = await caller.enrol("worker")
    other = Caller(bus, caller.app, new_id(PROCESS))
    second = await other.enrol("worker")
    await caller.event("done", final=True)
    await other.event("restarted", incarnation=1)
    for who, agent, reason in ((caller, first, "owner done"), (other, second, "owner restarted")):
        async with asyncio.timeout(45):
            while (record := await who.record(agent.id)) is None or record.state != "ended":
                await asyncio.sleep(0.01)
        assert record.reason == reason
        last = await bus.last(AGENTS, conversation(who.app, agent.id))
        assert last is not None
        assert ".ended." in last.subject
