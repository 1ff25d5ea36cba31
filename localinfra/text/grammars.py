"""Compiles the grammar of an answer, in bounded threads."""

from collections.abc import Mapping, Sequence

import msgspec

from localinfra.chat.answer import Answer, GrammarSource, grammar_of, usual_waiver
from localinfra.chat.relaxing import Relaxing
from localinfra.chat.schema.prepared import Waiver
from localinfra.engine.grammar.client import as_lark, as_regex
from localinfra.engine.grammar.constraint import Grammar, GrammarCompiler
from localinfra.errors import InvalidRequest, UnsupportedParameter
from localinfra.executor import BoundedExecutor
from localinfra.text.prompts import ChatPrompt
from localinfra.text.vocabulary import Vocabulary

MAX_COMPILING = 2  # grammars at once
MAX_TRYING = 2  # those that may take a second, in threads of their own
MAX_WAITING_GRAMMARS = 64


class Compiled(msgspec.Struct, frozen=True):
    """The enforced form of an answer; no grammar if any text will do."""

    grammar: Grammar | None = None
    left_out: Sequence[str] = ()  # paths of requirements that are not enforced


class Grammars:
    """A model's grammars. Event loop only, except `close`."""

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self._compiler = GrammarCompiler(vocabulary.grammar_tokenizer)
        self._compiling = BoundedExecutor("grammars", MAX_COMPILING, MAX_WAITING_GRAMMARS)
        self._trying = BoundedExecutor("large grammars", MAX_TRYING, MAX_WAITING_GRAMMARS // 4)

    @property
    def is_busy(self) -> bool:
        return self._compiling.is_busy or self._trying.is_busy

    def close(self) -> None:
        self._compiling.close()
        self._trying.close()
        self._compiler.close()  # ends running work too

    async def compile(self, answer: Answer, prompt: ChatPrompt | None = None) -> Compiled:
        """Compiles the grammar that enforces `answer`, in a thread.

        The first takes half a second, most others milliseconds. Raises InvalidRequest or
        UnsupportedParameter if something can't be enforced, and QueueFull.
        """
        if answer.format is None and not answer.use.callable:
            return Compiled()
        compiled = await self._compiling.run(self._compile_soon, answer, prompt)
        if compiled is None:
            compiled = await self._trying.run(self._compile, answer, prompt)
        return compiled

    def _compile_soon(self, answer: Answer, prompt: ChatPrompt | None) -> Compiled | None:
        """None if it may take long."""
        if answer.format and answer.format.kind != "json":
            return None
        try:
            source = self._source(answer, prompt)
            if not source.is_plain and not self._compiler.knows(source.text):
                return None
            return self._compiled(source, answer)
        except InvalidRequest:
            if answer.use.callable:
                return None  # the tools may need leniency
            raise

    def _compile(self, answer: Answer, prompt: ChatPrompt | None) -> Compiled:
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
            return self._compiled(self._source(answer, prompt), answer)
        except InvalidRequest:
            members = prompt.voice.calls.members if prompt else None
            relaxing = Relaxing(self._problem, members, self._vocabulary.grammar_tokens)
            lenient = [tool for tool in answer.use.callable if not tool.is_strict]
            waivers = {tool.name: relaxing.waiver(tool) for tool in lenient}
            source = self._source(answer, prompt, waivers)
            if all(waivers[tool.name] == usual_waiver(tool) for tool in lenient):
                for path, problem in relaxing.faults(source.hard).items():
                    raise UnsupportedParameter(problem, path) from None
                raise  # no tool is at fault
        return self._compiled(source, answer)

    def _problem(self, source: GrammarSource) -> str | None:
        return self._compiler.problem(source.text, is_plain=source.is_plain)

    def _source(
        self,
        answer: Answer,
        prompt: ChatPrompt | None,
        waivers: Mapping[str, Waiver] = {},
    ) -> GrammarSource:
        source = grammar_of(
            answer,
            prompt.voice if prompt else None,
            self._vocabulary.grammar_tokens,
            is_thinking=prompt is not None and prompt.is_thinking,
            is_continued=prompt is not None and prompt.is_continued,
            waivers=waivers,
        )
        assert source is not None
        return source

    def _compiled(self, source: GrammarSource, answer: Answer) -> Compiled:
        param = answer.format.param if answer.format else "tools"
        grammar = self._compiler.compile(
            source.text, param, is_plain=source.is_plain, free_json=source.free_json
        )
        return Compiled(grammar, source.left_out)
