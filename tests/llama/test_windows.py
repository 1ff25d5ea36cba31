"""Long texts are tokenized in parts, which gives the tokens of the whole."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models.tiny_gguf import STRING, Value, gpt2_vocabulary, spm_vocabulary, tiny_llama

from localinfra.llama import vocabulary, windows
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.settings import WINDOW
from localinfra.llama.windows import Windows


def deepseek_vocabulary() -> dict[str, Value]:
    """A vocabulary whose words llama.cpp splits by std::regex."""
    return gpt2_vocabulary() | {"tokenizer.ggml.pre": Value(STRING, "deepseek-llm")}


VOCABULARIES = [gpt2_vocabulary, spm_vocabulary, deepseek_vocabulary]


@pytest.fixture(scope="module", params=VOCABULARIES, ids=lambda make: make.__name__)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    path: Path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    return Model(tiny_llama(request.param).write(path), ModelSettings())


def parts(text: str, tokens: list[str], special: list[str], *, parse_special: bool) -> list[str]:
    spelled = [*tokens, *special]
    return [*Windows(map(str.encode, spelled), special).of(text, parse_special=parse_special)]


WORDS = ["the", " the", " a", "he", "in", "</s>", "<s>", "</", "\n", "\n\n", "  ", "12", "é", "🦜"]


@settings(max_examples=300, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), max_size=60), parse_special=st.booleans())
def test_the_tokens_are_those_of_the_whole(
    model: Model, words: list[str], parse_special: bool
) -> None:
    text = "q jumps".join(words)
    whole = model.tokenize(text, parse_special=parse_special, add_bos=True)
    with pytest.MonkeyPatch.context() as patch:
        for module in (vocabulary, windows):
            patch.setattr(module, "WINDOW", 40)
        assert model.tokenize(text, parse_special=parse_special, add_bos=True) == whole


@pytest.mark.parametrize("unit", ["a", " ", "!", "1", "\n", "🦜", "</s>", "the ", "e\u0301", "漢"])
def test_a_long_run_of_anything_is_tokenized_completely(model: Model, unit: str) -> None:
    """In one call, 40,000 letters crash std::regex, and SentencePiece takes two seconds for 200,000
    line breaks."""
    text = unit * (100_000 // len(unit))
    ids = model.tokenize(text, parse_special=True, add_bos=False)
    spelled = b"".join(
        model.token_bytes(token) or model.token_text(token).encode() for token in ids
    )
    assert spelled.decode().lstrip(" ") == text.lstrip(" ")


@pytest.mark.parametrize("parse_special", [True, False])
@pytest.mark.parametrize("unit", ["a", "ab ", "a\n\n", "<mark>", "<mark>a", "é ", "a <mark> "])
def test_no_part_is_long_and_none_splits_a_special_token(unit: str, parse_special: bool) -> None:
    text = unit * 10_000
    found = parts(text, ["aa", "ab", "a"], ["<mark>"], parse_special=parse_special)
    assert "".join(found) == text
    assert max(map(len, found)) <= WINDOW
    if parse_special:
        assert sum(part.count("<mark>") for part in found) == text.count("<mark>")


def test_a_cut_is_between_bytes_that_no_token_joins() -> None:
    text = "x y" * WINDOW
    after_x = parts(text, [" y", "yx"], [], parse_special=False)
    after_y = parts(text, [" y", "x "], [], parse_special=False)
    assert all(part.endswith("x") for part in after_x[:-1])
    assert all(part.endswith("y") for part in after_y[:-1])


def test_no_cut_is_after_a_blank() -> None:
    found = parts("word \n" * WINDOW, ["word"], [], parse_special=False)
    assert all(part.endswith("d") for part in found[:-1])


def test_no_cut_is_beside_a_special_token_which_may_strip_blanks() -> None:
    found = parts("some words <mark> and " * WINDOW, ["words"], ["<mark>"], parse_special=True)
    for part in found:
        assert not part.endswith("<mark>") and not part.startswith((" <mark>", "<mark>"))
