"""What Docker machines may have of their host: nothing that its operator did not allow."""

from __future__ import annotations

from pathlib import Path

import pytest
from regrow_machine_manager.backends._docker_access import check
from regrow_machine_manager.settings import parse
from regrow_protocol.images import DockerImage, InvalidImage
from regrow_service.settings import InvalidSetting


def test_nothing_of_the_host_unless_it_is_allowed(tmp_path: Path) -> None:
    """Named volumes are free; the errors tell the settings."""
    check(DockerImage("x", volumes={"cache": "/c"}), "bridge", (), host_network=False)
    with pytest.raises(InvalidImage, match=f"'{tmp_path}'.*--docker-volumes"):
        check(DockerImage("x", volumes={str(tmp_path): "/c"}), "bridge", (), host_network=False)
    with pytest.raises(InvalidImage, match="--docker-host-network"):
        check(DockerImage("x", network="host"), "host", (), host_network=False)
    check(DockerImage("x", network="host"), "host", (), host_network=True)


def test_allowed_folders(tmp_path: Path) -> None:
    """They and what is below them; not what only begins alike, nor what links lead to, nor more than to be read."""
    allowed, other = tmp_path / "data", tmp_path / "database"
    (allowed / "below").mkdir(parents=True)
    other.mkdir()
    (allowed / "out").symlink_to(other)
    (allowed / "in").symlink_to(allowed / "below")
    (tmp_path / "way").symlink_to(allowed)

    def may(path: Path, target: str = "/x", volumes: tuple[str, ...] = (str(allowed),)) -> bool:
        try:
            check(DockerImage("x", volumes={str(path): target}), "bridge", volumes, host_network=False)
        except InvalidImage:
            return False
        return True

    assert all(may(path) for path in (allowed, allowed / "below", allowed / "in", allowed / "not there"))
    assert not any(may(path) for path in (tmp_path, other, allowed / "out", allowed / "out" / "x", tmp_path / "way"))
    assert may(tmp_path / "way" / "below", volumes=(f"{tmp_path}/way/",))
    read_only = (f"{allowed}:ro",)
    assert may(allowed, "/x:ro", read_only)
    assert not may(allowed, "/x", read_only)
    assert may(Path("/etc"), volumes=("/",))


def test_the_settings() -> None:
    """Options, several or joined by commas, and variables."""
    settings = parse(["--docker-volumes", "/data", "--docker-volumes", "/a b:ro"], {"REGROW_DOCKER_HOST_NETWORK": "1"})
    assert settings.volumes == ("/data", "/a b:ro")
    assert settings.docker_host_network
    assert parse(["--docker-host-network"], {}).docker_host_network
    settings = parse([], {})
    assert (settings.volumes, settings.docker_host_network) == ((), False)
    with pytest.raises(InvalidSetting, match="REGROW_DOCKER_VOLUMES"):
        parse(["--docker-volumes", "data"], {})
