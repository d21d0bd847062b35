"""OpenAI Codex, a run of `codex exec` for each message.

The conversation's id is what it tells first; later turns are `codex exec resume ID`. Login and settings are the
machine user's (`CODEX_HOME`, keys by `env`); the option `config` has further ones, a line `key = value` of TOML each.
It asks nobody and is in no sandbox (option `sandbox`, as its `sandbox_mode`): the agent's machine is the sandbox.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from regrow_protocol.agents import Usage

from ..harness import Setting
from .turns import PATIENCE, SERVER, Told, TurnHarness, count, mapping, noted, said, used

# Codex writes down what it has begun some 20 ms after it has said so, and refuses to resume what it has not written:
# a conversation counts from what the model does first.
TURN = """id=$(conversation) begun=
harness() {{ {command} ${{id:+resume}} {args} ${{id:+"$id"}} -; }}
worth() {{
    case $line in
    '{{"type":"thread.started"'*)
        begun=${{line#*'"thread_id":"'}}
        begun=${{begun%%\\"*}}
        return 1
        ;;
    *'"type":"error"'* | '{{"type":"turn.failed"'*) return 0 ;;
    '{{"type":"item.'* | '{{"type":"turn.completed"'*) ;;
    *) return 1 ;;
    esac
    keep_conversation "$begun"
    begun=
    case $line in '{{"type":"item.started"'* | '{{"type":"item.updated"'*) return 1 ;; esac
}}
"""


class CodexHarness(TurnHarness):
    """Runs `codex`."""

    name = "codex"
    program = "codex"
    how = "npm install -g @openai/codex"
    known_options = frozenset({"config", "sandbox"})

    def turn(self, setting: Setting) -> str:
        """`codex exec`, anew or resumed."""
        mcp = f"mcp_servers.{SERVER}"
        config = [
            'approval_policy = "never"',
            f"sandbox_mode = {toml(setting.options.get('sandbox', 'danger-full-access'))}",
            f"{mcp}.url = {toml(f'{setting.url}/mcp')}",
            f'{mcp}.bearer_token_env_var = "REGROW_AGENT_TOKEN"',
            f'{mcp}.env_http_headers = {{ "Regrow-Session" = "REGROW_AGENT_SESSION" }}',
            f'{mcp}.default_tools_approval_mode = "approve"',
            f"{mcp}.required = true",
            f"{mcp}.startup_timeout_sec = 60",
            f"{mcp}.tool_timeout_sec = {PATIENCE}",
            "check_for_update_on_startup = false",
            "features.daemon_auto_start = false",
            "features.in_app_updates = false",
        ]
        if setting.system_prompt:
            config.append(f"developer_instructions = {toml(setting.system_prompt)}")
        config += filter(None, map(str.strip, setting.options.get("config", "").splitlines()))
        args = ["--json", "--skip-git-repo-check"]
        if setting.model:
            args += ["-m", setting.model]
        for line in config:
            args += ["-c", line]
        program = [*self.words(setting, "program", self.program), "exec"]
        return TURN.format(command=shlex.join(program), args=shlex.join([*args, *self.words(setting, "args")]))

    def told(self, line: Mapping[str, Any]) -> list[Told]:
        """Messages of the model, its own tools, and at the end what the turn has used."""
        kind = line.get("type")
        if kind == "item.completed":
            return _item(mapping(line.get("item")))
        if kind == "turn.completed":
            return _usage(mapping(line.get("usage")))
        if kind == "turn.failed":
            return [noted("error", str(mapping(line.get("error")).get("message")))]
        if kind == "error":
            return [noted("error", str(line.get("message")))]
        return []


def toml(text: str) -> str:
    """A basic string of TOML: that of JSON, but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _item(item: Mapping[str, Any]) -> list[Told]:
    kind = item.get("type")
    if kind == "agent_message":
        return said(item.get("text"))
    if kind == "error":
        return [noted("error", str(item.get("message")))]
    if kind == "command_execution":
        return [noted("tool", "shell", str(item.get("command")))]
    if kind == "file_change":
        return [noted("tool", "edit", item.get("changes"))]
    if kind == "web_search":
        return [noted("tool", "web_search", str(item.get("query")))]
    if kind == "mcp_tool_call" and item.get("server") != SERVER:
        return [noted("tool", f"{item.get('server')}.{item.get('tool')}", item.get("arguments"))]
    return []


def _usage(of: Mapping[str, Any]) -> list[Told]:
    """Input counts what was cached, too; `Usage` does not."""
    cached, written = count(of.get("cached_input_tokens")), count(of.get("cache_write_input_tokens"))
    return used(
        Usage(
            input=max(count(of.get("input_tokens")) - cached - written, 0),
            output=count(of.get("output_tokens")),
            cache_read=cached,
            cache_write=written,
        )
    )
