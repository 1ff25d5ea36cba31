"""The model tables of models.toml: valid settings, and which name means which model."""

import os
from pathlib import Path

import pytest
from catalogues import loaded, refusal

from localinfra.config import settings as config_file
from localinfra.errors import ConfigError, InvalidRequest, ModelNotFound
from localinfra.models import catalog
from localinfra.models.entries import ImageModelEntry, TextModelEntry
from localinfra.models.fetch import references
from localinfra.models.sources import ModelSource, PathSource

TWO_MODELS = """
[model."org/chatty"]
kind = "text"
source = "chatty.gguf"
aliases = ["small", "chatty:latest"]

[model."org/vectors"]
kind = "embedding"
source = "vectors"

[model."org/pictures"]
kind = "image"
source = "pictures"
"""


def text_entry(folder: Path, lines: str) -> TextModelEntry:
    text = f'[model.x]\nkind = "text"\nsource = "x.gguf"\n{lines}'
    return loaded(folder, text).resolve_as(TextModelEntry, "x", "/v1/completions")[1]


def test_the_shipped_file_is_valid_and_its_first_model_comes_in_a_package() -> None:
    shipped = catalog.load(config_file.load(config_file.shipped_file()))
    name, entry = shipped.resolve_as(TextModelEntry, "default", "/v1/chat/completions")
    assert name == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert entry.preload and entry.optimize == "lossless"
    assert {entry.kind for entry in shipped.entries.values()} == {"text", "embedding", "image"}
    assert "black-forest-labs/FLUX.1-schnell" in shipped.names


def test_a_name_or_alias_leads_to_the_entry(tmp_path: Path) -> None:
    served = loaded(tmp_path, TWO_MODELS)
    assert served.names == ("org/chatty", "org/vectors", "org/pictures")
    for name in ("org/chatty", "small", "chatty:latest"):
        assert served.resolve(name) == ("org/chatty", served.entries["org/chatty"])
    assert isinstance(served.resolve("org/pictures")[1], ImageModelEntry)


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("org/chaty", "Did you mean org/chatty"),
        ("ORG/VECTORS", "Did you mean org/vectors"),
        ("gpt-4o", "Served here: org/chatty, org/vectors, org/pictures."),
        ("", "Served here: "),
        ("x" * 1_000_000, "Served here: "),
    ],
)
def test_an_unknown_name_is_answered_with_names_that_exist(
    tmp_path: Path, asked: str, hint: str
) -> None:
    with pytest.raises(ModelNotFound) as caught:
        loaded(tmp_path, TWO_MODELS).resolve(asked)
    assert hint in caught.value.message
    assert caught.value.param == "model"
    assert len(caught.value.message) < 500


class NeverHashed(str):
    __slots__ = ()

    def __hash__(self) -> int:
        raise AssertionError("of 16 million characters, that would take 15 ms")


def test_long_names_are_not_looked_up(tmp_path: Path) -> None:
    served, name = loaded(tmp_path, TWO_MODELS), NeverHashed("x" * 10_000)
    assert served.own_name(name) is None
    for seek in (served.resolve, served.find, lambda name: references.parse(name, served)):
        with pytest.raises(ModelNotFound):
            seek(name)
    with_fallback = loaded(tmp_path, '[server]\nfallback_model = "small"\n' + TWO_MODELS)
    assert with_fallback.resolve(name)[0] == "org/chatty"


def test_a_fallback_answers_for_foreign_names_under_its_own(tmp_path: Path) -> None:
    served = loaded(tmp_path, '[server]\nfallback_model = "small"\n' + TWO_MODELS)
    assert served.resolve("gpt-4o")[0] == "org/chatty"
    assert served.resolve("org/vectors")[0] == "org/vectors"


def test_a_fallback_that_is_not_served_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, '[server]\nfallback_model = "smal"\n' + TWO_MODELS)
    assert message.startswith('models.toml: fallback_model: no model is called "smal"')
    assert "did you mean small?" in message


