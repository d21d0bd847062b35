"""Agents as the fold sees them: operations that make one, its tools, its restarts, and what a cancelled one leaves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import pytest
from agent_world import Services
from fold_world import World
from msgspec import Raw
from regrow import (
    Agent,
    AgentError,
    AgentLoss,
    AgentNotStarted,
    ExecutionFailed,
    LocalImage,
    RegrowError,
    agent,
    agent_process,
    connect,
    current_process,
    current_runtime,
    done,
    emit,
    expose,
    fail,
    machine,
    sleep,
    spawn,
    wait,
)
from regrow_protocol import agents as wire
from regrow_protocol import messages as m
from regrow_protocol.messages import Failure


@pytest.fixture
def world() -> World:
    return World(__name__)


@pytest.fixture
def services(world: World) -> Services:
    return Services(world)


def begin(services: Services, type_: Any, *args: Any) -> str:
    """Start a process and let it come to rest."""
    pid = services.world.start(type_, *args)
    services.settle()
    return pid


@dataclass
class Review:
    """What was found.

    Attributes:
        score: 0 to 10.
    """

    score: int
    notes: list[str]


@agent_process
async def single(spec: str, restart: str = "permanent", restarts: int = 2) -> Any:
    worker = await agent("worker", "You work.", model="m/1", env={"A": "1"}, restart=restart, restarts=restarts)  # type: ignore[arg-type]

    @worker.on("finish")
    async def on_finish(review: Review, extra: str = "") -> str:
        """Call when done.

        Args:
            review: what was found.
        """
        done([review.score, extra])
        return "Recorded."

    @worker.on
    async def give_up(reason: str) -> str:
        fail(f"gave up: {reason}")
        return "Recorded."

    @worker.on("slow", timeout=5)
    async def slow() -> None:
        await sleep(100)

    @worker.on_lost
    async def lost(loss: AgentLoss) -> None:
        emit("mourned", [loss.agent.name, loss.exit_code, loss.output])

    await worker.send(f"Do: {spec}")
    return await wait()


def test_an_agent_is_made_by_recorded_operations(world: World, services: Services) -> None:
    """Machine, its workdir, enrolment, files, harness; then tools, told once, before the message that needs them."""
    pid = begin(services, single, "x")
    assert services.names == [
        "machine.create", "machine.describe", "agent.enrol", "machine.write", "machine.write", "machine.exec",
        "agent.tools", "agent.send",
    ]  # fmt: skip
    (enrol,) = services.asked("enrol")
    assert (enrol.name, enrol.harness, enrol.workdir, enrol.system_prompt) == ("worker", "pi", "/work", "You work.")
    assert (enrol.model, enrol.env) == ("m/1", {"A": "1"})
    (tools,) = services.asked("tools")
    assert tools.version == 1
    assert [tool.name for tool in tools.tools] == ["finish", "give_up", "slow"]
    assert tools.tools[0].description == "Call when done."
    assert services.asked("send") == [wire.Send("Do: x", 1)]
    assert [write.mode for write in services.asked("write")] == [0o600, 0o400]
    assert services.ask(pid, services.agent, "finish", review={"score": 3, "notes": []}).error is None
    assert world.result(pid) == [3, ""]
    assert services.names[-2:] == ["machine.kill", "agent.stop"]
    world.check()


def test_a_repeated_call_runs_once(world: World, services: Services) -> None:
    """The key of a call is taken once, whoever repeats it; the answer stands where it stood."""
    pid = begin(services, single, "x")
    reply = services.call(pid, services.agent, "give_up", "9", reason="tired")
    assert services.call(pid, services.agent, "give_up", "9", reason="tired") == reply
    services.settle()
    assert len(world.entries[reply]) == 1
    with pytest.raises(ExecutionFailed, match="gave up: tired"):
        world.result(pid)
    world.check()


def test_errors_are_told_in_words_that_a_model_can_use(world: World, services: Services) -> None:
    """An unknown tool, arguments that do not fit, a timeout: each is an answer, named by the tool alone."""
    pid = begin(services, single, "x")
    unknown = services.ask(pid, services.agent, "dance", "1").error
    wrong = services.ask(pid, services.agent, "finish", "2", review={"score": "no"}).error
    reply = services.call(pid, services.agent, "slow", "3")
    services.settle(timers=True, until=world.clock + 10)
    late = m.decode(world.entries[reply][0].data, wire.Outcome).error
    assert unknown is not None
    assert unknown.code == "endpoint-not-found"
    assert wrong is not None
    assert wrong.message.startswith("finish(): argument 'review'")
    assert late is not None
    assert late.message == "slow() has not answered within 5 s and was given up"
    world.check()


def test_a_call_after_the_end_is_answered(world: World, services: Services) -> None:
    """The agent hears that there is nobody any more."""
    pid = begin(services, single, "x")
    services.ask(pid, services.agent, "give_up", "1", reason="r")
    error = services.ask(pid, services.agent, "give_up", "2", reason="r").error
    assert error is not None
    assert error.code == "process-ended"
    world.check()


def test_a_call_to_a_parked_owner(world: World, services: Services) -> None:
    """A process that was folded anew answers as if nothing had happened, and sends the same."""
    pid = begin(services, single, "x")
    world.kill(pid)
    services.settle()
    before = len(services.log)
    services.ask(pid, services.agent, "finish", review={"score": 1, "notes": ["n"]}, extra="e")
    assert world.result(pid) == [1, "e"]
    assert services.names[before:] == ["machine.kill", "agent.stop"]
    world.check()


# Restarts -------------------------------------------------------------------------------------------------------------


def test_a_harness_that_died_is_started_again(world: World, services: Services) -> None:
    """After a back-off, with the launch that the gateway gives; a new row begins when it ran for long enough."""
    pid = begin(services, single, "x")
    for _ in range(2):
        services.end(exit_code=9, output=b"boom")
        services.settle(timers=True, until=world.clock + 5)
    assert [(r.session, r.exit_code) for r in services.asked("relaunch")] == [(1, 9), (2, 9)]
    assert world.types(pid).count("agent_restarted") == 2
    services.settle(timers=True, until=world.clock + 100)
    world.clock += 100
    services.end(exit_code=9)
    services.settle(timers=True, until=world.clock + 5)
    assert world.types(pid).count("agent_restarted") == 3
    world.check()


def test_an_agent_that_dies_too_often_is_lost(world: World, services: Services) -> None:
    """The gateway, the events and the hook are told, with what the harness showed last."""
    pid = begin(services, single, "x")
    for _ in range(3):
        services.end(exit_code=9, output=b"boom")
        services.settle(timers=True, until=world.clock + 5)
    (lost,) = services.asked("lost")
    assert (lost.session, lost.exit_code, lost.reason) == (3, 9, "it ended with exit code 9")
    told = {event.type: event.data for event in world.events(pid)}
    assert told["agent_lost"]["output"] == "boom"
    assert told["mourned"] == ["worker", 9, "boom"]
    world.check()


@pytest.mark.parametrize(
    ("policy", "code", "event"),
    [("transient", 0, "agent_ended"), ("temporary", 0, "agent_lost"), ("temporary", 3, "agent_lost"),
     ("transient", 3, "agent_restarted"), ("permanent", 0, "agent_restarted")],
)  # fmt: skip
def test_policies(world: World, services: Services, policy: str, code: int, event: str) -> None:
    """Transient: unless it ended with 0; temporary: never; permanent: however it ended."""
    pid = begin(services, single, "x", policy)
    services.end(exit_code=code)
    services.settle(timers=True, until=world.clock + 5)
    assert world.types(pid)[-1] == "mourned" if event == "agent_lost" else event
    assert event in world.types(pid)
    world.check()


def test_a_lost_machine_ends_the_agent(world: World, services: Services) -> None:
    """Its conversation is gone with it: there is nothing to start again."""
    pid = begin(services, single, "x")
    command = services.running.popitem()[1]
    services.answer(command, failure=Failure("MachineLost", "it is gone", "machine-lost"))
    services.settle(timers=True, until=world.clock + 5)
    assert "agent_lost" in world.types(pid)
    assert not services.asked("relaunch")
    world.check()


def test_a_failure_names_the_agents_and_machines_that_were_there(world: World, services: Services) -> None:
    """Whoever tries again may look at what they have left."""
    pid = begin(services, single, "x")
    services.call(pid, services.agent, "give_up", reason="too hard")
    services.settle(timers=True, until=world.clock + 60)
    failed = world.events(pid)[-1]
    assert (failed.type, failed.data["reason"]) == ("failed", "gave up: too hard")
    assert failed.data["agents"] == [services.agent]
    assert len(failed.data["machines"]) == 1
    world.check()


@agent_process(stall_after=60)
async def looks_on() -> None:
    await agent("worker", "You work.", model="m/1")
    await wait()


def test_turns_of_an_agent_are_progress(world: World, services: Services) -> None:
    """Its process stalls a minute after the last one."""
    pid = begin(services, looks_on)
    for _ in range(3):
        world.clock += 50
        services.news(pid, services.agent, "turn")
        services.settle(timers=True, until=world.clock)
    last = world.clock
    services.settle(timers=True, until=last + 55)
    assert "stalled" not in world.types(pid)
    services.settle(timers=True, until=last + 65)
    assert world.types(pid).count("stalled") == 1
    world.check()


def test_silent_doors_end_the_harness(world: World, services: Services) -> None:
    """The gateway says it is lost: the command is killed, and what follows is decided by its end."""
    pid = begin(services, single, "x")
    services.news(pid, services.agent, "lost")
    services.settle(timers=True, until=world.clock + 5)
    assert len(services.asked("kill")) == 1
    assert "agent_restarted" in world.types(pid)
    services.news(pid, services.agent, "stalled", seconds=9)
    services.settle()
    assert world.events(pid)[-1].data["seconds"] == 9
    world.check()


# Starts that fail -----------------------------------------------------------------------------------------------------


@agent_process
async def starting(tell: bool = True) -> Any:
    try:
        await agent("worker", image=LocalImage(), start_timeout=20)
    except AgentNotStarted as error:
        return [error.exit_code, error.output, str(error)]
    except AgentError as error:
        return [error.code, str(error)]
    return "started"


def test_a_harness_that_ends_at_once(world: World, services: Services) -> None:
    """The error tells its exit code and what it showed; gateway and machine are rid of it."""
    services.comes = False
    pid = begin(services, starting)
    services.end(exit_code=127, output=b"pi: not found\n")
    services.settle()
    code, output, text = world.result(pid)
    assert (code, output) == (127, "pi: not found")
    assert "'worker' has not started: it ended with exit code 127" in text
    assert services.names[-2:] == ["agent.stop", "machine.stop"]
    world.check()


def test_a_harness_that_never_comes(world: World, services: Services) -> None:
    """It is killed after its time, and the error shows what it showed."""
    services.comes = False
    pid = begin(services, starting)
    services.settle(timers=True, until=world.clock + 20)
    code, output, text = world.result(pid)
    assert (code, output) == (137, "killed")
    assert "did not come to the gateway http://gateway within 20 s and was killed" in text
    world.check()


@pytest.mark.parametrize("name", ["create", "describe", "enrol", "write", "exec"])
def test_what_services_refuse_is_raised(world: World, services: Services, name: str) -> None:
    """Each step's failure is the caller's, and the machine that was made is stopped."""
    services.fail[name] = Failure("UnknownHarness", "no such thing", "unknown-harness", False)
    pid = begin(services, refused)
    services.settle()
    assert "no such thing" in world.result(pid)
    assert ("machine.stop" in services.names) == (name != "create")
    world.check()


@agent_process
async def refused() -> str:
    try:
        await agent("worker")
    except Exception as error:  # noqa: BLE001 - whatever it is
        assert not current_runtime().agents
        assert not current_runtime().machines
        return str(error)
    return ""


@agent_process
async def cancelling() -> str:
    task = asyncio.create_task(agent("worker"))
    gate = asyncio.Event()

    @expose
    async def cut() -> None:
        task.cancel()
        await asyncio.wait([task])
        gate.set()

    await gate.wait()
    assert not current_runtime().agents
    await sleep(1000)
    return "over"


@pytest.mark.parametrize("name", ["create", "machine.describe", "enrol", "write", "exec"])
def test_a_cancelled_start_leaves_nothing(world: World, services: Services, name: str) -> None:
    """Whatever had been asked for is ended, when it comes; and a replay does the same."""
    services.comes = False
    services.hold.add(name.rpartition(".")[2])
    pid = begin(services, cancelling)
    world.ask(pid, "cut")
    services.settle()
    if name in ("create", "enrol"):
        services.release(name)
    services.settle()
    assert services.names.count("machine.stop") == 1
    assert services.names.count("agent.stop") == (name in ("enrol", "write", "exec"))
    assert services.names.count("machine.kill") == (name == "exec")
    world.check()


# Several --------------------------------------------------------------------------------------------------------------


@agent_process
async def crowd(n: int) -> Any:
    workers = await asyncio.gather(*(agent(f"w{i}", tools=[echo]) for i in range(n)))
    return [worker.name for worker in workers], len({worker.id for worker in workers})


async def echo(text: str) -> str:
    """Say it again."""
    return text


def test_a_hundred_agents_at_once(world: World, services: Services) -> None:
    """They start together, each with its own id; the end of the process ends them all."""
    pid = begin(services, crowd, 100)
    assert world.result(pid) == [[f"w{i}" for i in range(100)], 100]
    assert services.names.count("machine.kill") == services.names.count("agent.stop") == 100
    assert all([tool.name for tool in enrol.tools] == ["echo"] for enrol in services.asked("enrol"))
    world.check()


@agent_process
async def namesakes() -> Any:
    box = await machine(LocalImage())
    found = await asyncio.gather(agent("a", machine=box), agent("a", machine=box), return_exceptions=True)
    first = found[0]
    assert isinstance(first, Agent)
    await first.stop()
    await agent("a", machine=box)
    return [type(each).__name__ for each in found]


def test_two_of_one_name_are_an_error(world: World, services: Services) -> None:
    """The second one is told so at once; after the first one's end the name is free. A given machine is not stopped."""
    pid = begin(services, namesakes)
    assert world.result(pid) == ["Agent", "AgentNameTaken"]
    assert "machine.stop" not in services.names
    world.check()


