"""The types of the public API are part of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(180)
def test_types_of_the_api(tmp_path: Path) -> None:
    """A strict type checker accepts what is right in `api.py` and refuses what is wrong there."""
    settings = {
        "include": [str(Path(__file__).parent / "api.py")],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "extraPaths": [str(ROOT / "libs" / name) for name in ("protocol", "sdk")],
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    config = tmp_path / "pyrightconfig.json"
    config.write_text(json.dumps(settings))
    command = [str(Path(sys.executable).parent / "basedpyright"), "--outputjson", "-p", str(config)]
    found = json.loads(subprocess.run(command, capture_output=True, check=False, timeout=170).stdout)
    problems = [f"{d['range']['start']['line'] + 1}: {d['message']}" for d in found["generalDiagnostics"]]
    assert found["summary"]["filesAnalyzed"] >= 1
    assert not problems, "\n".join(problems)
