"""Machines for tests of the command: made as a script would, on the stack of the module."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import pytest
from conftest_cli import Stack
from regrow import LocalImage, Machine, machine
from regrow.client import Client
from regrow.outside import acting
from regrow_cli.machines import records
from regrow_cli.os_process import identify, is_alive
from regrow_protocol.bus import Bus
from regrow_protocol.images import AnyImage
from regrow_protocol.machines import MachineRecord

APP = "boxes"
Make = Callable[..., Machine]


@pytest.fixture
def make(stack: Stack) -> Iterator[Make]:
    """Makes a machine without an owner, with a name, local or of an image; all of the test are stopped after it."""
    made: list[Machine] = []

    async def run(name: str, app: str, image: AnyImage) -> Machine:
        async with await Bus.connect(stack.url, name="test") as bus, acting(Client(bus), app):
            return await machine(image, keep=True, name=name)

    def new(name: str = "", app: str = APP, image: AnyImage | None = None) -> Machine:
        made.append(asyncio.run(run(name, app, image or LocalImage())))
        return made[-1]

    yield new
    apps = {box.app for box in made}
    for app in apps:
        assert stack.regrow("machines", "stop", "--app", app).code == 0


@pytest.fixture
def box(make: Make) -> Machine:
    """A machine with the name `box`."""
    return make("box")


def record_of(stack: Stack, id_: str) -> MachineRecord | None:
    """A machine's record."""

    async def read() -> MachineRecord | None:
        async with await Bus.connect(stack.url, name="test") as bus:
            return next((kept.record for kept in await records(bus) if kept.record.id == id_), None)

    return asyncio.run(read())


def is_running(os_pid: int) -> bool:
    """Whether an operating-system process is alive."""
    with contextlib.suppress(ValueError):
        identity = identify(os_pid)
        return identity is not None and is_alive(identity)
    return False
