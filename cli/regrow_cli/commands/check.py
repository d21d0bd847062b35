"""`regrow check`: what in the bodies of a program would not replay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import exit_codes


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check")(check)


def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Python files; folders for all in them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of findings.")] = False,
) -> None:
    """Look for what would not replay in process bodies: clocks, randomness, I/O, threads, module state.

    Nothing is run. `# regrow: ignore[CODE]` on a line suppresses a finding. Exits with 14 when there are errors.

    \b
    regrow check survey.py
    regrow check src/ --json
    """
    from regrow.check import check_file
    from regrow.errors import ProgramError

    from ..listing import print_json

    findings = []
    for path in _files(files):
        try:
            findings += check_file(path)
        except OSError as error:
            raise ProgramError(
                f"{path} cannot be read: {error.strerror}", hint="give Python files or folders"
            ) from error
    if as_json:
        print_json(findings)
    for finding in [] if as_json else findings:
        print(finding)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(exit_codes.FOUND_SOMETHING)


def _files(given: list[Path]) -> list[Path]:
    return [path for each in given for path in (sorted(each.rglob("*.py")) if each.is_dir() else [each])]
