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
