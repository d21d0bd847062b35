"""`regrow check` finds what in a process body would not replay, only there, and says what to write instead."""

from __future__ import annotations

import re
import sysconfig
import textwrap
from pathlib import Path

import pytest
from regrow._check_rules import CALLS, RULES, call_rule
from regrow.check import Finding, check_file, check_source

IMPORTS = """\
import asyncio, concurrent.futures, datetime, getpass, glob, http.client, io, os, platform, random, secrets, shutil
import socket, subprocess, sys, tempfile, threading, time, urllib.request, uuid
import aiohttp, httpx, requests
import numpy as np
from pathlib import Path
from collections import Counter, OrderedDict, defaultdict, deque
from regrow import agent_process, bubble, emit, expose, now, sleep, spawn, step, wait
"""
BODY_LINE = IMPORTS.count("\n") + 3


def check(source: str) -> list[Finding]:
    """Findings of a whole module."""
    return check_source(textwrap.dedent(source), "prog.py")


def check_body(body: str, decorator: str = "@agent_process", before: str = "") -> list[Finding]:
    """Findings of a process with `body`; its first line is `BODY_LINE` unless something stands before."""
    return check_source(
        f"{IMPORTS}{textwrap.dedent(before)}{decorator}\nasync def main(items: list[str], n: int = 0):\n"
        + textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
        + "\n",
        "prog.py",
    )


def codes(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings]


@pytest.mark.parametrize(
    ("code", "expression"),
    [
        ("RG001", "time.time()"),
        ("RG001", "time.time_ns()"),
        ("RG001", "time.monotonic()"),
        ("RG001", "time.perf_counter()"),
        ("RG001", "time.localtime()"),
        ("RG001", "datetime.datetime.now()"),
        ("RG001", "datetime.datetime.now(datetime.timezone.utc)"),
        ("RG001", "datetime.datetime.utcnow()"),
        ("RG001", "datetime.datetime.today()"),
        ("RG001", "datetime.date.today()"),
        ("RG002", "time.sleep(n)"),
        ("RG003", "random.random()"),
        ("RG003", "random.shuffle(items)"),
        ("RG003", "random.Random()"),
        ("RG003", "random.SystemRandom()"),
        ("RG003", "np.random.rand(3)"),
        ("RG003", "np.random.default_rng()"),
        ("RG003", "secrets.token_hex(8)"),
        ("RG003", "os.urandom(8)"),
        ("RG003", "uuid.uuid1()"),
        ("RG003", "uuid.uuid4()"),
        ("RG004", "id(items)"),
        ("RG004", "hash(items[0])"),
        ("RG005", "open('x')"),
        ("RG005", "io.open('x')"),
        ("RG005", "Path('x').read_text()"),
        ("RG005", "Path('x').exists()"),
        ("RG005", "(Path('x') / 'y').is_file()"),
        ("RG005", "Path('x').parent.joinpath('y').stat()"),
        ("RG005", "Path.cwd()"),
        ("RG005", "Path.home()"),
        ("RG005", "n.write_text('x')"),
        ("RG005", "n.rglob('*.py')"),
        ("RG005", "os.listdir('.')"),
        ("RG005", "os.path.exists('x')"),
        ("RG005", "os.getcwd()"),
        ("RG005", "shutil.rmtree('x')"),
        ("RG005", "tempfile.mkdtemp()"),
        ("RG005", "glob.glob('*')"),
        ("RG006", "subprocess.run(['ls'])"),
        ("RG006", "subprocess.check_output(['ls'])"),
        ("RG006", "os.system('ls')"),
        ("RG006", "os.popen('ls')"),
        ("RG006", "os.fork()"),
        ("RG006", "await asyncio.create_subprocess_exec('ls')"),
        ("RG006", "await asyncio.create_subprocess_shell('ls')"),
        ("RG007", "socket.socket()"),
        ("RG007", "socket.create_connection(('h', 1))"),
        ("RG007", "requests.get('http://h')"),
        ("RG007", "requests.Session()"),
        ("RG007", "httpx.post('http://h')"),
        ("RG007", "httpx.AsyncClient()"),
        ("RG007", "aiohttp.ClientSession()"),
        ("RG007", "urllib.request.urlopen('http://h')"),
        ("RG007", "http.client.HTTPSConnection('h')"),
        ("RG007", "await asyncio.open_connection('h', 1)"),
        ("RG007", "await asyncio.get_running_loop().create_connection(list, 'h', 1)"),
        ("RG008", "await asyncio.to_thread(sorted, items)"),
        ("RG008", "await asyncio.get_running_loop().run_in_executor(None, len, items)"),
        ("RG008", "threading.Thread(target=len)"),
        ("RG008", "threading.Lock()"),
        ("RG008", "concurrent.futures.ThreadPoolExecutor()"),
        ("RG010", "input()"),
        ("RG010", "sys.stdin.readline()"),
        ("RG010", "getpass.getpass()"),
        ("RG012", "os.environ['HOME']"),
        ("RG012", "os.environ.get('HOME')"),
        ("RG012", "'HOME' in os.environ"),
        ("RG012", "os.getenv('HOME')"),
        ("RG012", "os.getpid()"),
        ("RG012", "platform.node()"),
        ("RG016", "print(items)"),
    ],
)
def test_what_does_not_replay_is_found_where_it_stands(code: str, expression: str) -> None:
    """Each forbidden call gives exactly one finding, with its place and its reason."""
    (finding,) = check_body(f"x = {expression}\nreturn x")
    assert finding.code == code
    assert (finding.path, finding.line) == ("prog.py", BODY_LINE)
    assert finding.why == RULES[code].why
    assert finding.severity == RULES[code].severity
    assert finding.process == "main"
    assert finding.what
    assert finding.instead


