"""Which group serves a model, and what is wrong in the tables."""

from pathlib import Path

import pytest
from echo import CATALOGUE

from localinfra.config import settings as config_file
from localinfra.errors import ConfigError
from localinfra.models import catalog as catalog_file
from localinfra.scale.groups import Groups


def groups(tables: str, tmp_path: Path) -> Groups:
    path = tmp_path / "models.toml"
    path.write_text(CATALOGUE + tables)
    config = config_file.load(path)
    return Groups(config.scale, catalog_file.load(config), "models.toml")


def test_without_tables_one_group_serves_all(tmp_path: Path) -> None:
    found = groups("", tmp_path)
    assert list(found.tables) == ["others"] == [found.home]
    assert found.of("echo") == found.of("what?") == found.of(None) == "others"


def test_models_are_found_by_all_their_names(tmp_path: Path) -> None:
    found = groups('[ray.group.chat]\nmodels = ["echo"]\n[ray.group.rest]\n', tmp_path)
    assert [found.of(name) for name in ("echo", "tests/echo", "echo:latest")] == ["chat"] * 3
    assert found.of("filler") == found.of("unknown") == found.home == "rest"
    assert list(found.models_of("chat")) == ["tests/echo"]


def test_models_that_no_group_names_get_one(tmp_path: Path) -> None:
    found = groups('[ray.group.chat]\nmodels = ["echo"]\nnum_gpus = 0.5\n', tmp_path)
    assert list(found.tables) == ["chat", "others"] and found.home == "others"
    assert found.tables["chat"].num_gpus == 0.5


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ('[ray.group.a]\nmodels = ["ecko"]', '[ray.group."a"] models: no model is called "ecko"'),
        (
            '[ray.group.a]\nmodels = ["echo"]\n[ray.group.b]\nmodels = ["tests/echo"]',
            '[ray.group."b"] models: "tests/echo" is in [ray.group."a"] already',
        ),
        ("[ray.group.a]\n[ray.group.b]", '[ray.group."b"] models: missing; only one group'),
        ('[ray.group.others]\nmodels = ["echo"]', "give it another name"),
        (
            "[ray.group.a]\nnum_gpu = 1",
            '[ray.group."a"] num_gpu: unknown key; did you mean num_gpus',
        ),
        ("[ray.group.a]\nmax_replicas = 0", '[ray.group."a"] max_replicas: expected an integer'),
        ("[ray.group.a]\nmin_replicas = 3\nmax_replicas = 2", "it is less than min_replicas"),
        ("[ray.group.a]\nnum_gpus = 1.5", "a share of one GPU, or a whole number of them"),
        ("[ray]\ngateways = 0", "[ray] gateways: expected an integer from 1"),
        ("[ray]\ngroup = 1", '[ray] group: expected a table, written [ray.group."NAME"]'),
        ("[ray.group]\na = 1", '[ray.group."a"]: expected a table'),
        ("[rey]\n", "rey: unknown table; did you mean ray?"),
    ],
)
def test_mistakes_are_named_with_their_place(tables: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        groups(tables, tmp_path)
    assert problem in str(error.value)
