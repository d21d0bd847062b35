"""What a user can get wrong: one line, a hint, an exit code of its own, no traceback without --debug."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest_cli import PROGRAMS, Launch, Stack, until
from regrow_cli.main import main
from regrow_protocol import ids, streams, subjects
from regrow_protocol.bus import Bus

pytestmark = [pytest.mark.xdist_group("cli-bad-input"), pytest.mark.timeout(180)]

NOBODY = "p_" + "0" * 26


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (["run", "nowhere.py"], 8, "There is no program file nowhere.py"),
        (["run", str(PROGRAMS / "empty.py")], 8, "defines no process"),
        (["run", str(PROGRAMS / "tally.py") + ":mian"], 8, "no process 'mian'"),
        (["run", str(PROGRAMS / "tally.py"), "5"], 2, "'5' is no argument"),
        (["run", str(PROGRAMS / "tally.py"), "n=1", "n=2"], 2, "n is given twice"),
        (["run", str(PROGRAMS / "tally.py"), "n=many"], 2, "argument 'n'"),
        (["run", str(PROGRAMS / "tally.py"), "m=1"], 2, "'m'"),
        (["run", str(PROGRAMS / "tally.py"), "log=@nowhere"], 2, "The file nowhere"),
        (["run", str(PROGRAMS / "tally.py"), "--detach", "n=many"], 2, "argument 'n'"),
        (["host", "nowhere.py"], 8, "no program file"),
        (["host", str(PROGRAMS / "empty.py")], 8, "defines no process"),
        (["host", str(PROGRAMS / "tally.py"), "--procs", "0"], 2, "--procs is a number from 1 to 1024, or auto, not 0"),
    ],
)
def test_a_program_that_cannot_run(stack: Stack, line: list[str], code: int, said: str) -> None:
    """Nothing on standard output, what went wrong and what to do about it on standard error."""
    done = stack.regrow(*line)
    assert (done.code, done.out) == (code, "")
    assert said in done.error
    assert "Traceback" not in done.err
    assert done.err.count("error: ") == 1


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (["status", NOBODY], 5, f"There is no process {NOBODY}"),
        (["events", "nobody"], 5, "There is no process nobody"),
        (["call", NOBODY, "add"], 5, "no process"),
        (["call", NOBODY, "add", "item"], 2, "'item' is no argument"),
        (["cancel", "nobody", "--app", "nowhere"], 5, "There is no app nowhere"),
        (["resume", NOBODY], 5, "no process"),
        (["replay", NOBODY], 5, "no process"),
        (["replay", "nowhere.json"], 16, "nowhere.json cannot be read"),
        (["fork", NOBODY, "--at", "1"], 5, "no process"),
        (["export", NOBODY], 5, "no process"),
        (["import", "nowhere.json"], 16, "nowhere.json cannot be read"),
        (["start", "nowhere", "main"], 5, "No host of app nowhere"),
        (["ls", "--status", "asleep"], 2, "no status asleep"),
        (["dead", "show", "77"], 5, "no dead letter 77"),
        (["dead", "replay"], 2, "which dead letters"),
        (["check", "nowhere.py"], 8, "nowhere.py cannot be read"),
    ],
)
def test_an_error_is_one_line_and_a_hint(
    stack: Stack,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: list[str],
    code: int,
    said: str,
) -> None:
    """As above, for what loads no program: the same command in this process, which is quicker."""
    for name, value in stack.environment.items():
        monkeypatch.setenv(name, value)
    assert main(line) == code
    out, err = capsys.readouterr()
    error, *hints = err.splitlines()
    assert (out, said in error) == ("", True)
    assert all(hint.startswith("hint: ") for hint in hints)
    assert len(hints) <= 1


@pytest.mark.parametrize("line", [["ls"], ["run", str(PROGRAMS / "tally.py")]])
def test_no_server(stack: Stack, line: list[str]) -> None:
    """A server that was named and does not answer is 3."""
    done = stack.regrow(*line, "--nats", "nats://127.0.0.1:1")
    assert (done.code, done.error.startswith("error: ")) == (3, True)
    assert "Traceback" not in done.err


def test_wrong_credentials(stack: Stack) -> None:
    """Credentials that the server refuses are 4, and are not shown."""
    wrong = re.sub(r"//[^@]*@", "//somebody:hunter2@", stack.url)
    for line in (["ls"], ["run", str(PROGRAMS / "tally.py")]):
        done = stack.regrow(*line, "--nats", wrong)
        assert (done.code, "hunter2" in done.err, "Traceback" in done.err) == (4, False, False)


def test_debug_shows_where(stack: Stack) -> None:
    """With --debug the traceback comes first, then the same line."""
    done = stack.regrow("run", "nowhere.py", "--debug")
    assert (done.code, "Traceback" in done.err) == (8, True)
    assert done.error == "error: There is no program file nowhere.py"


def test_an_oversized_value(stack: Stack, tmp_path: Path) -> None:
    """More than a value may have is refused before anything is started."""
    huge = tmp_path / "huge"
    with huge.open("w") as file:
        file.writelines("x" * 1_000_000 for _ in range(68))
    done = stack.regrow("run", str(PROGRAMS / "tally.py") + ":echo", f"text=@{huge}", "orders=[]")
    assert (done.code, "too large" in done.error) == (7, True)


def test_calls_that_cannot_be_answered(stack: Stack, tally: Path, launch: Launch) -> None:
    """An unknown endpoint, arguments that do not fit, a process that has ended: each says what would be right."""
    host = launch("host", str(tally))
    until(lambda: "runs app" in host.out, "the host")
    pid = stack.regrow("start", tally.stem, "pool").out.strip()
    unknown = stack.regrow("call", pid, "ad")
    assert (unknown.code, "exposed: add, finish" in unknown.error) == (5, True)
    wrong = stack.regrow("call", pid, "add", "thing=nut")
    assert (wrong.code, "'item'" in wrong.error or "thing" in wrong.error) == (2, True)
    number = stack.regrow("call", pid, "add", "item=7")
    assert (number.code, """name='"7"'""" in number.err) == (2, True)
    late = stack.regrow("call", pid, "later", "--wait", "--timeout", "0.5")
    assert (late.code, "has not answered within 0.5 s" in late.error) == (12, True)
    assert stack.regrow("call", pid, "finish").code == 0
    until(lambda: [row.status for row in stack.rows(tally.stem, ended=True) if row.pid == pid] == ["done"], "its end")
    ended = stack.regrow("call", pid, "add", "item=nut")
    assert (ended.code, "answers no calls any more" in ended.error) == (5, True)
    assert stack.regrow("cancel", pid).out == f"{pid} is done already.\n"


def test_a_prefix_that_fits_several(stack: Stack, tally: Path) -> None:
    """All that fit are named; a longer one is enough."""
    assert stack.regrow("run", "-q", str(tally), "n=1").code == 0
    both = until(lambda: rows if len(rows := stack.rows(tally.stem, ended=True)) > 1 else None, "both records")
    pids = [row.pid for row in both]
    done = stack.regrow("status", "p_")
    assert (done.code, "fits" in done.error) == (5, True)
    common = next(pids[0][:n] for n in range(26, 2, -1) if pids[1].startswith(pids[0][:n]))
    ours = ["--app", tally.stem]
    several = stack.regrow("events", common, *ours)
    assert (several.code, all(pid in several.error for pid in pids)) == (5, True)
    one = pids[0][: len(common) + 1]
    assert stack.regrow("events", one, *ours).out == stack.regrow("events", one.removeprefix("p_"), *ours).out != ""


def test_check_finds_what_does_not_replay(stack: Stack, tmp_path: Path) -> None:
    """A finding is a line with place and remedy, and 14; a clean file is silence."""
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import time\nfrom regrow import agent_process\n\n@agent_process\nasync def main():\n    return time.time()\n"
    )
    done = stack.regrow("check", str(bad))
    assert (done.code, f"{bad}:6:" in done.out) == (14, True)
    assert [each["line"] for each in stack.regrow("check", str(tmp_path), "--json").json] == [6]
    assert stack.regrow("check", str(PROGRAMS / "tally.py")).code == 0


def test_schemas_are_printed(stack: Stack) -> None:
    """Both documents are JSON, and of this protocol."""
    assert "Start" in json.dumps(stack.regrow("schema").json)
    assert stack.regrow("schema", "--asyncapi").json["asyncapi"].startswith("3.")


async def test_a_poison_message_is_a_dead_letter(stack: Stack, tally: Path, launch: Launch) -> None:
    """It is listed and shown with its reason; replayed it comes again, since it still is what it is."""
    host = launch("host", str(tally))
    until(lambda: "runs app" in host.out, "the host")
    pid = ids.new_id("p")
    async with await Bus.connect(stack.url, name="test") as bus:
        subject = subjects.inbox(tally.stem, ids.partition_of(pid, 16), pid)
        await bus.publish(streams.inbox_stream(tally.stem), subject, b"{poison", "poison")
    (letter,) = until(lambda: stack.regrow("dead", "ls", "--json").json, "the dead letter")
    number = str(letter["seq"])
    assert letter["letter"]["subject"] == subject
    assert "does not decode" in stack.regrow("dead", "ls", "--service", "host").out
    assert "{poison" in stack.regrow("dead", "show", number).out
    assert "again" in stack.regrow("dead", "replay", number).out
    (again,) = until(
        lambda: [each for each in stack.regrow("dead", "ls", "--json").json if each["seq"] != letter["seq"]],
        "the next one",
    )
    assert again["letter"]["subject"] == subject
