"""The programs of ramure's announcement and readme, as they stand there but for their imports, with real pi.

Each runs twice: with `from regrow.ramure import`, and with that line changed again, to `from regrow import`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from regrow.testing.harness_programs import find_program

from .conftest import PROGRAMS, Launch

pytestmark = pytest.mark.timeout(120)
needs_pi = pytest.mark.skipif(find_program("pi") is None, reason="pi is not installed: make harnesses")
both = pytest.mark.parametrize("durable", [False, True], ids=["regrow.ramure", "regrow"])

POOL = """\
[{'t0000': 'done', 't0001': 'failed'}, \
{'t0000': 'Check for bugs introduced in PR #17.', 't0001': 'An impossible thing.'}, []]
"""
COMPOSED = """\
def f(): ...  # fibonacci function
Rust is a language
Python is a language
write a haiku, done in attempt 3
t0000 began {'spec': 'one'}
t0000 done ONE
t0001 began {'spec': 'two'}
t0001 done TWO
"""


def written(name: str, folder: Path, *, durable: bool) -> str:
    """A program, with its import line changed again where it shall be durable."""
    text = (PROGRAMS / f"{name}.py").read_text()
    if durable:
        text = text.replace("from regrow.ramure import", "from regrow import")
    path = folder / f"{name}.py"
    path.write_text(text)
    return str(path)


@both
@pytest.mark.parametrize(
    ("name", "printed"),
    [
        pytest.param("worker", "It is done.\n", marks=needs_pi),
        pytest.param("haikus", "It is done.\n", marks=needs_pi),
        pytest.param("pool", POOL, marks=needs_pi),
        ("compose", COMPOSED),
    ],
)
async def test_a_program_of_ramure_runs(launch: Launch, tmp_path: Path, name: str, printed: str, durable: bool) -> None:
    """It prints what it should, says nothing else, and leaves nothing that runs."""
    program = launch(written(name, tmp_path, durable=durable))
    assert program.wait() == 0, program.err
    assert (program.out, program.err) == (printed, "")


@needs_pi
async def test_an_agent_s_conversation_is_logged_and_can_be_read(launch: Launch, tmp_path: Path) -> None:
    """`worker.events` in the program, and `log_dir=` with a file for each agent."""
    program = launch("programs/logged.py", str(tmp_path))
    assert program.wait() == 0, program.err
    assert program.out.split() == ["message", "tool_call", "connected"]
    told = [json.loads(line)["type"] for line in next(tmp_path.glob("*/worker.jsonl")).read_text().splitlines()]
    assert told[:3] == ["registered", "message", "turn"]
    assert {"tool_call", "tool_result"} <= set(told)
    run = [json.loads(line)["type"] for line in next(tmp_path.glob("*/_runtime.jsonl")).read_text().splitlines()]
    assert [each for each in run if each.startswith(("conn", "exec"))] == [
        "execution_started", "connection_added", "execution_ended",
    ]  # fmt: skip


@needs_pi
async def test_agents_run_on_machines_that_are_objects_of_the_program(
    launch: Launch, tmp_path: Path, until: Any
) -> None:
    """A backend of one's own: pi runs there, is ended with its process, and then the machine is stopped."""
    program = launch("programs/backend.py", str(tmp_path))
    assert program.wait() == 0, program.err
    folder = next(tmp_path.glob("machine*")).name
    assert program.out == f"in {folder} FolderMachine\nstopped {folder}\nIt is done.\n"
    await until(lambda: running_in(folder) == [], "the end of what ran there")


def running_in(folder: str) -> list[str]:
    """Processes whose working directory is of that name."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if folder in str((process / "cwd").readlink()):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found
