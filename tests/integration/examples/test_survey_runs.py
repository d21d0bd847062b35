"""The survey and its demo on a real server: the result is that of a plain computation, whatever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from regrow import testing
from regrow.program import load
from regrow.testing.harness_programs import find_program

EXAMPLES = Path(__file__).parents[3] / "examples"

with_pi = pytest.mark.skipif(
    find_program("pi") is None or find_program("tmux") is None,
    reason="pi or tmux is not installed (`make harnesses ARGS=pi`, `make system-deps`)",
)


@pytest.fixture(scope="module")
def survey() -> ModuleType:
    """The example, loaded as a host loads it."""
    program = load(str(EXAMPLES / "survey.py"))
    return sys.modules[program.types["survey"].function.__module__]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty packages of one to eight files."""
    for number in range(40):
        package = tmp_path / "source" / f"package_{number:02}"
        package.mkdir(parents=True)
        for part in range(number % 8 + 1):
            functions = [
                f"def f{n}():\n" + "    x = 1\n" * (n + part) + "    return x  # TODO\n" for n in range(number)
            ]
            (package / f"part_{part}.py").write_text("\n".join(functions) or "pass\n")
    return tmp_path / "source"


@pytest.fixture
def gate(folder: Path) -> Path:
    """A file of the last package that nobody has read before `opened`: no survey is over until then."""
    pipe = folder / "package_39" / "slow.py"
    os.mkfifo(pipe)
    return pipe


async def opened(gate: Path) -> None:
    """Let all who read it see an empty file, for ever."""
    while True:
        with contextlib.suppress(OSError):  # nobody reads it now
            os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        await asyncio.sleep(0.02)


def plain(survey: ModuleType, folder: Path) -> list[Any]:
    """The survey without any process."""
    packages = survey.find_packages(str(folder))
    reports = [survey.measure(each.name, each.path, survey.list_files(each.path)) for each in packages]
    assert len(reports) == 40
    return list(survey.ranked(reports))


async def test_the_result_is_that_of_a_plain_computation(survey: ModuleType, folder: Path) -> None:
    """Undisturbed, one worker at a time."""
    async with testing.runtime() as rt:
        assert await rt.run(survey.survey, str(folder), concurrency=1) == plain(survey, folder)


async def test_it_goes_on_when_its_host_dies_again_and_again(survey: ModuleType, folder: Path) -> None:
    """Killed after every fifth package, it reports every package once."""
    async with testing.runtime() as rt:
        process = await rt.start(survey.survey, str(folder), concurrency=4)
        seen: list[str] = []
        async for event in process.events():
            if event.type == "done" and event.source is not None:
                seen.append(event.source)
                if len(seen) % 5 == 0:
                    await rt.kill_host()
        assert sorted(seen) == [f"package_{number:02}" for number in range(40)]
        assert await process.result() == plain(survey, folder)


async def test_tasks_of_the_pool_can_be_seen_and_none_is_taken_twice(survey: ModuleType, folder: Path) -> None:
    """`tasks()` tells each state from outside; a second task of the same name is refused."""
    async with testing.runtime() as rt:
        pool = await rt.start(survey.pool, 1)
        for package in survey.find_packages(str(folder))[:3]:
            await pool.call("add_task", wait=True, name=package.name, path=package.path)
        assert set(await pool.call("tasks")) == {"package_00", "package_01", "package_02"}
        with pytest.raises(Exception, match="There is a task package_00 already"):
            await pool.call("add_task", name="package_00", path=str(folder))
        await pool.call("close")
        assert await pool.result() == 3


async def test_a_package_that_cannot_be_read_does_not_stop_the_survey(survey: ModuleType, folder: Path) -> None:
    """It stands last in the table, with the reason; the others are all there."""
    expected = plain(survey, folder)
    (folder / "package_07" / "gone.py").symlink_to("nowhere.py")
    async with testing.runtime() as rt:
        reports = await rt.run(survey.survey, str(folder))
    assert reports[-1].name == "package_07"
    assert reports[-1].broken[0].startswith("not surveyed: [Errno 2] No such file or directory")
    assert reports[:-1] == [report for report in expected if report.name != "package_07"]


