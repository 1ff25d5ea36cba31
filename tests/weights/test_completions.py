"""POST /v1/completions with openai's client against SmolLM2."""

import asyncio
from typing import Any

import numpy as np
import openai
import pytest
from live import LiveServer
from llama_cpp import llama_cpp as lib

from localinfra.engine.engine import Engine
from localinfra.engine.request import GenerationParams, GenerationRequest
from localinfra.llama.context import LlamaContext
from localinfra.llama.model import Model, ModelSettings
from localinfra.llama.settings import ContextSettings
from localinfra.machine import usable_cores

SENTENCE = "The capital of France is Paris, and the capital of Italy is"


def complete(client: openai.OpenAI, **options: Any) -> Any:
    return client.completions.create(**{"model": "smollm2", "temperature": 0, **options})


def test_a_completion_continues_the_prompt(client: openai.OpenAI) -> None:
    answer = complete(client, prompt="The capital of France is", max_tokens=3)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert answer.choices[0].text.startswith(" Paris")
    assert answer.choices[0].logprobs is None


def test_choices_are_numbered_prompt_by_prompt(client: openai.OpenAI) -> None:
    prompts = ["The capital of France is", "The capital of Italy is"]
    answer = complete(client, prompt=prompts, n=2, max_tokens=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    cities = [choice.text.strip(" .,\n") for choice in answer.choices]
    assert cities == ["Paris", "Paris", "Rome", "Rome"]


def test_token_ids_are_taken_as_they_are(client: openai.OpenAI, model: Model) -> None:
    ids = model.tokenize(SENTENCE, parse_special=True, add_bos=True)
    texts = [
        complete(client, prompt=prompt, max_tokens=3).choices[0].text
        for prompt in (SENTENCE, ids, [ids], [SENTENCE])
    ]
    assert len(set(texts)) == 1
    assert complete(client, prompt=ids, max_tokens=1).usage.prompt_tokens == len(ids)


def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI) -> None:
    answer = complete(client, prompt="1 2 3 4 5 6 7 8 9 10 11 12 13", max_tokens=40, stop=["7 1"])
    assert answer.choices[0].text == " 14 15 16 1"
    assert answer.choices[0].finish_reason == "stop"


def test_scores_equal_a_direct_evaluation(server: LiveServer, model: Model) -> None:
    """With the batch shapes and cells of an engine that holds nothing else: other shapes, and
    other places in the cache, differ by the kernels' rounding."""
    ids = model.tokenize((SENTENCE + " Rome. ") * 9, parse_special=True, add_bos=True)
    context_settings = ContextSettings(
        context_length=2048, num_cells=4096, num_sequences=8, batch_size=512, kv_type="f16"
    )
    context = LlamaContext(Model(model.path, ModelSettings()), context_settings)
    chunk = min(context.max_output_rows, context.canonical_rows)
    assert len(ids) > 2 * chunk
    expected = evaluate(model, ids, chunk)

    async def score() -> list[float | None]:
        engine = Engine(context)
        request = GenerationRequest(ids, 0, GenerationParams(top_logprobs=0, score_prompt=True))
        async with engine.generate([request]) as generation:
            [[event]] = [events async for events in generation]
        await asyncio.to_thread(engine.close)
        return [score.logprob for score in event.prompt_logprobs or []]

    scores = asyncio.run(score())
    assert scores[0] is None
    assert scores[1:] == pytest.approx(expected, abs=1e-3)


def evaluate(model: Model, ids: list[int], chunk: int) -> list[float]:
    """The logprob of each token but the first, by llama.cpp alone."""
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 4096, 512, 512, 8
    params.kv_unified, params.n_outputs_max = True, chunk
    params.n_threads = params.n_threads_batch = usable_cores()
    context = lib.llama_init_from_model(model.pointer, params)
    batch = lib.llama_batch_init(512, 0, 1)
    logprobs: list[float] = []
    for start in range(0, len(ids) - 1, chunk):
        part = ids[start : min(start + chunk, len(ids) - 1)]
        batch.n_tokens = len(part)
        for index, token in enumerate(part):
            batch.token[index], batch.pos[index] = token, start + index
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
            batch.logits[index] = 1
        assert lib.llama_decode(context, batch) == 0
        for index in range(len(part)):
            row = lib.llama_get_logits_ith(context, index)
            logits = np.ctypeslib.as_array(row, (model.num_vocab,)).astype(np.float64)
            log_sum = np.log(np.exp(logits - logits.max()).sum()) + logits.max()
            logprobs.append(float(logits[ids[start + index + 1]] - log_sum))
    lib.llama_batch_free(batch)
    lib.llama_free(context)
    return logprobs
