"""Supervision in the fold; tests of groups are named after the clauses of OTP's `supervisor` that they check."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fold_world import World
from regrow import (
    Backoff,
    ExecutionCancelled,
    ExecutionFailed,
    ProcessHandle,
    RestartIntensityExceeded,
    SupervisionError,
    Supervisor,
    agent_process,
    bubble,
    current_process,
    done,
    emit,
    expose,
    fail,
    sleep,
    spawn,
    supervise,
    wait,
)
from regrow.codec import from_raw
from regrow.process import Process
from regrow_protocol import messages as m


@pytest.fixture
def world() -> World:
    return World(__name__)


@agent_process
async def worker(name: str = "w", slow_end: float = 0.0) -> str:
    @expose
    async def crash(reason: str = "crashed", retryable: bool = True) -> None:
        fail(reason, retryable=retryable)

    @expose
    async def finish(result: str = "finished") -> None:
        done(result)

    @expose
    async def hello() -> str:
        return name

    @expose
    async def hang() -> None:
        await sleep(1000.0)

    @expose
    async def nap() -> list[Any]:
        await sleep(10.0)
        return [name, current_process().incarnation]

    emit("up", name)
    try:
        return await wait()
    finally:
        if slow_end:
            await sleep(slow_end)


@agent_process
async def alone(restart: str, initial: float = 1.0) -> str:
    return await spawn(worker, restart=restart, backoff=Backoff(initial=initial, factor=3.0, max=5.0, jitter=0.0))


@agent_process
async def group(ids: list[str], options: dict[str, Any], children: dict[str, dict[str, Any]]) -> str:
    async with supervise(**options) as top:
        for id_ in ids:
            top.start(worker, id_, id=id_, **children.get(id_, {}))
        _controls(top)
    return "over"


def _controls(top: Supervisor) -> None:
    @expose
    async def which() -> list[list[str]]:
        return [[each.id, each.state, each.handle.pid] for each in top.which_children()]

    @expose
    async def counts() -> list[int]:
        found = top.count_children()
        return [found.specs, found.active, found.supervisors, found.workers]

    @expose
    async def terminate(child: str) -> None:
        await top.terminate_child(child)

    @expose
    async def restart(child: str) -> str:
        return (await top.restart_child(child)).pid

    @expose
    async def delete(child: str) -> None:
        await top.delete_child(child)

    @expose
    async def stop() -> None:
        await top.stop()


def start_group(world: World, ids: str, children: dict[str, dict[str, Any]] | None = None, **options: Any) -> str:
    pid = world.start(group, list(ids), options, children or {})
    world.settle(timers=False)
    return pid


def tell(world: World, pid: str, endpoint: str, **kwargs: Any) -> None:
    """Call an endpoint, and let all that follows happen, without waiting for timers."""
    world.call(pid, endpoint, **kwargs)
    world.settle(timers=False)


def by_name(world: World) -> dict[str, Process]:
    """The newest worker of each name."""
    return {from_raw(p.start.args)["name"]: p for p in world.of_type("worker") if p.start is not None}


def runs(world: World) -> dict[str, int]:
    """Name → incarnation of the workers that live."""
    return {name: p.incarnation for name, p in by_name(world).items() if not p.ended}


def starts(world: World) -> list[str]:
    """Names in the order in which workers announced that they are up."""
    found: list[tuple[float, str]] = []
    for pid in [p.id for p in world.of_type("worker")]:
        found += [(event.time, event.data) for event in world.events(pid) if event.type == "up"]
    return [name for _, name in sorted(found)]


def ends(world: World) -> list[str]:
    """Names in the order in which workers announced their end."""
    ended = sorted((world.events(p.id)[-1].time, name) for name, p in by_name(world).items() if p.ended)
    return [name for _, name in ended]


# One child ------------------------------------------------------------------------------------------------------------


def test_a_permanent_child_is_always_restarted(world: World) -> None:
    """Also when it has finished: same pid, next incarnation; what failed is told with `restarted`."""
    world.start(alone, "permanent")
    world.settle(timers=False)
    (child,) = world.of_type("worker")
    tell(world, child.id, "crash", reason="bad luck")
    assert (child.ended, child.status, child.incarnation) == (True, "running", 0)
    world.settle(until=world.clock + 1.5)
    assert (child.ended, child.incarnation) == (False, 1)
    tell(world, child.id, "finish")
    world.settle(until=world.clock + 10)
    assert child.incarnation == 2
    assert world.types(child.id) == ["started", "up", "restarted", "up", "restarted", "up"]
    restarted = world.events(child.id)[2]
    assert (restarted.data["reason"], restarted.final) == ("bad luck", False)
    assert world.ask(child.id, "hello") == "w"
    world.check()


def test_a_transient_child_is_restarted_only_when_it_fails(world: World) -> None:
    """Its result is that of the incarnation that finished, however many had failed before."""
    pid = world.start(alone, "transient", initial=0.0)
    world.settle(timers=False)
    (child,) = world.of_type("worker")
    for _ in range(3):
        tell(world, child.id, "crash")
        world.settle(until=world.clock + 6)
    assert child.incarnation == 3
    tell(world, child.id, "finish", result="at last")
    world.settle()
    assert world.result(pid) == "at last"
    assert world.types(child.id)[-1] == "done"
    world.check()


def test_a_temporary_child_is_never_restarted(world: World) -> None:
    """As a child without a policy."""
    pid = world.start(alone, "temporary")
    world.settle(timers=False)
    tell(world, world.of_type("worker")[0].id, "crash")
    world.settle()
    with pytest.raises(ExecutionFailed, match="crashed"):
        world.result(pid)
    world.check()


def test_what_must_not_be_retried_is_not_restarted(world: World) -> None:
    """`fail(reason, retryable=False)` is the last word, whatever the policy."""
    pid = world.start(alone, "permanent")
    world.settle(timers=False)
    tell(world, world.of_type("worker")[0].id, "crash", reason="no", retryable=False)
    world.settle()
    with pytest.raises(ExecutionFailed, match="no"):
        world.result(pid)
    world.check()


def test_the_wait_before_a_restart_grows_to_its_maximum(world: World) -> None:
    """1, 3, 5, 5 … seconds here; after a minute of running it begins anew."""
    world.start(alone, "permanent")
    world.settle(timers=False)
    (child,) = world.of_type("worker")
    waits: list[float] = []
    for _ in range(4):
        before = world.clock
        tell(world, child.id, "crash")
        world.settle(until=world.clock + 6)
        waits.append(round(world.events(child.id)[-1].time - before, 0))
    assert waits == [1, 3, 5, 5]
    world.clock += 100
    before = world.clock
    tell(world, child.id, "crash")
    world.settle(until=world.clock + 6)
    assert round(world.events(child.id)[-1].time - before, 0) == 1


def test_the_jitter_of_a_back_off_is_the_same_in_every_replay() -> None:
    """It is spread, within its share."""
    backoff = Backoff(initial=10.0, factor=1.0, max=10.0, jitter=0.5)
    delays = {backoff.delay(1, str(seed)) for seed in range(50)}
    assert len(delays) == 50
    assert all(5.0 <= delay <= 15.0 for delay in delays)
    assert backoff.delay(1, "7") == backoff.delay(1, "7")


def test_calls_wait_for_the_next_incarnation(world: World) -> None:
    """What comes while a child is down is its next incarnation's to answer; what was under way gets an error."""
    world.start(alone, "permanent")
    world.settle(timers=False)
    (child,) = world.of_type("worker")
    under_way = world.call(child.id, "hang")
    world.settle(timers=False)
    tell(world, child.id, "crash")
    waiting = world.call(child.id, "hello")
    world.settle(timers=False)
    assert waiting not in world.replies
    with pytest.raises(Exception, match="started again"):
        world.answer_of(under_way)
    world.settle(until=world.clock + 2)
    assert world.answer_of(waiting) == "w"
    world.check()


