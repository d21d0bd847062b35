"""`regrow run`, `host`, `start`, `call`, `cancel` and the lists, as a user types them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import Launch, Stack, end_of, opened, pid_in, until
from regrow_cli import live
from regrow_cli.main import main

pytestmark = [pytest.mark.xdist_group("cli-running"), pytest.mark.timeout(180)]


def test_run_prints_the_result_and_nothing_else(stack: Stack, tally: Path) -> None:
    """The result is JSON on stdout; events are lines on stderr; what the program prints is no result."""
    done = stack.regrow("run", str(tally), "n=3")
    assert (done.code, done.json) == (0, [0, 1, 4])
    lines = done.err.splitlines()
    assert [line.split("  ")[1] for line in lines if line[2:3] == ":"] == ["started", *["progress"] * 3, "done"]
    assert lines[-1].startswith("p_")
    assert "(4 done)" in lines[-1]


def test_a_terminal_shows_what_runs(stack: Stack, tally: Path, tmp_path: Path) -> None:
    """On a terminal the counts of the tree stand below the events until the end; the result is not touched."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while data := os.read(ours, 65536):
                shown.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    gate = tmp_path / "gate"
    argv = [sys.executable, "-m", "regrow_cli", "run", str(tally), "n=5", f"gate={gate}"]
    environment = {**stack.environment, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=theirs, env=environment) as running, opened(gate):
        until(lambda: b" running, 2 done" in shown, "the counts")
        gate.touch()
        out, _ = running.communicate(timeout=60)
    os.close(theirs)
    reader.join(10)
    os.close(ours)
    text = shown.decode()
    assert json.loads(out) == [0, 1, 4, 9, 16]
    assert text.count("progress  {") == 5
    assert "(6 done)" in text
    assert "\x1b[" in text


def test_arguments_are_json_text_or_files(stack: Stack, tally: Path, tmp_path: Path) -> None:
    """What goes to a `str` stays text; `@FILE` is what a file holds; the process converts the rest."""
    orders = tmp_path / "orders.json"
    orders.write_text('[{"item": "nut", "count": 3}, {"item": "bolt"}]')
    done = stack.regrow("run", "-q", f"{tally}:echo", "text=007", f"orders=@{orders}", "factor=2")
    assert done.json == {"text": "007", "orders": ["nut*3", "bolt*1"], "factor": 2.0}
    assert done.err.splitlines() == ["the program is imported"] * 2  # once here, once by the host


def test_a_large_value_travels(stack: Stack, tally: Path, tmp_path: Path) -> None:
    """An argument and a result of megabytes, more than a message may have, arrive whole."""
    text = "x" * 3_000_000
    (tmp_path / "text").write_text(text)
    done = stack.regrow("run", "-q", f"{tally}:echo", f"text=@{tmp_path / 'text'}", "orders=[]")
    assert (done.code, done.json["text"]) == (0, text)


def test_a_failed_process_is_an_error(stack: Stack, tally: Path) -> None:
    """It says which process failed and why, and exits with 1."""
    done = stack.regrow("run", "-q", f"{tally}:broken", "reason=out of luck")
    assert (done.code, done.out) == (1, "")
    assert "failed: ValueError: out of luck" in done.error
    assert "Traceback" not in done.err


def test_ctrl_c_cancels_the_tree(stack: Stack, tally: Path, launch: Launch) -> None:
    """The process and what it spawned end as cancelled before the command does."""
    running = launch("run", f"{tally}:pool")
    pid = pid_in(running)
    until(lambda: len(stack.rows(tally.stem)) == 2, "its child")
    done = running.interrupt()
    assert done.code == 130
    assert f"regrow resume {pid}" in done.err
    until(lambda: not stack.rows(tally.stem), "their ends")
    assert [row["status"] for row in stack.ls("--all", "--app", tally.stem)] == ["cancelled", "cancelled"]


