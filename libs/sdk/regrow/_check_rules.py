"""What a process body may not do, as one table: codes with their reasons, and the calls that fall under each.

`RULES` gives every code its title and why it does not replay. `CALLS` maps the dotted name of a callable to its code
and to what to write instead; a key that ends in `.*` stands for everything below it. `METHODS` are methods whose name
alone tells.
docs/guides/determinism.md is written from this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "note"]


@dataclass(frozen=True)
class Rule:
    """One code: a short title, why it matters, and whether it is only a note."""

    title: str
    why: str
    severity: Severity = "error"


RULES: dict[str, Rule] = {
    "RG000": Rule("not Python", "A file that does not parse cannot run."),
    "RG001": Rule("clock", "The clock shows another time when the body is replayed."),
    "RG002": Rule("blocking sleep", "It stops every process of the host, and on replay it waits again."),
    "RG003": Rule("randomness", "Every replay would draw other values."),
    "RG004": Rule("identity or hash", "Addresses and hashes differ from one interpreter to the next."),
    "RG005": Rule("file I/O", "A replay would find other files, and would write again."),
    "RG006": Rule("subprocess", "A replay would run the command again."),
    "RG007": Rule("network", "A replay would send the request again and get another answer."),
    "RG008": Rule("threads", "Threads finish in an order that no replay repeats."),
    "RG009": Rule("order of a set", "A set has no order that another interpreter keeps."),
    "RG010": Rule("terminal input", "Nobody types it again on replay, and a host has no terminal."),
    "RG011": Rule("module state", "All processes of a host share it, and no replay restores it."),
    "RG012": Rule("environment", "Another host has another environment."),
    "RG013": Rule("never awaited", "Nothing happens until it is awaited."),
    "RG014": Rule("process not at module level", "A host finds process types by name in their module."),
    "RG015": Rule("sync endpoint", "An endpoint runs on the process's loop."),
    "RG016": Rule("print", "It is printed again whenever the body runs again; hosts mute it while replaying.", "note"),
    "RG017": Rule("sync process", "A process body runs on the process's loop."),
}

STEP = "Do it in a step: `await step({name}, …)`"
_CLOCK = "`now()`, or `await step({name})` for the real clock"
_RANDOM = "`random()`, or a `random.Random(seed)` with a seed that was passed in or drawn with `random()`"
_UUID = "`uuid4()` of regrow"
_ENV = "An argument of the process, or `await step(…)` that reads it"
_RESTART = 'Do it in a step, or write the body for `resume="restart"`'
_ENTRY = '`await step({name}, …)`; a long-lived connection belongs into a step or a `resume="restart"` process'

_words = str.split

_TIME = _words("time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time thread_time")
_OS_FILES = _words(
    """
    access chdir chmod chown fwalk getcwd link listdir lstat makedirs mkdir mkfifo open read readlink remove
    removedirs rename renames replace rmdir scandir stat statvfs symlink truncate unlink utime walk write
    """
)
_OS_PATH = _words(
    """
    abspath exists expanduser expandvars getatime getctime getmtime getsize isdir isfile islink ismount lexists
    realpath samefile
    """
)
_OS_PROCESSES = _words(
    """
    abort execl execle execlp execv execve execvp fork forkpty kill killpg popen posix_spawn posix_spawnp spawnl
    spawnv startfile system wait waitpid
    """
)
_OS_HOST = _words("cpu_count getenv getenvb getlogin getpgid getpid getppid getuid uname")
_HTTP_VERBS = _words("delete get head options patch post put request stream")

CALLS: dict[str, tuple[str, str]] = {
    **{f"time.{name}": ("RG001", _CLOCK) for name in (*_TIME, "localtime", "gmtime", "ctime")},
    "time.sleep": ("RG002", "`await sleep(seconds)`"),
    **{f"datetime.datetime.{name}": ("RG001", _CLOCK) for name in ("now", "utcnow", "today")},
    "datetime.date.today": ("RG001", _CLOCK),
    "random.*": ("RG003", _RANDOM),
    "numpy.random.*": ("RG003", STEP),
    "secrets.*": ("RG003", STEP),
    "os.urandom": ("RG003", STEP),
    "os.getrandom": ("RG003", STEP),
    "uuid.uuid1": ("RG003", _UUID),
    "uuid.uuid4": ("RG003", _UUID),
    "builtins.id": ("RG004", "A number that the body counts itself, or `uuid4()`"),
    "builtins.hash": ("RG004", "`zlib.crc32(…)` or `hashlib` over bytes"),
    "builtins.open": ("RG005", STEP),
    "io.open": ("RG005", STEP),
    **{f"os.{name}": ("RG005", STEP) for name in _OS_FILES},
    **{f"os.path.{name}": ("RG005", STEP) for name in _OS_PATH},
    "pathlib.Path.cwd": ("RG005", STEP),
    "pathlib.Path.home": ("RG005", STEP),
    **{f"{name}.*": ("RG005", STEP) for name in ("shutil", "tempfile", "glob", "sqlite3", "fileinput", "linecache")},
    "subprocess.*": ("RG006", STEP),
    **{f"os.{name}": ("RG006", STEP) for name in _OS_PROCESSES},
    "asyncio.create_subprocess_exec": ("RG006", _RESTART),
    "asyncio.create_subprocess_shell": ("RG006", _RESTART),
    **{
        f"{name}.*": ("RG007", _ENTRY) for name in ("socket", "ftplib", "smtplib", "imaplib", "poplib", "xmlrpc.client")
    },
    **{f"{name}.*": ("RG007", _ENTRY) for name in ("websockets", "websocket", "asyncssh", "paramiko", "nats", "redis")},
    **{
        f"{lib}.{verb}": ("RG007", _ENTRY)
        for lib in ("requests", "httpx", "aiohttp", "urllib3")
        for verb in _HTTP_VERBS
    },
    "requests.Session": ("RG007", _ENTRY),
    "requests.session": ("RG007", _ENTRY),
    "httpx.Client": ("RG007", _ENTRY),
    "httpx.AsyncClient": ("RG007", _ENTRY),
    "aiohttp.ClientSession": ("RG007", _ENTRY),
    "urllib3.PoolManager": ("RG007", _ENTRY),
    "urllib.request.urlopen": ("RG007", _ENTRY),
    "urllib.request.urlretrieve": ("RG007", _ENTRY),
    "urllib.request.build_opener": ("RG007", _ENTRY),
    "http.client.HTTPConnection": ("RG007", _ENTRY),
    "http.client.HTTPSConnection": ("RG007", _ENTRY),
    "asyncio.open_connection": ("RG007", _RESTART),
    "asyncio.open_unix_connection": ("RG007", _RESTART),
    "asyncio.start_server": ("RG007", _RESTART),
    "asyncio.start_unix_server": ("RG007", _RESTART),
    "asyncio.to_thread": ("RG008", "`await step(fn, …)`: a step runs a sync function in a thread"),
    "threading.*": ("RG008", "`asyncio` tasks, locks and events, or child processes with `spawn`"),
    "multiprocessing.*": ("RG008", "Child processes with `spawn`, or a step"),
    "concurrent.futures.ThreadPoolExecutor": ("RG008", "`asyncio.gather` over steps"),
    "concurrent.futures.ProcessPoolExecutor": ("RG008", "`asyncio.gather` over steps"),
    "builtins.input": ("RG010", "An endpoint (`@expose`) that whoever knows the answer calls"),
    "getpass.getpass": ("RG010", "An endpoint (`@expose`) that whoever knows the answer calls"),
    "sys.stdin.*": ("RG010", "An endpoint (`@expose`) that whoever knows the answer calls"),
    **{f"os.{name}": ("RG012", _ENV) for name in _OS_HOST},
    "os.environ.*": ("RG012", _ENV),
    "platform.*": ("RG012", _ENV),
    "builtins.print": ("RG016", "`emit(type, data)` for what others shall see"),
}

PURE = frozenset(
    {
        "secrets.compare_digest",
        "glob.escape",
        "random.Random",  # flagged where it is called without a seed
        "numpy.random.default_rng",
        "numpy.random.Generator",
        "numpy.random.SeedSequence",
        "threading.TIMEOUT_MAX",
        "subprocess.list2cmdline",
        *(f"socket.{name}" for name in ("htonl", "htons", "inet_aton", "inet_ntoa", "inet_pton", "inet_ntop", "ntohs")),
        *(f"subprocess.{name}" for name in ("CalledProcessError", "TimeoutExpired", "CompletedProcess")),
    }
)
"""Names under a `.*` key that replay."""

SEEDED = {"random.Random": _RANDOM, "numpy.random.default_rng": "`numpy.random.default_rng(seed)`"}
"""Generators that replay when they are given a seed."""

METHODS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("read_text", "read_bytes", "write_text", "write_bytes", "iterdir", "rglob"), ("RG005", STEP)),
    "run_in_executor": ("RG008", "`await step(fn, …)`: a step runs a sync function in a thread"),
    "subprocess_exec": ("RG006", _RESTART),
    "subprocess_shell": ("RG006", _RESTART),
}
"""Methods flagged on any receiver."""

PATH_METHODS = frozenset(
    _words(
        """
        absolute chmod exists expanduser glob group hardlink_to is_dir is_file is_mount is_socket is_symlink lchmod
        lstat mkdir open owner readlink rename replace resolve rmdir samefile stat symlink_to touch unlink walk
        """
    )
)
"""Methods flagged on what is known to be a `pathlib.Path`."""

_LOOP_NETWORK = _words("create_connection create_server create_datagram_endpoint create_unix_connection getaddrinfo")
_LOOP_THREADS = _words("call_soon_threadsafe add_reader add_writer add_signal_handler")

LOOP_METHODS = dict.fromkeys(_LOOP_NETWORK, "RG007") | dict.fromkeys(_LOOP_THREADS, "RG008")
"""Methods flagged on what is known to be the event loop."""

MUTATORS = frozenset(
    _words(
        """
        add append appendleft clear difference_update discard extend extendleft insert intersection_update move_to_end
        pop popitem popleft remove reverse rotate setdefault sort subtract symmetric_difference_update update
        """
    )
)
"""Methods that change a list, dict, set, deque, Counter or OrderedDict."""


def call_rule(name: str) -> tuple[str, str] | None:
    """(code, what to write instead) of a call of the dotted `name`; None when it replays."""
    if name in PURE:
        return None
    found = CALLS.get(name)
    prefix = name
    while found is None and "." in prefix:
        prefix = prefix.rpartition(".")[0]
        found = CALLS.get(f"{prefix}.*")
    if found is None:
        return None
    shown = name.removeprefix("builtins.")
    return found[0], found[1].replace("{name}", shown)
