"""A harness on machines that are not a folder of this computer: behind a real sshd, and in a container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker_engine import Engine, docker_engine, tar
from regrow import DockerImage
from regrow.testing.harness_conformance import HarnessConformance
from ssh_server import SSHServer, make_login
from suites_later import Later

__all__ = ["docker_engine"]

pytestmark = pytest.mark.timeout(150)

IMAGE = "regrow-test-harness:1"
"""Has nothing of its own but users: programs are this computer's."""


class _Pi(Later, HarnessConformance):
    """pi, started when there are machines for it."""

    harness = "pi"
    program = "pi"
    calls_once = True


@pytest.mark.xdist_group("harness-pi-ssh")
class TestOverSSH(_Pi):
    """pi as the user of a host behind a real sshd."""

    backends = "ssh"

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def server(cls) -> Iterator[None]:
        with make_login() as login, SSHServer(login) as server:
            if login.own and not _for_all(Path(".harness")):
                pytest.skip(f"other users may not look into {Path.cwd()}, where the harness is")
            cls.image = server.image()
            yield from cls.served()


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
class TestInDocker(_Pi):
    """pi in a container: it reaches its gateway by the name of the engine's computer."""

    backends = "docker"

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def engine(cls, docker_engine: Engine) -> Iterator[None]:
        if not Path(".harness").exists():
            pytest.skip("a container gets the harness of .harness (`make harnesses`)")
        cls.env = {"DOCKER_HOST": docker_engine.url}
        programs = str(Path(".harness").resolve())
        cls.options = ("--docker-volumes", f"/usr:ro,{programs}:ro")
        cls.image = DockerImage(
            _base(docker_engine), pull="never", volumes={"/usr": "/usr:ro", programs: f"{programs}:ro"}
        )
        cls.hosts, cls.here = f"127.0.0.1,{_bridge(docker_engine)}", "host.docker.internal"
        yield from cls.served()


def _for_all(folder: Path) -> bool:
    """Whether every user may go there."""
    return all(each.stat().st_mode & 0o001 for each in (folder.resolve(), *folder.resolve().parents) if each.exists())


def _base(engine: Engine) -> str:
    client: docker.APIClient = engine.client()
    try:
        if not client.images(IMAGE, quiet=True):
            links = {name: (0o777, f"usr/{name}", 0) for name in ("bin", "lib", "lib64")}
            home = "home/agent"
            users = f"root:x:0:0::/root:/bin/sh\nagent:x:1000:1000::/{home}:/bin/sh\n".encode()
            files = tar({
                **links,
                **dict.fromkeys(("etc", "home", "root", "sbin", "usr", "var", "var/lib"), (0o755, None, 0)),
                "tmp": (0o1777, None, 0),
                home: (0o755, None, 1000),
                "etc/passwd": (0o644, users, 0),
                "etc/group": (0o644, b"root:x:0:\nagent:x:1000:\n", 0),
            })  # fmt: skip
            repository, tag = IMAGE.split(":")
            client.import_image_from_data(files, repository=repository, tag=tag)
    finally:
        client.close()
    return IMAGE


def _bridge(engine: Engine) -> str:
    """This computer's address on the network of the engine's containers."""
    client: docker.APIClient = engine.client()
    try:
        return client.inspect_network("bridge")["IPAM"]["Config"][0]["Gateway"]
    finally:
        client.close()
