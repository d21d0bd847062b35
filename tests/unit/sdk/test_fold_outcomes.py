"""How a process ends: what its body returns or raises, done and fail, timeouts, cancellation; its children first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fold_world import BEGIN, World
from regrow import (
    ExecutionCancelled,
    ExecutionFailed,
    InvalidArguments,
    agent_process,
    current_process,
    done,
    emit,
    expose,
    fail,
    sleep,
    spawn,
    step,
    wait,
)
from regrow.codec import to_raw
from regrow.process import Process
from regrow_protocol import messages as m


@pytest.fixture
def world() -> World:
    return World(__name__)


def last(world: World, pid: str) -> Any:
    event = world.events(pid)[-1]
    assert event.final
    return event


@agent_process
async def returns(value: Any = None) -> Any:
    return value


@agent_process
async def typed(value: Any) -> int:
    done(value)
    return await wait()


@pytest.mark.parametrize("value", [None, 0, "x", [1, {"a": None}], {"b": 1.5}])
def test_a_result(world: World, value: Any) -> None:
    """What the body returns is the data of `done`, and what its parent gets."""
    pid = world.start(returns, value)
    world.settle()
    assert last(world, pid).type == "done"
    assert last(world, pid).data == value
    assert world.result(pid) == value


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Long(Exception):
    def __str__(self) -> str:
        return "x" * 1_000_000


@agent_process
async def raises(what: str) -> None:
    if what == "recursion":
        await raises_deep(0)
    errors: dict[str, BaseException] = {
        "value": ValueError("three"),
        "empty": KeyError(),
        "mute": Mute(),
        "long": Long(),
        "surrogate": ValueError("\udc80"),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "generator": GeneratorExit("by hand"),
        "cancelled": asyncio.CancelledError("by hand"),
        "stop": StopIteration(5),
        "unicode": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        "group": ExceptionGroup("two", [ValueError("a"), Mute()]),
        "base": BaseException("base"),
    }
    raise errors[what]


async def raises_deep(n: int) -> None:
    await raises_deep(n + 1)


@pytest.mark.parametrize(
    ("what", "type_", "reason", "error"),
    [
        ("value", "failed", "three", "ValueError"),
        ("empty", "failed", "KeyError", "KeyError"),
        ("mute", "failed", "Mute", "Mute"),
        ("long", "failed", "x" * 16384, "Long"),
        ("surrogate", "failed", "\\udc80", "ValueError"),
        ("exit", "failed", "3", "SystemExit"),
        ("interrupt", "failed", "KeyboardInterrupt", "KeyboardInterrupt"),
        ("generator", "failed", "by hand", "GeneratorExit"),
        ("cancelled", "cancelled", "", ""),
        ("stop", "failed", "coroutine raised StopIteration", "RuntimeError"),
        ("group", "failed", "two (2 sub-exceptions): ValueError: a; Mute: ", "ExceptionGroup"),
        ("base", "failed", "base", "BaseException"),
        ("recursion", "failed", "maximum recursion depth exceeded", "RecursionError"),
    ],
)
def test_whatever_a_body_raises(world: World, what: str, type_: str, reason: str, error: str) -> None:
    """Any exception ends the process and no other; its text may be missing, endless or unsendable."""
    pid = world.start(raises, what)
    world.settle()
    if what != "recursion":  # how deep it got depends on the stack below
        world.check()
    event = last(world, pid)
    assert event.type == type_
    if type_ == "failed":
        assert event.data["reason"].startswith(reason)
        assert len(event.data["reason"]) <= 16384 + 200
        assert event.data["error"] == error


@pytest.mark.parametrize("what", ["unicode", "stop", "group", "mute", "exit", "empty"])
def test_whatever_a_step_or_child_raises(world: World, what: str) -> None:
    """The body gets an exception of its own class, also for those that Python makes in other ways."""
    result = world.run(awaits_failures, what)
    assert result[0][0] == "StepFailed" or what == "exit"
    assert result[1][0] == "ExecutionFailed"
    if what == "empty":
        assert result[0] == ["StepFailed", "KeyError", True]


def raise_in_step(what: str) -> None:
    errors: dict[str, Exception] = {
        "unicode": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        "stop": StopIteration(5),
        "group": ExceptionGroup("two", [ValueError("a")]),
        "mute": Mute(),
        "exit": OSError(2, "exit"),
        "empty": KeyError(),
    }
    raise errors[what]


@agent_process
async def awaits_failures(what: str) -> list[Any]:
    seen = []
    try:
        await step(raise_in_step, what)
    except Exception as error:  # noqa: BLE001 - shown
        seen.append([type(error).__name__, error.error, isinstance(error, KeyError)])  # type: ignore[attr-defined]
    try:
        await raises(what)
    except Exception as error:  # noqa: BLE001 - shown
        seen.append([type(error).__name__, error.error])  # type: ignore[attr-defined]
    return seen


# done, fail, wait -----------------------------------------------------------------------------------------------------


@agent_process
async def decides(first: str) -> str:
    @expose
    async def also_done(value: str) -> None:
        done(value)

    def by_fail() -> None:
        fail("failed", retryable=False)

    actions = {"done": lambda: done("done"), "fail": by_fail, "raise": lambda: 1 / 0}
    actions[first]()
    actions["done"]()
    actions["fail"]()
    await sleep(5)
    emit("goes on")
    if first == "fail":
        try:
            await wait()
        except ExecutionFailed as error:
            emit("told", [error.reason, error.retryable])
    return "returned"


def test_the_first_decision_counts(world: World) -> None:
    """done and fail decide, the body goes on to its end, and what comes later changes nothing."""
    assert world.run(decides, "done") == "done"
    pid = world.start(decides, "fail")
    world.settle()
    with pytest.raises(ExecutionFailed, match="failed") as caught:
        world.result(pid)
    assert not caught.value.retryable
    assert world.types(pid) == ["started", "goes on", "told", "failed"]
    assert world.events(pid)[2].data == ["failed", False]


@agent_process
async def waits(n: int) -> Any:
    @expose
    async def finish(value: Any) -> str:
        done(value)
        return "thanks"

    @expose
    async def give_up(reason: str) -> None:
        fail(ValueError(reason))

    results = await asyncio.gather(*(wait() for _ in range(n)))
    emit("told", results)
    return "another result"


def test_wait_returns_what_done_says(world: World) -> None:
    """Any number may wait, before or after; the call that decides is answered."""
    pid = world.start(waits, 3)
    world.settle()
    assert world.ask(pid, "finish", value={"a": 1}) == "thanks"
    world.check()
    assert world.result(pid) == {"a": 1}
    assert world.events(pid)[1].data == [{"a": 1}] * 3


def test_fail_takes_an_exception(world: World) -> None:
    """fail(error) tells its class and text."""
    pid = world.start(waits, 1)
    world.settle()
    world.ask(pid, "give_up", reason="no more")
    told = {"reason": "no more", "error": "ValueError", "code": "exception", "retryable": True}
    assert last(world, pid).data.items() >= told.items()


def test_a_result_that_does_not_fit(world: World) -> None:
    """wait() raises it where the annotation says otherwise; for the parent it is an error at its await."""
    assert world.run(typed, 5) == 5
    pid = world.start(awaits_typed)
    world.settle()
    assert "InvalidArguments: The result of spawn 'typed' does not fit its annotation" in world.result(pid)


@agent_process
async def awaits_typed() -> str:
    try:
        await typed("x")
    except InvalidArguments as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


@agent_process
async def returns_opaque() -> object:
    return object()


def test_a_result_that_cannot_be_sent(world: World) -> None:
    """The process fails, and says what it was."""
    pid = world.start(returns_opaque)
    world.settle()
    assert last(world, pid).data["code"] == "not-sendable"
    assert "The result of returns_opaque() cannot be sent" in last(world, pid).data["reason"]


def test_an_unknown_type(world: World) -> None:
    """A start of a type that the program does not have fails, for good."""
    world.send("p_x", m.Start(type="nowhere", args=returns.signature.encode((), {}), build="build"))
    reply = world.call("p_x", "anything")
    world.settle()
    assert last(world, "p_x").data["code"] == "unknown-type"
    assert last(world, "p_x").data["retryable"] is False
    with pytest.raises(Exception, match="has ended"):
        world.answer_of(reply)


def test_wrong_arguments(world: World) -> None:
    """A start with arguments that do not fit fails with the argument's name."""
    world.send("p_x", m.Start(type="decides", args=returns.signature.encode((1,), {}), build="build"))
    world.settle()
    assert last(world, "p_x").data["code"] == "invalid-arguments"


