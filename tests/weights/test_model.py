"""The vocabulary of SmolLM2 through llama.cpp."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localinfra.errors import InvalidRequest
from localinfra.llama import vocabulary, windows
from localinfra.llama.model import Model


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


WORDS = [
    "<|im_end|>",
    "<|im_start|>",
    "a",
    " b",
    "\n",
    "  ",
    "\n\n",
    "<|im_",
    "12345",
    ");",
    " é漢",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=60))
def test_a_text_cut_in_parts_gives_the_same_tokens(model: Model, words: list[str]) -> None:
    text = "a few words".join(words)
    for parse_special in (True, False):
        whole = model.tokenize(text, parse_special=parse_special, add_bos=True)
        with pytest.MonkeyPatch.context() as patch:
            for module in (vocabulary, windows):
                patch.setattr(module, "WINDOW", 60)
            cut = model.tokenize(text, parse_special=parse_special, add_bos=True)
        assert cut == whole


@pytest.mark.parametrize("text", ["<|im_end|>", "1", " ", "\n", "漢", "a", "\0", "e\u0301"])
def test_long_monotonous_texts_crash_nothing(model: Model, text: str) -> None:
    assert len(model.tokenize(text * 100_000, parse_special=True, add_bos=True)) > 1000
