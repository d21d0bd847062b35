"""`regrow machines`, `cp`, `snapshot`, `fork`: machines as a user sees and handles them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import Stack
from conftest_machines import APP, Make, record_of
from regrow import Machine

pytestmark = [pytest.mark.xdist_group("cli-machines"), pytest.mark.timeout(180)]


def _listed(stack: Stack, *arguments: str) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in stack.regrow("machines", "--json", *arguments).json}


def test_a_list(stack: Stack, box: Machine, make: Make) -> None:
    """What runs, of all apps or one; what has ended with --all, and why."""
    other = make("", app="elsewhere")
    rows = _listed(stack)
    assert {box.id, other.id} <= rows.keys()
    row = rows[box.id]
    assert (row["app"], row["backend"], row["state"], row["name"], row["owner"]) == (APP, "local", "ready", "box", "")
    assert row["node"] == box.node
    assert row["keep"]
    assert list(_listed(stack, "--app", "elsewhere")) == [other.id]
    table = stack.regrow("machines", "--app", APP).out.splitlines()
    assert table[0].split() == ["ID", "STATE", "BACKEND", "AGE", "NODE", "APP", "OWNER", "NAME"]
    assert table[1].split()[:3] == [box.id, "ready", "local"]
    assert stack.regrow("machines", "stop", other.id).out == f"{other.id} stopped\n"
    assert other.id not in _listed(stack)
    gone = _listed(stack, "--all")[other.id]
    assert (gone["state"], gone["reason"], gone["ended"] >= gone["created"]) == ("stopped", "asked", True)
    empty = stack.regrow("machines", "--app", "elsewhere")
    assert (empty.out, "No machine runs" in empty.err) == ("", True)


def test_machines_are_stopped(stack: Stack, make: Make) -> None:
    """Several at once, by name or prefix, or all of an app; again is no error; with them what ran."""
    one, two, three = make("one"), make("two"), make("three")
    done = stack.regrow("machines", "stop", "one", two.id[2:])
    assert (done.code, sorted(done.out.splitlines())) == (0, sorted([f"{one.id} stopped", f"{two.id} stopped"]))
    assert stack.regrow("machines", "stop", "one").out == f"{one.id} is stopped already\n"
    assert stack.regrow("machines", "stop", "--app", APP).out == f"{three.id} stopped\n"
    nothing = stack.regrow("machines", "stop", "--app", APP)
    assert (nothing.code, nothing.out) == (0, "")


def test_which_machine_is_meant(stack: Stack, make: Make) -> None:
    """A name that two have is refused with both; --app decides; an ended one is said to have ended."""
    one, two = make("twin"), make("twin", app="others")
    several = stack.regrow("exec", "twin", "--", "true")
    assert (several.code, one.id in several.error, two.id in several.error) == (5, True, True)
    assert stack.regrow("exec", "twin", "--app", "others", "--", "echo $REGROW_MACHINE").out == f"{two.id}\n"
    stack.regrow("machines", "stop", two.id)
    assert stack.regrow("exec", "twin", "--", "echo $REGROW_MACHINE").out == f"{one.id}\n"
    ended = stack.regrow("exec", two.id, "--", "true")
    assert (ended.code, ended.error) == (5, f"error: The machine {two.id} is stopped: asked")


def test_files_and_folders_both_ways(stack: Stack, box: Machine, tmp_path: Path) -> None:
    """As `cp -r` does it, on either side."""
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "deep").write_bytes(b"\x00\xff")
    (source / "run").write_text("#!/bin/sh\necho ran\n")
    (source / "run").chmod(0o755)
    for given, target in [
        (source / "run", "renamed"),
        (source / "run", "."),
        (source, "fresh"),
        (source, "fresh"),
        (f"{source}/.", "flat"),
        (source, ""),
        (source / "run", "made/for/it"),
    ]:
        assert stack.regrow("cp", str(given), f"box:{target}").err == ""
    listed = stack.regrow("exec", "box", "--", "find . -type f -not -path './.regrow*' | sort").out.split()
    folder = ["run", "sub/deep"]
    expected = ["./renamed", "./run", "./made/for/it"]
    expected += [f"./{prefix}{each}" for prefix in ("fresh/", "fresh/source/", "flat/", "source/") for each in folder]
    assert listed == sorted(expected)
    assert stack.regrow("exec", "box", "--", "./renamed").out == "ran\n"

    back = tmp_path / "back"
    back.mkdir()
    for remote, local in [
        ("renamed", back),
        ("run", back / "named"),
        ("fresh", back),
        ("flat/.", back / "content"),
        ("source", back / "new"),
    ]:
        assert stack.regrow("cp", f"box:{remote}", str(local)).err == ""
    found = sorted(str(path.relative_to(back)) for path in back.rglob("*") if path.is_file())
    prefixes = ("fresh/", "fresh/source/", "content/", "new/")
    assert found == sorted(["renamed", "named", *(f"{prefix}{each}" for prefix in prefixes for each in folder)])
    assert (back / "new" / "sub" / "deep").read_bytes() == b"\x00\xff"
    assert (back / "named").stat().st_mode & 0o777 == 0o755


def test_what_cannot_be_copied(stack: Stack, box: Machine, tmp_path: Path) -> None:
    """One line on which side the trouble is."""
    file = tmp_path / "file"
    file.write_text("x")
    for line, code, said in [
        (["cp", str(tmp_path / "nothing"), "box:"], 1, "on this computer"),
        (["cp", "box:nothing", str(tmp_path)], 1, "nothing"),
        (["cp", "box:../../../etc/passwd", str(tmp_path)], 2, "outside"),
        (["cp", str(file), "box:/etc/x"], 2, "outside"),
        (["cp", "box:.", str(file / "below")], 1, "on this computer"),
        (["cp", "box:..", str(tmp_path)], 2, "names no file"),
    ]:
        done = stack.regrow(*line)
        assert (done.code, done.out, said in done.error) == (code, "", True), (line, done)
        assert "defect" not in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_snapshots_and_forks(stack: Stack, box: Machine) -> None:
    """A fork has what the machine has, and its name, which goes on to mean the machine; a snapshot stays until it is
    removed."""
    stack.regrow("exec", "box", "--", "echo kept > state")
    made = stack.regrow("snapshot", "box", "--name", "before")
    id_ = made.out.strip()
    assert made.code == 0
    (row,) = [row for row in stack.regrow("snapshots", "--json").json if row["id"] == id_]
    assert (row["name"], row["machine"], row["app"], row["backend"]) == ("before", box.id, APP, "local")
    assert id_ in stack.regrow("snapshots", "--app", APP).out
    forks = stack.regrow("fork", "box", "-n", "2").out.split()
    assert len(set(forks)) == 2
    for fork in forks:
        assert stack.regrow("exec", fork, "--", "cat state; echo changed > state").out == "kept\n"
    assert stack.regrow("exec", "box", "--", "cat state; echo $REGROW_MACHINE").out == f"kept\n{box.id}\n"
    assert stack.regrow("snapshots", "rm", "before").out == f"{id_} removed\n"
    assert id_ not in stack.regrow("snapshots", "--json").out
    assert stack.regrow("snapshots", "rm", id_).code == 5


def test_garbage(stack: Stack, make: Make) -> None:
    """Records of what has ended and snapshots without a name go, when they are old enough and it is no dry run."""
    old, running = make("old"), make("running")
    spare = stack.regrow("snapshot", "old").out.strip()
    named = stack.regrow("snapshot", "old", "--name", "mine").out.strip()
    needed = stack.regrow("snapshot", "running").out.strip()
    stack.regrow("machines", "stop", "old")
    assert stack.regrow("machines", "gc", "--snapshots", "--json").json == []
    line = ["machines", "gc", "--snapshots", "--older-than", "0s", "--json"]
    planned = stack.regrow(*line, "--dry-run").json
    mine = {each["id"]: each["what"] for each in planned if each["id"] in (old.id, running.id, spare, named, needed)}
    assert mine == {old.id: "record", spare: "snapshot"}
    assert record_of(stack, old.id) is not None
    assert stack.regrow(*line).json == planned
    assert record_of(stack, old.id) is None
    left = {row["id"] for row in stack.regrow("snapshots", "--json").json}
    assert {named, needed} <= left
    assert spare not in left
    assert running.id in _listed(stack)
    assert stack.regrow("machines", "gc", "--older-than", "0s").err == "There is nothing to remove.\n"
    stack.regrow("snapshots", "rm", named, needed)


def test_the_doctor_knows_the_managers(stack: Stack, box: Machine) -> None:
    """Which nodes make what."""
    checks = {check["name"]: check for check in json.loads(stack.regrow("doctor", "--json").out)}
    assert checks["machine-managers"]["status"] == "ok"
    assert f"{box.node}: local" in checks["machine-managers"]["detail"]
    assert checks["machines: local"]["status"] == "ok"
