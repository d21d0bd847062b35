"""Docker machines: made, found, limited, snapshotted, forked and removed."""

from __future__ import annotations

import asyncio
import os
import pty
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from docker_engine import (  # fixtures
    IMAGE,
    Engine,
    docker_backend,  # noqa: F401
    docker_client,  # noqa: F401
    docker_engine,  # noqa: F401
    opened,
    tar,
)
from regrow_machine_manager.backend import Data, MachineFailed, MachineLost, Unsupported
from regrow_machine_manager.backends.docker import DockerBackend
from regrow_protocol.ids import new_id
from regrow_protocol.images import DockerImage, InvalidImage

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("docker")]

Client = Any


async def spawn(backend: DockerBackend, machine: str = "", **fields: Any) -> Data:
    image = DockerImage(fields.pop("image", IMAGE), **{"pull": "never", **fields})
    return (await backend.spawn(machine or new_id("m"), image, load={})).data


async def sh(backend: DockerBackend, data: Data, script: str, *, user: str = "agent") -> str:
    done = await backend.exec(data, ["sh", "-c", script], user=user)
    assert done.exit_code == 0, done
    return done.stdout.decode()


def variant(client: Client, name: str, base: str = IMAGE, files: bytes = b"", **config: Any) -> str:
    """An image made from the base."""
    container = client.create_container(base, command=["true"], **config)["Id"]
    if files:
        client.put_archive(container, "/", files)
    client.commit(container, name, "1")
    client.remove_container(container, v=True)
    return f"{name}:1"


# Made and found -------------------------------------------------------------------------------------------------------


async def test_the_same_id_is_the_same_machine(docker_backend: DockerBackend) -> None:  # noqa: F811
    """Made again while it is, and after, it is found with what is in it."""
    machine = new_id("m")
    first, second = await asyncio.gather(spawn(docker_backend, machine), spawn(docker_backend, machine))
    await sh(docker_backend, first, "echo mine >/workspace/file")
    third = await spawn(docker_backend, machine)
    assert first == second == third
    assert await sh(docker_backend, third, "cat /workspace/file") == "mine\n"
    assert set(await docker_backend.made()) == {machine}


async def test_a_machine_that_was_created_and_not_started_is_completed(
    docker_backend: DockerBackend, docker_client: Client  # noqa: F811
) -> None:  # fmt: skip
    """As after a crash between the two."""
    machine = new_id("m")
    labels = {"regrow.machine": machine}
    docker_client.create_container(IMAGE, ["1000000"], entrypoint=["sleep"], name=f"regrow-{machine}", labels=labels)
    data = await spawn(docker_backend, machine, workdir="/deep/er/work")
    assert await sh(docker_backend, data, "touch /deep/er/work/x; stat -c %U /deep /deep/er /") == (
        "agent\nagent\nroot\n"
    )
    await docker_backend.stop(data)


async def test_a_container_of_somebody_else_is_not_taken(
    docker_backend: DockerBackend, docker_client: Client  # noqa: F811
) -> None:  # fmt: skip
    machine = new_id("m")
    theirs = docker_client.create_container(IMAGE, ["true"], name=f"regrow-{machine}")["Id"]
    try:
        with pytest.raises(MachineFailed, match="not Regrow's"):
            await spawn(docker_backend, machine)
        assert docker_client.inspect_container(theirs)
    finally:
        docker_client.remove_container(theirs)


async def test_stop_ends_all_that_was_made_and_can_be_repeated(
    docker_backend: DockerBackend, docker_client: Client  # noqa: F811
) -> None:  # fmt: skip
    data = await spawn(docker_backend)
    mounts = docker_client.inspect_container(data["container"])["Mounts"]
    await sh(docker_backend, data, "setsid sleep 1000 </dev/null >/dev/null 2>&1 &")
    await asyncio.gather(docker_backend.stop(data), docker_backend.stop(data))
    await docker_backend.stop(data)
    assert not docker_client.containers(all=True, filters={"name": data["container"]})
    assert not docker_client.volumes({"name": mounts[0]["Name"]})["Volumes"]
    assert await docker_backend.made() == {}
    assert not await docker_backend.attach(data)
    with pytest.raises(MachineLost):
        await docker_backend.exec(data, ["true"])
    with pytest.raises(MachineLost):
        await docker_backend.read(data, "/etc/passwd")
    with pytest.raises(MachineLost):
        await docker_backend.expose(data, 80)
    with pytest.raises(MachineLost):
        await docker_backend.snapshot(data, new_id("s"))


