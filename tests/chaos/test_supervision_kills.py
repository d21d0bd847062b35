"""The host of a group is killed at every step of a restart; what is left is what would have been without that."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from chaoskit import Stack, until
from regrow.client import RemoteProcess
from regrow.launcher import HostProcess
from regrow_protocol import messages as m
from regrow_protocol.subjects import pid_of, token

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

PROGRAMS = Path(__file__).with_name("programs_supervised.py")
MOST = 60
"""Steps that a restart has at most; far fewer are expected."""


async def member_pids(team: RemoteProcess) -> dict[str, str]:
    """Name → pid, once they are up."""

    async def told() -> dict[str, str]:
        events = [event async for event in team.events(follow=False)]
        return next((event.data for event in events if event.type == "pids"), {})

    return await until(told, "a team")


async def announced(stack: Stack, pid: str) -> list[str]:
    """The types of the events of a process."""
    return [event.type async for event in (await stack.client.find(pid)).events(follow=False)]


async def all_up(stack: Stack, pids: dict[str, str], run: int) -> None:
    """Wait until each member is up as incarnation `run`, and answers."""
    for name, pid in pids.items():

        async def is_up(pid: str = pid) -> bool:
            types = await announced(stack, pid)
            return types.count("up") == run + 1 and types[-1] == "up"

        try:
            await until(is_up, f"{name} as incarnation {run}", 120, every=0.05)
        except AssertionError as error:
            said = {of: await announced(stack, other) for of, other in pids.items()}
            raise AssertionError(f"{error}; stuck: {await stack.stuck()}; announced: {said}") from error
        assert await (await stack.client.find(pid)).call("hello", wait=True) == name


async def test_a_host_is_killed_at_every_step_of_a_restart_of_all(stack: Stack) -> None:
    """After 0, 1, 2 … messages of the restart are stored, until it has no more: always the same messages, each once,
    the same order, the same incarnations."""
    await stack.supervise()
    teams: list[tuple[RemoteProcess, dict[str, str]]] = []
    died = True
    while died:
        number = len(teams)
        assert number < MOST
        host = await stack.host(PROGRAMS, CHAOS_STOP=f"{number}:{number}")
        if teams:
            await all_up(stack, teams[-1][1], 1)
        team = await stack.start("team", tree=number)
        pids = await member_pids(team)
        teams.append((team, pids))
        await all_up(stack, pids, 0)
        victim = await stack.client.find(pids["b"])
        crash = asyncio.create_task(victim.call("crash"))
        await asyncio.wait({crash}, timeout=0)

        async def over(host: HostProcess = host, pids: dict[str, str] = pids) -> str:
            if host.deaths:
                return "died"
            ups = [(await announced(stack, pid)).count("up") for pid in pids.values()]
            return "up" if ups == [2, 2, 2] else ""

        died = await until(over, "the end of a restart, or of the host", 120, every=0.05) == "died"
        crash.cancel()
        await asyncio.gather(crash, return_exceptions=True)
    await all_up(stack, teams[-1][1], 1)
    assert len(teams) > 25
    for team, pids in teams:
        for pid in pids.values():
            await (await stack.client.find(pid)).call("finish")
        assert await team.result(60) == ["a", "b", "c"]
    await check(stack, teams)


async def check(stack: Stack, teams: list[tuple[RemoteProcess, dict[str, str]]]) -> None:
    """Every team's log says the same as that of the last one, whose host lived."""
    log = await stack.log()
    assert log.ambiguous() == []
    assert log.repeated_events() == []
    told = await transcripts(stack, {team.pid: pids for team, pids in teams})
    expected = told[teams[-1][0].pid]
    for team, pids in teams:
        messages = told[team.pid]
        assert Counter(messages) == Counter(expected)
        ordered = [each for each in messages if each[1] in ("cancel", "again") or each[:2] == ("team", "child")]
        assert ordered[:8] == [
            ("team", "child", "b", 0), ("c", "cancel", "", 0), ("team", "child", "c", 0), ("a", "cancel", "", 0),
            ("team", "child", "a", 0), ("a", "again", "", 1), ("b", "again", "", 1), ("c", "again", "", 1),
        ]  # fmt: skip
        for pid in pids.values():
            records = sorted((seq, found[0]) for (of, seq), found in log.events.items() if of == pid)
            assert [(record.type, record.incarnation) for _, record in records] == [
                ("started", 0), ("up", 0), ("end", 0), ("restarted", 1), ("up", 1), ("end", 1), ("done", 1),
            ]  # fmt: skip


async def transcripts(stack: Stack, teams: dict[str, dict[str, str]]) -> dict[str, list[tuple[str, str, str, int]]]:
    """By team, what it and its members were sent: (to whom, kind, from which member, incarnation)."""
    team_of = {pid: team for team, pids in teams.items() for pid in [team, *pids.values()]}
    names = {pid: name for pids in teams.values() for name, pid in pids.items()}
    found: dict[str, list[tuple[str, str, str, int]]] = defaultdict(list)
    for received in await stack.bus.history(stack.inbox, f"regrow.inbox.{token(stack.app)}.>"):
        pid, message = pid_of(received.subject), m.decode_input(received.data)
        kind: Any = msgspec.json.decode(received.data)["kind"]
        if isinstance(message, m.Call):
            continue  # clients repeat theirs
        child = names[message.pid] if isinstance(message, m.Child) else ""
        run = message.run if isinstance(message, m.Child) else getattr(message, "incarnation", 0)
        found[team_of[pid]].append((names.get(pid, "team"), kind, child, run))
    return found
