"""The contract of images and machines, as ramure has it: implement these two, and agents run on what you make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from ..types import ExecResult


class Machine(ABC):
    """A running environment."""

    @abstractmethod
    async def exec(self, command: str, *, user: str = "agent", timeout: int | None = None) -> ExecResult:
        """Run a shell command and wait for its end.

        Args:
            command: for a shell.
            user: that it runs as.
            timeout: seconds; then it is killed, with exit code 124.
        """

    @abstractmethod
    async def write_file(self, path: str, content: bytes | str) -> None:
        """Write a file, and the folders above it."""

    @abstractmethod
    async def read_file(self, path: str) -> bytes:
        """The content of a file."""

    @abstractmethod
    async def stop(self) -> None:
        """End it, and all that runs on it."""

    def describe(self) -> dict[str, Any]:
        """What a log says of it."""
        return {"kind": type(self).__name__}

    async def fork(self, **_options: Any) -> Machine:
        """A copy of it, running. Raises NotImplementedError where the backend cannot."""
        raise NotImplementedError(f"{type(self).__name__} cannot be forked")

    async def snapshot(self, **_options: Any) -> Any:
        """Its present state as an image. Raises NotImplementedError where the backend cannot."""
        raise NotImplementedError(f"{type(self).__name__} keeps no snapshots")


class Image(ABC):
    """What machines are made from.

    Attributes:
        id: by which its backend finds it again; None while there is none.
    """

    id: str | None = None

    @abstractmethod
    async def spawn(self) -> Machine:
        """Make a machine."""
