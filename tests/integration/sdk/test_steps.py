"""Steps do the side effects of a body: each result is recorded once, whatever becomes of the host."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

from regrow import NotSendable, StepFailed, agent_process, emit, sleep, step
from regrow.testing import Runtime
from regrow_protocol import messages as m

from .looking import event, inputs


def where_am_i(_: int) -> list[int]:
    return [threading.get_ident(), os.getpid()]


async def on_a_loop(x: int) -> list[Any]:
    await asyncio.sleep(0)
    return [x, type(asyncio.get_running_loop()).__name__, threading.get_ident()]


def note(path: str, line: str) -> int:
    """Append a line; how many there are now."""
    with Path(path).open("a") as file:
        file.write(line + "\n")
    return len(Path(path).read_text().splitlines())


def fails_until(path: str, tries: int) -> int:
    count = note(path, "try")
    if count < tries:
        raise ConnectionError(f"try {count}")
    return count


def blocked(path: str) -> None:
    """Until the file is there."""
    deadline = time.monotonic() + 30
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.01)


@agent_process
async def runs_both_kinds() -> list[Any]:
    return [await step(where_am_i, 1), await step(on_a_loop, 7), threading.get_ident()]


async def test_a_sync_step_runs_in_a_thread_and_an_async_one_on_an_ordinary_loop(rt: Runtime) -> None:
    """A sync function runs in a thread of the host's process; an async one on its event loop, not the body's."""
    (thread, process), (x, loop, _), body = await rt.run(runs_both_kinds)
    assert process == os.getpid()
    assert thread != body
    assert (x, "Deterministic" in loop) == (7, False)


@agent_process
async def retries(path: str, tries: int, allowed: int) -> list[Any]:
    try:
        return ["done", await step(fails_until, path, tries, retries=allowed, backoff=0.001)]
    except ConnectionError as error:
        return [type(error).__name__, isinstance(error, StepFailed), str(error)]


async def test_a_step_is_tried_again_as_often_as_retries_says(rt: Runtime, tmp_path: Path) -> None:
    """retries=2 gives three tries: the third's result counts, or the third's error is the step's."""
    assert await rt.run(retries, str(tmp_path / "a"), 3, 2) == ["done", 3]
    failed = await rt.run(retries, str(tmp_path / "b"), 4, 2)
    assert failed[1:] == [True, "try 3"]
    assert len((tmp_path / "b").read_text().splitlines()) == 3


@agent_process
async def backs_off(path: str) -> int:
    return await step(times_of_tries, path, retries=2, backoff=0.05)


def times_of_tries(path: str) -> int:
    if note(path, str(time.monotonic())) < 3:
        raise OSError("again")
    return 3


async def test_backoff_doubles_between_the_tries(rt: Runtime, tmp_path: Path) -> None:
    """Before the first retry a step waits about `backoff` seconds, before the second about twice as long."""
    path = tmp_path / "times"
    assert await rt.run(backs_off, str(path)) == 3
    first, second, third = (float(line) for line in path.read_text().splitlines())
    assert second - first >= 0.02
    assert third - second >= 0.04


@agent_process
async def times_out(path: str) -> list[Any]:
    found: list[Any] = []
    for function in (blocked, never):
        try:
            await step(function, path, timeout=0.05, name="late")
        except TimeoutError as error:
            found.append([isinstance(error, StepFailed), str(error)])
    return found


async def never(_: str) -> None:
    await asyncio.Event().wait()


async def test_timeout_ends_a_try_with_timeout_error(rt: Runtime, tmp_path: Path) -> None:
    """A sync or async step that takes longer than its timeout raises StepFailed that is a TimeoutError and names it."""
    path = tmp_path / "go"
    try:
        found = await rt.run(times_out, str(path))
    finally:
        path.touch()
    assert [is_failed for is_failed, _ in found] == [True, True]
    assert all("late" in text and "0.05 s" in text for _, text in found)


@agent_process
async def named() -> int:
    return await step(int, "7", name="the seven") + await step(int, "1")


async def test_a_step_is_recorded_under_its_name(rt: Runtime) -> None:
    """name= stands in the record of the step; without one it is the function's."""
    root = await rt.start(named)
    assert await root.result(30) == 8
    names = [result.op.name for result in await inputs(rt, root.pid, m.Result)]
    assert names == ["the seven", "int"]


class OwnError(Exception):
    """Known to this program only."""


