"""The fold's side of `restart` bodies: acts are done in their order, and a new incarnation follows a lost host."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from fold_world import World
from msgspec import Raw
from regrow import (
    EndpointNotFound,
    ExecutionFailed,
    ProcessEnded,
    ProcessHandle,
    agent_process,
    bubble,
    emit,
    sleep,
    spawn,
)
from regrow.codec import to_raw
from regrow.restart import CallAct, Delivery, EmitAct, Outcome, Spawn, Target
from regrow_protocol import messages as m
from regrow_protocol.messages import Failure, Ref


@pytest.fixture
def world() -> World:
    return World(__name__)


@agent_process(resume="restart", max_restarts=2, timeout=1000.0)
async def worker(job: str) -> str:
    raise AssertionError("the fold runs no restart body")


@agent_process
async def slow_child(seconds: float) -> str:
    try:
        await sleep(seconds)
    finally:
        emit("child leaves")
    return "child"


class Body:
    """What a host's side of the body does, written by hand."""

    def __init__(self, world: World, pid: str, incarnation: int = 0) -> None:
        self.world, self.pid, self.incarnation = world, pid, incarnation
        self.m = 0

    def act(self, what: str, data: Any = None, *, number: int = 0, settle: bool = True) -> int:
        self.m += 0 if number else 1
        raw = Raw(msgspec.json.encode(data))
        self.world.send(self.pid, m.Act(incarnation=self.incarnation, m=number or self.m, what=what, data=raw))
        if settle:
            self.world.settle(timers=False)
        return number or self.m

    def deliveries(self) -> list[tuple[str, int, Any]]:
        restart = self.world.processes[self.pid].restart
        assert restart is not None
        taken: list[Delivery] = list(restart.deliveries)
        restart.deliveries.clear()
        return [
            (
                d.what,
                d.m,
                d.error.message if d.error else msgspec.json.decode(d.value) if isinstance(d.value, Raw) else None,
            )
            for d in taken
        ]


@pytest.fixture
def body(world: World) -> Body:
    pid = world.start(worker, "job")
    world.settle(timers=False)
    return Body(world, pid)


def lose(world: World, pid: str, incarnation: int = 0) -> None:
    world.send(pid, m.HostLost(incarnation=incarnation, host="h_1"))
    world.settle(timers=False)


def test_a_body_lives_through_its_acts(world: World, body: Body) -> None:
    """What it asks for is done by the fold, and the answers are handed to it by the number of its act."""
    body.act("emit", EmitAct("hello", Raw(b"1")))
    child = body.act("spawn", Spawn(pid="p_child", type="slow_child", args=to_raw({"seconds": 5.0})))
    watch = body.act("watch", Target("p_child"))
    body.act("expose", Target("ask"))
    body.act("turn")
    missing = body.act("call", CallAct("p_child", "nothing", to_raw({})))
    got = body.deliveries()
    assert next(d for d in got if d[1] == watch)[2]["type"] == "started"
    assert ("result", missing, "No endpoint 'nothing'; exposed: none") in got
    reply = world.call(body.pid, "ask", x=1)
    world.settle(timers=False)
    assert body.deliveries() == [("call", 1, {"endpoint": "ask", "args": {"x": 1}})]
    body.act("answer", Outcome("done", Raw(b'"yes"'), key=1))
    assert world.answer_of(reply) == "yes"
    world.settle(until=world.clock + 10)
    assert ("result", child, "child") in body.deliveries()
    body.act("end", Outcome("done", Raw(b'"result"')))
    assert world.result(body.pid) == "result"
    assert world.types(body.pid) == ["started", "hello", "done"]
    world.check()


def test_acts_are_taken_in_order_and_once(world: World, body: Body) -> None:
    """However they arrive."""
    for number in (3, 1, 3, 2, 1, 2, 4):
        body.act("emit", EmitAct("n", Raw(str(number).encode())), number=number)
    body.act("emit", EmitAct("other incarnation"), number=5, settle=False)
    world.send(body.pid, m.Act(incarnation=1, m=6, what="emit", data=Raw(b'{"type":"x"}')))
    world.settle(timers=False)
    assert [e.data for e in world.events(body.pid)] == [None, 1, 2, 3, 4, None]
    world.check()