@pytest.mark.parametrize(
    "expression",
    [
        "time.strptime(items[0], '%Y')",
        "datetime.datetime.fromisoformat(items[0])",
        "datetime.timedelta(seconds=n)",
        "random.Random(n).random()",
        "random.Random(x=n)",
        "np.random.default_rng(7)",
        "uuid.UUID(items[0])",
        "uuid.uuid5(uuid.NAMESPACE_URL, items[0])",
        "secrets.compare_digest(items[0], 'x')",
        "hash('constant')",
        "Path(items[0]).name",
        "Path('a') / 'b'",
        "Path('a').with_suffix('.py').as_posix()",
        "items[0].replace('a', 'b')",
        "os.path.join('a', 'b')",
        "os.path.basename(items[0])",
        "os.fspath(items[0])",
        "os.sep",
        "subprocess.list2cmdline(items)",
        "asyncio.Queue()",
        "await asyncio.gather(*[step(len, item) for item in items])",
        "await asyncio.wait_for(wait(), 5)",
        "asyncio.get_running_loop().time()",
        "asyncio.get_running_loop().create_task(wait())",
        "await asyncio.sleep(1)",
        "now()",
        "await sleep(60)",
        "requests.exceptions.HTTPError('x')",
        "httpx.Timeout(5)",
        "socket.AF_INET",
        "urllib.request.Request('http://h')",
        "items.pop()",
        "sys.version_info",
        "n.get('x')",
        "len({1, 2})",
        "sorted({1, 2})",
        "3 in {1, 2}",
        "sum(x for x in {1, 2})",
        "any(x > n for x in set(items))",
        "{x + 1 for x in {1, 2}}",
        "{*set(items), 'x'}",
        "sorted(map(str, set(items)))",
        "set(items) | {'x'}",
        "max(set(items))",
        "list(dict.fromkeys(items))",
        "sorted(set(items))[0]",
    ],
)
def test_what_replays_is_left_alone(expression: str) -> None:
    """Pure functions next to the forbidden ones, and all of regrow and asyncio, give no finding."""
    assert check_body(f"x = {expression}\nreturn x") == []


@pytest.mark.parametrize(
    ("imports", "call", "code"),
    [
        ("import time as t", "t.time()", "RG001"),
        ("from time import time", "time()", "RG001"),
        ("from time import monotonic as m", "m()", "RG001"),
        ("from time import *", "monotonic()", "RG001"),
        ("from datetime import datetime", "datetime.now()", "RG001"),
        ("from datetime import datetime as D", "D.utcnow()", "RG001"),
        ("import datetime as dt", "dt.datetime.now()", "RG001"),
        ("from datetime import date", "date.today()", "RG001"),
        ("from random import choice", "choice([1])", "RG003"),
        ("from uuid import uuid4 as new", "new()", "RG003"),
        ("import os.path", "os.path.exists('x')", "RG005"),
        ("from os import path", "path.exists('x')", "RG005"),
        ("import os.path as p", "p.exists('x')", "RG005"),
        ("from os import environ", "environ['x']", "RG012"),
        ("from subprocess import run", "run(['ls'])", "RG006"),
        ("from urllib.request import urlopen", "urlopen('x')", "RG007"),
        ("import urllib.request as r", "r.urlopen('x')", "RG007"),
        ("from concurrent.futures import ThreadPoolExecutor as T", "T()", "RG008"),
        ("from concurrent import futures", "futures.ThreadPoolExecutor()", "RG008"),
        ("import pathlib", "pathlib.Path('x').exists()", "RG005"),
        ("try:\n    import time as t\nexcept ImportError:\n    t = None", "t.time()", "RG001"),
    ],
)
def test_an_import_alias_hides_nothing(imports: str, call: str, code: str) -> None:
    """However a module or function was imported, at the top or in the body, it is recognised."""
    process = "from regrow import agent_process\n@agent_process\nasync def main():\n"
    assert codes(check_source(f"{imports}\n{process}    return {call}\n", "p.py")) == [code]
    if "*" not in imports and not imports.startswith("try"):
        assert codes(check_source(f"{process}    {imports}\n    return {call}\n", "p.py")) == [code]


