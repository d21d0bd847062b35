"""What a process tells the registry of its endpoints, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import pytest
from fold_world import World
from regrow import agent_process, done, expose, sleep, spawn, wait
from regrow.publication import described
from regrow.tool_schema import tool_of
from regrow_protocol import messages as m
from regrow_protocol.endpoints import ARGUMENTS, ExposeEndpoint, Withdraw, registry_subject
from regrow_protocol.errors import InvalidName


@pytest.fixture
def world() -> World:
    return World(__name__)


def told(world: World, pid: str) -> list[tuple[str, Any]]:
    """Names and arguments of the commands to the registry that a process has sent."""
    found = [
        command
        for subject, command in world.commands
        if subject == registry_subject("app") and command.by is not None and command.by.pid == pid
    ]
    assert not any(command.reply for command in found)
    return [(command.id.removeprefix(f"{pid}."), m.decode(command.args, ARGUMENTS[command.name])) for command in found]


@dataclass
class Task:
    spec: str
    priority: int = 1


@agent_process
async def pool() -> str:
    await sleep(1)

    @expose
    async def add(task: Task, mode: Literal["soon", "late"] = "soon") -> int:
        """Add a task."""
        return task.priority

    await sleep(1)

    @expose
    async def finish() -> None:
        done("finished")

    return await wait()


def test_an_endpoint_is_told_under_its_operation(world: World) -> None:
    """Each `@expose` sends its tool, with the number of its own operation; the end withdraws all of them."""
    pid = world.start(pool)
    world.settle()
    world.ask(pid, "finish")
    world.check()
    (first, add), (second, finish), (last, end) = told(world, pid)
    assert isinstance(add, ExposeEndpoint)
    assert isinstance(finish, ExposeEndpoint)
    assert (add.endpoint.name, add.type, add.name, add.incarnation) == ("add", "pool", "", 0)
    assert (first, second, last) == (f"0.{add.n}", f"0.{finish.n}", "0.0")
    assert add.endpoint.description == "Add a task."
    assert b'"default":"soon"' in bytes(add.endpoint.schema)
    assert end == Withdraw(0, ended=True)


@agent_process
async def quiet() -> int:
    return 1


@agent_process(public=True)
async def shop() -> str:
    @expose
    async def finish() -> None:
        done("closed")

    return await wait()


@agent_process
async def names(name: str = "") -> list[str]:
    """Has a parameter of that name, so that it is not spawn's."""
    return [name]


@agent_process
async def parent() -> list[Any]:
    seen: list[Any] = [await names(name="argument"), await quiet()]
    named = spawn(shop, name="corner")
    typed = spawn(shop)
    for handle in (named, typed):
        await handle.call("finish", wait=True)
        seen.append(await handle)
    for bad in ("", "x" * 200, 5):
        try:
            spawn(shop, name=bad)
        except (InvalidName, TypeError) as error:
            seen.append(type(error).__name__)
    return seen


def test_names_and_public_types(world: World) -> None:
    """`name=` is spawn's where the function has no such parameter; a public type stands in for it."""
    pid = world.start(parent)
    world.settle()
    world.check()
    assert world.result(pid) == [["argument"], 1, "closed", "closed", "InvalidName", "InvalidName", "TypeError"]
    shops = [told(world, process.pid)[0][1].name for process in world.of_type("shop")]
    assert shops == ["corner", "shop"]
    assert [told(world, process.pid) for process in world.of_type("quiet")] == [[]]


@agent_process(resume="restart")
async def fickle() -> None:
    """Runs in the world's place of a host: see `acts`."""


def test_a_later_incarnation_withdraws_what_came_before(world: World) -> None:
    """After its first turn; a `restart` body carries its tools in its acts, and histories without them say nothing."""
    tool = tool_of(tool_of, "explain")
    pid = world.start(fickle)
    world.settle()

    def act(number: int, what: str, incarnation: int = 0, data: Any = None) -> None:
        world.send(pid, m.Act(incarnation=incarnation, m=number, what=what, data=m.Raw(m.encode(data))))

    act(1, "expose", data={"name": "explain", "tool": tool})
    act(2, "expose", data={"name": "old"})
    act(3, "turn")
    world.send(pid, m.HostLost(incarnation=0, host="h_1"))
    world.settle()
    act(1, "expose", incarnation=1, data={"name": "explain", "tool": tool})
    act(2, "turn", incarnation=1)
    act(3, "end", incarnation=1, data={"value": None})
    world.settle()
    (_, first), (_, again), renewed, ended = told(world, pid)
    assert (first.endpoint, first.incarnation, again.incarnation) == (tool, 0, 1)
    assert renewed == ("1.-1", Withdraw(0))
    assert ended == ("1.0", Withdraw(1, ended=True))


def test_a_tool_is_made_once() -> None:
    """Functions of the same code and defaults share it; others do not; tools of agents are nobody else's."""

    def make(default: int, kind: Any = int) -> Any:
        async def add(n: int = default) -> None: ...

        add.__annotations__["n"] = kind
        return add

    one, two, three, four = make(1), make(1), make(2), make(1, str)
    assert described(one, "add") is described(two, "add")
    assert len({bytes(found.schema) for each in (one, three, four) if (found := described(each, "add"))}) == 3
    assert described(one, "a_1/add") is None


def test_a_fork_exposes_for_itself(world: World) -> None:
    """What the copied history exposed is told again, as the copy's own; the other's commands are not."""
    pid = world.start(pool)
    world.settle()
    inputs = [m.decode_input(turn.message) for turn in world.histories[pid]]
    times = [turn.time for turn in world.histories[pid]]
    copy = "p_" + "0" * 25 + "1"
    start = inputs[0]
    assert isinstance(start, m.Start)
    forked = [msgspec.structs.replace(start, forks=[m.Fork(pid, len(inputs))]), *inputs[1:]]
    for message, at in zip(forked, times, strict=True):
        world.send(copy, msgspec.structs.replace(message, at=at))
    world.settle()
    exposed = told(world, copy)
    assert [args.endpoint.name for _, args in exposed] == ["add", "finish"]
    assert [(id_, args.endpoint) for id_, args in exposed] == [(id_, args.endpoint) for id_, args in told(world, pid)]
    world.ask(copy, "finish")
    assert told(world, copy)[-1] == ("0.0", Withdraw(0, ended=True))
