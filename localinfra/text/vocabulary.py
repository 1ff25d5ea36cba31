"""The vocabulary as a text model uses it: llama.cpp's in `llama/model.py`, bytes in the tests."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol


class Vocabulary(Protocol):
    """Usable from any thread, and for a moment after the engine has ended."""

    @property
    def num_vocab(self) -> int: ...

    @property
    def tokenizer_kind(self) -> str:
        """Its name in GGUF files: gpt2, llama, bert and so on."""

    @property
    def bos_text(self) -> str:
        """Spelling of the BOS token; "" if there is none, as with `eos_text`."""

    @property
    def eos_text(self) -> str: ...

    @property
    def adds_bos(self) -> bool:
        """Whether a text without a BOS token gets one."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Text → id of the tokens that `parse_special` recognizes."""

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """Text → id of the tokens that only `parse_special` recognizes."""

    @property
    def grammar_tokens(self) -> Mapping[str, int]:
        """Text → id of the tokens that a grammar must name by id: it can't match them as text."""

    @property
    def infill_tokens(self) -> tuple[int, int, int] | None:
        """The ids that precede prefix, suffix and middle; None if there are none."""

    @property
    def longest_token(self) -> int:
        """Bytes of the longest token: n tokens are at most n times as many bytes."""

    def token_text(self, token: int) -> str:
        """The vocabulary's own spelling of a token, e.g. `<|im_end|>`."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds to the text; none for control tokens."""

    def tokens(self, text: str, *, parse_special: bool, add_bos: bool) -> Iterator[list[int]]:
        """Text → token ids, in parts that take milliseconds each. `parse_special` recognizes
        `special_tokens`; `add_bos` adds a BOS token if the vocabulary `adds_bos`.

        Raises InvalidRequest for text that has no UTF-8 form (a lone surrogate).
        """

    def prepare_for(self, num_characters: int) -> None:
        """One-time work before a first text of this length, which may take a second."""

    def grammar_tokenizer(self) -> Any:
        """llguidance's view of the vocabulary: an `LLTokenizer`. May take a second."""


def spelled(vocabulary: Vocabulary, token: int) -> bytes:
    """The bytes that the token adds to a text; for a control token, its spelling."""
    return vocabulary.token_bytes(token) or vocabulary.token_text(token).encode()


def text_of(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    """The text of the tokens, control tokens spelled out. For many, call it in a thread."""
    return b"".join(spelled(vocabulary, token) for token in ids).decode("utf-8", "replace")
