"""Replay: a process with a long inbox is taken into memory again.

`replay of …` is what a host does at an activation, in one program alone: read the history, decode it, fold it. `fold
of …` leaves the reading out. `activation …` is the first call of a parked process, as its caller sees it.
"""

from __future__ import annotations

import asyncio
import time

from figures import Figure, of_rounds
from harness import APP, PARK_AFTER, Stack
from regrow.client import RemoteProcess
from regrow.operations import Env
from regrow.process import Process
from regrow_protocol import ids, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Received

PARKED = 2 * PARK_AFTER + 1.0
"""Seconds after which a host has dropped what is at rest."""


async def run(stack: Stack, rounds: int, quick: bool) -> list[Figure]:
    """One inbox of step results, one of calls."""
    count = 3000 if quick else 10_000
    stepped = await stack.start("steps_then_echo", n=count)
    called = await stack.start("echo")
    await stepped.call("ping", wait=True, timeout=60, v=0)
    await asyncio.gather(*(_calls(called, count // 100) for _ in range(100)))
    return [
        *await _replay(stack, stepped, "steps", rounds),
        *await _replay(stack, called, "calls", rounds),
        *await _activation(stack, {"steps": stepped, "calls": called}, count),
    ]


async def _calls(process: RemoteProcess, count: int) -> None:
    for value in range(count):
        await process.call("ping", v=value)


async def _replay(stack: Stack, process: RemoteProcess, what: str, rounds: int) -> list[Figure]:
    subject = subjects.inbox(APP, ids.partition_of(process.pid, 16), process.pid)

    async def once() -> tuple[int, float]:
        """How many messages, and the seconds that their fold took."""
        history = await stack.bus.history(stack.stream, subject)
        read = time.perf_counter()
        await _outside_tasks(stack, process.pid, history)
        return len(history), time.perf_counter() - read

    done = await stack.rounds(rounds, once)
    others = max(meter.others for meter, _ in done)
    return [
        of_rounds(f"replay of {what}", "rate", [n / meter.seconds for meter, (n, _) in done], others=others),
        of_rounds(f"fold of {what}", "rate", [n / seconds for _, (n, seconds) in done]),
    ]


async def _outside_tasks(stack: Stack, pid: str, history: list[Received]) -> None:
    """Fold it in a plain callback, as a host does."""
    finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def call() -> None:
        try:
            _fold(stack, pid, history)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            finished.set_exception(error)
        else:
            finished.set_result(None)

    asyncio.get_running_loop().call_soon(call)
    await finished


def _fold(stack: Stack, pid: str, history: list[Received]) -> None:
    process = Process(Env(APP, stack.build, 16, stack.program.types), pid)
    process.replaying = True
    for received in history:
        process.apply(m.decode_input(received.data), received.seq, received.time)
        process.take_outputs()
        process.new_local.clear()
        process.dropped_local.clear()
    assert process.status == "running"
    assert process.applied == history[-1].seq
    process.leave()


async def _activation(stack: Stack, processes: dict[str, RemoteProcess], count: int) -> list[Figure]:
    await asyncio.sleep(PARKED)
    found: list[Figure] = []
    for what, process in processes.items():
        await stack.patience.quiet()
        async with stack.meter() as meter:
            await process.call("ping", v=1)
        name = f"activation of {count:,} {what}, by a call"
        found.append(of_rounds(name, "time", [meter.seconds], count, others=meter.others))
    return found
