"""`examples/bisect.py` on a real repository, as its user runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples/bisect.py"
COMMITS, BAD = 40, 23


def git(folder: Path, *args: str) -> str:
    settings = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *settings, *args], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.timeout(120)
@pytest.mark.skipif(not shutil.which("git"), reason="no git: install git")
def test_the_breaking_commit_is_found(tmp_path: Path) -> None:
    """Of forty commits the one that broke the test is named, in fewer rounds than one at a time would take."""
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "-q", "-b", "main")
    for i in range(COMMITS):
        (repository / "sum.sh").write_text(f"# {i}\necho $(( 2 + {3 if i >= BAD else 2} ))\n")
        git(repository, "add", ".")
        git(repository, "commit", "-q", "-m", f"change {i}")
    first = git(repository, "rev-list", "--max-parents=0", "HEAD")
    environment = {**os.environ, "REGROW_HOME": str(tmp_path / "home"), "REGROW_MACHINE_BACKENDS": "local"}
    environment.pop("REGROW_NATS_URL", None)
    options = ["--good", first, "--test", 'test "$(sh sum.sh)" = 4']
    try:
        done = subprocess.run(
            [sys.executable, str(EXAMPLE), str(repository), *options],
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    finally:
        subprocess.run(
            [sys.executable, "-m", "regrow_cli", "down"], env=environment, check=False, capture_output=True, timeout=30
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["subject"] == f"change {BAD}"
    assert found["commit"] == git(repository, "rev-list", "--reverse", "HEAD").split()[BAD]
    assert 2 <= found["rounds"] <= 4
    assert found["tested"] <= 3 * found["rounds"]
