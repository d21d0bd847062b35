"""A manager that stands still in the middle of a command: its replica gives no answer that it cannot know."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from machinekit import Fleet
from regrow_protocol.machines import Exec, ExecDone

HOLDS = "from regrow_machine_manager.backends import _holding; _holding.SOON = 5.0"
"""The manager has a command's output in its hands for long enough to be frozen by it then, however busy the node is."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("then", [signal.SIGCONT, signal.SIGKILL])
@pytest.mark.parametrize("size", [6, 200_000])
async def test_a_frozen_managers_command(fleet: Fleet, then: signal.Signals, size: int) -> None:
    """Frozen in its first moments, with the output in its hands: the whole output comes once it wakes or dies."""
    caller = await fleet.caller()
    first = await fleet.start("n1", before=HOLDS)
    machine = await caller.create()
    freezing = f"kill -STOP {first.process.pid}; head -c {size} /dev/zero | tr '\\0' x; echo; exit 3"
    asked = await caller.send(caller.command("exec", Exec(freezing)), machine)
    await fleet.start("n1")
    try:
        with pytest.raises(TimeoutError):
            await caller.answer(asked, ExecDone, timeout=6)  # it is with the second one from the third second on
    finally:
        os.kill(first.process.pid, then)
    done = await asyncio.wait_for(caller.answer(asked, ExecDone, timeout=30), 40)
    assert (done.exit_code, done.stdout) == (3, b"x" * size + b"\n")
