"""The backend of the guide is a package of its own that passes the conformance suite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[3] / "docs/guides/write-a-backend.md"


@pytest.mark.timeout(240)
def test_the_documented_backend_conforms(tmp_path: Path) -> None:
    """As a reader would: the module, its entry point, and the test module of the guide."""
    backend, suite = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (entry,) = re.findall(r"```toml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert 40 <= len([line for line in backend.splitlines() if line.strip()]) <= 75
    (tmp_path / "nice_machines.py").write_text(backend)
    info = tmp_path / "nice_machines-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nice-machines\nVersion: 1.0\n")
    name = re.findall(r'^nice = "(.*)"$', entry, re.MULTILINE)
    (info / "entry_points.txt").write_text(f"[regrow.machines]\nnice = {name[0]}\n")
    (tmp_path / "test_nice.py").write_text(suite)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "test_nice.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
