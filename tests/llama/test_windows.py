"""Long texts reach llama.cpp's tokenizers in parts that have the tokens of the whole."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models.tiny_gguf import STRING, Value, gpt2_vocabulary, spm_vocabulary, tiny_llama

from localinfra.llama import model as model_module
from localinfra.llama import windows
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.windows import WINDOW, Windows


def deepseek_vocabulary() -> dict[str, Value]:
    """One whose words llama.cpp splits off by std::regex."""
    return gpt2_vocabulary() | {"tokenizer.ggml.pre": Value(STRING, "deepseek-llm")}


VOCABULARIES = [gpt2_vocabulary, spm_vocabulary, deepseek_vocabulary]


@pytest.fixture(scope="module", params=VOCABULARIES, ids=lambda make: make.__name__)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    path: Path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    return Model(tiny_llama(request.param).write(path), ModelSettings())


def parts(text: str, tokens: list[str], marks: list[str], *, has_marks: bool) -> list[str]:
    spelled = [*tokens, *marks]
    return [*Windows(map(str.encode, spelled), marks).of(text, has_marks=has_marks)]


WORDS = ["the", " the", " a", "he", "in", "</s>", "<s>", "</", "\n", "\n\n", "  ", "12", "é", "🦜"]


@settings(max_examples=300, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), max_size=60), reads_marks=st.booleans())
def test_the_tokens_are_those_of_the_whole(
    model: Model, words: list[str], reads_marks: bool
) -> None:
    text = "q jumps".join(words)
    whole = model.tokenize(text, parse_special=reads_marks, add_bos=True)
    with pytest.MonkeyPatch.context() as patch:
        for module in (model_module, windows):
            patch.setattr(module, "WINDOW", 40)
        assert model.tokenize(text, parse_special=reads_marks, add_bos=True) == whole


@pytest.mark.parametrize("unit", ["a", " ", "!", "1", "\n", "🦜", "</s>", "the ", "e\u0301", "漢"])
def test_a_long_run_of_anything_comes_back_whole(model: Model, unit: str) -> None:
    """40,000 letters end the process where std::regex gets them at once, and 200,000 line breaks
    take SentencePiece two seconds."""
    text = unit * (100_000 // len(unit))
    ids = model.tokenize(text, parse_special=True, add_bos=False)
    spelled = b"".join(
        model.token_bytes(token) or model.token_text(token).encode() for token in ids
    )
    assert spelled.decode().lstrip(" ") == text.lstrip(" ")


@pytest.mark.parametrize("has_marks", [True, False])
@pytest.mark.parametrize("unit", ["a", "ab ", "a\n\n", "<mark>", "<mark>a", "é ", "a <mark> "])
def test_no_part_is_long_and_none_ends_in_a_mark_s_middle(unit: str, has_marks: bool) -> None:
    text = unit * 10_000
    found = parts(text, ["aa", "ab", "a"], ["<mark>"], has_marks=has_marks)
    assert "".join(found) == text
    assert max(map(len, found)) <= WINDOW
    if has_marks:
        assert sum(part.count("<mark>") for part in found) == text.count("<mark>")


def test_it_is_cut_where_no_token_joins_what_stands_side_by_side() -> None:
    text = "x y" * WINDOW
    assert all(part.endswith("x") for part in parts(text, [" y", "yx"], [], has_marks=False)[:-1])
    assert all(part.endswith("y") for part in parts(text, [" y", "x "], [], has_marks=False)[:-1])


def test_a_blank_before_a_cut_would_be_split_otherwise() -> None:
    found = parts("word \n" * WINDOW, ["word"], [], has_marks=False)
    assert all(part.endswith("d") for part in found[:-1])


def test_a_cut_keeps_away_from_marks_which_may_strip_blanks() -> None:
    found = parts("some words <mark> and " * WINDOW, ["words"], ["<mark>"], has_marks=True)
    for part in found:
        assert not part.endswith("<mark>") and not part.startswith((" <mark>", "<mark>"))
