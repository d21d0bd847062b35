"""MorphCloud, by the real SDK against a stand-in for its API and gateway; see `morph_stand_in`."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from morph_stand_in import Morph, make_morph
from regrow_machine_manager.backend import BackendUnavailable, MachineFailed, MachineLost, Node
from regrow_machine_manager.backends._morph_recipe import digests
from regrow_machine_manager.backends.morph import MorphBackend
from regrow_protocol.ids import new_id
from regrow_protocol.images import MorphImage

WORK = "work"  # relative to the home, since the stand-in's instances share one file system


def image(**options: object) -> MorphImage:
    return MorphImage(**{"workdir": WORK, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shared() -> Iterator[Morph]:
    with make_morph() as made:
        yield made


@pytest.fixture
def morph(shared: Morph, monkeypatch: pytest.MonkeyPatch) -> Morph:
    """The stand-in, with its environment."""
    for name, value in shared.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MORPH_HTTP_TRANSPORT_SHARDS", "1")
    shared.calls.clear()
    return shared


@pytest_asyncio.fixture
async def backend(morph: Morph, tmp_path: Path) -> AsyncIterator[MorphBackend]:
    made = MorphBackend(Node("here", tmp_path, "store"))
    await made.open()
    yield made
    for machine in (await made.made()).values():
        await made.stop(machine)
    await made.close()
    assert morph.instances == {}


async def test_programs_and_files(backend: MorphBackend, morph: Morph) -> None:
    """An instance is started with the machine's id, programs and files reach it over SSH, and stop ends it."""
    data = (await backend.spawn("m_1", image(env={"A": "1"}), load={})).data
    (instance,) = morph.instances.values()
    assert instance["metadata"] == {"regrow.machine": "m_1", "regrow.node": "here", "regrow.store": "store"}
    assert instance["spec"] == {"vcpus": 1, "memory": 1024, "disk_size": 8192}
    done = await backend.exec(data, ["sh", "-c", "pwd; cat; exit 3"], stdin=b"\0\xff")
    assert (done.exit_code, done.stdout) == (3, f"{data['workdir']}\n".encode() + b"\0\xff")
    path = f"{data['workdir']}/a/b"
    await backend.write(data, path, bytes(range(256)) * 4096)
    assert await backend.read(data, path) == bytes(range(256)) * 4096
    assert backend.env(data) == {"A": "1"}
    assert backend.shell(data)[-3:] == [data["instance"], data["workdir"], ""]
    assert backend.memory(image(memory="2g")) == 2 * 1024**3
    await backend.stop(data)
    await backend.stop(data)
    assert morph.instances == {}
    for call in (backend.exec(data, ["true"]), backend.read(data, path)):
        with pytest.raises(MachineLost):
            await call
    assert not await backend.attach(data)


async def test_spawn_finds_the_instance_again(backend: MorphBackend, morph: Morph) -> None:
    """Made again, by this or another node, it is the same instance; what was begun is listed, of this store only."""
    data = (await backend.spawn("m_1", image(), load={})).data
    assert (await backend.spawn("m_1", image(), load={})).data == data
    other = MorphBackend(Node("there", backend.node.folder, "store"))
    await other.open()
    assert (await other.spawn("m_1", image(), load={})).data == data
    assert (await other.exec(data, ["echo", "1"])).stdout == b"1\n"
    assert await other.made() == {}
    await other.close()
    assert await backend.made() == {"m_1": {"machine": "m_1", "instance": data["instance"]}}
    assert len(morph.instances) == 1
    stranger = MorphBackend(Node("here", backend.node.folder, "another"))
    await stranger.open()
    assert await stranger.made() == {}
    await stranger.close()


async def test_two_instances_of_one_machine_both_end(backend: MorphBackend, morph: Morph) -> None:
    """Should two managers have started one machine at once, stop ends both instances."""
    morph.meeting = threading.Barrier(2)
    first, second = await asyncio.gather(*(backend.spawn("m_1", image(), load={}) for _ in range(2)))
    assert len(morph.instances) == 2
    assert first.data["instance"] != second.data["instance"]
    assert (await backend.spawn("m_1", image(), load={})).data in (first.data, second.data)
    await backend.stop(first.data)
    assert morph.instances == {}


