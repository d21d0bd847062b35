"""`regrow resume`: programs that were killed, code that was changed, processes that are parked."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from conftest_cli import Launch, Running, Stack, copy_of, opened, pid_in, until
from msgspec import Raw
from regrow.client import Client, RemoteProcess
from regrow.host.host import ensure_app
from regrow_cli.errors import ProcessStuck
from regrow_cli.following import follow
from regrow_cli.live_view import View
from regrow_protocol import ids, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.server import NatsServer

pytestmark = [pytest.mark.xdist_group("cli-resuming"), pytest.mark.timeout(180)]


def _root(stack: Stack, app: str) -> str:
    """The pid of the only root of an app."""
    roots = until(lambda: [row for row in stack.rows(app) if row.parent is None], "the root")
    assert len(roots) == 1
    return roots[0].pid


def _statuses(stack: Stack, program: Path) -> list[str]:
    return [row.status for row in stack.rows(program.stem)]


def _killed_midway(stack: Stack, launch: Launch, program: Path, log: Path, gate: Path) -> str:
    """Run `python program`, kill it where it waits for the gate; the root's pid."""
    running = launch("4", str(log), str(gate), program=program)
    pid = _root(stack, program.stem)
    until(lambda: stack.events(program.stem, pid).count("progress") == 2, "half of it")
    until(lambda: [row.status for row in stack.rows(program.stem, ended=True)].count("done") == 2, "that it is listed")
    running.kill()
    until(lambda: all(row.status == "no-host" for row in stack.rows(program.stem)), "that nobody runs it")
    return pid


def test_a_killed_program_is_finished(stack: Stack, tally: Path, launch: Launch, tmp_path: Path) -> None:
    """`kill -9` of `python FILE`, then `resume`: the right result, and no recorded step runs again."""
    log, gate = tmp_path / "log", tmp_path / "gate"
    pid = _killed_midway(stack, launch, tally, log, gate)
    text = stack.regrow("status", pid).out
    assert f"regrow resume {pid}" in text
    assert "wait_for" in text
    gate.write_text("open")
    done = stack.regrow("resume", pid[:24])
    assert (done.code, done.json) == (0, [0, 1, 4, 9])
    assert log.read_text().split() == ["0", "1", "2", "3"]
    assert "(5 done)" in done.err.splitlines()[-1]
    assert stack.regrow("replay", pid).code == 0
    assert stack.regrow("resume", pid).out == f"{pid} is done already.\n"


def test_changed_code_goes_on_where_it_was(stack: Stack, tally: Path, launch: Launch, tmp_path: Path) -> None:
    """The file has another build now: the processes move to it, and what has been done stands."""
    gate = tmp_path / "gate"
    pid = _killed_midway(stack, launch, tally, tmp_path / "log", gate)
    before = stack.regrow("status", pid, "--json").json["process"]["build"]
    tally.write_text(tally.read_text().replace("return n * n", "return n * n * n"))
    assert "has been changed since" in stack.regrow("status", pid).out
    gate.write_text("open")
    assert stack.regrow("resume", pid, "-q").json == [0, 1, 8, 27]
    assert stack.regrow("status", pid, "--json").json["process"]["build"] != before


def test_the_program_may_have_moved(stack: Stack, tally: Path, launch: Launch, tmp_path: Path) -> None:
    """A program that is gone is an error; `--program` names where it is now."""
    gate = tmp_path / "gate"
    pid = _killed_midway(stack, launch, tally, tmp_path / "log", gate)
    moved = tally.rename(tmp_path / "moved.py")
    gone = stack.regrow("resume", pid)
    assert (gone.code, "is gone" in gone.error, "--program" in gone.err) == (8, True, True)
    gate.write_text("open")
    assert stack.regrow("resume", pid, "--program", str(moved), "-q").json == [0, 1, 4, 9]


