"""Survey the Python code in a folder: one process per package, ranked by size.

    python examples/survey.py [FOLDER]

Without a folder it reads the standard library. `survey` starts a `pool`; the pool runs a `worker` per package, a few at
a time; a worker reads the package's files in steps. Kill the host while it runs: the processes go on where they were.
"""

from __future__ import annotations

import ast
import asyncio
import os
import re
import sys
import sysconfig
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from regrow import Event, ExecutionFailed, agent_process, bubble, done, emit, expose, spawn, step, wait

FILES_PER_STEP = 4
SKIPPED = {"__pycache__", "dist-packages", "lib-dynload", "node_modules", "site-packages", "test"}
PARSER = threading.Lock()  # steps run in threads; in several at once ast.parse of CPython 3.11 may raise SystemError
TODO = re.compile(r"#.*\b(TODO|FIXME|XXX)\b")

warnings.filterwarnings("ignore", "invalid .*", DeprecationWarning)  # of the code that is read, not of ours
warnings.filterwarnings("ignore", "invalid .*", SyntaxWarning)


@dataclass
class Package:
    """A folder with Python files in it, or a single module."""

    name: str
    path: str


@dataclass
class PackageReport:
    """What is to be said of a package, or of some of its files.

    Attributes:
        longest: dotted name of its longest function, of `longest_lines` lines.
        todos: comments with TODO, FIXME or XXX.
        broken: files that do not parse, each with the reason.
    """

    name: str
    files: int = 0
    lines: int = 0
    functions: int = 0
    longest: str = ""
    longest_lines: int = 0
    todos: int = 0
    broken: list[str] = field(default_factory=list)

    def add(self, part: PackageReport) -> None:
        """Count another part of the package in."""
        self.files += part.files
        self.lines += part.lines
        self.functions += part.functions
        self.todos += part.todos
        self.broken += part.broken
        if part.longest_lines > self.longest_lines:
            self.longest, self.longest_lines = part.longest, part.longest_lines


# Processes: nothing but what replays ---------------------------------------------------------------------------------


@agent_process
async def worker(name: str, path: str) -> PackageReport:
    """Reads one package, a few files in each step."""
    report = PackageReport(name)
    files = await step(list_files, path)
    for start in range(0, len(files), FILES_PER_STEP):
        report.add(await step(measure, name, path, files[start : start + FILES_PER_STEP]))
        emit("measured", {"files": report.files, "of": len(files)})
    return report


@agent_process
async def pool(concurrency: int) -> int:
    """Runs a worker per task, `concurrency` at a time, and passes on what they announce; returns how many it ran."""
    gate = asyncio.Semaphore(concurrency)
    states: dict[str, str] = {}
    running: list[asyncio.Task[None]] = []

    async def run(name: str, path: str) -> None:
        async with gate:
            states[name] = "running"
            handle = spawn(worker, name, path)
            bubble(handle, source=name)
            try:
                await handle
            except ExecutionFailed:  # the survey hears of it by the worker's own event
                states[name] = "failed"
            else:
                states[name] = "done"

    @expose
    async def add_task(name: str, path: str) -> int:
        """Have a package surveyed; returns how many were asked for so far."""
        if name in states:
            raise ValueError(f"There is a task {name} already")
        states[name] = "waiting"
        running.append(asyncio.create_task(run(name, path)))
        return len(states)

    @expose
    async def tasks() -> dict[str, str]:
        """The state of every task by its name: `waiting`, `running`, `done` or `failed`."""
        return states

    @expose
    async def close() -> None:
        """No more tasks will come: end when those under way have ended."""
        await asyncio.gather(*running)
        done(len(states))

    return await wait()


@agent_process
async def survey(folder: str = "", concurrency: int = 8) -> list[PackageReport]:
    """The packages of a folder, the largest first; `concurrency` workers at a time."""
    packages = await step(find_packages, folder)
    emit("packages", {"count": len(packages)})
    crew = spawn(pool, concurrency)
    bubble(crew)
    for package in packages:
        await crew.call("add_task", wait=True, name=package.name, path=package.path)
    reports: list[PackageReport] = []
    if packages:
        async for event in crew.events:
            reports += reported(event)
            if len(reports) == len(packages):
                break
    await crew.call("close", wait=True)
    await crew
    return ranked(reports)