def test_a_model_of_another_kind_names_its_own_route(tmp_path: Path) -> None:
    served = loaded(tmp_path, TWO_MODELS)
    for name, route in (("vectors", "/v1/embeddings"), ("pictures", "/v1/images/generations")):
        with pytest.raises(InvalidRequest, match=route) as caught:
            served.resolve_as(TextModelEntry, f"org/{name}", "/v1/chat/completions")
        assert caught.value.param == "model"


@pytest.mark.parametrize(
    "second",
    [
        '[model."small"]\nkind = "text"\nsource = "b.gguf"',
        '[model."b"]\nkind = "text"\nsource = "b.gguf"\naliases = ["org/chatty"]',
        '[model."b"]\nkind = "text"\nsource = "b.gguf"\naliases = ["c", "c"]',
    ],
)
def test_a_name_can_belong_to_one_model_only(tmp_path: Path, second: str) -> None:
    assert "already taken by" in refusal(tmp_path, TWO_MODELS + second)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("contxt_length = 9", "contxt_length: unknown key; did you mean context_length?"),
        ("context_length = 0", "context_length: expected an integer from 1 to"),
        ("context_length = '8k'", 'got "8k"'),
        ("sequences = 65", "sequences: expected an integer from 1 to 64, got 65"),
        ("gpu_layers = -1", 'gpu_layers: expected "auto" or an integer of at least 0, got -1'),
        ("flash_attention = 'on'", 'expected "auto" or true or false, got "on"'),
        ("optimize = true", 'optimize: expected "lossless" or "off", got true'),
        ("optimize = 'fast'", 'optimize: expected "lossless" or "off", got "fast"'),
        ("kv_type = 'q9'", '"q8_0", got "q9"'),
        ("price = {inptu = 1}", "price.inptu: unknown key; did you mean input?"),
        ("price = {input = nan}", "price.input: expected a number"),
        ("price = 3", "price: expected a table with the keys input, output, image, got 3"),
        ("lora = [{path = 'a'}, {scale = 2}]", "lora[1].path: missing; expected a path"),
        ("lora = [{path = 3}]", "lora[0].path: expected a string, got 3"),
        ("lora = [{path = '~nobody-here/a'}]", "lora[0].path: no user of this machine"),
        ('chat_template_file = "a\\u0000b"', "chat_template_file: can't read"),
        ("aliases = ['a b']", "aliases[0]: expected a name of letters"),
        ("aliases = ['deploy_id:3']", 'got "deploy_id:3"'),
        ("name = 'y'", "name: unknown key"),
        ("chat_template_file = 'no.jinja'", "chat_template_file: can't read"),
        ("chat_template = 'a'\nchat_template_file = 'b'", "not both"),
    ],
)
def test_a_mistake_is_reported_with_file_table_and_key(
    tmp_path: Path, line: str, message: str
) -> None:
    told = refusal(tmp_path, f'[model.x]\nkind = "text"\nsource = "x.gguf"\n{line}')
    assert told.startswith('models.toml: [model."x"] ')
    assert message in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('[model.x]\nkind = "text"', "source: missing; expected"),
        ('[model.x]\nsource = "x"', 'kind: expected "text", "embedding", "rerank" or "image"'),
        ('[model.x]\nkind = "txt"\nsource = "x"', 'got "txt"'),
        ('[model.x]\nkind = []\nsource = "x"', "got []"),
        ('[model.x]\nkind = "text"\nsource = "hf:a/b"', "a text model is one file"),
        (
            '[model.qwen3-0.6b]\nkind = "text"',
            'a name with dots needs quotes: [model."qwen3-0.6b"]',
        ),
        ('[model]\nkind = "text"', "expected a table of settings"),
        ('[model."a b"]\nkind = "text"\nsource = "x"', "expected a name of letters"),
        ('[model.""]\nkind = "text"\nsource = "x"', "expected a name of letters"),
        ('[model.x]\nkind = "image"\nsource = "x"\nthreads = 1', "threads: unknown key"),
    ],
)
def test_a_table_that_describes_no_model_is_refused(
    tmp_path: Path, table: str, message: str
) -> None:
    assert message in refusal(tmp_path, table)


