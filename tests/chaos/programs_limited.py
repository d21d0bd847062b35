"""Contenders for a limit."""

from __future__ import annotations

import asyncio

from regrow import ProcessHandle, agent_process, sleep, spawn, step


async def work(seconds: float) -> None:
    await asyncio.sleep(seconds)


@agent_process(limits=["llm"], priority=5)
async def urgent(seconds: float) -> None:
    """Comes before `patient`."""
    await step(work, seconds)


@agent_process(limits=["llm"])
async def patient(seconds: float) -> None:
    await step(work, seconds)


@agent_process
async def stepper(seconds: float) -> None:
    """Only its step is under the limit."""
    await step(work, seconds, limit="llm")


@agent_process
async def crowd(patients: int, steppers: int, urgents: int, waiting: int, seconds: float) -> int:
    """Half of the patient ones at once, the others later. Urgent ones are never fewer than `waiting`, so that somebody
    waits who comes first, until all patient ones are done. Returns how many contenders there were."""
    early = [spawn(patient, seconds) for _ in range(patients // 2)] + [spawn(stepper, seconds) for _ in range(steppers)]
    hurried = [spawn(urgent, seconds) for _ in range(waiting)]
    late: list[ProcessHandle] = []
    at = 0
    while at < len(hurried):
        await hurried[at]
        at += 1
        if at == urgents // 2:
            late = [spawn(patient, seconds) for _ in range(patients - patients // 2)]
        if len(hurried) < urgents or any(each.status() == "running" for each in [*early, *late]):
            hurried.append(spawn(urgent, seconds))
    return len(hurried) + len(early) + len(late)


@agent_process(limits=["llm"])
async def holds() -> None:
    """Has a permit for as long as its host lives."""
    await sleep(100_000.0)
