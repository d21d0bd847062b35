"""A new version of a program takes over the processes of the old one where they are."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from chaoskit import Stack, until
from regrow.client import RemoteProcess
from regrow_protocol import messages as m

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]

PROGRAM = """
import asyncio
from regrow import agent_process, expose, spawn, step

async def says(word):
    return word

@agent_process
async def leaf():
    gate = asyncio.Event()

    @expose
    async def ping() -> str:
        return "LATER"

    @expose
    async def go() -> None:
        gate.set()

    first = await step(says, "before")
    await gate.wait()
    return [first, await step(says, "LATER")]

@agent_process
async def tree():
    @expose
    async def child() -> str:
        return handle.pid

    handle = spawn(leaf)
    return ["LATER", await handle]
"""


class Release:
    """The program's file, in one version or the other."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "released.py"

    def write(self, later: str) -> None:
        self.path.write_text(PROGRAM.replace("LATER", later))


async def move(stack: Stack, release: Release, later: str) -> None:
    """Stop the last host and start one of another version."""
    await stack.last_host.stop()
    release.write(later)
    await stack.host(release.path)


async def run(processes: list[RemoteProcess], version: str) -> None:
    """They answer with the code of a version."""
    answers = await asyncio.gather(*(process.call("ping", wait=True) for process in processes))
    assert answers == [version] * len(processes)


async def test_processes_move_to_a_new_build(stack: Stack, tmp_path: Path) -> None:
    """Once their build has no host, processes and their children move to the new one and finish with its code."""
    release = Release(tmp_path)
    release.write("old")
    await stack.supervise(REGROW_UPGRADE_GRACE="0.2")
    await stack.host(release.path)
    leaves = [await stack.start("leaf") for _ in range(16)]
    trees = [await stack.start("tree") for _ in range(4)]
    await run(leaves, "old")
    children = [await tree.call("child", wait=True) for tree in trees]
    await move(stack, release, "new")
    await run(leaves, "new")
    await asyncio.gather(*(leaf.call("go") for leaf in leaves))
    for pid in children:
        await stack.client.call(stack.app, pid, "go", {}, wait=True)
    assert await asyncio.gather(*(leaf.result(30) for leaf in leaves)) == [["before", "new"]] * len(leaves)
    results = await asyncio.gather(*(tree.result(30) for tree in trees))
    assert results == [["new", ["before", "new"]]] * len(trees)
    log = await stack.log()
    assert log.ambiguous() == []
    assert log.repeated_events() == []


@pytest.mark.parametrize("moves", [["new", "old"], ["new", "old", "new"]], ids=["back", "back-and-forth"])
async def test_a_release_is_rolled_back(stack: Stack, tmp_path: Path, moves: list[str]) -> None:
    """Processes that moved to a new build move back when the old one returns, and nothing that they said is lost."""
    release = Release(tmp_path)
    release.write("old")
    await stack.supervise(REGROW_UPGRADE_GRACE="0.2")
    await stack.host(release.path)
    leaves = [await stack.start("leaf") for _ in range(16)]
    await run(leaves, "old")
    for version in moves:
        await move(stack, release, version)
        await run(leaves, version)
    await asyncio.gather(*(leaf.call("go") for leaf in leaves))
    assert await asyncio.gather(*(leaf.result(30) for leaf in leaves)) == [["before", moves[-1]]] * len(leaves)
    assert await stack.stuck() == {}
    log = await stack.log()
    assert log.ambiguous() == []
    assert log.repeated_events() == []


async def test_processes_stay_with_their_version_until_a_new_one_takes_them(stack: Stack, tmp_path: Path) -> None:
    """While a host of their build lives, one of another build gets only what is started on it; one that says
    `upgrade="auto"` gets them all. Each host tells its version."""
    release = Release(tmp_path)
    release.write("old")
    await stack.supervise()
    old = await stack.host(release.path, REGROW_APP_VERSION="1.0")
    leaves = [await stack.start("leaf") for _ in range(8)]
    await run(leaves, "old")
    release.write("new")
    await stack.host(release.path, REGROW_APP_VERSION="2.0")
    fresh = [await stack.start("leaf") for _ in range(8)]
    await run(fresh, "new")
    await run(leaves, "old")
    await stack.host(release.path, REGROW_APP_VERSION="2.0", REGROW_UPGRADE="auto")

    async def told() -> bool:
        entries = [entry async for entry in stack.bus.kv("regrow_hosts").items(">")]
        return sorted(m.decode(entry.value, m.HostRecord).version for entry in entries) == ["1.0", "2.0", "2.0"]

    await until(told, "their versions")

    async def moved() -> bool:
        return set(await asyncio.gather(*(leaf.call("ping", wait=True) for leaf in leaves))) == {"new"}

    await until(moved, "their move")
    assert not old.deaths
    await asyncio.gather(*(leaf.call("go") for leaf in leaves + fresh))
    results = await asyncio.gather(*(leaf.result(30) for leaf in leaves + fresh))
    assert results == [["before", "new"]] * 16
