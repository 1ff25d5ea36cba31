"""Conversations with real models of each kind of memory: what the next turn reads again."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from chat_templates import CHATML
from models.tiny_gguf import TinyModel, tiny_gemma3, tiny_llama, tiny_mamba
from models.tiny_hybrids import tiny_lfm2, tiny_qwen35
from models.tiny_latent import tiny_deepseek2

from localinfra.chat.answer import Answer
from localinfra.chat.messages import Message
from localinfra.engine.request import SamplingParams
from localinfra.models.entries import TextModelEntry
from localinfra.models.sources import PathSource
from localinfra.prefixes.shelves import Shelves
from localinfra.text.loading import load_text_model
from localinfra.text.model import TextModel
from localinfra.text.request import TextParams
from localinfra.text.turn import TurnRequest, begin_turn, pieces_of

GREEDY = SamplingParams(temperature=0)
SYSTEM = Message("system", "You are terse. " * 8)


def gemma3() -> TinyModel:
    return tiny_gemma3(layers=7)


async def turn(
    model: TextModel, messages: Sequence[Message], num_choices: int = 1
) -> tuple[list[int], int]:
    """How many tokens of the prompt each choice reused, and how many it has."""
    params = TextParams(sampling=GREEDY, max_tokens=8, num_choices=num_choices)
    request = TurnRequest(messages=messages, answer=Answer(), template_kwargs={}, params=params)
    begun = await begin_turn(model, request, "")
    cached = [0] * num_choices
    async for delta, _ in pieces_of(begun):
        cached[delta.choice] = delta.num_cached
    return cached, begun.num_prompt


def small_window() -> TinyModel:
    """To be run with a cache of the windows only."""
    return tiny_gemma3(layers=7)


def entry_of(make: Callable[[], TinyModel], folder: Path) -> TextModelEntry:
    return TextModelEntry(
        source=PathSource(make().write(folder / "tiny.gguf")),
        context_length=512,
        kv_cache_tokens=4096,
        chat_template=CHATML,
        window_cache="window" if make is small_window else "auto",
    )


MAKERS = [tiny_llama, tiny_deepseek2, gemma3, small_window, tiny_mamba, tiny_lfm2, tiny_qwen35]


@pytest.mark.parametrize("make", MAKERS)
def test_only_what_is_new_in_a_conversation_is_read(
    tmp_path: Path, make: Callable[[], TinyModel]
) -> None:
    model = load_text_model("tiny", entry_of(make, tmp_path), 8)

    async def test() -> None:
        messages = [SYSTEM, Message("user", "Tell me of the sea and of all that lives in it.")]
        cached, num_first = await turn(model, messages)
        assert cached == [0]
        answer = Message("assistant", "It is deep, and salt.")
        messages += [answer, Message("user", "And of the land, with its hills and its rivers?")]
        cached, num_second = await turn(model, messages)
        assert num_second > num_first and cached[0] >= num_first - 6
        other = [SYSTEM, Message("user", "Something quite different: what is a prime number?")]
        cached, _ = await turn(model, other)
        assert cached[0] >= 8 * len("You are terse".split())
        cached, num_third = await turn(model, [SYSTEM, Message("user", "Four of them." * 9)], 4)
        assert cached[1:] == [num_third - 1] * 3

    try:
        asyncio.run(test())
    finally:
        model.close()


@pytest.mark.parametrize("make", MAKERS)
def test_a_conversation_goes_on_from_files(tmp_path: Path, make: Callable[[], TinyModel]) -> None:
    """As after a restart: nothing of the first server is in memory."""
    entry = entry_of(make, tmp_path)
    messages = [SYSTEM, Message("user", "Tell me of the sea and of all that lives in it.")]
    seen = []
    for _ in range(2):
        shelves = Shelves(tmp_path / "prefixes", 64 << 20)
        model = load_text_model("tiny", entry, 8, shelves=shelves)
        try:
            seen.append(asyncio.run(turn(model, messages)))
        finally:
            model.close()
            shelves.close(600)
    (_, num_first), (cached, _) = seen
    assert num_first > 128 and cached[0] >= num_first - 6