async def test_snapshot_restore_fork_drop(backend: MorphBackend, morph: Morph) -> None:
    """A snapshot is made once; restored and forked instances have its files and go their own ways."""
    data = (await backend.spawn("m_1", image(), load={})).data
    await backend.write(data, f"{data['workdir']}/n", b"1")
    kept = await backend.snapshot(data, "s_1")
    assert await backend.snapshot(data, "s_1") == kept
    await backend.write(data, f"{data['workdir']}/n", b"2")
    restored = (await backend.restore("m_2", image(), kept, load={})).data
    forks = [made.data for made in await backend.fork(data, ["m_3", "m_4"], image())]
    again = [made.data for made in await backend.fork(data, ["m_3", "m_4"], image())]
    assert again == forks
    found = [await backend.read(one, f"{one['workdir']}/n") for one in (restored, *forks)]
    assert found == [b"1", b"2", b"2"]
    assert len(morph.instances) == 4
    assert (await backend.restore("m_2", image(), kept, load={})).data == restored
    (of_forks,) = [one for one in morph.snapshots.values() if "regrow.fork" in one["metadata"]]
    assert of_forks["ttl"]["ttl_seconds"] == 3600
    await backend.drop(kept)
    await backend.drop(kept)
    assert kept["snapshot"] not in morph.snapshots
    with pytest.raises(MachineLost):
        await backend.restore("m_5", image(), kept, load={})


async def test_recipes_are_built_once(backend: MorphBackend, morph: Morph) -> None:
    """Each command of a recipe is run once, also by two at a time; the machine that it ran on ends; a longer recipe
    goes on from where a shorter one ended."""
    recipe = ["mkdir -p work && echo one >> work/log", "echo two >> work/log"]
    made = await asyncio.gather(*(backend.spawn(f"m_{n}", image(recipe=recipe), load={}) for n in range(2)))
    for one in made:
        assert await backend.read(one.data, f"{one.data['workdir']}/log") == b"one\ntwo\n"
    started = len([call for call in morph.calls if call == "POST /instance"])
    assert started == 3
    longer = await backend.spawn("m_3", image(recipe=[*recipe, "echo three >> work/log"]), load={})
    assert await backend.read(longer.data, f"{longer.data['workdir']}/log") == b"one\ntwo\nthree\n"
    assert len([call for call in morph.calls if call == "POST /instance"]) == started + 2
    assert len(morph.instances) == 3


async def test_digests_are_those_of_the_sdk(backend: MorphBackend) -> None:
    """What the SDK built by the same commands is found."""
    recipe = ["apt-get update", "echo 'a \"b\"' > x"]
    base = await backend.client.snapshots.acreate("morphvm-minimal", 1, 1024, 8192, digest="of-the-test")
    assert digests("of-the-test", recipe) == base._compute_all_digests(list(recipe))


async def test_a_recipe_that_fails(backend: MorphBackend, morph: Morph) -> None:
    """The command that failed is told with its output; nothing is left running, and what went well is kept."""
    with pytest.raises(MachineFailed, match=r"exit code 4: .*no such luck"):
        await backend.spawn("m_1", image(recipe=["true", "echo no such luck; exit 4"]), load={})
    assert morph.instances == {}
    with pytest.raises(MachineFailed, match="either"):
        await backend.spawn("m_1", image(id="snapshot_x", recipe=["true"]), load={})


async def test_an_id_with_sizes_is_booted_with_them(backend: MorphBackend, morph: Morph) -> None:
    """A snapshot is started as it is, or booted with other sizes where the image names them."""
    data = (await backend.spawn("m_1", image(), load={})).data
    kept = (await backend.snapshot(data, "s_1"))["snapshot"]
    plain = (await backend.spawn("m_2", image(id=kept), load={})).data
    large = (await backend.spawn("m_3", image(id=kept, vcpus=4, memory="4g"), load={})).data
    assert morph.instances[plain["instance"]]["spec"] == {"vcpus": 1, "memory": 1024, "disk_size": 8192}
    assert morph.instances[large["instance"]]["spec"] == {"vcpus": 4, "memory": 4096, "disk_size": 8192}


