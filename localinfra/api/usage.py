"""Token counts → the usage object, with what the request would have cost at a hosted service."""

import msgspec

from localinfra.engine.output import OutputDelta
from localinfra.models.catalog import Price


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int  # of the prompt, not computed again


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    estimated_cost: float  # USD
    prompt_tokens_details: PromptTokensDetails


class UsageMeter:
    """Counts along while deltas arrive. A prompt counts once, however many choices it has."""

    def __init__(self, price: Price, prompt_lengths: list[int], num_choices: int):
        self._price = price
        self._num_prompt = sum(prompt_lengths)
        self._num_choices = num_choices
        self._generated: dict[int, int] = {}
        self._cached: dict[int, int] = {}

    def add(self, delta: OutputDelta) -> None:
        self._generated[delta.choice] = delta.num_generated
        prompt, choice = divmod(delta.choice, self._num_choices)
        if choice == 0:  # the others share what the first one computed
            self._cached[prompt] = delta.num_cached

    def usage(self) -> Usage:
        """The counts so far."""
        completion = sum(self._generated.values())
        cost = (self._num_prompt * self._price.input + completion * self._price.output) / 1e6
        return Usage(
            prompt_tokens=self._num_prompt,
            completion_tokens=completion,
            total_tokens=self._num_prompt + completion,
            estimated_cost=round(cost, 12),
            prompt_tokens_details=PromptTokensDetails(sum(self._cached.values())),
        )
