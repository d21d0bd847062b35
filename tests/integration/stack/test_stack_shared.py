"""One folder, one stack, however many programs ask for it."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from regrow_cli.children import ChildSpec
from regrow_cli.data_dir import DataDir, StackInfo
from regrow_cli.errors import DataDirUnusable, StackFailed
from regrow_cli.os_process import is_alive
from regrow_cli.stack import ensure_stack, stack_status, stop_stack
from regrow_protocol import streams
from regrow_protocol.bus import Bus

from .conftest import Ensure, child, log_lines, module, servers

if TYPE_CHECKING:
    from conftest import Until


async def test_programs_at_once_share_one(folder: Path) -> None:
    """Programs that start at the same moment all get the same stack, and one NATS server runs."""
    programs = [module("ensure", "--data", str(folder), "--services", "[]") for _ in range(6)]
    outputs = [await asyncio.to_thread(program.communicate) for program in programs]
    assert [program.returncode for program in programs] == [0] * 6, outputs
    infos = {out for out, _ in outputs}
    assert len(infos) == 1
    assert len(servers(folder)) == 1
    info = json.loads(infos.pop())
    assert stack_status(folder).info == StackInfo(**{**info, "process": stack_status(folder).info.process})
    async with await Bus.connect(info["url"], name="test") as bus:
        await streams.ensure(bus)


async def test_two_spellings_are_one_folder(folder: Path, ensure: Ensure, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to the folder, and REGROW_HOME, lead to the same stack."""
    info = await ensure()
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert await asyncio.to_thread(ensure_stack, link) == info
    monkeypatch.setenv("REGROW_HOME", str(folder))
    assert await asyncio.to_thread(ensure_stack) == info


async def test_what_is_written_is_private(folder: Path, place: DataDir, ensure: Ensure) -> None:
    """The folder is the owner's only, and so are the files with credentials in them."""
    folder.mkdir(mode=0o755)
    await ensure()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in (place.info, place.endpoint, place.store / "nats-server.conf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


async def test_credentials_are_needed(ensure: Ensure) -> None:
    """Without the URL's credentials nobody gets in."""
    from regrow_protocol.errors import AccessDenied

    info = await ensure()
    with pytest.raises(AccessDenied):
        await Bus.connect(f"nats://{info.url.partition('@')[2]}", name="intruder")


async def test_it_belongs_to_nobody(ensure: Ensure) -> None:
    """The stack has a session of its own and is no child of the program that started it."""
    info = await ensure()
    assert os.getsid(info.pid) == info.pid != os.getsid(0)
    parent = (Path("/proc") / str(info.pid) / "stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) != os.getpid()


async def test_stop_ends_all_and_keeps_the_data(
    folder: Path, place: DataDir, ensure: Ensure, service: ChildSpec, until: Until
) -> None:
    """It stops by itself, services first; the next stack has the same URL and all data."""
    info = await ensure(service)
    await until((folder / "service_url").exists)
    await until(lambda: child(place, "tiny"), "its record")
    tiny = child(place, "tiny")
    async with await Bus.connect(info.url, name="test") as bus:
        await streams.ensure(bus)
        await bus.publish(streams.EVENTS, "regrow.event.a.p.t", b"kept", "1")
    assert await asyncio.to_thread(stop_stack, folder)
    assert log_lines(place, "stack stopped"), "it was killed since it took too long"
    assert not is_alive(info.process)
    assert not is_alive(tiny.process)
    assert servers(folder) == []
    assert stack_status(folder).state == "stopped"
    assert not await asyncio.to_thread(stop_stack, folder), "there is nothing left to stop"
    again = await ensure()
    assert again.url == info.url
    async with await Bus.connect(again.url, name="test") as bus:
        found = await bus.last(streams.EVENTS, "regrow.event.a.p.t")
        assert found is not None
        assert found.data == b"kept"


async def test_one_that_is_wanted_while_it_stops(folder: Path, ensure: Ensure) -> None:
    """Who asks for the stack while it is being stopped gets a new one that works."""
    first = await ensure()
    stopping = asyncio.ensure_future(asyncio.to_thread(stop_stack, folder))
    second = await ensure()
    await stopping
    if not is_alive(second.process):  # it asked before the stop began
        assert second == first
        second = await ensure()
    async with await Bus.connect(second.url, name="test"):
        assert len(servers(folder)) == 1


async def test_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    """A folder that others read and that is no data folder is left as it is."""
    (tmp_path / "project").mkdir(mode=0o755)
    (tmp_path / "project" / "code.py").write_text("")
    with pytest.raises(DataDirUnusable, match="in use for something else"):
        await asyncio.to_thread(ensure_stack, tmp_path / "project")
    assert stat.S_IMODE((tmp_path / "project").stat().st_mode) == 0o755
    assert [path.name for path in (tmp_path / "project").iterdir()] == ["code.py"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
async def test_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """A folder of another user is refused, also by root."""
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", 65534, 65534)
    with pytest.raises(DataDirUnusable, match="belongs to another user"):
        await asyncio.to_thread(ensure_stack, tmp_path / "theirs")


async def test_a_start_that_fails_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason of the stack process reaches whoever asked, and nothing is left running."""
    monkeypatch.setenv("REGROW_STACK_IDLE", "soon")
    with pytest.raises(StackFailed, match="REGROW_STACK_IDLE='soon'"):
        await asyncio.to_thread(ensure_stack, folder, services=[])
    assert stack_status(folder).state == "stopped"


async def test_module_reports_errors_in_one_line(tmp_path: Path) -> None:
    """`python -m regrow_cli.stack ensure` fails with one line on stderr and the error's exit code."""
    (tmp_path / "file").write_text("")
    program = module("ensure", "--data", str(tmp_path / "file"))
    out, err = await asyncio.to_thread(program.communicate)
    assert (program.returncode, out) == (10, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