def test_a_detached_run_goes_on_by_itself(stack: Stack, tally: Path) -> None:
    """It survives the command, answers calls, is shown, can be cancelled; and what kept it ends with it."""
    launched = stack.regrow("run", f"{tally}:pool", "label=box", "--detach", "--name", "crate")
    assert launched.code == 0
    pid = launched.out.strip()
    keeper = json.loads((stack.data / "runs" / f"{pid}.json").read_text())["process"]["pid"]
    until(lambda: {row.name for row in stack.rows(tally.stem)} == {"crate", ""}, "its name and its child in the list")
    assert stack.regrow("call", "crate", "add", "item=nut", "times=2").json == 2
    assert stack.regrow("call", pid[:20], "add", 'item="7"').json == 3  # a unique prefix will do
    until(lambda: len(stack.events(tally.stem, pid)) == 3, "its events")
    shown = stack.regrow("status", "crate", "--json").json
    assert shown["process"]["status"] == "running"
    assert shown["endpoints"] == ["add", "finish"]
    assert [(each["kind"], each["name"]) for each in shown["waiting"]] == [("spawn", "idle")]
    assert [row["type"] for row in shown["tree"]] == ["pool", "idle"]
    assert [event["type"] for event in shown["events"]] == ["started", "added", "added"]
    assert shown["detached"]["process"]["pid"] == keeper
    text = stack.regrow("status", pid).out
    assert 'pool "crate"  running' in text
    assert "endpoints    add, finish" in text
    assert stack.regrow("cancel", "crate").out == f"{pid} cancelled\n"
    end_of(keeper)
    assert not (stack.data / "runs" / f"{pid}.json").exists()


def test_a_detached_run_ends_with_its_root(stack: Stack, tally: Path) -> None:
    """When the root is done nothing of the run is left but its events and its result."""
    pid = stack.regrow("run", f"{tally}:pool", "--detach").out.strip()
    keeper = json.loads((stack.data / "runs" / f"{pid}.json").read_text())["process"]["pid"]
    stack.regrow("call", pid, "add", "item=nut")
    assert stack.regrow("call", pid, "finish").json is None
    end_of(keeper)
    assert until(lambda: not stack.regrow("hosts", "--json", "--app", tally.stem).json, "its host's end")
    last = json.loads(stack.regrow("events", pid, "--follow", "--json").out.splitlines()[-1])
    assert (last["type"], last["data"]) == ("done", ["nut"])


def test_a_detached_run_that_fails_to_start_says_why(stack: Stack, tally: Path) -> None:
    """The error of the process in the background is the command's."""
    tally.write_text(
        tally.read_text() + "\nimport os\nif os.environ.get('PYTHONHASHSEED') == '0': raise OSError('bad day')\n"
    )
    done = stack.regrow("run", str(tally), "--detach")
    assert done.code == 8
    assert "bad day" in done.error


def test_start_on_a_host_that_runs(stack: Stack, tally: Path, launch: Launch) -> None:
    """`host` serves an app; `start` finds it there, with a name, and with --wait gives the result."""
    host = launch("host", str(tally), "--app", "shop")
    until(lambda: "runs app shop" in host.out, "the host")
    (listed,) = until(
        lambda: [h for h in stack.regrow("hosts", "--json").json if h["partitions"] == 16], "its partitions"
    )
    assert (listed["app"], listed["of"], listed["target"]) == ("shop", 16, str(tally))
    assert stack.regrow("start", "shop", "main", "n=4", "--wait", "-q").json == [0, 1, 4, 9]
    pid = stack.regrow("start", "shop", "pool", "--name", "till").out.strip()
    until(lambda: [row.type for row in stack.rows("shop")] == ["pool", "idle"], "both in the list, and nothing else")
    until(lambda: stack.holder("shop", "till") == pid, "that it has the name")
    taken = stack.regrow("start", "shop", "pool", "--name", "till")
    assert (taken.code, pid in taken.error) == (2, True)
    assert [(r["type"], r.get("depth", 0)) for r in stack.ls("--app", "shop")] == [("pool", 0), ("idle", 1)]
    assert stack.regrow("ls", "--status", "done", "--app", "shop").out.count("worker") == 4
    done = host.interrupt()
    assert (done.code, done.out.splitlines()[-1]) == (0, "Stopped.")
    until(lambda: {row.status for row in stack.rows("shop")} == {"no-host"}, "that nobody runs it")
    gone = stack.regrow("call", "till", "finish")
    assert (gone.code, f"regrow resume {pid}" in gone.err) == (5, True)


def test_a_host_that_dies_is_started_again(stack: Stack, tally: Path, launch: Launch) -> None:
    """What it ran is taken over by the one that follows."""
    host = launch("host", str(tally), "--app", "phoenix")
    until(lambda: "runs app" in host.out, "the host")
    pid = stack.regrow("start", "phoenix", "pool").out.strip()
    assert stack.regrow("call", pid, "add", "item=nut").json == 1
    (before,) = stack.regrow("hosts", "--json", "--app", "phoenix").json
    os.kill(before["os_pid"], signal.SIGKILL)
    assert stack.regrow("call", pid, "add", "item=bolt").json == 2
    (after,) = stack.regrow("hosts", "--json", "--app", "phoenix").json
    assert after["os_pid"] != before["os_pid"]


