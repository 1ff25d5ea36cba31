"""How long a request's answers may become, and which requests ask for too much."""

from pathlib import Path
from typing import Any

import pytest

from localinfra.config.settings import ServerSettings
from localinfra.errors import ContextLengthExceeded, InvalidRequest
from localinfra.models.entries import TextModelEntry
from localinfra.models.sources import PathSource
from localinfra.text.lengths import answer_lengths
from localinfra.text.request import TextParams, TextRequest

CONTEXT = 1000
DEFAULT = ServerSettings().max_request_tokens


def lengths(
    *num_prompt: int,
    most: int | None = None,
    context: int = CONTEXT,
    entry: dict[str, Any] | None = None,
    **params: Any,
) -> list[int]:
    own = TextModelEntry(source=PathSource(Path("x.gguf")), **(entry or {}))
    prompts = [[1] * length for length in num_prompt]
    request = TextRequest(prompts=prompts, params=TextParams(**params))
    return answer_lengths(request, own, context, most)


def test_answers_may_have_what_is_asked_for_within_the_context() -> None:
    assert lengths(100, 300, max_tokens=800) == [800, 700]
    assert lengths(100, 300) == [900, 700]
    assert lengths(100, max_tokens=0) == lengths(CONTEXT, max_tokens=0) == [0]
    assert lengths(100, default_max_tokens=50) == [50]
    assert lengths(100, default_max_tokens=50, entry={"default_max_tokens": 60}) == [60]
    assert lengths(100, max_tokens=80, entry={"max_output_tokens": 70}) == [70]
    with pytest.raises(ContextLengthExceeded):
        lengths(100, CONTEXT, max_tokens=1)


def test_a_limit_that_fits_exactly_is_kept() -> None:
    """A prompt is computed once, whatever the number of its choices."""
    assert lengths(100, 200, most=300 + 3 * 2 * 50, max_tokens=50, num_choices=3) == [50, 50]
    with pytest.raises(InvalidRequest) as caught:
        lengths(100, 200, most=300 + 3 * 2 * 50 - 1, max_tokens=50, num_choices=3)
    assert caught.value.param == "max_tokens"
    assert caught.value.message == (
        "The request may take up to 600 tokens: 300 of prompts, and 6 x 50 of answers. At most 599 "
        "are allowed: lower max_tokens, ask for fewer choices, send fewer prompts, or raise "
        "max_request_tokens under [server] of models.toml."
    )


def test_what_the_context_cuts_off_does_not_count() -> None:
    """Clients send large limits to say that there is none."""
    assert lengths(100, most=CONTEXT, max_tokens=1_000_000) == [900]


def test_answers_without_a_limit_share_what_is_left() -> None:
    assert lengths(100, most=500, num_choices=4) == [100]
    assert lengths(100, 300, most=2000, num_choices=2) == [400, 400]
    assert lengths(100, 900, most=2600, num_choices=2) == [400, 100]  # within the context
    for params in (
        {"default_max_tokens": 200},
        {"entry": {"default_max_tokens": 200}},
        {"max_tokens": 200, "max_tokens_param": None},  # of the API, not of the request
    ):
        assert lengths(100, most=500, num_choices=4, **params) == [100]
        assert lengths(100, most=900, num_choices=4, **params) == [200]


@pytest.mark.parametrize("params", [{}, {"max_tokens": 10}, {"max_tokens": 0}])
def test_prompts_alone_may_be_too_much(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="shorten the prompt, or raise max_req") as caught:
        lengths(600, most=599, **params)
    assert caught.value.param == "messages" and "lower" not in caught.value.message


@pytest.mark.parametrize(
    ("num_prompt", "num_prompts", "context", "params"),
    [
        (100_000, 1, 131_072, {"max_tokens": 1_000_000, "num_choices": 8}),
        (20, 1, 131_072, {"max_tokens": 32_768, "num_choices": 128}),
        (1000, 128, 131_072, {"max_tokens": 2048, "num_choices": 8}),
        (8000, 128, 131_072, {"max_tokens": 1, "num_choices": 8}),
        (8000, 128, 131_072, {"max_tokens": 0, "score_prompt": True, "top_logprobs": 0}),
        (1000, 1, 131_072, {"max_tokens": 16_384, "num_choices": 20}),
        (900_000, 1, 1_048_576, {"max_tokens": 128_000}),
    ],
)
def test_what_clients_send_is_not_too_much(
    num_prompt: int, num_prompts: int, context: int, params: dict[str, Any]
) -> None:
    asked = [num_prompt] * num_prompts
    allowed = lengths(*asked, context=context, most=DEFAULT, **params)
    assert allowed == lengths(*asked, context=context, **params)


def test_the_context_filled_128_times_is_too_much() -> None:
    [shared] = lengths(20, context=131_072, most=DEFAULT, num_choices=128)
    assert 65_000 < shared < 65_536
    with pytest.raises(InvalidRequest, match="max_request_tokens"):
        lengths(20, context=131_072, most=DEFAULT, num_choices=128, max_tokens=131_000)