async def test_it_ends_at_once_when_asked_to(docker_backend: DockerBackend, docker_client: Client) -> None:  # noqa: F811
    """`docker stop` takes no grace: SIGTERM ends it."""
    data = await spawn(docker_backend)
    docker_client.stop(data["container"], timeout=50)  # longer than a test may take
    state = docker_client.inspect_container(data["container"])["State"]
    assert state["ExitCode"] == 128 + 15


async def test_machines_of_others_are_not_among_the_made(
    docker_engine: Engine, docker_backend: DockerBackend, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    """Of another node, and of a manager of another store on a node of the same name."""
    node = docker_backend.node.name
    async with opened(tmp_path, node, "other") as namesake, opened(tmp_path) as elsewhere:
        machines = {backend: new_id("m") for backend in (docker_backend, namesake, elsewhere)}
        await asyncio.gather(*(spawn(backend, machine) for backend, machine in machines.items()))
        for backend, machine in machines.items():
            assert set(await backend.made()) == {machine}


# What it is like ------------------------------------------------------------------------------------------------------


async def test_fields_of_the_image_arrive(
    docker_backend: DockerBackend, docker_client: Client  # noqa: F811
) -> None:  # fmt: skip
    fields: dict[str, Any] = {"memory": "64m", "cpus": 0.5, "pids": 50, "network": "none", "env": {"A": "1=2 3"}}
    data = await spawn(docker_backend, workdir="/work/here", **fields)
    host = docker_client.inspect_container(data["container"])["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (64 * 1024**2, 500_000_000, 50)
    assert host["MemorySwap"] in (host["Memory"], -1)  # -1: the kernel counts no swap
    assert await sh(docker_backend, data, 'echo "$A"; ls -d /sys/class/net/*; stat -c %U /work/here') == (
        "1=2 3\n/sys/class/net/lo\nagent\n"
    )
    assert docker_backend.env(data) == {"A": "1=2 3"}
    assert docker_backend.workdir(data) == "/work/here"
    assert docker_backend.memory(DockerImage(IMAGE, memory="64m")) == 64 * 1024**2
    assert docker_backend.memory(DockerImage(IMAGE)) == 0


async def test_a_program_that_takes_too_much_memory_ends_and_the_machine_stays(
    docker_backend: DockerBackend,  # noqa: F811
) -> None:
    data = await spawn(docker_backend, memory="32m")
    done = await docker_backend.exec(data, ["sh", "-c", "x=a; while :; do x=$x$x; done"])
    assert done.exit_code == 137
    assert await sh(docker_backend, data, "echo here") == "here\n"


async def test_too_many_processes_are_refused(docker_backend: DockerBackend) -> None:  # noqa: F811
    data = await spawn(docker_backend, pids=20)
    script = "for n in $(seq 40); do sleep 1000 </dev/null >/dev/null 2>&1 & done"
    done = await docker_backend.exec(data, ["sh", "-c", script])
    assert b"can't fork" in done.stderr


async def test_whose_the_commands_are(docker_backend: DockerBackend, docker_client: Client) -> None:  # noqa: F811
    """The image's `user`, else `agent`, else the container image's own."""
    passwd = tar({"etc/passwd": (0o644, b"root:x:0:0::/:/bin/sh\nworker:x:77:78::/tmp:/bin/sh\n", 0)})
    root_only = variant(docker_client, "regrow-test-root", files=passwd, user="0")
    own = variant(docker_client, "regrow-test-own", root_only, user="worker")
    try:
        for image, user, wanted in (
            (IMAGE, None, "1000:1000"), (IMAGE, "root", "0:0"), (IMAGE, "1234", "1234:0"), (IMAGE, "5:6", "5:6"),
            (root_only, None, "0:0"), (own, None, "77:78"), (own, "root", "0:0"), (own, "worker:5", "77:5"),
        ):  # fmt: skip
            data = await spawn(docker_backend, image=image, user=user)
            found = await sh(docker_backend, data, "touch /workspace/x && echo $(id -u):$(id -g)")
            assert found.strip() == wanted, (image, user)
            assert (await sh(docker_backend, data, "id -u", user="root")).strip() == "0"
        for wrong in ("nobody-here", "agent:no-such-group"):
            machine = new_id("m")
            with pytest.raises(MachineFailed, match="has no"):
                await spawn(docker_backend, machine, user=wrong)
            assert machine not in await docker_backend.made()
    finally:
        for data in (await docker_backend.made()).values():
            await docker_backend.stop(data)
        for image in (own, root_only):
            docker_client.remove_image(image)


async def test_a_workdir_that_is_there_stays_as_it_is(docker_backend: DockerBackend) -> None:  # noqa: F811
    data = await spawn(docker_backend, workdir="/etc")
    assert await sh(docker_backend, data, "stat -c '%U %a' /etc; cat /etc/group | wc -l") == "root 755\n2\n"


async def test_volumes(docker_backend: DockerBackend, docker_client: Client, tmp_path: Path) -> None:  # noqa: F811
    """Folders of the node and named volumes, which outlive the machine; `:ro` ones cannot be written."""
    (tmp_path / "output").mkdir(mode=0o777)
    (tmp_path / "output").chmod(0o777)
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "file").write_text("from the node")
    name = new_id("v")
    try:
        volumes = {str(tmp_path / "input"): "/in:ro", str(tmp_path / "output"): "/out", name: "/kept"}
        data = await spawn(docker_backend, volumes=volumes)
        assert await sh(docker_backend, data, "cat /in/file; echo out >/out/file") == "from the node"
        await sh(docker_backend, data, "echo kept >/kept/file", user="root")
        with pytest.raises(PermissionError):
            await docker_backend.write(data, "/in/file", b"changed", user="root")
        await docker_backend.stop(data)
        assert (tmp_path / "output" / "file").read_text() == "out\n"
        data = await spawn(docker_backend, volumes={name: "/kept:ro"})
        assert await sh(docker_backend, data, "cat /kept/file") == "kept\n"
        await docker_backend.stop(data)
    finally:
        docker_client.remove_volume(name)


async def test_the_network_of_the_node(
    docker_backend: DockerBackend, docker_client: Client, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    """Only where the node's operator allows it, and under no other name."""
    [network] = docker_client.networks(names=["host"])
    for name in ("host", network["Id"], network["Id"][:12]):
        with pytest.raises(InvalidImage, match="--docker-host-network"):
            await spawn(docker_backend, network=name)
    assert await docker_backend.made() == {}
    async with opened(tmp_path, host_network=True) as backend:
        data = await spawn(backend, network="host")
        assert await sh(backend, data, "readlink /proc/self/ns/net") == f"{Path('/proc/self/ns/net').readlink()}\n"
        await backend.stop(data)


@pytest.mark.parametrize(
    "fields",
    [
        {"image": "--privileged"}, {"image": ""}, {"image": "a b"},
        {"workdir": "relative"}, {"workdir": "/"}, {"workdir": "/a/../b"}, {"workdir": "/a:b"},
        {"user": "-u"}, {"user": ""}, {"user": "a:b:c"}, {"user": "a b"},
        {"network": "container:other"}, {"network": ""}, {"network": "--net"},
        {"memory": "lots"}, {"memory": -1}, {"cpus": 0.0}, {"pids": 0}, {"gpus": 0},
        {"env": {"": "x"}}, {"env": {"A=B": "x"}}, {"env": {"A": "\0"}},
        {"volumes": {"/tmp:/etc": "/x"}}, {"volumes": {"../etc": "/x"}}, {"volumes": {"/a/../etc": "/x"}},
        {"volumes": {"name": "relative"}}, {"volumes": {"name": "/x:rw,z"}}, {"volumes": {"name": "/"}},
        {"volumes": {"name": "/var/lib/regrow/x"}}, {"volumes": {"name": "/var"}}, {"volumes": {"na/me": "/x"}},
        {"volumes": {"name": "/x:ro:ro"}}, {"volumes": {"type=bind,source=/etc": "/x"}},
    ],
    ids=str,
)  # fmt: skip
async def test_fields_that_are_not_what_they_should_be_are_refused(
    docker_backend: DockerBackend, fields: dict[str, Any]  # noqa: F811
) -> None:  # fmt: skip
    machine = new_id("m")
    with pytest.raises(InvalidImage):
        await spawn(docker_backend, machine, **fields)
    assert await docker_backend.made() == {}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"volumes": {"/no/such/folder": "/x"}}, "does not exist"),
        ({"network": "no-such-network"}, "no-such-network"),
        ({"memory": 1}, "emory"),
        ({"gpus": "all"}, "device driver"),
    ],
)
async def test_what_the_engine_refuses_is_told_and_leaves_nothing(
    docker_backend: DockerBackend, fields: dict[str, Any], said: str  # noqa: F811
) -> None:  # fmt: skip
    with pytest.raises(MachineFailed, match=said):
        await spawn(docker_backend, **fields)
    assert await docker_backend.made() == {}