@pytest.mark.parametrize(
    "source",
    [
        "from regrow import random, uuid4\n@agent_process\nasync def main():\n    return random(), uuid4()",
        "from regrow import *\n@agent_process\nasync def main():\n    return random(), uuid4(), now()",
        "import regrow\n@agent_process\nasync def main():\n    return regrow.random()",
        "@agent_process\nasync def main(time):\n    return time.time()",
        "import time\n@agent_process\nasync def main(clock):\n    time = clock\n    return time.time()",
        "import time\n@agent_process\nasync def main(clocks):\n    for time in clocks:\n        time.time()",
        "@agent_process\nasync def main(open, id):\n    return open('x'), id(3)",
        "def open(x): return x\n@agent_process\nasync def main():\n    return open('x')",
        "class random:\n    pass\n@agent_process\nasync def main():\n    return random.random()",
        "from .clock import time\n@agent_process\nasync def main():\n    return time.time()",
        "from mylib import time\n@agent_process\nasync def main():\n    return time.time()",
    ],
)
def test_a_name_that_stands_for_something_else_is_not_taken_for_the_module(source: str) -> None:
    """Parameters, variables, functions and classes shadow; other packages may have modules of the same name."""
    if "regrow import *" not in source:
        source = "from regrow import agent_process\n" + source
    assert check_source(source, "p.py") == []


@pytest.mark.parametrize(
    "header",
    [
        "from regrow import agent_process\n@agent_process",
        "from regrow import agent_process\n@agent_process()",
        "from regrow import agent_process\n@agent_process(timeout=5, name='x')",
        "from regrow import agent_process\n@agent_process(resume='replay')",
        "from regrow import agent_process as process\n@process",
        "from regrow import agent_process as process\n@process(timeout=5)",
        "import regrow\n@regrow.agent_process",
        "import regrow as rg\n@rg.agent_process(timeout=5)",
        "from regrow import *\n@agent_process",
        "from regrow.process import agent_process\n@agent_process",
        "from regrow import agent_process\nMODE = 'replay'\n@agent_process(resume=MODE)",
        "import functools\nfrom regrow import agent_process\n@agent_process\n@functools.wraps(len)",
    ],
)
def test_a_process_is_recognised_by_any_form_of_its_decorator(header: str) -> None:
    """With and without arguments, under any name, whole or by its module."""
    source = f"import time\n{header}\nasync def main():\n    return time.time()\n"
    assert codes(check_source(source, "p.py")) == ["RG001"]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "@other",
        "from mylib import agent_process\n@agent_process",
        "import regrow.ramure\n@regrow.ramure.agent_process",
    ],
)
def test_what_is_no_replayed_process_is_not_checked(header: str) -> None:
    """Ordinary functions may do what they like, also those with a decorator of the same name from elsewhere."""
    source = (
        f"import time, random\nfrom regrow import step\n{header}\nasync def main():\n    time.sleep(random.random())\n"
    )
    assert check_source(source, "p.py") == []


RESTART = "@agent_process(resume='restart')"


def test_a_restart_body_may_do_any_io() -> None:
    """It is started again, not replayed: only notes and mistakes of form count."""
    body = """
        t = time.time()
        print(t)
        step(len, items)
        for x in set(items):
            open(x)
        """
    findings = check_body(body, RESTART)
    assert codes(findings) == ["RG016", "RG013"]
    assert [finding.severity for finding in findings] == ["note", "error"]
    assert codes(check_body(body)) == ["RG001", "RG016", "RG013", "RG009", "RG005"]


