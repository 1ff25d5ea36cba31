"""Which types are worth measuring, and which of the measured ones to serve. Plain values only."""

import math
from collections import Counter
from collections.abc import Sequence

import msgspec

from localinfra.models.gguf.header import GgufHeader
from localinfra.models.gguf.reader import BLOCKS

# A smaller gain may be noise and is not worth another file.
MIN_GAIN = 1.10
# Lowest speed of any kind of work relative to the original, however much the others gain. Eight
# bits take more memory traffic than four: on two cores with AVX2 and no VNNI, SmolLM2 in Q8_0 ran
# one stream at 0.90 and 0.98 of Q4_1's speed in two measurements, eight at 1.3 and 1.4, prompts at
# 1.7 and 1.85.
MIN_OF_EACH = 0.85
# One stream counts half: that is what a user of this machine waits for.
WEIGHTS = {"prompt": 0.25, "one_stream": 0.5, "streams": 0.25}

# Lossless: within what the original's kernel itself loses by rounding activations to 8 bits ...
MAX_KL_RATIO = 1.5
MAX_PERPLEXITY_CHANGE = 0.001  # ... and with the same perplexity
# A thousand tokens measure a change of perplexity to 0.3 % (measured: -0.4 to 0.6 % between files
# of equal divergence), so it counts only beyond this many standard errors.
MIN_ERRORS = 3
KL_NOISE = 1e-5  # what the order of additions alone changes in F16

REFERENCE = "f16"
CODES = {name: code for code, (name, _, _) in BLOCKS.items()}


class Speed(msgspec.Struct, frozen=True):
    """Tokens per second."""

    prompt: float  # prefill
    one_stream: float
    streams: float  # all streams together


class Loss(msgspec.Struct, frozen=True):
    """Compared with the same weights in F16, on the bundled passage."""

    mean_kl: float  # nats per token, over the next token's whole distribution
    perplexity: float
    perplexity_error: float  # standard error of its difference from the original's


class MeasuredType(msgspec.Struct, frozen=True):
    type: str  # ggml's name in lower case
    size_bytes: int
    speed: Speed | None = None
    loss: Loss | None = None


def main_type(header: GgufHeader) -> str:
    """The type that holds most of the file's bytes."""
    sizes: Counter[int] = Counter()
    for tensor in header.tensors:
        sizes[tensor.type] += tensor.size_bytes
    return BLOCKS[sizes.most_common(1)[0][0]][0]


def bytes_per_weight(type: str) -> float:
    _, weights, block_bytes = BLOCKS[CODES[type]]
    return block_bytes / weights


def candidates(header: GgufHeader, lossless_only: bool) -> tuple[str, ...]:
    """Types to measure. Only a type with more bits than the original can be lossless."""
    original = main_type(header)
    if lossless_only:
        return ("q8_0",) if bytes_per_weight(original) < 1 else ()
    return tuple(type for type in ("q8_0", "q4_0", "f16") if type != original)


def size_as(header: GgufHeader, type: str) -> int:
    """Approximate bytes of the model in another type: vectors keep theirs."""
    sizes = (
        math.prod(tensor.shape) * bytes_per_weight(type)
        if len(tensor.shape) > 1
        else tensor.size_bytes
        for tensor in header.tensors
    )
    return header.data_offset + round(sum(sizes))


def gain(candidate: MeasuredType, original: MeasuredType) -> float:
    """How many times as fast: a weighted geometric mean over all kinds of work."""
    return math.exp(
        sum(
            weight * math.log(_ratio(candidate, original, work)) for work, weight in WEIGHTS.items()
        )
    )


def is_faster(candidate: MeasuredType, original: MeasuredType) -> bool:
    worst = min(_ratio(candidate, original, work) for work in WEIGHTS)
    return gain(candidate, original) >= MIN_GAIN and worst >= MIN_OF_EACH


def _ratio(candidate: MeasuredType, original: MeasuredType, work: str) -> float:
    assert candidate.speed and original.speed, "compared after measuring"
    faster: float = getattr(candidate.speed, work) / getattr(original.speed, work)
    return faster


def is_lossless(candidate: MeasuredType, original: MeasuredType) -> bool:
    """Whether the candidate's output can't be told from the original's."""
    assert candidate.loss and original.loss, "compared after measuring"
    own = original.loss.mean_kl
    if candidate.loss.mean_kl > MAX_KL_RATIO * own + KL_NOISE:
        return False
    # On text that F16 would write, perplexity is exp(entropy + KL): KL gives its change precisely.
    if math.expm1(candidate.loss.mean_kl - own) >= MAX_PERPLEXITY_CHANGE:
        return False
    change = abs(candidate.loss.perplexity - original.loss.perplexity)
    sure = change - MIN_ERRORS * candidate.loss.perplexity_error
    return sure < MAX_PERPLEXITY_CHANGE * original.loss.perplexity


def winner(measured: Sequence[MeasuredType], original: MeasuredType) -> MeasuredType | None:
    """The fastest candidate that is lossless and fast enough to switch; None if there is none."""
    good = [
        candidate
        for candidate in measured
        if candidate.speed
        and candidate.loss
        and is_faster(candidate, original)
        and is_lossless(candidate, original)
    ]
    return max(good, key=lambda candidate: gain(candidate, original), default=None)


def reason(measured: Sequence[MeasuredType], original: MeasuredType) -> str:
    """The outcome in one sentence, for the log and `localinfra doctor`."""
    best = winner(measured, original)
    if best:
        assert best.loss and original.loss
        return (
            f"{best.type.upper()} is {gain(best, original):.2f} times as fast as "
            f"{original.type.upper()} and lossless (KL {best.loss.mean_kl:.4f}, the original's "
            f"{original.loss.mean_kl:.4f})"
        )
    if any(is_faster(candidate, original) for candidate in measured if candidate.speed):
        return f"no type that is faster than {original.type.upper()} here is lossless"
    return f"no other type is enough faster than {original.type.upper()} here"
