"""Input and output of the engine: plain values, shared by every layer above."""

import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from localinfra.engine.grammar.constraint import Grammar  # imports llguidance
    from localinfra.engine.pictures import Placed  # imports numpy


class FinishReason(StrEnum):
    """Why a choice ended; the values are OpenAI's wire names."""

    STOP = "stop"  # the model ended its turn, or a stop string was completed
    LENGTH = "length"  # max_tokens, or the context is full


class SamplingParams(msgspec.Struct, frozen=True):
    """How the next token is sampled. `sampling.py` has the order of application."""

    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    min_p: float = 0.0
    top_k: int = 0  # 0 is off
    presence_penalty: float = 0.0  # over generated tokens
    frequency_penalty: float = 0.0  # over generated tokens
    repetition_penalty: float = 1.0  # over prompt and generated tokens, multiplicative
    logit_bias: Mapping[int, float] = {}
    seed: int = 0  # 0 to 2**63 - 1; each choice has its own random stream of it
    is_reproducible: bool = False  # the client set the seed and expects the same text again


class GenerationParams(msgspec.Struct, frozen=True):
    """What a client wants of the answer to each prompt. Made once per HTTP request; every later
    form of the request holds the same struct."""

    sampling: SamplingParams = SamplingParams()
    num_choices: int = 1
    top_logprobs: int | None = None  # None: no logprobs; 0: of the chosen tokens only
    score_prompt: bool = False  # also the prompt's logprobs; needs top_logprobs


class GenerationRequest(msgspec.Struct, frozen=True):
    """One prompt and the choices wanted for it."""

    prompt: list[int]  # token ids, at least one; each picture has its pseudo-tokens in it
    max_tokens: int
    params: GenerationParams = GenerationParams()
    grammar: "Grammar | None" = None  # followed by every choice
    client: str = ""  # clients take turns
    cache_salt: str = ""  # only requests with the same salt share prefixes
    border: int = 0  # in the prompt: another one is likely to differ from here on
    pictures: "tuple[Placed, ...]" = ()  # in the prompt's order

    @property
    def is_reproducible(self) -> bool:
        """Whether rows must get the same bits every time: a seed promises the same text, and
        prompt scores are compared with each other."""
        return self.params.sampling.is_reproducible or self.params.score_prompt


class EngineSettings(msgspec.Struct, frozen=True):
    """Scheduling settings of one engine."""

    max_waiting: int = sys.maxsize  # choices without a slot; more are refused
    max_offloaded: int = 0  # bytes of host memory for evicted prefixes
    prompt_lookup: bool = True  # speculative decoding from the text so far, if faster
    max_gap_ratio: float = 4.0  # of a step with prompt tokens to the usual step time
    max_stall_s: float = 0.75  # of such a step beyond that, where it pays for all; 0: never
    adapts_threads: bool = True  # fewer compute threads while others keep the cores busy


class TokenLogprob(msgspec.Struct, frozen=True):
    """Natural log-softmax of the model's raw logits at one position."""

    token: int
    logprob: float | None  # None for the prompt's first token, which is not predicted
    top: tuple[tuple[int, float], ...] = ()  # (token, logprob), best first


class TokenEvent(msgspec.Struct, frozen=True):
    """One step of one choice."""

    choice: int
    token: int | None  # None: the prompt was only scored, nothing sampled
    num_generated: int  # tokens so far, including an end-of-generation token
    num_cached: int  # prompt tokens taken from the prefix cache
    logprob: TokenLogprob | None = None
    prompt_logprobs: list[TokenLogprob] | None = None  # on the first event after scoring
    is_end_token: bool = False  # ends the turn and has no text
    finish_reason: FinishReason | None = None


class EngineStats(msgspec.Struct, frozen=True):
    """A snapshot for `/health` and the metrics, read without waiting for the engine's thread."""

    num_running: int
    num_waiting: int
    num_steps: int
    kv_used: int  # cells, including those of idle cached prefixes
    kv_total: int
    kv_shared: int = 0  # of those used, in the prefix cache; all of them while nothing runs
    state_bytes: int = 0  # host memory that saved states take, at most
    num_drafted: int = 0  # tokens verified since the start
    num_accepted: int = 0  # of these
    step_s: float = 0.0  # that decoding took
    num_step_tokens: int = 0  # in the batches: of prompts, of answers, and drafted
    num_answering: int = 0  # of those running, beyond their prompts
