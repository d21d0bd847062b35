"""Whatever ends a harness, and whatever it started, its launch command ends with its exit code and nothing is left."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from launchkit import AGENT, Ground
from regrow_agent_gateway.harness import Setting, started
from regrow_protocol.agents import Launch

BUSY = """
(setsid sleep 1001 &)
(env -i sleep 1002 &)
(env -u REGROW_AGENT_MARK sh -c 'sleep 1003; :' &)
sh -c 'trap "" TERM; sleep 1004; sleep 1005; :' &
sleep 1006
"""
"""Starts what leaves its group and session, what drops its variables, and what ignores TERM."""


def launch(program: str, *, agent: str = AGENT, session: int = 1, **more: Any) -> Launch:
    setting = Setting(
        id=agent, name="worker", session=session, resume=session > 1, url=f"http://127.0.0.1:1/agents/{agent}",
        token="rga_1", folder=f".regrow/agents/{agent}", workdir="/nowhere", **more,
    )  # fmt: skip
    return started(setting, program)


def shell(folder: Path, command: str) -> str:
    """A PATH on which `sh` is another shell."""
    words = command.split()
    program = shutil.which(words[0])
    if program is None:
        pytest.skip(f"{words[0]} is not installed")
    folder.mkdir(exist_ok=True)
    (folder / "sh").write_text(f'#!{shutil.which("dash") or "/bin/sh"}\nexec {" ".join([program, *words[1:]])} "$@"\n')
    (folder / "sh").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


async def test_the_exit_code_and_the_end_of_the_screen_come_back(ground: Ground) -> None:
    """It runs in the workdir, with its variables, on a terminal; nothing of it stays."""
    program = 'tty -s && pwd && echo "$REGROW_AGENT_NAME $REGROW_AGENT_SESSION ${TMUX-none}"; echo oh >&2; exit 7\n'
    done = await (await ground.launch(launch(program)))
    assert done.exit_code == 7
    assert done.stdout.decode().splitlines() == [str(ground.work), "worker 1 none", "oh"]
    assert ground.processes() == []


@pytest.mark.parametrize("sh", ["dash", "bash", "busybox sh"])
async def test_killing_the_launch_leaves_nothing(ground: Ground, tmp_path: Path, until: Any, sh: str) -> None:
    """What left the group, dropped its variables or ignores TERM has ended, too."""
    running = await ground.launch(launch(BUSY), PATH=shell(tmp_path / "bin", sh))
    await until(lambda: len(ground.named("^sleep 100")) == 5, "its start")
    await ground.kill()
    done = await running
    assert done.killed
    await ground.gone()


@pytest.mark.parametrize(
    ("victim", "code"),
    [
        (r"^sleep 1006$", 137),  # the harness itself
        (r"^sh \S+/run\.sh window$", 137),
        (r"^tmux .* new-session ", None),
        (r"/run\.sh keep$", 143),
        (r"^sh \S+/run\.sh$", 137),
    ],
)
async def test_kill_9_of_any_part_ends_all(ground: Ground, until: Any, victim: str, code: int | None) -> None:
    """The launch ends, and nothing is left."""
    running = await ground.launch(launch(BUSY))
    await until(lambda: len(ground.named("^sleep 100")) == 5 and ground.named(victim), "its start")
    ground.signal(ground.named(victim)[:1])
    if victim.endswith("keep$"):
        ground.signal(ground.named("^sleep 1006$"), signal.SIGTERM)
    done = await running
    await ground.gone()
    assert code is None or done.exit_code == code


async def test_what_a_dead_launch_left_is_ended_by_the_next(ground: Ground, until: Any) -> None:
    """Where all that watched was killed at once, the next session begins by ending what is left of the last."""
    running = await ground.launch(launch(BUSY))
    await until(lambda: len(ground.named("^sleep 100")) == 5, "its start")
    ground.signal(ground.named(r"/run\.sh( |$)"))
    assert (await running).exit_code == 137
    assert ground.named("sleep 1001")
    done = await (await ground.launch(launch("exit 5\n", session=2), "p.1.2"))
    assert done.exit_code == 5
    assert ground.processes() == []


async def test_stopping_the_machine_ends_all(ground: Ground, until: Any) -> None:
    """Also with those killed that would have."""
    running = await ground.launch(launch(BUSY))
    await until(lambda: len(ground.named("^sleep 100")) == 5, "its start")
    ground.signal(ground.named(r"/run\.sh( |$)"))
    await ground.backend.stop(ground.data)
    running.cancel()
    await asyncio.wait([running])
    await ground.gone()


async def test_agents_of_one_machine_do_not_end_each_other(ground: Ground, until: Any) -> None:
    """One is killed, the other works on; ids of which one begins like the other are apart."""
    first = await ground.launch(launch("touch one; sleep 1001\n"), "p.1.1")
    other = await ground.launch(launch("touch two; read -r x; exit 3\n", agent=f"{AGENT}2"), "p.1.2")
    await until(lambda: (ground.work / "one").exists() and (ground.work / "two").exists(), "their start")
    await ground.kill("p.1.1")
    await first
    assert not other.done()
    socket = f"{ground.work}/.regrow/agents/{AGENT}2"
    keys = ["sh", "-c", f"cd {socket} && exec tmux -S tmux.sock send-keys -t agent Enter"]
    assert (await ground.backend.exec(ground.data, keys)).exit_code == 0
    assert (await other).exit_code == 3


async def test_without_tmux_it_says_so(ground: Ground, tmp_path: Path) -> None:
    """And starts nothing."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "dirname"):
        (tools / name).symlink_to(shutil.which(name) or "")
    done = await (await ground.launch(launch("true\n"), PATH=str(tools)))
    assert done.exit_code == 127
    assert b"tmux is not installed" in done.stderr