def test_a_helper_of_a_restart_and_of_a_replay_body_is_checked_for_the_latter() -> None:
    """That one caller may do it does not excuse the other."""
    source = """
        import time
        from regrow import agent_process
        def stamp(): return time.time()
        @agent_process(resume="restart")
        async def free(): return stamp()
        """
    assert check(source) == []
    (finding,) = check(source + "\n        @agent_process\n        async def bound(): return stamp()\n")
    assert (finding.code, finding.line, finding.process) == ("RG001", 4, "bound")


# Steps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "return await step(time.time)",
        "return await step(lambda: time.time())",
        "return await step(lambda p: open(p).read(), items[0])",
        "return await step(requests.get, 'http://h', timeout=5)",
        "return await step(Path(items[0]).read_text)",
        """
        def load(path):
            return open(path).read()
        return await step(load, items[0])
        """,
        """
        import functools
        async def fetch(url):
            async with httpx.AsyncClient() as client:
                return await client.get(url)
        return await asyncio.gather(step(fetch, items[0]), step(functools.partial(fetch, items[1])))
        """,
        """
        read = lambda: os.environ["HOME"]
        return await step(read, retries=2)
        """,
    ],
)
def test_what_a_step_does_is_its_own_affair(body: str) -> None:
    """Functions, lambdas and nested functions that only go to `step(...)` are not part of the body."""
    assert check_body(body) == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return await step(len, time.time())", ["RG001"]),
        ("return await step(open('x').read)", ["RG005"]),
        ("return await step(items.pop, key=lambda: time.time())", ["RG001"]),
        ("def load():\n    return open('x')\nload()\nreturn await step(load)", ["RG005"]),
        ("def load():\n    return open('x')\nreturn await step(load())", ["RG005"]),
        ("def load():\n    return open('x')\nreturn [load for _ in items]", ["RG005"]),
        ("return sorted(items, key=lambda p: Path(p).stat().st_size)", ["RG005"]),
        ("async def inner():\n    time.sleep(1)\nawait asyncio.gather(inner())", ["RG002"]),
        ("@expose\nasync def ask():\n    return input()\nawait wait()", ["RG010"]),
        ("class Box:\n    def fill(self):\n        return random.random()\nreturn Box().fill()", ["RG003"]),
        ("def f(x=time.time()):\n    return x\nreturn f()", ["RG001"]),
    ],
)
def test_what_the_body_itself_evaluates_is_checked(body: str, expected: list[str]) -> None:
    """Arguments of a step, nested functions that are called, endpoints, methods and default values."""
    assert codes(check_body(body)) == expected


def test_a_step_under_another_name_is_still_a_step() -> None:
    """Aliases count for `step` as they do for the rest."""
    source = """
        import time, regrow
        from regrow import agent_process, step as do
        @agent_process
        async def main():
            a = await do(lambda: time.time())
            return a, await regrow.step(lambda: time.time())
        """
    assert check(source) == []


# Functions of the same module -----------------------------------------------------------------------------------------


def test_helpers_are_followed_through_all_their_calls() -> None:
    """What a helper of a helper does is found at its own line, and the message names the process that leads there."""
    source = """
        import time
        from regrow import agent_process

        async def outer(): return await middle()
        async def middle(): return inner() + middle_again()
        def middle_again(): return inner()
        def inner():
            return time.time()

        def unused(): return time.time()

        @agent_process
        async def main(): return await outer()
        """
    (finding,) = check(source)
    assert (finding.line, finding.code, finding.process) == (9, "RG001", "main")
    assert finding.what == "`time.time()` (clock) in `inner`, which process `main` calls"


def test_functions_that_call_each_other_end() -> None:
    """Recursion is walked once."""
    source = """
        import time
        from regrow import agent_process
        def ping(n): return pong(n - 1)
        def pong(n): return ping(n - 1) if n else time.time()
        @agent_process
        async def main(n: int): return ping(n)
        """
    assert codes(check(source)) == ["RG001"]


def test_helpers_that_only_go_to_steps_are_not_followed() -> None:
    """A module's function may do any I/O as long as it runs as a step."""
    source = """
        import functools, pathlib
        from regrow import agent_process, step
        def read(path): return pathlib.Path(path).read_text()
        @agent_process
        async def main(path: str):
            return await step(read, path), await step(functools.partial(read, path))
        """
    assert check(source) == []
    assert codes(check(source + "\n        @agent_process\n        async def two(p: str): return read(p)\n")) == [
        "RG005"
    ]