# Timeouts -------------------------------------------------------------------------------------------------------------


@agent_process(timeout=10)
async def hurried(seconds: float) -> str:
    child = spawn(sleeps, 1000)
    try:
        await sleep(seconds)
    finally:
        emit("tidied", child.status())
    return "in time"


@agent_process
async def sleeps(seconds: float) -> None:
    try:
        await sleep(seconds)
    except asyncio.CancelledError:
        await sleep(1)  # it takes a while to stop
        emit("stopped")
        raise


def test_timeout_of_a_process(world: World) -> None:
    """It fails at its time, its children before it; one that is in time hears nothing of it."""
    assert world.run(hurried, 5) == "in time"
    assert world.clock < BEGIN + 7
    pid = world.start(hurried, 1000)
    world.settle()
    world.check()
    with pytest.raises(ExecutionFailed, match="timed out after 10 s") as caught:
        world.result(pid)
    assert caught.value.error == "TimeoutError"
    child = world.of_type("sleeps")[-1]
    assert world.types(child.pid)[-1] == "cancelled"
    assert child.applied < world.processes[pid].applied


# Cancellation ---------------------------------------------------------------------------------------------------------


@agent_process
async def tree(depth: int, width: int) -> None:
    for _ in range(width if depth else 0):
        spawn(tree, depth - 1, width)
    try:
        await sleep(10**6)
    finally:
        emit("leaving")


