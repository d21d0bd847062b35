"""Processes of `regrow.ramure` behave as those of ramure do: they run here, and hand each other objects."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from regrow.ramure import (
    Event,
    ExecutionFailed,
    NestedProcessWarning,
    agent_process,
    bubble,
    current_runtime,
    done,
    emit,
    expose,
    fail,
    spawn,
    wait,
)

pytestmark = pytest.mark.filterwarnings("ignore::regrow.ramure.NestedProcessWarning")

SEEN: list[Any] = []
WHO = contextvars.ContextVar("WHO", default="nobody")


class Strange(Exception):
    """No other interpreter has it."""


@agent_process
async def echo(value: Any) -> Any:
    SEEN.append(value)
    await asyncio.sleep(0)
    return value


@agent_process
async def raises(error: BaseException) -> None:
    raise error


async def test_a_body_runs_in_this_interpreter_and_hands_over_the_objects_themselves() -> None:
    """Globals, closures, arguments, results, exceptions and context are those of the caller."""
    SEEN.clear()
    thing = object()
    error = Strange("boom")

    @agent_process
    async def main() -> Any:
        WHO.set("main")
        assert await echo(thing) is thing
        with pytest.raises(Strange) as caught:
            await raises(error)
        assert caught.value is error

        @agent_process
        async def inner(call: Callable[[], str]) -> tuple[str, int]:
            return call() + WHO.get(), os.getpid()

        return await inner(lambda: "I am ")

    assert await main() == ("I am main", os.getpid())
    assert [thing] == SEEN
    with pytest.raises(Strange) as caught:
        await raises(error)
    assert caught.value is error


@agent_process
async def pool() -> None:
    specs: dict[str, Any] = {}

    @expose
    async def add_task(spec: Any) -> str:
        tid = f"t{len(specs):04d}"
        specs[tid] = spec
        emit("task_added", {"task_id": tid, "spec": spec})
        bubble(spawn(echo, spec), source=tid)
        return tid

    @expose
    async def tasks() -> dict[str, Any]:
        return specs

    @expose
    async def stop(reason: str = "") -> None:
        if reason:
            fail(reason)
        done("stopped")

    return await wait()


async def test_a_pool_is_called_and_its_children_s_events_bubble() -> None:
    """The example of ramure's readme, and what its handle tells afterwards."""

    @agent_process
    async def main() -> list[Event]:
        handle = spawn(pool)
        assert await handle.call("add_task", spec="one") == "t0000"
        thing = object()
        assert await handle.call("add_task", spec=thing) == "t0001"
        assert await handle.call("tasks") == {"t0000": "one", "t0001": thing}
        with pytest.raises(ValueError, match="No endpoint 'nothing'"):
            await handle.call("nothing")
        ended = 0
        async for event in handle.events:
            ended += event.type == "done"
            if ended == 2:
                break
        await handle.call("stop")
        assert await handle == "stopped"
        again = [event async for event in handle.events]
        assert again == handle.events.snapshot()
        assert [e for e in again if e.source == "t0001"] == [Event("done", thing, "t0001")]
        assert again[-1] == Event("done", "stopped")
        return [e for e in again if e.source is None]

    assert [e.type for e in await main()] == ["task_added", "task_added", "done"]


async def test_a_process_fails_with_what_it_raises_and_tells_why() -> None:
    """`fail` raises in `wait`, and a body may go on after it; the reason is the data of `failed`."""

    @agent_process
    async def gives_up(catch: bool) -> str:
        fail("no way")
        fail("another")
        try:
            return await wait()
        except ExecutionFailed as error:
            if not catch:
                raise
            return f"caught {error.reason}"

    @agent_process(timeout=0.05)
    async def hangs() -> None:
        await asyncio.Event().wait()

    @agent_process
    async def main() -> list[Any]:
        handles = [spawn(gives_up, False), spawn(gives_up, catch=True), spawn(hangs), spawn(raises, KeyError("k"))]
        with pytest.raises(TimeoutError):
            await hangs()
        return [[(e.type, e.data) async for e in handle.events] for handle in handles]

    assert await main() == [
        [("failed", "no way")], [("done", "caught no way")], [("failed", "TimeoutError")], [("failed", "'k'")],
    ]  # fmt: skip
    with pytest.raises(RuntimeError, match="no way"):
        await gives_up(False)


