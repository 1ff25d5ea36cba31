"""Grammars of one vocabulary, compiled once for all who follow them."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from llguidance import LLMatcher, LLTokenizer

from localinfra.engine.grammar.constraint import Grammar, GrammarVocabulary, compile_matcher
from localinfra.engine.grammar.errors import compile_error
from localinfra.engine.grammar.prober import Prober
from localinfra.errors import InvalidRequest

MAX_CACHED = 64  # compiled grammars; a typical schema takes some 100 kB
# Time taken to compile and follow the cached grammars: a measure of their size, since llguidance
# keeps what it computes, at most 80 MB per second (far less for mere look-ups).
MAX_CACHED_S = 2.0


class GrammarCompiler:
    """Compiles grammars for one vocabulary, with an LRU cache. Any thread."""

    def __init__(self, make_tokenizer: Callable[[], LLTokenizer]):
        """`make_tokenizer` takes 0.4 s for 49k tokens, so it is called at the first grammar."""
        self._make_tokenizer = make_tokenizer
        self._vocabulary: GrammarVocabulary | None = None
        self._grammars: OrderedDict[tuple[str, str], Grammar] = OrderedDict()  # owner, source
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
        key = owner, source
        with self._lock:
            grammar = self._grammars.get(key)
            if grammar is not None and not grammar.is_broken:
                self._grammars.move_to_end(key)
                return grammar
        vocabulary = self._get_vocabulary()
        started_s = time.thread_time()
        matcher = self._matcher(source, param, is_plain)
        grammar = Grammar(source, matcher, vocabulary, time.thread_time() - started_s, free_json)
        with self._lock:
            self._grammars[key] = grammar
            self._grammars.move_to_end(key)
            self._forget()
        return grammar

    def knows(self, source: str, owner: str = "") -> bool:
        """Whether the grammar is compiled already."""
        with self._lock:
            grammar = self._grammars.get((owner, source))
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

    def _forget(self) -> None:
        for key in [key for key, kept in self._grammars.items() if kept.is_broken]:
            del self._grammars[key]
        work_s = sum(grammar.work_s for grammar in self._grammars.values())
        # The newest stays in any case: the next request of its client needs it again.
        while len(self._grammars) > 1 and (
            len(self._grammars) > MAX_CACHED or work_s > MAX_CACHED_S
        ):
            _, oldest = self._grammars.popitem(last=False)
            work_s -= oldest.work_s

    def _get_vocabulary(self) -> GrammarVocabulary:
        with self._making:
            if self._vocabulary is None:
                self._vocabulary = GrammarVocabulary(self._make_tokenizer())
            return self._vocabulary
