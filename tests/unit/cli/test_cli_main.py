"""The command line: common options anywhere, errors in one place with their exit codes."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import ClassVar

import pytest
import typer
from regrow_cli import commands, exit_codes, main, settings
from regrow_cli.errors import UsageError
from regrow_cli.settings import Settings
from regrow_protocol.errors import AccessDenied, RegrowError, Unreachable

Probe = list[Settings]


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Probe:
    """A command `probe` that notes its settings, and fails with the exception in `Raise.error`."""
    monkeypatch.setattr(Raise, "error", None)
    monkeypatch.delenv("REGROW_DEBUG", raising=False)
    seen: Probe = []
    app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback()(main.common)

    @app.command("other")
    def _() -> None: ...

    @app.command("probe")
    def _(context: typer.Context, words: list[str] | None = None) -> None:
        """Note."""
        seen.append(settings.of(context))
        if Raise.error is not None:
            raise Raise.error

    monkeypatch.setattr(main, "app", app)
    return seen


class Raise:
    error: ClassVar[BaseException | None] = None


@pytest.mark.parametrize(
    "line",
    [
        ["--data", "/d", "--nats", "nats://x", "--debug", "probe"],
        ["probe", "--data", "/d", "--nats", "nats://x", "--debug"],
        ["--debug", "probe", "--data=/d", "--nats=nats://x"],
    ],
)
def test_common_options_stand_anywhere(probe: Probe, line: list[str]) -> None:
    """Before and after the command they mean the same."""
    assert main.main(line) == 0
    assert probe == [Settings(debug=True, nats="nats://x", data=Path("/d"))]


def test_what_follows_two_dashes_is_left_alone() -> None:
    """After `--` nothing is an option."""
    assert settings.to_front(["run", "f.py", "--debug", "--", "--data", "x"]) == [
        "--debug", "run", "f.py", "--", "--data", "x",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["nope"], "nope"),
        (["probe", "--nope"], "--nope"),
        (["probe", "--data"], "--data needs a value"),
    ],
)
def test_wrong_usage(probe: Probe, capsys: pytest.CaptureFixture[str], line: list[str], said: str) -> None:
    """A wrong command line is one line, a hint where to read, and 2."""
    assert main.main(line) == exit_codes.USAGE
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert said in error
    assert re.fullmatch(r"hint: regrow.* --help", hint)


def test_nothing_asked_shows_help(probe: Probe, capsys: pytest.CaptureFixture[str]) -> None:
    """`regrow` alone explains itself."""
    assert main.main([]) == 0
    assert "probe" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code"),
    [(Unreachable("Nobody\nanswers", hint="start it"), 3), (AccessDenied("no", hint="start it"), 4)],
)
def test_error_is_a_line_and_a_hint(
    probe: Probe, capsys: pytest.CaptureFixture[str], error: RegrowError, code: int
) -> None:
    """An error of Regrow is one line and its hint, with the exit code of its own code, and no traceback."""
    Raise.error = error
    assert main.main(["probe"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["error: " + error.message.replace("\n", " | "), "hint: start it"]


@pytest.mark.parametrize("error", [Unreachable("no"), ZeroDivisionError("by zero")])
def test_debug_shows_the_traceback(
    probe: Probe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """With --debug, or REGROW_DEBUG, the traceback comes first."""
    Raise.error = error
    main.main(["probe"])
    assert "Traceback" not in capsys.readouterr().err
    main.main(["probe", "--debug"])
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("REGROW_DEBUG", "1")
    main.main(["probe"])
    assert "Traceback" in capsys.readouterr().err


def test_defect(probe: Probe, capsys: pytest.CaptureFixture[str]) -> None:
    """An exception that is no error of Regrow is called a defect."""
    Raise.error = ZeroDivisionError("by zero")
    assert main.main(["probe"]) == exit_codes.DEFECT
    assert "a defect in Regrow: ZeroDivisionError: by zero" in capsys.readouterr().err


def test_interrupted(probe: Probe) -> None:
    """Ctrl-C is 130."""
    Raise.error = KeyboardInterrupt()
    assert main.main(["probe"]) == exit_codes.INTERRUPTED


def test_exit_of_a_command(probe: Probe) -> None:
    """A command chooses its exit code with `typer.Exit`."""
    Raise.error = typer.Exit(14)
    assert main.main(["probe"]) == 14


def test_exit_codes_are_documented() -> None:
    """Every exit code that an error leads to stands in the table, and each code of the table once."""
    table = [int(code) for code in re.findall(r"^\| (\d+) \|", exit_codes.__doc__ or "", re.MULTILINE)]
    assert len(table) == len(set(table))
    assert set(exit_codes.BY_ERROR.values()) <= set(table)
    assert exit_codes.exit_code(RegrowError("?")) == exit_codes.FAILED
    assert exit_codes.exit_code(UsageError("?")) == exit_codes.USAGE


def test_codes_in_the_table_exist() -> None:
    """Every error code that has an exit code is the code of some error."""
    for module in (
        "regrow.history",
        "regrow_protocol.server",
        "regrow_service.dead",
        "regrow_service.settings",
        "regrow_cli.asking_agents",
        "regrow_cli.endpoints",
        "regrow_cli.limits",
        "regrow_cli.schedules",
        "regrow_cli.using_machines",
        "regrow_cli.resolve",
    ):
        importlib.import_module(module)
    known = {cls.code for cls in _all_errors(RegrowError)}
    assert set(exit_codes.BY_ERROR) <= known


def _all_errors(cls: type[RegrowError]) -> set[type[RegrowError]]:
    return {cls}.union(*(_all_errors(each) for each in cls.__subclasses__()))


@pytest.mark.parametrize("name", commands.MODULES)
def test_commands_register(name: str) -> None:
    """Every module of commands registers what it is named for, with a help text."""
    app = typer.Typer()
    importlib.import_module(f"regrow_cli.commands.{name}").register(app)
    names = [command.name for command in app.registered_commands] + [group.name for group in app.registered_groups]
    assert name in names
    assert all(command.callback and command.callback.__doc__ for command in app.registered_commands)
