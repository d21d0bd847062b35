"""`regrow exec`: a command on a machine, as if it ran here."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest_cli import TIMEOUT, Launch, Running, Stack, end_of, until
from conftest_machines import is_running
from regrow import Machine

pytestmark = [pytest.mark.xdist_group("cli-machines-exec"), pytest.mark.timeout(180)]


def _raw(stack: Stack, *arguments: str, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-m", "regrow_cli", *arguments]
    return subprocess.run(argv, capture_output=True, env=stack.environment, input=given, timeout=TIMEOUT, check=False)


def test_output_goes_where_it_belongs(stack: Stack, box: Machine) -> None:
    """Bytes as they are, on the descriptor they were written to; the exit code is the command's."""
    done = _raw(stack, "exec", "box", "--", "printf 'a\\377\\000b'; printf 'odd\\376' >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"a\xff\x00b", b"odd\xfe")


def test_one_word_is_a_line_and_several_are_a_program(stack: Stack, box: Machine) -> None:
    """So what was quoted here stays quoted there."""
    assert stack.regrow("exec", box.id, "--", "echo one | tr o 0").out == "0ne\n"
    assert stack.regrow("exec", box.id, "--", "printf", "[%s]", "a b", "$HOME", "--json").out == "[a b][$HOME][--json]"


def test_where_and_with_what(stack: Stack, box: Machine) -> None:
    """Variables, the folder, and what stands on standard input, also when that is large and binary."""
    assert stack.regrow("exec", "box", "--", "mkdir -p sub").code == 0
    line = ["exec", "-e", "COLOUR=dark red", "--env", "EMPTY=", "--cwd", "sub", "box", "--"]
    out = stack.regrow(*line, 'echo "$COLOUR,$EMPTY,${PWD##*/}"').out
    assert out == "dark red,,sub\n"
    data = bytes(range(256)) * 8000
    assert _raw(stack, "exec", "-i", "box", "--", "cat", given=data).stdout == data
    nothing = stack.regrow("exec", "box", "--", "cat", given="not for it")
    assert (nothing.code, nothing.out) == (0, "")


def test_output_comes_while_it_runs(stack: Stack, box: Machine, launch: Launch, tmp_path: Path) -> None:
    """Also a line that is not whole yet."""
    gate = tmp_path / "gate"
    running = launch("exec", "box", "--", f"printf begun; until [ -e {gate} ]; do sleep 0.05; done; echo ', done'")
    until(lambda: running.out == "begun", "its first bytes")
    gate.touch()
    assert running.wait().out == "begun, done\n"


def _started(running: Running) -> int:
    return int(until(lambda: running.out.endswith("\n") and running.out.strip(), "its pid"))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda each: str(each)
)
def test_ctrl_c_kills_it_on_the_machine(
    stack: Stack, box: Machine, launch: Launch, number: signal.Signals, code: int
) -> None:
    """With all that it has started; SIGTERM and the terminal's end do the same."""
    running = launch("exec", "box", "--", "sleep 1000 & echo $!; wait")
    pid = _started(running)
    running.process.send_signal(number)
    assert running.wait().code == code
    end_of(pid)
    assert not is_running(pid)


def test_what_ignores_it_is_killed(stack: Stack, box: Machine, launch: Launch) -> None:
    """By force, after a while; a second Ctrl-C does not wait for that."""
    running = launch("exec", "box", "--", "trap '' TERM INT; echo $$; while :; do sleep 0.1; done")
    pid = _started(running)
    running.process.send_signal(signal.SIGINT)
    until(lambda: not is_running(pid) or running.process.poll() is None, "anything")
    running.process.send_signal(signal.SIGINT)
    assert running.wait().code == 130
    end_of(pid)


def test_a_reader_that_has_enough(stack: Stack, box: Machine) -> None:
    """`| head -1` ends the command on the machine, and is no error."""
    argv = [sys.executable, "-m", "regrow_cli", "exec", "box", "--", "echo $$; exec yes"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": stack.environment}
    with subprocess.Popen(argv, **options) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        pid = int(process.stdout.readline())
        process.stdout.close()
        assert (process.stderr.read(), process.wait(TIMEOUT)) == (b"", 0)
    end_of(pid)


def test_its_time_is_up(stack: Stack, box: Machine) -> None:
    """12, after what it had written until then."""
    done = stack.regrow("exec", "box", "--timeout", "4", "--", "echo begun; sleep 1000")
    assert (done.code, done.out, "killed after 4 s" in done.error) == (12, "begun\n", True)


def test_a_killed_client_leaves_it_running(stack: Stack, box: Machine, launch: Launch, tmp_path: Path) -> None:
    """Nobody was there to say that it should end."""
    gate, proof = tmp_path / "gate", tmp_path / "proof"
    running = launch("exec", "box", "--", f"echo $$; until [ -e {gate} ]; do sleep 0.05; done; echo here > {proof}")
    pid = _started(running)
    running.kill()
    assert is_running(pid)
    gate.touch()
    until(proof.exists, "what the command does")
    end_of(pid)
