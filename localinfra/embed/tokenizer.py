"""Texts → the token ids a model reads, through Hugging Face's `tokenizers`. Any thread."""

from collections.abc import Sequence
from typing import Protocol

from localinfra.embed.encoder import Tokens

MAX_BLANKS = 64  # characters that a token may stand for though none in the vocabulary is as long


class Tokenizer(Protocol):
    """Safe to share between threads."""

    max_tokens: int  # of a text, special tokens included
    num_vocab: int
    max_characters: int  # a text of more is too long, unless it is blanks or words nobody knows

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """With special tokens, however long."""

    def wrap(self, ids: list[int]) -> Tokens:
        """Ids of a text as the model has them, with special tokens around."""

    def cut(self, tokens: Tokens) -> Tokens:
        """Down to `max_tokens`, with the special tokens that end it."""


class FastTokenizer:
    """A folder's tokenizer.json. What that file says of padding and truncation is left out:
    MiniLM's would cut all texts at 128 tokens, and pad all to that."""

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
        """A text together with each of the others; for few and short ones, since it reads the
        first again with each."""
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
