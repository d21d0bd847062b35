"""`docker-compose.yml` as a project of its own on the tests' engine, with all its containers, volumes and images."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
from docker_engine import Engine, NoEngine
from regrow_protocol.ports import free_port
from stand_in_images import EXTRAS, ROOT, nats_image, python_image

SERVICES = ("supervisor", "machine-manager", "agent-gateway", "registry")
TIMEOUT = 120.0


def compose_command() -> list[str]:
    """Of Compose 2, or of 1.29.

    Raises:
        NoEngine: there is neither.
    """
    for command in (["docker", "compose"], ["docker-compose"]):
        with contextlib.suppress(FileNotFoundError):
            if subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
                return command
    raise NoEngine("there is no Docker Compose: install docker-compose")


@dataclass
class Project:
    """The stack of `docker-compose.yml`.

    Attributes:
        folder: for what it is made of.
        command: of Compose.
        name: what is its own has it in its name.
    """

    engine: Engine
    folder: Path
    command: list[str]
    name: str = field(default_factory=lambda: f"rgt{secrets.token_hex(4)}")

    def __post_init__(self) -> None:
        self.image, self.nats, self.python = (f"{self.name}-{of}:1" for of in ("regrow", "nats", "python"))
        (self.folder / "empty").touch()
        self.port = free_port()
        self.client: docker.APIClient = self.engine.client(timeout=300)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("REGROW_", "COMPOSE_"))},
            "DOCKER_HOST": self.engine.url,
            "COMPOSE_PROJECT_NAME": self.name,
            "REGROW_IMAGE": self.image,
            "NATS_IMAGE": self.nats,
            "REGROW_NATS_PORT": str(self.port),
            "REGROW_GATEWAY_PORT": str(free_port()),
        }

    def build(self) -> None:
        """Make the images."""
        nats_image(self.engine, self.nats, self.folder)
        python_image(self.engine, self.python, self.folder)
        said = list(
            self.client.build(
                path=str(ROOT),
                dockerfile="deploy/docker/Dockerfile",
                tag=self.image,
                buildargs={"PYTHON_IMAGE": self.python, "PACKAGES": "", "EXTRAS": " ".join(EXTRAS)},
                decode=True,
                rm=True,
                forcerm=True,
            )
        )
        assert "error" not in said[-1], "".join(line.get("stream", "") for line in said[-40:]) + said[-1]["error"]

    def compose(self, *arguments: str) -> str:
        """Run compose; its output."""
        # Without what somebody has beside it.
        alone = ("--file", "docker-compose.yml", "--env-file", str(self.folder / "empty"))
        done = subprocess.run(
            [*self.command, *alone, *arguments],
            cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def up(self) -> None:
        """Start all, and wait until all are healthy."""
        self.compose("up", "-d", "--no-build")
        self.healthy("nats", "host", *SERVICES)

    def healthy(self, *services: str) -> None:
        """Wait until they are."""
        waiting = set(services)

        def none_left() -> bool:
            waiting.difference_update([s for s in waiting if self.state(s)["Health"]["Status"] == "healthy"])
            return not waiting

        try:
            eventually(none_left, "all are healthy")
        except AssertionError as error:
            states = {service: self.state(service)["Health"] for service in waiting}
            raise AssertionError(f"{states}\n{self.compose('logs', '--tail', '20', *waiting)}") from error

    def containers(self, service: str = "") -> list[str]:
        """Ids, of one service or all; those that do not run, too."""
        labels = [f"com.docker.compose.project={self.name}"]
        if service:
            labels.append(f"com.docker.compose.service={service}")
        return [found["Id"] for found in self.client.containers(all=True, filters={"label": labels})]

    def state(self, service: str) -> dict[str, Any]:
        """Of its container."""
        (one,) = self.containers(service)
        return self.client.inspect_container(one)["State"]

    def kill(self, service: str) -> None:
        """As a crash would; nobody starts it again."""
        (one,) = self.containers(service)
        with contextlib.suppress(docker.errors.APIError):  # it does not run
            self.client.kill(one)

    def inside(self, service: str, *command: str) -> str:
        """What a command says in its container."""
        (one,) = self.containers(service)
        return self.client.exec_start(self.client.exec_create(one, list(command))["Id"]).decode()

    def get(self, service: str, path: str) -> str:
        """What its health server says there, from outside."""
        (one,) = self.containers(service)
        (door,) = self.client.port(one, 8080)
        connection = http.client.HTTPConnection(door["HostIp"], int(door["HostPort"]), timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def regrow_command(self, *arguments: str) -> list[str]:
        """The command line of `regrow`, which runs on this machine."""
        return [sys.executable, "-m", "regrow_cli", "--nats", f"nats://127.0.0.1:{self.port}", *arguments]

    def regrow(self, *arguments: str) -> Any:
        """What `regrow … --json` says."""
        done = subprocess.run(
            self.regrow_command(*arguments, "--json"), capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def close(self) -> None:
        """Remove all of it."""
        try:
            self.compose("down", "--volumes", "--remove-orphans", "--timeout", "1")
        finally:
            self._remove_images()
            self.client.close()

    def _remove_images(self) -> None:
        """The tags, and all that was built upon the stand-in for Python's."""
        with contextlib.suppress(docker.errors.ImageNotFound):
            self.client.remove_image(self.nats, force=True)
        with contextlib.suppress(docker.errors.ImageNotFound):
            ours = [self.client.inspect_image(self.python)["Id"]]
            parents = {image["Id"]: image["ParentId"] for image in self.client.images(all=True)}
            for image in ours:
                ours += [child for child, parent in parents.items() if parent == image]
            for image in reversed(ours):
                with contextlib.suppress(docker.errors.ImageNotFound):
                    self.client.remove_image(image, force=True)


@contextlib.contextmanager
def project(engine: Engine, folder: Path) -> Iterator[Project]:
    """The project with its images; nothing of it is left.

    Raises:
        NoEngine: there is no Compose.
    """
    made = Project(engine, folder, compose_command())
    try:
        made.build()
        yield made
    finally:
        made.close()


def eventually(condition: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> None:
    """Wait until `condition()` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        time.sleep(0.5)
