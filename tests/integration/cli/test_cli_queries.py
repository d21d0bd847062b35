"""Queries: `ls`, `signal`, `cancel` and `retry` for all processes that one finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest_cli import Launch, Stack, until

pytestmark = [pytest.mark.xdist_group("cli-running"), pytest.mark.timeout(180)]

PROGRAM = Path(__file__).parent / "programs" / "parcels.py"


def test_commands_for_all_that_a_query_finds(stack: Stack, launch: Launch) -> None:
    """Tags come from the type and the process; the count is shown first, and only with --yes is anything done here."""
    launch("host", str(PROGRAM))
    until(lambda: "parcels" in stack.regrow("hosts").out, "the host")
    pids = [
        stack.regrow("start", "parcels", "parcel", f"to={to}", f"good={good}").out.strip()
        for to, good in (("rome", "true"), ("rome", "false"), ("oslo", "true"))
    ]

    def found(*arguments: str) -> set[str]:
        return {row["pid"] for row in stack.ls("--app", "parcels", *arguments)}

    until(lambda: found("--where", "tag.to=rome") == set(pids[:2]), "the tags")
    until(lambda: found("--where", "tag.to=oslo") == {pids[2]}, "the tags of the third")
    assert found("--where", "tag.kind=parcel and not tag.to=rome") == {pids[2]}
    asked = stack.regrow("signal", "--where", "tag.to=rome", "go", "by=train")
    assert (asked.code, "Send go to 2 processes" in asked.err, "add --yes" in asked.err) == (2, True, True)
    assert stack.regrow("signal", "--where", "tag.to=rome", "--dry-run", "go").out == ""
    sent = stack.regrow("signal", "--where", "tag.to=rome", "--yes", "go", "by=train")
    assert sorted(sent.out.splitlines()) == sorted(f"{pid} was sent go" for pid in pids[:2])
    until(lambda: found("--all", "--where", "status=failed") == {pids[1]}, "the one that is lost")
    until(lambda: stack.events("parcels", pids[0])[-2:] == ["sent", "done"], "the end of the other one")
    cancelled = stack.regrow("cancel", "--where", "type=parcel and tag.to=oslo", "--yes")
    assert cancelled.out == f"{pids[2]} is told to end\n"
    looked = stack.regrow("retry", pids[1], "--dry-run")
    assert (looked.code, looked.out, "Start again 1 process" in looked.err) == (0, "", True)
    retried = stack.regrow("retry", "--where", "status=failed and tag.to=rome", "--yes", "--app", "parcels")
    assert retried.code == 0, retried.err
    old, new = retried.out.split()
    assert old == pids[1]
    until(lambda: found("--where", "tag.to=rome") == {new}, "the new one")
    assert stack.regrow("signal", new, "go").out == f"{new} was sent go\n"
    wrong = stack.regrow("cancel", pids[0], "--where", "type=parcel")
    assert (wrong.code, "both a process and --where" in wrong.error) == (2, True)
