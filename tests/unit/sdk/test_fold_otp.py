"""Random trees of supervisors with random failures end in the state that a model of OTP's rules predicts."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from typing import Any

import pytest
from fold_world import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from otp_model import Model, Node
from regrow import RestartIntensityExceeded, agent_process, done, emit, expose, fail, sleep, supervise, wait
from regrow.codec import from_raw
from regrow.process import Process
from regrow_protocol import messages as m

EXAMPLES = int(os.environ.get("REGROW_EXAMPLES", "0")) or (20_000 if os.environ.get("REGROW_CHAOS") == "long" else 150)
WITHIN = 50.0
"""Seconds of every group's period. All that takes time here takes a multiple of 4, so nothing is as long."""


# The program ----------------------------------------------------------------------------------------------------------


@agent_process
async def worker(spec: dict[str, Any]) -> None:
    _may_end()
    try:
        await wait()
    except asyncio.CancelledError:
        await sleep(spec["slow"])
        raise


@agent_process
async def supervisor(spec: dict[str, Any]) -> None:
    options = {"strategy": spec["strategy"], "max_restarts": spec["max_restarts"], "auto_shutdown": spec["auto"]}
    _may_end()
    try:
        async with supervise(within=WITHIN, **options) as group:
            for child in spec["children"]:
                policy = {name: child[name] for name in ("id", "restart", "shutdown", "significant")}
                group.start(supervisor if "children" in child else worker, child, **policy)

            @expose
            async def which() -> list[list[Any]]:
                return [[each.id, each.state == "running"] for each in group.which_children()]

            @expose
            async def active() -> int:
                return group.count_children().active

            @expose
            async def terminate(child: str) -> None:
                await group.terminate_child(child)

            @expose
            async def restart(child: str) -> None:
                await group.restart_child(child)

            @expose
            async def delete(child: str) -> None:
                await group.delete_child(child)

            if spec["held"]:
                await wait()
    except RestartIntensityExceeded as error:
        emit("gave-up", [[each.id, each.incarnation, each.status] for each in error.failures])
        raise


def _may_end() -> None:
    @expose
    async def end(how: str) -> None:
        if how == "done":
            done()
        else:
            fail("crashed", retryable=how == "failed")


# What it did ----------------------------------------------------------------------------------------------------------


