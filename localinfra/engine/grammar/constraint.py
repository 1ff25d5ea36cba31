"""A choice's grammar constraint: a mask over the vocabulary, and tokens the grammar forces.

Besides `probe.py` and `llama/`, which provides the vocabulary, the only importer of llguidance.
Compiling takes milliseconds to seconds, on any thread. Each choice then follows the compiled
grammar with its own state on the engine's thread, where every call is bounded: grammars are
compiled with `no_forcing`, since llguidance would compute forced text to its end, and some forced
text has no end.
"""

import re
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from localinfra.engine.grammar.errors import reason
from localinfra.engine.grammar.json_loops import (
    PLACES,
    JsonLoops,
    LoopEvent,
    Place,
    closing_quote,
    turn_of,
)
from localinfra.engine.grammar.probe import LIMITS
from localinfra.errors import InvalidRequest

T = TypeVar("T")

JSON_MARK = re.compile(rb'[",{}\[\]]')

MAX_FORCED_BYTES = 120  # per search: some 30 tokens, at 25 µs per byte
MAX_FORCING_S = 0.005
MAX_BEGINNINGS = 64  # nonzero words of a mask; in more, tokens begin with different bytes
# CPU time that all calls of a choice together may take beyond the usual time per call.
USUAL_CALL_S = 0.02
MAX_EXTRA_S = 0.5
MAX_RECOMPILE_S = 0.1  # slower grammars are not recompiled on the engine's thread


NOTHING = np.zeros(0, np.intp)


class GrammarVocabulary:
    """llguidance's view of a model's tokens, with tables over their bytes."""

    def __init__(self, tokenizer: LLTokenizer):
        self.tokenizer = tokenizer
        self.size: int = tokenizer.vocab_size
        # [vocab] the first byte of a token's text; -1 if it has no text.
        self.first = np.full(self.size, -1, np.int16)
        self.lengths = np.zeros(self.size, np.int16)  # [vocab] byte lengths of these texts
        self.of_byte: dict[int, int] = {}  # a byte → its single-byte token
        self.marked: dict[int, bytes] = {}  # tokens that contain JSON punctuation
        self.closing: dict[bytes, list[int]] = {}  # tokens with a quote, by the bytes before it
        # Tokens that open a container or end an item, by where they begin and what they do.
        self.turning: dict[Place, dict[LoopEvent, list[int]]] = {place: {} for place in PLACES}
        for token in range(self.size):
            if not tokenizer.is_special_token(token):
                text = tokenizer.decode_bytes([token])
                if text and text[0] != 0xFF:
                    self.first[token], self.lengths[token] = text[0], len(text)
                    if JSON_MARK.search(text):
                        self.marked[token] = text
                        for place, turning in self.turning.items():
                            if turn := turn_of(text, place):
                                turning.setdefault(turn, []).append(token)
                    if (end := closing_quote(text, False)) >= 0:
                        self.closing.setdefault(text[:end], []).append(token)
                    if len(text) == 1:
                        self.of_byte.setdefault(text[0], token)
        self.unquoted = np.flatnonzero(self.first != ord('"'))


class Grammar:
    """A compiled grammar. Any number of choices may follow it at once.

    Their states share llguidance's caches, and with them some of its failures: see `Constraint`.
    """

    def __init__(
        self,
        source: str,
        matcher: LLMatcher,
        vocabulary: GrammarVocabulary,
        seconds: float,
        free_json: bytes | None = None,
    ):
        """`free_json`: the text is arbitrary JSON, possibly after reasoning that ends with this."""
        self.free_json = free_json
        self.vocabulary = vocabulary
        self.work_s = seconds  # CPU time to compile and follow it
        self.is_broken = False  # a follower failed; new ones must not share its state
        self.num_followers = 0
        self._compile_s = seconds
        self._source = source
        self._matcher = matcher

    def follow(self) -> "Constraint":
        self.num_followers += 1
        return Constraint(self, self._matcher.deep_copy())

    def fresh_matcher(self) -> LLMatcher | None:
        """Compiles a matcher that shares nothing; None if that takes too long."""
        if self._compile_s > MAX_RECOMPILE_S:
            return None
        return compile_matcher(self.vocabulary, self._source)