def raises(kind: str) -> None:
    errors = [KeyError("k"), ZeroDivisionError("by zero"), FileNotFoundError(2, "gone"), OwnError("odd")]
    raise errors[["key", "zero", "os", "own"].index(kind)]


@agent_process
async def catches() -> list[list[Any]]:
    found: list[list[Any]] = []
    for kind, builtin in (
        ("key", KeyError),
        ("zero", ZeroDivisionError),
        ("os", FileNotFoundError),
        ("own", StepFailed),
    ):
        try:
            await step(raises, kind)
        except builtin as error:
            found.append([kind, error.error if isinstance(error, StepFailed) else "not StepFailed"])
    return found


async def test_a_failed_step_is_step_failed_and_the_builtin_class(rt: Runtime) -> None:
    """What a step raises is StepFailed in the body, and where its class is a builtin one an instance of that too."""
    assert await rt.run(catches) == [
        ["key", "KeyError"],
        ["zero", "ZeroDivisionError"],
        ["os", "FileNotFoundError"],
        ["own", "OwnError"],
    ]


@agent_process
async def notes(path: str, gate: str) -> list[int]:
    results = [await step(note, path, str(n)) for n in range(3)]
    emit("at the gate")
    await step(blocked, gate)
    await sleep(60)
    return [*results, *[await step(note, path, str(n)) for n in range(3, 6)]]


async def test_a_recorded_step_does_not_run_again_after_a_crash(rt: Runtime, tmp_path: Path) -> None:
    """A step whose result is recorded neither runs again nor changes its result when the host crashes."""
    path, gate = tmp_path / "notes", tmp_path / "gate"
    root = await rt.start(notes, str(path), str(gate))
    await event(root, "at the gate")
    await rt.kill_host()
    gate.touch()
    assert await root.result(40) == [1, 2, 3, 4, 5, 6]
    assert path.read_text().splitlines() == ["0", "1", "2", "3", "4", "5"], "each ran once"
    recorded = [result.op.n for result in await inputs(rt, root.pid, m.Result)]
    assert len(recorded) == len(set(recorded)) == 7, "each result is recorded once"


@agent_process
async def waits_in_a_step(path: str) -> str:
    emit("before")
    await step(blocked, path)
    return "through"


async def test_a_step_that_was_running_when_its_host_died_runs_again(rt: Runtime, tmp_path: Path) -> None:
    """A step without a recorded result is run again by the next host."""
    path = tmp_path / "go"
    root = await rt.start(waits_in_a_step, str(path))
    await event(root, "before")
    await rt.kill_host()
    path.touch()
    assert await root.result(40) == "through"


_meeting = threading.Barrier(4)


def meet(n: int) -> int:
    """Only when four are here at once."""
    _meeting.wait(20)
    return n


@agent_process
async def steps_side_by_side() -> list[int]:
    return list(await asyncio.gather(*(step(meet, n) for n in range(4))))


async def test_steps_of_one_process_run_at_the_same_time(rt: Runtime) -> None:
    """Steps awaited together run together: four that wait for each other all get through."""
    assert await rt.run(steps_side_by_side) == [0, 1, 2, 3]


@agent_process
async def misuses() -> list[str]:
    found: list[str] = []
    for attempt in (
        lambda: step(on_a_loop(1)),  # type: ignore[arg-type, call-overload]
        lambda: step(misuses),  # type: ignore[arg-type, call-overload]
        lambda: step(int, "1", retries=-1),
        lambda: step(int, "1", timeout=0),
    ):
        try:
            await attempt()
        except (TypeError, ValueError) as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


async def test_misuse_of_step_is_refused_with_what_to_write(rt: Runtime) -> None:
    """A coroutine, a process or a senseless number given to step() is an error that says what is wrong."""
    coroutine, process, retries_, timeout = await rt.run(misuses)
    assert coroutine.startswith("TypeError")
    assert "step(fetch, url)" in coroutine
    assert process.startswith("TypeError")
    assert "spawn()" in process
    assert retries_.startswith("ValueError")
    assert "retries=-1" in retries_
    assert timeout.startswith("ValueError")
    assert "timeout=0" in timeout


@agent_process
async def returns_a_lock() -> str:
    try:
        await step(threading.Lock, name="lock")
    except NotSendable as error:
        return str(error)
    return ""


async def test_a_result_that_cannot_be_recorded_fails_the_step(rt: Runtime) -> None:
    """A step whose result cannot travel raises NotSendable that names the step."""
    assert "'lock'" in await rt.run(returns_a_lock)
