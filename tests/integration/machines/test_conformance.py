"""The public conformance suite on every backend that Regrow has itself, through a real manager."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker_engine import IMAGE, Engine, docker_engine
from morph_stand_in import make_morph
from regrow import DockerImage, LocalImage
from regrow.testing.machine_conformance import MachineConformance
from ssh_server import SSHServer, make_login
from suites_later import Later
from test_morph import image as morph_image

__all__ = ["docker_engine"]

pytestmark = pytest.mark.timeout(120)


@pytest.mark.xdist_group("conformance-local")
class TestLocal(MachineConformance):
    """Folders of this computer."""

    image = LocalImage()


@pytest.mark.xdist_group("conformance-ssh")
class TestSSH(Later, MachineConformance):
    """Folders of a host behind a real sshd."""

    backends = "ssh"

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def server(cls) -> Iterator[None]:
        with make_login() as login, SSHServer(login) as server:
            cls.image = server.image()
            yield from cls.served()


@pytest.mark.docker
@pytest.mark.xdist_group("conformance-docker")
class TestDocker(Later, MachineConformance):
    """Containers of a real engine."""

    backends = "docker"
    image = DockerImage(IMAGE)

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def engine(cls, docker_engine: Engine) -> Iterator[None]:
        cls.env = {"DOCKER_HOST": docker_engine.url}
        yield from cls.served()


@pytest.mark.xdist_group("conformance-morph")
class TestMorph(Later, MachineConformance):
    """Instances of a stand-in for MorphCloud's API, by the real SDK."""

    backends = "morph"
    image = morph_image()

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def cloud(cls) -> Iterator[None]:
        with make_morph() as cloud:
            cls.env = {**cloud.environment(), "MORPH_HTTP_TRANSPORT_SHARDS": "1"}
            yield from cls.served()
