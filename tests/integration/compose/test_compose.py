"""`deploy/docker/Dockerfile` builds, and `docker-compose.yml` runs the whole of Regrow from it."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compose_project import SERVICES, Project, eventually, project
from docker_engine import Engine, NoEngine, docker_engine

__all__ = ["docker_engine"]  # a fixture

ENDED = {"done", "failed", "cancelled"}
TASKS = {"count these four words": "4 words", "a hard nut": "3 words", "a fragile vase is here": "5 words"}

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("compose"), pytest.mark.timeout(600)]


@pytest.fixture
def stack(docker_engine: Engine, tmp_path: Path) -> Iterator[Project]:
    """All of it, built from what is here, started and healthy."""
    try:
        with project(docker_engine, tmp_path) as made:
            made.up()
            yield made
    except NoEngine as error:
        pytest.skip(str(error))


def test_a_program_survives_the_end_of_what_runs_it(stack: Project) -> None:
    """An agent-gateway that is away, a killed host and a stopped supervisor in the middle of a program: its result is
    right, nothing was done twice, and it is there after `down` and `up`.

    All is one test, for the stack takes long to build and to start.
    """
    nobody_is_root_and_all_say_how_they_are(stack)
    stack.compose("stop", "agent-gateway")
    arguments = ["start", "worker_pool", "worker_pool", f"specs={json.dumps(list(TASKS))}", "--wait", "--quiet"]
    with started(stack, *arguments) as program:
        eventually(lambda: states(stack, "machines") == {"ready": 3}, "there are machines, for agents that cannot come")
        stack.kill("host")
        stack.compose("stop", "supervisor")
        stack.compose("start", "agent-gateway")
        assert program.poll() is None
        stack.compose("start", "supervisor", "host")
        eventually(lambda: states(stack, "agents")["ended"], "an agent has ended")
        stack.kill("host")  # once more, while others work, or have just ended
        stack.compose("start", "host")
        told, _ = program.communicate(timeout=120)
    assert json.loads(told) == TASKS
    # Who answers does not wait for those who write lists and logs.
    eventually(lambda: {process["status"] for process in stack.regrow("ls", "--all")} <= ENDED, "all have ended")
    processes = stack.regrow("ls", "--all")
    done_once(stack, processes)

    stack.compose("down")
    assert not stack.containers()
    stack.up()
    assert stack.regrow("ls", "--all") == processes
    arguments = ["start", "worker_pool", "worker_pool", 'specs=["two words"]', "--wait", "--quiet"]
    told = subprocess.run(stack.regrow_command(*arguments), stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    assert json.loads(told.stdout) == {"two words": "2 words"}


def nobody_is_root_and_all_say_how_they_are(stack: Project) -> None:
    """Services and the host run as an ordinary user on a file system that they cannot change."""
    for service in (*SERVICES, "host"):
        assert stack.inside(service, "id", "-u").strip() == "10001"
        assert "Read-only" in stack.inside(service, "sh", "-c", "touch /app/x 2>&1")
    for service in SERVICES:
        assert "regrow_nats_connected" in stack.get(service, "/metrics")
        assert {"status": "ready", "wrong": {}}.items() <= json.loads(stack.get(service, "/readyz")).items()


@contextlib.contextmanager
def started(stack: Project, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that does not outlive the test."""
    with subprocess.Popen(stack.regrow_command(*arguments), stdout=subprocess.PIPE, text=True) as program:
        try:
            yield program
        finally:
            program.kill()


def states(stack: Project, what: str) -> Counter[str]:
    """How many machines or agents there are in each state."""
    return Counter(one["state"] for one in stack.regrow(what, "--all"))


def done_once(stack: Project, processes: list[dict[str, str]]) -> None:
    """Each try of a task was one process, with one agent on one machine, that called one tool and had one answer."""
    assert Counter((p["type"], p["status"]) for p in processes) == {
        ("worker_pool", "done"): 1, ("run_task", "done"): 3, ("run_task", "failed"): 1,
    }  # fmt: skip
    agents = stack.regrow("agents", "--all")
    assert Counter(agent["owner"] for agent in agents) == {p["pid"]: 1 for p in processes if p["type"] == "run_task"}
    assert len(stack.regrow("machines", "--all")) == len(agents)
    called: Counter[str] = Counter()
    for each in (agent["id"] for agent in agents):
        eventually(lambda each=each: "result" in [entry["type"] for entry in log(stack, each)], "its result is logged")
        entries = log(stack, each)
        assert Counter(e["type"] for e in entries if e["type"] in ("message", "call", "result")) == {
            "message": 1, "call": 1, "result": 1,
        }  # fmt: skip
        called.update(entry["data"]["tool"] for entry in entries if entry["type"] == "call")
    assert called == {"finish": 3, "give_up": 1}


def log(stack: Project, agent: str) -> list[dict[str, Any]]:
    """The entries of an agent's log."""
    told = subprocess.run(stack.regrow_command("log", agent, "--json"), stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in told.stdout.splitlines()]
