"""What a text model asks of its tokens: llama.cpp's in `llama/model.py`, bytes in the tests."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol


class Vocabulary(Protocol):
    """May be asked from any thread, and for a moment after the engine has ended."""

    @property
    def num_vocab(self) -> int: ...

    @property
    def tokenizer_kind(self) -> str:
        """By its name in GGUF files: gpt2, llama, bert and so on."""

    @property
    def bos_text(self) -> str:
        """Spelling of the token that begins a text; "" where there is none, as with the next."""

    @property
    def eos_text(self) -> str: ...

    @property
    def adds_bos(self) -> bool:
        """Whether a text that has no BOS token yet gets one."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Text → id of the tokens that are read as marks when asked to."""

    @property
    def grammar_tokens(self) -> Mapping[str, int]:
        """Text → id of the tokens that a grammar has to name, since to it they are no text."""

    @property
    def infill_tokens(self) -> tuple[int, int, int] | None:
        """The ids that stand before prefix, suffix and middle; None where there are none."""

    @property
    def longest_token(self) -> int:
        """Bytes of the longest token: no text of more than n times that has n tokens or fewer."""

    def token_text(self, token: int) -> str:
        """The vocabulary's own spelling of a token, e.g. `<|im_end|>`."""

    def token_bytes(self, token: int) -> bytes:
        """What a token adds to the text; nothing for control tokens."""

    def tokens(self, text: str, *, parse_special: bool, add_bos: bool) -> Iterator[list[int]]:
        """Text → token ids, in parts that take milliseconds each. `parse_special` reads the marks
        of `special_tokens` as such; `add_bos` adds a BOS token where `adds_bos` says so.

        Raises InvalidRequest for text that has no UTF-8 form (a lone surrogate).
        """

    def prepare_for(self, num_characters: int) -> None:
        """What a first text of this length needs, which may take a second."""

    def grammar_tokenizer(self) -> Any:
        """llguidance's view of the vocabulary: an `LLTokenizer`. May take a second."""


def spelled(vocabulary: Vocabulary, token: int) -> bytes:
    """What the token adds to a text; for a control token, which adds nothing, its spelling."""
    return vocabulary.token_bytes(token) or vocabulary.token_text(token).encode()


def text_of(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    """What the tokens spell, control tokens too. Many are for a thread."""
    return b"".join(spelled(vocabulary, token) for token in ids).decode("utf-8", "replace")
