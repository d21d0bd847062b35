"""What every backend of machines must do, as tests: subclass `MachineConformance` in a test module and name an image.

```python
class TestFirecracker(MachineConformance):
    image = FirecrackerImage(kernel="6.1")
    backends = "firecracker"
```

Each test makes a machine through a real NATS server and a real machine-manager, as a program would. What a backend does
not offer (snapshots, forks, ports) must be refused as `Unsupported`. Nothing here needs a plugin of pytest.
"""

from __future__ import annotations

import asyncio
import functools
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from regrow_protocol.bus import Bus
from regrow_protocol.images import AnyImage

from .. import testing
from ..client import Client
from ..machines import (
    ExecTimeout,
    Machine,
    MachineError,
    MachineLost,
    OutsideRoot,
    Unsupported,
    from_snapshot,
    machine,
)
from ..outside import acting
from .managers import Manager

C = TypeVar("C", bound="MachineConformance")

PATIENCE = 100.0
"""Seconds that one test may take."""


def on_machine(test: Callable[[C, Machine], Awaitable[None]]) -> Callable[[C], None]:
    """A test that is given a new machine."""

    @functools.wraps(test)
    def run(self: C) -> None:
        async def body() -> None:
            async with asyncio.timeout(PATIENCE), self.client(), await machine(self.image) as box:
                await test(self, box)

        asyncio.run(body())

    del run.__wrapped__  # pytest would look for a fixture named `box`
    return run