def test_calls_wait_for_the_first_turn(world: World, body: Body) -> None:
    """Until the body has had it nobody knows what it will expose."""
    known, unknown = world.call(body.pid, "ask"), world.call(body.pid, "nothing")
    world.settle(timers=False)
    assert world.replies == {}
    body.act("expose", Target("ask"))
    assert [d[0] for d in body.deliveries()] == ["call"]
    body.act("turn")
    with pytest.raises(EndpointNotFound, match="exposed: ask"):
        world.answer_of(unknown)
    body.act("answer", Outcome("done", Raw(b"1"), key=1))
    assert world.answer_of(known) == 1
    world.check()


def test_cancelling_it(world: World, body: Body) -> None:
    """The body is told; the outcome is cancelled whatever it does then; its children end first."""
    body.act("spawn", Spawn(pid="p_child", type="slow_child", args=to_raw({"seconds": 1e6})))
    world.cancel(body.pid, "enough")
    world.settle(timers=False)
    assert ("cancel", 0, None) in body.deliveries()
    assert world.processes["p_child"].ended
    body.act("emit", EmitAct("last words"))
    assert not world.processes[body.pid].ended
    body.act("end", Outcome("done", Raw(b"1")))
    assert world.types(body.pid) == ["started", "last words", "cancelled"]
    world.check()


def test_its_timeout(world: World, body: Body) -> None:
    """As a cancellation, but it has failed."""
    world.settle()
    assert body.deliveries() == [("cancel", 0, None)]
    body.act("end", Outcome("cancelled", error=Failure("CancelledError", "cancelled", "cancelled")))
    assert world.events(body.pid)[-1].data["reason"] == "timed out after 1000 s"


def test_a_lost_host(world: World, body: Body) -> None:
    """The next incarnation begins on the same pid, with numbered events, when the children of the last have ended."""
    body.act("expose", Target("ask"))
    body.act("turn")
    body.act("spawn", Spawn(pid="p_child", type="slow_child", args=to_raw({"seconds": 1e6})))
    under_way = world.call(body.pid, "ask", k=1)
    world.settle(timers=False)
    world.send(body.pid, m.HostLost(incarnation=0, host="h_1"))
    in_between = world.call(body.pid, "ask", k=2)
    while world.deliver(timers=False) and world.processes[body.pid].incarnation == 0:
        pass
    child = world.processes["p_child"]
    assert child.status == "cancelled"
    assert child.applied < world.processes[body.pid].applied
    world.settle(timers=False)
    with pytest.raises(ProcessEnded, match="lost its host during the call"):
        world.answer_of(under_way)
    assert in_between not in world.replies
    process = world.processes[body.pid]
    assert (process.incarnation, process.status, process.ended) == (1, "running", False)
    # Acts of the old body come too late, wherever they were.
    body.act("emit", EmitAct("ghost"))
    body.act("end", Outcome("done", Raw(b"1")))
    again = Body(world, body.pid, 1)
    again.act("expose", Target("ask"))
    again.act("turn")
    ((_, key, _),) = [d for d in again.deliveries() if d[0] == "call"]
    again.act("answer", Outcome("done", Raw(b"2"), key=key))
    assert world.answer_of(in_between) == 2
    again.act("end", Outcome("done", Raw(b'"second"')))
    assert world.result(body.pid) == "second"
    events = world.events(body.pid)
    assert [e.type for e in events] == ["started", "restarted", "done"]
    assert [e.seq for e in events] == [1, 2, 3]
    world.check()


def test_max_restarts(world: World, body: Body) -> None:
    """After the last one allowed it has failed, and says why."""
    for incarnation in range(3):
        lose(world, body.pid, incarnation)
        lose(world, body.pid, incarnation)  # noted by two hosts
    assert world.processes[body.pid].ended
    assert world.types(body.pid) == ["started", "restarted", "restarted", "failed"]
    assert "may not be restarted again (max_restarts=2)" in world.events(body.pid)[-1].data["reason"]
    world.check()


def test_a_host_lost_after_the_decision(world: World, body: Body) -> None:
    """What was decided stands; there is nothing to start again."""
    body.act("decide", Outcome("done", Raw(b'"early"')))
    lose(world, body.pid)
    assert world.result(body.pid) == "early"
    assert world.types(body.pid) == ["started", "done"]
    other = Body(world, world.start(worker, "other"))
    world.settle(timers=False)
    world.cancel(other.pid)
    lose(world, other.pid)
    assert world.types(other.pid) == ["started", "cancelled"]


