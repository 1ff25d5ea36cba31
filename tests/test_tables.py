"""Whatever stands in a settings file, the answer is a struct or a sentence, never a traceback."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localinfra.config import ServerSettings
from localinfra.errors import ConfigError
from localinfra.models.catalog import KINDS, decode_entry
from localinfra.tables import close_matches, decode

TOML_VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dates() | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
MODEL_KEYS = sorted({key for kind in KINDS.values() for key in kind.__struct_fields__})


@given(st.dictionaries(st.sampled_from(ServerSettings.__struct_fields__), TOML_VALUES))
def test_server_settings_decode_or_are_refused_by_key(table: dict[str, object]) -> None:
    try:
        decode(table, ServerSettings, "here")
    except ConfigError as error:
        told = "\n" + str(error)
        assert any(f"\nhere {key}" in told for key in table)


@given(
    st.sampled_from(sorted(map(str, KINDS))),
    st.dictionaries(st.sampled_from(MODEL_KEYS), TOML_VALUES, max_size=4),
)
def test_model_tables_decode_or_are_refused_by_key(kind: str, table: dict[str, object]) -> None:
    try:
        decode_entry("x", {"kind": kind, "source": "x"} | table, Path("/here"), "there")
    except ConfigError as error:
        told = "\n" + str(error)
        assert any(f"\nthere {key}" in told for key in (*table, "a name with dots"))


@pytest.mark.parametrize(
    ("word", "found"),
    [("contxt", ["context"]), ("CONTEXT", ["context"]), ("ports", ["Port"]), ("zzz", [])],
)
def test_close_words_are_found_whatever_their_case(word: str, found: list[str]) -> None:
    assert close_matches(word, ["context", "Port", "host"]) == found