@pytest.mark.parametrize("comes_again", [True, False])
def test_a_call_that_may_be_done_twice_waits_for_the_next_incarnation(world: World, comes_again: bool) -> None:
    """As its caller chose: it is begun anew; where there is no next incarnation it fails as others do."""
    world.start(alone, "transient")
    world.settle(timers=False)
    (child,) = world.of_type("worker")
    survives = world.call(child.id, "nap", wait=True, again=True)
    dies = world.call(child.id, "nap")
    world.settle(timers=False)
    tell(world, child.id, "crash" if comes_again else "finish")
    with pytest.raises(Exception, match="started again" if comes_again else "has ended"):
        world.answer_of(dies)
    assert (survives in world.replies) is not comes_again
    world.settle()
    if comes_again:
        assert world.answer_of(survives) == ["w", 1]
    else:
        with pytest.raises(Exception, match="has ended"):
            world.answer_of(survives)
    world.check()
    world.check()


@agent_process
async def holds_on() -> list[Any]:
    child = spawn(worker, restart="permanent", backoff=Backoff(initial=1.0, jitter=0.0))
    bubble(child, source="kept")
    other = spawn(watches, child)
    seen: list[Any] = []
    for text in ("first", "second"):
        seen.append([text, await child.call("hello", wait=True)])
        await child.call("crash", reason=text)
        await child.events.listen_for("restarted")
    seen.append(await other)
    child.cancel()
    seen.append([event.type async for event in child.events])
    return seen