# Agents as values, connections, grants --------------------------------------------------------------------------------


@agent_process
async def helper(worker: Agent) -> Any:
    await worker.send("from afar")
    errors = []
    for attempt in (lambda: worker.on("x"), worker.stop):
        try:
            made = attempt()
            if asyncio.iscoroutine(made):
                await made
        except AgentError as error:
            errors.append(error.code)
    return errors


@agent_process
async def boss() -> Any:
    one = await agent("one", machine=None, harness="none")
    two = await agent("two", harness="none")
    assert one.url.startswith("http://doors/")
    connect(one, two, "forward")
    pool = spawn(team)
    event = await pool.events.listen_for("agent_started")
    grant = await pool.attach(one, only=["add"], prefix="pool_", rate=5, expires=60)
    await grant.revoke()
    own = await current_process().handle.attach(two)
    theirs = pool.agents["inner"]
    await theirs.send("hello")
    return await helper(one), own.id, theirs.owner == pool.pid, event.data["name"], (await one.usage()).cost


@agent_process
async def team() -> None:
    await agent("inner", harness="none")
    await wait()


def test_agents_are_values(world: World, services: Services) -> None:
    """Others may speak to an agent and attach things to it; tools and end are its owner's."""
    pid = begin(services, boss)
    assert world.result(pid) == [["not-its-owner", "not-its-owner"], "g_1", True, "inner", 0.5]
    assert services.asked("send") == [wire.Send("hello", 0, "boss"), wire.Send("from afar", 0, "helper")]
    (connected,) = services.asked("connect")
    assert (connected.other, connected.direction) == (list(services.agents)[1], "forward")
    first, second = services.asked("attach")
    assert (first.only, first.prefix, first.rate, first.seconds) == (["add"], "pool_", 5.0, 60.0)
    assert second.pid == pid
    assert services.asked("detach")[0].grant == "g_1"
    world.check()


