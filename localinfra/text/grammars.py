"""Compiles the grammar of an answer, in bounded threads."""

import hashlib
import threading
from collections.abc import Mapping, Sequence

import msgspec

from localinfra.chat.answer import Answer, GrammarSource, grammar_of, usual_waiver
from localinfra.chat.encoding import all_parts
from localinfra.chat.formats.generic import GENERIC
from localinfra.chat.relaxing import ANYTHING, Relaxing
from localinfra.chat.schema.prepared import Waiver
from localinfra.engine.grammar.client import as_lark, as_regex
from localinfra.engine.grammar.compiler import GrammarCompiler
from localinfra.engine.grammar.constraint import Grammar
from localinfra.errors import InvalidRequest, UnsupportedParameter
from localinfra.executor import BoundedExecutor
from localinfra.shares import Kept
from localinfra.text.prompts import ChatPrompt
from localinfra.text.vocabulary import Vocabulary

MAX_COMPILING = 2  # grammars at once
MAX_TRYING = 2  # those that may take a second, in threads of their own
MAX_WAITING_GRAMMARS = 64
MAX_SOURCES, MAX_SOURCE_CHARS = 64, 32 << 20  # kept; 1,000 tools have 0.6 million characters
SMALL_CHARS = 200_000  # compiles in 0.2 s


class Compiled(msgspec.Struct, frozen=True):
    """The enforced form of an answer; no grammar if any text will do."""

    grammar: Grammar | None = None
    left_out: Sequence[str] = ()  # paths of requirements that are not enforced


class Sources:
    """The grammars of recent answers, since an agent sends the same tools with every request:
    writing one takes 0.25 ms per tool, finding it 0.004 ms. Each owner's are its own. Any thread.
    """

    def __init__(self) -> None:
        self._kept: Kept[bytes, GrammarSource] = Kept(MAX_SOURCES, MAX_SOURCE_CHARS)
        self._lock = threading.Lock()

    def get(self, owner: str, key: bytes) -> GrammarSource | None:
        with self._lock:
            return self._kept.get(owner, key)

    def put(self, owner: str, key: bytes, source: GrammarSource) -> None:
        with self._lock:
            self._kept.put(owner, key, source, 1, len(source.text))


