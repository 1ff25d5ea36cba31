"""What a client asks of a text model, in the values that all routes have in common."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from localinfra.engine.output import Reader
from localinfra.engine.request import SamplingParams

if TYPE_CHECKING:
    from localinfra.engine.grammar.constraint import Grammar  # llguidance is for those who need it


class TextRequest(msgspec.Struct, frozen=True):
    """What a client asks of a text model: prompts that are answered together, with
    `num_choices` choices each."""

    prompts: list[list[int]]
    max_tokens: int | None = None  # None: the entry's default
    default_max_tokens: int | None = None  # where that has none; None: what the context leaves
    sampling: SamplingParams = SamplingParams()
    num_choices: int = 1
    stops: Sequence[str] = ()
    readers: Sequence[Reader] = ()  # one for each choice, which match its stops themselves
    top_logprobs: int | None = None
    score_prompt: bool = False
    grammar: "Grammar | None" = None
    marks: frozenset[int] = frozenset()  # control tokens whose spelling belongs to the text
    client: str = ""  # whose prefixes it may reuse, and whose turn it takes
    prompt_param: str = "messages"  # named in the error for a prompt that is too long
