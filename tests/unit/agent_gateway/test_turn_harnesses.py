"""Harnesses that are run turn by turn: what they are started with, and what is made of what they tell."""

from __future__ import annotations

import json
import shlex
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins
from regrow_agent_gateway.harness import BadSetting, Setting, find
from regrow_agent_gateway.harnesses.codex import toml
from regrow_agent_gateway.harnesses.turns import TurnHarness

TOKEN = "rga_" + 64 * "0"
HARNESSES = ["claude-code", "codex", "opencode"]
PROGRAMS = {"claude-code": "claude", "codex": "codex", "opencode": "opencode"}


def setting(folder: str = "agents/a_1", workdir: str = "/w", **changes: Any) -> Setting:
    known: dict[str, Any] = {
        "id": "a_1", "name": "worker", "session": 2, "resume": True, "url": "http://127.0.0.1:1/agents/a_1",
        "token": TOKEN, "folder": folder, "workdir": workdir,
    }  # fmt: skip
    return Setting(**(known | changes))


def files(name: str, made: Setting) -> dict[str, str]:
    return {file.path.rpartition("/")[2]: file.data.decode() for file in find(name).launch(made).files}


def told(name: str, line: Mapping[str, Any]) -> list[tuple[str, Any]]:
    harness = find(name)
    assert isinstance(harness, TurnHarness)
    return [(each.type, to_builtins(each.data)) for each in harness.told(line)]


# What they are started with -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HARNESSES)
def test_a_token_is_on_no_command_line(name: str) -> None:
    """Other users of the machine see command lines; the token is in variables and in one file of mode 0600."""
    launch = find(name).launch(setting())
    holders = [file.path.rpartition("/")[2] for file in launch.files if TOKEN.encode() in file.data]
    assert holders == ["curl.conf"]
    assert all(file.mode == 0o600 for file in launch.files)
    assert launch.env["REGROW_AGENT_TOKEN"] == TOKEN


@pytest.mark.parametrize("name", HARNESSES)
def test_options_that_it_does_not_know_are_refused(name: str) -> None:
    """Unknown ones, and such as cannot be read."""
    with pytest.raises(BadSetting, match="colour"):
        find(name).launch(setting(options={"colour": "red"}))
    with pytest.raises(BadSetting, match="args"):
        find(name).launch(setting(options={"args": "'open"}))


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
@pytest.mark.parametrize("name", HARNESSES)
def test_scripts_parse(name: str, shell: str) -> None:
    """Each shell that a machine may have reads them, whatever prompt and options hold."""
    made = files(name, setting(system_prompt='It\'s "$HOME"\n`x`', model="a b", options={"args": "--x 'a b'"}))
    for script in ("program", "turn", "tell.sh"):
        try:
            done = subprocess.run([*shell.split(), "-n"], input=made[script].encode(), capture_output=True, timeout=20)
        except FileNotFoundError:
            pytest.skip(f"there is no {shell}")
        assert (done.returncode, done.stderr) == (0, b""), script


@pytest.fixture
def turn(tmp_path: Path) -> Any:
    """Runs a turn with a program of the harness's name and a curl, which both write down what they were given."""

    def run(name: str, message: str, output: str = "", code: int = 0, **changes: Any) -> dict[str, Any]:
        made = setting(workdir=str(tmp_path), **changes)
        folder, bin_ = tmp_path / made.folder, tmp_path / "bin"
        for each in (folder, bin_):
            each.mkdir(parents=True, exist_ok=True)
        for file, text in files(name, made).items():
            (folder / file).write_text(text)
        (tmp_path / "said").write_text(output)
        (tmp_path / "message").write_text(message)
        program = bin_ / PROGRAMS[name]
        program.write_text(
            f'#!/bin/sh\nprintf "%s\\0" "$@" >{tmp_path}/args\ncat >{tmp_path}/stdin\ncat {tmp_path}/said\n'
            f"exit {code}\n"
        )
        curl = bin_ / "curl"
        curl.write_text(
            f'#!/bin/sh\nfor a; do case $a in @*) cat "${{a#@}}" >>{tmp_path}/told ;; esac; done\nprintf 200\n'
            f': >"{folder}/.told"\ncase $a in */output) printf recalled >"{folder}/.told" ;; esac\n'
        )
        for each in (program, curl):
            each.chmod(0o755)
        (tmp_path / "told").write_text("")
        env = {"PATH": f"{bin_}:/usr/bin:/bin", "HOME": str(tmp_path), "REGROW_AGENT_FOLDER": str(folder)}
        env |= {key: value for key, value in find(name).launch(made).env.items() if key.startswith("REGROW")}
        done = subprocess.run(
            ["sh", folder / "turn", tmp_path / "message", "1"], env=env, capture_output=True, timeout=20, text=True
        )
        return {
            "code": done.returncode,
            "args": (tmp_path / "args").read_text().split("\0")[:-1],
            "stdin": (tmp_path / "stdin").read_text(),
            "told": [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()],
            "stderr": done.stderr,
        }

    return run


