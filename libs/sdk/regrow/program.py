"""A program is a Python file or module that defines process types; its build is a hash of the code.

`build` = hash of the program's file, of the modules it loaded from its own folder, and of the files of all its process
types, with the SDK's version and the Python minor version: two versions of the code never fold one process at once.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from . import __version__
from .definition import REGISTRY, ProcessType
from .errors import ProgramError
from .patches import patches_of


@dataclass(frozen=True)
class LoadedProgram:
    """A program in this interpreter.

    Attributes:
        target: absolute path of its file, or `module:NAME`.
        name: default name of its app: the file's stem or the module's name.
        build: 16 hex digits.
        types: its process types by name.
        main: name of the type that runs when none is named: `main`, or the last one defined in the file itself.
        patches: ids of `patched(…)` in its code.
    """

    target: str
    name: str
    build: str
    types: Mapping[str, ProcessType[Any, Any]]
    main: str
    patches: tuple[str, ...] = ()


def resolve(target: str) -> str:
    """The absolute form of a path, `module:NAME` or an importable module's name; raises ProgramError."""
    if target.startswith("module:"):
        return target
    path = Path(target)
    if path.suffix == ".py" or path.exists():
        if not path.is_file():
            raise ProgramError(f"There is no program file {target}", hint="give the path of a Python file")
        return str(path.resolve())
    if all(part.isidentifier() for part in target.split(".")):
        return f"module:{target}"
    raise ProgramError(f"There is no program file {target}", hint="give the path of a Python file")


def load(target: str) -> LoadedProgram:
    """Import a program; raises ProgramError for what cannot be imported or defines no process type."""
    target = resolve(target)
    module = _import_module(target.removeprefix("module:")) if target.startswith("module:") else _import_file(target)
    return describe(module, target)


def describe(module: ModuleType, target: str) -> LoadedProgram:
    """The program that an imported module is."""
    types = {name: _preferred(defined, module) for name, defined in REGISTRY.items()}
    own = [t for t in types.values() if t.function.__module__ == module.__name__]
    if not types and "regrow.ramure" not in sys.modules:  # there, processes may all be functions inside others
        raise ProgramError(
            f"{target.removeprefix('module:')} defines no process",
            hint="decorate a module-level async function with @agent_process",
        )
    main = "main" if "main" in types else next((t.name for t in reversed(own or list(types.values()))), "")
    name = target.removeprefix("module:") if target.startswith("module:") else Path(target).stem
    files = _files(module, types.values())
    return LoadedProgram(target, name, _digest(files), types, main, patches_of(files))


def _preferred(defined: list[ProcessType[Any, Any]], module: ModuleType) -> ProcessType[Any, Any]:
    own = [t for t in defined if t.function.__module__ == module.__name__]
    return (own or defined)[-1]


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise _cannot_import(name, error) from error


def _import_file(path: str) -> ModuleType:
    folder = str(Path(path).parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = Path(path).stem
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == path:
        return loaded
    if loaded is not None:
        name = f"{name}_{hashlib.blake2b(path.encode(), digest_size=4).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ProgramError(f"{path} is no Python file", hint="give the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _cannot_import(path, error) from error
    return module


def _cannot_import(what: str, error: BaseException) -> ProgramError:
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return ProgramError(
        f"The program {what} cannot be imported: {text}", hint="run it with python to see where it fails"
    )


def build_of(module: ModuleType | None, types: Iterable[ProcessType[Any, Any]]) -> str:
    """The build of a program whose file is that of `module`, with these process types."""
    return _digest(_files(module, types))


def _files(module: ModuleType | None, types: Iterable[ProcessType[Any, Any]]) -> list[str]:
    """The files of the program's code."""
    files = {getattr(sys.modules.get(t.function.__module__), "__file__", None) for t in types}
    own = getattr(module, "__file__", None)
    if own is not None:
        folder = Path(own).parent
        for other in list(sys.modules.values()):
            file = getattr(other, "__file__", None)
            if file and file.endswith(".py") and Path(file).is_relative_to(folder) and "site-packages" not in file:
                files.add(file)
        files.add(own)
    sdk = Path(__file__).parent
    return sorted(f for f in files if f and not Path(f).is_relative_to(sdk))


def _digest(files: list[str]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    digest.update(f"{__version__} {sys.version_info[0]}.{sys.version_info[1]}".encode())
    for file in files:
        digest.update(Path(file).name.encode())
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()