async def test_an_instance_that_is_not_ready_at_once(
    backend: MorphBackend, morph: Morph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pending instance is waited for."""
    monkeypatch.setattr(morph, "pending", True)
    data = (await backend.spawn("m_1", image(), load={})).data
    assert (await backend.exec(data, ["echo", "1"])).stdout == b"1\n"


async def test_ports(backend: MorphBackend, morph: Morph) -> None:
    """A port is exposed once, by MorphCloud's HTTPS proxy."""
    data = (await backend.spawn("m_1", image(), load={})).data
    first, second = await backend.expose(data, 8080), await backend.expose(data, 8080)
    assert first == second
    assert first.host.startswith("port-8080-morphvm-")
    assert first.port == 443
    assert len(morph.instances[data["instance"]]["networking"]["http_services"]) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(500, BackendUnavailable), (429, BackendUnavailable), (402, MachineFailed), (404, MachineLost)],
)
async def test_errors_of_the_api(backend: MorphBackend, morph: Morph, status: int, kind: type[Exception]) -> None:
    """An answer that may be better next time is told apart from one that will not, and the next call works."""
    morph.fail["POST /instance"] = status
    with pytest.raises(kind):
        await backend.spawn("m_1", image(), load={})
    assert (await backend.spawn("m_1", image(), load={})).data["machine"] == "m_1"


async def test_a_cut_connection(backend: MorphBackend, morph: Morph) -> None:
    """A machine is reached again after its connection was cut."""
    data = (await backend.spawn("m_1", image(), load={})).data
    await asyncio.to_thread(morph.gateway.cut)
    await backend.write(data, f"{data['workdir']}/x", b"1")
    assert await backend.read(data, f"{data['workdir']}/x") == b"1"


async def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where morphcloud is not installed the backend says which extra brings it."""
    for name in ("morphcloud", "morphcloud.api"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailable, match=r"regrow\[morph\]"):
        await MorphBackend(Node("here", tmp_path)).open()


async def test_a_key_in_a_file(morph: Morph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that the SDK finds in its profiles is as good as one in the environment."""
    monkeypatch.delenv("MORPH_API_KEY")
    profiles = tmp_path / "profiles.toml"
    key = morph.environment()["MORPH_API_KEY"]
    profiles.write_text(f'active_profile = "mine"\n[profiles.mine]\napi_key = "{key}"\n')
    monkeypatch.setenv("MORPH_CONFIG_PATH", str(profiles))
    found = MorphBackend(Node("here", tmp_path, "store"))
    await found.open()
    assert await found.made() == {}
    await found.close()


async def test_what_must_be_there(morph: Morph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key, with a wrong one, without the API, and with another gateway's key there is a clear error."""
    node = Node("here", tmp_path, "store")
    monkeypatch.delenv("MORPH_API_KEY")
    with pytest.raises(BackendUnavailable, match="MORPH_API_KEY"):
        await MorphBackend(node).open()
    monkeypatch.setenv("MORPH_API_KEY", "wrong")
    wrong = MorphBackend(node)
    await wrong.open()
    with pytest.raises(MachineFailed, match="401"):
        await wrong.made()
    await wrong.close()
    monkeypatch.setenv("MORPH_API_KEY", morph.environment()["MORPH_API_KEY"])
    monkeypatch.setenv("MORPH_BASE_URL", "http://127.0.0.1:1")
    away = MorphBackend(node)
    await away.open()
    with pytest.raises(BackendUnavailable, match="MORPH_BASE_URL"):
        await away.made()
    await away.close()
    monkeypatch.setenv("MORPH_BASE_URL", morph.url)
    known = tmp_path / "known"
    known.touch()
    monkeypatch.setenv("REGROW_MORPH_KNOWN_HOSTS", str(known))
    strict = MorphBackend(node)
    await strict.open()
    with pytest.raises(MachineFailed, match="ssh-keyscan"):
        await strict.spawn(new_id("m"), image(), load={})
    for data in (await strict.made()).values():
        await strict.stop(data)
    await strict.close()
    assert morph.instances == {}