class Constraint:
    """The state of one choice in its grammar. Engine thread only.

    A failure, such as hitting llguidance's limits, affects this choice only. If shared state may
    be the cause, the choice first retries with a matcher of its own.
    """

    def __init__(self, grammar: Grammar, matcher: LLMatcher):
        self._grammar = grammar
        self._vocabulary = grammar.vocabulary
        self._matcher = matcher
        self._mask = np.zeros((self._vocabulary.size + 31) // 32, np.uint32)
        self._has_mask = False  # of the next token
        self._tokens: list[int] = []
        self._is_alone = False
        self._extra_s = 0.0
        self._loops = None if grammar.free_json is None else JsonLoops(grammar.free_json)

    def fork(self) -> "Constraint":
        """A state of its own at the same place, to look ahead in. It follows the grammar only: what
        would continue a loop is not forbidden."""
        fork = Constraint(self._grammar, self._matcher.deep_copy())
        fork._loops, fork._is_alone = None, True
        return fork

    @property
    def is_complete(self) -> bool:
        """Whether only the end can follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def allows(self, token: int) -> bool:
        if self._is_loop(token):
            return False
        return bool(self._call(lambda: self._matcher.validate_tokens([token])) == 1)

    def forbid(self, row: NDArray[np.float32]) -> None:
        """Sets the logits [num_vocab] of all tokens that are not allowed next to -inf.

        Raises InvalidRequest if the grammar turns out to be too complex.
        """
        np.copyto(row, -np.inf, where=self._bits(len(row)) == 0)

    def allows_each(self, ids: NDArray[np.intp], num_vocab: int) -> NDArray[np.bool_]:
        """Which of these tokens `forbid` leaves as they are. Raises like it."""
        are_allowed: NDArray[np.bool_] = self._bits(num_vocab)[ids] != 0
        return are_allowed

    def prepare(self) -> None:
        """Does most of what `forbid` takes, ahead of it. Raises like it."""
        if not self._has_mask:
            self._call(lambda: self._compute_mask(self._matcher))
            self._has_mask = True

    def _bits(self, num_vocab: int) -> NDArray[np.uint8]:
        """Nonzero for each token that may come next."""
        self.prepare()
        bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little", count=num_vocab)
        if len(looping := self._looping()):
            others = bits.copy()
            others[looping] = 0
            bits = others if others.any() else bits
        return bits

    def _looping(self) -> Sequence[int] | NDArray[np.intp]:
        """The tokens that would continue a loop."""
        loops, vocabulary = self._loops, self._vocabulary
        if loops is None:
            return ()
        if loops.has_phrase:
            return vocabulary.unquoted
        if endings := loops.name_endings:
            return [token for end in endings for token in vocabulary.closing.get(end, ())]
        if loops.is_filled:
            turning = vocabulary.turning[loops.place].items()
            return [token for turn, each in turning if loops.is_too_much(turn) for token in each]
        return ()

    def _is_loop(self, token: int) -> bool:
        """Whether the token is among those of `_looping`."""
        loops, text = self._loops, self._vocabulary.marked.get(token, b"")
        if loops is None:
            return False
        if loops.has_phrase:
            return not text.startswith(b'"')
        if endings := loops.name_endings:
            end = closing_quote(text, False)
            return end >= 0 and text[:end] in endings
        return loops.is_filled and loops.goes_on(text)

    def accept(self, token: int) -> None:
        """Advances by the next token, which must be allowed. Raises like `forbid`."""
        self._has_mask = False
        self._call(lambda: self._matcher.consume_token(token))
        self._tokens.append(token)
        if self._loops and self._vocabulary.first[token] >= 0:
            self._loops.push(self._vocabulary.tokenizer.decode_bytes([token]))

    def forced(self) -> list[int]:
        """The only possible next tokens, tokenized as the tokenizer would; they still have to be
        accepted. Of a long forced text, only a part. Raises like `forbid`."""
        return self._call(self._forced)

    def _forced(self) -> list[int]:
        if self._matcher.is_stopped():
            return []
        walker, text = self._matcher, bytearray()
        longest: list[int] = []  # at each byte of the text, bytes of the longest allowed token
        deadline_s = time.thread_time() + MAX_FORCING_S
        while len(text) < MAX_FORCED_BYTES and time.thread_time() < deadline_s:
            allowed = self._of_one_first_byte(walker)
            if not len(allowed):
                break
            byte = int(self._vocabulary.first[allowed[0]])
            if byte < 0 and not text and len(allowed) == 1:
                return [int(allowed[0])]  # a control token
            if byte not in self._vocabulary.of_byte:
                break
            if not text:
                walker = walker.deep_copy()
            text.append(byte)
            longest.append(int(self._vocabulary.lengths[allowed].max()))
            walker.consume_token(self._vocabulary.of_byte[byte])
            if walker.is_stopped():
                break
        tokens = self._tokens_of(bytes(text), longest) if text else []
        return tokens[: self._matcher.validate_tokens(tokens)] if tokens else []

    def _tokens_of(self, text: bytes, longest: list[int]) -> list[int]:
        """Tokenizes the text as a continuation of the tokens so far, without last tokens that may
        merge with what follows."""
        tokenizer, last = self._vocabulary.tokenizer, self._tokens[-1:]
        before = (
            tokenizer.decode_bytes(last) if last and self._vocabulary.first[last[0]] >= 0 else b""
        )
        tokens = tokenizer.tokenize_bytes(before + text)
        tokens = tokens[1:] if before and tokens[:1] == last else tokenizer.tokenize_bytes(text)
        if tokenizer.decode_bytes(tokens) != text:
            return []
        at = 0
        for index, token in enumerate(tokens):
            if longest[at] > len(text) - at:
                return list(tokens[:index])
            at += int(self._vocabulary.lengths[token])
        return list(tokens)

    def _of_one_first_byte(self, walker: LLMatcher) -> NDArray[np.intp]:
        """The allowed tokens if all begin with the same byte or all have no text, else none."""
        self._compute_mask(walker)
        words = np.flatnonzero(self._mask)
        if walker.is_error() or not 0 < len(words) <= MAX_BEGINNINGS:
            return NOTHING
        bits = np.unpackbits(self._mask[words].view(np.uint8), bitorder="little")
        places = np.flatnonzero(bits)
        allowed = words[places >> 5] * 32 + (places & 31)
        bytes_ = self._vocabulary.first[allowed]
        return NOTHING if (bytes_ != bytes_[0]).any() else allowed

    def _compute_mask(self, matcher: LLMatcher) -> None:
        self._has_mask = False
        matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)

    def _call(self, function: Callable[[], T]) -> T:
        """Calls the function within limits. Raises InvalidRequest if it takes too long or fails."""
        if self._grammar.is_broken:
            self._use_own_matcher()  # shared state may forbid what is allowed
        started_s = time.thread_time()
        try:
            result, problem = function(), ""
        except BaseException as error:
            if isinstance(error, Exception) or type(error).__module__ != "pyo3_runtime":
                raise
            problem = f"llguidance failed: {error}"  # its panics are not Exceptions
        took_s = time.thread_time() - started_s
        self._grammar.work_s += took_s
        self._extra_s += max(0.0, took_s - USUAL_CALL_S)
        if self._matcher.is_error():
            problem = self._matcher.get_error()
        if not problem and self._extra_s <= MAX_EXTRA_S:
            return result
        self._grammar.is_broken = True
        if problem and self._use_own_matcher():
            return self._call(function)
        raise InvalidRequest(
            "The answer could not be continued within its grammar: "
            f"{reason(problem or 'each step takes too long')}. Simplify the schema or grammar.",
            "response_format",
        )

    def _use_own_matcher(self) -> bool:
        """Switches to a matcher of its own at the same place; False if that is not possible."""
        if self._is_alone or self._grammar.num_followers < 2:
            return False
        self._is_alone = True  # set first: one try only
        matcher = self._grammar.fresh_matcher()
        if matcher is None or matcher.is_error() or not matcher.consume_tokens(self._tokens):
            return False
        self._matcher, self._has_mask = matcher, False
        return True


def compile_matcher(vocabulary: GrammarVocabulary, source: str) -> LLMatcher:
    limits = LLParserLimits(**LIMITS)
    return LLMatcher(vocabulary.tokenizer, source, log_level=0, limits=limits)