def test_a_child_process_is_checked_once_and_for_itself() -> None:
    """Awaiting another process is no call of a helper."""
    source = """
        import time
        from regrow import agent_process
        @agent_process(resume="restart")
        async def free(): return time.time()
        @agent_process
        async def child(): return time.time()
        @agent_process
        async def main(): return await child(), await free()
        """
    (finding,) = check(source)
    assert finding.process == "child"


def test_a_local_function_hides_the_module_s() -> None:
    """A call goes to the nearest function of that name."""
    source = """
        import time
        from regrow import agent_process
        def stamp(): return time.time()
        @agent_process
        async def main():
            def stamp(): return 0
            return stamp()
        """
    assert check(source) == []


# Sets -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "for x in {1, 2}:\n    emit('x', x)",
        "for x in set(items):\n    emit('x', x)",
        "seen = set()\nseen.add(1)\nfor x in seen:\n    emit('x', x)",
        "seen: set[str] = load()\nfor x in seen:\n    emit('x', x)",
        "seen: 'set[str] | None' = load()\nfor x in seen:\n    emit('x', x)",
        "seen = {x for x in items}\nreturn [x for x in seen]",
        "return list(set(items))",
        "return tuple(frozenset(items))",
        "return ','.join({str(x) for x in items})",
        "return [x for x in set(items)]",
        "return {x: 1 for x in set(items)}",
        "return (x for x in set(items))",
        "a, b = set(items)",
        "print_all(*set(items))",
        "return [*set(items)]",
        "return set(items).pop()",
        "return next(iter(set(items)))",
        "return list(enumerate(set(items)))[0]",
        "return dict.fromkeys(set(items))",
        "a = set(items)\nfor x in a | {'b'}:\n    emit('x', x)",
        "a = set(items)\nfor x in a.union(items):\n    emit('x', x)",
        "a = set(items)\na |= {'z'}\nfor x in a:\n    emit('x', x)",
        "for x in dict.fromkeys(items).keys() - {'b'}:\n    emit('x', x)",
        "a = b = set()\nfor x in b:\n    emit('x', x)",
    ],
)
def test_using_the_order_of_a_set_is_found(body: str) -> None:
    """Loops, comprehensions, conversions, unpacking and `pop` depend on an order that a set does not have."""
    findings = [finding for finding in check_body(body) if finding.code != "RG016"]
    assert codes(findings) == ["RG009"]


def test_a_function_s_set_parameter_has_no_order_either() -> None:
    """Annotated parameters of a body or helper count as sets."""
    source = """
        from typing import AbstractSet
        from regrow import agent_process
        def names(found: AbstractSet[str]): return [x for x in found]
        @agent_process
        async def main(wanted: set[str], kept: frozenset[str] | None = None):
            for x in wanted:
                pass
            for x in kept:
                pass
            return names(wanted)
        """
    assert codes(check(source)) == ["RG009"] * 3


@pytest.mark.parametrize(
    "body",
    [
        "names = set(items)\nnames = sorted(names)\nfor x in names:\n    emit('x', x)",
        "for x in sorted(set(items)):\n    emit('x', x)",
        "seen = set()\nfor x in items:\n    if x not in seen:\n        seen.add(x)",
        "for x in dict.fromkeys(items):\n    emit('x', x)",
        "done, pending = await asyncio.wait([asyncio.create_task(wait())])\nfor task in done:\n    emit('x', 1)",
        "a = 7 - n\nfor x in range(a | 1):\n    emit('x', x)",
        "for seen in items:\n    pass\nseen = {1}\nfor x in seen:\n    pass",
    ],
)
def test_ordered_things_are_not_taken_for_sets(body: str) -> None:
    """Only what is certainly a set is reported."""
    assert check_body(body) == []


# Module state ---------------------------------------------------------------------------------------------------------

STATE = """\
CACHE: dict[str, int] = {}
LOG = []
SEEN = set()
COUNTS = Counter()
GROUPS = defaultdict(list)
RECENT = deque(maxlen=3)
TOTAL = 0
NAMES = ("a", "b")
class Config:
    size = 3
"""