@agent_process
async def watches(handle: ProcessHandle) -> list[str]:
    """A handle that was handed on."""
    seen: list[str] = []
    async for event in handle.events:
        seen.append(event.type)
        if seen.count("up") == 3:
            break
    return [*seen, await handle.call("hello")]


def test_handles_calls_and_bubbles_go_on_across_restarts(world: World) -> None:
    """Of the parent, and of another process that was given the handle."""
    pid = world.start(holds_on)
    world.settle()
    first, second, seen, own = world.result(pid)
    assert (first, second) == (["first", "w"], ["second", "w"])
    assert own == ["started", "up", "restarted", "up", "restarted", "up", "cancelled"]
    assert seen == [*own[:-1], "w"]
    bubbled = [event.type for event in world.events(pid) if event.source == "kept"]
    assert bubbled == own
    world.check()


def test_a_child_that_is_down_ends_with_its_parent(world: World) -> None:
    """It announces how it had gone down; calls that wait for it are answered."""
    pid = world.start(alone, "permanent", initial=4.0)
    world.settle(timers=False)
    (child,) = world.of_type("worker")
    tell(world, child.id, "crash", reason="down")
    waiting = world.call(child.id, "hello")
    world.settle(timers=False)
    world.cancel(pid)
    world.settle(timers=False)
    assert world.processes[pid].status == "cancelled"
    assert world.events(child.id)[-1].final
    assert world.events(child.id)[-1].data["reason"] == "down"
    with pytest.raises(Exception, match="has ended"):
        world.answer_of(waiting)
    world.check()


def test_a_child_that_is_down_survives_the_end_of_its_host(world: World) -> None:
    """Folded anew, parent and child go on: the wait is over when it would have been."""
    pid = world.start(alone, "permanent", initial=3.0)
    world.settle(timers=False)
    child = world.of_type("worker")[0].id
    tell(world, child, "crash")
    for each in (pid, child):
        world.kill(each, lost=1)
    world.settle(until=world.clock + 4)
    assert world.processes[child].incarnation == 1
    assert world.ask(child, "hello") == "w"
    world.check()


# Groups ---------------------------------------------------------------------------------------------------------------


def test_one_for_one_if_one_child_terminates_only_that_one_is_restarted(world: World) -> None:
    start_group(world, "abc", strategy="one_for_one")
    tell(world, by_name(world)["b"].id, "crash")
    assert runs(world) == {"a": 0, "b": 1, "c": 0}
    world.check()


def test_one_for_all_if_one_child_terminates_all_others_are_terminated_and_all_are_restarted(world: World) -> None:
    start_group(world, "abc", strategy="one_for_all")
    tell(world, by_name(world)["b"].id, "crash")
    assert runs(world) == {"a": 1, "b": 1, "c": 1}
    assert starts(world) == ["a", "b", "c", "a", "b", "c"]
    world.check()


