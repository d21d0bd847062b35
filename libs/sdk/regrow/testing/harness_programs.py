"""The programs of Regrow's own harnesses: where they are, and how they are pointed at the scripted model."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from ._harness_rig import Start
from .scripted_model import MODEL, ScriptedModel

INSTALLED = Path(".harness/node_modules/.bin")


def find_program(name: str) -> Path | None:
    """A harness's program, if it is installed."""
    found = shutil.which(name, path=f"{INSTALLED.resolve()}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    return Path(found) if found is not None else None


def scripted(harness: str, model: ScriptedModel, home: Path) -> Start:
    """How a harness of Regrow's own is pointed at the scripted model.

    Args:
        harness: its name.
        model: that runs.
        home: an empty folder, for whatever it keeps of its user.
    """
    if harness == "pi":
        return Start(f"{MODEL}/{MODEL}", {"models": model.pi_models()})
    if harness == "claude-code":
        env = {"HOME": str(home), "ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": "none"}
        return Start(MODEL, {}, env)
    if harness == "codex":
        provider = (
            f'{{name = "{MODEL}", base_url = "{model.url}/v1", env_key = "SCRIPTED_KEY", wire_api = "responses"}}'
        )
        config = f'model_provider = "{MODEL}"\nmodel_providers.{MODEL} = {provider}'
        return Start(MODEL, {"config": config}, {"CODEX_HOME": str(home), "SCRIPTED_KEY": "none"})
    if harness == "opencode":
        options = {"baseURL": f"{model.url}/v1", "apiKey": "none"}
        provider = {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {MODEL: {"name": MODEL}}}
        env = {"HOME": str(home), "OPENCODE_DISABLE_MODELS_FETCH": "1"}
        return Start(f"{MODEL}/{MODEL}", {"config": json.dumps({"provider": {MODEL: provider}})}, env)
    return Start()
