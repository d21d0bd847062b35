"""A host that dies at any moment changes nothing in what a program does; a body that cannot go on is parked, alone."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pytest
from regrow import ProcessHandle, agent_process, bubble, current_process, emit, expose, sleep, spawn, step, wait
from regrow.host.options import HostOptions
from regrow.testing import Runtime, runtime
from regrow_protocol import messages as m

from .looking import event, finals, noted_as_done, records, until


@agent_process
async def worker(pool: ProcessHandle, name: str) -> int:
    """Takes tasks from the pool until there are none."""
    taken = 0
    while (task := await pool.call("take", worker=name)) is not None:
        value = await step(pow, task, 2, name="square")
        emit("squared", {"task": task, "value": value})
        await sleep(3600)
        taken += 1
        await pool.call("report", task=task, value=value)
    return taken


@agent_process
async def pool(tasks: int, workers: int) -> dict[str, Any]:
    """Children, timers, steps, endpoints, a queue and a lock, and a gate at which it may be stopped."""
    queue = asyncio.Queue[int]()
    lock = asyncio.Lock()
    results: dict[int, int] = {}
    stages: list[str] = []
    gates = {name: asyncio.Event() for name in ("filled", "half", "all")}

    @expose
    async def take(worker: str) -> int | None:
        async with lock:
            return None if queue.empty() else queue.get_nowait()

    @expose
    async def report(task: int, value: int) -> None:
        async with lock:
            results[task] = value
            await sleep(1)
        if len(results) == tasks // 2:
            await stage("half")
        elif len(results) == tasks:
            stages.append("complete")

    @expose
    async def go_on(name: str) -> None:
        gates[name].set()

    async def stage(name: str) -> None:
        stages.append(name)
        emit("stage", name)
        await gates[name].wait()

    for n in range(tasks):
        await queue.put(n)
    await stage("filled")
    handles = [spawn(worker, current_process().handle, f"w{n}") for n in range(workers)]
    for handle in handles:
        bubble(handle, source="worker")
    counts = await asyncio.gather(*handles)
    await stage("all")
    return {"results": [results[n] for n in range(tasks)], "taken": sum(counts), "stages": stages}


@agent_process
async def quiet(word: str) -> str:
    """A neighbour."""

    @expose
    async def say() -> str:
        return word

    return str(await wait())


EXPECTED = {"results": [n * n for n in range(6)], "taken": 6, "stages": ["filled", "half", "complete", "all"]}


@pytest.mark.parametrize("kills", [(), ("filled",), ("half",), ("all",), ("filled", "half", "all")], ids="+".join)
async def test_the_result_is_the_same_at_whatever_stage_the_host_dies(rt: Runtime, kills: tuple[str, ...]) -> None:
    """Children, timers, steps, endpoints, queue and lock go on after a crash, and every event is recorded once."""
    root = await rt.start(pool, 6, 3)
    for n, name in enumerate(("filled", "half", "all"), 1):
        assert (await event(root, "stage", times=n)).data == name
        if name in kills:
            await rt.kill_host()
        await root.call("go_on", name=name)
    assert await root.result(40) == EXPECTED
    told = await records(rt)
    assert sorted(r.pid for r in told if r.final) == sorted(r.pid for r in told if r.type == "started" and not r.source)
    assert len({(r.pid, r.seq) for r in told}) == len(told), "each event is recorded once"
    mine = [r for r in told if r.pid == root.pid]
    assert [r.seq for r in mine] == list(range(1, len(mine) + 1))
    assert len([r for r in mine if r.type == "squared" and r.source == "worker"]) == 6


async def test_a_host_that_dies_again_and_again(rt: Runtime) -> None:
    """Six crashes at arbitrary moments of a run leave its result as it is."""
    root = await rt.start(pool, 6, 3)
    running = asyncio.create_task(root.result(50))
    for name in ("filled", "half", "all"):
        await rt.kill_host()
        await root.call("go_on", name=name, wait=True)
        await rt.kill_host()
        await until(lambda: _nobody_is_suspected(rt), "a host to survive")
    assert await running == EXPECTED
    assert len(await finals(rt)) == 4


async def _nobody_is_suspected(rt: Runtime) -> bool:
    """A step that five hosts in a row met and died would be taken for the reason, and its process parked."""
    return all(
        part.recovery is None and part.probation is None and part.keeper.cursor.suspect is None
        for part in rt.host.partitions.values()
    )


@agent_process
async def prints() -> str:
    go = asyncio.Event()

    @expose
    async def go_on() -> None:
        go.set()

    print("said before the crash")  # noqa: T201
    emit("printed")
    await go.wait()
    print("said after the crash")  # noqa: T201
    return "end"


async def test_print_is_muted_in_replays(rt: Runtime, capfd: pytest.CaptureFixture[str]) -> None:
    """What a body printed in a turn that is known to be done does not appear again, however often it is replayed."""
    root = await rt.start(prints)
    await event(root, "printed")
    await until(lambda: noted_as_done(rt, root.pid), "the cursor's note")
    for _ in range(3):
        await rt.kill_host()
    await root.call("go_on")
    assert await root.result(30) == "end"
    out, err = capfd.readouterr()
    assert (out + err).count("said before the crash") == 1
    assert (out + err).count("said after the crash") == 1


_build = {"changed": False}


@agent_process
async def changes_its_mind() -> str:
    """Not deterministic: what it does depends on something beside its inbox."""
    go = asyncio.Event()

    @expose
    async def go_on() -> None:
        go.set()

    if _build["changed"]:
        await step(len, "something else", name="new")
    await step(abs, -1, name="old")
    emit("stepped")
    await go.wait()
    return "end"


def _stuck(rt: Runtime) -> dict[str, m.Stuck]:
    return {pid: stuck for part in rt.host.partitions.values() for pid, stuck in part.stuck.items()}


async def test_a_body_that_diverges_is_parked_and_its_neighbour_is_not(
    rt: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that does otherwise in its replay is parked as `nondeterminism`; another process of the host goes on."""
    neighbour = await rt.start(quiet, "here")
    root = await rt.start(changes_its_mind)
    await event(root, "stepped")
    await rt.crash_host()
    monkeypatch.setitem(_build, "changed", True)
    await rt.start_host()
    waiting = asyncio.create_task(root.call("go_on"))

    async def parked() -> bool:
        return root.pid in _stuck(rt)

    await until(parked, "the parking of the process")
    assert _stuck(rt)[root.pid].code == "nondeterminism"
    assert await neighbour.call("say") == "here"
    waiting.cancel()
    assert not [type_ for pid, type_ in await finals(rt) if pid == root.pid], "it has not ended"


_let_go = threading.Event()


@agent_process
async def hangs() -> None:
    while not _let_go.is_set():
        os.getpid()


async def test_a_body_that_hangs_is_parked_and_its_neighbour_is_not(nats_url: str, force_replay: bool) -> None:
    """A body that does not give the loop back is interrupted and parked; another process of the host goes on."""
    options = HostOptions(park_after=0.5, turn_limit=2.0)
    async with runtime(url=nats_url, force_replay=force_replay, options=options) as rt:
        neighbour = await rt.start(quiet, "here")
        assert await neighbour.call("say") == "here"
        try:
            root = await rt.start(hangs)

            async def parked() -> bool:
                return root.pid in _stuck(rt)

            await until(parked, "the parking of the process")
            assert await neighbour.call("say") == "here"
        finally:
            _let_go.set()
        _let_go.clear()
