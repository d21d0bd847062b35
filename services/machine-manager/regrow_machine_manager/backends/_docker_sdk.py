"""The docker SDK, imported when it is first used: half a second that a node without an engine need not spend."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ..backend import BackendUnavailable

SOCKET = Path("/var/run/docker.sock")


def _lazily(name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module named {name!r}: install regrow[docker]")
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    import docker
    import docker.errors
    import docker.types
    import docker.utils
    import requests

    _ = docker.errors, docker.types, docker.utils
else:
    docker, requests = _lazily("docker"), _lazily("requests")


def load() -> None:
    """Import it now, in one thread, unless there is certainly no engine.

    Raises:
        BackendUnavailable: no engine is named, and none listens where it does by default.
    """
    if not os.environ.get("DOCKER_HOST") and not SOCKET.exists():
        raise BackendUnavailable(
            f"There is no Docker engine: no {SOCKET}, and DOCKER_HOST is not set",
            hint="start one, or name it in DOCKER_HOST",
        )
    _ = docker.APIClient, requests.Response


__all__ = ["docker", "load", "requests"]
