"""Programs of `regrow.ramure` that are interrupted, or killed: nothing of them runs on, and what can be is resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import TIMEOUT, Launch

pytestmark = pytest.mark.timeout(150)


def listed(what: str, *arguments: str) -> list[dict[str, Any]]:
    """`regrow ls`, or `regrow machines`, of all that runs."""
    argv = [sys.executable, "-m", "regrow_cli", what, "--json", *arguments]
    return json.loads(subprocess.run(argv, capture_output=True, check=True, timeout=TIMEOUT).stdout)


async def test_ctrl_c_ends_the_tree_and_its_machines(launch: Launch, tmp_path: Path, until: Any) -> None:
    """The program ends as an interrupted one does, and leaves no process and no machine."""
    program = launch("programs/long.py", "main", str(tmp_path))
    await until(lambda: program.says("child 2 runs"), "the children")
    assert str(tmp_path) in program.out
    assert program.interrupt() == -2 or "KeyboardInterrupt" in program.err
    await until(lambda: listed("ls") == [], "their ends in the list")
    await until(lambda: listed("machines") == [], "the end of the machine")


async def test_a_killed_program_is_started_again_by_resume(launch: Launch, tmp_path: Path, until: Any) -> None:
    """Its bodies begin anew under their pids, in a host of their own; the result is that of the program."""
    program = launch("programs/long.py", "main", str(tmp_path))
    await until(lambda: program.says("child 2 runs"), "the children")
    await until(lambda: [row["type"] for row in listed("ls")] == ["main", "child", "child"], "their records")
    root = listed("ls")[0]["pid"]
    program.kill()
    await until(lambda: listed("hosts") == [], "the end of its host", timeout=30)
    (tmp_path / "go").touch()
    resumed = launch("-m", "regrow_cli", "resume", root)
    assert resumed.wait() == 0, resumed.err
    assert resumed.out.split() == ["[1,2]"]
    await until(lambda: listed("ls") == [], "their ends in the list")


async def test_what_lived_in_the_program_only_fails_with_host_lost(launch: Launch, until: Any) -> None:
    """A function inside another one, and arguments that JSON cannot say."""
    programs = {which: launch("programs/long.py", which) for which in ("nested", "kept")}
    for which, program in programs.items():
        await until(lambda program=program, which=which: program.says(f"{which} runs"), "its body")
    await until(lambda: len(listed("ls")) == 2, "their records")
    roots = [row["pid"] for row in listed("ls")]
    for program in programs.values():
        program.kill()
    await until(lambda: listed("hosts") == [], "the end of their hosts", timeout=30)
    for resumed in [launch("-m", "regrow_cli", "resume", root) for root in roots]:
        assert resumed.wait() == 1
        assert "HostLost" in resumed.err
