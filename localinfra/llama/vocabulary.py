"""A GGUF file's vocabulary, as llama.cpp has it.

Its methods may be called from any thread.
"""

import ctypes
import functools
import itertools
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from localinfra.errors import InvalidRequest
from localinfra.llama.library import llama_cpp
from localinfra.llama.settings import WINDOW

if TYPE_CHECKING:
    from localinfra.llama.windows import Windows

# llguidance panics at longer tokens. None is known; under a grammar they are never chosen.
MAX_GRAMMAR_TOKEN_BYTES = 1024

# What `llama_tokenize` finds in a text before it merges anything: these by `parse_special` alone,
CONTROL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
# and these always.
USER_DEFINED = llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
# Some of those begin and end turns all the same: of gpt-oss by llama.cpp's own doing, of Command R
# and ChatML models by their files. None overlaps another.
MARK = re.compile(r"<[|｜][^<>]+[|｜]>|<(?:start|end)_of_turn>")


class ModelVocabulary:
    """Valid as long as the weights are: `Model` is made of it."""

    def __init__(self, pointer: Any):
        """`pointer`: a `llama_vocab`."""
        self._vocab = pointer
        self.num_vocab: int = llama_cpp.llama_vocab_n_tokens(pointer)
        self._pieces: dict[int, bytes] = {}
        self._preparing = threading.Lock()

    @functools.cached_property
    def bos_text(self) -> str:
        return self.token_text(llama_cpp.llama_vocab_bos(self._vocab))

    @functools.cached_property
    def eos_text(self) -> str:
        return self.token_text(llama_cpp.llama_vocab_eos(self._vocab))

    @functools.cached_property
    def adds_bos(self) -> bool:
        return bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))

    @functools.cached_property
    def special_tokens(self) -> Mapping[str, int]:
        """Text → id of the tokens that the tokenizer matches with `parse_special`."""
        unknown = llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
        return {text: token for text, token, what in self._matched if what & ~unknown}

    @functools.cached_property
    def control_tokens(self) -> Mapping[str, int]:
        """Text → id of the tokens that it matches only then; others are always matched."""
        always = self._marks_always_matched
        return {text: i for text, i, what in self._matched if what & CONTROL or text in always}

    @functools.cached_property
    def _marks_always_matched(self) -> frozenset[str]:
        """By llama.cpp; `tokens` prevents it. Only where texts can be cut."""
        kinds = ((text, what) for text, _, what in self._matched if MARK.fullmatch(text))
        return frozenset(text for text, what in kinds if self._is_cut and not what & CONTROL)

    @functools.cached_property
    def _always_matched(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._marks_always_matched)) or "(?!)")

    @functools.cached_property
    def _matched(self) -> list[tuple[str, int, int]]:
        """Text, id and kind of each token that is found before anything is merged."""
        attributes = llama_cpp.llama_vocab_get_attr
        kinds = (
            attributes(self._vocab, i) & (CONTROL | USER_DEFINED) for i in range(self.num_vocab)
        )
        found = ((self.token_text(i), i, kind) for i, kind in enumerate(kinds) if kind)
        return [one for one in found if one[0]]

    def grammar_tokenizer(self) -> Any:
        """llguidance's `LLTokenizer` for the vocabulary. Takes 0.4 s for 49k tokens; must not be
        used after the model is freed."""
        from llguidance import LLTokenizer

        controls = set(self.grammar_tokens.values())
        # 0xff never starts UTF-8 text; llguidance reads it as a special token.
        pieces = [
            b"\xff" + self.token_text(token).encode() if token in controls else self._piece(token)
            for token in range(self.num_vocab)
        ]
        for token, piece in enumerate(pieces):
            if len(piece) > MAX_GRAMMAR_TOKEN_BYTES:
                pieces[token] = b"\xfftoo long: %d" % token
        ends = [token for token in range(self.num_vocab) if self.is_end(token)]
        eos = llama_cpp.llama_vocab_eos(self._vocab)
        return LLTokenizer.from_llamacpp(
            tokens=pieces,
            vocab_ptr=self._vocab,
            tokenize_fptr=ctypes.cast(llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value,
            eos_token=sorted(ends, key=lambda token: token != eos) or eos,  # the main one first
        )

    @functools.cached_property
    def grammar_tokens(self) -> Mapping[str, int]:
        """Text → id of the tokens that a grammar must name, as they are not text to it."""
        return {
            text: token
            for text, token in self.special_tokens.items()
            if text in self.control_tokens or (text.startswith("<") and text.endswith(">"))
        }

    @functools.cached_property
    def tokens_around(self) -> tuple[list[int], list[int]]:
        """The tokens that the model puts before and after a whole text, such as [CLS] and [SEP]."""
        whole, text = self._tokenize(b"a", True, False), self._tokenize(b"a", False, False)
        # Some tokenizers always append an end token.
        text = [token for token in text if token not in self.special_tokens.values()] or text
        starts = range(len(whole) - len(text) + 1)
        at = next((i for i in starts if whole[i : i + len(text)] == text), 0)
        return whole[:at], whole[at + len(text) :]

    @functools.cached_property
    def longest_token(self) -> int:
        """Bytes of the longest token, so that a text of n tokens has at most n times as many."""
        text = llama_cpp.llama_vocab_get_text
        return max(len(text(self._vocab, token)) for token in range(self.num_vocab))

    @functools.cached_property
    def infill_tokens(self) -> tuple[int, int, int] | None:
        """The ids before prefix, suffix and middle; None if the model has none."""
        ids = (
            llama_cpp.llama_vocab_fim_pre(self._vocab),
            llama_cpp.llama_vocab_fim_suf(self._vocab),
            llama_cpp.llama_vocab_fim_mid(self._vocab),
        )
        return ids if min(ids) >= 0 else None

    def token_text(self, token: int) -> str:
        """The vocabulary's spelling of a token, e.g. `<|im_end|>`; empty for -1."""
        if not 0 <= token < self.num_vocab:
            return ""
        text: bytes = llama_cpp.llama_vocab_get_text(self._vocab, token)
        return text.decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def tokenize(self, text: str, *, parse_special: bool, add_bos: bool) -> list[int]:
        """Text → token ids. `parse_special` matches `control_tokens` in the text.

        `add_bos` adds a BOS token if the model wants one and the text does not start with it.
        Raises InvalidRequest if the text can't be encoded as UTF-8 (a lone surrogate).
        """
        parts = self.tokens(text, parse_special=parse_special, add_bos=add_bos)
        return [*itertools.chain.from_iterable(parts)]

    def tokens(self, text: str, *, parse_special: bool, add_bos: bool) -> Iterator[list[int]]:
        """Yields the same ids in parts of a few milliseconds each."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"The text has a lone surrogate at character {error.start}; send valid Unicode."
            ) from None
        has_bos = parse_special and bool(self.bos_text) and text.startswith(self.bos_text)
        add = add_bos and self.adds_bos and not has_bos
        self.prepare_for(len(text))
        if not self._is_cut:
            yield self._tokenize(text.encode(), add, parse_special)
            return
        if add:  # llama.cpp would add an EOS token too, where the file says so
            yield [llama_cpp.llama_vocab_bos(self._vocab)]
        parts: Iterable[str] = [text]
        if len(text) > WINDOW:
            parts = self._windows.of(text, parse_special=parse_special)
        before = ""
        for part in parts if parse_special else self._without_marks(parts):
            if not before or (parse_special and self._windows.ends_in_special(before)):
                yield self._tokenize(part.encode(), False, parse_special)
            else:
                opened = self._tokenize((self._opening + part).encode(), False, parse_special)
                yield opened[len(self._opening_ids) :]
            before = part

    def _without_marks(self, texts: Iterable[str]) -> Iterator[str]:
        """Cuts texts within the marks that llama.cpp would find in them."""
        for text in texts:
            at = 0
            for mark in self._always_matched.finditer(text):
                yield text[at : mark.start() + 1]
                at = mark.start() + 1
            yield text[at:]

    def prepare_for(self, num_characters: int) -> None:
        """Scans the vocabulary before the first long text, which may take a second."""
        if num_characters > WINDOW and self._is_cut:
            with self._preparing:
                assert self._windows

    @functools.cached_property
    def _windows(self) -> "Windows":
        from localinfra.llama.windows import Windows

        pieces = (self._piece(token) for token in range(self.num_vocab))
        special = {**self.special_tokens, **self.control_tokens}
        return Windows(itertools.chain(pieces, map(str.encode, special)), special)

    @functools.cached_property
    def _is_cut(self) -> bool:
        """Whether long texts must be cut; WordPiece, Unigram and so on handle them well."""
        kinds = llama_cpp.LLAMA_VOCAB_TYPE_SPM, llama_cpp.LLAMA_VOCAB_TYPE_BPE
        return llama_cpp.llama_vocab_type(self._vocab) in kinds

    @functools.cached_property
    def _opening(self) -> str:
        """Put before a part that continues a text, since SentencePiece adds a blank at the start.
        No token joins this character with another."""
        is_spm = llama_cpp.llama_vocab_type(self._vocab) == llama_cpp.LLAMA_VOCAB_TYPE_SPM
        return "\x01" if is_spm else ""

    @functools.cached_property
    def _opening_ids(self) -> list[int]:
        return self._tokenize(self._opening.encode(), False, False) if self._opening else []

    def _tokenize(self, data: bytes, add_special: bool, parse_special: bool) -> list[int]:
        capacity = len(data) + 2
        ids = (llama_cpp.llama_token * capacity)()
        count = llama_cpp.llama_tokenize(
            self._vocab, data, len(data), ids, capacity, add_special, parse_special
        )
        assert count >= 0, "a token has at least one byte"
        return list(ids[:count])

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token adds to the text; empty for control tokens."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._piece(token)
        return piece

    def _piece(self, token: int) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length: int = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if length >= 0:
                return buffer.raw[:length]
            size = -length
