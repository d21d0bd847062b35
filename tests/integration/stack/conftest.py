"""Embedded stacks in folders of their own; whatever a test does to them, nothing of them outlives it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from regrow_cli.children import ChildSpec
from regrow_cli.data_dir import ChildRecord, DataDir, StackInfo, read, resolve
from regrow_cli.os_process import Identity, running_with_argument
from regrow_cli.stack import ensure_stack, stop_stack

Ensure = Callable[..., "asyncio.Future[StackInfo]"]

SERVICE = """
import asyncio, os, pathlib, sys
from regrow_protocol.bus import Bus

async def main():
    async with await Bus.connect(name="tiny service"):
        pathlib.Path(sys.argv[1]).write_text(os.environ["REGROW_NATS_URL"])
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder that does not exist yet."""
    monkeypatch.setenv("REGROW_STACK_IDLE", "60")  # longer than a test; and if the tests are killed, it ends
    monkeypatch.setenv("REGROW_DURABILITY", "fast")
    monkeypatch.setenv("REGROW_MACHINE_BACKENDS", "local")  # the others take seconds to import
    monkeypatch.delenv("REGROW_HOME", raising=False)
    path = tmp_path / "data"
    yield path
    stop_stack(path)
    assert servers(path) == []


@pytest.fixture
def place(folder: Path) -> DataDir:
    """The same folder, with the names of its files."""
    return resolve(folder)


@pytest.fixture
def service(folder: Path) -> ChildSpec:
    """A real small service: it connects, and writes the URL that it was given to `service_url`."""
    return ChildSpec("tiny", (sys.executable, "-c", SERVICE, str(folder / "service_url")))


@pytest.fixture
def ensure(folder: Path) -> Ensure:
    """`await ensure()`: a stack with NATS alone, or with `services`."""

    def make(*services: ChildSpec, keep: bool = False) -> asyncio.Future[StackInfo]:
        return asyncio.ensure_future(
            asyncio.to_thread(ensure_stack, folder, keep=keep, services=list(services), timeout=30.0)
        )

    return make


def servers(folder: Path) -> list[Identity]:
    """The NATS servers that hold the store of the folder."""
    return running_with_argument(str(resolve(folder).store / "nats-server.conf"))


def child(place: DataDir, name: str) -> ChildRecord | None:
    """A child as the stack has recorded it."""
    return next((each for each in read(place.children, list[ChildRecord]) or [] if each.name == name), None)


def log_lines(place: DataDir, event: str) -> list[dict[str, object]]:
    """The lines of stack.log about `event`."""
    lines = (place.logs / "stack.log").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == event]


def module(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Run `python -m regrow_cli.stack`."""
    return subprocess.Popen(
        [sys.executable, "-m", "regrow_cli.stack", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