class MachineConformance:
    """The suite.

    Attributes:
        image: what its machines are made from; a subclass gives it, or sets it in `setup_class`.
        backends: names of the backends that the manager shall offer.
        options: further options of the manager.
        env: further variables of the manager.
        manager: that runs while the tests do.
    """

    image: ClassVar[AnyImage]
    backends: ClassVar[str] = "local"
    options: ClassVar[tuple[str, ...]] = ()
    env: ClassVar[dict[str, str]] = {}
    manager: ClassVar[Manager]

    @classmethod
    def setup_class(cls) -> None:
        """Start the manager."""
        cls.manager = Manager(testing.nats_url(), backends=cls.backends, options=cls.options, env=cls.env)
        try:
            cls.manager.start()
        except BaseException:
            cls.manager.close()
            raise

    @classmethod
    def teardown_class(cls) -> None:
        """End it."""
        cls.manager.close()

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Client]:
        """Whoever uses the machines: outside of all processes."""
        async with await Bus.connect(testing.nats_url(), name="regrow-conformance") as bus:
            client = Client(bus)
            async with acting(client, "conformance"):
                yield client
            await client.close()

    # Commands ---------------------------------------------------------------------------------------------------------

    @on_machine
    async def test_a_command_gives_exit_code_and_both_outputs(self, box: Machine) -> None:
        """What a command writes is kept apart, and its exit code is its own."""
        result = await box.exec("echo out; echo err >&2; exit 7")
        assert (result.exit_code, result.stdout, result.stderr) == (7, "out\n", "err\n")
        assert (result.ok, result.truncated) == (False, False)
        assert 0 <= result.duration < 30
        assert (await box.exec("true")).ok

    @on_machine
    async def test_binary_output(self, box: Machine) -> None:
        """Every byte comes back as it was written."""
        result = await box.exec(r"printf '\000\001\377\r\n\200'")
        assert result.stdout_bytes == b"\0\1\xff\r\n\x80"

    @on_machine
    async def test_a_command_has_what_it_is_given(self, box: Machine) -> None:
        """Environment, folder and input are those of the call; nothing in them is taken for shell code."""
        await box.write_file("a b/here", "x")
        odd = "a'b\"c $HOME `id` \\ \n é"
        result = await box.exec('printf %s "$ODD"; ls; cat', env={"ODD": odd}, cwd="a b", stdin=b"in\0put")
        assert result.stdout_bytes == odd.encode() + b"here\nin\0put"
        listed = await box.exec(["printf", "%s|", "-n", "a b", "$HOME", "'"])
        assert listed.stdout == "-n|a b|$HOME|'|"

    @on_machine
    async def test_without_input_a_command_reads_nothing(self, box: Machine) -> None:
        """A command that reads its standard input finds it empty, and does not wait for anybody."""
        assert (await box.exec("cat; echo end", timeout=20)).stdout == "end\n"

    @on_machine
    async def test_output_beyond_the_cap_is_counted(self, box: Machine) -> None:
        """50 MB of output are cut, the rest is counted, and the manager does not grow."""
        await box.exec("true")
        before = self.manager.resident
        result = await box.exec("head -c 52428800 /dev/zero; echo e >&2; exit 3", max_output=10_000, timeout=50)
        assert (result.exit_code, len(result.stdout_bytes), result.truncated) == (3, 10_000, True)
        assert 50_000_000 < result.left_out <= 52_428_800 - 10_000
        assert result.stderr == "e\n"
        assert self.manager.resident - before < 30 * 1024 * 1024

    @on_machine
    async def test_output_of_a_megabyte_is_whole(self, box: Machine) -> None:
        """What is within the cap comes back whole."""
        result = await box.exec("head -c 1048576 /dev/zero | tr '\\0' x")
        assert result.stdout_bytes == b"x" * 1048576
        assert not result.truncated

    @on_machine
    async def test_a_timeout_kills_the_whole_group(self, box: Machine) -> None:
        """Also what the command started, and what ignores TERM."""
        beating = "(trap '' TERM; while :; do echo x >> beat; sleep 0.05; done) & echo begun; wait"
        written = None
        try:
            await box.exec(beating, timeout=4)  # in which it begins, however busy the machine is
        except ExecTimeout as error:
            written = error.result
        assert written is not None
        assert written.stdout == "begun\n"
        beats = await box.read_file("beat")
        await box.exec("sleep 0.5")
        assert await box.read_file("beat") == beats

    @on_machine
    async def test_cancelling_kills_the_whole_group(self, box: Machine) -> None:
        """Who stops waiting for a command stops it."""
        running = asyncio.ensure_future(box.exec("while :; do echo x >> beat; sleep 0.05; done"))
        while not (await box.exec("test -s beat")).ok:
            pass
        running.cancel()
        await asyncio.wait([running])
        await _until(box, "a=$(wc -c < beat); sleep 0.3; test $a = $(wc -c < beat)")

    @on_machine
    async def test_lines_come_while_it_runs(self, box: Machine) -> None:
        """The first line is there before the command can go on to the last."""
        stream = box.exec_stream(
            "echo one; echo two >&2; while ! test -e go; do sleep 0.05; done; printf three; exit 4"
        )
        seen: dict[str, str] = {}
        async for line in stream:
            seen[str(line)] = line.channel
            if len(seen) == 2:
                await box.write_file("go", "")
        assert seen == {"one": "stdout", "two": "stderr", "three": "stdout"}
        assert (await stream.result()).exit_code == 4

    @on_machine
    async def test_many_commands_at_once(self, box: Machine) -> None:
        """Each gets its own answer."""
        results = await asyncio.gather(*(box.exec(f"echo {i}; exit {i}") for i in range(40)))
        assert [(r.exit_code, r.stdout) for r in results] == [(i, f"{i}\n") for i in range(40)]

    # Files ------------------------------------------------------------------------------------------------------------

    @on_machine
    async def test_files(self, box: Machine) -> None:
        """Content, folders above and permissions are as written; a second write replaces the first whole."""
        content = bytes(range(256)) * 5000
        await box.write_file("deep/er/file", content, mode=0o750)
        assert await box.read_file("deep/er/file") == content
        assert (await box.exec("ls -l deep/er/file")).stdout.startswith("-rwxr-x---")
        await box.write_file("deep/er/file", "short")
        assert await box.read_file("deep/er/file") == b"short"
        assert (await box.exec("cat deep/er/file; ls -A deep/er")).stdout == "shortfile\n"
        await box.write_file("empty", b"")
        assert await box.read_file("empty") == b""

    @on_machine
    async def test_odd_names(self, box: Machine) -> None:
        """A name that looks like an option, or like shell code, is a name."""
        for name in ("-rf", "--help", "a b", "$(id)", "q'uo\"te", "é\nx", "*"):
            await box.write_file(name, name)
            assert await box.read_file(name) == name.encode()

    @on_machine
    async def test_what_cannot_be_read_says_why(self, box: Machine) -> None:
        """Errors are those of Python for the same."""
        await box.write_file("folder/file", "x")
        assert await _error(box.read_file("missing")) is FileNotFoundError
        assert await _error(box.read_file("folder")) is IsADirectoryError

    @on_machine
    async def test_paths_outside_the_root_are_refused(self, box: Machine) -> None:
        """By their text, and through links; nothing is outside of a container."""
        for path in ("", "a\0b"):
            assert await _error(box.write_file(path, "x")) is OutsideRoot
            assert await _error(box.read_file(path)) is OutsideRoot
        if (await box.describe()).root == "/":
            return
        outside = "../" * 30 + "tmp/regrow-outside"
        assert await _error(box.write_file(outside, "x")) is OutsideRoot
        assert await _error(box.read_file(outside)) is OutsideRoot
        await box.exec("ln -s / up; ln -s /etc/passwd secret")
        assert await _error(box.read_file("secret")) in (OutsideRoot, PermissionError)
        assert await _error(box.read_file("up/etc/passwd")) in (OutsideRoot, PermissionError)
        assert await _error(box.write_file("up/tmp/regrow-outside", "x")) in (OutsideRoot, PermissionError)

    @on_machine
    async def test_folders(self, box: Machine) -> None:
        """A folder comes back as it went, with permissions, links and empty folders; a file as a file."""
        with tempfile.TemporaryDirectory() as name:
            here = Path(name)
            (here / "in/sub/empty").mkdir(parents=True)
            (here / "in/sub/data").write_bytes(bytes(range(256)) * 50_000)
            (here / "in/run").write_text("#!/bin/sh\necho ran\n")
            (here / "in/run").chmod(0o755)
            (here / "in/link").symlink_to("run")
            await box.put(here / "in", "there/it is")
            assert (await box.exec("./link", cwd="there/it is")).stdout == "ran\n"
            await box.get("there/it is", here / "out")
            assert (here / "out/sub/data").read_bytes() == (here / "in/sub/data").read_bytes()
            assert (here / "out/sub/empty").is_dir()
            assert (here / "out/link").is_symlink()
            assert (here / "out/run").stat().st_mode & 0o777 == 0o755
            await box.put(here / "in/run", "one/file")
            assert (await box.exec("one/file")).stdout == "ran\n"
            await box.get("one/file", here / "back")
            assert (here / "back").read_text() == (here / "in/run").read_text()
            assert await _error(box.get("missing", here / "no")) is FileNotFoundError

    # Life -------------------------------------------------------------------------------------------------------------

    @on_machine
    async def test_a_stopped_machine_is_gone(self, box: Machine) -> None:
        """Stopping ends what runs on it; stopping again is fine; nothing else is."""
        seconds = f"1000.{time.time_ns() % 10**9:09}"
        running = asyncio.ensure_future(box.exec(f"touch begun; sleep {seconds}"))
        await _until(box, "test -e begun")
        await box.stop()
        with suppress(MachineLost, *_ENDED):
            assert (await running).exit_code > 128, "it was killed, which may be told before the machine is gone"
        while _runs_here("sleep", seconds):  # noqa: ASYNC110 - only the computer knows
            await asyncio.sleep(0.02)
        await box.stop()
        assert await _error(box.exec("true")) is MachineLost
        assert await _error(box.read_file("x")) is MachineLost

    @on_machine
    async def test_a_machine_describes_itself(self, box: Machine) -> None:
        """Its state, and where it is."""
        told = await box.describe()
        assert (told.id, told.node, told.backend, told.state) == (box.id, self.manager.node, box.backend, "ready")
        assert told.workdir.startswith("/")

    @on_machine
    async def test_two_machines_do_not_see_each_other(self, box: Machine) -> None:
        """What one writes, the other does not have."""
        async with await machine(self.image) as other:
            await box.write_file("mine", "1")
            assert await _error(other.read_file("mine")) is FileNotFoundError

    @on_machine
    async def test_a_command_survives_its_manager(self, box: Machine) -> None:
        """Killed in the middle, with the next manager it gives its whole output and real exit code, having run once."""
        command = "echo ran >> count; echo begin; while ! test -e go; do sleep 0.05; done; echo end; exit 9"
        running = asyncio.ensure_future(box.exec(command))
        stream = box.exec_stream("echo a; while ! test -e go; do sleep 0.05; done; echo b")
        assert str(await anext(stream)) == "a"
        await _until(box, "test -s count")
        self.manager.kill()
        await self.manager.start_async()
        await box.write_file("go", "")
        result = await running
        assert (result.exit_code, result.stdout) == (9, "begin\nend\n")
        assert [str(line) async for line in stream] == ["b"]
        assert await box.read_file("count") == b"ran\n"

    @on_machine
    async def test_snapshots(self, box: Machine) -> None:
        """A machine made from a snapshot has the state of that moment, and is another one."""
        await box.write_file("state", "then")
        if "snapshot" not in (await box.describe()).can:
            assert await _error(box.snapshot()) is Unsupported
            return
        kept = await box.snapshot("then")
        await box.write_file("state", "now")
        async with await machine(from_snapshot(kept)) as again:
            assert await again.read_file("state") == b"then"
            await again.write_file("state", "later")
            assert await box.read_file("state") == b"now"
            assert (await again.exec("cat state")).stdout == "later"

    @on_machine
    async def test_forks(self, box: Machine) -> None:
        """Each has the state of that moment; none sees the others from then on."""
        await box.write_file("state", "one")
        if "fork" not in (await box.describe()).can:
            assert await _error(box.fork()) is Unsupported
            return
        forks = await box.fork(2)
        assert len({box.id, *(fork.id for fork in forks)}) == 3
        for i, fork in enumerate(forks):
            assert await fork.read_file("state") == b"one"
            await fork.write_file("state", str(i))
        assert [await each.read_file("state") for each in (box, *forks)] == [b"one", b"0", b"1"]
        for fork in forks:
            await fork.stop()

    @on_machine
    async def test_ports(self, box: Machine) -> None:
        """A port tells where it is reached."""
        if "ports" not in (await box.describe()).can:
            assert await _error(box.expose_port(8080)) is Unsupported
            return
        port = await box.expose_port(8080)
        assert port.host
        assert 0 < port.port < 65536


_ENDED = (MachineError, ExecTimeout)


async def _error(doing: Awaitable[Any]) -> type[BaseException] | None:
    """The class of what it raises, as it is caught by name: MachineLost, FileNotFoundError, …."""
    try:
        await doing
    except (MachineLost, OutsideRoot, Unsupported) as error:
        return type(error)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        return next(base for base in type(error).__mro__ if base.__module__ == "builtins")
    except MachineError as error:
        return type(error) if type(error) in _ENDED else MachineError
    return None


def _runs_here(*argv: str) -> bool:
    """Whether this computer runs a program with these arguments, in a container or not; of another it is not known."""
    sought = "\0".join((*argv, "")).encode()
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            if cmdline.read_bytes() == sought:
                return True
    return False


async def _until(box: Machine, condition: str) -> None:
    """Wait until a command succeeds."""
    while not (await box.exec(condition)).ok:  # noqa: ASYNC110 - only the machine knows
        await asyncio.sleep(0.02)
