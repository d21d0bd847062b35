"""`regrow replay`, `fork`, `export` and `import`: what was recorded, folded again, copied, moved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import Launch, Stack, copy_of, opened, until

pytestmark = [pytest.mark.xdist_group("cli-histories"), pytest.mark.timeout(180)]


def _ended(stack: Stack, program: Path) -> str:
    """The pid of a root that has run to its end."""
    assert stack.regrow("run", "-q", str(program), "n=3").code == 0
    (pid,) = until(
        lambda: [row.pid for row in stack.rows(program.stem, ended=True) if row.parent is None], "its record"
    )
    return pid


def _inputs(stack: Stack, pid: str) -> list[dict[str, Any]]:
    return stack.regrow("export", pid).json["inputs"]


def _changed(program: Path, before: str, after: str) -> None:
    text = program.read_text()
    assert before in text
    program.write_text(text.replace(before, after))


def test_a_replay_finds_all_outputs_equal(stack: Stack, tally: Path) -> None:
    """Every message that the process sent, to children, parent and the event stream, is found as the fold sends it."""
    pid = _ended(stack, tally)
    done = stack.regrow("replay", pid)
    assert done.code == 0
    # three starts of workers, and five events
    assert done.out.splitlines()[-1] == "8 outputs, all equal"
    told = stack.regrow("replay", pid, "--json").json
    assert (told["equal"], told["differences"], told["awaited"], told["inputs"]) == (8, [], 0, 4)
    for child in [row.pid for row in stack.rows(tally.stem, ended=True) if row.parent == pid]:
        assert stack.regrow("replay", child).out.splitlines()[-1] == "3 outputs, all equal"


def test_a_changed_program_is_seen(stack: Stack, tally: Path) -> None:
    """Another operation is a divergence that shows recorded against attempted; another result is a difference."""
    pid = _ended(stack, tally)
    _changed(tally, "await worker(i, log)", "await worker(i + 1, log)")
    other = stack.regrow("replay", pid)
    assert other.code == 9
    line = 1 + next(i for i, text in enumerate(tally.read_text().splitlines()) if "worker(i + 1" in text)
    assert "recorded operation 2 was spawn worker; the code now does spawn worker" in other.error
    assert f"{tally.name}:{line}" in other.error
    _changed(tally, "await worker(i + 1, log)", "await worker(i, log)")
    assert stack.regrow("replay", pid).code == 0
    _changed(tally, "    return squares", "    return squares[:1]")
    result = stack.regrow("replay", pid)
    assert (result.code, "1 outputs are not the recorded ones" in result.error) == (9, True)
    assert '"data":[0,1,4]' in result.out
    assert '"data":[0]' in result.out


def test_replay_up_to_an_input(stack: Stack, tally: Path) -> None:
    """`--until` applies no further input, and what was sent later is not missed."""
    pid = _ended(stack, tally)
    second = _inputs(stack, pid)[1]["seq"]
    told = stack.regrow("replay", pid, "--until", str(second), "--json").json
    assert (told["inputs"], told["status"], told["equal"], told["differences"]) == (2, "running", 4, [])


def test_the_debugger_stops_in_the_body(stack: Stack, tally: Path) -> None:
    """At its first line; with `--until` in that turn; in a changed program before the operation that differs."""
    pid = _ended(stack, tally)
    first = stack.regrow("replay", pid, "--pdb", given="p n\nc\n")
    assert (first.code, f"{tally.name}(" in first.out) == (0, True)
    assert "(regrow) 3" in first.out
    third = _inputs(stack, pid)[2]["seq"]
    later = stack.regrow("replay", pid, "--pdb", "--until", str(third), given="p squares\nq\n")
    assert "(regrow) [0, 1]" in later.out
    _changed(tally, "await worker(i, log)", "await worker(i * 5, log)")
    changed = stack.regrow("replay", pid, "--pdb", given="p ('at', i)\nc\n")
    assert "diverged at input" in changed.out
    assert "('at', 1)" in changed.out


def test_an_export_replays_anywhere(stack: Stack, tally: Path, tmp_path: Path) -> None:
    """A history in a file is folded without any server, by the program that it names or another one."""
    pid = _ended(stack, tally)
    file = tmp_path / "run.json"
    assert stack.regrow("export", pid, str(file)).code == 0
    nobody = ["--nats", "nats://127.0.0.1:1"]
    done = stack.regrow("replay", str(file), *nobody)
    assert (done.code, done.out.splitlines()[-1]) == (0, "5 outputs, all equal")  # the events are in the file
    moved = copy_of("tally.py", tmp_path / "..").rename(tmp_path / "moved.py")
    assert stack.regrow("replay", str(file), "--program", str(moved), *nobody).code == 0


def test_an_ended_history_is_imported(stack: Stack, tally: Path, launch: Launch, tmp_path: Path) -> None:
    """It becomes a process with the same events under another pid; none of its work is done again."""
    pid, log = _ended(stack, tally), tmp_path / "log"
    file = tmp_path / "run.json"
    stack.regrow("export", pid, str(file))
    host = launch("host", str(tally), "--app", f"{tally.stem}_2")
    until(lambda: "runs app" in host.out, "the host")
    made = stack.regrow("import", str(file), "--app", f"{tally.stem}_2")
    assert made.code == 0
    new = made.out.strip()
    events = until(
        lambda: stack.events(f"{tally.stem}_2", new)[4:] and stack.regrow("events", new, "--json").out, "its events"
    )
    assert [json.loads(line)["data"] for line in events.splitlines()][-1] == [0, 1, 4]
    assert new != pid
    until(lambda: [row.pid for row in stack.rows(f"{tally.stem}_2", ended=True)] == [new], "its record")
    assert stack.regrow("replay", new).code == 0
    assert not log.exists()


def test_a_fork_goes_on_from_the_past(stack: Stack, tally: Path, launch: Launch, tmp_path: Path) -> None:
    """It has the prefix without doing it again; what was under way fails as `Forked`; the other is undisturbed."""
    log, gate = tmp_path / "log", tmp_path / "gate"
    host = launch("host", str(tally))
    until(lambda: "runs app" in host.out, "the host")
    pid = stack.regrow("start", tally.stem, "lonely", f"log={log}", f"gate={gate}").out.strip()
    with opened(gate):
        until(lambda: "ready" in stack.events(tally.stem, pid), "its step")
        cut = _inputs(stack, pid)[-1]["seq"]
        new = stack.regrow("fork", pid, "--at", str(cut)).out.strip()
        until(lambda: "done" in stack.events(tally.stem, new), "the fork's end")
    started, ready, done = [json.loads(line) for line in stack.regrow("events", new, "--json").out.splitlines()]
    cut_off = "it was under way where this history was cut off from another process's"
    assert started["meta"]["type"] == "lonely"
    assert ready["data"] == pid  # what it recorded as the other one
    assert done["data"] == {"before": 49, "gone": [f"Forked: {cut_off}", f"Forked: {cut_off}"], "after": 64, "pid": new}
    assert log.read_text().split() == ["7", "8"]
    assert stack.events(tally.stem, pid) == ["started", "ready"]  # it still waits for its child
    # Cut where the fork had just begun its own step: that is not done a third time.
    again = stack.regrow("fork", new, "--at", str(_inputs(stack, new)[-2]["seq"])).out.strip()
    until(lambda: "failed" in stack.events(tally.stem, again), "the end of the fork of the fork")
    assert json.loads(stack.regrow("events", again, "--json").out.splitlines()[-1])["data"]["reason"] == cut_off
    assert log.read_text().split() == ["7", "8"]
    for each in (pid, new, again):
        assert stack.regrow("replay", each).code == 0


def test_a_fork_without_a_host_waits_for_one(stack: Stack, tally: Path) -> None:
    """It is made and listed as soon as somebody runs it; `resume` is the way to that."""
    pid = _ended(stack, tally)
    cut = _inputs(stack, pid)[-2]["seq"]
    made = stack.regrow("fork", pid, "--at", str(cut))
    new = made.out.strip()
    assert f"regrow resume {new}" in made.err
    done = stack.regrow("resume", new, "-q")
    assert (done.code, "cut off" in done.error) == (1, True)  # the worker that was under way
    assert stack.regrow("replay", new).code == 0


@pytest.mark.parametrize("at", ["0", "1"])
def test_a_fork_needs_a_beginning(stack: Stack, tally: Path, at: str) -> None:
    """A cut before the process has begun is refused, with the inputs that there are."""
    stack.regrow("run", "-q", str(tally), "n=1")  # input 1 is somebody's at most, not of the next
    pid = _ended(stack, copy_of("tally.py", tally.parent / ".."))
    done = stack.regrow("fork", pid, "--at", at) if at == "0" else stack.regrow("fork", pid)
    assert (done.code, "--at" in done.error or "has not begun" in done.error) == (2 if at == "1" else 16, True)


@pytest.mark.parametrize("content", ["", "[]", '{"format": "regrow-history/99"}', '{"app": 3}', "\x00"])
def test_what_is_no_history_is_refused(stack: Stack, tmp_path: Path, content: str) -> None:
    """By import and by replay, without a traceback."""
    file = tmp_path / "bad.json"
    file.write_text(content)
    for command in ("import", "replay"):
        done = stack.regrow(command, str(file))
        assert (done.code, done.out, "Traceback" in done.err) == (16, "", False)
        assert done.error
