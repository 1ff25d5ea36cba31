"""What an update replaces, what it leaves running, and what it has no room for."""

import asyncio
from pathlib import Path

import pytest
from echo import CATALOGUE, FILES, EchoRuntime
from models.tiny_gguf import tiny_llama

from localinfra.config import settings as config_file
from localinfra.config.scale import ReplicaGroup
from localinfra.config.settings import Config
from localinfra.models import catalog as catalog_file
from localinfra.scale.grouped import GroupOrigin, packed, unpacked
from localinfra.scale.groups import Groups
from localinfra.scale.updates import config_of, lacking, version_of

SERVER = '[server]\nserve_pulled = false\napi_keys = ["a"]\n'
GROUPS = '[ray.group.chat]\nmodels = ["slow"]\nnum_cpus = 2\n[ray.group.rest]\n'
FILE = SERVER + CATALOGUE + GROUPS
SLOW = '[model."slow"]'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*FILES, "damaged.gguf"):
        (tmp_path / name).write_bytes(b"GGUF" + bytes(100))
    return tmp_path


def read(folder: Path, text: str) -> Config:
    path = folder / "models.toml"
    path.write_text(text)
    return config_file.load(path)


def versions(config: Config) -> dict[str, str]:
    catalog = catalog_file.discover(config)
    groups = Groups(config.scale, catalog)
    return {
        name: version_of(config_of(config, table), groups, catalog, name)
        for name, table in groups.tables.items()
    }


@pytest.mark.parametrize(
    ("old", "new", "replaced"),
    [
        ("", "", set()),
        (f"{SLOW}\n", f"{SLOW}\npinned = true\n", {"chat"}),
        ('[model."thinker"]', '[model."thinker2"]', {"rest"}),
        ("num_cpus = 2", "num_cpus = 3", {"chat"}),  # also its models' threads
        ("num_cpus = 2", "num_cpus = 2\nmax_replicas = 9", set()),
        ('models = ["slow"]', 'models = ["slow", "thinker"]', {"chat", "rest"}),
        ('["a"]', '["a", "b"]', set()),  # keys are the gateway's
        ("[server]", "[server]\nmax_queue = 7", {"chat", "rest"}),
    ],
)
def test_only_groups_with_changes_are_replaced(
    folder: Path, old: str, new: str, replaced: set[str]
) -> None:
    before = versions(read(folder, FILE))
    assert old in FILE
    after = versions(read(folder, FILE.replace(old, new, 1)))
    assert {name for name in before if before[name] != after[name]} == replaced


def test_models_that_were_pulled_replace_nothing(folder: Path) -> None:
    (folder / "more").mkdir()
    config = read(folder, FILE.replace("[server]", '[server]\nmodels_dir = "more"', 1))
    before, known = versions(config), catalog_file.discover(config).names
    tiny_llama().write(folder / "more" / "new.gguf")
    assert versions(config) == before and catalog_file.discover(config).names != known


def test_replicas_hold_no_keys(folder: Path) -> None:
    config = read(folder, FILE)
    assert config.server.api_keys and not config_of(config, ReplicaGroup()).server.api_keys


def test_a_replica_that_stays_learns_of_other_groups_models_and_keeps_its_own(folder: Path) -> None:
    async def test() -> None:
        origin = GroupOrigin(read(folder, FILE), "chat")
        runtime = EchoRuntime(*origin.read(), origin)
        await runtime.load("slow")
        kept = runtime.loaded()["slow"]
        assert not origin.take(read(folder, FILE))  # the same again: nothing is to be read
        assert origin.take(read(folder, FILE.replace('[model."thinker"]', '[model."ponderer"]', 1)))
        changes = await runtime.reload()
        assert (changes.added, changes.removed, changes.changed) == (["ponderer"], ["thinker"], [])
        assert runtime.loaded()["slow"] is kept
        await runtime.close()

    asyncio.run(test())


# --- Room ----------------------------------------------------------------------------------------

LAPTOP = {"CPU": 2.0}
WITH_GPU = {"CPU": 16.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("groups", "machines", "said"),
    [
        ({"a": ReplicaGroup()}, [LAPTOP], ""),
        ({"a": ReplicaGroup(min_replicas=0, max_replicas=9)}, [LAPTOP], ""),
        ({"a": ReplicaGroup(num_gpus=1.0)}, [LAPTOP], 'a replica of "a" takes 1 GPUs'),
        ({"a": ReplicaGroup(num_gpus=0.25, min_replicas=4)}, [WITH_GPU], ""),
        ({"a": ReplicaGroup(num_gpus=0.25, min_replicas=5)}, [WITH_GPU], "1.25 GPUs together"),
        # Two machines with one each have no two for one replica.
        ({"a": ReplicaGroup(num_gpus=2.0)}, [WITH_GPU] * 2, "no machine has more than 1"),
        ({"a": ReplicaGroup(num_gpus=1.0, min_replicas=2)}, [WITH_GPU] * 2, ""),
        ({"a": ReplicaGroup(num_cpus=3)}, [LAPTOP] * 2, "change num_cpus"),
        (dict.fromkeys("abc", ReplicaGroup()), [LAPTOP], "take 3 cores together, and there are 2"),
        ({"a": ReplicaGroup()}, [], "no machine has more than 0"),
    ],
)
def test_what_no_machine_has_is_said(
    groups: dict[str, ReplicaGroup], machines: list[dict[str, float]], said: str
) -> None:
    found = lacking(groups, machines)
    assert said in found and bool(said) == bool(found)


def test_a_config_reaches_replicas_as_it_is(folder: Path) -> None:
    """By text that Serve may show: with paths, tuples, limits and tables of every kind."""
    config = read(folder, FILE.replace(SERVER, f'{SERVER}allowed_origins = ["http://a"]\n'))
    assert unpacked(packed(config)) == config
    shipped = config_file.load()
    assert unpacked(packed(shipped)) == shipped and unpacked(packed(shipped)).path == shipped.path
