"""The vocabulary of SmolLM2 through llama.cpp."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live import SMOLLM2, LiveServer

from localinfra.errors import InvalidRequest
from localinfra.llama import model as module
from localinfra.llama.model import Model, ModelSettings
from localinfra.models.sources import locate


@pytest.fixture(scope="module")
def model(server: LiveServer) -> Iterator[Model]:
    entry = server.runtime.catalog.entries[SMOLLM2]
    model = Model(locate(SMOLLM2, entry.source), ModelSettings())
    yield model
    model.close()


@given(st.text("aZ09é漢ßЖ🦜 \n\t<|>im_end.,"))  # this vocabulary lacks some bytes of rarer scripts
def test_text_survives_tokenizing(model: Model, text: str) -> None:
    ids = model.tokenize(text, parse_special=False, add_bos=True)
    assert b"".join(map(model.token_bytes, ids)).decode() == text


def test_control_tokens_are_read_only_where_asked_for(model: Model) -> None:
    assert model.tokenize("<|im_end|>", parse_special=True, add_bos=False) == [2]
    assert len(model.tokenize("<|im_end|>", parse_special=False, add_bos=False)) > 1
    assert model.token_bytes(2) == b"" and model.is_end(2)


def test_a_lone_surrogate_is_refused(model: Model) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        model.tokenize("a\ud800", parse_special=True, add_bos=False)


@given(st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "a", " b", "\n", "<|im_"])))
def test_a_text_cut_at_its_marks_gives_the_same_tokens(model: Model, words: list[str]) -> None:
    text = "".join(words)
    whole = model.tokenize(text, parse_special=True, add_bos=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MARKS_AT_ONCE", 1)
        assert model.tokenize(text, parse_special=True, add_bos=True) == whole


@pytest.mark.parametrize("text", ["<|im_end|>", "1", " ", "\n", "漢", "a", "\0", "e\u0301"])
def test_long_monotonous_texts_crash_nothing(model: Model, text: str) -> None:
    assert len(model.tokenize(text * 100_000, parse_special=True, add_bos=True)) > 1000


def test_no_call_of_the_tokenizer_gets_many_marks(model: Model) -> None:
    text = "<|im_end|>" * 5000
    parts = model._parts(text)
    assert "".join(parts) == text
    assert max(part.count("<|im_end|>") for part in parts) == module.MARKS_AT_ONCE