def test_ctrl_c_while_resumed_cancels(stack: Stack, tally: Path, launch: Launch, tmp_path: Path) -> None:
    """A resumed tree is as much the command's as one that it started."""
    gate = tmp_path / "gate"
    with opened(gate):  # the steps that wait for it end with the test
        pid = _killed_midway(stack, launch, tally, tmp_path / "log", gate)
        resumed = launch("resume", pid)
        until(lambda: "in app" in resumed.err, "its host")
        assert resumed.interrupt().code == 130
    assert stack.regrow("events", pid).out.splitlines()[-1].endswith("cancelled")


@pytest.fixture
def fickle(tmp_path: Path) -> Path:
    """A copy of a program that does not replay while there is a file `flag`."""
    return copy_of("fickle.py", tmp_path)


def _host(launch: Launch, program: Path) -> Running:
    host = launch("host", str(program))
    until(lambda: "runs app" in host.out, "the host")
    return host


def test_a_stuck_process_is_resumed_by_a_host_of_its_own(
    stack: Stack, fickle: Path, launch: Launch, tmp_path: Path
) -> None:
    """A body that diverges is parked: `run` says so, lists and `replay` show it, and when it is mended it goes on."""
    flag = tmp_path / "flag"
    running = launch("run", str(fickle), f"flag={flag}")
    pid = pid_in(running)
    until(lambda: "ready" in running.err, "its step")
    running.kill()
    until(lambda: _statuses(stack, fickle) == ["no-host"], "that nobody runs it")
    flag.touch()
    resumed = stack.regrow("resume", pid)
    assert resumed.code == 15
    assert "recorded operation 2 was step one; the code now does step two (" in resumed.error
    assert stack.ls("--status", "stuck", "--app", fickle.stem)[0]["stuck"]["code"] == "nondeterminism"
    assert "stuck        at input" in stack.regrow("status", pid).out
    replayed = stack.regrow("replay", pid)
    assert replayed.code == 9
    assert f"{fickle.name}:" in replayed.error
    flag.unlink()
    resumed_again = launch("resume", pid)
    until(lambda: _statuses(stack, fickle) == ["running"], "that it goes on")
    assert stack.regrow("call", pid, "finish").code == 0
    assert resumed_again.wait().json == 1


def test_a_stuck_process_is_taken_up_by_a_living_host(
    stack: Stack, fickle: Path, launch: Launch, tmp_path: Path
) -> None:
    """The host parked it and goes on; `resume` has it try again, and says what came of that."""
    flag = tmp_path / "flag"
    _host(launch, fickle)
    pid = stack.regrow("start", fickle.stem, "main", f"flag={flag}").out.strip()
    until(lambda: "ready" in stack.events(fickle.stem, pid), "its step")
    flag.touch()
    (host,) = stack.regrow("hosts", "--json", "--app", fickle.stem).json
    os.kill(host["os_pid"], signal.SIGKILL)
    until(lambda: _statuses(stack, fickle) == ["stuck"], "that it is parked")
    assert "runs, and nothing below it is stuck" not in stack.regrow("resume", pid).out
    again = stack.regrow("resume", pid)
    assert (again.code, "step two" in again.error) == (15, True)
    flag.unlink()
    assert stack.regrow("resume", pid).out == f"{pid} is taken up again.\n"
    assert stack.regrow("call", pid, "finish").code == 0
    until(lambda: "done" in stack.events(fickle.stem, pid), "its end")  # announced beside the answer
    assert "is done already" in stack.regrow("resume", pid).out


class _Heard(View):
    """Notes that an event has come."""

    def __init__(self) -> None:
        self.events = asyncio.Event()

    def event(self, record: m.EventRecord) -> None:
        self.events.set()


