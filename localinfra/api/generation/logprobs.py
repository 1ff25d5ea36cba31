"""Logprobs in the shapes of OpenAI's APIs, encoded token by token as they arrive: an answer may
have a million alternatives, which would take seconds to encode at its end."""

from typing import TYPE_CHECKING

import msgspec

from localinfra.engine.output import ScoredToken
from localinfra.engine.request import TokenLogprob

if TYPE_CHECKING:
    from localinfra.text.model import TextModel  # brings numpy, which only a loaded model needs

encode = msgspec.json.Encoder().encode


class TopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float | None
    bytes: list[int]


class TokenLogprobEntry(msgspec.Struct, frozen=True):
    token: str
    logprob: float | None
    bytes: list[int]
    top_logprobs: list[TopLogprob]


def token_logprob(model: "TextModel", scored: ScoredToken) -> msgspec.Raw:
    """An entry of chat completions and responses."""
    logprob = scored.logprob
    data = model.token_bytes(logprob.token)
    entry = TokenLogprobEntry(
        token=data.decode("utf-8", "replace"),
        logprob=logprob.logprob,
        bytes=list(data),
        top_logprobs=[_alternative(model, *pair) for pair in logprob.top],
    )
    return msgspec.Raw(encode(entry))


def _alternative(model: "TextModel", token: int, logprob: float) -> TopLogprob:
    data = model.token_bytes(token)
    return TopLogprob(data.decode("utf-8", "replace"), logprob, list(data))


class TextLogprobs(msgspec.Struct, frozen=True):
    """Logprobs of a text completion: one list per field, an item per token."""

    tokens: list[str]
    token_logprobs: list[float | None]  # null for the first token of a prompt
    top_logprobs: list[dict[str, float] | None]  # the likeliest tokens there, by text
    text_offset: list[int]  # where the token's text starts, in characters


class LogprobColumns:
    """Writes the JSON of a `TextLogprobs`."""

    def __init__(self, model: "TextModel"):
        self._model = model
        self._tokens: list[bytes] = []
        self._token_logprobs: list[bytes] = []
        self._top_logprobs: list[bytes] = []
        self._text_offsets: list[bytes] = []

    def add(self, token: TokenLogprob, offset: int) -> None:
        """`offset`: where the token's text starts, in characters."""
        self._tokens.append(encode(self._text(token.token)))
        self._token_logprobs.append(encode(token.logprob))
        self._top_logprobs.append(encode(self._top(token)))
        self._text_offsets.append(b"%d" % offset)

    def extend(self, other: "LogprobColumns") -> None:
        self._tokens += other._tokens
        self._token_logprobs += other._token_logprobs
        self._top_logprobs += other._top_logprobs
        self._text_offsets += other._text_offsets

    def json(self) -> msgspec.Raw:
        columns = (self._tokens, self._token_logprobs, self._top_logprobs, self._text_offsets)
        return msgspec.Raw(
            b'{"tokens":[%b],"token_logprobs":[%b],"top_logprobs":[%b],"text_offset":[%b]}'
            % tuple(map(b",".join, columns))
        )

    def _top(self, token: TokenLogprob) -> dict[str, float] | None:
        """Logprobs by text, as in OpenAI's API; the likeliest of tokens with the same text."""
        if token.logprob is None:
            return None
        top: dict[str, float] = {}
        for alternative, logprob in (*token.top, (token.token, token.logprob)):
            text = self._text(alternative)
            top[text] = max(logprob, top.get(text, logprob))
        return top

    def _text(self, token: int) -> str:
        return self._model.token_bytes(token).decode("utf-8", "replace")
