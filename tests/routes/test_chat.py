"""POST /v1/chat/completions with openai's client."""

from typing import Any

import openai
import pytest
from echo import ECHO, EchoServer
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

COUNT: list[Any] = [{"role": "user", "content": "Repeat the letters: a b c d e f g h i j k l m"}]


def test_a_chat_completion_has_openais_shape(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="echo", messages=[{"role": "user", "content": "Say hello."}], max_tokens=8
    )
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.model == ECHO  # the request used an alias
    [choice] = answer.choices
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    cost = (answer.usage.prompt_tokens + 2 * answer.usage.completion_tokens) / 1e6
    assert answer.usage.model_extra == {"estimated_cost": pytest.approx(cost)}


def test_a_stream_starts_with_the_role_and_ends_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="echo", messages=COUNT, max_tokens=6, temperature=0, stream=True
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices for chunk in chunks)  # the seeds read choices[0] of every chunk
    last = chunks[-1]
    assert last.choices[0].finish_reason == "length" and last.choices[0].delta.content is None
    assert last.usage is not None and last.usage.completion_tokens == 6
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


def test_include_usage_adds_a_last_chunk_without_choices(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="echo", messages=COUNT, max_tokens=3, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    last = list(stream)[-1]
    assert last.choices == [] and last.usage is not None and last.usage.completion_tokens == 3


def test_choices_share_one_computed_prompt_and_differ(
    client: openai.OpenAI, server: EchoServer
) -> None:
    prompt = "Invent a name for a " + "very " * 60 + "fast boat."
    answer = client.chat.completions.create(
        model="echo", messages=[{"role": "user", "content": prompt}], n=12, max_tokens=12, seed=7
    )
    assert [choice.index for choice in answer.choices] == list(range(12))
    assert len({choice.message.content for choice in answer.choices}) > 6
    again = client.chat.completions.create(
        model="echo", messages=[{"role": "user", "content": prompt}], n=1, max_tokens=12
    )
    assert again.usage is not None and again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1


def test_streamed_choices_are_interleaved_by_index(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="echo", messages=COUNT, n=3, max_tokens=5, stream=True
    )
    indices = [chunk.choices[0].index for chunk in stream if not chunk.choices[0].finish_reason]
    assert set(indices) == {0, 1, 2} and indices[3:6] != [0, 0, 0]


def test_the_same_seed_gives_the_same_text(client: openai.OpenAI) -> None:
    def text(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model="echo", messages=COUNT, max_tokens=24, seed=seed, temperature=1.2
        )
        return answer.choices[0].message.content

    assert text(2**63 - 1) == text(2**63 - 1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_logprobs_of_the_greedy_token_are_the_best(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="echo", messages=COUNT, max_tokens=8, temperature=0, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert len(logprobs.content) == 8
    for entry in logprobs.content:
        assert entry.logprob == entry.top_logprobs[0].logprob
        assert bytes(entry.bytes or []).decode() == entry.token
        assert [top.logprob for top in entry.top_logprobs] == sorted(
            (top.logprob for top in entry.top_logprobs), reverse=True
        )
    assert "".join(entry.token for entry in logprobs.content) == answer.choices[0].message.content


def test_logprobs_do_not_depend_on_temperature_penalties_or_bias(client: openai.OpenAI) -> None:
    def first(**options: Any) -> list[float]:
        answer = client.chat.completions.create(
            model="echo", messages=COUNT, max_tokens=1, logprobs=True, top_logprobs=5, **options
        )
        assert answer.choices[0].logprobs and answer.choices[0].logprobs.content
        return [top.logprob for top in answer.choices[0].logprobs.content[0].top_logprobs]

    plain = first(temperature=0)
    assert first(temperature=2, logit_bias={"100": 50}, presence_penalty=2) == pytest.approx(plain)


def test_logit_bias_forbids_and_forces(client: openai.OpenAI) -> None:
    def text(**options: Any) -> str | None:
        answer: ChatCompletion = client.chat.completions.create(
            model="echo", messages=COUNT, max_tokens=4, temperature=0, **options
        )
        return answer.choices[0].message.content

    comma, first = str(ord(",")), str(ord("R"))
    assert text() == "Repe" and text(logit_bias={comma: 100}) == ",,,,"
    assert "R" not in (text(logit_bias={first: -100}) or "")


def test_an_assistant_message_at_the_end_is_continued(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="echo", temperature=0,
        messages=[
            {"role": "user", "content": "One, two, three."},
            {"role": "assistant", "content": "One, two,"},
        ],
    )  # fmt: skip
    assert answer.choices[0].message.content == " three."


def test_control_tokens_typed_by_a_user_stay_text(server: EchoServer) -> None:
    def num_prompt_tokens(text: str) -> int:
        body = {"model": "echo", "messages": [{"role": "user", "content": text}],
                "max_tokens": 1}  # fmt: skip
        usage: dict[str, int] = server.post("/v1/chat/completions", body).json()["usage"]
        return usage["prompt_tokens"]

    assert num_prompt_tokens("<|im_end|>") == num_prompt_tokens("") + len("<|im_end|>")


def test_zero_tokens_generate_nothing(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=COUNT, max_tokens=0)
    assert answer.choices[0].message.content == ""
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 0


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text(alphabet="abeinorst ,.é\n", min_size=1, max_size=3), max_size=4),
    st.integers(0, 5),
    st.integers(1, 40),
)
def test_a_stream_gives_the_text_of_the_whole_answer(
    client: openai.OpenAI, stops: list[str], seed: int, max_tokens: int
) -> None:
    """With any stop strings: the answer ends before the first one and shows no part of it."""
    options: dict[str, Any] = {
        "model": "echo", "messages": [{"role": "user", "content": "Écris un poème. 🦜"}],
        "seed": seed, "max_tokens": max_tokens, "stop": stops, "logprobs": True,
    }  # fmt: skip
    # Cache the prompt first: whether it is cached changes the batch's shape and so the kernels'
    # rounding, which can change a sample.
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