def reported(event: Event) -> list[PackageReport]:
    """The report that a bubbled event of a worker brings, or none."""
    if event.source is None:
        return []
    if event.type == "done":
        return [PackageReport(**event.data)]
    if event.type == "failed":
        return [PackageReport(event.source, broken=[f"not surveyed: {event.data['reason']}"])]
    return []


def ranked(reports: list[PackageReport]) -> list[PackageReport]:
    """By lines, then by name."""
    return sorted(reports, key=lambda report: (-report.lines, report.name))


# Steps: these do the reading -----------------------------------------------------------------------------------------


def find_packages(folder: str = "") -> list[Package]:
    """The packages and modules at the top of `folder` (default: the standard library), by name."""
    top = Path(folder or sysconfig.get_path("stdlib")).resolve()
    found: list[Package] = []
    for path in top.iterdir():
        is_module = path.suffix == ".py" and path.is_file()
        if is_module or (path.is_dir() and not skipped(path.name) and list_files(str(path))):
            found.append(Package(path.name, str(path)))
    return sorted(found, key=lambda package: package.name)


def list_files(path: str) -> list[str]:
    """The Python files of a package, relative to it and sorted; of a module, the empty name for itself."""
    if not Path(path).is_dir():
        return [""]
    files: list[str] = []
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not skipped(name)]
        files += [os.path.relpath(Path(folder, name), path) for name in names if name.endswith(".py")]
    return sorted(files)


def skipped(folder: str) -> bool:
    """Whether a folder of this name holds nothing to survey."""
    return folder in SKIPPED or folder.startswith(".")


def measure(name: str, path: str, files: list[str]) -> PackageReport:
    """What some of a package's files add to its report."""
    report = PackageReport(name)
    for file in files:
        report.add(measure_source(name, file, Path(path, file).read_bytes()))
    return report


def measure_source(name: str, file: str, source: bytes) -> PackageReport:
    """The report of one file of package `name`, `file` being its path inside it (empty: the package is this file)."""
    report = PackageReport(name, files=1, lines=len(source.splitlines()))
    report.todos = sum(1 for line in source.decode(errors="replace").splitlines() if TODO.search(line))
    try:
        with PARSER:
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:  # ValueError: a null byte
        report.broken.append(f"{file or name}: {error}")
        return report
    module = os.path.join(name, file).rstrip(os.sep).removesuffix(".py").replace(os.sep, ".")  # noqa: PTH118 - a name
    waiting: list[tuple[ast.AST, str]] = [(tree, module.removesuffix(".__init__"))]
    while waiting:
        node, within = waiting.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                report.functions += 1
                lines = (child.end_lineno or child.lineno) - child.lineno + 1
                named = f"{within}.{child.name}"
                if (lines, named) > (report.longest_lines, report.longest):
                    report.longest, report.longest_lines = named, lines
                waiting.append((child, named))
            elif isinstance(child, ast.ClassDef):
                waiting.append((child, f"{within}.{child.name}"))
            else:
                waiting.append((child, within))
    return report


# The table -----------------------------------------------------------------------------------------------------------


def table(reports: list[PackageReport], top: int | None = None) -> str:
    """The first `top` reports (default: all) as a table, and a line of totals."""
    total = PackageReport("")
    for report in reports:
        total.add(report)
    head = f"{'package':24} {'files':>6} {'lines':>8} {'functions':>10} {'TODOs':>6} {'broken':>7}  longest function"
    rows = [head, "-" * len(head)]
    for report in reports[:top]:
        longest = f"{report.longest} ({report.longest_lines} lines)" if report.longest else "-"
        rows.append(f"{_numbers(report.name, report)}  {longest}")
    if top is not None and len(reports) > top:
        rows.append(f"… and {len(reports) - top} more")
    rows += ["-" * len(head), _numbers(f"{len(reports)} packages", total)]
    return "\n".join(rows)


def _numbers(name: str, report: PackageReport) -> str:
    return (
        f"{name:24} {report.files:6} {report.lines:8,} {report.functions:10,} {report.todos:6} {len(report.broken):7}"
    )


if __name__ == "__main__":
    print(table(asyncio.run(survey(sys.argv[1] if len(sys.argv) > 1 else ""))))