def test_start_and_cancel_wait_for_the_host_that_follows(
    stack: Stack, tally: Path, launch: Launch, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two hosts of an app neither is refused."""
    for name, value in stack.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(live, "SUCCESSION", 60.0)  # a host may begin slowly here

    def succeeded() -> None:
        nonlocal host
        host.interrupt()
        host = launch("host", str(tally), "--app", "relay")

    host = launch("host", str(tally), "--app", "relay")
    until(lambda: "runs app" in host.out, "the host")
    succeeded()
    assert main(["start", "relay", "pool"]) == 0
    pid = capsys.readouterr().out.strip()
    until(lambda: [row.pid for row in stack.rows("relay") if row.type == "pool"] == [pid], "its record")
    succeeded()
    assert main(["cancel", pid, "--timeout", "60"]) == 0
    assert capsys.readouterr().out == f"{pid} cancelled\n"


def test_several_hosts_by_one_command(stack: Stack, tally: Path, launch: Launch) -> None:
    """They share the partitions evenly; each is started again by itself; SIGTERM ends all of them, gracefully."""

    def listed() -> list[dict[str, Any]]:
        found = stack.regrow("hosts", "--json", "--app", "team").json
        shared = sorted(host["partitions"] for host in found) == [5, 5, 6]
        return found if shared and sorted(part for host in found for part in host["owns"]) == list(range(16)) else []

    hosts = launch("host", str(tally), "--app", "team", "--procs", "3")
    until(lambda: "All 3 hosts run. Ctrl-C ends them." in hosts.out, "the hosts")
    before = {host["os_pid"]: host["host"] for host in until(listed, "equal shares")}
    assert {line.split()[1] for line in hosts.out.splitlines() if " runs app team" in line} == set(before.values())
    pid = stack.regrow("start", "team", "pool").out.strip()
    os.kill(min(before), signal.SIGKILL)
    until(lambda: hosts.out.count("runs app team") == 4, "the host that takes its place")
    after = {host["os_pid"] for host in until(listed, "equal shares")}
    assert len(after & set(before)) == 2
    assert stack.regrow("call", pid, "add", "item=nut").json == 1
    hosts.process.terminate()
    done = hosts.wait()
    assert (done.code, done.out.splitlines()[-1]) == (0, "Stopped.")
    until(lambda: stack.regrow("hosts", "--json", "--app", "team").json == [], "their ends")


def test_several_hosts_that_cannot_start(stack: Stack, tally: Path) -> None:
    """The error is told once, as by one host."""
    tally.write_text("raise OSError('bad day')\n")
    one, many = (stack.regrow("host", str(tally), "--procs", count) for count in ("1", "4"))
    assert many.code == one.code == 8
    assert many.err.splitlines() == one.err.splitlines()
    assert many.err.count("bad day") == 1


def test_start_needs_a_host(stack: Stack, tally: Path, launch: Launch) -> None:
    """No host of the app, or none with that process: said at once, with what there is."""
    nobody = stack.regrow("start", "nowhere", "main")
    assert (nobody.code, "regrow host FILE --app nowhere" in nobody.err) == (5, True)
    host = launch("host", str(tally), "--app", "kiosk")
    until(lambda: "runs app" in host.out, "the host")
    unknown = stack.regrow("start", "kiosk", "mian")
    assert (unknown.code, "they have: broken, echo, idle, lonely, main, pool, worker" in unknown.err) == (5, True)


def test_a_program_needs_no_command(stack: Stack, tally: Path, launch: Launch, tmp_path: Path) -> None:
    """`python FILE` starts the stack where none runs; two programs at once share it, and leave it to each other."""
    gate, other_gate = tmp_path / "gate", tmp_path / "other_gate"
    logs = [tmp_path / "log", tmp_path / "other_log"]
    home = {"REGROW_HOME": str(tmp_path / "home"), "REGROW_STACK_IDLE": "5"}
    first = launch("4", str(logs[0]), str(gate), program=tally, environment=home)
    second = launch("3", str(logs[1]), str(other_gate), program=tally, environment=home)
    until(lambda: all(log.exists() for log in logs), "both at work")
    other_gate.write_text("open")
    assert second.wait().out.splitlines()[-1] == "[0, 1, 4]"
    gate.write_text("open")
    assert first.wait().out.splitlines()[-1] == "[0, 1, 4, 9]"
    log = (tmp_path / "home" / "logs" / "stack.log").read_text()
    assert log.count('"stack is ready"') == 1
    until(lambda: not (tmp_path / "home" / "stack.json").exists(), "the stack's end")
