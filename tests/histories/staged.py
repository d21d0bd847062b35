"""Runs of programs that use services, staged: the folds are real, what services say is written here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "unit/sdk"))

from agent_world import Services
from fold_world import World
from folded import Input
from msgspec import Raw
from regrow import ProcessType
from regrow_protocol.agents import Entry, Page


def agents(type_: ProcessType[..., Any], args: tuple[Any, ...]) -> dict[str, list[Input]]:
    """Tools, a harness that dies twice, one that never comes, one that is cancelled, a conversation, an end."""
    world = World("recorded_programs")
    services = Services(world)
    services.absent.add("never")
    pid = world.start(type_, *args)
    services.settle()
    ids = {enrol.name: id_ for id_, (_, enrol) in services.agents.items()}
    author = ids["author"]
    assert services.ask(pid, author, "history_note", "1", text="four").error is None
    assert services.ask(pid, author, "finish", "2", summery="wrong").error is not None
    services.pages = [Page([Entry(id="1", type="text", seq=4)]), Page([Entry(id="2", type="ended", seq=9)], ended=True)]
    assert services.ask(pid, author, "cut", "3").error is None
    services.news(pid, ids["guest"], "stalled", seconds=60)
    for _ in range(2):
        harness = next(id_ for id_, command in services.running.items() if author.encode() in bytes(command.args))
        services.end(harness, 9, b"boom")
        services.settle(timers=True, until=world.clock + 5)
    assert "mourned" in world.types(pid)
    reply = services.call(pid, author, "finish", "4", summary="late", review={"name": "j", "size": 2})
    assert services.call(pid, author, "finish", "4", summary="again") == reply
    services.settle(timers=True)
    assert world.processes[pid].ended
    world.check()
    return {
        each: [Input(turn.seq, turn.time, Raw(turn.message)) for turn in history]
        for each, history in world.histories.items()
    }


STAGED: dict[str, Callable[[ProcessType[..., Any], tuple[Any, ...]], dict[str, list[Input]]]] = {"agents": agents}
