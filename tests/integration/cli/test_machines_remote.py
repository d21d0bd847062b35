"""`regrow ssh`, `cp`, `exec` on machines behind SSH, their key in an SSH agent, and in (a stand-in for) MorphCloud."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest_cli import Stack, stack_in, until
from conftest_machines import Make
from regrow import Machine, MorphImage
from test_machines_ssh import Terminal

sys.path.append(str(Path(__file__).parents[1] / "machines"))

from morph_stand_in import Morph, make_morph
from ssh_server import SSHServer, make_login

pytestmark = [pytest.mark.xdist_group("cli-machines-remote"), pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def server() -> Iterator[SSHServer]:
    with make_login() as login, SSHServer(login) as made:
        yield made


@pytest.fixture(scope="module")
def morph() -> Iterator[Morph]:
    with make_morph() as made:
        yield made


@contextmanager
def agent_with(key: Path, folder: Path) -> Iterator[dict[str, str]]:
    """A real ssh-agent that holds a key; the variables of who may use it."""
    if not (program := shutil.which("ssh-agent")):
        pytest.skip("no ssh-agent: install openssh-client")
    variables = {"SSH_AUTH_SOCK": str(folder / "agent.sock"), "HOME": str(folder)}
    process = subprocess.Popen([program, "-D", "-a", variables["SSH_AUTH_SOCK"]], stdout=subprocess.DEVNULL)
    try:
        environ = {**os.environ, **variables}
        add = ["ssh-add", "-q", str(key)]

        def added() -> bool:
            return subprocess.run(add, env=environ, check=False, capture_output=True, timeout=30).returncode == 0

        until(added, "that the agent takes the key")
        yield variables
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def stack(server: SSHServer, morph: Morph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that finds no key but the agent's: its home is empty."""
    folder = tmp_path_factory.mktemp("data")
    with agent_with(server.login.key, folder) as agent:
        environment = {**agent, **morph.environment(), "REGROW_MACHINE_BACKENDS": "ssh,morph", "TERM": "dumb"}
        with stack_in(folder, {**environment, "MORPH_HTTP_TRANSPORT_SHARDS": "1"}) as made:
            yield made


@pytest.fixture(params=["ssh", "morph"])
def box(request: pytest.FixtureRequest, make: Make, server: SSHServer) -> Machine:
    """A machine with the name `box`; the key of the SSH one is nowhere but in the agent."""
    image = server.image(key=None) if request.param == "ssh" else MorphImage(workdir="work")
    return make("box", image=image)


def test_commands_and_copies(stack: Stack, box: Machine, tmp_path: Path) -> None:
    """Files and folders go there and come back as they were; a large one too."""
    done = stack.regrow("exec", "box", "--", "echo $REGROW_MACHINE; exit 4")
    assert (done.code, done.out) == (4, f"{box.id}\n")
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "below" / "run").write_text("#!/bin/sh\necho ran\n")
    (tree / "below" / "run").chmod(0o755)
    (tree / "link").symlink_to("below/run")
    (tree / "big").write_bytes(big := os.urandom(3_000_000))
    assert (done := stack.regrow("cp", str(tree), "box:there")).code == 0, done.err
    assert stack.regrow("exec", "box", "--", "there/link").out == "ran\n"
    assert (done := stack.regrow("cp", "box:there", str(tmp_path / "back"))).code == 0, done.err
    assert (tmp_path / "back" / "big").read_bytes() == big
    assert (tmp_path / "back" / "link").readlink() == Path("below/run")
    assert (tmp_path / "back" / "below" / "run").stat().st_mode & 0o777 == 0o755
    assert (done := stack.regrow("cp", "box:there/big", str(tmp_path))).code == 0, done.err
    assert (tmp_path / "big").read_bytes() == big


def test_a_shell(stack: Stack, box: Machine) -> None:
    """On a real terminal, in the machine's folder; what is done there is there, and its exit code is ours."""
    terminal = Terminal([sys.executable, "-m", "regrow_cli", "ssh", "box"], {**stack.environment, "SHELL": "/bin/sh"})
    terminal.type("test -t 0 && echo on-''terminal; pwd\n")
    terminal.read_until("on-terminal")
    terminal.type("echo still-''here > proof; echo wrote-''it; exit 3\n")
    terminal.read_until("wrote-it")
    assert terminal.end() == 3
    assert stack.regrow("exec", "box", "--", "cat proof").out == "still-here\n"
