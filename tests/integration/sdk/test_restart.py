"""`resume="restart"`: the body does any I/O, and is started again under its pid when its host dies."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from regrow import (
    ExecutionFailed,
    ProcessEnded,
    agent_process,
    bubble,
    current_process,
    done,
    emit,
    expose,
    sleep,
    spawn,
    wait,
)
from regrow.testing import Runtime

from .looking import event, records


@agent_process(resume="restart")
async def does_real_io(folder: str) -> list[Any]:
    path = Path(folder) / "file"
    await asyncio.to_thread(path.write_text, "real")
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        data = await reader.read()
        writer.close()
    child = await asyncio.create_subprocess_exec("true")
    looked_up = await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    return [path.read_text(), len(data), await child.wait(), len(looked_up) > 0]


async def test_a_restart_body_may_do_any_io(rt: Runtime, tmp_path: Path) -> None:
    """Threads, sockets, subprocesses and look-ups work in a `restart` body."""
    assert await rt.run(does_real_io, str(tmp_path)) == ["real", 0, 0, True]


@agent_process
async def squares(n: int) -> int:
    await sleep(5)
    return n * n


@agent_process(resume="restart")
async def uses_everything() -> list[Any]:
    child = spawn(squares, 3)
    results = list(await asyncio.gather(squares(2), child))
    emit("squared", results)
    return [results, [e.type async for e in child.events], child.status()]


async def test_a_restart_body_spawns_awaits_and_watches_children(rt: Runtime) -> None:
    """The API works in a `restart` body as in any other: children, events, results."""
    root = await rt.start(uses_everything)
    assert await root.result(30) == [[4, 9], ["started", "done"], "done"]
    assert (await event(root, "squared")).data == [4, 9]


@agent_process(resume="restart")
async def service() -> str:
    """Runs until it is told to finish; every incarnation says which one it is."""

    @expose
    async def incarnation() -> int:
        return current_process().incarnation

    @expose
    async def finish() -> None:
        done(f"finished in {current_process().incarnation}")

    @expose
    async def hang() -> None:
        emit("hanging")
        await asyncio.Event().wait()

    emit("serving", current_process().incarnation)
    return str(await wait())


async def test_it_survives_its_host_as_a_new_incarnation_under_the_same_pid(rt: Runtime) -> None:
    """After its host died the body starts again: the same pid, the event `restarted`, the next incarnation."""
    root = await rt.start(service)
    await event(root, "serving")
    assert await root.call("incarnation") == 0
    await rt.kill_host()
    await event(root, "serving", times=2)
    assert await root.call("incarnation") == 1
    await rt.kill_host()
    await event(root, "serving", times=3)
    await root.call("finish")
    assert await root.result(30) == "finished in 2"
    told = await records(rt, root.pid)
    assert [(r.type, r.incarnation) for r in told] == [
        ("started", 0),
        ("serving", 0),
        ("restarted", 1),
        ("serving", 1),
        ("restarted", 2),
        ("serving", 2),
        ("done", 2),
    ]
    assert [r.seq for r in told] == list(range(1, 8)), "the numbers go on over the incarnations"


async def test_a_call_under_way_when_the_host_dies_is_answered_with_process_ended(rt: Runtime) -> None:
    """Who was being answered by the lost incarnation gets ProcessEnded; later calls go to the next one."""
    root = await rt.start(service)
    await event(root, "serving")
    hanging = asyncio.create_task(root.call("hang"))
    await event(root, "hanging")
    await rt.kill_host()
    with pytest.raises(ProcessEnded):
        await hanging
    assert await root.call("incarnation", wait=True) == 1


@agent_process(resume="restart", max_restarts=0)
async def only_once() -> None:
    emit("here")
    await asyncio.Event().wait()


async def test_max_restarts_0_fails_with_host_lost(rt: Runtime) -> None:
    """A body that may not be restarted fails with HostLost when its host dies."""
    root = await rt.start(only_once)
    await event(root, "here")
    await rt.kill_host()
    with pytest.raises(ExecutionFailed, match="max_restarts=0") as caught:
        await root.result(30)
    assert caught.value.error == "HostLost"
    assert [e.data["code"] async for e in root.events() if e.type == "failed"] == ["host-lost"]


@agent_process(resume="restart", max_restarts=1)
async def twice_at_most() -> None:
    emit("here")
    await asyncio.Event().wait()


async def test_max_restarts_counts_the_restarts(rt: Runtime) -> None:
    """max_restarts=1 allows one restart; the second loss of a host fails the process."""
    root = await rt.start(twice_at_most)
    await event(root, "here")
    await rt.kill_host()
    await event(root, "here", times=2)
    await rt.kill_host()
    with pytest.raises(ExecutionFailed, match="max_restarts=1"):
        await root.result(30)


@agent_process
async def worker_of_an_incarnation(incarnation: int) -> None:
    emit("working", incarnation)
    await asyncio.Event().wait()


@agent_process(resume="restart")
async def has_children() -> str:
    incarnation = current_process().incarnation
    child = spawn(worker_of_an_incarnation, incarnation)
    await child.events.listen_for("working")
    emit("child works", child.pid)
    if incarnation == 0:
        await asyncio.Event().wait()
    return child.pid


async def test_children_of_the_lost_incarnation_end_before_the_next_begins(rt: Runtime) -> None:
    """The lost incarnation's children are cancelled first, then the next incarnation starts and has its own."""
    root = await rt.start(has_children)
    first = (await event(root, "child works")).data
    await rt.kill_host()
    second = await root.result(40)
    assert second != first
    told = [(r.pid, r.type) for r in await records(rt)]
    assert told.index((first, "cancelled")) < told.index((root.pid, "restarted")) < told.index((second, "started"))