def test_rest_for_one_the_rest_of_the_children_started_after_it_are_restarted(world: World) -> None:
    start_group(world, "abc", strategy="rest_for_one")
    tell(world, by_name(world)["b"].id, "crash")
    assert runs(world) == {"a": 0, "b": 1, "c": 1}
    world.check()


def test_simple_one_for_one_children_are_of_one_type_and_are_forgotten_when_they_end(world: World) -> None:
    pid = start_group(world, "ab", {id_: {"restart": "transient"} for id_ in "ab"}, strategy="simple_one_for_one")
    tell(world, by_name(world)["a"].id, "finish")
    assert world.ask(pid, "counts") == [1, 1, 0, 1]
    tell(world, by_name(world)["b"].id, "crash")
    assert runs(world) == {"b": 1}
    tell(world, by_name(world)["b"].id, "finish")
    assert world.result(pid) == "over"
    world.check()


def test_intensity_if_more_than_max_restarts_occur_within_the_period_all_children_and_then_itself_terminate(
    world: World,
) -> None:
    """In the reverse order of their start; the owner fails, and says why."""
    pid = start_group(world, "abc", max_restarts=2, within=10.0)
    for n in range(3):
        assert runs(world)["b"] == n
        tell(world, by_name(world)["b"].id, "crash", reason=f"crash {n}")
    assert runs(world) == {}
    with pytest.raises(ExecutionFailed) as caught:
        world.result(pid)
    assert caught.value.error == "RestartIntensityExceeded"
    assert "more than 2 times within 10 s; last: b (ExecutionFailed: crash 2)" in caught.value.reason
    assert ends(world) == ["c", "b", "a"]
    world.check()


def test_intensity_restarts_longer_ago_than_the_period_do_not_count(world: World) -> None:
    start_group(world, "a", max_restarts=1, within=10.0)
    for n in range(4):
        world.clock += 11
        tell(world, by_name(world)["a"].id, "crash")
        assert runs(world) == {"a": n + 1}
    world.check()


def test_intensity_zero_allows_no_restart(world: World) -> None:
    pid = start_group(world, "ab", max_restarts=0)
    tell(world, by_name(world)["a"].id, "crash")
    assert world.processes[pid].status == "failed"
    assert runs(world) == {}


@agent_process
async def carries_failures() -> list[list[Any]]:
    try:
        async with supervise(max_restarts=1, within=100.0) as top:
            top.start(failing, "one", id="x")
            await sleep(50)
    except RestartIntensityExceeded as error:
        return [[each.id, each.incarnation, each.status, each.reason, each.error] for each in error.failures]
    return []


@agent_process
async def failing(text: str) -> None:
    raise KeyError(text)


def test_the_error_carries_every_failure(world: World) -> None:
    assert world.run(carries_failures) == [
        ["x", 0, "failed", "'one'", "KeyError"],
        ["x", 1, "failed", "'one'", "KeyError"],
    ]


@agent_process
async def awaits_in_its_block() -> int:
    try:
        async with supervise(max_restarts=2, within=100.0) as top:
            top.start(worker, "other", id="other")
            await top.start(failing, "one", id="x", restart="transient")
    except RestartIntensityExceeded as error:
        return len(error.failures)
    return 0


def test_who_awaits_the_child_over_which_its_group_gives_up_hears_of_the_group(world: World) -> None:
    """Not only of the last failure of that child."""
    assert world.run(awaits_in_its_block) == 3
    assert runs(world) == {}


def test_permanent_transient_temporary_within_a_group(world: World) -> None:
    """A temporary child is not restarted even when it would be with others (rest_for_one, one_for_all)."""
    children = {"a": {"restart": "permanent"}, "b": {"restart": "transient"}, "c": {"restart": "temporary"}}
    pid = start_group(world, "abc", children, strategy="one_for_all", max_restarts=10)
    tell(world, by_name(world)["b"].id, "finish")
    assert runs(world) == {"a": 0, "c": 0}
    tell(world, by_name(world)["a"].id, "finish")
    assert [(id_, state) for id_, state, _ in world.ask(pid, "which")] == [("a", "running"), ("b", "running")]
    assert runs(world) == {"a": 1, "b": 0}
    world.check()