@agent_process(image=LocalImage(env={"B": "2"}))
async def with_image() -> Any:
    await agent("a")
    box = await machine()
    return list(current_runtime().agents), box.id in current_runtime().machines, current_runtime().app


def test_the_image_of_the_type(world: World, services: Services) -> None:
    """Agents and machines that name none are made from it."""
    pid = begin(services, with_image)
    assert world.result(pid) == [["a"], True, "app"]
    assert all(b'"B":"2"' in bytes(create.image.options) for create in services.asked("create"))
    world.check()


# Conversations --------------------------------------------------------------------------------------------------------


@agent_process
async def reader() -> Any:
    worker = await agent("a", harness="none")
    seen = [(event.type, event.seq) async for event in worker.events]
    return seen, len(await worker.events.so_far())


def test_a_conversation_is_read_by_pages(world: World, services: Services) -> None:
    """Each page is asked for after the last entry known, to the agent's end."""

    def page(*seqs: int, ended: bool = False) -> wire.Page:
        return wire.Page([wire.Entry(id=str(s), type="text", seq=s) for s in seqs], ended)

    services.pages = [page(3, 5), page(9), page(ended=True), page(3, 5), page(ended=True)]
    pid = begin(services, reader)
    assert world.result(pid) == [[["text", 3], ["text", 5], ["text", 9]], 2]
    assert [(r.after, r.wait) for r in services.asked("read")] == [
        (0, True), (5, True), (9, True), (0, False), (5, False),
    ]  # fmt: skip
    world.check()


