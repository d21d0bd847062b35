"""What every harness must do, as tests: subclass `HarnessConformance` in a test module and name a harness.

```python
class TestPi(HarnessConformance):
    harness = "pi"
    program = "pi"
```

Each test starts the real harness through a real NATS server, gateway and machine-manager, on this computer, against a
scripted model on loopback. A harness whose program is not installed is skipped, which says so: programs are looked for
in `.harness/node_modules/.bin` of the present folder (`make harnesses` puts them there) and on the `PATH`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import signal
import tempfile
import time
import unittest
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ClassVar, TypeVar

from regrow_protocol.images import AnyImage, LocalImage

from .. import testing
from . import _harness_rig
from ._harness_rig import Rig, Start
from .gateways import Gateway
from .harness_programs import find_program, scripted
from .managers import Manager
from .scripted_model import MODEL, ScriptedModel

__all__ = ["MODEL", "HarnessConformance", "Rig", "Start"]

C = TypeVar("C", bound="HarnessConformance")


def with_agent(test: Callable[[C, Rig], Awaitable[None]]) -> Callable[[C], None]:
    """A test that is given an agent whose harness has just come."""

    @functools.wraps(test)
    def run(self: C) -> None:
        async def body() -> None:
            self.model.asked.clear()
            async with _harness_rig.rig(testing.nats_url(), self.image) as rig:
                await rig.enrol(self.harness, self.with_path(self.start()))
                await test(self, rig)

        asyncio.run(body())

    del run.__wrapped__  # pytest would look for a fixture named `rig`
    return run


class HarnessConformance:
    """The suite.

    Attributes:
        harness: name of its entry point.
        program: that it runs; the tests are skipped where it is not installed.
        image: of the machines that it runs on; they see this computer's processes, or it sees theirs.
        backends, options, env: of the manager, as in `MachineConformance`.
        hosts: addresses that gateway and model listen at.
        here: how the machines name this computer.
        calls_once: a call that it was killed in is not made again when it is started again.
        patience: seconds that it looks for its gateway before the model is told that a call's answer is lost.
        recalls: its model is told what that call was answered, before it decides what to do.
        gateway, manager, model, home: that are there while the tests run.
    """

    harness: ClassVar[str]
    program: ClassVar[str]
    image: ClassVar[AnyImage] = LocalImage()
    backends: ClassVar[str] = "local"
    options: ClassVar[tuple[str, ...]] = ()
    env: ClassVar[dict[str, str]] = {}
    hosts: ClassVar[str] = "127.0.0.1"
    here: ClassVar[str] = "127.0.0.1"
    calls_once: ClassVar[bool] = False
    patience: ClassVar[float] = 5.0
    recalls: ClassVar[bool] = False
    gateway: ClassVar[Gateway]
    manager: ClassVar[Manager]
    model: ClassVar[ScriptedModel]
    home: ClassVar[Path]

    @classmethod
    def setup_class(cls) -> None:
        """Start what the tests need. Raises SkipTest where the harness is not installed."""
        for program in (cls.program, "tmux"):
            if find_program(program) is None:
                raise unittest.SkipTest(f"{program} is not installed (`make harnesses`, `make system-deps`)")
        cls.home = Path(tempfile.mkdtemp(prefix="regrow-harness-"))
        cls.gateway = Gateway(testing.nats_url(), env={"REGROW_GATEWAY_HOST": cls.hosts})
        cls.manager = Manager(testing.nats_url(), backends=cls.backends, options=cls.options, env=cls.env)
        cls.model = ScriptedModel(host=cls.hosts.rpartition(",")[2], name=cls.here).__enter__()
        try:
            cls.gateway.start()
            cls.manager.start()
        except BaseException:
            cls.teardown_class()
            raise

    @classmethod
    def teardown_class(cls) -> None:
        """End it."""
        cls.model.__exit__(None, None, None)
        cls.gateway.close()
        cls.manager.close()
        shutil.rmtree(cls.home, ignore_errors=True)

    def start(self) -> Start:
        """How the harness is pointed at the scripted model."""
        home = Path(tempfile.mkdtemp(dir=self.home))
        return scripted(self.harness, self.model, home)

    def with_path(self, start: Start) -> Start:
        """With the folder of its program on its path."""
        found = find_program(self.program)
        assert found is not None
        path = f"{found.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return Start(start.model, start.options, {"PATH": path, **start.env})

    def heard(self, text: str) -> bool:
        """Whether the model was told something by a tool."""
        return any(text in turn.text for asked in self.model.asked for turn in asked.turns if turn.role == "tool")

    # ------------------------------------------------------------------------------------------------------------------

    @with_agent
    async def test_an_agent_works_while_it_is_spoken_to(self, rig: Rig) -> None:
        """It calls tools and sees answers and errors, hears while idle, gets new tools, tells its turns, and ends."""
        await rig.calls("registered 1")
        await rig.send('Work.\n>> call add {"a": 40, "b": 2}\n>> call fault\n>> say The first is done.')
        await rig.says("The first is done.")
        assert self.heard("42")
        assert self.heard("the well is dry")
        await rig.give(1, *_harness_rig.TOOLS, _harness_rig.tool("late"))
        await rig.send("More.\n>> call late\n>> say The second is done.", tools=1)
        await rig.says("The second is done.")
        assert self.heard("better than never")
        called = [each for each in await rig.called() if " " not in each]  # without the news
        assert called == ["add", "fault", "late"]
        turns = [e for e in await rig.entries("turn") if b"ended" in bytes(e.data)]
        assert turns
        assert (await rig.usage()).output > 0
        assert rig.processes()
        await rig.stop()
        await rig.gone()

    @with_agent
    async def test_an_agent_survives_its_gateway(self, rig: Rig) -> None:
        """Killed in the middle of a call, with a message on its way: the call is carried out once, both are heard."""
        await rig.send(">> call hold")
        await rig.calls("hold")
        await rig.send("By the way.\n>> say That too.")
        since = time.monotonic()
        self.gateway.kill()
        await self.gateway.start_async()
        away = time.monotonic() - since
        await rig.process.call("release")
        await rig.says("That too.")
        assert (await rig.called()).count("hold") == 1
        if away < self.patience:
            assert self.heard("it held")

    @with_agent
    async def test_an_agent_that_was_killed_goes_on(self, rig: Rig) -> None:
        """Killed in the middle of a call and started again, it has its conversation, and ends what it was at."""
        await rig.send("Remember the word cucumber.\n>> call hold")
        await rig.calls("hold")
        await rig.kill()
        assert (await rig.ended()).exit_code == 128 + signal.SIGKILL
        await rig.gone()
        await rig.process.call("release")
        while self.recalls and not await rig.entries("result"):  # noqa: ASYNC110 - only the conversation knows
            await asyncio.sleep(0.02)
        before = len(self.model.asked)
        await rig.relaunch()
        await rig.send(">> say I am back.")
        await rig.says("I am back.")
        assert any("cucumber" in turn.text for turn in self.model.asked[before].turns)
        if self.recalls:
            assert any("it held" in turn.text for asked in self.model.asked[before:] for turn in asked.turns)
        if self.calls_once:
            assert (await rig.called()).count("hold") == 1
            assert self.heard("it held")
        await rig.stop()
        await rig.gone()