async def test_the_reason_that_names_the_line_is_waited_for(private_server: NatsServer) -> None:
    """A host parks a process at once and looks for the line afterwards; whoever follows it hears of the line."""
    pid = ids.new_id(ids.PROCESS)
    part = ids.partition_of(pid, 16)
    async with await Bus.connect(private_server.url, name="test") as bus:
        await streams.ensure(bus)
        await ensure_app(bus, "shop", partitions=16)

        async def park(stuck: m.Stuck) -> None:
            await bus.kv("regrow_cursors").put(f"shop.b.{part}", m.encode(m.Cursor(1, 9, [], {pid: stuck})))

        await park(m.Stuck(7, "nondeterminism", "something else", vague=True))
        client, view = Client(bus), _Heard()
        following = asyncio.create_task(follow(client, RemoteProcess(client, "shop", pid), view, build="b"))
        event = m.EventRecord(pid=pid, incarnation=0, n=1, seq=1, type="hello", data=Raw(b"null"), time=1.0)
        await bus.publish(streams.EVENTS, subjects.event("shop", pid, "hello"), m.encode(event), "hello")
        await view.events.wait()
        await park(m.Stuck(7, "nondeterminism", "step two (x.py:3)"))
        with pytest.raises(ProcessStuck, match="step two"):
            await following


def test_all_stuck_ones_that_a_query_finds_are_taken_up(
    stack: Stack, fickle: Path, launch: Launch, tmp_path: Path
) -> None:
    """Their number is shown first."""
    flag = tmp_path / "flag"
    _host(launch, fickle)
    pids = [stack.regrow("start", fickle.stem, "main", f"flag={flag}").out.strip() for _ in range(2)]
    until(lambda: all("ready" in stack.events(fickle.stem, pid) for pid in pids), "their steps")
    flag.touch()
    (host,) = stack.regrow("hosts", "--json", "--app", fickle.stem).json
    os.kill(host["os_pid"], signal.SIGKILL)
    until(lambda: _statuses(stack, fickle) == ["stuck"] * 2, "that they are parked")
    flag.unlink()
    query = ("--where", "status=stuck and type=main", "--app", fickle.stem)
    shown = stack.regrow("resume", *query, "--dry-run")
    assert (shown.code, "Take up again 2 processes" in shown.err) == (0, True)
    assert _statuses(stack, fickle) == ["stuck"] * 2
    taken = stack.regrow("resume", *query, "--yes")
    assert sorted(taken.out.splitlines()) == sorted(f"{pid} is to be taken up again" for pid in pids)
    until(lambda: _statuses(stack, fickle) == ["running"] * 2, "that they go on")


def test_what_runs_is_left_alone(stack: Stack, fickle: Path, launch: Launch, tmp_path: Path) -> None:
    """`resume` of a process that runs says so and starts nothing."""
    _host(launch, fickle)
    pid = stack.regrow("start", fickle.stem, "main", f"flag={tmp_path / 'flag'}").out.strip()
    until(lambda: stack.rows(fickle.stem), "its record")
    assert "nothing below it is stuck" in stack.regrow("resume", pid).out
    assert len(stack.regrow("hosts", "--json", "--app", fickle.stem).json) == 1


def test_a_process_moves_to_a_new_build_that_has_a_host(stack: Stack, tally: Path, launch: Launch) -> None:
    """Without a host of its build but with one of newer code, `resume` sends it there at once."""
    old = launch("host", str(tally))
    until(lambda: "runs app" in old.out, "the host")
    pid = stack.regrow("start", tally.stem, "pool").out.strip()
    assert stack.regrow("call", pid, "add", "item=nut").json == 1
    old.interrupt()
    tally.write_text(tally.read_text().replace("items.extend([item] * times)", "items.extend([item.upper()] * times)"))
    new = launch("host", str(tally))
    until(lambda: "runs app" in new.out, "the new host")
    moved = stack.regrow("resume", pid)
    assert (moved.code, "moved to build" in moved.out or "runs, and nothing" in moved.out) == (0, True)
    # What it held is made by the new code from the recorded inputs.
    assert stack.regrow("call", pid, "add", "item=bolt").json == 2
    assert stack.regrow("call", pid, "finish").code == 0
    assert '["NUT","BOLT"]' in stack.regrow("events", pid, "--follow", "--json").out.splitlines()[-1]
