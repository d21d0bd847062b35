"""Claude Code, a run of `claude -p` for each message.

Its conversation has an id made from the agent's, so that it is found again whatever had been told before a kill. The
login and settings are the machine user's (`ANTHROPIC_API_KEY`, `ANTHROPIC_BASE_URL`, `CLAUDE_CONFIG_DIR` by `env`);
MCP servers are only Regrow's. Nobody is there to be asked, so what it may use is listed: option `allowed_tools`, as its
`--allowedTools` takes them (it refuses to skip permissions altogether as root).
"""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from regrow_protocol.agents import LaunchFile, Usage

from ..harness import SYSTEM_PROMPT, Setting
from .turns import PATIENCE, SERVER, Told, TurnHarness, count, mapping, noted, objects, said, used

ALLOWED = "Agent Bash Edit Glob Grep MultiEdit NotebookEdit Read Skill Task TodoWrite WebFetch WebSearch Write"

# A message that begins with a slash is a command to it; one that begins with an empty line is not.
TURN = """id={id}
set -- "$@" --session-id "$id"
for rg_f in "${{CLAUDE_CONFIG_DIR:-$HOME/.claude}}"/projects/*/"$id".jsonl; do
    [ ! -s "$rg_f" ] || set -- "$1" "$2" --resume "$id"
done
more=$3 id=$4
harness() {{ (echo && cat) | {command} "$more" "$id"; }}
worth() {{ case $line in *'"type":"assistant"'* | *'"type":"result"'*) ;; *) return 1 ;; esac; }}
"""


class ClaudeCodeHarness(TurnHarness):
    """Runs `claude`."""

    name = "claude-code"
    program = "claude"
    how = "npm install -g @anthropic-ai/claude-code"
    known_options = frozenset({"allowed_tools"})

    def turn(self, setting: Setting) -> str:
        """`claude -p`, with the agent's own id of a conversation, new or resumed."""
        args = ["-p", "--output-format", "stream-json", "--verbose", "--strict-mcp-config"]
        args += ["--mcp-config", setting.path("mcp.json")]
        args += ["--allowedTools", f"{setting.options.get('allowed_tools', ALLOWED)} mcp__{SERVER}"]
        if setting.model:
            args += ["--model", setting.model]
        command = self.command(setting, *args)
        if setting.system_prompt:
            command += f' --append-system-prompt "$(cat {shlex.quote(setting.path(SYSTEM_PROMPT))})"'
        return TURN.format(id=uuid.uuid5(uuid.NAMESPACE_URL, f"regrow:{setting.id}"), command=command)

    def files(self, setting: Setting) -> Iterable[LaunchFile]:
        """Its MCP servers; it puts variables into the headers itself."""
        headers = {"Authorization": "Bearer ${REGROW_AGENT_TOKEN}", "Regrow-Session": "${REGROW_AGENT_SESSION}"}
        server = {"type": "http", "url": f"{setting.url}/mcp", "headers": headers}
        return [setting.file("mcp.json", json.dumps({"mcpServers": {SERVER: server}}))]

    def env(self, setting: Setting) -> Mapping[str, str]:
        """No surprises while it works: no updates; tools are shown, not searched for; and patience."""
        del setting
        return {
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "ENABLE_TOOL_SEARCH": "false",
            "MCP_TIMEOUT": "60000",
            "MCP_CONNECTION_NONBLOCKING": "0",  # a turn that begins before its tools are there has none
            "MCP_CONNECT_TIMEOUT_MS": "60000",  # and it waits for them for 5 s only, else
            "MCP_TOOL_TIMEOUT": str(PATIENCE * 1000),
        }

    def told(self, line: Mapping[str, Any]) -> list[Told]:
        """Messages of the model, and at the end what they cost."""
        if line.get("type") == "assistant":
            return [told for block in objects(mapping(line.get("message")).get("content")) for told in _block(block)]
        if line.get("type") != "result":
            return []
        failed = line.get("is_error") or line.get("subtype") != "success"
        why = line.get("result") or "; ".join(map(str, line.get("errors") or ())) or line.get("subtype")
        return [*_usage(line), *([noted("error", str(why))] if failed else [])]


def _block(block: Mapping[str, Any]) -> list[Told]:
    if block.get("type") == "text":
        return said(block.get("text"))
    if block.get("type") == "tool_use" and not str(block.get("name")).startswith(f"mcp__{SERVER}__"):
        return [noted("tool", str(block.get("name")), block.get("input"))]
    return []


def _usage(line: Mapping[str, Any]) -> list[Told]:
    """Of this run: `modelUsage` and `total_cost_usd` sum up what a resumed conversation has used in all."""
    models = mapping(line.get("model_usage_since_last_result"))
    if models:
        return [told for name, of in models.items() for told in used(_of_model(name, mapping(of)))]
    of = mapping(line.get("usage"))
    names = [*mapping(line.get("modelUsage"))]
    return used(
        Usage(
            model=names[0] if len(names) == 1 else "",
            input=count(of.get("input_tokens")),
            output=count(of.get("output_tokens")),
            cache_read=count(of.get("cache_read_input_tokens")),
            cache_write=count(of.get("cache_creation_input_tokens")),
        )
    )


def _of_model(name: str, of: Mapping[str, Any]) -> Usage:
    cost = of.get("costUSD")
    return Usage(
        model=name,
        input=count(of.get("inputTokens")),
        output=count(of.get("outputTokens")),
        cache_read=count(of.get("cacheReadInputTokens")),
        cache_write=count(of.get("cacheCreationInputTokens")),
        cost=float(cost) if isinstance(cost, int | float) else 0.0,
    )
