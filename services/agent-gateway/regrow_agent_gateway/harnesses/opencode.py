"""opencode, a run of `opencode run` for each message.

The conversation's id is what it tells first; later turns are `opencode run --session ID`. Login and settings are
the machine user's; the option `config` has further ones, a JSON object as in its `opencode.json`. The model is named
as `provider/model`. It asks nobody; the agent's machine is the sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from regrow_protocol.agents import LaunchFile, Usage

from ..harness import SYSTEM_PROMPT, BadSetting, Setting
from .turns import PATIENCE, SERVER, Told, TurnHarness, count, mapping, noted, said, used

# The message goes in by its input: as an argument it would be quoted, with every quote in it escaped.
TURN = """id=$(conversation)
harness() {{ {command} ${{id:+--session "$id"}}; }}
worth() {{
    if [ -z "$id" ]; then
        case $line in
        '{{'*'"sessionID":"'*)
            id=${{line#*'"sessionID":"'}}
            id=${{id%%\\"*}}
            keep_conversation "$id"
            ;;
        esac
    fi
    case $line in
    *'"type":"text"'* | *'"type":"tool_use"'* | *'"type":"step_finish"'* | *'"type":"error"'*) ;;
    *) return 1 ;;
    esac
}}
"""


class OpencodeHarness(TurnHarness):
    """Runs `opencode`."""

    name = "opencode"
    program = "opencode"
    how = "npm install -g opencode-ai"
    known_options = frozenset({"config"})

    def turn(self, setting: Setting) -> str:
        """`opencode run`, anew or resumed."""
        model = ["--model", setting.model] if setting.model else []
        return TURN.format(command=self.command(setting, "run", "--format", "json", *model))

    def files(self, setting: Setting) -> Iterable[LaunchFile]:
        """Its settings; it puts variables into the headers itself."""
        headers = {"Authorization": "Bearer {env:REGROW_AGENT_TOKEN}", "Regrow-Session": "{env:REGROW_AGENT_SESSION}"}
        server = {
            "type": "remote",
            "url": f"{setting.url}/mcp",
            "enabled": True,
            "oauth": False,
            "headers": headers,
            "timeout": PATIENCE * 1000,
        }
        config: dict[str, Any] = {"permission": {"*": "allow"}, "autoupdate": False, "share": "disabled"}
        config |= _config(setting)
        config["mcp"] = {**mapping(config.get("mcp")), SERVER: server}
        if setting.system_prompt:
            config["instructions"] = [*config.get("instructions", []), setting.path(SYSTEM_PROMPT)]
        return [setting.file("opencode.json", json.dumps(config))]

    def env(self, setting: Setting) -> Mapping[str, str]:
        """Where its settings are; and no updates while it works."""
        return {
            "OPENCODE_CONFIG": setting.path("opencode.json"),
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
        }

    def told(self, line: Mapping[str, Any]) -> list[Told]:
        """Messages of the model, its own tools, and what each step has used."""
        kind, part = line.get("type"), mapping(line.get("part"))
        if kind == "text":
            return said(part.get("text"))
        if kind == "tool_use" and not str(part.get("tool")).startswith(f"{SERVER}_"):
            return [noted("tool", str(part.get("tool")), mapping(part.get("state")).get("input"))]
        if kind == "step_finish":
            return _usage(part)
        if kind == "error":
            error = mapping(line.get("error"))
            return [noted("error", str(mapping(error.get("data")).get("message") or error.get("name") or error))]
        return []


def _config(setting: Setting) -> dict[str, Any]:
    try:
        return msgspec.json.decode(setting.options.get("config", "{}"), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise BadSetting(f"The option config of the agent {setting.name!r} is no JSON object: {error}") from error


def _usage(part: Mapping[str, Any]) -> list[Told]:
    of, cost = mapping(part.get("tokens")), part.get("cost")
    cache = mapping(of.get("cache"))
    return used(
        Usage(
            input=count(of.get("input")),
            output=count(of.get("output")) + count(of.get("reasoning")),
            cache_read=count(cache.get("read")),
            cache_write=count(cache.get("write")),
            cost=float(cost) if isinstance(cost, int | float) else 0.0,
        )
    )
