"""`regrow replay`: fold a recorded history here and compare."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import settings
from ..settings import Settings

if TYPE_CHECKING:
    from regrow.folding import Folding
    from regrow.history import Comparison, History

SHOWN = 10
_WHAT = {"other": "is another", "missing": "is not recorded", "extra": "is recorded, but not sent now"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("replay")(replay)


def replay(
    context: typer.Context,
    pid: Annotated[str, typer.Argument(metavar="PID|NAME|FILE", help="A process, or a file of `regrow export`.")],
    until: Annotated[int | None, typer.Option("--until", metavar="SEQ", help="The last input to apply.")] = None,
    pdb: Annotated[bool, typer.Option("--pdb", help="Stop in the body, under the debugger.")] = False,
    program: Annotated[str, typer.Option("--program", help="The program [the one it was started with].")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Fold the recorded inbox of a process with its program, here, and check that it sends what is recorded.

    Nothing is sent and no step is run. Exits with 9 when the program as it is now does something else than recorded.
    --pdb stops where it does so; else in the turn of the input --until; else at the first line of the body.

    \b
    regrow replay p_01m7
    regrow replay p_01m7 --until 57 --pdb
    regrow replay old-run.json --program survey.py
    """
    chosen = settings.of(context)
    asyncio.run(_replay(chosen, pid, app, program, until, pdb, as_json))


async def _replay(
    chosen: Settings, given: str, app: str, program: str, until: int | None, pdb: bool, as_json: bool
) -> None:
    from contextlib import nullcontext

    from regrow import history as histories
    from regrow.program import resolve

    from ..access import connected
    from ..errors import UsageError
    from ..folds import debug, fold_elsewhere
    from ..resolve import find

    from_file = _is_file(given)
    async with nullcontext() if from_file else connected(chosen) as bus:
        if bus is None:
            history = _from_file(given)
        else:
            found = await find(bus, given, app=app)
            history = await histories.read(bus, found.app, found.pid, found.partitions)
        target = resolve(program) if program else history.program.target if history.program else ""
        if not target:
            raise UsageError(f"It is not known which program {history.pid} belongs to", hint="name it with --program")
        if until is not None and until < history.inputs[0].seq:
            raise UsageError(f"{history.pid} begins at input {history.inputs[0].seq}")
        if pdb:
            await debug(history, target, until=until)
            return
        answer = await fold_elsewhere(history, target, until=until)
        assert answer.folding is not None
        sent = answer.folding.sent
        recorded = (
            histories.recorded_events(history) if bus is None else await histories.recorded_outputs(bus, history, sent)
        )
    if bus is None:  # a file has the events only
        answer.folding.sent = [each for each in sent if each.to == "event"]
    partly = until is not None or bool(answer.folding.diverged)
    comparison = histories.compare(answer.folding, recorded, floor=history.floor, partly=partly)
    _report(history, target, answer.build, answer.folding, comparison, as_json)


def _is_file(given: str) -> bool:
    return Path(given).suffix == ".json" or Path(given).is_file()


def _from_file(given: str) -> History:
    from regrow import history as histories

    try:
        return histories.decode(Path(given).read_bytes())
    except OSError as error:
        raise histories.BadHistory(
            f"{given} cannot be read: {error.strerror}", hint="give a file of `regrow export`"
        ) from error


def _report(history: History, target: str, build: str, folding: Folding, comparison: Comparison, as_json: bool) -> None:
    from regrow.errors import NondeterminismError

    from ..listing import print_json, short

    differences = comparison.differences
    if as_json:
        print_json(
            {
                "pid": history.pid, "type": history.type, "program": target,
                "build": build, "recorded_build": history.build,
                "inputs": folding.inputs, "operations": folding.state.operations, "status": folding.state.status,
                "equal": comparison.equal, "expired": comparison.expired, "awaited": comparison.awaited,
                "differences": differences, "diverged": folding.diverged, "at": folding.at,
            }
        )  # fmt: skip
    else:
        other = "" if build == history.build else f" (build {build}; recorded with {history.build})"
        print(f"{history.type} {history.pid} with {target}{other}")
        print(f"{folding.inputs} inputs, {folding.state.operations} operations, {folding.state.status}")
        notes = [f"{comparison.awaited} not recorded yet"] if comparison.awaited else []
        notes += [f"{comparison.expired} replies no longer kept"] if comparison.expired else []
        equal = "outputs, all equal" if not differences and not folding.diverged else "outputs equal"
        print(f"{comparison.equal} {equal}" + "".join(f"; {note}" for note in notes))
        for each in differences[:SHOWN]:
            print(f"  {each.id}" + (f" (input {each.seq})" if each.seq else "") + f" {_WHAT[each.what]}")
            print(f"    recorded  {short(each.recorded, 200)}\n    now       {short(each.sent, 200)}")
    if folding.diverged:
        raise NondeterminismError(folding.diverged, hint=folding.hint)
    if differences:
        raise NondeterminismError(
            f"{history.pid}: {len(differences)} outputs are not the recorded ones; the first is {differences[0].id}",
            hint="has the program been changed since? `regrow replay --pdb` stops in it",
        )
