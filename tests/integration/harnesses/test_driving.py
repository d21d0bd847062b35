"""The driver feeds a harness without a door: each message is one turn, in order, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from launchkit import AGENT, Ground
from regrow_agent_gateway.harness import Setting, spooled
from regrow_protocol.agents import Launch

FOLDER = f".regrow/agents/{AGENT}"
TURN = """
echo "turn $2 of session $REGROW_AGENT_SESSION" >>log
cat "$1" >>log
! grep -q slow "$1" || [ -e go ] || { touch begun; while ! [ -e go ]; do sleep 0.01; done; }
! grep -q bad "$1" || exit 9
"""


def launch(session: int = 1) -> Launch:
    setting = Setting(
        id=AGENT, name="worker", session=session, resume=session > 1, url=f"http://127.0.0.1:1/agents/{AGENT}",
        token="rga_1", folder=FOLDER, workdir="/nowhere",
    )  # fmt: skip
    return spooled(setting, TURN)


async def tell(ground: Ground, seq: int, text: str) -> None:
    """What the gateway does for a message."""
    await ground.backend.write(ground.data, f"{ground.work}/{FOLDER}/spool/{seq:020}", text.encode())
    await ground.backend.exec(ground.data, ["tmux", "-S", f"{FOLDER}/tmux.sock", "wait-for", "-S", "spool"])


def log(ground: Ground) -> list[str]:
    path = ground.work / "log"
    return path.read_text().splitlines() if path.exists() else []


async def test_messages_are_turns_in_their_order(ground: Ground, until: Any) -> None:
    """Those that come early, while it is busy and while it waits; one that is written twice is taken once."""
    await tell(ground, 3, "slow one\n")
    running = await ground.launch(launch())
    await until((ground.work / "begun").exists, "the first turn")
    await tell(ground, 12, "two\n")
    await tell(ground, 101, "three\n")
    (ground.work / "go").touch()
    await until(lambda: log(ground)[-1:] == ["three"], "the third turn")
    await tell(ground, 12, "two\n")
    await tell(ground, 102, "$(touch oh)\n")
    await until(lambda: log(ground)[-1:] == ["$(touch oh)"], "the fourth turn")
    texts = ["slow one", "two", "three", "$(touch oh)"]
    assert log(ground) == [line for n, text in enumerate(texts, 1) for line in (f"turn {n} of session 1", text)]
    assert not (ground.work / "oh").exists()
    await ground.kill()
    await running


async def test_a_turn_that_was_cut_off_comes_again(ground: Ground, until: Any) -> None:
    """Its text says so; those after it follow."""
    running = await ground.launch(launch())
    await tell(ground, 1, "slow one\n")
    await until((ground.work / "begun").exists, "the first turn")
    await tell(ground, 2, "two\n")
    ground.signal(ground.named(r"/driver\.sh$|/turn "), signal.SIGKILL)
    assert (await running).exit_code == 137
    (ground.work / "go").touch()
    again = await ground.launch(launch(2), "p.1.2")
    await until(lambda: log(ground)[-1:] == ["two"], "the second turn")
    said = log(ground)
    assert said[:3] == ["turn 1 of session 1", "slow one", "turn 2 of session 2"]
    assert said[3].startswith("[You were stopped")
    assert said[4:] == ["", "slow one", "turn 3 of session 2", "two"]
    await ground.kill("p.1.2")
    await again


async def test_a_turn_that_fails_ends_the_session(ground: Ground) -> None:
    """With its exit code."""
    running = await ground.launch(launch())
    await tell(ground, 1, "bad\n")
    async with asyncio.timeout(45):
        assert (await running).exit_code == 9
    assert ground.processes() == []