def ended_order(world: World) -> list[str]:
    ends = [(p.applied, p.pid) for p in world.processes.values() if p.ended]
    return [pid for _, pid in sorted(ends)]


def test_a_cancelled_tree_ends_from_below(world: World) -> None:
    """Every process of it ends as cancelled, after its children, and nothing is left running."""
    root = world.start(tree, 3, 3)
    world.settle(timers=False)
    assert len(world.processes) == 1 + 3 + 9 + 27
    world.cancel(root, "enough")
    world.settle()
    world.check()
    order = ended_order(world)
    assert len(order) == 40
    for process in world.processes.values():
        assert process.status == "cancelled"
        assert world.types(process.pid)[-2:] == ["leaving", "cancelled"]
        for child in process.relations.children:
            assert order.index(child) < order.index(process.pid)
        assert not process.timers


def test_deep_trees(world: World) -> None:
    """200 levels are started and cancelled like any other tree."""
    root = world.start(tree, 200, 1)
    world.settle(timers=False)
    assert len(world.processes) == 201
    world.cancel(root)
    world.settle()
    world.check()
    assert {p.status for p in world.processes.values()} == {"cancelled"}


@agent_process
async def stubborn(times: int) -> str:
    for _ in range(times):
        try:
            await sleep(10**6)
        except asyncio.CancelledError:
            emit("no")
    return "survived"


def test_a_body_that_swallows_its_cancellation(world: World) -> None:
    """The outcome is decided all the same, the body may finish; and one may cancel again."""
    pid = world.start(stubborn, 3)
    for _ in range(2):
        world.settle(timers=False)
        world.cancel(pid)
    world.settle(timers=False)
    assert not world.processes[pid].ended
    world.cancel(pid)
    world.settle(timers=False)
    world.check()
    assert world.types(pid) == ["started", "no", "no", "no", "cancelled"]


@agent_process
async def leaves_a_stubborn_task() -> str:
    async def background() -> None:
        try:
            await sleep(10**6)
        except asyncio.CancelledError:
            emit("asked")
            await sleep(10**6)

    task = asyncio.create_task(background())
    await sleep(0)
    return f"task {task.done()}"


def test_a_task_that_swallows_its_cancellation(world: World) -> None:
    """The process waits for it, as asyncio.run does, until it is cancelled again."""
    pid = world.start(leaves_a_stubborn_task)
    world.settle(timers=False)
    assert not world.processes[pid].ended
    world.cancel(pid)
    world.settle(timers=False)
    world.check()
    assert world.result(pid) == "task False"


def test_cancel_before_start(world: World) -> None:
    """A cancellation that is there first waits for the start; the body sees one turn."""
    world.cancel("p_early", "early")
    world.send("p_early", m.Start(type="sleeps", args=sleeps.signature.encode((1000.0,), {}), build="build"))
    world.settle()
    world.check()
    assert world.types("p_early")[-1] == "cancelled"
    assert world.processes["p_early"].ended


@agent_process
async def cancels_at_once(n: int) -> list[str]:
    handles = [spawn(sleeps, 1000) for _ in range(n)]
    for handle in handles:
        handle.cancel("never mind")
        handle.cancel("twice")
    seen = []
    for handle in handles:
        try:
            await handle
        except ExecutionCancelled as error:
            seen.append(error.reason)
    return [*seen, *(h.status() for h in handles)]


def test_spawn_and_cancel_in_one_turn(world: World) -> None:
    """The child starts and is cancelled; its reason arrives; a second cancel is not even sent."""
    assert world.run(cancels_at_once, 2) == ["never mind"] * 2 + ["cancelled"] * 2
    assert sum(isinstance(i, m.Cancel) for p in world.of_type("sleeps") for i in world.inputs(p.pid)) == 2


def slow() -> str:
    return "late"


@agent_process
async def cancelled_in_a_step() -> str:
    try:
        async with asyncio.timeout(5):
            return await step(slow)
    except TimeoutError:
        return "gave up"


def test_cancel_during_a_step(world: World) -> None:
    """Nobody waits for it any more; its result, when it comes, is dropped, also in a replay."""
    world.hold = lambda name: name == "slow"
    pid = world.start(cancelled_in_a_step)
    world.settle(timers=False)
    (step_,) = world.processes[pid].steps.values()
    world.settle()
    assert world.result(pid) == "gave up"
    world.send(pid, m.Result(incarnation=0, op=step_.pending.op))
    world.settle()
    world.check()
    assert world.result(pid) == "gave up"


