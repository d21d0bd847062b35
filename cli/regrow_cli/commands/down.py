"""`regrow down`: stop the embedded stack, also for programs that use it. The data stays."""

from __future__ import annotations

import typer

from .. import settings
from ..data_dir import resolve
from ..errors import UsageError
from ..stack import stop_stack


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("down")(down)


def down(context: typer.Context) -> None:
    """Stop the embedded stack. Programs that use it wait for its return; nothing is lost."""
    chosen = settings.of(context)
    if chosen.nats:
        raise UsageError("`regrow down` stops the embedded stack, not a server of yours", hint="leave --nats away")
    stopped = stop_stack(chosen.data)
    folder = resolve(chosen.data).path
    print(f"Stopped. The data is in {folder}." if stopped else f"No stack runs in {folder}.")
