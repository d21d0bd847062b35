"""Connections to hosts over SSH: shared, cut, refused, passed over, through others."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from machine_waiting import until as eventually
from regrow_machine_manager.backend import BackendUnavailable, Data, MachineFailed, Node
from regrow_machine_manager.backends import _ssh_link, _ssh_links
from regrow_machine_manager.backends.ssh import SSHBackend
from regrow_protocol.ids import new_id
from ssh_server import Login, SSHServer, keygen, make_login, until


@pytest.fixture(scope="module")
def login() -> Iterator[Login]:
    with make_login() as made:
        yield made


@pytest.fixture
def server(login: Login) -> Iterator[SSHServer]:
    with SSHServer(login) as made:
        yield made


@pytest_asyncio.fixture
async def backend(tmp_path: Path) -> AsyncIterator[SSHBackend]:
    made = SSHBackend(Node("here", tmp_path))
    await made.open()
    yield made
    await made.close()


async def spawn(backend: SSHBackend, server: SSHServer, **options: object) -> Data:
    return (await backend.spawn(new_id("m"), server.image(**options), load={})).data


async def test_machines_share_a_connection(backend: SSHBackend, server: SSHServer) -> None:
    """Programs and files of three machines on a host go over one connection."""
    machines = [await spawn(backend, server) for _ in range(3)]
    for data in machines:
        await backend.exec(data, ["true"])
        await backend.write(data, f"{data['workdir']}/x", b"1")
    assert server.logins() == 1
    await backend.close()
    until(lambda: server.logins() == 0, "the end of the connection")


async def test_more_programs_than_sessions(backend: SSHBackend, server: SSHServer) -> None:
    """40 programs at once run to their end on a server that takes 10 sessions, over few connections."""
    data = await spawn(backend, server)
    done = await asyncio.gather(*(backend.exec(data, ["sh", "-c", f"sleep 0.1; echo {n}"]) for n in range(40)))
    assert [int(one.stdout) for one in done] == list(range(40))
    assert server.logins() <= _ssh_links.MAX_LINKS
    await backend.stop(data)


async def test_a_server_that_takes_fewer_sessions(backend: SSHBackend, login: Login) -> None:
    """Where `MaxSessions` is 2, programs and files wait for each other instead of failing."""
    with SSHServer(login, "MaxSessions 2") as server:
        data = await spawn(backend, server)
        programs = [backend.exec(data, ["sh", "-c", f"echo {n}"]) for n in range(20)]
        files = [backend.write(data, f"{data['workdir']}/{n}", b"1") for n in range(5)]
        done, _ = await asyncio.gather(asyncio.gather(*programs), asyncio.gather(*files))
        assert [int(one.stdout) for one in done] == list(range(20))
        await backend.stop(data)


async def test_a_cut_connection_is_told_and_made_again(backend: SSHBackend, server: SSHServer) -> None:
    """A program whose connection is cut may have run, and that is said; the next one has a new connection."""
    data = await spawn(backend, server)
    running = asyncio.create_task(backend.exec(data, ["sh", "-c", "touch began; exec sleep 60"]))
    began = Path(data["workdir"]) / "began"
    await eventually(began.exists, "the program began")
    assert await asyncio.to_thread(server.cut) >= 1
    async with asyncio.timeout(40):
        with pytest.raises(BackendUnavailable, match="lost"):
            await running
        assert (await backend.exec(data, ["echo", "again"])).stdout == b"again\n"
    await backend.stop(data)


async def test_a_connection_that_has_just_gone(backend: SSHBackend, server: SSHServer) -> None:
    """A program and a file for which it is used in the very moment in which it goes have another one."""
    data = await spawn(backend, server)
    path = f"{data['workdir']}/x"
    await backend.write(data, path, b"1")
    for use in (lambda: backend.exec(data, ["echo", "again"]), lambda: backend.read(data, path)):
        (link,) = backend.links._server(backend.address(data))._alive()
        link._connection.abort()
        await use()
    await backend.stop(data)


async def test_a_connection_that_does_not_answer(
    backend: SSHBackend, server: SSHServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that stays open but answers nothing is given up; programs say so and files go another way."""
    with monkeypatch.context() as patched:  # of the first connection only: under load 3 s without an answer are few
        patched.setattr(_ssh_link, "ALIVE_EVERY", 1.0)
        data = await spawn(backend, server)
    path = f"{data['workdir']}/x"
    await backend.write(data, path, b"1")
    running = asyncio.create_task(backend.exec(data, ["sh", "-c", "touch began; exec sleep 60"]))
    await eventually((Path(data["workdir"]) / "began").exists, "the program began")
    await asyncio.to_thread(server.freeze)
    async with asyncio.timeout(60):
        assert await backend.read(data, path) == b"1"
        with pytest.raises(BackendUnavailable, match="lost"):
            await running
    await asyncio.to_thread(server.cut)
    await backend.stop(data)


