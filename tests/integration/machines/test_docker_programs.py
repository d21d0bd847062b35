"""Programs and files of a Docker machine."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import AsyncIterator

import pytest
from docker_engine import IMAGE, docker_backend, docker_client, docker_engine  # noqa: F401 - fixtures
from regrow_machine_manager.backend import Data, MachineFailed
from regrow_machine_manager.backends.docker import DockerBackend
from regrow_machine_manager.folders import Folders
from regrow_protocol.ids import new_id
from regrow_protocol.images import DockerImage

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("docker")]


@pytest.fixture
async def machine(docker_backend: DockerBackend) -> Data:  # noqa: F811
    image = DockerImage(IMAGE, pull="never", env={"COLOUR": "blue"})
    return (await docker_backend.spawn(new_id("m"), image, load={})).data


async def sh(backend: DockerBackend, data: Data, script: str, *, user: str = "agent", stdin: bytes = b"") -> bytes:
    done = await backend.exec(data, ["sh", "-c", script], user=user, stdin=stdin)
    assert done.exit_code == 0, done
    return done.stdout


async def test_outputs_and_exit_code_are_told_apart(docker_backend: DockerBackend, machine: Data) -> None:  # noqa: F811
    done = await docker_backend.exec(machine, ["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (done.exit_code, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


async def test_arguments_are_not_for_a_shell(docker_backend: DockerBackend, machine: Data) -> None:  # noqa: F811
    done = await docker_backend.exec(machine, ["echo", "$HOME; ls", "--", "-n 'x'"])
    assert done.stdout == b"$HOME; ls -- -n 'x'\n"


async def test_users(docker_backend: DockerBackend, machine: Data) -> None:  # noqa: F811
    """`agent` is the image's, `root` has uid 0, a name is looked up, and one that is no name is refused."""
    look = "id -u; echo $HOME; echo $COLOUR"
    who = [await sh(docker_backend, machine, look, user=user) for user in ("agent", "root", "1000")]
    assert who == [b"1000\n/agent\nblue\n", b"0\n/\nblue\n", b"1000\n/agent\nblue\n"]
    for name in ("nobody-here", "-u", "a b", ""):
        with pytest.raises(MachineFailed, match="user"):
            await docker_backend.exec(machine, ["true"], user=name)


async def test_a_program_that_is_missing(docker_backend: DockerBackend, machine: Data) -> None:  # noqa: F811
    done = await docker_backend.exec(machine, ["no-such-program"])
    assert done.exit_code == 127
    assert not done.stdout
    assert b"not found" in done.stderr


async def test_megabytes_through_a_program(docker_backend: DockerBackend, machine: Data) -> None:  # noqa: F811
    """20 MB of random bytes come back as they went in, while the same goes to the other output."""
    content = os.urandom(20_000_000)
    done = await docker_backend.exec(machine, ["tee", "/dev/stderr"], stdin=content)
    assert done.exit_code == 0
    wanted = hashlib.sha256(content).digest()
    assert hashlib.sha256(done.stdout).digest() == wanted
    assert hashlib.sha256(done.stderr).digest() == wanted


async def test_input_that_nobody_reads(docker_backend: DockerBackend, machine: Data) -> None:  # noqa: F811
    done = await docker_backend.exec(machine, ["sh", "-c", "head -c 3; exit 4"], stdin=b"abc" + bytes(8_000_000))
    assert (done.exit_code, done.stdout) == (4, b"abc")


async def test_no_input_is_an_empty_one(docker_backend: DockerBackend, machine: Data) -> None:  # noqa: F811
    assert await sh(docker_backend, machine, "cat; echo end") == b"end\n"


async def test_64_programs_at_a_time(docker_backend: DockerBackend, machine: Data) -> None:  # noqa: F811
    """All 64 run at the same time: each waits for the last one."""
    script = "echo >/tmp/$1; while [ $(ls /tmp | wc -l) -lt 64 ]; do sleep 0.05; done; echo $1"
    runs = (docker_backend.exec(machine, ["sh", "-c", script, "sh", str(n)]) for n in range(64))
    async with asyncio.timeout(50):
        done = await asyncio.gather(*runs)
    assert [d.stdout for d in done] == [b"%d\n" % n for n in range(64)]