async def test_images_that_cannot_be_had(docker_backend: DockerBackend) -> None:  # noqa: F811
    missing = "127.0.0.1:1/regrow/no-such-image:1"
    with pytest.raises(MachineFailed, match="has no image") as raised:
        await spawn(docker_backend, image=missing)
    assert raised.value.code == "image-missing"
    with pytest.raises(MachineFailed, match="cannot be fetched") as raised:
        await spawn(docker_backend, image=missing, pull="missing")
    assert raised.value.code == "pull-failed"
    assert (await spawn(docker_backend, pull="missing"))["container"]
    with pytest.raises(MachineFailed):
        await spawn(docker_backend, image=f"127.0.0.1:1/{IMAGE}", pull="always")


# Snapshots ------------------------------------------------------------------------------------------------------------


async def test_a_machine_goes_on_from_a_snapshot(
    docker_backend: DockerBackend, docker_client: Client  # noqa: F811
) -> None:  # fmt: skip
    """With its files and their owners, and without the manager's own; then the two go separate ways."""
    data = await spawn(docker_backend, env={"A": "1"})
    await sh(docker_backend, data, "echo one >/workspace/file; echo secret output >/var/lib/regrow/file")
    kept = await docker_backend.snapshot(data, "s_" + new_id("x"))
    await sh(docker_backend, data, "echo two >/workspace/file")
    image = DockerImage(IMAGE, pull="never", env={"A": "2"}, memory="64m")
    restored = (await docker_backend.restore(new_id("m"), image, kept, load={})).data
    look = "cat /workspace/file; stat -c %U /workspace/file; ls -A /var/lib/regrow; echo $A; touch /var/lib/regrow/x"
    assert await sh(docker_backend, restored, look) == "one\nagent\n2\n"
    assert await sh(docker_backend, data, "cat /workspace/file") == "two\n"
    await docker_backend.drop(kept)
    await docker_backend.drop(kept)
    assert await sh(docker_backend, restored, "cat /workspace/file") == "one\n"  # its layers stay
    with pytest.raises(MachineFailed, match="is gone"):
        await docker_backend.restore(new_id("m"), image, kept, load={})
    again = await docker_backend.made()  # what a manager knows that lost its record
    await docker_backend.stop(again[restored["container"].removeprefix("regrow-")])
    assert not docker_client.images(all=True, filters={"label": f"regrow.node={docker_backend.node.name}"})


