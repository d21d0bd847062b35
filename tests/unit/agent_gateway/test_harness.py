"""What a harness makes of an agent's settings: files, a command and variables."""

from __future__ import annotations

import subprocess

import pytest
from regrow_agent_gateway.harness import (
    VARIABLES,
    BadSetting,
    Setting,
    UnknownHarness,
    find,
    spooled,
    started,
    variables,
)


def setting(**changes: object) -> Setting:
    known: dict[str, object] = {
        "id": "a_1", "name": "worker", "session": 2, "resume": True, "url": "http://127.0.0.1:1/agents/a_1",
        "token": "rga_x", "folder": ".regrow/agents/a_1", "workdir": "/w",
    }  # fmt: skip
    return Setting(**(known | changes))  # type: ignore[arg-type]


def test_a_program_is_started_by_run_sh_in_the_agents_folder() -> None:
    """Its files are all in the agent's folder, and arguments are arguments whatever they hold."""
    made = started(setting(system_prompt="Be kind."), ["say", "it's $HOME", ""])
    files = {file.path.removeprefix(".regrow/agents/a_1/"): file for file in made.files}
    assert set(files) == {"run.sh", "program", "system-prompt"}
    assert files["program"].data == b"""exec say 'it'"'"'s $HOME' ''\n"""
    assert all(file.mode == 0o600 for file in made.files)
    assert (made.session, made.folder, made.command) == (2, ".regrow/agents/a_1", "exec sh .regrow/agents/a_1/run.sh")


def test_variables_are_the_documented_ones_and_nobody_changes_them() -> None:
    """The user's variables come before the harness's, and the agent's own before all."""
    own = variables(setting())
    assert set(own) | {"REGROW_AGENT_FOLDER"} == set(VARIABLES)
    env = {"REGROW_AGENT_TOKEN": "other", "A": "user", "B": "user"}
    made = started(setting(env=env), "true", env={"A": "harness", "C": "harness"})
    assert made.env == {"A": "user", "B": "user", "C": "harness"} | own
    assert (own["REGROW_AGENT_RESUME"], own["REGROW_AGENT_SESSION"]) == ("1", "2")


def test_a_spooled_program_brings_its_driver() -> None:
    """The driver is the program; the turn is the harness's."""
    files = {file.path.rpartition("/")[2]: file.data for file in spooled(setting(), "cat $1").files}
    assert set(files) == {"run.sh", "program", "driver.sh", "turn"}
    assert files["turn"] == b"cat $1"


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
@pytest.mark.parametrize("script", ["run.sh", "driver.sh"])
def test_scripts_parse(shell: str, script: str) -> None:
    """Each shell that a machine may have reads them."""
    files = {file.path.rpartition("/")[2]: file.data for file in spooled(setting(), "true").files}
    try:
        done = subprocess.run([*shell.split(), "-n"], input=files[script], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"{shell} is not installed")
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_command_harness_needs_its_command() -> None:
    """And takes no other option; an unknown harness says which there are."""
    command = find("command")
    made = command.launch(setting(options={"command": "./agent --loud"}))
    assert made.files[1].data == b"./agent --loud\n"
    for options in ({}, {"command": "  "}, {"command": "x", "colour": "red"}):
        with pytest.raises(BadSetting):
            command.launch(setting(options=options))
    with pytest.raises(UnknownHarness, match="nosuch") as caught:
        find("nosuch")
    assert "command" in str(caught.value)


def test_pi_is_started_with_its_extension_and_resumed() -> None:
    """Its conversation and extension are in the agent's folder; its user's login is left to it without own models."""
    pi = find("pi")
    first = pi.launch(setting(session=1, resume=False, model="m", system_prompt="Be kind."))
    files = {file.path.removeprefix(".regrow/agents/a_1/"): file.data for file in first.files}
    folder = "/w/.regrow/agents/a_1"
    assert set(files) == {"run.sh", "program", "system-prompt", "regrow.ts"}
    assert files["program"].decode().split() == [
        "exec", "pi", "-e", f"{folder}/regrow.ts", "--session-dir", f"{folder}/sessions", "--model", "m",
        "--append-system-prompt", f"{folder}/system-prompt",
    ]  # fmt: skip
    assert "PI_CODING_AGENT_DIR" not in first.env
    options = {"program": "npx pi", "args": "--thinking high", "models": "{}", "deliver": "followUp"}
    again = pi.launch(setting(options=options))
    files = {file.path.removeprefix(".regrow/agents/a_1/"): file.data for file in again.files}
    assert files["program"].startswith(b"exec npx pi -e ")
    assert files["program"].endswith(b" -c --thinking high\n")
    assert files["pi/models.json"] == b"{}"
    assert (again.env["PI_CODING_AGENT_DIR"], again.env["REGROW_PI_DELIVER"]) == (f"{folder}/pi", "followUp")


@pytest.mark.parametrize(
    "options",
    [{"models": "[]"}, {"models": "{"}, {"deliver": "soon"}, {"args": "'"}, {"program": '"'}, {"colour": "x"}],
)
def test_pi_refuses_options_that_it_could_not_be_started_with(options: dict[str, str]) -> None:
    """Before anything is made."""
    with pytest.raises(BadSetting):
        find("pi").launch(setting(options=options))
