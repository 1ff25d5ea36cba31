"""What a client asks of a text model, in the values that all routes have in common."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from localinfra.engine.output import TextReader
from localinfra.engine.request import GenerationParams

if TYPE_CHECKING:
    from localinfra.engine.grammar.constraint import Grammar  # llguidance is for those who need it


class TextParams(GenerationParams, frozen=True, kw_only=True):
    """With what the engine itself need not know."""

    max_tokens: int | None = None  # None: the entry's default
    default_max_tokens: int | None = None  # where that has none; None: what the context leaves
    stops: Sequence[str] = ()


class TextRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a text model: prompts that are answered together."""

    prompts: list[list[int]]
    params: TextParams
    readers: Sequence[TextReader] = ()  # one for each choice, which match its stops themselves
    grammar: "Grammar | None" = None
    # control tokens whose spelling belongs to the text
    spelled_tokens: frozenset[int] = frozenset()
    client: str = ""  # whose prefixes it may reuse, and whose turn it takes
    prompt_param: str = "messages"  # named in the error for a prompt that is too long