class Grammars:
    """A model's grammars. Event loop only, except `close`.

    Those kept are each client's own: else the time of a first answer would tell whether another one
    uses the same schema.
    """

    def __init__(self, vocabulary: Vocabulary, *, is_shared: bool = False):
        """`is_shared`: clients may use each other's."""
        self._vocabulary = vocabulary
        self._is_shared = is_shared
        self._compiler = GrammarCompiler(vocabulary.grammar_tokenizer)
        self._sources = Sources()
        self._compiling = BoundedExecutor("grammars", MAX_COMPILING, MAX_WAITING_GRAMMARS)
        self._trying = BoundedExecutor("large grammars", MAX_TRYING, MAX_WAITING_GRAMMARS // 4)

    @property
    def is_busy(self) -> bool:
        return self._compiling.is_busy or self._trying.is_busy

    def close(self) -> None:
        self._compiling.close()
        self._trying.close()
        self._compiler.close()  # ends running work too

    async def compile(
        self, answer: Answer, prompt: ChatPrompt | None = None, client: str = ""
    ) -> Compiled:
        """Compiles the grammar that enforces `answer`, in a thread.

        The first takes half a second, most others milliseconds. Raises InvalidRequest or
        UnsupportedParameter if something can't be enforced, and QueueFull.
        """
        if answer.format is None and not answer.use.callable:
            return Compiled()
        owner = "" if self._is_shared else client
        compiled = await self._compiling.run(self._compile_soon, answer, prompt, owner)
        if compiled is None:
            compiled = await self._trying.run(self._compile, answer, prompt, owner)
        return compiled

    def _compile_soon(
        self, answer: Answer, prompt: ChatPrompt | None, owner: str
    ) -> Compiled | None:
        """None if it may take long."""
        if answer.format and answer.format.kind != "json":
            return None
        try:
            source = self._source(answer, prompt, owner)
            is_fast = source.is_plain and len(source.text) <= SMALL_CHARS
            if not is_fast and not self._compiler.knows(source.text, owner):
                return None
            return self._compiled(source, answer, owner)
        except InvalidRequest:
            if answer.use.callable:
                return None  # the tools may need leniency
            raise

    def _compile(self, answer: Answer, prompt: ChatPrompt | None, owner: str) -> Compiled:
        if answer.format and answer.format.kind != "json":
            text, param = answer.format.text, answer.format.param
            if answer.format.kind == "lark":
                text = as_lark(text, param, self._vocabulary.grammar_tokens)
            else:
                text = as_regex(text, param)
            answer = msgspec.structs.replace(
                answer, format=msgspec.structs.replace(answer.format, text=text)
            )
        try:
            return self._compiled(self._source(answer, prompt, owner), answer, owner)
        except InvalidRequest as error:
            return self._relaxed(answer, prompt, owner, error)

    def _relaxed(
        self, answer: Answer, prompt: ChatPrompt | None, owner: str, error: InvalidRequest
    ) -> Compiled:
        """Leaves out parts of single tools' schemas; or else, if each compiles but not all of them
        together, the schemas of all. Raises `error` if that does not help."""
        form = prompt.voice.calls if prompt else GENERIC
        relaxing = Relaxing(self._problem, form, self._vocabulary.grammar_tokens)
        lenient = [tool for tool in answer.use.callable if not tool.is_strict]
        waivers = {tool.name: relaxing.waiver(tool) for tool in lenient}
        tries = [waivers, dict.fromkeys(waivers, ANYTHING)]
        if all(waivers[tool.name] == usual_waiver(tool) for tool in lenient):
            source = self._source(answer, prompt, owner, waivers)
            for path, problem in relaxing.faults(source.hard).items():
                raise UnsupportedParameter(problem, path) from None
            del tries[0]
        for tried in filter(None, tries):
            try:
                source = self._source(answer, prompt, owner, tried)
                compiled = self._compiled(source, answer, owner)
            except InvalidRequest:
                continue
            self._sources.put(owner, source_key(answer, prompt), source)
            return compiled
        raise error

    def _problem(self, source: GrammarSource) -> str | None:
        return self._compiler.problem(source.text, is_plain=source.is_plain)

    def _source(
        self,
        answer: Answer,
        prompt: ChatPrompt | None,
        owner: str,
        waivers: Mapping[str, Waiver] = {},
    ) -> GrammarSource:
        key = source_key(answer, prompt)
        if not waivers and (known := self._sources.get(owner, key)):
            return known
        source = grammar_of(
            answer,
            prompt.voice if prompt else None,
            self._vocabulary.grammar_tokens,
            is_thinking=prompt is not None and prompt.is_thinking,
            is_continued=prompt is not None and prompt.is_continued,
            waivers=waivers,
        )
        assert source is not None
        if not waivers:
            self._sources.put(owner, key, source)
        return source

    def _compiled(self, source: GrammarSource, answer: Answer, owner: str) -> Compiled:
        param = answer.format.param if answer.format else "tools"
        grammar = self._compiler.compile(
            source.text,
            param,
            is_plain=source.is_plain,
            free_json=source.free_json,
            owner=owner,
        )
        return Compiled(grammar, source.left_out)


def source_key(answer: Answer, prompt: ChatPrompt | None) -> bytes:
    """Equal for answers with the same grammar."""
    state = (prompt.voice, prompt.is_thinking, prompt.is_continued) if prompt else None
    found = hashlib.blake2b(digest_size=16)
    for part in all_parts((answer, state)):  # a schema may be as large as a body
        found.update(part)
    return found.digest()