def test_a_temporary_child_that_ends_does_not_end_others(world: World) -> None:
    start_group(world, "ab", {"a": {"restart": "temporary"}}, strategy="one_for_all")
    tell(world, by_name(world)["a"].id, "crash")
    assert runs(world) == {"b": 0}


def test_shutdown_a_child_that_does_not_end_in_time_is_killed(world: World) -> None:
    """Its `finally` waits for 60 seconds; the group for 5."""
    pid = world.start(slow_group, 5.0)
    world.settle(timers=False)
    began = world.clock
    world.call(pid, "stop")
    world.settle(until=began + 4.9)
    assert runs(world) == {"slow": 0}
    world.settle(until=began + 5.1)
    assert world.result(pid) == "over"
    assert runs(world) == {}
    world.check()


def test_shutdown_zero_kills_at_once(world: World) -> None:
    pid = world.start(slow_group, 0.0)
    world.settle(timers=False)
    tell(world, pid, "stop")
    assert world.result(pid) == "over"
    world.check()


@agent_process
async def slow_group(shutdown: float, names: tuple[str, ...] = ("slow",)) -> str:
    async with supervise() as top:
        for n, name in enumerate(names):
            top.start(worker, name, 30.0 if n else 60.0, id=name, shutdown=shutdown)
        _controls(top)
    return "over"


def test_auto_shutdown_any_significant(world: World) -> None:
    """The first significant child that ends by itself ends the group, without an error."""
    children = {id_: {"restart": "transient", "significant": id_ != "a"} for id_ in "abc"}
    pid = start_group(world, "abc", children, auto_shutdown="any_significant")
    tell(world, by_name(world)["a"].id, "finish")
    assert runs(world) == {"b": 0, "c": 0}
    tell(world, by_name(world)["b"].id, "finish")
    assert world.result(pid) == "over"
    assert runs(world) == {}


@agent_process
async def waits_inside(cancelled: bool) -> str:
    async with supervise(auto_shutdown="any_significant") as top:
        top.start(worker, "a", id="a", restart="transient", significant=True)
        me = asyncio.current_task()
        if cancelled and me is not None:
            me.cancel()
        await sleep(1000.0)
    return "left"


def test_auto_shutdown_ends_what_the_block_waits_for(world: World) -> None:
    """As a supervisor of OTP ends; a cancel from elsewhere stays one."""
    pid = world.start(waits_inside, False)
    world.settle(timers=False)
    tell(world, by_name(world)["a"].id, "finish")
    assert world.result(pid) == "left"
    other = world.start(waits_inside, True)
    world.settle(timers=False)
    with pytest.raises(ExecutionCancelled):
        world.result(other)
    world.check()


def test_auto_shutdown_all_significant(world: World) -> None:
    children = {id_: {"restart": "transient", "significant": id_ != "a"} for id_ in "abc"}
    pid = start_group(world, "abc", children, auto_shutdown="all_significant")
    tell(world, by_name(world)["b"].id, "finish")
    assert runs(world) == {"a": 0, "c": 0}
    tell(world, by_name(world)["c"].id, "finish")
    assert world.result(pid) == "over"


@pytest.mark.parametrize(
    ("options", "child", "match"),
    [
        ({"auto_shutdown": "never"}, {"restart": "transient", "significant": True}, "cannot be significant"),
        ({"auto_shutdown": "any_significant"}, {"significant": True}, "cannot be significant"),
        ({"strategy": "two_for_one"}, {}, "strategy must be one of"),
        ({"auto_shutdown": "always"}, {}, "auto_shutdown must be one of"),
        ({"max_restarts": -1}, {}, "must not be negative"),
        ({"within": 0}, {}, "must be positive"),
        ({}, {"restart": "always"}, "restart must be one of"),
        ({}, {"shutdown": -1}, "must not be negative"),
    ],
)
def test_what_cannot_be(world: World, options: dict[str, Any], child: dict[str, Any], match: str) -> None:
    """Each wrong option of a group or child fails the owner with what is possible."""
    pid = start_group(world, "a", {"a": child}, **options)
    world.settle()
    with pytest.raises(ExecutionFailed, match=match):
        world.result(pid)


