"""The repository says nothing about the machine it was made on: no lock files, home folders or package addresses."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

LOCK_FILES = {
    "uv.lock", "poetry.lock", "pdm.lock", "pylock.toml", "Pipfile.lock", "package-lock.json", "npm-shrinkwrap.json",
    "yarn.lock", "pnpm-lock.yaml", "Cargo.lock",
}  # fmt: skip
HOME = re.compile(r"(?<![\w.~$}/-])/(?:home|Users|root)/[A-Za-z0-9._-]+")
REGISTRY = re.compile(
    r"https?://(?:[^\s/@]+@)?"
    r"(?:[\w.-]*pypi[\w.-]*(?!/project/|[\w.-])|files\.pythonhosted\.org|registry\.[\w.-]+|[\w.-]*(?:artifactory|nexus)[\w.-]*)"
    r"|--(?:extra-)?index-url|--find-links"
)
THIS = Path(__file__).relative_to(ROOT).as_posix()


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip(f"no git repository: {listed.stderr.decode().strip()}")
    paths = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return [path for path in paths if path.is_file()]


def text_of(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # another test's, which was not part of the repository
        return ""
    return "" if b"\0" in data[:1024] else data.decode(errors="replace")


def findings(pattern: re.Pattern[str]) -> list[str]:
    found: list[str] = []
    for path in tracked():
        name = path.relative_to(ROOT).as_posix()
        if name == THIS:  # it names what it looks for
            continue
        for number, line in enumerate(text_of(path).splitlines(), 1):
            if pattern.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    return found


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    stated = [line for line in lines if line.strip() and not line.startswith("#")]
    return dict(line.split("==") for line in stated)


def requirements(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed: list[str] = list(project["dependencies"])
    for extra in extras:
        listed += project["optional-dependencies"][extra]
    parsed = [Requirement(text) for text in listed]
    return [requirement for requirement in parsed if requirement.name != project["name"]]


def test_no_lock_file_records_download_addresses() -> None:
    """No lock file of any package manager is part of the repository."""
    assert [path for path in tracked() if path.name in LOCK_FILES] == []


def test_no_path_of_somebodys_home() -> None:
    """No tracked file names an absolute path inside a home folder."""
    assert findings(HOME) == []


def test_no_registry_address() -> None:
    """No tracked file names a package registry: the machine's configuration chooses it."""
    assert findings(REGISTRY) == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (HOME, 'open("/home/ann/x")'),
        (HOME, "path: /Users/ann/x"),
        (HOME, "cd /root/project"),
        (REGISTRY, "url = https://pypi.org/simple"),
        (REGISTRY, "https://ann:secret@mirror.pypi.example/simple"),
        (REGISTRY, "pip install --index-url X"),
    ],
)
def test_patterns_find_what_they_are_for(pattern: re.Pattern[str], line: str) -> None:
    """The searches above find the plainest offenders."""
    assert pattern.search(line)


def test_constraints_are_names_and_versions_only() -> None:
    """Each line of constraints.txt is `name==version`: no address, path, editable install or option."""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][A-Za-z0-9.+!_-]*", line), line


def test_constraints_pin_every_dependency() -> None:
    """Whatever `make setup` installs by name has a pinned version that satisfies what pyproject.toml asks for."""
    pinned = {canonicalize_name(name): version for name, version in pins().items()}
    for requirement in requirements("server", "dev"):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not pinned"
        assert requirement.specifier.contains(version), f"{requirement}, but the pin is {version}"


def test_every_dependency_pinned_is_within_the_other_extras_bounds() -> None:
    """A pin of a package that an optional extra names satisfies that extra too."""
    pinned = {canonicalize_name(name): version for name, version in pins().items()}
    for requirement in requirements("docker", "ssh", "morph"):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is None or requirement.specifier.contains(version), f"{requirement}, but the pin is {version}"


def test_harnesses_are_pinned() -> None:
    """Each is named with one version, and nothing else is said of it."""
    named = json.loads((ROOT / "deploy/harnesses/package.json").read_text())
    assert set(named) == {"private", "dependencies"}
    assert all(re.fullmatch(r"[0-9]+(\.[0-9]+)+", version) for version in named["dependencies"].values())


@pytest.mark.parametrize("script", [".ci/run", "deploy/setup", "deploy/debian/system-deps", "deploy/harnesses/install"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    """Every script can be run as it is, and its shell accepts it."""
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    shell = "bash" if "bash" in path.read_text().splitlines()[0] else "sh"
    subprocess.run([shell, "-n", str(path)], check=True)


def test_ci_runs_system_deps_then_test_and_nothing_else() -> None:
    """CI does what a newcomer does: two make targets, in this order."""
    lines = (ROOT / ".ci/run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd ", "exec </dev/null"))]
    assert commands == ["make system-deps", "make test"]
