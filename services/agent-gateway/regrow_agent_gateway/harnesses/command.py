"""Any program as a harness: it is given its doors by environment, and speaks with them as it likes.

Options: `command` (required), a line for `sh`, started in the machine's workdir. It is started again in the same way
when the agent is; `REGROW_AGENT_RESUME` tells it, and `REGROW_AGENT_FOLDER` is there for what it wants to keep.
"""

from __future__ import annotations

from regrow_protocol.agents import Launch

from ..harness import BadSetting, Harness, Setting, started


class CommandHarness(Harness):
    """Runs the line in the option `command`."""

    name = "command"

    def launch(self, setting: Setting) -> Launch:
        setting.check_options({"command"})
        line = setting.options.get("command", "")
        if not line.strip():
            raise BadSetting(f"The agent {setting.name!r} has no command to run", hint='options={"command": "…"}')
        return started(setting, f"{line}\n")
