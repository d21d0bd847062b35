"""Endpoints: calls between processes and from clients, answered once, in the scope of whoever exposed them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from fold_world import World
from regrow import (
    CallFailed,
    EndpointNotFound,
    ExecutionFailed,
    InvalidArguments,
    NotSendable,
    ProcessEnded,
    ProcessHandle,
    agent_process,
    current_process,
    emit,
    expose,
    now,
    sleep,
    spawn,
    step,
    wait,
)
from regrow_protocol import messages as m

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def world() -> World:
    return World(__name__)


def tripled(x: int) -> int:
    return 3 * x


@agent_process
async def shop(late: float = 0.0) -> str:
    stock: list[str] = []

    @expose
    async def add(name: str, *, at: datetime | None = None, count: int = 1) -> int:
        stock.extend([name] * count)
        if at is not None:
            emit("added", at)
        return len(stock)

    @expose
    async def slowly(x: int, seconds: float = 5) -> int:
        await sleep(seconds)
        return await step(tripled, x)

    @expose
    async def breaks(how: str) -> Any:
        if how == "value":
            raise ValueError("bad value")
        if how == "opaque":
            return object()
        if how == "cancelled":
            task = asyncio.create_task(sleep(100))
            await sleep(0)
            task.cancel()
            await task
        if how == "exit":
            raise SystemExit(1)
        raise ExceptionGroup("several", [KeyError("k")])

    @expose
    async def whoami() -> list[Any]:
        return [current_process().pid, now() > NOON, current_process().handle]

    @expose
    async def close_shop() -> None:
        asyncio.get_running_loop().call_soon(closing.set)

    closing = asyncio.Event()
    if late:
        await sleep(late)

        @expose
        async def rare() -> str:
            return "at last"

    await closing.wait()
    return f"sold {len(stock)}"


def test_calls_of_a_client(world: World) -> None:
    """Arguments come by name and by annotation, defaults where none is given; the answer comes once."""
    pid = world.start(shop)
    assert world.ask(pid, "add", name="x") == 1
    assert world.ask(pid, "add", name="y", count=3, at=NOON) == 4
    assert world.ask(pid, "add", name="z", count="2") == 6
    assert world.events(pid)[1].data == "2026-01-01T12:00:00Z"
    slow = [world.call(pid, "slowly", x=x, seconds=9 - x) for x in range(3)]
    assert world.ask(pid, "whoami")[0] == pid
    world.settle(until=world.clock + 100)
    assert [world.answer_of(reply) for reply in slow] == [0, 3, 6]
    world.ask(pid, "close_shop")
    world.settle()
    world.check()
    assert world.result(pid) == "sold 6"


@pytest.mark.parametrize(
    ("endpoint", "kwargs", "error", "text"),
    [
        ("nothing", {}, EndpointNotFound, "No endpoint 'nothing'; exposed: add, breaks, close_shop, slowly, whoami"),
        ("add", {}, InvalidArguments, "add(): missing a required argument: 'name'"),
        ("add", {"name": 5}, InvalidArguments, "argument 'name': Expected `str`"),
        ("add", {"name": "x", "more": 1}, InvalidArguments, "unexpected keyword argument 'more'"),
        ("breaks", {"how": "value"}, ValueError, "bad value"),
        ("breaks", {"how": "opaque"}, NotSendable, "The result of breaks() cannot be sent"),
        ("breaks", {"how": "cancelled"}, CallFailed, "CancelledError"),
        ("breaks", {"how": "exit"}, CallFailed, "1"),
        ("breaks", {"how": "group"}, CallFailed, "KeyError: 'k'"),
    ],
)
def test_calls_that_fail(world: World, endpoint: str, kwargs: Any, error: type[Exception], text: str) -> None:
    """The caller hears why, the process goes on."""
    pid = world.start(shop)
    with pytest.raises(error) as caught:
        world.ask(pid, endpoint, **kwargs)
    assert text in str(caught.value)
    if endpoint == "nothing":
        assert isinstance(caught.value, ValueError)
    assert world.ask(pid, "add", name="x") == 1
    world.check()


def test_a_call_waits_for_the_first_turn(world: World) -> None:
    """A call that is in the inbox before the start is answered after it, and so is one right behind it."""
    early = world.call("p_shop", "add", name="x")
    missing = world.call("p_shop", "rare")
    world.send("p_shop", m.Start(type="shop", args=shop.signature.encode((), {}), build="build"))
    next_ = world.call("p_shop", "add", name="y")
    world.settle(timers=False)
    world.check()
    assert (world.answer_of(early), world.answer_of(next_)) == (1, 2)
    with pytest.raises(EndpointNotFound):
        world.answer_of(missing)


def test_a_call_that_waits_for_its_endpoint(world: World) -> None:
    """wait=True waits until it is exposed, or until the process has ended."""
    pid = world.start(shop, late=10.0)
    rare, never = world.call(pid, "rare", wait=True), world.call(pid, "never", wait=True)
    world.settle(timers=False)
    assert world.replies == {}
    world.settle()
    assert world.answer_of(rare) == "at last"
    assert never not in world.replies
    world.ask(pid, "close_shop")
    world.settle()
    with pytest.raises(ProcessEnded, match="has ended"):
        world.answer_of(never)
    world.check()


def test_calls_of_a_process_that_ends(world: World) -> None:
    """Whatever is under way when the body ends, and whatever comes later, is answered ProcessEnded."""
    pid = world.start(shop)
    running = world.call(pid, "slowly", x=1, seconds=1000)
    world.settle(timers=False)
    world.call(pid, "close_shop")
    same_time = world.call(pid, "slowly", x=2)
    world.settle(timers=False)
    late, unknown = world.call(pid, "add", name="x"), world.call(pid, "nothing")
    world.settle()
    world.check()
    for reply in (running, same_time, late, unknown):
        with pytest.raises(ProcessEnded, match=pid):
            world.answer_of(reply)


@agent_process
async def endless_child() -> None:
    try:
        await sleep(10**6)
    except asyncio.CancelledError:
        await sleep(100)
        raise


@agent_process
async def ends_slowly() -> str:
    @expose
    async def blocks() -> None:
        await asyncio.Event().wait()

    spawn(endless_child)
    await sleep(1)
    return "over"


def test_calls_while_the_children_end(world: World) -> None:
    """A body that has returned serves nobody: a call that would never return cannot keep the process from ending."""
    pid = world.start(ends_slowly)
    world.settle(until=world.clock + 2)
    assert not world.processes[pid].ended
    reply = world.call(pid, "blocks")
    world.settle(timers=False)
    with pytest.raises(ProcessEnded):
        world.answer_of(reply)
    world.settle()
    world.check()
    assert world.result(pid) == "over"


@agent_process
async def exposes_wrongly(how: str) -> str:
    try:
        if how == "sync":
            expose(lambda: None)  # type: ignore[type-var]
        elif how == "value":
            expose(5)  # type: ignore[type-var]
        else:
            expose(exposes_wrongly)  # type: ignore[type-var]
    except TypeError as error:
        return str(error)
    return "accepted"


@pytest.mark.parametrize("how", ["sync", "value", "process"])
def test_only_async_functions_are_endpoints(world: World, how: str) -> None:
    """Anything else is refused where it is exposed."""
    assert "needs an async function" in world.run(exposes_wrongly, how)


@agent_process
async def exposes_twice() -> list[str]:
    seen = []
    me = current_process().handle
    for answer in ("first", "second"):

        @expose
        async def which(answer: str = answer) -> str:
            return answer

        seen.append(await me.call("which"))
    return seen


def test_the_last_exposed_function_answers(world: World) -> None:
    """A name may be exposed again; and a process may call itself."""
    assert world.run(exposes_twice) == ["first", "second"]


class Counter:
    """State with a method as endpoint."""

    def __init__(self) -> None:
        self.count = 0

    async def increase(self, by: int = 1) -> int:
        self.count += by
        return self.count


@agent_process
async def exposes_a_method() -> int:
    counter = Counter()
    expose(counter.increase)
    await sleep(1)
    return counter.count


def test_methods_as_endpoints(world: World) -> None:
    """A bound method is exposed under its own name."""
    pid = world.start(exposes_a_method)
    assert world.ask(pid, "increase", by="5") == 5
    assert world.ask(pid, "increase") == 6
    world.settle()
    assert world.result(pid) == 6


# Between processes ----------------------------------------------------------------------------------------------------


@agent_process
async def customer(handle: ProcessHandle, name: str) -> list[Any]:
    seen: list[Any] = [await handle.call("add", name=name, count=2)]
    try:
        await handle.call("nothing")
    except EndpointNotFound as error:
        seen.append(error.code)
    try:
        await handle.call("breaks", how="value")
    except CallFailed as error:
        seen.append([isinstance(error, ValueError), error.error, error.message])
    pid, _, owner = await handle.call("whoami")
    seen.append([pid == handle.pid, isinstance(owner, ProcessHandle), owner == handle, hash(owner) == hash(handle)])
    seen.append(await handle.call("rare", wait=True))
    return seen


@agent_process
async def mall() -> Any:
    one = spawn(shop, late=5.0)
    seen = await asyncio.gather(*(customer(one, name) for name in "abc"))
    await one.call("close_shop")
    return [seen, await one]


def test_calls_between_processes(world: World) -> None:
    """A handle is passed on, and whoever has it can call; answers come to whoever asked."""
    seen, sold = world.run(mall)
    assert sold == "sold 6"
    assert sorted(s[0] for s in seen) == [2, 4, 6]
    for found in seen:
        assert found[1:] == [
            "endpoint-not-found",
            [True, "ValueError", "bad value"],
            [True, True, True, True],
            "at last",
        ]


@agent_process
async def ping(other: ProcessHandle | None, rounds: int) -> int:
    @expose
    async def hit(n: int, back: ProcessHandle) -> int:
        return n if n >= rounds else await back.call("hit", n=n + 1, back=current_process().handle)

    if other is None:
        return await wait()
    return await other.call("hit", n=0, back=current_process().handle)


@agent_process
async def table(rounds: int) -> int:
    first = spawn(ping, None, rounds)
    result = await ping(first, rounds)
    first.cancel()
    return result


def test_two_processes_that_call_each_other(world: World) -> None:
    """A call may lead back to its caller any number of times."""
    assert world.run(table, 50) == 50


@agent_process
async def calls_the_dead() -> list[str]:
    handle = spawn(exposes_a_method)
    await handle
    seen = []
    for wait_ in (False, True):
        try:
            await handle.call("increase", wait=wait_)
        except ProcessEnded as error:
            seen.append(error.code)
    return seen


def test_calling_a_process_that_has_ended(world: World) -> None:
    """The caller hears that it has."""
    assert world.run(calls_the_dead) == ["process-ended", "process-ended"]


@agent_process
async def calls_with_rubbish() -> list[str]:
    handle = spawn(shop)
    seen = []
    for bad in (lambda: handle.call("add", name=object()), lambda: handle.call(5), lambda: handle.call("\udc80")):  # type: ignore[arg-type]
        try:
            await bad()
        except (TypeError, ValueError) as error:
            seen.append(type(error).__name__)
    handle.cancel()
    return seen


def test_calls_that_cannot_be_sent(world: World) -> None:
    """They fail at the call, and nothing is sent."""
    pid = world.start(calls_with_rubbish)
    world.settle()
    assert world.result(pid) == ["NotSendable", "TypeError", "UnicodeEncodeError"]
    assert not any(isinstance(i, m.Call) for i in world.inputs(world.of_type("shop")[0].pid))


@agent_process
async def times_out_a_call() -> list[Any]:
    handle = spawn(shop)
    seen: list[Any] = []
    try:
        await asyncio.wait_for(handle.call("slowly", x=1, seconds=60), 5)
    except TimeoutError:
        seen.append("timeout")
    await sleep(100)
    seen.append(await handle.call("add", name="x"))
    handle.cancel()
    return seen


def test_a_call_that_takes_too_long(world: World) -> None:
    """wait_for gives up; the endpoint runs to its end, and its late answer is dropped."""
    assert world.run(times_out_a_call) == ["timeout", 1]


@agent_process
async def fails_while_called() -> None:
    @expose
    async def wrong() -> None:
        raise_soon.set()
        await sleep(100)

    raise_soon = asyncio.Event()
    await raise_soon.wait()
    raise KeyError("body")


@agent_process
async def caller_of_failing() -> list[str]:
    handle = spawn(fails_while_called)
    seen = []
    try:
        await handle.call("wrong")
    except ProcessEnded as error:
        seen.append(error.code)
    try:
        await handle
    except ExecutionFailed as error:
        seen.append(error.error)
    return seen


def test_a_body_that_fails_during_a_call(world: World) -> None:
    """The caller of the endpoint hears that the process ended, who awaits it hears why."""
    assert world.run(caller_of_failing) == ["process-ended", "KeyError"]
