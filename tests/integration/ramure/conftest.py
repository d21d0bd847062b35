"""One embedded stack for all tests here: programs of ramure run against it, in the test or beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from regrow.testing.harness_programs import INSTALLED
from regrow.testing.scripted_model import MODEL, Asked, Call, Say, ScriptedModel
from regrow_cli.stack import ensure_stack, stop_stack

PROGRAMS = Path(__file__).parent / "programs"
TIMEOUT = 50.0

ENVIRONMENT = {
    "REGROW_DURABILITY": "fast",
    "REGROW_STACK_IDLE": "600",
    "REGROW_MACHINE_BACKENDS": "local",  # the others take seconds to import
    "REGROW_DEBUG": "",
    "REGROW_HOST_TTL": "5",  # a program that stands still for a while is not dead
    "PYTHONWARNINGS": "ignore",
}


def script(asked: Asked) -> Say | Call:
    """What models do: a monitor adds a task, a worker finishes its task, or gives it up where that says so."""
    if any(turn.role == "assistant" for turn in asked.turns):
        return Say("Ready.")
    said = " ".join(turn.text for turn in asked.turns if turn.role == "user")
    if asked.tool("pool_add_task") is not None:
        return Call("pool_add_task", {"spec": "An impossible thing."})
    if "An impossible thing" in said:
        return Call("give_up", {"reason": "it is impossible"})
    return Call("finish", {"summary": "It is done."})


@pytest.fixture(scope="session")
def harness_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder in which pi uses the scripted model."""
    home = tmp_path_factory.mktemp("home")
    settings = home / ".pi/agent"
    settings.mkdir(parents=True)
    with ScriptedModel(script) as model:
        (settings / "models.json").write_text(model.pi_models())
        (settings / "settings.json").write_text(json.dumps({"defaultProvider": MODEL, "defaultModel": MODEL}))
        yield home


@pytest.fixture(scope="session")
def stack_folder(tmp_path_factory: pytest.TempPathFactory, harness_home: Path) -> Iterator[Path]:
    """The data folder of a stack that runs."""
    data = tmp_path_factory.mktemp("ramure") / "regrow"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("HOME", str(harness_home))
        patch.setenv("PATH", f"{INSTALLED.resolve()}{os.pathsep}{os.environ['PATH']}")
        patch.delenv("REGROW_NATS_URL", raising=False)
        ensure_stack(data, keep=True, timeout=60.0)
    yield data
    stop_stack(data)


@pytest.fixture(autouse=True)
def home(stack_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder, which whatever a test starts uses."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REGROW_HOME", str(stack_folder))
    monkeypatch.delenv("REGROW_NATS_URL", raising=False)
    return stack_folder


class Program:
    """A program, or `regrow …`, that runs beside the test; what it says goes to files."""

    def __init__(self, argv: list[str], folder: Path, number: int, environment: dict[str, str]) -> None:
        self._out, self._err = folder / f"{number}.out", folder / f"{number}.err"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder, env=environment
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def says(self, text: str) -> bool:
        """Whether it has said that; fails when it has ended without."""
        assert text in self.out or self.process.poll() is None, self.out + self.err
        return text in self.out

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(TIMEOUT)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> int:
        """Ctrl-C; its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()


Launch = Callable[..., Program]


@pytest.fixture
def launch(home: Path, harness_home: Path, tmp_path: Path) -> Iterator[Launch]:
    """`launch("programs/x.py", …)` runs a file of this folder, `launch("-m", "regrow_cli", …)` the command."""
    running: list[Program] = []
    path = f"{INSTALLED.resolve()}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HOME": str(harness_home), "PATH": path}

    def start(*arguments: str) -> Program:
        head = [str(Path(__file__).parent / arguments[0])] if arguments[0].endswith(".py") else [arguments[0]]
        running.append(Program([sys.executable, *head, *arguments[1:]], tmp_path, len(running), environment))
        return running[-1]

    yield start
    for each in running:
        each.kill()