def test_claude_code_resumes_what_it_has_begun(turn: Any, tmp_path: Path) -> None:
    """The conversation's id is the agent's own; no message is a command to the program."""
    first = turn("claude-code", "/clear", system_prompt="It's you.\n$HOME", model="opus")
    assert (first["code"], first["stdin"]) == (0, "\n/clear")
    assert first["args"][0] == "-p"
    assert first["args"][first["args"].index("--append-system-prompt") + 1] == "It's you.\n$HOME"
    assert first["args"][first["args"].index("--model") + 1] == "opus"
    assert first["args"][-2] == "--session-id"
    kept = tmp_path / ".claude" / "projects" / "-w" / f"{first['args'][-1]}.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}\n")
    assert turn("claude-code", "on")["args"][-2:] == ["--resume", first["args"][-1]]


def test_codex_resumes_what_it_has_begun(turn: Any) -> None:
    """The conversation's id is what it told first, which is nothing for the gateway."""
    begun = '{"type":"thread.started","thread_id":"t-0"}\n{"type":"turn.started"}\n'
    turn("codex", "it was killed before the model did anything", begun)
    lines = (
        f'{begun.replace("t-0", "t-1")}{{"type":"item.started","item":{{}}}}\n{{"type":"turn.completed","usage":{{}}}}'
    )
    first = turn("codex", "do\nit", lines, options={"args": "-c 'x = 1'", "program": "codex --y"})
    assert (first["code"], first["stdin"]) == (0, "do\nit")
    assert first["args"][:2] == ["--y", "exec"]
    del first["args"][0]
    assert (first["args"][0], first["args"][-1]) == ("exec", "-")
    assert "x = 1" in first["args"]
    assert [line["type"] for line in first["told"]] == ["turn.completed"]
    again = turn("codex", "on")["args"]
    assert (again[:2], again[-2:]) == (["exec", "resume"], ["t-1", "-"])


def test_opencode_resumes_what_it_has_begun(turn: Any) -> None:
    """The conversation's id is what it told first."""
    lines = '{"type":"step_start","sessionID":"ses_1","part":{}}\n{"type":"text","sessionID":"ses_1","part":{}}\n'
    first = turn("opencode", 'say "hi"', lines, model="x/y")
    assert (first["code"], first["stdin"]) == (0, 'say "hi"')
    assert first["args"] == ["run", "--format", "json", "--model", "x/y"]
    assert [line["type"] for line in first["told"]] == ["text"]
    assert turn("opencode", "on")["args"][-2:] == ["--session", "ses_1"]


@pytest.mark.parametrize("name", HARNESSES)
def test_a_turn_that_was_cut_off_is_told_what_it_had_called(turn: Any, name: str) -> None:
    """A turn that failed ends its session; the next one hears from the gateway how far it had come, and once only."""
    assert turn(name, "go", code=9)["code"] == 9
    assert turn(name, "go")["stdin"].strip() == "go\n\nrecalled"
    assert turn(name, "go")["stdin"].strip() == "go"


def test_codex_is_given_toml() -> None:
    """Whatever a system prompt holds."""
    text = 'It\'s "you"\n\\ \x7f \u2028 🙂 \x01'
    assert tomllib.loads(f"a = {toml(text)}") == {"a": text}
    made = files("codex", setting(system_prompt=text, options={"config": 'model_provider = "x"\n\n'}))
    command = next(line for line in made["turn"].split("\n") if line.startswith("harness()"))
    words = shlex.split(command)
    config = tomllib.loads("\n".join(words[n + 1] for n, word in enumerate(words) if word == "-c"))
    assert config["developer_instructions"] == text
    assert config["model_provider"] == "x"
    assert config["mcp_servers"]["regrow"]["url"] == "http://127.0.0.1:1/agents/a_1/mcp"


def test_opencode_is_given_settings() -> None:
    """The user's are kept, and what Regrow needs stands beside them."""
    config = {"mcp": {"other": {"type": "local"}}, "instructions": ["x.md"], "provider": {"p": {}}}
    made = setting(system_prompt="Be kind.", options={"config": json.dumps(config)})
    found = json.loads(files("opencode", made)["opencode.json"])
    assert set(found["mcp"]) == {"other", "regrow"}
    assert found["instructions"] == ["x.md", "/w/agents/a_1/system-prompt"]
    assert found["provider"] == {"p": {}}
    with pytest.raises(BadSetting, match="config"):
        find("opencode").launch(setting(options={"config": "[]"}))


