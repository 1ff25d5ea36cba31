"""What a choice may say next by its grammar: a mask over the vocabulary, and tokens it forces.

The only importer of llguidance besides `llama/`, which hands it the vocabulary. Compiling takes
milliseconds to seconds and runs wherever the caller likes; a compiled grammar is never changed, and
each choice follows it with a state of its own on the engine's thread.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark
from numpy.typing import NDArray

from localinfra.errors import InvalidRequest

# Bounds of llguidance's work: a grammar within them compiles in under two seconds, and a mask that
# needs more ends its own request. (Default fuel of a step: 200,000, and 50,000 items.)
LIMITS = LLParserLimits(
    initial_lexer_fuel=2_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    verbose_errors=False,
)
# llguidance ends the process on a chain of 4,000 rules; a regex of 30,000 characters takes it
# seconds.
MAX_GRAMMAR_CHARS = 32 * 1024
MAX_COLONS = 1000  # at least one a rule
MAX_INTERSECTIONS = 8  # it tries all subsets of what a text has to match at once
MAX_REGEX_CHARS = 4000
MAX_CACHED = 64  # compiled grammars; one of a usual schema takes some 100 kB
MAX_CACHED_CHARS = 4_000_000  # of their sources together, a measure of their size


class Grammar:
    """A compiled grammar. Any number of choices may follow it at once."""

    def __init__(self, matcher: LLMatcher, tokenizer: LLTokenizer):
        self._matcher = matcher
        self._num_vocab: int = tokenizer.vocab_size

    def follow(self) -> "Constraint":
        return Constraint(self._matcher.deep_copy(), self._num_vocab)


class Constraint:
    """Where one choice is in its grammar. The engine's thread only."""

    def __init__(self, matcher: LLMatcher, num_vocab: int):
        self._matcher = matcher
        self._mask = np.zeros((num_vocab + 31) // 32, np.uint32)

    @property
    def is_complete(self) -> bool:
        """Nothing but the end can follow."""
        return bool(self._matcher.is_stopped())

    def allows(self, token: int) -> bool:
        return bool(self._matcher.validate_tokens([token]) == 1)

    def forbid(self, row: NDArray[np.float32]) -> None:
        """Sets the logits [num_vocab] of all tokens that can't come next to -inf.

        Raises InvalidRequest where the grammar turns out to be too complex.
        """
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._check()
        bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little", count=len(row))
        np.copyto(row, -np.inf, where=bits == 0)

    def accept(self, token: int) -> None:
        """The token, one of those allowed, is the next. Raises as `forbid`."""
        self._matcher.consume_token(token)
        self._check()

    def forced(self) -> list[int]:
        """The tokens that come next in any case, as the tokenizer itself would cut their text;
        they still have to be accepted."""
        return list(self._matcher.compute_ff_tokens())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InvalidRequest(
                "The answer could not follow its grammar any further: "
                f"{first_line(self._matcher.get_error())}. Simplify the schema or grammar.",
                "response_format",
            )


class GrammarCompiler:
    """Compiles for one vocabulary, and keeps what was asked for lately. Any thread."""

    def __init__(self, make_tokenizer: Callable[[], LLTokenizer]):
        """`make_tokenizer` takes 0.4 s for 49k tokens; it is called for the first grammar."""
        self._make_tokenizer = make_tokenizer
        self._tokenizer: LLTokenizer | None = None
        self._grammars: OrderedDict[str, Grammar] = OrderedDict()
        self._num_chars = 0
        self._lock = threading.Lock()
        self._making = threading.Lock()

    def compile(self, source: str, param: str) -> Grammar:
        """`source` is a Lark grammar in llguidance's syntax, or its JSON form.

        Raises InvalidRequest, about `param`, with what llguidance has against it.
        """
        with self._lock:
            grammar = self._grammars.get(source)
            if grammar is not None:
                self._grammars.move_to_end(source)
                return grammar
        tokenizer = self._get_tokenizer()
        matcher = LLMatcher(tokenizer, source, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise InvalidRequest(
                f"This can't be made a constraint: {first_line(matcher.get_error())}", param
            )
        grammar = Grammar(matcher, tokenizer)
        with self._lock:
            self._grammars[source] = grammar
            self._num_chars += len(source)
            while self._num_chars > MAX_CACHED_CHARS or len(self._grammars) > MAX_CACHED:
                oldest, _ = self._grammars.popitem(last=False)
                self._num_chars -= len(oldest)
        return grammar

    def _get_tokenizer(self) -> LLTokenizer:
        with self._making:
            if self._tokenizer is None:
                self._tokenizer = self._make_tokenizer()
            return self._tokenizer


def as_lark(text: str, param: str) -> str:
    """A grammar in GBNF or Lark → in Lark. Raises InvalidRequest."""
    if len(text) > MAX_GRAMMAR_CHARS:
        raise InvalidRequest(
            f"The grammar has {len(text)} characters; at most {MAX_GRAMMAR_CHARS} can be used.",
            param,
        )
    try:
        converted: str = any_to_lark(text)
    except RecursionError:
        raise InvalidRequest("The grammar is nested too deeply.", param) from None
    except Exception as error:  # the converter's own, and what a damaged grammar makes of it
        raise InvalidRequest(f"The grammar can't be read as GBNF: {error}", param) from None
    if "%json" in converted:
        raise InvalidRequest(
            "A grammar can't contain %json here: send the schema as json_schema.", param
        )
    if converted.count("&") > MAX_INTERSECTIONS:
        raise InvalidRequest(
            f"A grammar can contain & at most {MAX_INTERSECTIONS} times; join what it combines.",
            param,
        )
    if converted.count(":") > MAX_COLONS:
        raise InvalidRequest(f"The grammar has more than {MAX_COLONS} rules or colons.", param)
    return converted


def as_regex(text: str, param: str) -> str:
    """The same, checked for its size. Raises InvalidRequest."""
    if len(text) > MAX_REGEX_CHARS:
        raise InvalidRequest(
            f"The regex has {len(text)} characters; at most {MAX_REGEX_CHARS} can be used.", param
        )
    return text


def first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "no reason was given")[:500]
