"""Grammars of one vocabulary, compiled once for each owner who follows them."""

import threading
import time
from collections.abc import Callable

from llguidance import LLMatcher, LLTokenizer

from localinfra.engine.grammar.constraint import Grammar, GrammarVocabulary, compile_matcher
from localinfra.engine.grammar.errors import compile_error
from localinfra.engine.grammar.prober import Prober
from localinfra.errors import InvalidRequest
from localinfra.shares import Kept

MAX_CACHED = 64  # compiled grammars; a typical schema takes some 100 kB
# Time taken to compile and follow the cached grammars: a measure of their size, since llguidance
# keeps what it computes, at most 80 MB per second (far less for mere look-ups).
MAX_CACHED_S = 2.0
MICROSECONDS = 1_000_000


class GrammarCompiler:
    """Compiles grammars for one vocabulary, and keeps those used last. Any thread."""

    def __init__(self, make_tokenizer: Callable[[], LLTokenizer]):
        """`make_tokenizer` takes 0.4 s for 49k tokens, so it is called at the first grammar."""
        self._make_tokenizer = make_tokenizer
        self._vocabulary: GrammarVocabulary | None = None
        # By owner and source. What came last stays in any case: its request's next one needs it.
        self._grammars: Kept[str, Grammar] = Kept(MAX_CACHED, round(MAX_CACHED_S * MICROSECONDS))
        self._prober = Prober()
        self._lock = threading.Lock()
        self._making = threading.Lock()

    def compile(
        self,
        source: str,
        param: str,
        *,
        is_plain: bool = False,
        free_json: bytes | None = None,
        owner: str = "",
    ) -> Grammar:
        """Compiles `source`, a Lark grammar in llguidance's syntax or its JSON form.

        It is tried in a child process first, unless `is_plain` says that it compiles in
        milliseconds. `free_json` as in `Grammar`. Only what the `owner` itself had compiled is
        found again. Raises InvalidRequest, about `param`, with llguidance's reason.
        """
        with self._lock:
            grammar = self._grammars.get(owner, source)
            if grammar is not None and not grammar.is_broken:
                return grammar
        vocabulary = self._get_vocabulary()
        started_s = time.thread_time()
        matcher = self._matcher(source, param, is_plain)
        grammar = Grammar(source, matcher, vocabulary, time.thread_time() - started_s, free_json)
        with self._lock:
            self._measure()
            self._grammars.put(owner, source, grammar, *sizes(grammar))
        return grammar

    def knows(self, source: str, owner: str = "") -> bool:
        """Whether the grammar is compiled already."""
        with self._lock:
            grammar = self._grammars.get(owner, source)
            return grammar is not None and not grammar.is_broken

    def problem(self, source: str, *, is_plain: bool) -> str | None:
        """Why `compile` would refuse it, else None."""
        try:
            self._matcher(source, "", is_plain)
        except InvalidRequest as error:
            return str(error)
        return None

    def _matcher(self, source: str, param: str, is_plain: bool) -> LLMatcher:
        if not is_plain:
            self._prober.check(source, param)
        matcher = compile_matcher(self._get_vocabulary(), source)
        if matcher.is_error():
            raise compile_error(matcher.get_error(), source, param)
        return matcher

    def close(self) -> None:
        self._prober.close()

    def _measure(self) -> None:
        """Anew: who follows a grammar makes it larger, and may break it."""
        for owner, source, grammar in self._grammars.items():
            if grammar.is_broken:
                self._grammars.drop(owner, source)
            else:
                self._grammars.resize(owner, source, *sizes(grammar))

    def _get_vocabulary(self) -> GrammarVocabulary:
        with self._making:
            if self._vocabulary is None:
                self._vocabulary = GrammarVocabulary(self._make_tokenizer())
            return self._vocabulary


def sizes(grammar: Grammar) -> tuple[int, int]:
    return 1, round(grammar.work_s * MICROSECONDS)
