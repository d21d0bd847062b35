"""The `regrow` command.

Errors end here: one line and a hint on stderr, an exit code of `exit_codes`; tracebacks with --debug.
Each command is a module of `regrow_cli.commands` with `register(app)`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from regrow_protocol.errors import RegrowError

from . import exit_codes, settings
from .commands import MODULES
from .settings import Settings

# Typer has exported click's own classes, and by now its own copies of them: what a wrong command line raises is found
# through the one that it has always exported.
_WrongUsage: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="regrow",
    help="Agents fail; their processes grow back.\n\n"
    "The options below may stand before or after the command. Exit codes: see the CLI reference.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(importlib.metadata.version("regrow"))
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", envvar="REGROW_DEBUG", help="Show tracebacks of errors.")] = False,
    nats: Annotated[str, typer.Option("--nats", metavar="URL", help="The NATS server; default: REGROW_NATS_URL.")] = "",
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Folder of the embedded stack [REGROW_HOME, ~/.regrow]."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del version  # handled by its callback
    context.obj = Settings(debug=debug, nats=nats, data=data)


for _name in MODULES:
    importlib.import_module(f"regrow_cli.commands.{_name}").register(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("REGROW_DEBUG", "") not in ("", "0", "false")
    try:
        return app(args=settings.to_front(given), prog_name="regrow", standalone_mode=False) or exit_codes.OK
    except _WrongUsage as error:
        return _usage(error)
    except RegrowError as error:
        if debug:
            traceback.print_exc()
        return fail(error.message, error.hint, exit_codes.exit_code(error))
    except (KeyboardInterrupt, typer.Abort):
        print(file=sys.stderr)
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.OK
    except Exception as error:  # noqa: BLE001 - the last place where it can be told
        if debug:
            traceback.print_exc()
        hint = "run it again with --debug and report what it shows"
        return fail(f"a defect in Regrow: {type(error).__name__}: {error}", hint, exit_codes.DEFECT)


def fail(message: str, hint: str, code: int) -> int:
    """Say what went wrong, in one line each; returns `code`."""
    print("error: " + " | ".join(line.strip() for line in message.splitlines() if line.strip()), file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return code


def _usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    message: str = getattr(error, "format_message", error.__str__)()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message)
        return exit_codes.OK
    command = context.command_path if context is not None else "regrow"
    return fail(message, f"{command} --help", exit_codes.USAGE)


if __name__ == "__main__":
    sys.exit(main())
