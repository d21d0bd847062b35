"""Endpoints: calls wait for the first turn, run in the owner's scope, and come back with a value or a clear error."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
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
    done,
    emit,
    expose,
    fail,
    sleep,
    spawn,
    step,
    wait,
)
from regrow.testing import Runtime

from .looking import event


class Peculiar(Exception):
    """Known to this program only."""


@agent_process
async def account(balance: int = 0) -> int:
    """Everything that the tests call."""
    late = asyncio.Event()

    @expose
    async def add(amount: int, note: str = "") -> dict[str, Any]:
        nonlocal balance
        balance += amount
        emit("added", {"amount": amount, "note": note})
        return {"balance": balance, "pid": current_process().pid}

    @expose
    async def close() -> str:
        done(balance)
        return "closing"

    @expose
    async def spoil(reason: str) -> None:
        fail(reason, retryable=False)

    @expose
    async def raises(kind: str) -> None:
        raise {"key": KeyError("k"), "value": ValueError("bad value"), "own": Peculiar("odd"), "empty": OSError()}[kind]

    @expose
    async def open_late() -> None:
        late.set()

    @expose
    async def hangs() -> None:
        await asyncio.Event().wait()

    @expose
    async def slowly(seconds: float) -> float:
        await sleep(seconds)
        return seconds

    @expose
    async def with_a_child_and_a_step(n: int) -> int:
        return await triple(n) + await step(int, "1", name="one")

    @expose
    async def gives_nonsense() -> Any:
        return object()

    async def exposes_later() -> None:
        await late.wait()

        @expose
        async def secret() -> str:
            return "late but here"

    opener = asyncio.create_task(exposes_later())
    result = await wait()
    opener.cancel()
    return int(result)


@agent_process
async def triple(n: int) -> int:
    return 3 * n


@agent_process
async def calls_before_the_first_turn() -> int:
    handle = spawn(account, 5)
    answer = await handle.call("add", amount=1)
    await handle.call("close")
    return int(answer["balance"]) * 10 + await handle


async def test_a_call_waits_for_the_first_turn(rt: Runtime) -> None:
    """A call sent before its process has begun is answered once that has exposed what it exposes."""
    assert await rt.run(calls_before_the_first_turn) == 66


async def test_a_client_calls_an_endpoint(rt: Runtime) -> None:
    """A call from outside all processes returns the endpoint's result."""
    root = await rt.start(account, 1)
    assert await root.call("add", amount=2) == {"balance": 3, "pid": root.pid}
    assert await root.call("add", amount=4, note="n") == {"balance": 7, "pid": root.pid}
    await root.call("close")
    assert await root.result(30) == 7


async def test_an_unknown_endpoint_is_endpoint_not_found_and_a_value_error(rt: Runtime) -> None:
    """Calling a name that is not exposed raises EndpointNotFound, a ValueError that says "No endpoint 'x'"."""
    root = await rt.start(account)
    with pytest.raises(EndpointNotFound, match="No endpoint 'x'"):
        await root.call("x")
    with pytest.raises(ValueError, match="No endpoint 'y'"):
        await root.call("y")


@agent_process
async def calls_unknown() -> list[Any]:
    handle = spawn(account)
    try:
        await handle.call("x")
    except EndpointNotFound as error:
        return [isinstance(error, ValueError), "No endpoint 'x'" in str(error), "add" in str(error)]
    return []


async def test_a_process_that_calls_an_unknown_endpoint_gets_the_same_error(rt: Runtime) -> None:
    """EndpointNotFound reaches a calling body too, and names what is exposed."""
    assert await rt.run(calls_unknown) == [True, True, True]


@agent_process
async def waits_for_an_endpoint() -> list[Any]:
    handle = spawn(account)
    call = asyncio.create_task(handle.call("secret", wait=True))
    await handle.call("slowly", seconds=60.0)
    early = call.done()
    await handle.call("open_late")
    return [early, await call]


async def test_wait_true_waits_until_the_name_is_exposed(rt: Runtime) -> None:
    """call(wait=True) is answered once the endpoint is exposed, however late."""
    assert await rt.run(waits_for_an_endpoint) == [False, "late but here"]


async def test_an_endpoint_runs_in_the_scope_of_its_owner(rt: Runtime) -> None:
    """emit and done inside an endpoint are those of the process that exposes it."""
    root = await rt.start(account)
    await root.call("add", amount=9, note="x")
    added = await event(root, "added")
    assert added.data == {"amount": 9, "note": "x"}
    assert await root.call("close") == "closing"
    assert await root.result(30) == 9


async def test_fail_inside_an_endpoint_fails_its_owner(rt: Runtime) -> None:
    """fail() in an endpoint fails the process that exposes it, and the caller gets the endpoint's own answer."""
    root = await rt.start(account)
    assert await root.call("spoil", reason="gone bad") is None
    with pytest.raises(ExecutionFailed) as caught:
        await root.result(30)
    assert (caught.value.reason, caught.value.retryable) == ("gone bad", False)


async def test_an_endpoint_may_await_children_steps_and_timers(rt: Runtime) -> None:
    """What works in a body works in an endpoint, several calls of it side by side."""
    root = await rt.start(account)
    answers = await asyncio.gather(
        root.call("with_a_child_and_a_step", n=1),
        root.call("slowly", seconds=86_400.0),
        root.call("with_a_child_and_a_step", n=2),
    )
    assert answers == [4, 86_400.0, 7]


