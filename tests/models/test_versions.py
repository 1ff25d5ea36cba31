"""Versions of a model and deploy_ids: how models.toml writes them, and the names for clients."""

import re
from pathlib import Path

import pytest
from catalogues import loaded, refusal

from localinfra.config import settings as config_file
from localinfra.errors import ModelNotFound
from localinfra.models.catalog import Catalog
from localinfra.models.entries import TextModelEntry
from localinfra.models.sources import PathSource

# The first model's own table is a version; the second one's has what its versions share.
MODELS = """
[model."org/chatty"]
kind = "text"
source = "chatty.gguf"
version = "2024-07"
aliases = ["small"]
deploy_id = "Zx81"
context_length = 4096
preload = true
price = { input = 1, output = 2 }

[model."org/chatty".versions."2024-09"]
source = "chatty-9.gguf"
context_length = 8192

[model."org/vectors"]
kind = "embedding"
aliases = ["vectors"]
default_version = "v1.5"
dimensions = 8

[model."org/vectors".versions."v1"]
source = "old"

[model."org/vectors".versions."v1.5"]
source = "new"
aliases = ["newest"]
deploy_id = "Spectrum"
dimensions = 16
"""


def unknown(served: Catalog, name: str) -> str:
    with pytest.raises(ModelNotFound) as caught:
        served.resolve(name)
    assert caught.value.param == "model"
    return caught.value.message


@pytest.mark.parametrize(
    ("asked", "own_name"),
    [
        ("org/chatty", "org/chatty"),
        ("org/chatty:2024-07", "org/chatty"),
        ("org/chatty:2024-09", "org/chatty:2024-09"),
        ("small:2024-07", "org/chatty"),
        ("small:2024-09", "org/chatty:2024-09"),
        ("deploy_id:Zx81", "org/chatty"),
        ("org/vectors", "org/vectors:v1.5"),
        ("vectors", "org/vectors:v1.5"),
        ("vectors:v1", "org/vectors:v1"),
        ("org/vectors:v1.5", "org/vectors:v1.5"),
        ("newest", "org/vectors:v1.5"),
        ("deploy_id:Spectrum", "org/vectors:v1.5"),
    ],
)
def test_a_version_is_named_after_a_name_or_alias_and_a_deploy_id_alone(
    tmp_path: Path, asked: str, own_name: str
) -> None:
    served = loaded(tmp_path, MODELS)
    assert served.resolve(asked) == (own_name, served.entries[own_name])


def test_each_version_is_a_model_of_its_own(tmp_path: Path) -> None:
    served = loaded(tmp_path, MODELS)
    assert served.names == (
        "org/chatty",
        "org/chatty:2024-09",
        "org/vectors:v1",
        "org/vectors:v1.5",
    )
    assert served.versions("org/chatty") == ("2024-07", "2024-09")
    assert served.versions("org/vectors:v1") == ("v1", "v1.5")
    assert served.entries["org/chatty"].aliases == ("small", "org/chatty:2024-07", "small:2024-07")


def test_a_version_inherits_the_models_settings_but_no_names_and_no_preload(
    tmp_path: Path,
) -> None:
    served = loaded(tmp_path, MODELS)
    model, newer = served.entries["org/chatty"], served.entries["org/chatty:2024-09"]
    assert isinstance(model, TextModelEntry) and isinstance(newer, TextModelEntry)
    assert newer.source == PathSource(tmp_path / "chatty-9.gguf")
    assert (newer.context_length, newer.price) == (8192, model.price)
    assert (newer.version, newer.deploy_id, newer.preload) == ("2024-09", None, False)
    assert (model.version, model.preload) == ("2024-07", True)


def test_settings_of_the_plain_name_go_to_the_default_version(tmp_path: Path) -> None:
    text = MODELS.replace('aliases = ["vectors"]', 'preload = true\ndeploy_id = "Ql"')
    served = loaded(tmp_path, text.replace('deploy_id = "Spectrum"\n', ""))
    assert served.resolve("deploy_id:Ql")[0] == "org/vectors:v1.5"
    preloaded = [name for name, entry in served.entries.items() if entry.preload]
    assert preloaded == ["org/chatty", "org/vectors:v1.5"]


def test_a_version_may_be_the_same_file_with_other_settings(tmp_path: Path) -> None:
    served = loaded(tmp_path, MODELS + '[model."org/chatty".versions.hot]\nthreads = 1\n')
    assert served.entries["org/chatty:hot"].source == served.entries["org/chatty"].source


def test_a_versions_own_template_replaces_the_models(tmp_path: Path) -> None:
    (tmp_path / "a.jinja").write_text("file")
    text = '[model.x]\nkind = "text"\nsource = "x"\nchat_template_file = "a.jinja"\n'
    served = loaded(tmp_path, text + '[model.x.versions.b]\nchat_template = "own"\n')
    templates = [getattr(entry, "chat_template", None) for entry in served.entries.values()]
    assert templates == ["file", "own"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("org/chatty:2024-9", "no version '2024-9'. Did you mean org/chatty:2024-09"),
        ("small:x", "no version 'x'. Served here: small:2024-07, small:2024-09."),
        ("newest:v1", "no version 'v1'. No model is served yet"),
        ("org/chatty:2024-07:x", "no version 'x'"),
        ("org/chaty:2024-07", "does not exist. Did you mean org/chatty:2024-07"),
        ("deploy_id:Zx80", "no model has the deploy_id 'zx80'. Did you mean deploy_id:Zx81?"),
        ("deploy_id:Zx81:2024-07", "Served here: deploy_id:Zx81, deploy_id:Spectrum."),
        ("deploy_id:", "Served here: deploy_id:Zx81, deploy_id:Spectrum."),
        ("Zx81", "does not exist"),
        ("org/vectors:" + "x" * 100_000, "has no version"),
    ],
)
def test_an_unknown_name_is_answered_with_known_ones(tmp_path: Path, asked: str, told: str) -> None:
    message = unknown(loaded(tmp_path, MODELS), asked)
    assert told.casefold() in message.casefold()
    assert len(message) < 600


