"""The data folder: found, private, locked, its files written whole."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
from regrow_cli.data_dir import ChildRecord, DataDir, prepare, read, resolve, try_lock, write
from regrow_cli.errors import DataDirUnusable, StackTimeout
from regrow_cli.os_process import Identity


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_which_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given, else REGROW_HOME, else ~/.regrow."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("REGROW_HOME", raising=False)
    assert resolve(None).path == tmp_path / ".regrow"
    monkeypatch.setenv("REGROW_HOME", str(tmp_path / "other"))
    assert resolve(None).path == tmp_path / "other"
    assert resolve(Path("~/given")).path == tmp_path / "given"
    assert not (tmp_path / "given").exists()


def test_made_private(tmp_path: Path) -> None:
    """A new folder, and an empty one, becomes the owner's only."""
    (tmp_path / "empty").mkdir(mode=0o755)
    for name in ("new/deeper", "empty"):
        prepare(resolve(tmp_path / name))
        assert _mode(tmp_path / name) == 0o700


def test_opened_up_later_is_closed_again(tmp_path: Path) -> None:
    """A data folder that somebody made readable is made private at the next start."""
    place = resolve(tmp_path / "data")
    prepare(place)
    place.path.chmod(0o755)
    prepare(place)
    assert _mode(place.path) == 0o700


@pytest.mark.parametrize("what", ["file", "below a file"])
def test_no_folder(tmp_path: Path, what: str) -> None:
    """A file is no data folder, nor is what lies below one."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirUnusable, match="cannot be used"):
        prepare(resolve(tmp_path / "file" if what == "file" else tmp_path / "file" / "data"))


def test_lock(tmp_path: Path) -> None:
    """It is locked as long as the holder has it open, and looking does not take it."""
    place = resolve(tmp_path / "data")
    assert not place.locked()
    prepare(place)
    holder = os.open(place.lock, os.O_RDWR)
    other = os.open(place.lock, os.O_RDWR)
    try:
        assert not place.locked()
        assert try_lock(holder)
        assert place.locked()
        assert not try_lock(other)
    finally:
        os.close(holder)
    assert not place.locked()
    assert try_lock(other)
    os.close(other)


def test_gate_is_for_one(tmp_path: Path) -> None:
    """While one decides, another waits until its time is up."""
    place = resolve(tmp_path / "data")
    prepare(place)
    with place.gated(time.monotonic()), pytest.raises(StackTimeout), place.gated(time.monotonic() + 0.05):
        pass
    with place.gated(time.monotonic()):
        pass


def test_no_stack(tmp_path: Path) -> None:
    """A stack.json whose process is gone is no stack."""
    place = resolve(tmp_path / "data")
    prepare(place)
    assert place.running() is None
    place.info.write_text(
        '{"url":"nats://x","pid":1,"data":"","monitor":"","started":1.0,"version":"","process":{"pid":1,"started":"x"}}'
    )
    assert place.running() is None


def test_files_are_whole_and_private(tmp_path: Path) -> None:
    """What is written is read back; a file of another shape, or none, is None; no temporary file stays."""
    place = DataDir(tmp_path)
    records = [ChildRecord("nats", Identity(1, "x"), restarts=2)]
    (tmp_path / f".children.json.{os.getpid()}").write_text("left over")
    write(place.children, records)
    assert read(place.children, list[ChildRecord]) == records
    assert _mode(place.children) == 0o600
    assert read(place.children, Identity) is None
    assert read(place.info, Identity) is None
    assert [path.name for path in tmp_path.iterdir()] == ["children.json"]
