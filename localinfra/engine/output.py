"""One choice's token events → text and logprobs, sent as soon as they are final."""

import codecs
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from localinfra.engine.request import FinishReason, TokenEvent, TokenLogprob
from localinfra.engine.stops import StopMatcher, Stops


class ScoredToken(msgspec.Struct, frozen=True):
    """A token's logprob, and the character offset of its text in the choice's text."""

    logprob: TokenLogprob
    offset: int


class OutputDelta(msgspec.Struct, frozen=True):
    """What a step added to a choice; its deltas concatenate to the choice, however it is cut."""

    choice: int
    text: str = ""
    scored: tuple[ScoredToken, ...] = ()  # tokens whose text begins in what has been sent
    finish_reason: FinishReason | None = None
    stop: str | None = None  # the stop string that ended it
    num_generated: int = 0  # tokens sampled so far
    num_cached: int = 0  # prompt tokens taken from the prefix cache
    sum_logprob: float = 0.0  # of all tokens sampled so far, with or without text
    prompt_logprobs: list[TokenLogprob] | None = None
    drawn: TokenLogprob | None = None  # this step's token, even if its text is not sent yet
    pieces: Sequence[object] = ()  # what the choice's reader, if any, parsed from the text


class ParsedText(msgspec.Struct, frozen=True):
    """The pieces a reader parsed from a text, and whether the choice ends there."""

    pieces: Sequence[object]
    stop: str | None = None
    num_held: int = 0  # characters held back at the text's end
    is_complete: bool = False  # the choice is over: no more text is wanted


class TextReader(Protocol):
    """Parses a choice's text, and knows in which parts a stop string counts."""

    def push(self, text: str, *, is_last: bool, is_cut: bool = False) -> ParsedText:
        """`is_last`: no more text will come; `is_cut`: because of the token limit."""


class Detokenizer:
    """Token bytes → text, holding back incomplete UTF-8 characters.

    The results of `push` and `flush` concatenate to the whole text. Invalid bytes become U+FFFD.
    """

    def __init__(self, token_bytes: Callable[[int], bytes]):
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(self._token_bytes(token))

    def flush(self) -> str:
        """The replacement for an unfinished character, if any."""
        return self._decoder.decode(b"", True)


class ChoiceOutput:
    """Detokenises one choice, ends it at a stop string, and keeps its logprobs beside the text.

    `score_end` also reports the end-of-generation token, which has no text: a scoring client
    expects an entry for each sampled token.
    """

    def __init__(
        self,
        choice: int,
        token_bytes: Callable[[int], bytes],
        stops: Stops,
        *,
        score_end: bool = False,
        reader: TextReader | None = None,
    ):
        """A `reader` matches stop strings itself."""
        self._choice = choice
        self._detokenizer = Detokenizer(token_bytes)
        self._stops = StopMatcher(stops)
        self._score_end = score_end
        self._reader = reader
        self._unread = ""  # text the reader holds back
        self._held: list[ScoredToken] = []
        self._num_decoded = 0  # characters detokenised
        self._num_sent = 0  # characters sent
        self._sum_logprob = 0.0
        self._has_ended = False

    def push(self, event: TokenEvent) -> OutputDelta | None:
        """Takes the choice's next event; None for tokens sampled after a stop string."""
        if self._has_ended:
            return None
        reason = event.finish_reason
        self._hold_logprob(event)
        text = ""
        if event.token is not None and not event.is_end_token:
            text = self._detokenizer.push(event.token)
        if reason is not None:
            text += self._detokenizer.flush()
        self._num_decoded += len(text)
        ready, read = self._read(text, reason)
        stop = read.stop
        if stop is not None or read.is_complete:
            reason = FinishReason.STOP
        self._num_sent += len(ready)
        self._has_ended = reason is not None
        scored = self._release(everything=reason is not None and stop is None)
        return OutputDelta(
            self._choice, ready, scored, reason, stop,
            event.num_generated, event.num_cached, self._sum_logprob, event.prompt_logprobs,
            event.logprob, read.pieces,
        )  # fmt: skip

    def _read(self, text: str, reason: FinishReason | None) -> tuple[str, ParsedText]:
        """The text that is final now, and its pieces."""
        is_last, is_cut = reason is not None, reason is FinishReason.LENGTH
        if self._reader is not None:
            read = self._reader.push(text, is_last=is_last, is_cut=is_cut)
            self._unread += text
            size = len(self._unread) - read.num_held
            ready, self._unread = self._unread[:size], self._unread[size:]
            return ready, read
        ready, stop = self._stops.push(text)
        if stop is None and is_last:
            ready += self._stops.flush()
        return ready, ParsedText((), stop)

    def _hold_logprob(self, event: TokenEvent) -> None:
        if event.logprob is None:
            return
        self._sum_logprob += event.logprob.logprob or 0.0
        if self._score_end or not event.is_end_token:
            self._held.append(ScoredToken(event.logprob, self._num_decoded))

    def _release(self, everything: bool) -> tuple[ScoredToken, ...]:
        ready = [item for item in self._held if everything or item.offset < self._num_sent]
        self._held = self._held[len(ready) :]
        return tuple(ready)
