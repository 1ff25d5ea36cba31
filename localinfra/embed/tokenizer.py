"""Texts → token ids for a model, by Hugging Face's `tokenizers`. Any thread."""

from collections.abc import Sequence
from typing import Protocol

from localinfra.embed.encoder import Tokens

MAX_BLANKS = 64  # characters per token, even if no token in the vocabulary is as long


class Tokenizer(Protocol):
    """May be shared between threads."""

    max_tokens: int  # of a text, special tokens included
    num_vocab: int
    max_characters: int  # longer texts exceed `max_tokens`, unless of blanks or unknown words

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Adds special tokens and does not truncate."""

    def wrap(self, ids: list[int]) -> Tokens:
        """The model's own ids of a text, with special tokens added around them."""

    def cut(self, tokens: Tokens) -> Tokens:
        """Truncates to `max_tokens`, keeping the final special tokens."""


class FastTokenizer:
    """A folder's tokenizer.json, without its padding and truncation settings: MiniLM's would cut
    or pad every text to 128 tokens."""

    def __init__(self, json: str, max_tokens: int):
        """`json` is the file's text."""
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_str(json)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.max_tokens = max_tokens
        self.num_vocab: int = self._tokenizer.get_vocab_size()
        longest_token = max(map(len, self._tokenizer.get_vocab()))
        self.max_characters = max_tokens * max(longest_token, MAX_BLANKS)
        marked = self._tokenizer.encode("a").ids
        plain = self._tokenizer.encode("a", add_special_tokens=False).ids
        at = next(i for i in range(len(marked)) if marked[i : i + len(plain)] == plain)
        self._prefix, self._suffix = marked[:at], marked[at + len(plain) :]

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        return [Tokens(found.ids) for found in self._tokenizer.encode_batch(list(texts))]

    def tokenize_pairs(self, first: str, others: Sequence[str]) -> list[Tokens]:
        """Pairs a text with each of the others. For few, short pairs: `first` is tokenized again
        for each."""
        pairs = self._tokenizer.encode_batch([(first, other) for other in others])
        return [Tokens(found.ids, found.type_ids) for found in pairs]

    def wrap(self, ids: list[int]) -> Tokens:
        return Tokens([*self._prefix, *ids, *self._suffix])

    def cut(self, tokens: Tokens) -> Tokens:
        if len(tokens) <= self.max_tokens:
            return tokens
        ends = len(self._suffix)
        kept = self.max_tokens - ends
        types = tokens.types and tokens.types[:kept] + tokens.types[len(tokens) - ends :]
        return Tokens(tokens.ids[:kept] + self._suffix, types, tokens.num_prompt)
