"""Prefixes of Gemma 3 270M, most of whose layers have a window of 512 tokens."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from localinfra.engine.backend import Batch
from localinfra.llama.context import LlamaContext
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.settings import ContextSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TOKENS = [1000 + 7919 * i % 200_000 for i in range(1200)]  # more than two windows


SETTINGS = ContextSettings(
    context_length=2048, num_cells=4096, num_sequences=3, batch_size=512, threads=2,
    kv_type="f16", full_window=True,
)  # fmt: skip


@pytest.fixture
def context(gemma_file: Path) -> Iterator[LlamaContext]:
    context = LlamaContext(Model(gemma_file, ModelSettings()), SETTINGS)
    yield context
    context.close()


@pytest.fixture
def small_context(gemma_file: Path) -> Iterator[LlamaContext]:
    """Its windows have no room for all tokens."""
    settings = replace(SETTINGS, full_window=False)
    context = LlamaContext(Model(gemma_file, ModelSettings()), settings)
    yield context
    context.close()


def read(context: LlamaContext, slot: int, start: int, stop: int) -> NDArray[np.float32]:
    """The logits after the last token."""
    for at in range(start, stop, 400):
        tokens = TOKENS[at : min(at + 400, stop)]
        batch = Batch()
        batch.extend(slot, at, tokens, 1)
        context.decode(batch)
    return context.logits(len(tokens) - 1).copy()


def test_logits_after_shared_cells_are_those_of_computing_them(context: LlamaContext) -> None:
    transfer, idle = context.num_sequences, context.num_sequences + 1
    read(context, 0, 0, 800)
    context.copy(0, idle, 0, 800)
    expected = read(context, 0, 800, 1200)
    context.drop(0, 0)
    read(context, 1, 0, 700)  # others fill and leave the cells between
    context.drop(1, 0)
    context.copy(idle, 2, 0, 800)
    assert np.array_equal(read(context, 2, 800, 1200), expected)
    context.drop(2, 0)
    pieces = []
    for start in (0, 400):
        context.copy(idle, transfer, start, start + 400)
        pieces.append(context.save(transfer))
        context.drop(transfer, 0)
    context.drop(idle, 0)
    for start, data in zip((0, 400), pieces, strict=True):
        assert context.restore(transfer, data)
        context.copy(transfer, 0, start, start + 400)
        context.drop(transfer, 0)
    assert np.array_equal(read(context, 0, 800, 1200), expected)


def test_logits_after_a_saved_window_are_those_of_computing_it(small_context: LlamaContext) -> None:
    context, idle = small_context, small_context.num_sequences + 1
    assert context.needs_states and not context.has_full_window
    read(context, 0, 0, 600)
    context.copy(0, idle, 0, 600)
    window = context.save_state(0)
    expected = read(context, 0, 600, 640)  # few enough rows for the same bits in any place
    for slot in (0, 2):
        context.drop(0, 0)
        read(context, 1, 0, 550)  # another one gets the cells of its window
        context.copy(idle, slot, 0, 600)
        assert context.accepts(window, 600, 600) and context.restore_state(slot, window, 600)
        assert np.abs(read(context, slot, 600, 640) - expected).max() < 1e-3
        context.drop(slot, 0)
        context.drop(1, 0)


def test_the_next_turn_reuses_what_was_read(gemma: openai.OpenAI) -> None:
    story = "The ship left the harbour at dawn, and nobody on board knew where it went. " * 40

    def ask(prompt: str) -> tuple[int, int]:
        """Tokens of the prompt, and how many were cached."""
        reply = gemma.completions.create(model="gemma", prompt=prompt, max_tokens=12)
        assert reply.usage and reply.usage.prompt_tokens_details
        return reply.usage.prompt_tokens, reply.usage.prompt_tokens_details.cached_tokens or 0

    num_first, cached = ask(story)
    assert num_first > 600 and cached < 16  # other tests' prompts may begin alike
    num_second, cached = ask(story + "Then")
    assert num_first - 2 <= cached < num_second