class Tree:
    """A tree that runs in the fold."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.world = World(__name__)
        self.root = self.world.start(supervisor, spec)
        self.world.settle()

    def leave(self) -> None:
        for process in self.world.processes.values():
            process.leave()

    def living(self) -> dict[str, Process]:
        """By path; no two processes of one path live."""
        found: dict[str, Process] = {}
        for process in self.world.processes.values():
            if not process.ended:
                path = self.path(process)
                assert path not in found
                found[path] = process
        return found

    def path(self, process: Process) -> str:
        assert process.start is not None
        id_ = from_raw(process.start.args)["spec"]["id"]
        parent = process.start.parent
        return f"{self.path(self.world.processes[parent.pid])}.{id_}" if parent is not None else id_

    def happened(self) -> dict[str, list[tuple[str, str]]]:
        """Among the children of each supervisor, in this order: which were begun, which told that they have ended."""
        seen: dict[str, list[tuple[float, int, str, str]]] = defaultdict(list)
        for process in self.world.processes.values():
            above, _, id_ = self.path(process).rpartition(".")
            ended: set[int] = set()
            for turn in self.world.histories[process.id]:
                for at, (to, target, _, body) in enumerate(turn.sent):
                    message = m.decode_input(body) if to == "inbox" else None
                    if isinstance(message, m.Start | m.Again) and target != process.id:
                        path, _, child = self.path(self.world.processes[target]).rpartition(".")
                        seen[path].append((turn.time, at, "up", child))
                    elif isinstance(message, m.Child) and message.run not in ended:
                        ended.add(message.run)
                        seen[above].append((turn.time, at, "down", id_))
        return {above: [(what, id_) for _, _, what, id_ in sorted(found)] for above, found in seen.items()}

    def gave_up(self) -> list[tuple[str, list[Any]]]:
        found = [(event, p) for pid, p in self.world.processes.items() for event in self.world.events(pid)]
        return [
            (self.path(process), event.data)
            for event, process in sorted(found, key=lambda each: each[0].time)
            if event.type == "gave-up"
        ]


def unordered(happened: list[tuple[str, str]]) -> list[tuple[str, ...]]:
    """With the ends of children that are stopped all at once in no order."""
    found: list[tuple[str, ...]] = []
    for what, id_ in happened:
        if what == "down" and found and found[-1][0] == "down":
            found[-1] = ("down", *sorted([*found[-1][1:], id_]))
        else:
            found.append((what, id_))
    return found


def compare(tree: Tree, model: Model) -> None:
    """Who runs, as which incarnation, and what each supervisor knows of its children."""
    expected = {node.path: node for node in nodes(model)}
    living = tree.living()
    assert {path: p.incarnation for path, p in living.items()} == {path: n.run for path, n in expected.items()}
    for path, node in expected.items():
        if "children" in node.spec:
            which = tree.world.ask(living[path].id, "which")
            assert which == [[each.id, each.alive] for each in node.children]
            assert tree.world.ask(living[path].id, "active") == sum(each.alive for each in node.children)


def compare_stories(tree: Tree, model: Model, spec: dict[str, Any]) -> None:
    """In which order all of it came about."""
    simple = {path for path, each in paths(spec) if each.get("strategy") == "simple_one_for_one"}
    told = tree.happened()
    assert told.keys() == model.happened.keys()
    for path, expected in model.happened.items():
        if path in simple:
            assert unordered(told[path]) == unordered(expected)
        else:
            assert told[path] == expected
    assert tree.gave_up() == model.gave_up


def nodes(model: Model) -> list[Node]:
    """Those that run."""
    found, waiting = [], [model.root]
    while waiting:
        node = waiting.pop(0)
        if node.alive:
            found.append(node)
            waiting += node.children
    return found


def paths(spec: dict[str, Any], above: str = "") -> list[tuple[str, dict[str, Any]]]:
    path = f"{above}.{spec['id']}" if above else spec["id"]
    return [(path, spec), *(each for child in spec.get("children", []) for each in paths(child, path))]


# What is done to it ---------------------------------------------------------------------------------------------------


def do(tree: Tree, model: Model, event: list[Any]) -> None:
    """Let an event happen to the tree and to the model; `event` names processes by numbers among those that fit."""
    world, living = tree.world, tree.living()
    running = nodes(model)
    supervisors = [node for node in running if "children" in node.spec]
    kind, *numbers = event
    if kind == "time":
        world.clock += numbers[0]
        model.clock += numbers[0]
    elif kind == "host":
        for pid in [p.id for p in living.values()]:
            world.kill(pid, lost=min(numbers[0], len(world.histories[pid]) - 1))
        world.settle()
    elif kind == "end":
        node = running[numbers[0] % len(running)]
        if numbers[1] == "cancelled":
            world.cancel(living[node.path].id)
        elif "children" in node.spec and (not node.spec["held"] or numbers[1] == "done"):
            return  # a body that is through goes by its children
        else:
            world.call(living[node.path].id, "end", how=numbers[1])
        world.settle()
        model.exits((node, numbers[1]))
    elif supervisors:
        above = supervisors[numbers[0] % len(supervisors)]
        workers = [each for each in above.children if each.alive and "children" not in each.spec]
        deaths = {workers[n % len(workers)]: how for n, how in numbers[1]} if workers else {}
        asked = [(what, above.children[n % len(above.children)]) for what, n in numbers[2]] if above.children else []
        for node, how in deaths.items():
            world.call(living[node.path].id, "end", how=how)
        replies = [world.call(living[above.path].id, what, child=node.id) for what, node in asked]
        world.settle()
        model.die(*deaths.items())
        done = [getattr(model, f"{what}_child")(node) for what, node in asked]
        model.hear(above, *deaths.items())
        if above.alive:
            assert done == [world.replies[reply][0].error is None for reply in replies]


NUMBER = st.integers(0, 11)
HOW = st.sampled_from(["failed", "failed", "failed", "done", "final"])
ASKED = st.tuples(st.sampled_from(["terminate", "restart", "delete"]), NUMBER)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("end"), NUMBER, st.one_of(HOW, st.just("cancelled"))),
        st.tuples(
            st.just("at once"), NUMBER, st.lists(st.tuples(NUMBER, HOW), max_size=3), st.lists(ASKED, max_size=3)
        ),
        st.tuples(st.just("at once"), NUMBER, st.just([]), st.lists(ASKED, min_size=1, max_size=1)),
        st.tuples(st.just("time"), st.sampled_from([4, 20, 60])),
        st.tuples(st.just("host"), st.integers(0, 3)),
    ),
    min_size=1,
    max_size=12,
)


@st.composite
def supervisors(draw: st.DrawFn, id_: str = "0", depth: int = 0, auto_above: str = "never") -> dict[str, Any]:
    """The spec of a supervisor, and of all below it."""
    strategy = draw(st.sampled_from(["one_for_one", "one_for_all", "rest_for_one", "simple_one_for_one"]))
    auto = draw(st.sampled_from(["never", "never", "any_significant", "all_significant"]))
    alike = draw(st.booleans())
    children = []
    for n in range(draw(st.integers(1, 3))):
        is_supervisor = depth < 2 and (alike if strategy == "simple_one_for_one" else draw(st.booleans()))
        children.append(draw(supervisors(str(n), depth + 1, auto) if is_supervisor else workers(str(n), auto)))
    return {
        **draw(policies(id_, auto_above)),
        "shutdown": None,
        "slow": 0.0,
        "strategy": strategy,
        "max_restarts": draw(st.integers(0, 3)),
        "within": WITHIN,
        "auto": auto,
        "held": auto == "never" and draw(st.booleans()),
        "children": children,
    }


@st.composite
def workers(draw: st.DrawFn, id_: str, auto_above: str) -> dict[str, Any]:
    slow, shutdown = draw(st.sampled_from([(0.0, 8.0), (4.0, 8.0), (8.0, 4.0), (8.0, None), (4.0, 0.0)]))
    return {**draw(policies(id_, auto_above)), "slow": slow, "shutdown": shutdown}


@st.composite
def policies(draw: st.DrawFn, id_: str, auto_above: str) -> dict[str, Any]:
    restart = draw(st.sampled_from(["permanent", "transient", "temporary"]))
    significant = restart != "permanent" and auto_above != "never" and draw(st.booleans())
    return {"id": id_, "restart": restart, "significant": significant}


@pytest.mark.timeout(300 + EXAMPLES)  # seconds of a processor that others want, too
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 1000,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(supervisors(), EVENTS)
def test_a_tree_ends_in_the_state_that_otp_rules_predict(spec: dict[str, Any], events: list[Any]) -> None:
    """Whatever happens to it: the same children run, and began and ended in the same order, over the same failures."""
    tree, model = Tree(spec), Model(spec)
    try:
        compare(tree, model)
        for event in events:
            if not model.root.alive:
                break
            do(tree, model, list(event))
            compare(tree, model)
        compare_stories(tree, model, spec)
        tree.world.check()
    finally:
        tree.leave()
