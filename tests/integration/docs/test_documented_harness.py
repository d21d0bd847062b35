"""The harness of the guide is a package of its own that passes the conformance suite."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[3] / "docs/guides/write-a-harness.md"


@pytest.mark.timeout(240)
def test_the_documented_harness_conforms(tmp_path: Path) -> None:
    """As a reader would: the two modules, their entry point, and the test module of the guide."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed (`make system-deps`)")
    harness, agent, suite = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (entry,) = re.findall(r"```toml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert 50 <= len([line for line in (harness + agent).splitlines() if line.strip()]) <= 80
    (tmp_path / "tiny_harness.py").write_text(harness)
    (tmp_path / "tiny_agent.py").write_text(agent)
    info = tmp_path / "tiny_harness-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-harness\nVersion: 1.0\n")
    name = re.findall(r'^tiny = "(.*)"$', entry, re.MULTILINE)
    (info / "entry_points.txt").write_text(f"[regrow.harnesses]\ntiny = {name[0]}\n")
    (tmp_path / "test_tiny.py").write_text(suite)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "test_tiny.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