async def test_what_it_starts_in_a_session_of_its_own_goes_on(
    docker_backend: DockerBackend, machine: Data  # noqa: F811
) -> None:  # fmt: skip
    script = "setsid sh -c 'sleep 0.3; echo done >/tmp/late' </dev/null >/dev/null 2>&1 & echo started"
    assert await sh(docker_backend, machine, script) == b"started\n"
    assert await sh(docker_backend, machine, "until [ -s /tmp/late ]; do sleep 0.02; done; cat /tmp/late") == b"done\n"


async def test_a_background_program_that_keeps_the_output_open_holds_nobody_up(
    docker_backend: DockerBackend, machine: Data  # noqa: F811
) -> None:  # fmt: skip
    async with asyncio.timeout(20):
        assert await sh(docker_backend, machine, "sleep 600 & echo started") == b"started\n"


async def test_a_caller_that_gives_up_leaves_the_program(
    docker_backend: DockerBackend, machine: Data  # noqa: F811
) -> None:  # fmt: skip
    script = "echo on >/tmp/on; until [ -e /tmp/go ]; do sleep 0.02; done; echo ran >/tmp/ran"
    run = asyncio.create_task(docker_backend.exec(machine, ["sh", "-c", script]))
    await sh(docker_backend, machine, "until [ -e /tmp/on ]; do sleep 0.02; done")
    run.cancel()
    await asyncio.wait([run])
    assert run.cancelled()
    assert await sh(docker_backend, machine, "touch /tmp/go; until [ -s /tmp/ran ]; do sleep 0.02; done; cat /tmp/ran")


async def test_nobody_gains_privileges(docker_backend: DockerBackend, machine: Data) -> None:  # noqa: F811
    """A setuid program of root runs as who called it."""
    await sh(docker_backend, machine, "cp /bin/busybox /tmp/id && chmod 4755 /tmp/id", user="root")
    assert b"euid=0" not in await sh(docker_backend, machine, "/tmp/id")
    assert await sh(docker_backend, machine, "grep NoNewPrivs /proc/self/status") == b"NoNewPrivs:\t1\n"


async def test_killing_all_that_one_may_leaves_the_machine(
    docker_backend: DockerBackend, machine: Data  # noqa: F811
) -> None:  # fmt: skip
    await docker_backend.exec(machine, ["sh", "-c", "kill -9 -1"])
    assert await sh(docker_backend, machine, "echo here") == b"here\n"


# Files ----------------------------------------------------------------------------------------------------------------


async def test_files_come_back(docker_backend: DockerBackend, machine: Data) -> None:  # noqa: F811
    """With odd names, in folders that were not there, owned by the user, also empty ones."""
    for path, content in (
        ("/workspace/a b/ü\n'$(x)'", os.urandom(1024 * 1024)),
        ("/workspace/-n", b"x"),
        ("/workspace/empty", b""),
        ("/agent/x/y", b"\0\xff\r\n"),
    ):
        await docker_backend.write(machine, path, content)
        assert await docker_backend.read(machine, path) == content
    assert await sh(docker_backend, machine, "stat -c '%U %a' /workspace/-n; ls -A /workspace") == (
        b"agent 644\n-n\na b\nempty\n"
    )


async def test_a_large_file(docker_backend: DockerBackend, machine: Data) -> None:  # noqa: F811
    content = os.urandom(32 * 1024 * 1024)
    await docker_backend.write(machine, "/workspace/large", content)
    assert await docker_backend.read(machine, "/workspace/large") == content


async def test_parts_of_a_file(docker_backend: DockerBackend, machine: Data) -> None:  # noqa: F811
    content = os.urandom(3_000_000)
    await docker_backend.write(machine, "/workspace/file", content)
    end = len(content)
    for offset, limit in ((0, 10), (0, 0), (1, None), (end - 1, 5), (end, 5), (3 * end, None), (777, 2_000_000)):
        part = await docker_backend.read(machine, "/workspace/file", offset=offset, limit=limit)
        assert part == content[offset:][:limit], (offset, limit)