@pytest.mark.timeout(150)
async def test_the_demo_recovers_and_says_so(folder: Path, gate: Path, tmp_path: Path) -> None:
    """The whole script: its last line is computed from the log, its exit code follows from it, and it tidies up."""
    code, out = await demo(str(folder), tmp_path, gate=gate)
    assert code == 0, out
    lines = out.splitlines()
    assert re.fullmatch(r"recovered: [1-9]\d* processes, lost: 0, recorded twice: 0", lines[-1]), out
    assert lines[-2].startswith("processes: 42, steps run: "), out
    assert any("killed with SIGKILL" in line for line in lines)
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.timeout(150)
@pytest.mark.xdist_group("harness-pi")
@with_pi
async def test_the_demo_with_agents_recovers_and_counts_their_calls(folder: Path, gate: Path, tmp_path: Path) -> None:
    """Real pi with the scripted model: a call for each of forty packages and four reports, each answered once."""
    code, out = await demo(str(folder), tmp_path, gate=gate, REGROW_MODEL="scripted")
    assert code == 0, out
    lines = out.splitlines()
    assert re.fullmatch(r"recovered: [1-9]\d* processes, lost: 0, recorded twice: 0", lines[-1]), out
    assert lines[-2] == "agents: 4, tool calls: 44, answers: 44"
    assert lines[-3].startswith("processes: 45, steps run: "), out
    assert sum("10 packages are measured." in line for line in lines) == 4
    assert list((tmp_path / "tmp").glob("regrow*")) == []  # pi keeps something there


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"REGROW_HARNESS": "emacs"}, "REGROW_HARNESS=emacs is none of pi, claude-code, codex, opencode"),
        (
            {"PATH": ""},
            "pi is not installed, which agents need .make harnesses ARGS=pi.",
        ),
    ],
)
async def test_the_demo_says_why_there_can_be_no_agents(
    folder: Path, tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    """Before anything is started."""
    code, out = await demo(str(folder), tmp_path, cwd=tmp_path, REGROW_MODEL="anthropic/claude", **settings)
    assert code == 1
    assert re.fullmatch(f"error: {said}\n", out)


@pytest.mark.timeout(150)
@pytest.mark.xdist_group("harness-pi")
@with_pi
async def test_the_demo_says_that_a_model_does_not_exist(folder: Path, tmp_path: Path) -> None:
    """What pi says of it is what the demo says, and nothing is left."""
    code, out = await demo(str(folder), tmp_path, REGROW_MODEL="nothing/there")
    assert code == 1
    assert re.search(r"error: surveyor-\d is lost: it ended with exit code 1\nError: Model \"nothing/there\" ", out), (
        out
    )
    assert list((tmp_path / "tmp").glob("regrow*")) == []  # pi keeps something there


async def test_the_demo_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    """A folder that does not exist is no traceback."""
    code, out = await demo(str(tmp_path / "nothing"), tmp_path)
    assert code == 1
    assert re.fullmatch(r"error: .*No such file or directory.*\n", out)


async def demo(
    folder: str, tmp_path: Path, cwd: Path | None = None, gate: Path | None = None, **settings: str
) -> tuple[int, str]:
    """Run `demo.py` as `make demo` does, and open the `gate` when its host was killed: its exit code, what it says."""
    (tmp_path / "tmp").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGROW_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / "demo.py"),
        folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment | {"TMPDIR": str(tmp_path / "tmp")} | settings,
        cwd=cwd,
    )
    assert process.stdout is not None
    said, opening = "", None
    async for line in process.stdout:
        said += line.decode()
        if gate is not None and opening is None and b"killed with SIGKILL" in line:
            opening = asyncio.create_task(opened(gate))
    code = await process.wait()
    if opening is not None:
        opening.cancel()
    return code, said
