"""POST /v1/chat/completions with openai's client against SmolLM2."""

from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live import SMOLLM2, LiveServer

COUNT: list[Any] = [{"role": "user", "content": "Repeat the letters: a b c d e f g h i j k l m"}]


def test_a_chat_completion_has_openais_shape(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": "Say hello."}], max_tokens=8
    )
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.model == SMOLLM2  # what an alias stands for
    [choice] = answer.choices
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    cost = (answer.usage.prompt_tokens + 2 * answer.usage.completion_tokens) / 1e6
    assert answer.usage.model_extra == {"estimated_cost": pytest.approx(cost)}


def test_choices_share_one_computed_prompt_and_differ(
    client: openai.OpenAI, server: LiveServer
) -> None:
    prompt = "Invent a name for a " + "very " * 60 + "fast boat."
    answer = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": prompt}], n=12, max_tokens=12, seed=7
    )
    assert [choice.index for choice in answer.choices] == list(range(12))
    assert len({choice.message.content for choice in answer.choices}) > 6
    again = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": prompt}], n=1, max_tokens=12
    )
    assert again.usage is not None and again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1


def test_logprobs_do_not_depend_on_temperature_penalties_or_bias(client: openai.OpenAI) -> None:
    def first(**options: Any) -> list[float]:
        answer = client.chat.completions.create(
            model="smollm2", messages=COUNT, max_tokens=1, logprobs=True, top_logprobs=5, **options
        )
        assert answer.choices[0].logprobs and answer.choices[0].logprobs.content
        return [top.logprob for top in answer.choices[0].logprobs.content[0].top_logprobs]

    plain = first(temperature=0)
    assert first(temperature=2, logit_bias={"100": 50}, presence_penalty=2) == pytest.approx(plain)


def test_frequency_penalty_counts_generated_tokens_alone(client: openai.OpenAI) -> None:
    """A token forced by bias gives way once the penalty has added up; the prompt's do not count."""
    messages: list[Any] = [{"role": "user", "content": ", , , , , , , , , ,"}]
    answer = client.chat.completions.create(
        model="smollm2", messages=messages, max_tokens=20, temperature=0,
        logit_bias={"28": 25}, frequency_penalty=2,
    )  # fmt: skip
    text = answer.choices[0].message.content or ""
    assert text.startswith(",,") and not text.endswith(",,")


def test_an_assistant_message_at_the_end_is_continued(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2", temperature=0, max_tokens=4,
        messages=[
            {"role": "user", "content": "Count from one to ten."},
            {"role": "assistant", "content": "One, two, three, four, five, six, seven,"},
        ],
    )  # fmt: skip
    assert (answer.choices[0].message.content or "").lower().startswith(" eight")


def test_control_tokens_typed_by_a_user_stay_text(server: LiveServer) -> None:
    def num_prompt_tokens(text: str) -> int:
        body = {"model": "smollm2", "messages": [{"role": "user", "content": text}],
                "max_tokens": 1}  # fmt: skip
        usage: dict[str, int] = server.post("/v1/chat/completions", body).json()["usage"]
        return usage["prompt_tokens"]

    assert num_prompt_tokens("<|im_end|>") >= num_prompt_tokens("") + 4


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text(alphabet="abeinorst ,.é\n", min_size=1, max_size=3), max_size=4),
    st.integers(0, 5),
    st.integers(1, 40),
)
def test_a_stream_gives_the_text_of_the_whole_answer(
    client: openai.OpenAI, stops: list[str], seed: int, max_tokens: int
) -> None:
    """For any stop strings; the answer ends before the first one and never shows part of it."""
    options: dict[str, Any] = {
        "model": "smollm2", "messages": [{"role": "user", "content": "Écris un poème. 🦜"}],
        "seed": seed, "max_tokens": max_tokens, "stop": stops, "logprobs": True,
    }  # fmt: skip
    # The prompt is read once before: whether it is cached changes the batch's shape, and with it
    # the kernels' rounding, which a draw may fall on.
    client.chat.completions.create(**{**options, "max_tokens": 1})
    free = client.chat.completions.create(**{**options, "stop": None}).choices[0]
    whole = client.chat.completions.create(**options).choices[0]
    chunks = list(client.chat.completions.create(**options, stream=True))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    entries = [
        entry
        for chunk in chunks
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content or []
    ]
    assert streamed == whole.message.content
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason
    assert whole.logprobs is not None
    assert [e.token for e in entries] == [e.token for e in whole.logprobs.content or []]
    text = free.message.content or ""
    ends = [text.find(stop) for stop in stops if stop in text]
    if not ends:
        assert whole.message.content == text
    else:
        assert whole.finish_reason == "stop"
        first = min((text.find(s) + len(s), text.find(s)) for s in stops if s in text)
        assert whole.message.content == text[: first[1]]