def test_a_fallback_does_not_answer_for_versions_and_deployments(tmp_path: Path) -> None:
    served = loaded(tmp_path, '[server]\nfallback_model = "small:2024-09"\n' + MODELS)
    for foreign in ("gpt-4o", "gpt-4o:2024-07", "Zx80"):
        assert served.resolve(foreign)[0] == "org/chatty:2024-09"
    for meant in ("org/chatty:2025-01", "vectors:x", "deploy_id:Zx80"):
        assert unknown(served, meant)


X = '[model.x]\nkind = "text"\n'
A = '[model.x.versions.a]\nsource = "a"\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (X + A, '[model."x"] default_version: missing; expected "a"'),
        (X + 'default_version = "b"\n' + A, 'default_version: expected "a", got "b"'),
        (X + "default_version = 3\n" + A, 'default_version: expected "a", got 3'),
        (X + 'default_version = "b"\n', "default_version: there are no versions"),
        (X + 'source = "x"\ndefault_version = "a"\n' + A, "has a source of its own"),
        (X + 'version = "b"\ndefault_version = "a"\n' + A, "this table has no source"),
        (X + "source = 'x'\nversion = 'a:b'\n", 'version: expected a version such as "2024-07"'),
        (X + "source = 'x'\nversions = 3\n", "versions: expected a table for each"),
        (X + "source = 'x'\nversions.a = 3\n", "versions: expected a table for each"),
        (X + "source = 'x'\n[model.x.versions.'a b']\n", "a version's name: expected a version"),
        (
            X + 'source = "x"\n[model.x.versions.v1.5]\nsource = "y"',
            'a version with dots needs quotes: [model."x".versions."v1.5"]',
        ),
        (
            X + "source = 'x'\n" + A + 'kind = "text"',
            '[model."x".versions."a"] kind: a version has',
        ),
        (X + "source = 'x'\n" + A + 'version = "c"', '[model."x".versions."a"] version: a version'),
        (
            X + "source = 'x'\n" + A + "thread = 1",
            '."a"] thread: unknown key; did you mean threads',
        ),
        (X + "thread = 1\ndefault_version = 'a'\n" + A, '[model."x"] thread: unknown key'),
        (X + "default_version = 'a'\n[model.x.versions.a]\nthreads = 1", '."a"] source: missing'),
        (X + "source = 'x'\ndeploy_id = 'a:b'", "deploy_id: expected an id of letters"),
        (
            X + "deploy_id = 'd'\ndefault_version = 'a'\n" + A + "deploy_id = 'e'",
            '[model."x".versions."a"] deploy_id: the default version already has the one',
        ),
        ("[model.x.versions.a]\nsource = 'a'", '[model."x"] default_version: missing'),
        ("[model.x]\nprice = { input = 1 }", '[model."x"] kind: expected'),
    ],
)
def test_a_mistake_is_reported_for_its_own_table(tmp_path: Path, text: str, told: str) -> None:
    assert told in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ('[model."org/chatty:2024-09"]\n', '[model."org/chatty:2024-09"] the name'),
        ('[model.y]\naliases = ["small:2024-09"]\n', '[model."y"] the name "small:2024-09"'),
        ('[model.y]\naliases = ["org/vectors"]\n', 'by [model."org/vectors".versions."v1.5"]'),
        ('[model.y]\ndeploy_id = "Zx81"\n', 'the name "deploy_id:Zx81" is already taken by'),
        (
            '[model.y]\nversion = "a"\n[model.y.versions.a]\n',
            '[model."y".versions."a"] the name "y:a" is already taken by [model."y"]',
        ),
    ],
)
def test_all_names_belong_to_one_model_only(tmp_path: Path, second: str, told: str) -> None:
    place, _, rest = second.partition("\n")
    message = refusal(tmp_path, f'{MODELS}{place}\nkind = "text"\nsource = "y"\n{rest}')
    assert told in message and "already taken by [model." in message


@pytest.mark.parametrize("name", ["deploy_id:x", "deploy/x"])
def test_models_can_not_have_names_of_deployments(tmp_path: Path, name: str) -> None:
    text = f'[model."{name}"]\nkind = "text"\nsource = "x"'
    assert "expected a name of letters" in refusal(tmp_path, text)


def test_the_examples_in_the_shipped_files_comments_are_valid(tmp_path: Path) -> None:
    text = config_file.shipped_file().read_text(encoding="utf-8")
    example = re.sub(r"^# (\[.*|\w+ = .*)$", r"\1", text, flags=re.MULTILINE)
    served = loaded(tmp_path, example)
    assert served.resolve("assistant:2024-07")[0] == "org/assistant:2024-07"
    assert served.resolve("deploy_id:Zx81") == served.resolve("org/assistant")
