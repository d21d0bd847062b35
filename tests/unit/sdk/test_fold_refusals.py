"""What a body may not do is a clear error, and a body that leaves memory touches nobody."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import regrow.loop
from fold_world import World
from regrow import (
    NotAllowedInBody,
    RegrowError,
    agent_process,
    bubble,
    current_process,
    done,
    emit,
    expose,
    fail,
    guard,
    now,
    sleep,
    spawn,
    step,
    wait,
)
from regrow.errors import OutsideProcess, ProcessGone


@pytest.fixture
def world() -> World:
    return World(__name__)


FORBIDDEN: dict[str, Callable[[], Any]] = {
    "to_thread": lambda: asyncio.to_thread(print, "no"),
    "run_in_executor": lambda: asyncio.get_running_loop().run_in_executor(None, print, "no"),
    "open_connection": lambda: asyncio.open_connection("127.0.0.1", 9),
    "start_server": lambda: asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0),
    "subprocess_exec": lambda: asyncio.create_subprocess_exec(sys.executable, "-V"),
    "subprocess_shell": lambda: asyncio.create_subprocess_shell("true"),
    "call_soon_threadsafe": lambda: asyncio.get_running_loop().call_soon_threadsafe(print),
    "run_coroutine_threadsafe": lambda: asyncio.run_coroutine_threadsafe(asyncio.sleep(0), asyncio.get_running_loop()),
    "getaddrinfo": lambda: asyncio.get_running_loop().getaddrinfo("localhost", 80),
    "sock_connect": lambda: asyncio.get_running_loop().sock_connect(socket.socket(), ("127.0.0.1", 9)),
    "add_reader": lambda: asyncio.get_running_loop().add_reader(0, print),
    "add_signal_handler": lambda: asyncio.get_running_loop().add_signal_handler(2, print),
    "connect_read_pipe": lambda: asyncio.get_running_loop().connect_read_pipe(asyncio.Protocol, sys.stdin),
    "run_until_complete": lambda: asyncio.get_running_loop().run_until_complete(asyncio.sleep(0)),
    "run_forever": lambda: asyncio.get_running_loop().run_forever(),
    "stop": lambda: asyncio.get_running_loop().stop(),
    "set_exception_handler": lambda: asyncio.get_running_loop().set_exception_handler(None),
    "set_task_factory": lambda: asyncio.get_running_loop().set_task_factory(lambda _l, c, **_k: None),
}

BLOCKING: dict[str, Callable[[], Any]] = {
    "connect": lambda: socket.create_connection(("127.0.0.1", 9)),
    "bind": lambda: socket.socket().bind(("127.0.0.1", 0)),
    "resolve": lambda: socket.getaddrinfo("localhost", 80),
    "subprocess": lambda: subprocess.run([sys.executable, "-V"], check=False),
}


@agent_process
async def trespasses(how: str) -> str:
    action = FORBIDDEN.get(how) or BLOCKING[how]
    try:
        result = action()
        if asyncio.iscoroutine(result):
            await result
    except NotAllowedInBody as error:
        return str(error)
    return "nobody minded"


@pytest.mark.parametrize("how", FORBIDDEN)
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_io_of_asyncio_is_refused(world: World, how: str) -> None:
    """I/O, threads and the loop's own machinery are errors that say where such work belongs."""
    text = world.run(trespasses, how)
    assert "not possible in the body of a process" in text
    assert "step(" in text
    assert 'resume="restart"' in text


@pytest.mark.parametrize("how", BLOCKING)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_blocking_io_is_refused(world: World, how: str) -> None:
    """So is what asyncio does not see: blocking sockets and subprocesses."""
    guard.install()
    text = world.run(trespasses, how)
    assert "step(" in text
    assert 'resume="restart"' in text


@pytest.mark.parametrize("use", [now, wait, lambda: emit("x"), lambda: done(1), current_process, lambda: sleep_in(1)])
async def test_outside_a_process(use: Callable[[], Any]) -> None:
    """Operations of a body are refused elsewhere, and the error says how a body is run."""

    async def outside() -> None:
        result = use()
        if asyncio.iscoroutine(result):
            await result

    with pytest.raises(OutsideProcess, match=r"asyncio\.run"):
        await outside()


async def sleep_in(seconds: float) -> None:
    await step(sleep, seconds)


def nothing() -> None:
    """A step."""


@agent_process
async def misuses_step(how: str) -> str:
    try:
        match how:
            case "coroutine":
                await step(sleep_in(1))  # type: ignore[call-overload]
            case "process":
                await step(misuses_step, "x")
            case "value":
                await step(5)  # type: ignore[call-overload]
            case "name":
                await step(nothing, name=5)  # type: ignore[call-overload]
            case "retries":
                await step(nothing, retries=-1)
            case "backoff":
                await step(nothing, backoff=-1)
            case _:
                await step(nothing, timeout=0)
    except (TypeError, ValueError) as error:
        return str(error)
    return "accepted"


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("coroutine", "step(fetch, url)"),
        ("process", "is a process"),
        ("value", "needs a function"),
        ("name", "is a str"),
        ("retries", "retries=-1"),
        ("backoff", "backoff=-1"),
        ("timeout", "timeout=0"),
    ],
)
def test_wrong_use_of_step(world: World, how: str, text: str) -> None:
    """The usual slips are told at the call, before anything is recorded."""
    assert text in world.run(misuses_step, how)
    assert world.steps_run == 0


# Leaving memory -------------------------------------------------------------------------------------------------------

seen: list[str] = []


