"""The public conformance suite on every harness that Regrow has itself and that is installed."""

from __future__ import annotations

import pytest
from regrow.testing.harness_conformance import HarnessConformance

pytestmark = pytest.mark.timeout(150)


@pytest.mark.xdist_group("harness-pi")
class TestPi(HarnessConformance):
    """pi, with our extension."""

    harness = "pi"
    program = "pi"
    calls_once = True
    patience = 60.0


@pytest.mark.xdist_group("harness-claude-code")
class TestClaudeCode(HarnessConformance):
    """Claude Code, turn by turn."""

    harness = "claude-code"
    program = "claude"
    recalls = True


@pytest.mark.xdist_group("harness-codex")
class TestCodex(HarnessConformance):
    """Codex, turn by turn."""

    harness = "codex"
    program = "codex"
    recalls = True


@pytest.mark.xdist_group("harness-opencode")
class TestOpencode(HarnessConformance):
    """opencode, turn by turn."""

    harness = "opencode"
    program = "opencode"
    recalls = True
