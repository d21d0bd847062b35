"""What a user can get wrong with machines, and machines that nobody reaches."""

from __future__ import annotations

import asyncio

import pytest
from conftest_cli import Stack
from msgspec import Raw
from regrow_cli import stopping_machines, using_machines
from regrow_cli.machine_gc import look
from regrow_cli.main import main
from regrow_protocol import messages as m
from regrow_protocol import streams
from regrow_protocol.bus import Bus
from regrow_protocol.images import Image
from regrow_protocol.machines import MachineRecord, SnapshotRecord
from regrow_protocol.messages import ProcessRecord, Ref
from regrow_protocol.server import NatsServer

pytestmark = [pytest.mark.xdist_group("cli-machines"), pytest.mark.timeout(120)]

NOBODY = "m_" + "0" * 26
OWNER = "p_" + "1" * 26


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (["exec", NOBODY, "--", "true"], 5, f"There is no machine {NOBODY}"),
        (["exec", "nobody", "--app", "shop", "--", "true"], 5, "There is no machine nobody in app shop"),
        (["exec", "box"], 2, "Missing argument"),
        (["exec", "box", "--env", "X", "--", "true"], 2, "'X' is no variable"),
        (["exec", "box", "--timeout", "-1", "--", "true"], 2, "timeout"),
        (["exec", "box", "--", ""], 2, "a command must have characters"),
        (["ssh", "nobody"], 5, "There is no machine nobody"),
        (["cp", "a", "b"], 2, "Neither is a machine"),
        (["cp", "a:b", "c:d"], 2, "Both are machines"),
        (["cp", "nobody:x", "."], 5, "There is no machine nobody"),
        (["snapshot", "nobody"], 5, "There is no machine nobody"),
        (["snapshots", "rm", "nobody"], 5, "There is no snapshot nobody"),
        (["snapshots", "--json", "rm", "x"], 2, "stand behind it"),
        (["fork", "nobody"], 5, "There is no machine nobody"),
        (["fork", "p_01m7"], 2, "needs --at"),
        (["fork", "box", "-n", "0"], 2, "one or more"),
        (["fork", "p_01m7", "--at", "1", "-n", "2"], 2, "--number and --wait are of machines"),
        (["machines", "stop"], 2, "Say which machines"),
        (["machines", "stop", "nobody"], 5, "There is no machine nobody"),
        (["machines", "--json", "stop", "x"], 2, "stand behind it"),
        (["machines", "gc", "--older-than", "soon"], 2, "'soon' is no time span"),
    ],
)
def test_an_error_is_one_line_and_a_hint(
    stack: Stack,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: list[str],
    code: int,
    said: str,
) -> None:
    """Nothing on standard output; what went wrong, and what to do about it, on standard error."""
    for name, value in stack.environment.items():
        monkeypatch.setenv(name, value)
    assert main(line) == code
    out, err = capsys.readouterr()
    error, *hints = err.splitlines()
    assert (out, said in error) == ("", True), error
    assert all(hint.startswith("hint: ") for hint in hints)
    assert len(hints) <= 1


def _machine(**more: object) -> MachineRecord:
    given = {"id": NOBODY, "app": "shop", "command": "c", "image": Image("local"), "state": "ready", "node": "away"}
    return MachineRecord(**{**given, **more})  # type: ignore[arg-type]


async def _put(url: str, **records: object) -> None:
    async with await Bus.connect(url, name="test") as bus:
        await streams.ensure(bus)
        for key, record in records.items():
            kind, _, name = key.partition("_")
            if kind == "process":
                await bus.kv("regrow_processes").put(name, m.encode(record))  # type: ignore[arg-type]
            else:
                await bus.kv("regrow_machines").put(f"{kind}.{name}", m.encode(record))  # type: ignore[arg-type]


async def test_nobody_reaches_it(
    private_server: NatsServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose node has no machine-manager is listed so; what needs one says so; stopping it waits for one."""
    url = private_server.url
    snapshot = SnapshotRecord(id="s_x", app="shop", machine=NOBODY, backend="local", image=Image("local"), node="away")
    await _put(url, **{f"machine_{NOBODY}": _machine(name="box"), "snapshot_s_x": snapshot})
    monkeypatch.setattr(using_machines, "PATIENCE", 0.2)
    monkeypatch.setattr("regrow_cli.commands.machines.FRESH", 0.2)
    monkeypatch.setattr(stopping_machines.stop, "__kwdefaults__", {"patience": 0.2})
    monkeypatch.setattr(stopping_machines.drop, "__kwdefaults__", {"patience": 0.2})

    async def run(*line: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, ["--nats", url, *line])
        out, err = capsys.readouterr()
        return code, out, err

    assert "no-manager" in (await run("machines"))[1]
    for line in (["exec", "box", "--", "true"], ["cp", "box:x", "."], ["fork", "box"], ["snapshots", "rm", "s_x"]):
        code, out, err = await run(*line)
        assert (code, out, "No machine-manager of node away runs" in err) == (5, "", True), line
    code, out, _ = await run("machines", "stop", "box")
    assert (code, "will be stopped: no machine-manager of its node away" in out) == (0, True)
    async with await Bus.connect(url, name="test") as bus:
        waiting = await bus.history(streams.COMMANDS, f"regrow.command.machine.shop.node.away.{NOBODY}")
    assert [m.decode(each.data, m.Command).name for each in waiting] == ["stop"]


async def test_a_machine_that_waits_for_room(
    private_server: NatsServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not there yet: nothing can be done on it."""
    await _put(private_server.url, **{f"machine_{NOBODY}": _machine(state="requested", node="")})
    code = await asyncio.to_thread(main, ["--nats", private_server.url, "exec", NOBODY, "--", "true"])
    assert (code, "waits for room" in capsys.readouterr().err) == (5, True)


async def test_machines_whose_owner_has_ended(private_server: NatsServer) -> None:
    """They are garbage, and those of a running process, a later incarnation or nobody are not."""

    def process(status: str) -> ProcessRecord:
        return ProcessRecord(pid=OWNER, app="shop", type="t", build="b", status=status, seq=1)  # type: ignore[arg-type]

    owned = {
        "machine_m_1": _machine(id="m_1", owner=Ref(OWNER, 0, 1)),
        "machine_m_2": _machine(id="m_2", owner=Ref(OWNER, -1, 0)),
        "machine_m_3": _machine(id="m_3"),
        "machine_m_4": _machine(id="m_4", owner=Ref(OWNER, 1, 1)),
        "machine_m_5": _machine(id="m_5", owner=Ref("p_" + "2" * 26, 0, 1)),
        "machine_m_6": _machine(id="m_6", owner=Ref(OWNER, 0, 1), state="stopping"),
        "machine_m_7": _machine(id="m_7", state="failed", data=Raw(b"null")),
    }
    await _put(private_server.url, **{f"process_{OWNER}": process("running")}, **owned)
    async with await Bus.connect(private_server.url, name="test") as bus:
        found = await look(bus, older=0.0, with_snapshots=False)
        assert [each.id for each in found.all] == ["m_7"]
        await bus.kv("regrow_processes").put(OWNER, m.encode(process("failed")))
        found = await look(bus, older=3600.0, with_snapshots=False)
        assert [(each.what, each.id) for each in found.all] == [("machine", "m_1"), ("machine", "m_2")]
        assert all("is failed" in each.why for each in found.all)
