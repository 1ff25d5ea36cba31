"""A request to a text model, in values that all routes have in common."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from localinfra.engine.output import TextReader
from localinfra.engine.request import GenerationParams

if TYPE_CHECKING:
    from localinfra.engine.grammar.constraint import Grammar  # imports llguidance
    from localinfra.engine.pictures import Placed  # imports numpy


class TextParams(GenerationParams, frozen=True, kw_only=True):
    """Adds the parameters that the engine itself does not need."""

    max_tokens: int | None = None  # None: the entry's default
    # What the client calls that; None: the API has set it, so it may be lowered like a default.
    max_tokens_param: str | None = "max_tokens"
    default_max_tokens: int | None = None  # if the entry has none; None: what the context leaves
    stops: Sequence[str] = ()

    @property
    def sets_limit(self) -> bool:
        """Whether the client limits its answers' length."""
        return self.max_tokens is not None and self.max_tokens_param is not None


class TextRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Prompts that a text model answers together."""

    prompts: list[list[int]]
    params: TextParams
    border: int = 0  # token of the prompts: others are likely to differ from here on
    readers: Sequence[TextReader] = ()  # one per choice; they match the stops themselves
    grammar: "Grammar | None" = None
    # control tokens to be spelled out in the text
    spelled_tokens: frozenset[int] = frozenset()
    client: str = ""  # whose prefixes it may reuse, and whose share of the queue it uses
    pictures: "tuple[Placed, ...]" = ()  # in each prompt
    prompt_param: str = "messages"  # named in the error for a prompt that is too long
