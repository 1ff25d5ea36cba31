"""A token's logprob as OpenAI's chat completions and responses tell of it."""

from typing import TYPE_CHECKING

import msgspec

from localinfra.engine.output import ScoredToken

if TYPE_CHECKING:
    from localinfra.text import TextModel  # brings numpy, which only a loaded model needs


class TopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float | None
    bytes: list[int]


class TokenLogprobEntry(msgspec.Struct, frozen=True):
    token: str
    logprob: float | None
    bytes: list[int]
    top_logprobs: list[TopLogprob]


def token_logprob(model: "TextModel", scored: ScoredToken) -> TokenLogprobEntry:
    logprob = scored.logprob
    data = model.token_bytes(logprob.token)
    return TokenLogprobEntry(
        token=data.decode("utf-8", "replace"),
        logprob=logprob.logprob,
        bytes=list(data),
        top_logprobs=[_alternative(model, *pair) for pair in logprob.top],
    )


def _alternative(model: "TextModel", token: int, logprob: float) -> TopLogprob:
    data = model.token_bytes(token)
    return TopLogprob(data.decode("utf-8", "replace"), logprob, list(data))