@agent_process
async def later() -> Any:
    worker = await agent("a", harness="none", tools={"first": echo})
    await worker.registered()
    for name in ("second", "third"):
        worker.on(name)(echo)
    await sleep(1)
    worker.on("fourth")(echo)
    return await wait()


def test_tools_registered_later_are_told(world: World, services: Services) -> None:
    """Those of one turn in one command, with a version that grows."""
    pid = begin(services, later)
    services.news(pid, services.agent, "registered", session=1)
    services.settle()
    services.settle(timers=True)
    assert [(t.version, [tool.name for tool in t.tools]) for t in services.asked("tools")] == [
        (1, ["first", "second", "third"]), (2, ["first", "second", "third", "fourth"]),
    ]  # fmt: skip
    assert services.ask(pid, services.agent, "third", text="hi") == wire.Outcome(Raw(b'"hi"'))
    world.check()


BAD: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"name": ""}, RegrowError),
    ({"tools": [lambda: None]}, TypeError),
    ({"tools": [echo, echo]}, TypeError),
    ({"tools": {"a b": echo}}, TypeError),
    ({"restarts": -1}, ValueError),
    ({"restart": "often"}, ValueError),
    ({"start_timeout": 0}, ValueError),
    ({"harness": "none", "image": LocalImage()}, TypeError),
]