async def test_a_snapshot_that_is_made_again_stays_what_it_was(docker_backend: DockerBackend) -> None:  # noqa: F811
    data = await spawn(docker_backend)
    snapshot = new_id("s")
    first = await docker_backend.snapshot(data, snapshot)
    await sh(docker_backend, data, "touch /workspace/later")
    assert await docker_backend.snapshot(data, snapshot) == first
    await docker_backend.drop(first)


async def test_commands_go_on_while_a_snapshot_is_made(docker_backend: DockerBackend) -> None:  # noqa: F811
    """The container is paused meanwhile: commands wait and none fails."""
    data = await spawn(docker_backend)
    await sh(docker_backend, data, "head -c 150000000 /dev/urandom >/workspace/much")
    snapshot = asyncio.create_task(docker_backend.snapshot(data, new_id("s")))
    runs = 0
    while not snapshot.done() or not runs:
        assert await sh(docker_backend, data, "echo x") == "x\n"
        runs += 1
    await docker_backend.drop(await snapshot)


async def test_forks(docker_backend: DockerBackend, docker_client: Client) -> None:  # noqa: F811
    """Made twice, they are the same machines; no image is left."""
    data = await spawn(docker_backend)
    await sh(docker_backend, data, "echo base >/workspace/file")
    image = DockerImage(IMAGE, pull="never")
    machines = [new_id("m") for _ in range(3)]
    forks = [spawned.data for spawned in await docker_backend.fork(data, machines, image)]
    for n, fork in enumerate(forks):
        assert await sh(docker_backend, fork, f"cat /workspace/file; echo {n} >/workspace/file") == "base\n"
    assert [s.data["container"] for s in await docker_backend.fork(data, machines, image)] == [
        f["container"] for f in forks
    ]
    assert [await sh(docker_backend, fork, "cat /workspace/file") for fork in forks] == ["0\n", "1\n", "2\n"]
    for fork in forks:
        await docker_backend.stop(fork)
    assert not docker_client.images(all=True, filters={"label": f"regrow.node={docker_backend.node.name}"})


