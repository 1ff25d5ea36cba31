"""Usage of requests → charges to their key and model, and usage objects with the cost.

The only place that counts: every route reports its usage to a `Charge`.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from localinfra.api.http.state import UsedSoFar
from localinfra.costs import Ledger, Used
from localinfra.engine.deltas import Deltas
from localinfra.engine.output import OutputDelta
from localinfra.metrics import Metrics
from localinfra.models.entries import Price

if TYPE_CHECKING:
    from localinfra.engine.sequence import Computed  # brings numpy
    from localinfra.image.worker import LeftOver

BYTES_PER_TOKEN = 4  # of English in JSON, roughly
DATA_PER_TOKEN = 400  # of pictures in base64, very roughly: a photograph of 1 MB has some thousands
MOST_EXPECTED_PROMPT = 16_384  # tokens
EXPECTED_ANSWER = 256  # tokens, where the request sets no limit
ANSWER_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "max_new_tokens")


def expected_tokens(num_bytes: int, body: msgspec.Struct, num_data: int = 0) -> int:
    """What a request with this body, of so many bytes, is likely to use: its key's limit on tokens
    sets it aside until the real usage is known. `num_data`: bytes of files among them."""
    of_text = max(0, num_bytes - num_data) // BYTES_PER_TOKEN
    prompt = min(of_text + num_data // DATA_PER_TOKEN, MOST_EXPECTED_PROMPT)
    given = (getattr(body, name, None) for name in ANSWER_LIMITS)
    answer = next((limit for limit in given if isinstance(limit, int) and limit >= 0), None)
    if answer is None:
        answer = EXPECTED_ANSWER if hasattr(body, "stream") else 0  # or it generates none
    choices = getattr(body, "n", None)
    return prompt + answer * (choices if isinstance(choices, int) else 1)


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int  # of the prompt, found in the prefix cache
    image_tokens: int | UnsetType = UNSET  # of the prompt, in place of pictures
    audio_tokens: int | UnsetType = UNSET  # in place of sounds


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    estimated_cost: float  # USD
    prompt_tokens_details: PromptTokensDetails


class InputUsage(msgspec.Struct, frozen=True):
    """Usage of a request that generates nothing."""

    prompt_tokens: int
    total_tokens: int
    estimated_cost: float  # USD


class Charge:
    """The usage of one request so far.

    Usage is added to metrics and ledger at once, by key and model. A client that leaves is charged
    for what was computed until then, whether it was sent or not; a refused one, or one whose
    request failed here, for nothing more. Event loop only.
    """

    def __init__(
        self,
        price: Price,
        model: str,
        key: str,
        started_s: float,
        metrics: Metrics,
        ledger: Ledger,
        progress: UsedSoFar | None = None,
    ):
        """`started_s`: the request's arrival on time.perf_counter(); `progress` is kept up to
        date."""
        self.price = price
        self._model = model
        self._key = key
        self._started_s = started_s
        self._metrics = metrics
        self._ledger = ledger
        self._progress = progress or UsedSoFar()
        self._usd = 0.0
        self._is_first = True  # nothing was used yet
        self._has_generated = False

    @property
    def cost(self) -> float:
        """The cost so far in USD."""
        return dollars(self._usd)

    def add_left(
        self, prompt_tokens: int, generated_tokens: int = 0, cached_tokens: int = 0
    ) -> None:
        """Charges what was computed for a client that has left. `cached_tokens`: of the prompts."""
        self._has_generated = True  # nobody waited for the first token
        if prompt_tokens or generated_tokens:
            self.add(
                prompt_tokens=prompt_tokens,
                cached_tokens=cached_tokens,
                generated_tokens=generated_tokens,
            )
            self._ledger.save_soon()

    def complete(self) -> None:
        """Nothing more will be used."""
        self._ledger.save_soon()

    def add_left_over(self, left: "LeftOver") -> None:
        """The same of images."""
        if left.num_images or left.parts:
            self.add(images=left.num_images, parts=left.parts)
            self._ledger.save_soon()

    def add_input(self, num_tokens: int) -> InputUsage:
        """Charges a request that generates nothing. Call it once, with the result."""
        self.add(prompt_tokens=num_tokens)
        return InputUsage(num_tokens, num_tokens, self.cost)

    def add(
        self,
        *,
        prompt_tokens: int = 0,
        cached_tokens: int = 0,
        generated_tokens: int = 0,
        images: int = 0,
        parts: float = 0.0,
    ) -> None:
        """`parts`: the share of images that are painted in part, which only costs."""
        used = Used(
            requests=1 if self._is_first else 0,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            generated_tokens=generated_tokens,
            images=images,
            usd=self.price.of(prompt_tokens, generated_tokens, images + parts),
        )
        self._is_first = False
        self._usd += used.usd
        self._ledger.add(self._key, self._model, used)
        progress = self._progress
        progress.prompt_tokens += prompt_tokens
        progress.generated_tokens += generated_tokens
        progress.images += images
        metrics, model = self._metrics, self._model
        metrics.generated_tokens.add(generated_tokens, model)
        metrics.cost.add(used.usd, self._key, model)
        if prompt_tokens or cached_tokens or images:  # not with every token
            metrics.prompt_tokens.add(prompt_tokens, model)
            metrics.cached_tokens.add(cached_tokens, model)
            metrics.images.add(images, model)
            self._ledger.save_soon()
        if generated_tokens and not self._has_generated:
            self._has_generated = True
            progress.first_token_s = time.perf_counter() - self._started_s
            metrics.first_token_seconds.observe(progress.first_token_s, model)


def dollars(amount: float) -> float:
    """Rounded for usage objects, as sums of floats have long tails of digits."""
    return round(amount, 12)


class UsageMeter:
    """Counts and charges deltas as they arrive, and if they are closed before their end, what else
    was computed. A prompt counts once for all its choices."""

    def __init__(
        self,
        charge: Charge,
        deltas: Deltas,
        prompt_lengths: list[int],
        num_choices: int,
        num_image_tokens: int = 0,
        num_audio_tokens: int = 0,
    ):
        """`num_image_tokens` and `num_audio_tokens`: of the prompts' tokens."""
        self._num_image_tokens, self._num_audio_tokens = num_image_tokens, num_audio_tokens
        self._charge = charge
        self._prompt_lengths = prompt_lengths
        self._num_choices = num_choices
        self._generated: dict[int, int] = {}
        self._cached: dict[int, int] = {}
        self._begun: set[int] = set()  # prompts already charged
        self._num_unfinished = num_choices * len(prompt_lengths)
        deltas.when_left(self.add_left)

    def add(self, delta: OutputDelta) -> None:
        prompt, choice = divmod(delta.choice, self._num_choices)
        # Only the first choice reports it: the others reuse what it computed.
        says_cached = choice == 0 and prompt not in self._cached
        self._charge.add(
            prompt_tokens=0 if prompt in self._begun else self._prompt_lengths[prompt],
            cached_tokens=delta.num_cached if says_cached else 0,
            generated_tokens=delta.num_generated - self._generated.get(delta.choice, 0),
        )
        self._begun.add(prompt)
        self._num_unfinished -= delta.finish_reason is not None
        self._generated[delta.choice] = delta.num_generated
        if says_cached:
            self._cached[prompt] = delta.num_cached
        if self.is_complete:
            self._charge.complete()

    def add_left(self, computed: "Mapping[int, Computed]") -> None:
        """The client has left, and these are the choices that had not ended. Of a prompt that was
        not read to its end, what the cache had is free."""
        num_read: dict[int, int] = {}
        num_generated = num_cached = 0
        for choice, one in computed.items():
            prompt = choice // self._num_choices
            if prompt not in self._begun:
                read = self._prompt_lengths[prompt] if one.num_generated else one.num_read
                num_read[prompt] = max(read, num_read.get(prompt, 0))
            is_first = choice % self._num_choices == 0
            if is_first and one.num_generated and prompt not in self._cached:
                num_cached += one.num_cached
            num_generated += max(0, one.num_generated - self._generated.get(choice, 0))
            self._generated[choice] = max(one.num_generated, self._generated.get(choice, 0))
        self._begun |= num_read.keys()
        self._charge.add_left(sum(num_read.values()), num_generated, num_cached)

    @property
    def is_complete(self) -> bool:
        """Whether all choices have ended."""
        return not self._num_unfinished

    def usage(self) -> Usage:
        """The counts so far, over all prompts."""
        num_prompt = sum(self._prompt_lengths)
        completion = sum(self._generated.values())
        return Usage(
            prompt_tokens=num_prompt,
            completion_tokens=completion,
            total_tokens=num_prompt + completion,
            estimated_cost=dollars(self._charge.price.of(num_prompt, completion)),
            prompt_tokens_details=PromptTokensDetails(
                sum(self._cached.values()),
                self._num_image_tokens or UNSET,
                self._num_audio_tokens or UNSET,
            ),
        )