@agent_process
async def wrong(at: int) -> str:
    options, kind = BAD[at]
    try:
        await agent(**cast("Any", {"name": "a", **options}))
    except kind as error:
        return str(error)
    return ""


@pytest.mark.parametrize("at", range(len(BAD)))
def test_wrong_arguments_ask_for_nothing(world: World, services: Services, at: int) -> None:
    """They are refused before anything is made."""
    pid = begin(services, wrong, at)
    assert world.result(pid)
    assert services.names == []
    world.check()


def test_another_description_is_no_other_program(world: World, services: Services) -> None:
    """A replay of code whose tools are described better makes the same operations."""
    pid = begin(services, crowd, 1)
    echo.__doc__, before = "Say it again, exactly.", echo.__doc__
    try:
        process = world.processes[pid]
        again = type(process)(world.env, pid)
        for turn in world.histories[pid]:
            again.apply(m.decode_input(turn.message), turn.seq, turn.time)
        assert again.ended
        again.leave()
    finally:
        echo.__doc__ = before


@agent_process
async def copied() -> Any:
    worker = await agent("worker")
    guest = await agent("guest", harness="none")
    starting = asyncio.create_task(agent("second"))
    lost = asyncio.Event()
    worker.on_lost(lambda _: lost.set())
    await lost.wait()
    await asyncio.wait([starting])
    try:
        await guest.stop()
    except AgentError as error:
        return [error.code, str(starting.exception())]
    return "stopped"


def test_a_copy_of_a_process_has_none_of_its_agents(world: World, services: Services) -> None:
    """Its agents are lost to it, and it ends, kills and stops nothing of theirs."""
    services.absent.add("second")
    pid = begin(services, copied)
    history = world.histories[pid]
    before = len(services.log)
    start = m.decode_input(history[0].message)
    assert isinstance(start, m.Start)
    other = "p_01hf7yat00copyqqqqqqqqqqqqq"
    world.send(other, msgspec.structs.replace(start, forks=[m.Fork(pid, len(history))], at=history[0].time))
    for turn in history[1:]:
        world.send(other, msgspec.structs.replace(m.decode_input(turn.message), at=turn.time))
    services.settle(timers=True, until=world.clock + 5)
    code, failure = world.result(other)
    assert code == "not-its-owner"
    assert "it belongs to the process that this one was copied from" in failure
    assert services.names[before:] == []
    assert not world.processes[pid].ended


@agent_process
async def impatient() -> Any:
    guest = await agent("guest", harness="none")
    waiting = asyncio.create_task(guest.registered())
    await sleep(1)
    await guest.stop()
    return type((await asyncio.gather(waiting, return_exceptions=True))[0]).__name__


def test_who_waits_for_an_agent_hears_of_its_end(world: World, services: Services) -> None:
    """It is stopped before it has come."""
    pid = begin(services, impatient)
    services.settle(timers=True)
    assert world.result(pid) == "AgentEnded"
    world.check()
