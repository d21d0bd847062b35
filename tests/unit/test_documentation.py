"""The documentation is true: its links lead somewhere, its messages decode, its settings are those of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from msgspec import Struct
from regrow_protocol import messages, streams

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
WIRE = (ROOT / "docs/reference/wire-protocol.md").read_text()
BODIES = {
    "Events": messages.EventRecord,
    "Replies": messages.Reply,
    "Dead letters": messages.DeadLetter,
    "Commands": messages.Command,
}
RECORDS = {
    "app.<app>": messages.AppRecord,
    "build.<app>.<build>": messages.BuildRecord,
    "own.<app>.<build>.<part>": messages.Ownership,
    "<app>.<host>": messages.HostRecord,
    "<app>.<build>.<part>": messages.Cursor,
    "<pid>": messages.ProcessRecord,
}


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """A link inside the repository names a file that is there, and a heading in it."""
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(file), f"{file.name} has no heading for #{anchor}"


def examples() -> list[tuple[str, str]]:
    """(section, JSON) of every example of a body."""
    found: list[tuple[str, str]] = []
    for section in re.split(r"^## ", WIRE, flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0]
        for block in re.findall(r"```json\n(.*?)```", section, re.DOTALL):
            found += [(title, line) for line in block.splitlines()]
    return found


@pytest.mark.parametrize(("section", "text"), examples())
def test_examples_are_messages(section: str, text: str) -> None:
    """Each example is what Regrow itself would write: nothing unknown in it, nothing superfluous."""
    body: Struct = (
        messages.decode_input(text) if section == "Inputs" else messages.decode(text.encode(), BODIES[section])
    )
    assert json.loads(messages.encode(body)) == json.loads(text)


def test_every_input_has_an_example() -> None:
    """The reference shows all that an inbox carries."""
    shown = {json.loads(text)["kind"] for section, text in examples() if section == "Inputs"}
    assert shown == {cls.__struct_config__.tag for cls in messages.Input.__args__}


@pytest.mark.parametrize(("key", "type_"), RECORDS.items())
def test_records_are_as_shown(key: str, type_: type[Struct]) -> None:
    """The table of buckets shows a record of each kind as it is written."""
    row = re.search(rf"^\|[^|]*\| `{re.escape(key)}` \| `(?P<record>[^`]+)`", WIRE, re.MULTILINE)
    assert row is not None
    assert json.loads(messages.encode(messages.decode(row["record"].encode(), type_))) == json.loads(row["record"])


def test_settings_are_all_documented() -> None:
    """Every variable that the code reads stands in the reference, and no other."""
    from regrow_agent_gateway.settings import GatewaySettings
    from regrow_machine_manager.settings import ManagerSettings
    from regrow_registry.settings import RegistrySettings
    from regrow_service.settings import table
    from regrow_supervisor.settings import SupervisorSettings

    read = {
        name
        for type_ in (SupervisorSettings, ManagerSettings, RegistrySettings, GatewaySettings)
        for name, _, _ in table(type_)
    }
    for path in [p for part in ("libs", "services", "cli", "examples") for p in (ROOT / part).rglob("*.py")]:
        read |= set(re.findall(r"""["'](REGROW_[A-Z_]+)["']""", path.read_text()))
    read |= set(re.findall(r"@(REGROW_[A-Z_]+)=", (ROOT / "Makefile").read_text()))
    read -= {spec.name for spec in streams.STREAMS}
    page = (ROOT / "docs/reference/settings.md").read_text()
    assert set(re.findall(r"^\| `(REGROW_[A-Z_]+)`", page, re.MULTILINE)) == read
