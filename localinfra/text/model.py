"""TextModel: a loaded GGUF model as the API sees it. Prompts and a grammar → deltas of text.

`Prompts` and `Grammars` do slow work in threads; the rest is cheap and stays on the event loop,
while the engine computes the next step.
"""

from collections.abc import Callable, Sequence

import msgspec

from localinfra.engine.deltas import Deltas
from localinfra.engine.engine import Engine
from localinfra.engine.output import ChoiceOutput
from localinfra.engine.request import EngineStats, GenerationRequest
from localinfra.engine.stops import Stops
from localinfra.errors import InvalidRequest
from localinfra.footprint import NO_MEMORY, Footprint
from localinfra.models.entries import ModelDetails, TextModelEntry
from localinfra.models.sampling import SamplingSettings
from localinfra.text.eyes import Eyes
from localinfra.text.grammars import Grammars
from localinfra.text.lengths import answer_lengths
from localinfra.text.prompts import Prompts
from localinfra.text.request import TextRequest
from localinfra.text.templates import ModelTemplates
from localinfra.text.vocabulary import Vocabulary, spelled, text_of
from localinfra.watchdog import Pulse


class TextModel:
    """Owns the engine and with it the model. Made by `loading.py`, closed by the pool."""

    def __init__(
        self,
        name: str,
        entry: TextModelEntry,
        vocabulary: Vocabulary,
        engine: Engine,
        templates: ModelTemplates,
        max_waiting: int,
        *,
        share_prefixes: bool = False,
        max_request_tokens: int | None = None,
        recommended: SamplingSettings | None = None,
        footprint: Footprint = NO_MEMORY,
        salt_of: Callable[[str], str] = str,
        eyes: Eyes | None = None,
    ):
        """`max_waiting` requests may wait for their prompt to be made. `share_prefixes`: clients
        reuse each other's prefixes, not only their own; `salt_of` says what a client's are kept
        under. `max_request_tokens`: see `answer_lengths`. `recommended`: by the file, for entries
        that don't say. `eyes`: of a model that sees."""
        self._salt_of = (lambda _: salt_of("")) if share_prefixes else salt_of
        self._recommended = recommended
        self._max_request_tokens = max_request_tokens
        self.name = name
        self.entry = entry
        self.footprint = footprint
        self.vocabulary = vocabulary
        self.prompts = Prompts(name, vocabulary, templates, engine.context_length, max_waiting)
        self.grammars = Grammars(vocabulary, is_shared=share_prefixes)
        self.eyes = eyes
        self.worker = engine

    @property
    def context_length(self) -> int:
        return self.worker.context_length

    @property
    def details(self) -> ModelDetails:
        known = self.entry.details
        return msgspec.structs.replace(
            known,
            context_length=self.context_length,
            recommended=known.recommended or self._recommended,
        )

    @property
    def stats(self) -> EngineStats:
        return self.worker.stats

    @property
    def is_busy(self) -> bool:
        num_choices = self.worker.num_waiting + self.stats.num_running
        is_looking = self.eyes is not None and self.eyes.is_busy
        return num_choices > 0 or self.prompts.is_busy or self.grammars.is_busy or is_looking

    @property
    def encoder_pulse(self) -> Pulse:
        return self.eyes.pulse if self.eyes else Pulse()

    def abandon_encoder(self, reason: str) -> None:
        if self.eyes:
            self.eyes.abandon(reason)

    def close(self) -> None:
        if self.eyes:
            self.eyes.close()
        self.grammars.close()
        self.prompts.close()
        self.worker.close()

    def token_bytes(self, token: int) -> bytes:
        """See `spelled`."""
        return spelled(self.vocabulary, token)

    def text(self, ids: Sequence[int]) -> str:
        """See `text_of`."""
        return text_of(self.vocabulary, ids)

    def is_special(self, token: int) -> bool:
        """Whether the token adds no text."""
        return not self.vocabulary.token_bytes(token)

    def generate(self, request: TextRequest) -> Deltas:
        """Submits the request. Raises ContextLengthExceeded, QueueFull and InvalidRequest, also for
        one that asks for too much.

        Choices are numbered prompt by prompt.
        """
        requests = self._engine_requests(request)
        params = request.params
        stops = Stops(params.stops)
        outputs = [
            ChoiceOutput(
                choice,
                self._spelled(request.spelled_tokens),
                stops,
                score_end=params.score_prompt,
                reader=request.readers[choice] if request.readers else None,
            )
            for choice in range(len(requests) * params.num_choices)
        ]
        return Deltas(self.worker.generate(requests), outputs)

    def _spelled(self, tokens: frozenset[int]) -> Callable[[int], bytes]:
        """The function from a token to its bytes that spells out these control tokens."""
        plain, full = self.vocabulary.token_bytes, self.token_bytes
        return (lambda token: full(token) if token in tokens else plain(token)) if tokens else plain

    def _engine_requests(self, request: TextRequest) -> list[GenerationRequest]:
        for token in request.params.sampling.logit_bias:
            if not 0 <= token < self.vocabulary.num_vocab:
                raise InvalidRequest(
                    f"Token id {token} is not in the vocabulary of {self.name}, which ends at "
                    f"{self.vocabulary.num_vocab - 1}.",
                    "logit_bias",
                )
        lengths = answer_lengths(request, self.entry, self.context_length, self._max_request_tokens)
        return [
            GenerationRequest(
                prompt=prompt,
                max_tokens=max_tokens,
                params=request.params,
                grammar=request.grammar,
                client=request.client,
                cache_salt=self._salt_of(request.client),
                border=request.border,
                pictures=request.pictures,
            )
            for prompt, max_tokens in zip(request.prompts, lengths, strict=True)
        ]