# What is made of what they tell ---------------------------------------------------------------------------------------


def test_what_claude_code_tells() -> None:
    """Texts, its own tools, and what this run has used, which is less than the conversation has in all."""
    blocks = [
        {"type": "text", "text": "Hello."},
        {"type": "tool_use", "name": "Bash", "input": {"command": "ls"}},
        {"type": "tool_use", "name": "mcp__regrow__report", "input": {}},
        {"type": "thinking", "thinking": "…"},
    ]
    made = told("claude-code", {"type": "assistant", "message": {"content": blocks}})
    assert made == [("text", {"text": "Hello."}), ("note", {"tool": 'Bash {"command":"ls"}'})]
    counts = {"inputTokens": 11, "outputTokens": 7, "cacheReadInputTokens": 3, "cacheCreationInputTokens": 2}
    result = {
        "type": "result", "subtype": "success", "is_error": False, "result": "Hello.", "total_cost_usd": 1.0,
        "usage": {"input_tokens": 11, "output_tokens": 7},
        "modelUsage": {"m": {"inputTokens": 99, "costUSD": 1.0}},
        "model_usage_since_last_result": {"m": {**counts, "costUSD": 0.5}},
    }  # fmt: skip
    usage = {"model": "m", "input": 11, "output": 7, "cache_read": 3, "cache_write": 2, "cost": 0.5}
    assert told("claude-code", result) == [("usage", usage)]
    older = {key: value for key, value in result.items() if key != "model_usage_since_last_result"}
    assert told("claude-code", older) == [("usage", {"model": "m", "input": 11, "output": 7})]
    failed = {"type": "result", "subtype": "error_during_execution", "is_error": True, "errors": ["No conversation"]}
    assert told("claude-code", failed) == [("note", {"error": "No conversation"})]


def test_what_codex_tells() -> None:
    """Texts, its own tools, and what a turn has used without counting twice what was cached."""
    items = [
        {"type": "agent_message", "text": "Hello."},
        {"type": "mcp_tool_call", "server": "regrow", "tool": "report", "arguments": {}},
        {"type": "command_execution", "command": "ls"},
    ]
    made = [each for item in items for each in told("codex", {"type": "item.completed", "item": item})]
    assert made == [("text", {"text": "Hello."}), ("note", {"tool": "shell ls"})]
    usage = {"input_tokens": 44, "cached_input_tokens": 12, "output_tokens": 28}
    made = told("codex", {"type": "turn.completed", "usage": usage})
    assert made == [("usage", {"input": 32, "output": 28, "cache_read": 12})]
    assert told("codex", {"type": "turn.failed", "error": {"message": "no"}}) == [("note", {"error": "no"})]


def test_what_opencode_tells() -> None:
    """Texts, its own tools, and what each step has used."""
    assert told("opencode", {"type": "text", "part": {"text": "Hello."}}) == [("text", {"text": "Hello."})]
    tool = {"tool": "bash", "state": {"input": {"command": "ls"}}}
    assert told("opencode", {"type": "tool_use", "part": tool}) == [("note", {"tool": 'bash {"command":"ls"}'})]
    assert told("opencode", {"type": "tool_use", "part": {"tool": "regrow_report"}}) == []
    tokens = {"input": 11, "output": 7, "reasoning": 2, "cache": {"read": 3, "write": 1}}
    usage = {"input": 11, "output": 9, "cache_read": 3, "cache_write": 1, "cost": 0.25}
    assert told("opencode", {"type": "step_finish", "part": {"tokens": tokens, "cost": 0.25}}) == [("usage", usage)]


@pytest.mark.parametrize("name", HARNESSES)
@pytest.mark.parametrize(
    "line",
    [
        {},
        {"type": "assistant", "message": 1},
        {"type": "result", "usage": [], "modelUsage": None, "subtype": "success"},
        {"type": "item.completed", "item": "x"},
        {"type": "turn.completed", "usage": None},
        {"type": "step_finish", "part": {"tokens": {"input": "many"}}},
        {"type": "text", "part": None},
        {"type": "error"},
        {"type": "turn.failed"},
    ],
)
def test_what_is_not_understood_makes_no_trouble(name: str, line: dict[str, Any]) -> None:
    """Programs change what they tell; an agent does not stop for that."""
    assert all(type_ == "note" for type_, _ in told(name, line))