@agent_process
async def watches_a_service() -> list[Any]:
    child = spawn(service)
    bubble(child, source="service")
    await child.events.listen_for("serving", where=lambda e: e.data == 0)
    first = await child.call("incarnation")
    emit("ready to be killed")
    await child.events.listen_for("serving", where=lambda e: e.data == 1)
    second = await child.call("incarnation")
    await child.call("finish")
    return [first, second, await child, [e.type async for e in child.events]]


async def test_handles_bubbles_and_calls_of_others_go_on_over_a_restart(rt: Runtime) -> None:
    """Who holds a handle sees one process: its events go on, calls reach the next incarnation, the result comes."""
    root = await rt.start(watches_a_service)
    await event(root, "ready to be killed")
    await rt.kill_host()
    assert await root.result(40) == [
        0,
        1,
        "finished in 1",
        ["started", "serving", "restarted", "serving", "done"],
    ]
    bubbled = [e.type async for e in root.events() if e.source == "service"]
    assert bubbled[:4] == ["started", "serving", "restarted", "serving"]


@agent_process(resume="restart")
async def cleans_up() -> None:
    emit("begun")
    try:
        await asyncio.Event().wait()
    finally:
        emit("cleaned")


async def test_cancelling_a_restart_body_lets_it_clean_up(rt: Runtime) -> None:
    """cancel() reaches the body as a CancelledError; it ends as cancelled after its `finally`."""
    root = await rt.start(cleans_up)
    await event(root, "begun")
    await root.cancel("enough")
    with pytest.raises(ExecutionFailed):
        await root.result(30)
    assert [r.type for r in await records(rt, root.pid)] == ["started", "begun", "cleaned", "cancelled"]


@agent_process(resume="restart", timeout=0.2)
async def takes_too_long() -> None:
    await asyncio.Event().wait()


async def test_timeout_ends_a_restart_body(rt: Runtime) -> None:
    """timeout= holds for `restart` bodies too."""
    with pytest.raises(ExecutionFailed, match=r"timed out after 0\.2 s"):
        await rt.run(takes_too_long)
