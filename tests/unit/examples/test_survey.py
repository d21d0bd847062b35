"""The survey example: what its steps say of real files, and that its bodies replay."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import ModuleType

import pytest
from regrow import Event
from regrow.check import check_file
from regrow.program import load

FILE = Path(__file__).parents[3] / "examples" / "survey.py"


@pytest.fixture(scope="module")
def survey() -> ModuleType:
    """The example, loaded as a host loads it."""
    program = load(str(FILE))
    assert {"survey", "pool", "worker"} <= set(program.types)
    assert program.main == "survey"
    return sys.modules[program.types["survey"].function.__module__]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small tree with everything that a survey meets."""
    files = {
        "single.py": "def one(): pass\n",
        "notes.txt": "def no(): pass\n",
        "pkg/__init__.py": "",
        "pkg/a.py": "class A:\n    def short(self): ...\n    async def long(self):\n        x = 1\n        return x\n",
        "pkg/sub/b.py": "# TODO: more\nx = 'TODO in a string'\ny = 1  # a FIXME\n",
        "pkg/sub/__init__.py": "def made():\n    def inner():\n        pass\n    return inner\n",
        "pkg/broken.py": "def x(:\n",
        "pkg/__pycache__/c.py": "def no(): pass\n",
        "pkg/test/d.py": "def no(): pass\n",
        "site-packages/e.py": "def no(): pass\n",
        ".hidden/f.py": "def no(): pass\n",
        "empty/readme.md": "",
        "data_only/x/y.json": "{}",
        "deep/er/module.py": "lambda: 0\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_its_bodies_replay() -> None:
    """The example that everybody copies has no finding, not even a note."""
    assert check_file(FILE) == []


def test_packages_are_folders_with_python_in_them_and_modules(survey: ModuleType, folder: Path) -> None:
    """By name; without caches, tests, hidden folders, and folders that hold no Python."""
    packages = survey.find_packages(str(folder))
    assert [package.name for package in packages] == ["deep", "pkg", "single.py"]
    assert [package.path for package in packages] == [str(folder / name) for name in ("deep", "pkg", "single.py")]


def test_a_folder_that_is_none_is_an_error(survey: ModuleType, folder: Path) -> None:
    """Not an empty table."""
    with pytest.raises(FileNotFoundError):
        survey.find_packages(str(folder / "nothing"))
    with pytest.raises(NotADirectoryError):
        survey.find_packages(str(folder / "single.py"))


def test_files_of_a_package_are_listed_in_order(survey: ModuleType, folder: Path) -> None:
    """The order of a directory is the file system's; a step's result must not depend on it."""
    assert survey.list_files(str(folder / "pkg")) == [
        "__init__.py",
        "a.py",
        "broken.py",
        "sub/__init__.py",
        "sub/b.py",
    ]
    assert survey.list_files(str(folder / "single.py")) == [""]


def test_a_package_is_measured_whole(survey: ModuleType, folder: Path) -> None:
    """Lines, functions, the longest one with its full name, comments to do, files that do not parse."""
    path = str(folder / "pkg")
    report = survey.measure("pkg", path, survey.list_files(path))
    assert dataclasses.asdict(report) == {
        "name": "pkg",
        "files": 5,
        "lines": 0 + 5 + 1 + 4 + 3,
        "functions": 4,
        "longest": "pkg.sub.made",
        "longest_lines": 4,
        "todos": 2,
        "broken": ["broken.py: invalid syntax (<unknown>, line 1)"],
    }


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_measuring_in_parts_gives_the_same(survey: ModuleType, folder: Path, size: int) -> None:
    """However many files a step takes, the report is the one of all at once."""
    path = str(folder / "pkg")
    files = survey.list_files(path)
    report = survey.PackageReport("pkg")
    for start in range(0, len(files), size):
        report.add(survey.measure("pkg", path, files[start : start + size]))
    assert report == survey.measure("pkg", path, files)


@pytest.mark.parametrize(
    ("file", "source", "longest"),
    [
        ("", b"def f(): pass", "mod.f"),
        ("a.py", b"def f(): pass", "mod.a.f"),
        ("__init__.py", b"class A:\n class B:\n  def f(): pass", "mod.A.B.f"),
        ("x/__init__.py", b"def f():\n def g(): pass", "mod.x.f"),
        ("x/y.py", b"if 1:\n try:\n  def f(): pass\n finally: pass", "mod.x.y.f"),
        ("a.py", b"x = 1", ""),
    ],
)
def test_functions_are_named_by_where_they_stand(survey: ModuleType, file: str, source: bytes, longest: str) -> None:
    """Module, classes and functions around it."""
    assert survey.measure_source("mod.py" if not file else "mod", file, source).longest == longest


@pytest.mark.parametrize("source", [b"def f(", b"\0", b"# coding: nonsense\n", b"'\xff'", b"(" * 500 + b")" * 500])
def test_a_file_that_does_not_parse_is_a_finding(survey: ModuleType, source: bytes) -> None:
    """It counts as a file with its lines, and says why it is broken."""
    report = survey.measure_source("mod", "a.py", source)
    assert (report.files, report.functions, len(report.broken)) == (1, 0, 1)
    assert report.broken[0].startswith("a.py: ")


def test_files_in_other_codings_are_read(survey: ModuleType) -> None:
    """By their coding line or byte order mark."""
    for source in ("# coding: latin-1\ndef grün(): pass\n".encode("latin-1"), "\ufeffdef grün(): pass\n".encode()):
        report = survey.measure_source("mod", "", source)
        assert (report.longest, report.broken) == ("mod.grün", [])


def test_only_a_worker_s_end_brings_a_report(survey: ModuleType) -> None:
    """Bubbled events carry the package they came from; the pool's own do not."""
    data = dataclasses.asdict(survey.PackageReport("pkg", files=3, lines=9))
    assert survey.reported(Event("done", data, source="pkg")) == [survey.PackageReport("pkg", files=3, lines=9)]
    (failed,) = survey.reported(Event("failed", {"reason": "gone", "error": "OSError"}, source="pkg"))
    assert (failed.name, failed.broken) == ("pkg", ["not surveyed: gone"])
    for event in (
        Event("started", None, source="pkg"),
        Event("measured", {"files": 1}, source="pkg"),
        Event("done", 3),
    ):
        assert survey.reported(event) == []


def test_the_table_ranks_by_lines_and_sums_up(survey: ModuleType) -> None:
    """The largest first, equals by name; totals count what is not shown."""
    made = survey.PackageReport
    reports = survey.ranked([made("b", 1, 5, 1, "b.f", 4), made("c", 2, 7), made("a", 1, 5), made("d", 1, 1, todos=3)])
    assert [report.name for report in reports] == ["c", "a", "b", "d"]
    lines = survey.table(reports, top=3).splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["c", "a", "b"]
    assert lines[4].endswith("b.f (4 lines)")
    assert lines[5] == "… and 1 more"
    assert lines[-1].split() == ["4", "packages", "5", "18", "1", "3", "0"]
    assert len(survey.table(reports).splitlines()) == 2 + 4 + 2