def test_terminate_restart_and_delete_child(world: World) -> None:
    """A terminated child stays known and is started again under its pid; only a stopped one is deleted."""
    pid = start_group(world, "ab")
    first = by_name(world)["a"].id
    with pytest.raises(Exception, match="runs"):
        world.ask(pid, "delete", child="a")
    with pytest.raises(Exception, match="runs"):
        world.ask(pid, "restart", child="a")
    with pytest.raises(Exception, match="has no child 'z'"):
        world.ask(pid, "terminate", child="z")
    world.ask(pid, "terminate", child="a")
    assert runs(world) == {"b": 0}
    assert world.ask(pid, "which")[0][:2] == ["a", "stopped"]
    assert world.ask(pid, "restart", child="a") == first
    world.settle(timers=False)
    assert runs(world) == {"a": 1, "b": 0}
    world.ask(pid, "terminate", child="a")
    world.ask(pid, "delete", child="a")
    assert [each[0] for each in world.ask(pid, "which")] == ["b"]
    assert world.events(first)[-1].final
    world.check()


def test_a_child_that_had_finished_is_started_as_a_new_process(world: World) -> None:
    """Its end was announced as its last; `restart_child` gives the handle of another."""
    pid = start_group(world, "ab", {"a": {"restart": "transient"}})
    first = by_name(world)["a"].id
    tell(world, first, "finish")
    assert world.ask(pid, "restart", child="a") != first
    world.settle(timers=False)
    assert runs(world) == {"a": 0, "b": 0}


@agent_process
async def nested(max_restarts: int) -> str:
    async with supervise(max_restarts=max_restarts, within=100.0) as top:
        top.start(group, ["x", "y"], {"max_restarts": 1, "within": 100.0}, {}, id="inner", kind="supervisor")
        _controls(top)
    return "over"


def test_nested_supervisors_escalate(world: World) -> None:
    """The inner group gives up, the outer one starts it again with all its children; in the end it gives up too."""
    pid = world.start(nested, 1)
    world.settle(timers=False)
    assert world.ask(pid, "counts") == [1, 1, 1, 0]
    for _ in range(2):
        for _ in range(2):
            tell(world, by_name(world)["x"].id, "crash")
        world.settle(until=world.clock + 1)
    assert world.processes[pid].status == "failed"
    assert [p for p in world.processes.values() if not p.ended] == []
    world.check()


def test_children_that_fail_at_once_are_restarted_once(world: World) -> None:
    """One fails while it is being stopped for another's sake; later it can be stopped all the same."""
    pid = start_group(world, "abc", strategy="one_for_all", max_restarts=10)
    for round_ in (1, 2):
        for name in "ac":
            world.call(by_name(world)[name].id, "crash")
        world.settle(timers=False)
        assert runs(world) == {"a": round_, "b": round_, "c": round_}
    world.ask(pid, "terminate", child="c")
    assert runs(world) == {"a": 2, "b": 2}
    world.check()


def test_an_end_that_is_told_twice_counts_once(world: World) -> None:
    """The child's host died, and what the child had sent is sent again."""
    start_group(world, "a", max_restarts=1, within=100.0)
    child = by_name(world)["a"].id
    tell(world, child, "crash")
    world.kill(child, lost=3)
    world.settle(timers=False)
    assert runs(world) == {"a": 1}
    world.check()