@agent_process
async def parent_of_cancelled() -> str:
    task = asyncio.create_task(sleeps(1000))
    await sleep(1)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        emit("cancelled here")
    await sleep(10)
    return "done"


def test_cancelling_the_caller_cancels_the_child(world: World) -> None:
    """`await child()` in a task that is cancelled raises at once, and the child is cancelled too."""
    pid = world.start(parent_of_cancelled)
    world.settle()
    world.check()
    assert world.result(pid) == "done"
    (child,) = world.of_type("sleeps")
    assert child.status == "cancelled"
    assert next(r for r in world.inputs(child.pid) if isinstance(r, m.Cancel)).reason == "its caller was cancelled"


# Children and the end -------------------------------------------------------------------------------------------------


@agent_process
async def ends_first(how: str) -> str:
    handle = spawn(sleeps, 1000)
    task = asyncio.create_task(finally_spawns())
    await sleep(0)
    if how == "done":
        done("decided")
        spawn(sleeps, 2000)
    if how == "raise":
        raise ValueError(handle.status())
    return f"returned {task.done()}"


async def finally_spawns() -> None:
    try:
        await sleep(1000)
    finally:
        spawn(sleeps, 3000)
        current_process().handle.cancel()


@pytest.mark.parametrize("how", ["return", "raise", "done"])
def test_children_end_with_their_parent(world: World, how: str) -> None:
    """Whatever ends the body: children, those too that it started in its last moment, are cancelled and end before."""
    pid = world.start(ends_first, how)
    world.settle()
    world.check()
    assert world.processes[pid].ended
    children = world.of_type("sleeps")
    assert len(children) == (3 if how == "done" else 2)
    assert all(p.status == "cancelled" and p.applied < world.processes[pid].applied for p in children)
    assert world.types(pid)[-1] == ("failed" if how == "raise" else "done")
    assert not any(type(r) is m.Start for to, _, _, r in world.sent(pid)[-2:] if to == "inbox")


@agent_process
async def many(n: int) -> int:
    handles = [spawn(returns, x) for x in range(n)]
    total = 0
    for handle in handles:
        total += await handle
    return total


@agent_process
async def abandons_many(n: int) -> None:
    for x in range(n):
        spawn(sleeps, 10**6 + x)
    await sleep(0)


@pytest.mark.parametrize("type_", [many, abandons_many])
@pytest.mark.timeout(20)
def test_5000_children(world: World, type_: Any) -> None:
    """They cost what 5,000 times one costs: nothing in the parent grows with the square."""
    parent = Process(world.env, "p_parent")
    parent.apply(m.Start(type=type_.name, args=to_raw({"n": 5000}), build="build"), 1, BEGIN)
    starts = [(o.target, o.message) for o in parent.take_outputs() if isinstance(o.message, m.Start)]
    assert len(starts) == 5000
    for seq, (pid, start) in enumerate(starts, 2):
        assert start.op is not None
        assert not parent.ended
        status: Any = "done" if type_ is many else "cancelled"
        parent.apply(m.Child(incarnation=0, op=start.op, pid=pid, status=status, value=to_raw(1)), seq, BEGIN)
    assert parent.ended
    assert parent.status == "done"
    assert parent.result_raw is not None
    assert parent.result_raw[1] == to_raw(5000 if type_ is many else None)


def test_a_thousand_children(world: World) -> None:
    """All of them end with their parent."""
    pid = world.start(abandons_many, 1000)
    world.settle()
    world.refold(pid)
    assert world.processes[pid].ended
    assert sum(p.status == "cancelled" for p in world.of_type("sleeps")) == 1000


def test_ended_children_are_forgotten(world: World) -> None:
    """A process that runs children one after the other keeps nothing of them."""
    pid = world.start(serves_many, 300)
    world.settle()
    process = world.processes[pid]
    assert not process.relations.children
    assert not process.relations.open
    assert len(process.loop._tasks) < 40


@agent_process
async def serves_many(n: int) -> None:
    for x in range(n):
        await returns(x)
    await sleep(10**13)


def test_late_inputs_of_an_ended_process(world: World) -> None:
    """Whatever comes after the end changes nothing."""
    pid = world.start(returns, 1)
    world.settle()
    before = len(world.events(pid))
    for message in (m.Cancel(), m.Upgrade(build="build"), m.Resume(), m.HostLost(incarnation=0), m.Signal(name="x")):
        world.send(pid, message)
    world.send(pid, m.Start(type="returns", args=returns.signature.encode((2,), {}), build="build"))
    world.settle()
    world.check()
    assert len(world.events(pid)) == before
    assert world.result(pid) == 1