async def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where asyncssh is not installed the backend says which extra brings it."""
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    _ssh_link.load_asyncssh.cache_clear()
    with pytest.raises(BackendUnavailable, match=r"regrow\[ssh\]"):
        await SSHBackend(Node("here", tmp_path)).open()


async def test_files_go_on_after_a_cut(backend: SSHBackend, server: SSHServer) -> None:
    """Reading and writing are tried again by themselves when the connection is cut under them."""
    data = await spawn(backend, server)
    path = f"{data['workdir']}/big"
    content = b"0123456789" * 1_000_000
    for _ in range(3):
        writing = asyncio.create_task(backend.write(data, path, content))
        await eventually(lambda w=writing: [*Path(data["workdir"]).glob(".regrow.part.*")] or w.done(), "a part")
        await asyncio.to_thread(server.cut)
        await writing
        assert await backend.read(data, path) == content
    await backend.stop(data)


async def test_a_server_that_comes_back(backend: SSHBackend, server: SSHServer) -> None:
    """While the server is down that is said at once each time; when it is back, the machine is as it was."""
    data = await spawn(backend, server)
    await backend.write(data, f"{data['workdir']}/x", b"1")
    server.stop()
    async with asyncio.timeout(40):
        for _ in range(3):
            with pytest.raises(BackendUnavailable):
                await backend.exec(data, ["true"])
    server.start()
    assert await backend.read(data, f"{data['workdir']}/x") == b"1"
    await backend.stop(data)


async def test_attempts_to_connect_are_shared_and_paced(backend: SSHBackend, server: SSHServer) -> None:
    """Many callers of a host that is down cost few attempts to connect."""
    data = await spawn(backend, server)
    server.stop()
    await eventually(lambda: not backend.links._server(backend.address(data))._alive(), "the loss")
    calls = [asyncio.create_task(backend.exec(data, ["true"])) for _ in range(50)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(one, BackendUnavailable) for one in results)
    assert backend.links._server(backend.address(data))._failures == 1


async def test_closing_while_connecting(backend: SSHBackend, server: SSHServer) -> None:
    """Who waits for a connection when the backend is closed is told so, and is not taken for cancelled."""
    data = await spawn(backend, server)
    await backend.close()
    calls = [asyncio.create_task(backend.exec(data, ["true"])) for _ in range(3)]
    links = backend.links._server(backend.address(data))
    await eventually(lambda: links._opening is not None, "an attempt")
    await backend.close()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in results] == [BackendUnavailable] * 3
    await backend.stop(data)


async def test_an_unknown_host_key_is_refused(backend: SSHBackend, server: SSHServer, tmp_path: Path) -> None:
    """A server whose key is not, or is another, in known_hosts gets no machine; nor is there a way without the file."""
    empty = tmp_path / "empty"
    empty.touch()
    other = keygen(tmp_path / "other").with_suffix(".pub").read_text()
    changed = tmp_path / "changed"
    changed.write_text(f"[127.0.0.1]:{server.port} {other}")
    for known in (empty, changed):
        with pytest.raises(MachineFailed, match="ssh-keyscan") as caught:
            await spawn(backend, server, known_hosts=str(known))
        assert "is not in" in caught.value.message
    with pytest.raises(MachineFailed, match="There is no"):
        await spawn(backend, server, known_hosts=str(tmp_path / "none"))
    assert server.logins() == 0


async def test_a_wrong_key_is_refused(backend: SSHBackend, server: SSHServer, tmp_path: Path) -> None:
    """A login that the server refuses, and a key that cannot be used, are told with what to do about it."""
    stranger = keygen(tmp_path / "stranger")
    with pytest.raises(MachineFailed, match=r"refuses the login.*authorized_keys"):
        await spawn(backend, server, key=str(stranger))
    with pytest.raises(MachineFailed, match="There is no key"):
        await spawn(backend, server, key=str(tmp_path / "none"))
    (tmp_path / "rubbish").write_text("rubbish")
    with pytest.raises(MachineFailed, match="cannot be used"):
        await spawn(backend, server, key=str(tmp_path / "rubbish"))


async def test_the_least_loaded_host_is_taken(backend: SSHBackend, login: Login) -> None:
    """Of a pool the host with the fewest machines is taken, in the order given when they are alike."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(SSHServer(login)) for _ in range(3)]
        known = login.folder / "pool"
        known.write_text("".join(server.known_hosts.read_text() for server in servers))
        places = [f"127.0.0.1:{server.port}" for server in servers]
        hosts = [places[0], f"{login.name}@{places[1]}", places[2]]
        image = servers[0].image(host=None, hosts=hosts, known_hosts=str(known))
        load: dict[str, int] = {}
        for expected in (0, 1, 2, 0):
            made = await backend.spawn(new_id("m"), image, load=load)
            assert made.host == places[expected]
            load[made.host] = load.get(made.host, 0) + 1
        servers[1].stop()
        passed = await backend.spawn("m_passed", image, load=load)
        assert passed.host == places[2]
        load[places[2]] = 7
        assert (await backend.spawn("m_passed", image, load=load)).host == places[2]  # where it was made
        servers[0].stop()
        servers[2].stop()
        with pytest.raises(BackendUnavailable, match="None of 3 hosts"):
            await backend.spawn(new_id("m"), image, load=load)
        wrong = servers[0].image(host=None, hosts=hosts, key=str(login.folder / "none"))
        with pytest.raises(MachineFailed, match="None of 3 hosts"):
            await backend.spawn(new_id("m"), wrong, load={})


