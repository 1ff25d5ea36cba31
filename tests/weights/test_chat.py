"""POST /v1/chat/completions with openai's client against SmolLM2."""

from typing import Any

import openai
from live import LiveServer


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