def test_what_fails_while_another_child_is_stopped_may_be_terminated(world: World) -> None:
    """Its end had come, but nobody had dealt with it; it stays stopped. Meanwhile it may not be deleted."""
    pid = world.start(slow_group, 60.0, names=["a", "b"])
    world.settle(timers=False)
    world.call(pid, "terminate", child="a")
    world.settle(timers=False)
    refused, terminated = world.call(pid, "delete", child="b"), world.call(pid, "terminate", child="b")
    world.call(by_name(world)["b"].id, "crash")
    world.settle()
    with pytest.raises(Exception, match="is being started again"):
        world.answer_of(refused)
    assert world.answer_of(terminated) is None
    assert runs(world) == {}
    world.check()


def test_a_group_is_over_when_its_last_running_child_is_terminated(world: World) -> None:
    pid = start_group(world, "a")
    tell(world, pid, "terminate", child="a")
    assert world.result(pid) == "over"


def test_simple_one_for_one_a_terminated_child_is_forgotten(world: World) -> None:
    pid = start_group(world, "ab", strategy="simple_one_for_one")
    world.ask(pid, "terminate", child="a")
    assert [each[0] for each in world.ask(pid, "which")] == ["b"]
    assert world.events(world.of_type("worker")[0].id)[-1].final


def test_auto_shutdown_all_significant_goes_by_those_that_are_active(world: World) -> None:
    """A terminated child does not keep the group."""
    children = {id_: {"restart": "transient", "significant": id_ != "a"} for id_ in "abc"}
    pid = start_group(world, "abc", children, auto_shutdown="all_significant")
    world.ask(pid, "terminate", child="b")
    tell(world, by_name(world)["c"].id, "finish")
    assert world.result(pid) == "over"


def test_shutdown_by_default_a_supervisor_has_as_long_as_it_takes(world: World) -> None:
    """Its children are stopped one after the other, 60 and 30 seconds here."""
    pid = world.start(group_of_groups)
    world.settle(timers=False)
    world.call(pid, "terminate", child="inner")
    world.settle()
    assert ends(world) == ["y", "x"]
    assert world.events(by_name(world)["x"].id)[-1].time > world.events(by_name(world)["y"].id)[-1].time + 50
    world.check()


@agent_process
async def group_of_groups() -> str:
    async with supervise() as top:
        top.start(slow_group, 100.0, ("x", "y"), id="inner", kind="supervisor")
        _controls(top)
    return "over"


@agent_process
async def left_by_error() -> str:
    try:
        async with supervise() as top:
            top.start(worker, "a", id="a")
            raise LookupError("the body's own")
    except LookupError as error:
        return str(error)


def test_an_error_in_the_block_stops_the_children(world: World) -> None:
    """And is raised as it was."""
    assert world.run(left_by_error) == "the body's own"
    assert runs(world) == {}


def test_a_group_that_is_cancelled_stops_its_children_in_reverse_order(world: World) -> None:
    """One after the other; each may take its time."""
    pid = world.start(slow_group, 60.0, names=["a", "b", "c"])
    world.settle(timers=False)
    began = world.clock
    world.cancel(pid)
    world.settle()
    assert world.processes[pid].status == "cancelled"
    assert runs(world) == {}
    assert ends(world) == ["c", "b", "a"]
    assert [round(world.events(by_name(world)[name].id)[-1].time - began) for name in "cba"] == [30, 60, 120]
    world.check()


@agent_process
async def outside_of_block() -> str:
    top = supervise()
    try:
        top.start(worker, "a")
    except SupervisionError as error:
        return error.message
    return ""


def test_children_are_started_inside_the_block(world: World) -> None:
    assert world.run(outside_of_block) == "The group is not running"


def test_restarts_are_messages_of_the_documented_kinds(world: World) -> None:
    """`child` with `down`, `again`, `start` of the next incarnation: no other traffic."""
    pid = start_group(world, "a")
    child = by_name(world)["a"].id
    tell(world, child, "crash")
    kinds = [type(message) for message in world.inputs(child)]
    assert kinds == [m.Start, m.Call, m.Again, m.Start]
    down = [message for message in world.inputs(pid) if isinstance(message, m.Child)]
    assert [(each.down, each.run, each.status) for each in down] == [(True, 0, "failed")]
