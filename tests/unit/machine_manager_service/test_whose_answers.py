"""Where answers may go: nowhere that the sender's app could not write itself."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from regrow_protocol.messages import Command, Op, Ref
from regrow_service.answers import checked, failure
from regrow_service.consumer import Rejected

GOOD = Command(
    id="p_1.0.1",
    app="my app",
    name="exec",
    reply="regrow.inbox.my=20=app.3.p_1",
    by=Ref("p_1", 0, 1),
    op=Op(1, "command", "machine.exec", "0", "0"),
)
APP = "my=20=app"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reply": ""},
        {"reply": "regrow.reply.c_1.4"},
        {"reply": "regrow.reply.c_1.4", "by": None, "op": None},
    ],
)
def test_an_apps_own_inboxes_clients_and_nobody(changes: dict[str, object]) -> None:
    """These are fine."""
    command = replace(GOOD, **changes)
    assert checked(command, APP) is command


@pytest.mark.parametrize(
    "changes",
    [
        {"app": "other"},
        {"app": ""},
        {"id": ""},
        {"id": ".hidden"},
        {"id": "a..b"},
        {"id": "a."},
        {"id": "a/b"},
        {"id": "a b"},
        {"id": "x" * 201},
        {"reply": "regrow.inbox.other.3.p_1"},
        {"reply": "regrow.inbox.my=20=app.3.p_2"},
        {"reply": "regrow.inbox.my=20=app.*.p_1"},
        {"reply": "regrow.inbox.my=20=app.3.p_1.x"},
        {"reply": "regrow.inbox.my=20=app.3.p_1", "by": None},
        {"reply": "regrow.inbox.my=20=app.3.p_1", "op": None},
        {"reply": "regrow.reply"},
        {"reply": "regrow.reply.>"},
        {"reply": "regrow.reply.a\n.b"},
        {"reply": "regrow.replyx.a"},
        {"reply": "regrow.event.my=20=app.p_1.done"},
        {"reply": "regrow.command.machine.my=20=app.create"},
        {"reply": "$JS.API.STREAM.DELETE.REGROW_EVENTS"},
        {"reply": "$KV.regrow_machines.node.n1"},
    ],
)
def test_anything_else_is_refused(changes: dict[str, object]) -> None:
    """Another app's inbox, another process's, wildcards, other subjects; and what is no id, or of another app."""
    with pytest.raises(Rejected):
        checked(replace(GOOD, **changes), APP)


def test_an_error_keeps_its_code_its_hint_and_its_class() -> None:
    """As data: RegrowErrors by their code, others by their class."""
    found = failure(Rejected("no", hint="do this"), retryable=False)
    assert (found.error, found.message, found.code, found.retryable) == ("Rejected", "no (do this)", "rejected", False)
    found = failure(FileNotFoundError(2, "No such file", "x"))
    assert (found.error, found.code) == ("FileNotFoundError", "exception")
    assert failure(KeyError()).message == "KeyError"
