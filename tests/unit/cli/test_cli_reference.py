"""The reference and the command say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from regrow_cli import exit_codes
from regrow_cli.main import app

REFERENCE = (Path(__file__).parents[3] / "docs" / "reference" / "cli.md").read_text()
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_is_documented(name: str) -> None:
    """Each has a place in the reference, and a help text with a first line and, where it takes something, examples."""
    assert re.search(rf"`{name}\b", REFERENCE), f"{name} is not in docs/reference/cli.md"
    command = COMMANDS[name]
    assert command.help
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    if arguments:
        assert f"regrow {name} " in command.help


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_options_are_documented(name: str) -> None:
    """What an option is for stands in the help."""
    for parameter in COMMANDS[name].params:
        assert parameter.name == "help" or getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_exit_codes_are_documented() -> None:
    """The table in the reference is the one in the code, and has every code that there is."""
    table = dict(re.findall(r"^\| +(\d+) \| (.*) \|$", exit_codes.__doc__ or "", re.M))
    documented = dict(re.findall(r"^\| (\d+) \| (.*) \|$", REFERENCE, re.M))
    assert documented.keys() == table.keys()
    assert {str(code) for code in exit_codes.BY_ERROR.values()} <= table.keys()
