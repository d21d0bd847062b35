"""The manager's options and environment, and what follows from them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from regrow_machine_manager.settings import parse
from regrow_service.settings import InvalidSetting


def test_options_outweigh_the_environment() -> None:
    """Each option has a variable; repeated ones are joined."""
    environ = {
        "REGROW_NODE": "a",
        "REGROW_MAX_MACHINES": "3",
        "REGROW_MACHINE_LABELS": "x=1",
        "REGROW_MACHINE_LEASE": "5",
    }
    argv = ["--node", "b", "--label", "gpu=1", "--label", "zone=a=b", "--memory", "16g", "--warm", "python-dev=3"]
    settings = parse([*argv, "--warm", "reg:5000/x:1=2"], environ)
    assert (settings.node_name, settings.max_machines, settings.machine_lease) == ("b", 3, 5.0)
    assert settings.labels == {"gpu": "1", "zone": "a=b"}
    assert settings.memory == 16 << 30
    assert settings.warm == {"python-dev": 3, "reg:5000/x:1": 2}


def test_nothing_need_be_said() -> None:
    """The host's name, a folder in the home directory, all backends, no limits."""
    settings = parse([], {})
    assert settings.node_name == socket.gethostname()
    assert settings.folder == Path(f"~/.regrow/machines-{socket.gethostname()}").expanduser()
    assert (settings.labels, settings.warm, settings.backends, settings.memory) == ({}, {}, frozenset(), 0)
    assert settings.free_disk == 512 << 20


@pytest.mark.parametrize(
    "argv",
    [
        ["--memory", "much"],
        ["--label", "gpu"],
        ["--warm", "python-dev"],
        ["--warm", "python-dev=many"],
        ["--max-machines", "-1"],
        ["--lease", "0"],
        ["--min-free-disk", "-5"],
    ],
)
def test_what_cannot_be_used_is_refused(argv: list[str]) -> None:
    """With the variable's name."""
    with pytest.raises(InvalidSetting, match=r"REGROW_|how many"):
        parse(argv, {})