async def test_a_body_that_would_end_the_program_fails_and_its_caller_gets_that() -> None:
    """`sys.exit()` leaves nothing half said: a spawned one is an event, and a root's caller may end the program."""

    @agent_process
    async def leaves() -> None:
        sys.exit(7)

    @agent_process
    async def main() -> list[Any]:
        with pytest.raises(SystemExit):
            await leaves()
        return [(e.type, e.data) async for e in spawn(leaves).events]

    assert await main() == [("failed", "7")]
    with pytest.raises(SystemExit):
        await leaves()


async def test_a_cancelled_process_ends_its_children_and_answers_no_call() -> None:
    """Its last event is `cancelled`; those of its children too, and its `finally` blocks run."""
    left: list[str] = []

    @agent_process
    async def child() -> None:
        try:
            emit("here")
            await asyncio.Event().wait()
        finally:
            left.append("child")

    @agent_process
    async def parent() -> None:
        @expose
        async def ping() -> str:
            return "pong"

        bubble(spawn(child), source="child")
        await wait()

    @agent_process
    async def main() -> list[tuple[str, Any]]:
        handle = spawn(parent)
        assert await handle.call("ping") == "pong"
        await handle.events.listen_for("here", replay=True)  # who has not begun leaves nothing behind
        handle.cancel()
        events = [(e.type, e.source) async for e in handle.events]
        with pytest.raises(Exception, match="has ended"):
            await handle.call("ping")
        return events

    assert (await main())[-1] == ("cancelled", None)
    assert left == ["child"]


async def test_roots_run_at_once_and_may_be_spawned_outside_of_processes() -> None:
    """`gather` of roots, and a root's handle in plain code: its events, its endpoints, its end."""
    assert await asyncio.gather(echo(1), echo(2), echo(3)) == [1, 2, 3]
    handle = spawn(pool)
    assert await handle.call("add_task", spec="one") == "t0000"
    assert await handle.events.listen_for("done", where=lambda e: e.source == "t0000", replay=True) is not None
    handle.cancel()
    assert [e.type async for e in handle.events][-1] == "cancelled"
    assert handle.task is not None
    await asyncio.wait([handle.task])
    assert await handle.events.listen_for("nothing", timeout=0.01) is None


async def test_children_belong_to_the_run_of_their_root_which_is_logged(tmp_path: Path) -> None:
    """Nested processes inherit the runtime; `log_dir=` gets one line for each event of the tree."""
    runs = []

    @agent_process
    async def child() -> None:
        runs.append(current_runtime())
        emit("hello", {"from": "child"})

    @agent_process(log_dir=tmp_path)
    async def main() -> str:
        await child()
        runs.append(current_runtime())
        return current_runtime().execution_id

    execution = await main()
    assert runs[0] is runs[1]
    lines = [json.loads(line) for line in (tmp_path / execution / "_runtime.jsonl").read_text().splitlines()]
    assert [line["type"] for line in lines] == ["execution_started", "hello", "done", "done", "execution_ended"]
    assert [line["seq"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[1]["data"]["data"] == {"from": "child"}


async def test_a_function_inside_another_one_is_a_process_with_a_warning() -> None:
    """Each definition is a process of its own, with its own closure."""

    def make(number: int) -> Any:
        @agent_process
        async def numbered() -> int:
            return number

        return numbered

    with pytest.warns(NestedProcessWarning, match="ends with host_lost"):
        made = [make(1), make(2)]
    assert await asyncio.gather(*(each() for each in made)) == [1, 2]


async def test_misuse_is_refused() -> None:
    """Endpoints are async, `spawn` takes processes, and outside of processes there is nothing to act on."""

    @agent_process
    async def main() -> None:
        with pytest.raises(TypeError):
            expose(lambda: None)  # type: ignore[type-var]
        with pytest.raises(TypeError):
            spawn(asyncio.sleep, 1)

    await main()
    for act in (done, lambda: fail("x"), lambda: emit("x"), current_runtime):
        with pytest.raises(RuntimeError):
            act()
    with pytest.raises(TypeError):
        agent_process(lambda: None)  # type: ignore[arg-type]
