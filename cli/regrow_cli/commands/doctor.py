"""`regrow doctor`: what is right and wrong with this installation, and what to do about it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from .. import exit_codes, settings

_MARK = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}
_COLOUR = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of checks.")] = False,
) -> None:
    """Check the installation; changes nothing. Exits with 14 when something fails."""
    from ..doctor import examine

    checks = asyncio.run(examine(settings.of(context)))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(checks), indent=2).decode())
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            mark = typer.style(_MARK[check.status], fg=_COLOUR[check.status])
            typer.echo(f"{mark}  {check.name:{width}}  {check.detail}")
            if check.hint:
                typer.echo(f"{'':{width + 6}}  hint: {check.hint}")
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(exit_codes.FOUND_SOMETHING)
