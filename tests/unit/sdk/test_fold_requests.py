"""Requests are taken in the order of their sender, each once; what belongs to another incarnation is dropped."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from fold_world import World
from msgspec import Raw
from regrow import agent_process, expose, sleep, wait
from regrow.codec import to_raw
from regrow.requests import CLIENTS, WINDOW, Requests
from regrow_protocol import messages as m
from regrow_protocol.messages import Op, Ref


@pytest.fixture
def world() -> World:
    return World(__name__)


@agent_process
async def diary() -> list[int]:
    pages: list[int] = []

    @expose
    async def write(page: int) -> int:
        pages.append(page)
        return len(pages)

    @expose
    async def read() -> list[int]:
        return pages

    return await wait()


def call(k: int, *, pid: str = "p_a", incarnation: int = 0) -> m.Call:
    op = Op(k, "call", "write", "", "")
    return m.Call(endpoint="write", args=to_raw({"page": k}), op=op, by=Ref(pid, incarnation, k), k=k)


@pytest.mark.parametrize("order", list(permutations([1, 2, 3, 4])))
def test_any_order_with_repeats(world: World, order: tuple[int, ...]) -> None:
    """However a process's requests arrive, and however often, they are taken as 1, 2, 3, 4, and answered once."""
    pid = world.start(diary)
    for k in (*order, *order):
        world.send(pid, call(k))
    world.settle()
    assert world.ask(pid, "read") == [1, 2, 3, 4]
    assert sum(to == "inbox" and target == "p_a" for to, target, _, _ in world.sent(pid)) == 4
    world.check()


def test_senders_are_counted_apart(world: World) -> None:
    """Each process, and each incarnation of it, has numbers of its own."""
    pid = world.start(diary)
    for message in (call(1), call(1, pid="p_b"), call(1, incarnation=1), call(2, pid="p_b"), call(2, pid="p_c")):
        world.send(pid, message)
    world.settle()
    assert world.ask(pid, "read") == [1, 1, 1, 2]


def test_other_requests_are_numbered_with_them(world: World) -> None:
    """A cancel that overtakes a call waits for it: the call is taken, then the process ends."""
    pid = world.start(diary)
    world.send(pid, m.Cancel(by=Ref("p_a", 0, 9), k=2))
    world.settle()
    assert not world.processes[pid].ended
    world.send(pid, call(1))
    world.settle()
    assert world.processes[pid].ended
    answers = [m.decode_input(b) for to, target, _, b in world.sent(pid) if target == "p_a"]
    assert [(a.value, a.error) for a in answers if isinstance(a, m.Result)] == [(Raw(b"1"), None)]


def test_requests_of_clients(world: World) -> None:
    """Clients' requests may overtake each other, and are still taken once."""
    pid = world.start(diary)
    for client, k in [("c_1", 3), ("c_1", 1), ("c_1", 2), ("c_1", 3), ("c_2", 3), ("c_1", 1)]:
        world.call(pid, "write", client=client, k=k, page=k)
    world.settle()
    assert world.ask(pid, "read", client="c_3", k=1) == [3, 1, 2, 3]
    world.check()


def test_the_window_of_a_client() -> None:
    """Far behind its newest request everything counts as a repeat, and nothing in between is kept for ever."""
    requests = Requests()
    args = Raw(b"{}")

    def taken(k: int, client: str = "c") -> bool:
        return bool(requests.due(m.Call(endpoint="x", args=args, client=client, k=k), k))

    assert all(taken(k) for k in range(2, 3 * WINDOW, 2))
    assert not taken(2 * WINDOW)
    assert taken(2 * WINDOW + 1)
    assert not taken(2 * WINDOW + 1)
    assert not taken(1)
    assert len(requests._windows["c"]) <= 2 * WINDOW
    for n in range(CLIENTS + 10):
        assert taken(1, f"c{n}")
    assert len(requests._windows) == CLIENTS
    assert len(requests.marks) == CLIENTS


@agent_process
async def sleeper() -> str:
    await sleep(5)
    return "awake"


def test_the_first_outcome_counts(world: World) -> None:
    """A timer that fires twice, or for another incarnation, fires once."""
    pid = world.start(sleeper)
    world.settle(timers=False)
    (timer,) = world.processes[pid].timers.values()
    assert timer.op is not None
    other = m.Timer(incarnation=1, op=timer.op, due=timer.when() + 100)
    due = m.Timer(incarnation=0, op=timer.op, due=timer.when())
    for message in (other, due, due, other):
        world.send(pid, message)
    world.settle(timers=False)
    world.check()
    assert world.result(pid) == "awake"
    assert world.processes[pid].clock < timer.when() + 1


def test_a_start_of_an_incarnation_that_has_begun(world: World) -> None:
    """It is dropped, whatever it says."""
    pid = world.start(sleeper)
    world.send(pid, m.Start(type="diary", args=to_raw({}), build="build"))
    world.settle()
    world.check()
    assert world.result(pid) == "awake"
    assert world.types(pid) == ["started", "done"]


def test_recorded_times_never_run_backwards(world: World) -> None:
    """The clock is the latest of what was recorded, what a sender said, and what was due."""
    pid = world.start(diary)
    world.settle()
    process = world.processes[pid]
    clocks: list[float] = []
    times: list[dict[str, Any]] = [{}, {"clock": world.clock + 50}, {"at": 5.0}, {"clock": 7.0}, {}]
    for given in times:
        world.send(pid, m.Signal(name="x", **given))
        world.settle()
        clocks.append(process.clock)
    assert clocks == sorted(clocks)
    assert clocks[1] == clocks[-1]
    assert process.lead == clocks[-1], "who hears from it must not be behind it"
    world.check()
