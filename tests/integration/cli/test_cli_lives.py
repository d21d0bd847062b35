"""What makes processes begin, begin again, wait and go: `start --restart`, `schedule`, `limits`, `gc`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest_cli import Launch, Stack, until

pytestmark = [pytest.mark.xdist_group("cli-resuming"), pytest.mark.timeout(180)]

PROGRAM = Path(__file__).parent / "programs" / "parcels.py"


@pytest.fixture
def app(stack: Stack, launch: Launch, tmp_path: Path) -> str:
    """An app of its own, with a host."""
    program = tmp_path / f"parcels_{tmp_path.name}.py"
    shutil.copy(PROGRAM, program)
    host = launch("host", str(program))
    until(lambda: "runs app" in host.out, "the host")
    return program.stem


def test_a_root_that_is_started_again(stack: Stack, app: str) -> None:
    """`--restart transient`: under the same pid, after its back-off; `--tag` finds it; `cancel` ends it for good."""
    pid = stack.regrow("start", app, "parcel", "to=rome", "good=false", "--restart", "transient", "--tag", "by=air").out
    pid = pid.strip()
    until(lambda: stack.rows(app), "its record")
    assert stack.regrow("signal", "--where", f"tag.by=air and app={app}", "--yes", "go").code == 0
    until(lambda: "restarted" in stack.events(app, pid), "the next incarnation")
    assert "running" in stack.regrow("status", pid).out
    assert stack.regrow("cancel", pid).code == 0
    until(lambda: stack.events(app, pid)[-1] == "cancelled", "its end")
    wrong = stack.regrow("start", app, "parcel", "to=rome", "--restart", "often")
    assert (wrong.code, wrong.error) == (2, "error: --restart is permanent or transient, not often")
    wrong = stack.regrow("start", app, "parcel", "to=rome", "--tag", "air")
    assert (wrong.code, "'air' is no tag" in wrong.error) == (2, True)


def test_a_schedule(stack: Stack, app: str) -> None:
    """Starts processes with its tags and the given ones; is listed, paused, resumed, replaced, removed."""
    added = stack.regrow("schedule", "add", app, f"{app}:parcel", "to=oslo", "--every", "1s", "--tag", "via=sea",
                         "--overlap", "allow")  # fmt: skip
    assert (added.code, f"{app}: parcel of app {app}, first" in added.out) == (0, True)
    tags = {"kind": "parcel", "to": "oslo", "via": "sea", "schedule": app}
    until(lambda: tags in [row.tags for row in stack.rows(app)], "a run with its tags")
    twice = stack.regrow("schedule", "add", app, f"{app}:parcel", "to=oslo", "--every", "1h")
    assert (twice.code, "--replace" in twice.err) == (2, True)
    assert stack.regrow("schedule", "pause", app).code == 0
    (row,) = stack.regrow("schedule", "ls", "--json", "--app", app).json
    assert (row["paused"], row["runs"] >= 1, row["when"]) == (True, True, "@every 1s")
    assert stack.regrow("schedule", "resume", app).code == 0
    cron = stack.regrow("schedule", "add", app, f"{app}:parcel", "to=oslo", "--cron", "0 0 9 * * *",
                        "--tz", "Europe/Berlin", "--replace")  # fmt: skip
    assert cron.code == 0
    (row,) = stack.regrow("schedule", "ls", "--json", "--app", app).json
    assert (len(row["next"]), row["zone"]) == (3, "Europe/Berlin")
    assert stack.regrow("schedule", "rm", app).code == 0
    assert stack.regrow("schedule", "ls", "--json", "--app", app).json == []
    assert stack.regrow("schedule", "rm", app).code == 5


def test_limits(stack: Stack, app: str) -> None:
    """Set, listed with who holds and waits, changed, removed; what is none is refused."""
    assert stack.regrow("limits", "set", "loading", "--concurrency", "1", "--per", "tag.dock").code == 0
    pids = [stack.regrow("start", app, "loaded", f"--tag=dock={dock}").out.strip() for dock in ("east", "east", "west")]

    def rows() -> list[tuple[str, int, int]]:
        found = stack.regrow("limits", "ls", "--json").json
        return [(row["pool"], len(row["holders"]), row["waiting"]) for row in found if row["name"] == "loading"]

    until(lambda: rows() == [("east", 1, 1), ("west", 1, 0)], "that one waits")
    assert "tag.dock east" in stack.regrow("limits", "ls").out
    assert stack.regrow("limits", "rm", "loading").code == 0
    until(lambda: all("loading" in stack.events(app, pid) for pid in pids), "that nobody waits any more")
    assert stack.regrow("limits", "rm", "loading").code == 5
    for arguments in (["--rate", "lots"], [], ["--concurrency", "1", "--per", "colour"]):
        assert stack.regrow("limits", "set", "loading", *arguments).code == 2


def test_removing_what_ended(stack: Stack, app: str, tmp_path: Path) -> None:
    """`gc --dry-run` shows it, `--export` writes it to files that replay, and what runs stays."""
    old = stack.regrow("start", app, "parcel", "to=rome").out.strip()
    young = stack.regrow("start", app, "parcel", "to=oslo").out.strip()
    until(lambda: stack.events(app, young), "its start")
    assert stack.regrow("signal", old, "go").code == 0
    until(lambda: [row.status for row in stack.rows(app, ended=True) if row.pid == old] == ["done"], "its end")
    assert stack.regrow("gc", "--dry-run", "--app", app).out == ""  # it ended less than 30 days ago
    shown = stack.regrow("gc", "--keep", "0s", "--dry-run", "--app", app, "--json").json
    assert [row["pid"] for row in shown] == [old]
    assert stack.rows(app, ended=True)[0].pid == old
    removed = stack.regrow("gc", "--keep", "0s", "--app", app, "--export", str(tmp_path / "kept"))
    assert removed.code == 0, removed.err
    assert [row.pid for row in stack.rows(app, ended=True)] == [young]
    assert stack.regrow("status", old).code == 5
    (file,) = (tmp_path / "kept").iterdir()
    assert stack.regrow("replay", str(file)).code == 0
