"""pi, with an extension of our own that speaks with the gateway (`pi_extension.ts`); 0.73 to 1.5 were tried.

pi runs as a person would see it, in its terminal. Its conversation is kept in the agent's folder, and gone on with when
the agent is started again. Whose login, settings and extensions it uses is pi's own matter: those of the machine's user
(`~/.pi/agent`), or of the folder that `PI_CODING_AGENT_DIR` names in the agent's `env`; with the option `models` it has
a folder of its own with these models and nothing else.

Options:
    program: what to run, as `npx pi`; `pi`.
    args: further arguments for it, as `--thinking high`.
    models: text of a `models.json`.
    deliver: `steer` (the default: a message that comes while pi works is heard after the tools that run) or `followUp`
        (when it would end).
    system_prompt: `append` (the default: after pi's own) or `replace`.
"""

from __future__ import annotations

import shlex
from importlib.resources import files

import msgspec
from regrow_protocol.agents import Launch

from ..harness import SYSTEM_PROMPT, BadSetting, Harness, Setting, started

_CHOICES = {"deliver": ("steer", "followUp"), "system_prompt": ("append", "replace")}


class PiHarness(Harness):
    """Runs pi."""

    name = "pi"

    def launch(self, setting: Setting) -> Launch:
        options = setting.options
        setting.check_options({"program", "args", "models", *_CHOICES})
        for name, choices in _CHOICES.items():
            if options.get(name, choices[0]) not in choices:
                raise BadSetting(f"{name}={options[name][:40]!r} is none of {', '.join(choices)}")
        try:
            argv = [*(shlex.split(options.get("program", "pi")) or ["pi"]), "-e", setting.path("regrow.ts")]
            further = shlex.split(options.get("args", ""))
        except ValueError as error:
            raise BadSetting(f"program and args are words for a shell: {error}") from error
        argv += ["--session-dir", setting.path("sessions")]
        if setting.resume:
            argv.append("-c")
        if setting.model:
            argv += ["--model", setting.model]
        if setting.system_prompt:
            flag = "--system-prompt" if options.get("system_prompt") == "replace" else "--append-system-prompt"
            argv += [flag, setting.path(SYSTEM_PROMPT)]
        extension = (files(__package__ or "") / "pi_extension.ts").read_bytes()
        own = [setting.file("regrow.ts", extension)]
        env = {"PI_OFFLINE": "1", "PI_TELEMETRY": "0", "REGROW_PI_DELIVER": options.get("deliver", "steer")}
        if "models" in options:
            _check_models(options["models"])
            own.append(setting.file("pi/models.json", options["models"]))
            env["PI_CODING_AGENT_DIR"] = setting.path("pi")
        return started(setting, [*argv, *further], files=own, env=env)


def _check_models(text: str) -> None:
    """Raises BadSetting: pi only says on its screen that it cannot read them."""
    try:
        msgspec.json.decode(text, type=dict)
    except msgspec.MsgspecError as error:
        raise BadSetting(f"models is no JSON object: {error}") from error