@pytest.mark.parametrize(
    "statement",
    [
        "LOG.append(1)",
        "LOG.extend(items)",
        "SEEN.add(1)",
        "COUNTS.update(items)",
        "RECENT.appendleft(1)",
        "GROUPS['a'].append(1)",
        "LOG[0] = 1",
        "LOG[0] += 1",
        "del LOG[0]",
        "LOG[0], x = 1, 2",
        "Config.size = 4",
        "main.calls = 1",
        "sys.argv = []",
        "global TOTAL\nTOTAL += 1",
    ],
)
def test_changing_the_module_s_state_is_found(statement: str) -> None:
    """A body's state is its variables: the module's is shared by all processes of a host and lost with it."""
    assert codes(check_body(statement, before=STATE)) == ["RG011"]


def test_an_annotated_container_of_the_module_counts() -> None:
    """`CACHE: dict[str, int] = {}` is as mutable as without its annotation."""
    assert codes(check_body("CACHE['x'] = 1", before=STATE)) == ["RG011"]
    assert codes(check_body("CACHE.update(x=1)", before=STATE)) == ["RG011"]
    assert codes(check_body("MADE.update(x=1)", before="MADE: dict[str, int] = make()\n")) == ["RG011"]
    assert codes(check_body("MADE.update(x=1)", before="MADE: Box = make()\n")) == []


@pytest.mark.parametrize(
    "statement",
    [
        "x = LOG[0]",
        "x = len(LOG) + NAMES.index('a')",
        "x = CACHE.get('a')",
        "LOG = []\nLOG.append(1)",
        "CACHE = {}\nCACHE['a'] = 1",
        "items.append('x')",
        "items[0] = 'x'",
        "count = 0\ndef inc():\n    nonlocal count\n    count += 1\ninc()",
        "results = []\n@expose\nasync def add(x: int):\n    results.append(x)\nawait wait()",
    ],
)
def test_reading_the_module_and_changing_one_s_own_is_fine(statement: str) -> None:
    """Constants of a module are no state, and local names hide the module's."""
    assert check_body(statement, before=STATE) == []


# Form -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("step(len, items)", True),
        ("sleep(5)", True),
        ("wait()", True),
        ("asyncio.sleep(5)", True),
        ("x = step(len, items)", True),
        ("await step(len, items)", False),
        ("x = step(len, items)\nreturn await x", False),
        ("await asyncio.gather(step(len, items), sleep(5))", False),
        ("task = asyncio.create_task(sleep(5))\nreturn await task", False),
        ("task = asyncio.create_task(sleep(5))", False),
        ("async with asyncio.TaskGroup() as group:\n    group.create_task(step(len, items))", False),
        ("later = step(len, items)\nasync def inner():\n    await later\nawait inner()", False),
    ],
)
def test_a_step_that_nobody_awaits_is_found(statement: str, found: bool) -> None:
    """A coroutine that is dropped does nothing; one that is awaited later or given to a task does."""
    assert codes(check_body(statement)) == (["RG013"] if found else [])


@pytest.mark.parametrize(
    "source",
    [
        "def factory():\n    @agent_process\n    async def inner(): ...\n    return inner",
        "async def factory():\n    @agent_process(timeout=3)\n    async def inner(): ...",
        "class Box:\n    @agent_process\n    async def run(self): ...",
        "class Box:\n    class Inner:\n        @agent_process\n        async def run(self): ...",
    ],
)
def test_a_process_that_no_host_could_find_is_reported(source: str) -> None:
    """Process types are found by name in their module."""
    findings = check_source(f"from regrow import agent_process\n{source}\n", "p.py")
    assert codes(findings) == ["RG014"]


@pytest.mark.parametrize("guard", ["if True:", "try:", "with suppress():"])
def test_a_process_behind_a_condition_of_the_module_is_at_its_top_level(guard: str) -> None:
    """Statements of the module nest, functions and classes hide."""
    end = "\nfinally: ..." if guard == "try:" else ""
    source = f"from regrow import agent_process\n{guard}\n    @agent_process\n    async def run(): ...{end}\n"
    assert check_source(source, "p.py") == []


def test_the_body_of_a_nested_process_is_checked_with_the_names_around_it() -> None:
    """It is wrong twice: where it stands, and in what it does."""
    source = """
        from regrow import agent_process
        def factory():
            from time import time as clock
            @agent_process
            async def inner(): return clock()
        """
    assert codes(check(source)) == ["RG014", "RG001"]


def test_sync_processes_and_endpoints_are_reported() -> None:
    """Both run on the process's loop and must be `async def`."""
    source = """
        import regrow
        from regrow import agent_process, expose

        @agent_process
        def main():
            @expose
            def ask(): ...
            @regrow.expose
            async def answer(): ...
        @expose
        def outside(): ...
        """
    findings = check(source)
    assert [(finding.line, finding.code) for finding in findings] == [(5, "RG017"), (7, "RG015"), (11, "RG015")]
    assert findings[1].instead == "`async def ask`"