def operations() -> dict[str, Callable[[], Any]]:
    """Everything that a body may ask for."""
    return {
        "emit": lambda: emit("late"),
        "spawn": lambda: spawn(trespasses, "x"),
        "done": lambda: done(1),
        "fail": lambda: fail("late"),
        "step": lambda: asyncio.create_task(step(nothing)),
        "sleep": lambda: asyncio.get_running_loop().call_later(1, print),
        "task": lambda: asyncio.create_task(asyncio.sleep(0)),
        "call": lambda: asyncio.create_task(current_process().handle.call("x")),
        "cancel": lambda: current_process().handle.cancel(),
        "events": lambda: current_process().handle.events,
        "bubble": lambda: bubble(spawn(trespasses, "x")),
        "expose": lambda: expose(sleep_in),
    }


@agent_process
async def tidies_up() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            seen.append("generator")
            await sleep(1)
            seen.append("never")

    async def other() -> None:
        try:
            await sleep(1000)
        finally:
            seen.append("task")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            emit("late")

    task = asyncio.create_task(other())
    async for _ in numbers():
        break
    try:
        await sleep(1000)
    finally:
        seen.append("body")
        for name, operation in operations().items():
            try:
                operation()
            except ProcessGone:
                continue
            seen.append(f"{name} was allowed")
        await task


def test_leaving_memory_is_silent(world: World) -> None:
    """`finally` blocks run when a process leaves memory, but every operation in them is refused and nothing is sent."""
    seen.clear()
    pid = world.start(tidies_up)
    world.settle(timers=False)
    process = world.processes[pid]
    before = process.n
    process.leave()
    assert sorted(seen) == ["body", "generator", "task"]
    assert (process.n, process.outputs) == (before, [])
    seen.clear()
    process.leave()
    gc.collect()
    assert seen == []


@agent_process
async def rests() -> None:
    @expose
    async def ask(seconds: float) -> None:
        await sleep(seconds)

    handle = spawn(trespasses, "to_thread")
    bubble(handle)
    handle.events.subscribe(lambda _event: None)
    await wait()


def test_leaving_memory_frees_it_at_once(world: World) -> None:
    """A process that has left memory is part of no reference cycle: it costs nothing, even if nothing is collected."""
    pid = world.start(rests)
    world.call(pid, "ask", seconds=50)
    world.settle(timers=False)
    gc.collect()
    gc.disable()
    try:
        process = world.processes.pop(pid)
        left = [weakref.ref(process), weakref.ref(process.loop), *map(weakref.ref, process.loop.tasks)]
        assert len(left) >= 4
        process.leave()
        del process
        assert [ref() for ref in left] == [None] * len(left)
    finally:
        gc.enable()


@agent_process
async def abandons() -> str:
    async def numbers() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            emit("closing")
            await sleep(1)
            emit("closed")

    async for _ in numbers():
        break
    gc.collect()
    await sleep(1)
    return "over"


def test_an_abandoned_generator_is_closed_when_the_process_ends(world: World) -> None:
    """Not when the garbage is collected, which no replay repeats; its `finally` runs before the process has ended."""
    pid = world.start(abandons)
    world.settle()
    world.check()
    assert world.result(pid) == "over"
    assert world.types(pid) == ["started", "closing", "closed", "done"]


relents: list[bool] = []


@agent_process
async def abandons_a_stubborn_one() -> str:
    async def numbers() -> AsyncIterator[int]:
        while not relents:
            with contextlib.suppress(GeneratorExit):
                yield 1

    async for _ in numbers():
        break
    return "over"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_generator_that_will_not_close(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It does not keep its process from ending, and is kept, lest it ends in another process's turn."""
    caplog.set_level(logging.WARNING)
    pid = world.start(abandons_a_stubborn_one)
    world.settle()
    assert world.result(pid) == "over"
    assert "ignored GeneratorExit" in caplog.text
    assert "stays in memory" in caplog.text
    relents.append(True)
    regrow.loop._endless.clear()
    caplog.clear()
    world.processes.clear()
    gc.collect()


def test_collecting_garbage_elsewhere_emits_nothing(world: World) -> None:
    """A process that nobody refers to any more ends without a word, in whatever thread or turn that is."""
    seen.clear()
    pid = world.start(tidies_up)
    world.settle(timers=False)
    process = world.processes.pop(pid)
    process.leave()
    del process
    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join()
    assert "never" not in seen


@agent_process
async def fails_in_a_callback() -> str:
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    task = asyncio.create_task(never_awaited())
    await sleep(1)
    del task
    gc.collect()
    return "alive"


async def never_awaited() -> None:
    raise KeyError("unheard")


def test_errors_in_callbacks_are_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """They end nothing, as with asyncio; a replay does not log them again."""
    with caplog.at_level(logging.WARNING):
        pid = world.start(fails_in_a_callback)
        world.settle()
        assert world.result(pid) == "alive"
        assert "ZeroDivisionError" in caplog.text
        assert pid in caplog.text
        caplog.clear()
        world.check()
    assert "ZeroDivisionError" not in caplog.text


def test_errors_have_codes() -> None:
    """Every error class of the SDK has a code of its own."""

    def below(cls: type[RegrowError]) -> set[type[RegrowError]]:
        return {cls}.union(*(below(c) for c in cls.__subclasses__()))

    own = [c for c in below(RegrowError) if c.__module__ == "regrow.errors" and len(c.__mro__) and "code" in vars(c)]
    by_code = {c.code: c for c in own if c.__name__ in vars(sys.modules["regrow.errors"])}
    assert len(by_code) >= 15
    assert all(by_code[c.code].__name__ == c.__name__ for c in own)
