"""POST /v1/completions with openai's client."""

from typing import Any

import numpy as np
import openai
import pytest
from echo import ECHO, EchoServer

SENTENCE = "The capital of Italy is Rome.\n"


def complete(client: openai.OpenAI, **options: Any) -> Any:
    return client.completions.create(**{"model": "echo", "temperature": 0, **options})


def test_a_completion_has_openais_shape(client: openai.OpenAI) -> None:
    answer = complete(client, prompt=SENTENCE)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    [choice] = answer.choices
    assert choice.text == SENTENCE.strip() and choice.finish_reason == "stop"
    assert choice.logprobs is None and answer.model == ECHO
    assert answer.usage.completion_tokens == len(SENTENCE)  # the last one ends the text


def test_choices_are_numbered_prompt_by_prompt(client: openai.OpenAI) -> None:
    answer = complete(client, prompt=["Paris\n", "Rome\n"], n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == ["Paris", "Paris", "Rome", "Rome"]


def test_token_ids_are_used_unchanged(client: openai.OpenAI) -> None:
    ids = list(SENTENCE.encode())
    for prompt in (SENTENCE, ids, [ids], [SENTENCE]):
        assert complete(client, prompt=prompt).choices[0].text == SENTENCE.strip()
    assert complete(client, prompt=ids, max_tokens=1).usage.prompt_tokens == len(ids)


def test_control_tokens_in_a_prompt_are_recognized(client: openai.OpenAI) -> None:
    answer = complete(client, prompt="<s><|im_start|>user\nHi<|im_end|>\n", max_tokens=1)
    assert answer.usage.prompt_tokens == 2 + len("user\nHi") + 1 + 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI, stream: bool) -> None:
    options: dict[str, Any] = {"prompt": "one### two###\n", "stop": ["never", "###"]}
    if stream:
        chunks = list(complete(client, **options, stream=True))
        texts = [chunk.choices[0].text for chunk in chunks]
        reason = chunks[-1].choices[0].finish_reason
    else:
        [choice] = complete(client, **options).choices
        texts, reason = [choice.text], choice.finish_reason
    assert ("".join(texts), reason) == ("one", "stop")


def test_echo_with_logprobs_scores_prompt_and_output(client: openai.OpenAI) -> None:
    answer = complete(client, prompt=SENTENCE, max_tokens=1, echo=True, logprobs=1)
    [choice] = answer.choices
    scores = choice.logprobs
    assert choice.text == SENTENCE + "T"
    assert len(scores.tokens) == answer.usage.prompt_tokens + 1
    assert scores.token_logprobs[0] is None and scores.top_logprobs[0] is None
    for logprob, top in zip(scores.token_logprobs[1:], scores.top_logprobs[1:], strict=True):
        assert max(top.values()) >= logprob
    # lm-eval decides whether a token is the greedy one by comparing the two as floats
    assert scores.token_logprobs[-1] == max(scores.top_logprobs[-1].values())


def test_tokens_have_offsets_in_the_text(client: openai.OpenAI) -> None:
    ids = list(SENTENCE.encode())
    [choice] = complete(client, prompt=ids, max_tokens=3, echo=True, logprobs=0).choices
    scores = choice.logprobs
    assert "".join(scores.tokens) == choice.text == SENTENCE + "The"
    assert scores.text_offset == list(range(len(choice.text)))


def test_scoring_gives_an_entry_for_an_end_token_too(client: openai.OpenAI) -> None:
    prompt = list(b"\n")  # the model ends its text at once
    answer = complete(client, prompt=prompt, max_tokens=1, echo=True, logprobs=1)
    assert answer.choices[0].finish_reason == "stop"
    assert len(answer.choices[0].logprobs.tokens) == answer.usage.prompt_tokens + 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_small_request_can_not_ask_for_gigabytes_of_scores(
    server: EchoServer, stream: bool
) -> None:
    body = {"model": "echo", "prompt": "a" * 1000, "max_tokens": 1, "echo": True, "stream": stream}
    reply = server.post("/v1/completions", {**body, "n": 128, "logprobs": 20})
    assert reply.status_code == 200  # 1,000 x 128 x 21
    eight = {**body, "prompt": ["a" * 1000] * 8, "n": 128}
    reply = server.post("/v1/completions", {**eight, "logprobs": 20})
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "logprobs"
    assert "max_echoed_logprobs" in reply.json()["error"]["message"]
    assert server.post("/v1/completions", {**body, "logprobs": 0}).status_code == 200


def test_echo_alone_repeats_the_prompt(client: openai.OpenAI) -> None:
    whole = complete(client, prompt=SENTENCE, max_tokens=2, echo=True)
    chunks = list(complete(client, prompt=SENTENCE, max_tokens=2, echo=True, stream=True))
    assert whole.choices[0].text == SENTENCE + "Th"
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    nothing = complete(client, prompt=SENTENCE, max_tokens=0, echo=True, logprobs=0)
    assert nothing.choices[0].text == SENTENCE
    assert len(nothing.choices[0].logprobs.tokens) == nothing.usage.prompt_tokens


def test_streamed_scores_equal_those_of_a_whole_answer(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"prompt": SENTENCE, "max_tokens": 4, "echo": True, "logprobs": 2}
    whole = complete(client, **options).choices[0].logprobs
    chunks = list(complete(client, **options, stream=True))
    parts = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert [token for part in parts for token in part.tokens] == whole.tokens
    assert [offset for part in parts for offset in part.text_offset] == whole.text_offset


def test_best_of_returns_the_likeliest_candidates(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "prompt": "Once upon a time\n", "max_tokens": 8, "temperature": 1.5, "seed": 3,
        "logprobs": 0,
    }  # fmt: skip

    def mean(choice: Any) -> float:
        return float(np.mean(choice.logprobs.token_logprobs))

    candidates = complete(client, **options, n=6).choices
    best = complete(client, **options, n=2, best_of=6)
    ranked = sorted(candidates, key=mean, reverse=True)
    assert [choice.text for choice in best.choices] == [choice.text for choice in ranked[:2]]
    assert best.usage.completion_tokens == sum(len(c.logprobs.tokens) for c in candidates)


def test_a_suffix_goes_where_the_model_was_trained_to_find_it(client: openai.OpenAI) -> None:
    answer = complete(client, model="filler", prompt="<s>", suffix="b", max_tokens=1)
    num_marks = len(["prefix", "suffix", "middle"])
    assert answer.usage.prompt_tokens == num_marks + len("<s>") + len("b")


def test_the_oldest_clients_name_the_model_in_the_path(server: EchoServer) -> None:
    for path in (
        f"/v1/engines/{ECHO}/completions",
        f"/v1/engines/{ECHO.replace('/', '%2F')}/completions",
        f"/v1/openai/engines/{ECHO}/completions",
    ):
        answer = server.post(path, {"prompt": "Hi", "max_tokens": 1})
        assert answer.status_code == 200 and answer.json()["model"] == ECHO
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    answer = server.post(f"/v1/engines/{ECHO}/chat/completions", body)
    assert answer.status_code == 200 and answer.json()["model"] == ECHO


def test_nulls_count_as_absent(server: EchoServer) -> None:
    """LangChain sends them."""
    body = {"model": "echo", "prompt": ["Hi"], "max_tokens": 1, "logprobs": None, "seed": None,
            "stop": None, "n": 1, "best_of": None, "suffix": None, "logit_bias": None}  # fmt: skip
    answer = server.post("/v1/completions", body)
    assert answer.status_code == 200, answer.text
