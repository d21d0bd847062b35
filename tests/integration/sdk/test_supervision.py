"""Supervised children on a real server: restarted under their pid, also across the death of their host."""

from __future__ import annotations

from typing import Any

import pytest
from regrow import (
    Backoff,
    ExecutionFailed,
    ProcessHandle,
    agent_process,
    done,
    emit,
    expose,
    fail,
    limited,
    receive,
    sleep,
    spawn,
    supervise,
    wait,
)
from regrow.testing import Runtime

from .looking import event, until


@agent_process
async def worker(name: str) -> str:
    @expose
    async def crash() -> None:
        fail("crashed")

    @expose
    async def finish(result: str) -> None:
        done(result)

    @expose
    async def hello() -> str:
        return f"hello from {name}"

    emit("up", name)
    return await wait()


@agent_process(restart="permanent", backoff=Backoff(initial=30.0, jitter=0.0))
async def service(name: str) -> str:
    @expose
    async def crash() -> None:
        fail("crashed")

    @expose
    async def hello() -> str:
        return f"hello from {name}"

    return await wait()


@agent_process
async def team(strategy: str) -> dict[str, str]:
    handles: dict[str, ProcessHandle] = {}
    async with supervise(strategy=strategy, max_restarts=100, within=1000.0) as top:  # type: ignore[arg-type]
        for name in ("a", "b", "c"):
            handles[name] = top.start(worker, name, id=name, restart="transient")

        @expose
        async def pids() -> dict[str, str]:
            return {name: handle.pid for name, handle in handles.items()}

        emit("ready")
    return {name: await handle for name, handle in handles.items()}


async def test_a_group_goes_on_after_the_death_of_its_host(rt: Runtime) -> None:
    """Crashes of children and crashes of hosts in turn: each child is where its strategy wants it, and ends well."""
    started = await rt.start(team, "rest_for_one")
    await event(started, "ready")
    pids: dict[str, str] = await started.call("pids")
    incarnations = {"a": 0, "b": 0, "c": 0}
    for victim, hit in (("b", "bc"), ("a", "abc"), ("c", "c")):
        process = await rt.client.find(pids[victim])
        await process.call("crash")
        if victim != "c":
            await rt.kill_host()
        for name in hit:
            incarnations[name] += 1
        for name, incarnation in incarnations.items():
            each = await rt.client.find(pids[name])

            async def is_up(each: Any = each, incarnation: int = incarnation) -> bool:
                types = [e.type async for e in each.events(follow=False)]
                return types.count("restarted") == incarnation and types[-1] == "up"

            await until(is_up, f"{name} is up again")
            assert await each.call("hello", wait=True) == f"hello from {name}"
    for name, pid in pids.items():
        await (await rt.client.find(pid)).call("finish", result=name.upper())
    assert await started.result(30) == {"a": "A", "b": "B", "c": "C"}


@agent_process(resume="restart")
async def ordinary_body() -> str:
    """A body that may do any I/O, with a child that it has restarted."""
    child = spawn(worker, "kept", restart="transient", backoff=Backoff(initial=0.01, jitter=0.0))
    await child.events.listen_for("up")
    await child.call("crash")
    await child.events.listen_for("restarted")
    said = await child.call("hello", wait=True)
    await child.call("finish", result=said)
    return await child


async def test_a_restart_body_keeps_children_too(rt: Runtime) -> None:
    """Its process does the restarting, as for any other."""
    assert await rt.run(ordinary_body) == "hello from kept"


@agent_process
async def gives_up() -> None:
    async with supervise(max_restarts=1, within=60.0) as top:
        top.start(hopeless, id="hopeless")


@agent_process
async def hopeless() -> None:
    await sleep(1)
    raise ConnectionError("refused")


async def test_a_group_that_gives_up_fails_its_process(rt: Runtime) -> None:
    """With the reason of the last failure, and the code that a parent can tell it by."""
    with pytest.raises(ExecutionFailed) as caught:
        await rt.run(gives_up)
    assert caught.value.error == "RestartIntensityExceeded"
    assert "last: hopeless (ConnectionError: refused)" in caught.value.reason


@agent_process(resume="restart")
async def receives() -> list[Any]:
    """A body that may do any I/O, and hears signals."""
    emit("listening")
    seen: list[Any] = []
    try:
        seen.append(await receive("never", timeout=0.05))
    except TimeoutError:
        seen.append("timeout")
    seen.append(await receive("job"))
    return seen


async def test_signals_reach_a_restart_body(rt: Runtime) -> None:
    """Its process keeps them for it."""
    started = await rt.start(receives)
    await started.signal("job", {"n": 1})
    assert await started.result(30) == ["timeout", {"n": 1}]


async def test_a_root_is_started_again(rt: Runtime) -> None:
    """By its own policy, also when its host dies while it is down; calls made meanwhile wait for it."""
    process = await rt.start(service, "me")
    assert await process.call("hello", wait=True) == "hello from me"
    for killed in (False, True):
        await process.call("crash")
        if killed:
            await rt.kill_host()
        assert await process.call("hello", wait=True) == "hello from me"
    await process.cancel()
    with pytest.raises(ExecutionFailed):
        await process.result()
    seen = [each.type async for each in process.events()]
    assert seen == ["started", "down", "restarted", "down", "restarted", "cancelled"]


@agent_process(limits=["llm"])
async def limited_worker() -> str:
    async with limited("disk"):
        return "ran"


async def test_limits_hold_up_no_test(rt: Runtime) -> None:
    """Where no supervisor runs every permit is there at once."""
    assert await rt.run(limited_worker) == "ran"


@agent_process
async def collects(count: int) -> list[Any]:
    return [await receive("item") for _ in range(count)]


async def test_signals_are_kept_for_who_is_parked_or_without_a_host(rt: Runtime) -> None:
    """A parked process is woken by one; what is sent while no host runs is there when one does; in their order."""
    started = await rt.start(collects, 4)

    async def is_parked() -> bool:
        return not any(partition.residents for partition in rt.host.partitions.values())

    await event(started, "started")
    await until(is_parked, "that it is parked")
    await started.signal("item", 1)
    await rt.kill_host()
    await started.signal("item", 2)
    await rt.crash_host()
    await started.signal("item", 3)
    await started.signal("item", 4)
    await rt.start_host()
    assert await started.result(30) == [1, 2, 3, 4]