def test_a_tool_that_is_not_async() -> None:
    """The tools of an agent are endpoints, too; what else has a method `on` is not meant. `agent()` is awaited."""
    source = """
        from regrow import agent, agent_process

        @agent_process
        async def main(other):
            worker = await agent("w")
            @worker.on("finish")
            def finish(): ...
            @worker.on
            async def more(): ...
            @other.on("x")
            def unrelated(): ...
            agent("x")
        """
    assert [(finding.line, finding.code) for finding in check(source)] == [(7, "RG015"), (13, "RG013")]


# Suppression, places, output ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x = time.time()  # regrow: ignore[RG001]", []),
        ("x = time.time()  # regrow: ignore", []),
        ("x = time.time()  # because … # regrow:ignore[RG001]", []),
        ("x = time.time() + random.random()  # regrow: ignore[RG001]", ["RG003"]),
        ("x = time.time() + random.random()  # regrow: ignore[RG003, RG001]", []),
        ("x = time.time()  # regrow: ignore[RG003]", ["RG001"]),
        ("x = time.time(), '# regrow: ignore[RG001]'", ["RG001"]),
        ("x = 1  # regrow: ignore[RG001]\ny = time.time()", ["RG001"]),
        ("x = open(\n    'x',\n)  # regrow: ignore[RG005]", []),
        ("x = open(  # regrow: ignore[RG005]\n    'x',\n)", []),
    ],
)
def test_a_comment_suppresses_what_it_names_on_its_lines(line: str, expected: list[str]) -> None:
    """Only a comment, only on the lines of what is found, and only the codes it names."""
    assert codes(check_body(line)) == expected


def test_a_mistake_of_form_is_suppressed_at_the_decorator_or_the_def() -> None:
    """The body's comments do not count for its header."""
    source = """
        from regrow import agent_process
        def factory():
            @agent_process  # regrow: ignore[RG014]
            async def one(): ...
            @agent_process
            async def two():  # regrow: ignore[RG014]
                ...
            @agent_process
            async def three():
                ...  # regrow: ignore[RG014]
        """
    assert [finding.process for finding in check(source)] == ["three"]


def test_findings_come_in_the_order_of_the_file_with_line_and_column() -> None:
    """Lines and columns count from 1, as editors do, and each place is reported once."""
    source = """\
        import time, random
        from regrow import agent_process
        def helper(): return time.time()
        @agent_process
        async def one():
            return random.random(), helper()
        @agent_process
        async def two(): return helper(), time.time(), time.time()
        """
    findings = check(source)
    assert [(f.line, f.column, f.code) for f in findings] == [
        (3, 22, "RG001"),
        (6, 12, "RG003"),
        (8, 35, "RG001"),
        (8, 48, "RG001"),
    ]
    assert findings == sorted(findings)


def test_a_finding_reads_as_one_line() -> None:
    """What stands there, why it does not replay, what to write instead."""
    (finding,) = check(
        "import time as t\nfrom regrow import agent_process\n@agent_process\nasync def main(): t.time()\n"
    )
    assert str(finding) == (
        "prog.py:4:19: RG001 error: `t.time()` is `time.time()` (clock). The clock shows another time when the body is "
        "replayed. Instead: `now()`, or `await step(time.time)` for the real clock"
    )


@pytest.mark.parametrize("source", ["def x(:\n", "x = '\n", "\0", "  x = 1\n", "async def f(): return await"])
def test_what_does_not_parse_is_one_finding(source: str) -> None:
    """No traceback: the place, as far as Python tells it."""
    (finding,) = check_source(source, "p.py")
    assert (finding.code, finding.path, finding.severity) == ("RG000", "p.py", "error")
    assert finding.line >= 1


def test_files_are_read_in_their_own_coding(tmp_path: Path) -> None:
    """A coding line is obeyed; one that lies is a finding; a missing file is the caller's OSError."""
    path = tmp_path / "prog.py"
    body = "import time\nfrom regrow import agent_process\n@agent_process\nasync def main():\n    'ü'; time.time()\n"
    path.write_bytes(f"# -*- coding: latin-1 -*-\n{body}".encode("latin-1"))
    assert [(finding.line, finding.code) for finding in check_file(path)] == [(6, "RG001")]
    path.write_bytes(body.encode("latin-1"))
    assert codes(check_file(path)) == ["RG000"]
    path.write_bytes(b"# coding: no-such-coding\n")
    assert codes(check_file(str(path))) == ["RG000"]
    with pytest.raises(FileNotFoundError):
        check_file(tmp_path / "nothing.py")


