"""What goes into the engine and what comes out: plain values, shared by every layer above."""

import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from localinfra.engine.grammar.constraint import Grammar  # llguidance is for those who need it


class FinishReason(StrEnum):
    """Why a choice ended; the values are OpenAI's wire names."""

    STOP = "stop"  # the model ended its turn, or a stop string was completed
    LENGTH = "length"  # max_tokens or the context's end


class SamplingParams(msgspec.Struct, frozen=True):
    """How the next token is drawn. Ranges and order of application: API.md section 4."""

    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    min_p: float = 0.0
    top_k: int = 0  # 0 is off
    presence_penalty: float = 0.0  # over generated tokens
    frequency_penalty: float = 0.0  # over generated tokens
    repetition_penalty: float = 1.0  # over prompt and generated tokens, multiplicative
    logit_bias: Mapping[int, float] = {}
    seed: int = 0  # 0 to 2**63 - 1; choice i draws from its own stream of it
    is_reproducible: bool = False  # the client named the seed and expects the same text again


class GenerationParams(msgspec.Struct, frozen=True):
    """What a client wants of the answer to each prompt. Made of its request once; all that the
    request becomes on its way here holds the same."""

    sampling: SamplingParams = SamplingParams()
    num_choices: int = 1
    top_logprobs: int | None = None  # None: no logprobs; 0: those of the chosen tokens alone
    score_prompt: bool = False  # also the prompt's logprobs; needs top_logprobs


class GenerationRequest(msgspec.Struct, frozen=True):
    """One prompt and the choices wanted for it."""

    prompt: list[int]  # token ids, at least one
    max_tokens: int
    params: GenerationParams = GenerationParams()
    grammar: "Grammar | None" = None  # which every choice follows
    client: str = ""  # who asks: clients take turns
    cache_salt: str = ""  # prefixes are shared among requests of one salt alone

    @property
    def is_reproducible(self) -> bool:
        """Whether every row must get the bits that it gets each time: a named seed promises the
        same text, and a prompt's scores are compared with others."""
        return self.params.sampling.is_reproducible or self.params.score_prompt


class EngineSettings(msgspec.Struct, frozen=True):
    """How one engine schedules."""

    max_waiting: int = sys.maxsize  # choices without a slot; more are refused
    max_offloaded: int = 0  # bytes of host memory for prefixes that leave the cells
    prompt_lookup: bool = True  # verify guesses from the text so far, where that is faster
    max_gap_ratio: float = 4.0  # how much longer than usual a step may take to read prompts
    adapts_threads: bool = True  # fewer compute threads while others keep the cores busy


class TokenLogprob(msgspec.Struct, frozen=True):
    """Natural log-softmax of the model's raw logits at one position."""

    token: int
    logprob: float | None  # None: the prompt's first token, which nothing predicts
    top: tuple[tuple[int, float], ...] = ()  # (token, logprob), best first


class TokenEvent(msgspec.Struct, frozen=True):
    """One step of one choice."""

    choice: int
    token: int | None  # None: nothing was drawn, the prompt was only scored
    num_generated: int  # tokens drawn for this choice so far, an end-of-generation token included
    num_cached: int  # prompt tokens that were not computed again
    logprob: TokenLogprob | None = None
    prompt_logprobs: list[TokenLogprob] | None = None  # on the event that follows the last score
    is_end_token: bool = False  # ends the turn and has no text
    finish_reason: FinishReason | None = None