def test_a_host_lost_of_another_incarnation(world: World, body: Body) -> None:
    """It is dropped."""
    lose(world, body.pid, 0)
    lose(world, body.pid, 0)
    assert world.processes[body.pid].incarnation == 1
    assert world.types(body.pid) == ["started", "restarted"]


def test_activation_from_the_last_start(world: World, body: Body) -> None:
    """Folding only what the last incarnation left open gives the same process, with all requests that wait."""
    pid = body.pid
    sender = Ref("p_sender", 0, 1)
    for k in (1, 2):
        world.send(pid, m.Call(endpoint="ask", args=to_raw({}), by=sender, op=m.Op(k, "call", "ask", "", ""), k=k))
    body.act("spawn", Spawn(pid="p_child", type="slow_child", args=to_raw({"seconds": 1e6})))
    early = m.Call(endpoint="ask", args=to_raw({}), by=Ref("p_early", 0, 1), op=m.Op(2, "call", "ask", "", ""), k=2)
    world.send(pid, early)
    client = world.call(pid, "ask", client="c_9", k=1)
    world.settle(timers=False)
    world.send(pid, m.HostLost(incarnation=0))
    for k in (2, 3):
        world.send(pid, m.Call(endpoint="ask", args=to_raw({}), by=sender, op=m.Op(k, "call", "ask", "", ""), k=k))
    world.send(pid, m.Watch(by=Ref("p_watcher", 0, 5)))
    world.settle(timers=False)
    process = world.processes[pid]
    assert process.start is not None
    from_start = type(process)(world.env, pid)
    turns = [t for t in world.histories[pid] if t.seq > process.start.since]
    assert len(turns) == len(world.histories[pid]) - 1, "the first call is still open"
    since_start = False
    for turn in turns:
        message = m.decode_input(turn.message)
        from_start.apply(message, turn.seq, turn.time)
        sent = [(o.to, o.target, o.n, m.encode(o.message)) for o in from_start.take_outputs()]
        since_start = since_start or isinstance(message, m.Start)
        if since_start:
            assert sent == turn.sent
    assert (from_start.n, from_start.incarnation) == (process.n, process.incarnation)
    waiting = [(c.by.pid if c.by else c.reply, c.k) for c, _ in process.endpoints.waiting]
    assert waiting == [("p_sender", 1), ("p_sender", 2), (client, 1), ("p_sender", 3)]
    assert from_start.endpoints.waiting == process.endpoints.waiting
    assert from_start._requests.early == process._requests.early
    assert [r for r, _ in process._requests.early] == [early]
    assert world.replies == {}


@agent_process
async def boss() -> list[Any]:
    handle = spawn(worker, "job")
    bubble(handle, "worker")
    seen = [await handle.call("ask", wait=True)]
    late = spawn(late_watcher, handle)
    seen.append(await handle)
    seen.append([[e.seq, e.type] async for e in handle.events])
    seen.append(await late)
    return seen


@agent_process
async def late_watcher(handle: ProcessHandle) -> list[Any]:
    return [[e.seq, e.type] async for e in handle.events]


def test_handles_and_bubbles_outlive_an_incarnation(world: World) -> None:
    """Who has a handle notices a restart only by its event; who watches later sees the last incarnation."""
    pid = world.start(boss)
    world.settle(timers=False)
    (process,) = world.of_type("worker")
    lose(world, process.pid)
    body = Body(world, process.pid, 1)
    body.act("turn")
    with pytest.raises(AssertionError, match="has not ended"):
        world.result(pid)
    body.act("expose", Target("ask"))
    for what, key, _ in body.deliveries():
        if what == "call":
            body.act("answer", Outcome("done", Raw(b'"answer"'), key=key))
    body.act("end", Outcome("done", Raw(b'"result"')))
    world.settle()
    world.check()
    try:
        answer, result, events, late = world.result(pid)
    except ExecutionFailed as error:
        pytest.fail(str(error))
    assert (answer, result) == ("answer", "result")
    assert events == [[1, "started"], [2, "restarted"], [3, "done"]]
    assert late == [[2, "restarted"], [3, "done"]]
    assert [e.type for e in world.events(pid) if e.source == "worker"] == ["started", "restarted", "done"]
