"""Tells answers that computed for long from those that hung. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fuzzing.client import Answer, Span

SLOW_S = 10.0
CONTROL_TOKENS = 24  # of each answer of a control stream
MOST_RATIO = 3.0  # of an answer's time to the slowest one's of the control streams, by tokens


@dataclass(frozen=True)
class Slow:
    """An answer with a long wait for a byte."""

    silence: Span
    num_tokens: int  # that were computed, by its own word
    number: int
    operation: str
    kind: str

    def __str__(self) -> str:
        tokens = f" for {self.num_tokens} tokens" if self.num_tokens else ""
        return (
            f"silent for {self.silence.took_s:.0f} s{tokens}: "
            f"{self.number}, {self.operation}: {self.kind}"
        )


def hangs(slow: Slow, controls: Sequence[Span]) -> bool:
    """Whether it was silent for longer than its tokens explain, by what the answers of the control
    streams took meanwhile: other load slows them all."""
    meanwhile = (span.took_s for span in controls if span.overlaps(slow.silence))
    share = max(1.0, slow.num_tokens / CONTROL_TOKENS)
    return slow.silence.took_s > max(SLOW_S, MOST_RATIO * share * max(meanwhile, default=0.0))


def num_tokens(answer: Answer) -> int:
    """How many the answer says that it generated; 0 where it doesn't say."""
    return max(_counts(answer.json), default=0)


def _counts(body: Any) -> Iterator[int]:
    if not isinstance(body, dict):
        return
    usage, status = body.get("usage"), body.get("inference_status")
    for within, name in (
        (usage, "completion_tokens"),  # OpenAI's
        (usage, "output_tokens"),  # Responses, Anthropic's
        (status, "tokens_generated"),  # DeepInfra's own
        (body, "eval_count"),  # Ollama's
    ):
        if isinstance(within, dict) and isinstance(count := within.get(name), int):
            yield count