@agent_process
async def exposes_a_sync_function() -> str:
    try:

        @expose  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportUntypedFunctionDecorator]
        def plain() -> None: ...

    except TypeError as error:
        return str(error)
    return ""


async def test_exposing_a_sync_function_is_refused(rt: Runtime) -> None:
    """@expose takes async functions only and says so at once."""
    assert "async" in await rt.run(exposes_a_sync_function)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({}, "amount"),
        ({"amount": 1, "colour": "red"}, "colour"),
        ({"amount": "many"}, "amount"),
        ({"amount": [1]}, "amount"),
    ],
    ids=["missing", "unknown", "a text for a number", "a list for a number"],
)
async def test_bad_arguments_are_refused_naming_the_argument(rt: Runtime, kwargs: dict[str, Any], says: str) -> None:
    """Arguments that do not fit the endpoint raise InvalidArguments, a TypeError, at the caller; the owner goes on."""
    root = await rt.start(account)
    with pytest.raises(InvalidArguments, match=says) as caught:
        await root.call("add", **kwargs)
    assert isinstance(caught.value, TypeError)
    assert (await root.call("add", amount=1))["balance"] == 1


async def test_what_an_endpoint_raises_reaches_the_caller_as_its_builtin_class_too(rt: Runtime) -> None:
    """An endpoint's exception is CallFailed at the caller, and where it is a builtin class also one of those."""
    root = await rt.start(account)
    with pytest.raises(CallFailed, match="bad value") as caught:
        await root.call("raises", kind="value")
    assert isinstance(caught.value, ValueError)
    assert caught.value.error == "ValueError"
    with pytest.raises(KeyError) as missing:
        await root.call("raises", kind="key")
    assert isinstance(missing.value, CallFailed)
    with pytest.raises(CallFailed, match="odd") as own:
        await root.call("raises", kind="own")
    assert own.value.error == "Peculiar"
    with pytest.raises(OSError, match="OSError"):
        await root.call("raises", kind="empty")
    assert (await root.call("add", amount=1))["balance"] == 1, "the owner goes on"


@agent_process
async def handles_call_errors() -> list[str]:
    handle = spawn(account)
    found: list[str] = []
    try:
        await handle.call("raises", kind="value")
    except ValueError as error:
        found.append(f"{isinstance(error, CallFailed)} {error}")
    try:
        await handle.call("add")
    except InvalidArguments as error:
        found.append("amount" if "amount" in str(error) else str(error))
    try:
        await handle.call("add", amount=object())
    except NotSendable:
        found.append("NotSendable")
    return found


async def test_errors_of_calls_between_processes(rt: Runtime) -> None:
    """A calling body catches an endpoint's error by its builtin class, and bad or unsendable arguments as such."""
    assert await rt.run(handles_call_errors) == ["True bad value", "amount", "NotSendable"]


async def test_an_answer_that_cannot_be_sent_is_an_error_of_the_call(rt: Runtime) -> None:
    """An endpoint that returns what cannot travel fails that call, not the process."""
    root = await rt.start(account)
    with pytest.raises(NotSendable, match="gives_nonsense"):
        await root.call("gives_nonsense")
    assert (await root.call("add", amount=1))["balance"] == 1


async def test_a_call_after_the_end_is_process_ended(rt: Runtime) -> None:
    """A process that has ended answers every call with ProcessEnded, also one with wait=True."""
    root = await rt.start(account)
    await root.call("close")
    await root.result(30)
    with pytest.raises(ProcessEnded, match=root.pid):
        await root.call("add", amount=1)
    with pytest.raises(ProcessEnded):
        await root.call("nowhere", wait=True)


async def test_calls_under_way_at_the_end_get_process_ended(rt: Runtime) -> None:
    """A call that is running, or waits for its name, when the process ends, is answered with ProcessEnded."""
    root = await rt.start(account)
    hanging = asyncio.create_task(root.call("hangs"))
    waiting = asyncio.create_task(root.call("never_exposed", wait=True))
    await root.call("add", amount=1)
    await root.call("close")
    for task in (hanging, waiting):
        with pytest.raises(ProcessEnded):
            await task


@agent_process
async def calls_in_circles(depth: int, other: ProcessHandle | None = None) -> str:
    """Each calls back the one that called it."""

    @expose
    async def ask(level: int) -> str:
        handle = partner[0]
        return f"{level}" if level == 0 else f"{level} " + str(await handle.call("ask", level=level - 1))

    @expose
    async def stop() -> None:
        done("stopped")

    if other is not None:
        partner = [other]
        return str(await wait())
    partner = [spawn(calls_in_circles, depth, current_process().handle)]
    answer = str(await partner[0].call("ask", level=depth))
    await partner[0].call("stop")
    return answer


async def test_processes_may_call_each_other_back(rt: Runtime) -> None:
    """While a process waits for the answer to its call, it answers calls itself."""
    assert await rt.run(calls_in_circles, 4) == "4 3 2 1 0"


async def test_calls_of_one_caller_are_taken_in_their_order(rt: Runtime) -> None:
    """Calls sent one after the other without waiting reach the endpoint in that order, each once."""
    root = await rt.start(account)
    answers = await asyncio.gather(*(root.call("add", amount=1, note=str(n)) for n in range(50)))
    assert [a["balance"] for a in answers] == list(range(1, 51))
    await root.call("close")
    notes = [e.data["note"] async for e in root.events() if e.type == "added"]
    assert notes == [str(n) for n in range(50)]