CLEAN = '''
"""A process over the standard library, written as the guide says."""
from __future__ import annotations
import ast, asyncio, collections, dataclasses, datetime, functools, heapq, itertools, json, re, statistics
from pathlib import Path
from regrow import ProcessHandle, agent_process, bubble, done, emit, expose, fail, now, random, sleep, spawn, step
from regrow import uuid4, wait

LIMIT = 8
PATTERN = re.compile(r"TODO")

@dataclasses.dataclass
class Report:
    name: str
    lines: int = 0
    tags: list[str] = dataclasses.field(default_factory=list)

    def key(self) -> tuple[int, str]:
        return -self.lines, self.name

def files(folder: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).rglob("*.py"))

def count(path: str) -> int:
    return Path(path).read_text().count("\\n")

def merge(reports: list[Report]) -> dict[str, int]:
    total: collections.Counter[str] = collections.Counter()
    for report in reports:
        total.update({report.name: report.lines})
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))

@agent_process(timeout=60)
async def worker(name: str, paths: list[str]) -> Report:
    report = Report(name)
    gate = asyncio.Semaphore(LIMIT)
    async def one(path: str) -> None:
        async with gate:
            report.lines += await step(count, path, retries=2)
        emit("file", {"path": path, "at": now().isoformat()})
    async with asyncio.TaskGroup() as group:
        for path in paths:
            group.create_task(one(path))
    return report

@agent_process
async def main(folder: str = "") -> dict[str, int]:
    handles: dict[str, ProcessHandle] = {}
    reports: list[Report] = []
    queue: asyncio.Queue[Report] = asyncio.Queue()
    seen: set[str] = set()

    @expose
    async def add(name: str) -> list[str]:
        if name in seen:
            raise ValueError(f"{name} is there")
        seen.add(name)
        return sorted(seen)

    for name, group in itertools.groupby(await step(files, folder), key=lambda path: path.split("/")[0]):
        handles[name] = spawn(worker, name, list(group))
        bubble(handles[name], source=name)
    for name, handle in handles.items():
        try:
            async with asyncio.timeout(30):
                await queue.put(await handle)
        except TimeoutError:
            handle.cancel()
            emit("late", {"name": name, "jitter": random(), "id": str(uuid4())})
    while not queue.empty():
        reports.append(queue.get_nowait())
    if not reports:
        fail("nothing there")
    await sleep(datetime.timedelta(seconds=1).total_seconds())
    lines = [report.lines for report in heapq.nsmallest(3, reports, key=Report.key)]
    emit("done_soon", json.loads(json.dumps({"mean": statistics.fmean(lines), "first": functools.reduce(max, lines)})))
    return merge(reports)
'''


def test_a_clean_program_has_no_findings() -> None:
    """A whole program in the recommended style, over much of the standard library."""
    assert check_source(CLEAN, "clean.py") == []


@pytest.mark.timeout(300)  # it takes seconds of a processor that others want, too
def test_any_python_can_be_checked() -> None:
    """Every module of the standard library, its functions made processes, is walked without an error."""
    folder = Path(sysconfig.get_path("stdlib"))
    paths = sorted(folder.glob("*.py"))
    assert len(paths) > 100
    total = 0
    for path in paths:
        source = path.read_text(encoding="utf-8", errors="replace")
        decorated = re.sub(r"^(async )?def ", r"@agent_process\n\g<0>", source, flags=re.MULTILINE)
        findings = check_source(f"{decorated}\nfrom regrow import agent_process\n", str(path))
        assert all(finding.code in RULES and finding.line >= 1 for finding in findings)
        assert "RG000" not in codes(findings), path
        total += len([finding for finding in findings if finding.code not in {"RG016", "RG017"}])
    assert total > 200


def test_the_table_is_whole() -> None:
    """Every rule of a call has a reason, and nothing of regrow or of asyncio's own falls under one."""
    assert all(code in RULES and instead for code, instead in CALLS.values())
    for name in (
        "regrow.random",
        "regrow.step",
        "asyncio.gather",
        "asyncio.Lock",
        "time.strftime",
        "json.loads",
        "re.sub",
    ):
        assert call_rule(name) is None
    assert call_rule("shutil.anything.below") == ("RG005", "Do it in a step: `await step(shutil.anything.below, …)`")