async def test_a_host_behind_another(backend: SSHBackend, server: SSHServer, login: Login) -> None:
    """A host is reached through a jump host, cut or not, and a shell is too; its ports are not."""
    with SSHServer(login) as jump:
        known = login.folder / "both"
        known.write_text(server.known_hosts.read_text() + jump.known_hosts.read_text())
        through = f"{login.name}@127.0.0.1:{jump.port}"
        data = await spawn(backend, server, jump=through, known_hosts=str(known))
        assert (jump.logins(), server.logins()) == (1, 1)
        second = await spawn(backend, server, jump=through, known_hosts=str(known))
        assert (jump.logins(), server.logins()) == (1, 1)
        await asyncio.to_thread(jump.cut)
        await eventually(lambda: not backend.links._server(backend.address(data))._alive(), "the loss")
        await backend.write(data, f"{data['workdir']}/x", b"1")
        assert await backend.read(data, f"{data['workdir']}/x") == b"1"
        with pytest.raises(MachineFailed, match="only reached through"):
            await backend.expose(data, 80)
        if shutil.which("ssh"):
            program = await asyncio.create_subprocess_exec(
                *backend.shell(data), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=-3
            )
            stdout, _ = await program.communicate(b"pwd\n")
            assert stdout.decode().split()[-1] == data["workdir"]
        jump.stop()
        with pytest.raises(BackendUnavailable):
            await backend.exec(second, ["true"])
        jump.start()
        await backend.stop(data)
        await backend.stop(second)


async def test_unused_connections_are_closed(
    backend: SSHBackend, server: SSHServer, login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that nobody uses is closed after a while, also the one that it went through."""
    monkeypatch.setattr(_ssh_links, "IDLE", 0.05)
    with SSHServer(login) as jump:
        known = login.folder / "idle"
        known.write_text(server.known_hosts.read_text() + jump.known_hosts.read_text())
        data = await spawn(backend, server, jump=f"{login.name}@127.0.0.1:{jump.port}", known_hosts=str(known))
        await eventually(lambda: (jump.logins(), server.logins()) == (0, 0), "the end of both")
        assert (await backend.exec(data, ["echo", "1"])).stdout == b"1\n"
        await backend.stop(data)


@pytest.mark.parametrize(
    "options",
    [
        {"host": "-oProxyCommand=touch /tmp/x"},
        {"host": "127.0.0.1 -v"},
        {"host": "a\nb"},
        {"host": None, "hosts": ["-x:22"]},
        {"host": "127.0.0.1:99999"},
        {"user": "-l"},
        {"user": "a b"},
        {"user": "a\0"},
        {"host": "-u@127.0.0.1"},
        {"jump": "-oProxyCommand=x@y"},
        {"key": "-x"},
        {"known_hosts": "a\nb"},
        {"workdir": "a\nb"},
        {"host": None},
        {"hosts": ["a"]},
    ],
)
async def test_options_cannot_be_smuggled_in(
    backend: SSHBackend, server: SSHServer, options: dict[str, object]
) -> None:
    """Nothing of an image can be taken for an option or for more than one thing."""
    with pytest.raises(MachineFailed) as caught:
        await spawn(backend, server, **options)
    assert caught.value.code == "invalid-address"
    assert server.logins() == 0 or "workdir" in options
