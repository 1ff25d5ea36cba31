"""A file's tokens that are found in every text, and those that only templates write."""

import asyncio
from pathlib import Path

import pytest
from models.tiny_gguf import BOOL, Value, gpt2_vocabulary, spm_vocabulary, tiny_llama

from localinfra.chat.messages import Message
from localinfra.llama.model import Model, ModelSettings
from localinfra.text.prompts import Prompts
from localinfra.text.templates import compile_templates

TEMPLATE = "{{ bos_token }}{% for m in messages %}<pad>{{ m.content }}</s>{% endfor %}"


def model(vocabulary: dict[str, Value], path: Path) -> Model:
    tiny = tiny_llama()
    tiny.metadata.update(vocabulary)
    return Model(tiny.write(path), ModelSettings(vocabulary_only=True))


def test_a_prompt_ends_without_the_token_that_ends_texts(tmp_path: Path) -> None:
    """Some files ask for one after every text."""
    for name, vocabulary in {"gpt2": gpt2_vocabulary(), "spm": spm_vocabulary()}.items():
        plain = model(vocabulary, tmp_path / f"{name}.gguf")
        vocabulary["tokenizer.ggml.add_eos_token"] = Value(BOOL, True)
        ending = model(vocabulary, tmp_path / f"{name}-eos.gguf")
        for text in ("", "the inner", "the inner " * 2000):
            ids = ending.tokenize(text, parse_special=True, add_bos=True)
            assert ids == plain.tokenize(text, parse_special=True, add_bos=True)
        bos, eos = ending.bos_text, ending.eos_text
        assert ending.special_tokens[eos] not in ids and ids[0] == ending.special_tokens[bos]
        # Embedders still read it.
        assert ending.tokens_around[1] == [ending.special_tokens[eos]]


@pytest.mark.parametrize("kind", [2, 3, 4])
def test_what_only_templates_may_write_is_kept_apart(kind: int, tmp_path: Path) -> None:
    """Unknown (2) and control tokens (3); user-defined ones (4) are read in every text."""
    vocabulary = gpt2_vocabulary()
    words, kinds = (vocabulary[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type"))
    at = words.value.index("the")  # type: ignore[attr-defined]
    kinds.value[at] = kind  # type: ignore[index]
    vocabulary["tokenizer.ggml.merges"].value.remove("th e")  # type: ignore[attr-defined]
    tiny = model(vocabulary, tmp_path / "tiny.gguf")
    is_control = kind != 4
    assert ("the" in tiny.control_tokens) == is_control
    assert ("the" in tiny.special_tokens) == (kind != 2)
    templates = compile_templates(TEMPLATE, None, tiny)
    prompts = Prompts("m", tiny, templates, 8192, 1)
    text = "in\n" + "the hat\n" * 3
    ids = asyncio.run(prompts.chat([Message(role="user", content=text)], {})).ids
    prompts.close()
    assert ids.count(at) == (0 if is_control else 3)
    assert text.strip() in b"".join(map(tiny.token_bytes, ids)).decode()
    template = templates.default
    assert template is not None
    rendered = template.render([Message(role="user", content=text)])
    assert (len(rendered.segments) == 1) == (not is_control)


def with_mark(kind: str, mark: str, type_: int) -> dict[str, Value]:
    """One more token, of this type."""
    vocabulary = spm_vocabulary() if kind == "spm" else gpt2_vocabulary()
    added: dict[str, object] = {"tokens": mark, "token_type": type_, "scores": 0.0}
    for name, value in added.items():
        if found := vocabulary.get(f"tokenizer.ggml.{name}"):
            found.value.append(value)  # type: ignore[attr-defined]
    return vocabulary


@pytest.mark.parametrize("kind", ["gpt2", "spm"])
# Control tokens of gpt-oss, which llama.cpp makes user-defined; files that say so themselves.
@pytest.mark.parametrize(
    "mark, type_", [("<|start|>", 3), ("<|im_start|>", 4), ("<start_of_turn>", 4)]
)
def test_marks_of_turns_that_are_always_matched_stay_text_in_messages(
    kind: str, mark: str, type_: int, tmp_path: Path
) -> None:
    tiny = model(with_mark(kind, mark, type_), tmp_path / "tiny.gguf")
    template = f"{{% for m in messages %}}{mark}{{{{ m.content }}}}</s>{{% endfor %}}"
    prompts = Prompts("m", tiny, compile_templates(template, None, tiny), 100_000, 1)
    token = tiny.control_tokens[mark]
    for typed in (mark, f"the {mark * 3} hat", f"<{mark}|> ", f"{'the ' * 3000}{mark}" * 3):
        ids = asyncio.run(prompts.chat([Message(role="user", content=f"in{typed}in")], {})).ids
        assert ids.count(token) == 1
        said = b"".join(map(tiny.token_bytes, ids[ids.index(token) + 1 :])).decode()
        assert said.replace(" ", "") == f"in{typed}in".replace(" ", "")
    prompts.close()
    whole = tiny.tokenize(mark, parse_special=True, add_bos=False)
    assert whole == [token]
    as_text = tiny.tokenize(f"the {mark}", parse_special=False, add_bos=False)
    assert b"".join(map(tiny.token_bytes, as_text)).decode().strip() == f"the {mark}"