async def test_modes_and_owners(docker_backend: DockerBackend, machine: Data) -> None:  # noqa: F811
    """A mode is set where one is given, and kept where a file is replaced; a link is followed."""
    await docker_backend.write(machine, "/workspace/run", b"#!/bin/sh\necho one", mode=0o750)
    await sh(docker_backend, machine, "ln -s run /workspace/link")
    await docker_backend.write(machine, "/workspace/link", b"#!/bin/sh\necho two")
    assert await sh(docker_backend, machine, "cd /workspace && ./run && stat -c %a run && readlink link") == (
        b"two\n750\nrun\n"
    )
    await docker_backend.write(machine, "/etc/of-root", b"", user="root", mode=stat.S_ISUID | 0o700)
    assert await sh(docker_backend, machine, "stat -c '%U %a' /etc/of-root") == b"root 4700\n"


async def test_a_user_has_no_more_rights_by_files_than_by_programs(
    docker_backend: DockerBackend, machine: Data  # noqa: F811
) -> None:  # fmt: skip
    await sh(docker_backend, machine, "mkdir -m 700 /secret; echo s >/secret/s; echo p >/p; chmod 600 /p", user="root")
    for path in ("/secret/s", "/p"):
        with pytest.raises(PermissionError):
            await docker_backend.read(machine, path)
    for path in ("/etc/new", "/secret/s", "/etc/deep/new", "/proc/new"):
        with pytest.raises((PermissionError, FileNotFoundError)):
            await docker_backend.write(machine, path, b"x")
    assert await docker_backend.read(machine, "/secret/s", user="root") == b"s\n"


async def test_what_is_no_file(docker_backend: DockerBackend, machine: Data) -> None:  # noqa: F811
    for path, error in (
        ("/nope", FileNotFoundError),
        ("/etc/passwd/below", FileNotFoundError),
        ("/etc", IsADirectoryError),
        ("/", IsADirectoryError),
        ("/dev/zero", MachineFailed),
    ):
        with pytest.raises(error):
            await docker_backend.read(machine, path)
    for path, error in (("/workspace", IsADirectoryError), ("/", IsADirectoryError), ("/dev/null", MachineFailed)):
        with pytest.raises(error):
            await docker_backend.write(machine, path, b"x")


async def test_a_file_that_does_not_fit_leaves_the_old_one(
    docker_backend: DockerBackend, machine: Data  # noqa: F811
) -> None:  # fmt: skip
    """/dev/shm holds 64 MiB."""
    await sh(docker_backend, machine, "head -c 60000000 /dev/zero >/dev/shm/fill; echo old >/dev/shm/file")
    with pytest.raises(MachineFailed, match="No space"):
        await docker_backend.write(machine, "/dev/shm/file", bytes(20_000_000))
    assert await sh(docker_backend, machine, "cat /dev/shm/file; ls -A /dev/shm") == b"old\nfile\nfill\n"


async def test_folders_come_by_archives(
    docker_backend: DockerBackend, machine: Data  # noqa: F811
) -> None:  # fmt: skip
    """They are the user's, with the user's rights, whole or not there; who exchanges what is on the way for links to
    another's file does not have it written."""
    data = machine
    content = os.urandom(5_000_000)
    await docker_backend.write(data, "/workspace/new/big", content, mode=0o640)
    await docker_backend.write(data, "/srv/big", content, user="root")
    assert await docker_backend.read(data, "/workspace/new/big") == content
    said = await sh(docker_backend, data, "stat -c '%U %a' /workspace/new/big; stat -c '%U' /srv/big", user="root")
    assert said == b"agent 640\nroot\n"
    with pytest.raises(PermissionError):
        await docker_backend.write(data, "/etc/passwd", content)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        info = tarfile.TarInfo("file")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))

    async def parts() -> AsyncIterator[bytes]:
        yield packed.getvalue()[:3_000_000]
        yield packed.getvalue()[3_000_000:]

    plant = "cd /var/lib/regrow && ln -s /etc/passwd c.1.in.0 && ln -s /etc folders"
    await sh(docker_backend, data, f"passwd=$(cat /etc/passwd); {plant}")
    before = await sh(docker_backend, data, "cat /etc/passwd; ls /etc")
    await Folders(docker_backend).unpack(data, "c.1", "/workspace/there", parts(), "agent")
    assert await docker_backend.read(data, "/workspace/there/file") == content
    assert await sh(docker_backend, data, "cat /etc/passwd; ls /etc") == before
    assert await sh(docker_backend, data, "cd /var/lib/regrow; find . -type f | grep -v commands || :") == b""
