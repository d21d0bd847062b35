"""A body that makes other operations than the recorded ones is seen at the first answer that does not fit."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from fold_world import World
from regrow import NondeterminismError, agent_process, emit, expose, sleep, spawn, step, wait
from regrow.divergence import Diverged
from regrow.process import Process
from regrow_protocol import messages as m

code = "old"
"""Which version of the code the bodies are."""


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setitem(globals(), "code", "old")
    return World(__name__)


def fetch(url: str) -> str:
    return url


def store(url: str) -> None: ...


@agent_process
async def child(x: int) -> int:
    return x


@agent_process
async def changed() -> str:
    emit("begin", code if code == "new data" else "")
    if code == "inserted":
        await step(store, "before")
    if code == "removed":
        return "nothing"
    if code == "emits":
        emit("more")
    if code == "slept":
        await sleep(5)
    result = await step(fetch, "new" if code == "new argument" else "old")
    if code == "reordered":
        await sleep(1)
        await child(1)
    else:
        await child(2 if code == "new child" else 1)
        await sleep(1)
    return result


@agent_process
async def stops_early() -> None:
    await step(fetch, "a")
    if code == "removed":
        await wait()
    await step(fetch, "b")


def test_operations_that_are_missing(world: World) -> None:
    """A body that waits where it went on makes too few."""
    pid = world.start(stops_early)
    world.settle()
    assert "recorded operation 3 was step fetch; the code now makes only 2 operations" in replay(world, pid, "removed")


@agent_process
async def unstable() -> list[str]:
    numbers = sorted((id(object()) % 7 for _ in range(3)), reverse=len(versions) > 1)
    return [await step(fetch, f"{len(versions)} {numbers}")]


versions = [1]


def lines(function: Any) -> tuple[int, list[str]]:
    source, first = inspect.getsourcelines(function.function)
    return first, source


def line_of(function: Any, text: str) -> str:
    first, source = lines(function)
    (found,) = [first + i for i, line in enumerate(source) if text in line]
    return f"test_fold_divergence.py:{found}"


def replay(world: World, pid: str, version: str, *, trace: bool = True) -> str:
    """Fold the history with other code; the text of what comes of it."""
    globals()["code"] = version
    process = Process(world.env, pid, trace=trace)
    process.replaying = True
    try:
        for turn in world.histories[pid]:
            process.apply(m.decode_input(turn.message), turn.seq, turn.time)
            process.take_outputs()
    except Diverged as diverged:
        error = diverged.explain(pid)
        assert isinstance(error, NondeterminismError)
        assert error.code == "nondeterminism"
        assert "regrow resume" in error.hint
        return error.message
    finally:
        process.leave()
        globals()["code"] = "old"
    return "replayed"


@pytest.mark.parametrize(
    ("version", "what", "recorded", "now", "line"),
    [
        ("inserted", "step result", "operation 3 was step fetch", "step store", 'step(store, "before")'),
        ("removed", "step result", "operation 3 was step fetch", "the code now does none there", ""),
        ("emits", "step result", "operation 3 was step fetch", "emit more", 'emit("more")'),
        ("slept", "step result", "operation 3 was step fetch", "timer", "sleep(5)"),
        ("new argument", "step result", "operation 3 was step fetch", "with other arguments", "result = await"),
        ("new data", "step result", "operation 3 was step fetch", "after other operations", "result = await"),
        ("reordered", "child's end", "operation 4 was spawn child", "timer", "# reordered"),
        ("new child", "child's end", "operation 4 was spawn child", "with other arguments", "await child(2"),
    ],
)
def test_changed_code(world: World, version: str, what: str, recorded: str, now: str, line: str) -> None:
    """The error shows recorded against attempted, the line of the program and the input."""
    pid = world.start(changed)
    world.settle()
    assert replay(world, pid, "old") == "replayed"
    text = replay(world, pid, version)
    seq = next(t.seq for t in world.histories[pid] if (b'"result"' if "step" in what else b'"child"') in t.message)
    assert text.startswith(f"process {pid} diverged at input {seq} ({what}): recorded ")
    assert recorded in text
    assert now in text
    if line and not line.startswith("#"):
        assert text.endswith(f"({line_of(changed, line)})")


def test_without_a_trace(world: World) -> None:
    """A host folds without a trace; its error says so much, and claims nothing else."""
    pid = world.start(changed)
    world.settle()
    text = replay(world, pid, "inserted", trace=False)
    assert "recorded operation 3 was step fetch; the code now does something else there" in text


def test_what_is_not_deterministic_diverges(world: World) -> None:
    """A body that goes by what no input says is seen too."""
    pid = world.start(unstable)
    world.settle()
    versions.append(2)
    try:
        assert "with other arguments" in replay(world, pid, "old")
    finally:
        versions.pop()


@agent_process
async def changes_behind_answers() -> str:
    @expose
    async def poke() -> str:
        if code == "poked":
            emit("poked")
        return "ok"

    first = await asyncio.gather(step(fetch, "a"), step(fetch, "b"))
    await sleep(1)
    spawn(child, 1)
    await wait()
    return str(first)


def test_endpoints_are_code_too(world: World) -> None:
    """An operation more in an endpoint is found at the next answer of an operation after it."""
    pid = world.start(changes_behind_answers)
    assert world.ask(pid, "poke") == "ok"
    world.settle()
    assert replay(world, pid, "old") == "replayed"
    assert "diverged" in replay(world, pid, "poked")


def test_a_diverged_process_may_go_on_after_the_code_is_mended(world: World) -> None:
    """Nothing is recorded by a divergence: the old code folds the same history as before."""
    pid = world.start(changed)
    world.settle()
    assert "diverged" in replay(world, pid, "slept")
    world.check()