async def test_a_container_that_a_user_makes_from_a_snapshot_is_theirs(
    docker_backend: DockerBackend, docker_client: Client  # noqa: F811
) -> None:  # fmt: skip
    data = await spawn(docker_backend)
    kept = await docker_backend.snapshot(data, new_id("s"))
    theirs = docker_client.create_container(kept["image"])["Id"]
    try:
        assert list(await docker_backend.made()) == [data["container"].removeprefix("regrow-")]
    finally:
        docker_client.remove_container(theirs, v=True)
    await docker_backend.drop(kept)


# Reached --------------------------------------------------------------------------------------------------------------


async def test_a_port_is_reached(docker_backend: DockerBackend, tmp_path: Path) -> None:  # noqa: F811
    data = await spawn(docker_backend)
    await sh(docker_backend, data, "echo hello >/tmp/index.html; cd /tmp && httpd -p 8080")
    port = await docker_backend.expose(data, 8080)
    reader, writer = await asyncio.open_connection(port.host, port.port)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(30):
        assert (await reader.read()).endswith(b"hello\n")
    writer.close()
    await writer.wait_closed()
    alone = await spawn(docker_backend, network="none")
    with pytest.raises(Unsupported):
        await docker_backend.expose(alone, 8080)
    async with opened(tmp_path, host_network=True) as backend:
        shared = await spawn(backend, network="host")
        assert (await backend.expose(shared, 8080)).host == "127.0.0.1"


async def test_a_shell(docker_backend: DockerBackend) -> None:  # noqa: F811
    """The program opens one as the user, in the workdir, on a terminal."""
    data = await spawn(docker_backend)
    argv = docker_backend.shell(data)
    mine, its = pty.openpty()
    program = await asyncio.create_subprocess_exec(*argv, stdin=its, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    os.write(mine, b"pwd; id -un; tty; exit 3\n")
    said = b""
    async with asyncio.timeout(50):
        with suppress(OSError):  # the terminal is closed, and nothing is left in it
            while piece := await asyncio.to_thread(os.read, mine, 10_000):
                said += piece
        assert await program.wait() == 3
    os.close(mine)
    assert b"/workspace\r\nagent\r\n/dev/pts/" in said
