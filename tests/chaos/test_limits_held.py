"""A limit holds, and nobody is forgotten, with two supervisors and hosts that are killed: told by the streams."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from chaoskit import LONG, Stack, until
from regrow_protocol import limits
from regrow_protocol import messages as m
from regrow_protocol.limits import Limit, Permits
from regrow_protocol.subjects import pid_of, token

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900 if LONG else 240)]

PROGRAMS = Path(__file__).with_name("programs_limited.py")
LIMIT = 5
SECONDS = 0.2 if LONG else 0.02
CONTENDERS = {"patients": 40, "steppers": 40, "urgents": 120, "waiting": 20}
QUICK = (
    "import runpy, regrow_supervisor.admission as admission; admission.AGEING = 0.2; "
    "runpy.run_module('regrow_supervisor', run_name='__main__', alter_sys=True)"
)
"""A supervisor to which 0.2 seconds of waiting are what a minute is to others."""


async def set_limit(stack: Stack, concurrency: int) -> None:
    await stack.bus.kv(limits.BUCKET).put("limit.llm", m.encode(Limit(name="llm", concurrency=concurrency)))


async def held(stack: Stack) -> dict[str, tuple[float, float]]:
    """By pid: when it was recorded that a permit was given, and when, that what it was for is done. Whoever holds one
    has it for at least that long."""
    given: dict[str, float] = {}
    finished: dict[str, float] = {}
    for received in await stack.bus.history(stack.inbox, f"regrow.inbox.{token(stack.app)}.>"):
        message = m.decode_input(received.data)
        if isinstance(message, m.Result):
            times = {"command": given, "step": finished}[message.op.kind]
            times.setdefault(pid_of(received.subject), received.time)
    assert given.keys() == finished.keys()
    return {pid: (given[pid], finished[pid]) for pid in given}


def most_at_once(intervals: list[tuple[float, float]]) -> int:
    changes = sorted([(begin, 1) for begin, _ in intervals] + [(end, -1) for _, end in intervals])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


async def asked(stack: Stack) -> dict[str, list[str]]:
    """Type → pids, in the order of their starts."""
    found: dict[str, list[str]] = defaultdict(list)
    for received in await stack.bus.history(stack.inbox, f"regrow.inbox.{token(stack.app)}.>"):
        message = m.decode_input(received.data)
        if isinstance(message, m.Start):
            found[message.type].append(pid_of(received.subject))
    return found


async def test_a_limit_holds_and_nobody_starves(stack: Stack) -> None:
    """200 contenders and more, over two hosts, one of which is killed: never more than 5 at once, and those who come
    last by priority get their turn while others that come first still arrive."""
    await set_limit(stack, LIMIT)
    for _ in range(2):
        await stack.supervise(program=QUICK)
    hosts = [await stack.host(PROGRAMS) for _ in range(2)]
    await stack.owned_by(*hosts)
    crowd = await stack.start("crowd", **CONTENDERS, seconds=SECONDS)
    await stack.stored(600)
    await stack.kill(hosts[0])
    count = await crowd.result(600 if LONG else 200)
    found = await held(stack)
    assert len(found) == count >= 200
    assert most_at_once(list(found.values())) <= LIMIT
    pids = await asked(stack)
    served = sorted(found, key=lambda pid: found[pid][0])
    assert served.index(pids["urgent"][-1]) > max(served.index(pid) for pid in pids["patient"])

    async def returned() -> bool:
        value = await stack.bus.kv(limits.BUCKET).get("permits.llm")
        return value is not None and m.decode(value[0], Permits).holders == {}

    await until(returned, "the return of all permits")


async def test_permits_of_an_app_without_hosts_come_back(stack: Stack) -> None:
    """Its host was killed, and no other one comes: those of another app go on."""
    await set_limit(stack, 2)
    await stack.supervise(REGROW_UPGRADE_GRACE="1")
    await stack.supervise(REGROW_UPGRADE_GRACE="1")
    other = Stack(stack.server, stack.bus, stack._stack)
    host = await other.host(PROGRAMS)
    for _ in range(2):
        await other.start("holds")

    async def taken() -> bool:
        value = await stack.bus.kv(limits.BUCKET).get("permits.llm")
        return value is not None and len(m.decode(value[0], Permits).holders) == 2

    await until(taken, "two permits")
    await stack.host(PROGRAMS)
    waiting = await stack.start("patient", seconds=0.0)
    await other.kill(host)
    await waiting.result(60)