def test_paths_start_at_the_folder_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    entry = text_entry(tmp_path, 'lora = [{path = "a.gguf"}, {path = "~/b.gguf", scale = 0.5}]')
    assert entry.source == PathSource(tmp_path / "x.gguf")
    assert [adapter.path for adapter in entry.lora] == [
        tmp_path / "a.gguf",
        Path("/home/me/b.gguf"),
    ]
    assert [adapter.scale for adapter in entry.lora] == [1.0, 0.5]


def test_paths_are_absolute_even_if_the_files_own_path_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.toml").write_text(TWO_MODELS, encoding="utf-8")
    served = catalog.load(config_file.load(Path("models.toml")))
    assert served.entries["org/chatty"].source == PathSource(tmp_path / "chatty.gguf")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_chat_template_file_is_read_with_the_catalogue(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "my.jinja").write_text("{{ messages }} ü", encoding=encoding)
    entry = text_entry(tmp_path, 'chat_template_file = "my.jinja"')
    assert entry.chat_template == "{{ messages }} ü"


def test_a_chat_template_that_is_no_file_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for a writer
    for name in (f"{tmp_path}/pipe", "/dev/zero", str(tmp_path)):
        with pytest.raises(ConfigError, match=r"chat_template_file: .* is not a file"):
            text_entry(tmp_path, f'chat_template_file = "{name}"')


def test_every_setting_of_a_text_model_is_read(tmp_path: Path) -> None:
    entry = text_entry(
        tmp_path,
        """
        description = "d"
        context_length = 4096
        sequences = 4
        kv_cache_tokens = 8192
        kv_type = "q8_0"
        batch_size = 256
        flash_attention = true
        threads = 2
        batch_threads = 4
        gpu_layers = 10
        split_mode = "row"
        main_gpu = 1
        tensor_split = [1, 0.5]
        mmap = false
        mlock = true
        optimize = "lossless"
        chat_template = "{{ messages }}"
        default_max_tokens = 100
        max_output_tokens = 200
        preload = true
        price = { input = 1, output = 2.5 }
        """,
    )
    assert (entry.context_length, entry.kv_cache_tokens, entry.kv_type) == (4096, 8192, "q8_0")
    assert (entry.flash_attention, entry.gpu_layers, entry.tensor_split) == (True, 10, (1.0, 0.5))
    assert (entry.price.input, entry.price.output) == (1.0, 2.5)
    assert entry.optimize == "lossless"


def test_a_draft_is_the_name_of_another_text_model(tmp_path: Path) -> None:
    drafted = TWO_MODELS.replace('"chatty.gguf"', '"chatty.gguf"\ndraft = "tiny"')
    small = '[model.mini]\nkind = "text"\nsource = "small.gguf"\naliases = ["tiny"]\n'
    entry = loaded(tmp_path, drafted + small).entries["org/chatty"]
    assert isinstance(entry, TextModelEntry) and entry.draft
    assert entry.draft == ModelSource("tiny", PathSource(tmp_path / "small.gguf"))
    moved = loaded(tmp_path, drafted + small.replace("small.gguf", "other.gguf"))
    assert moved.entries["org/chatty"] != entry  # so that a reload loads it anew


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tinny", 'draft: no model is called "tinny"; known: '),
        ("small", 'draft: "small" is the model itself; expected another text model'),
        ("org/vectors", 'draft: "org/vectors" is an embedding model; expected another text model'),
    ],
)
def test_other_drafts_are_refused(name: str, words: str, tmp_path: Path) -> None:
    text = TWO_MODELS.replace('"chatty.gguf"', f'"chatty.gguf"\ndraft = "{name}"')
    assert words in refusal(tmp_path, text)
