"""Whatever stands in a settings file, the answer is a struct or a sentence, never a traceback."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localinfra.config.settings import ServerSettings
from localinfra.config.tables import close_matches, decode
from localinfra.errors import ConfigError
from localinfra.models.catalog import decode_model
from localinfra.models.entries import KINDS

TOML_VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dates() | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
MODEL_KEYS = sorted({key for kind in KINDS.values() for key in kind.__struct_fields__})
MODEL_KEYS += ["default_version", "versions"]
SETTINGS = st.dictionaries(st.sampled_from(MODEL_KEYS), TOML_VALUES, max_size=4)


@given(st.dictionaries(st.sampled_from(ServerSettings.__struct_fields__), TOML_VALUES))
def test_server_settings_decode_or_are_refused_by_key(table: dict[str, object]) -> None:
    try:
        decode(table, ServerSettings, "here")
    except ConfigError as error:
        told = "\n" + str(error)
        assert any(f"\nhere {key}" in told for key in table)


@given(st.sampled_from(sorted(map(str, KINDS))), SETTINGS)
def test_model_tables_decode_or_are_refused_by_key(kind: str, table: dict[str, object]) -> None:
    try:
        decode_model("x", {"kind": kind, "source": "x"} | table, Path("/here"), "there")
    except ConfigError as error:
        told = str(error)
        place = 'there: [model."x"] '
        assert any(f"{place}{key}" in told for key in (*table, "a version")) or (
            "versions" in table and told.startswith('there: [model."x".versions."')
        )


@given(
    st.sampled_from(sorted(map(str, KINDS))),
    SETTINGS,
    st.dictionaries(st.sampled_from(["a", "1.5", "a b", ""]), SETTINGS, min_size=1, max_size=2),
    st.sampled_from(["a", "1.5"]),
)
def test_tables_with_versions_decode_to_each_of_them_or_are_refused(
    kind: str, shared: dict[str, object], versions: dict[str, dict[str, object]], default: str
) -> None:
    own = {version: {"source": "x"} | settings for version, settings in versions.items()}
    table = shared | {"kind": kind, "versions": own, "default_version": default}
    try:
        found = decode_model("x", table, Path("/here"), "there")
    except ConfigError as error:
        assert str(error).startswith(('there: [model."x"] ', 'there: [model."x".versions."'))
    else:
        assert [f"x:{version}" for version in versions] == list(found)


@pytest.mark.parametrize(
    ("word", "found"),
    [("contxt", ["context"]), ("CONTEXT", ["context"]), ("ports", ["Port"]), ("zzz", [])],
)
def test_close_words_are_found_whatever_their_case(word: str, found: list[str]) -> None:
    assert close_matches(word, ["context", "Port", "host"]) == found
