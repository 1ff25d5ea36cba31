"""TextModel: a loaded GGUF model as the API sees it. Messages or prompt → deltas of text.

Tokenising and rendering may take long for long prompts, so both run in threads of their own; the
rest is cheap and stays on the event loop, while the engine computes the next step.
"""

import datetime
import functools
from collections.abc import Callable, Mapping, Sequence

import msgspec

from localinfra.chat.answer import Answer, Source, Tool, grammar_of, usual_waiver
from localinfra.chat.formats.families import Voice
from localinfra.chat.messages import Message, size_of, texts_of
from localinfra.chat.relaxing import Relaxing
from localinfra.chat.sandbox.meter import DEADLINE_S, Deadline, LimitExceeded
from localinfra.chat.schema.prepared import Waiver
from localinfra.chat.template import ChatTemplate
from localinfra.engine.deltas import Deltas
from localinfra.engine.engine import Engine, EngineStats
from localinfra.engine.grammar.client import as_lark, as_regex
from localinfra.engine.grammar.constraint import Grammar, GrammarCompiler
from localinfra.engine.output import ChoiceOutput
from localinfra.engine.request import GenerationRequest
from localinfra.engine.stops import Stops
from localinfra.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    UnsupportedParameter,
)
from localinfra.executor import BoundedExecutor, is_abandoned
from localinfra.llama.model import Model
from localinfra.models.entries import Details, TextModelEntry
from localinfra.text.request import TextRequest
from localinfra.watchdog import Pulse

MAX_COMPILING = 2  # grammars at a time
MAX_TRYING = 2  # of those that may take a second, which have threads of their own
MAX_WAITING_GRAMMARS = 64


class Compiled(msgspec.Struct, frozen=True):
    """What makes an answer what was asked for; no grammar where any text will do."""

    grammar: Grammar | None = None
    left_out: Sequence[str] = ()  # paths of what was asked for and is not enforced


# Prompts at a time: they need the interpreter, as the event loop does. Characters of one that
# leaves a thread to the others.
MAX_PROMPTING, MAX_COUNTING, LARGE_PROMPT = 3, 2, 100_000
MAX_WAITING_COUNTS = 128  # texts that are only to be looked at

# CPU time for each token that the context has room for, besides what a template may take. Ten
# times what the slowest text took here (letters without a blank, 2 µs).
SECONDS_PER_TOKEN = 20e-6


class ChatPrompt(msgspec.Struct, frozen=True):
    """A rendered conversation, and how its answer will be written."""

    ids: list[int]
    voice: Voice
    is_thinking: bool  # the template has opened the reasoning already
    is_continued: bool  # the answer is the rest of a message


class TokenizerInfo(msgspec.Struct, frozen=True):
    kind: str  # GGUF's name of it: gpt2, llama, ...
    bos: str  # "" if the model has none, as with the next
    eos: str
    adds_bos: bool  # to a text that has none yet
    chat_template: str | None  # Jinja


class TextModel:
    """Owns the engine and with it the model. Made by `loading.py`, closed by the pool."""

    def __init__(
        self,
        name: str,
        entry: TextModelEntry,
        model: Model,
        engine: Engine,
        template: ChatTemplate | None,
        template_error: str | None = None,
        max_waiting: int = 256,
        *,
        share_prefixes: bool = False,
    ):
        """`max_waiting` requests may wait for their prompt to be made; `share_prefixes`: among all
        clients, not each one's alone."""
        self._shares_prefixes = share_prefixes
        self.name = name
        self.entry = entry
        self._model = model
        self._engine = engine
        self._template = template
        self._template_error = template_error
        self._compiler = GrammarCompiler(model.grammar_tokenizer)
        self._compiling = BoundedExecutor("grammars", MAX_COMPILING, MAX_WAITING_GRAMMARS)
        self._trying = BoundedExecutor("large grammars", MAX_TRYING, MAX_WAITING_GRAMMARS // 4)
        self._prompting = BoundedExecutor("prompts", MAX_PROMPTING, max_waiting, LARGE_PROMPT)
        self._counting = BoundedExecutor(
            "tokenizing", MAX_COUNTING, MAX_WAITING_COUNTS, LARGE_PROMPT
        )

    @property
    def context_length(self) -> int:
        return self._engine.context_length

    @property
    def stats(self) -> EngineStats:
        return self._engine.stats

    @property
    def details(self) -> Details:
        return msgspec.structs.replace(self.entry.details, context_length=self.context_length)

    @property
    def num_waiting(self) -> int:
        return self._engine.num_waiting

    @property
    def is_busy(self) -> bool:
        working = (self._compiling, self._trying, self._prompting, self._counting)
        num_choices = self.num_waiting + self.stats.num_running
        return num_choices > 0 or any(executor.is_busy for executor in working)

    @property
    def fault(self) -> str | None:
        return self._engine.fault

    @property
    def pulse(self) -> Pulse:
        return self._engine.pulse

    def abandon(self, reason: str) -> None:
        """See `Engine.abandon`."""
        self._engine.abandon(reason)

    @property
    def num_vocab(self) -> int:
        return self._model.num_vocab

    def close(self) -> None:
        self._compiling.close()
        self._trying.close()
        self._prompting.close()
        self._counting.close()
        self._compiler.close()  # what it works on ends too
        self._engine.close()

    def token_bytes(self, token: int) -> bytes:
        """What the token adds to a text; for a control token, which adds nothing, its spelling."""
        return self._model.token_bytes(token) or self._model.token_text(token).encode()

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The vocabulary's own spellings, in which a space may be `Ġ` or `▁`. Long ones are for a
        thread, as with the next."""
        return [self._model.token_text(token) for token in ids]

    def text(self, ids: Sequence[int]) -> str:
        """What the tokens spell, control tokens too."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    @property
    def tokenizer(self) -> TokenizerInfo:
        return TokenizerInfo(
            kind=self._model.tokenizer_kind,
            bos=self._model.bos_text,
            eos=self._model.eos_text,
            adds_bos=self._model.adds_bos,
            chat_template=self._template.source if self._template else None,
        )

    def unread(self, paths: Mapping[str, str]) -> list[str]:
        """Of variables for the template, by their names the places where a request sets them: the
        places of which it reads none."""
        variables = self._template.variables if self._template else frozenset()
        read = {path for name, path in paths.items() if name in variables}
        return [path for path in dict.fromkeys(paths.values()) if path not in read]

    def is_special(self, token: int) -> bool:
        """Whether the token adds nothing to a text."""
        return not self._model.token_bytes(token)

    async def chat_prompt(
        self,
        messages: Sequence[Message],
        template_kwargs: Mapping[str, object],
        tools: Sequence[Tool] = (),
        *,
        asks: bool = True,
        is_counted: bool = False,
    ) -> ChatPrompt:
        """Messages and tools → a prompt, by the model's template; unless it `asks` for an answer,
        the conversation alone. With `is_counted` it is only to be looked at, and waits with texts
        that are.

        Control tokens come from the template alone: the same words inside a message stay text.
        Raises InvalidRequest where the template refuses the messages or there is none,
        ContextLengthExceeded for what can't fit, QueueFull.
        """
        if self._template is None:
            raise InvalidRequest(
                f"{self.name} has no usable chat template"
                f"{f' ({self._template_error})' if self._template_error else ''}: set "
                "chat_template for it in models.toml, or use /v1/completions with a prompt in "
                "the model's own format.",
                "model",
            )
        if len(messages) > self.context_length:  # each has a token at least
            raise ContextLengthExceeded(len(messages), self.context_length, is_exact=False)
        executor = self._counting if is_counted else self._prompting
        job = (self._render, self._template, messages, template_kwargs, tools, asks)
        return await executor.run(*job, size=size_of(messages))

    def _render(
        self,
        template: ChatTemplate,
        messages: Sequence[Message],
        kwargs: Mapping[str, object],
        tools: Sequence[Tool],
        asks: bool,
    ) -> ChatPrompt:
        characters = sum(len(text.strip()) for text in texts_of(messages))
        if template.shows_texts:
            self._refuse_endless(characters, "messages")
        deadline = self._deadline(characters)
        definitions = [tool.definition for tool in tools]
        rendered = template.render(
            messages,
            tools=definitions,
            add_generation_prompt=asks,
            extra=kwargs,
            now=datetime.datetime.now(),
            deadline=deadline,
        )
        self._refuse_endless(len(rendered.text), "messages")
        ids: list[int] = []
        for segment in rendered.segments:
            ids += self._ids(
                segment.text, deadline, "messages", segment.is_template, add_bos=not ids
            )
        reasoning = template.voice.reasoning
        is_thinking = reasoning is not None and reasoning.is_open_at_end_of(rendered.text)
        return ChatPrompt(ids, template.voice, is_thinking, rendered.is_continued)

    async def compile(self, answer: Answer, prompt: ChatPrompt | None = None) -> Compiled:
        """The grammar that makes an answer what was asked for.

        Takes half a second the first time, and milliseconds for most others; in a thread. Raises
        InvalidRequest and UnsupportedParameter for what can't be enforced, QueueFull.
        """
        if answer.format is None and not answer.use.callable:
            return Compiled()
        compiled = await self._compiling.run(self._compile_soon, answer, prompt)
        if compiled is None:
            compiled = await self._trying.run(self._compile, answer, prompt)
        return compiled

    def _compile_soon(self, answer: Answer, prompt: ChatPrompt | None) -> Compiled | None:
        """None where that may take long."""
        if answer.format and answer.format.kind != "json":
            return None
        try:
            source = self._source(answer, prompt)
            if not source.is_plain and not self._compiler.knows(source.text):
                return None
            return self._compiled(source, answer)
        except InvalidRequest:
            if answer.use.callable:
                return None  # which may need leniency
            raise

    def _compile(self, answer: Answer, prompt: ChatPrompt | None) -> Compiled:
        if answer.format and answer.format.kind != "json":
            text, param = answer.format.text, answer.format.param
            if answer.format.kind == "lark":
                text = as_lark(text, param, self._model.grammar_tokens)
            else:
                text = as_regex(text, param)
            answer = msgspec.structs.replace(
                answer, format=msgspec.structs.replace(answer.format, text=text)
            )
        try:
            return self._compiled(self._source(answer, prompt), answer)
        except InvalidRequest:
            relaxing = Relaxing(self._problem)
            lenient = [tool for tool in answer.use.callable if not tool.is_strict]
            waivers = {tool.name: relaxing.waiver(tool) for tool in lenient}
            source = self._source(answer, prompt, waivers)
            if all(waivers[tool.name] == usual_waiver(tool) for tool in lenient):
                for path, problem in relaxing.faults(source.hard).items():
                    raise UnsupportedParameter(problem, path) from None
                raise  # none of them is to blame
        return self._compiled(source, answer)

    def _problem(self, source: Source) -> str | None:
        return self._compiler.problem(source.text, is_plain=source.is_plain)

    def _source(
        self,
        answer: Answer,
        prompt: ChatPrompt | None,
        waivers: Mapping[str, Waiver] = {},
    ) -> Source:
        source = grammar_of(
            answer,
            prompt.voice if prompt else None,
            self._model.grammar_tokens,
            is_thinking=prompt is not None and prompt.is_thinking,
            is_continued=prompt is not None and prompt.is_continued,
            waivers=waivers,
        )
        assert source is not None
        return source

    def _compiled(self, source: Source, answer: Answer) -> Compiled:
        param = answer.format.param if answer.format else "tools"
        grammar = self._compiler.compile(
            source.text, param, is_plain=source.is_plain, free_json=source.free_json
        )
        return Compiled(grammar, source.left_out)

    @functools.cached_property
    def marks(self) -> frozenset[int]:
        """The control tokens among the marks of the template's family."""
        marks = self._template.voice.marks if self._template else ""
        tokens = self._model.special_tokens.items()
        return frozenset(token for text, token in tokens if text in marks)

    async def text_prompt(
        self, text: str, suffix: str | None = None, param: str = "prompt"
    ) -> list[int]:
        """A completions prompt → token ids; control tokens in it are read as such.

        With `suffix`, the model fills what is missing between the two. Raises UnsupportedParameter
        where the model has no tokens for that, and ContextLengthExceeded, which names `param`.
        """
        size = len(text) + len(suffix or "")
        return await self._prompting.run(self._tokenize_prompt, text, suffix, param, size=size)

    def _tokenize_prompt(self, text: str, suffix: str | None, param: str) -> list[int]:
        characters = len(text) + len(suffix or "")
        self._refuse_endless(characters, param)
        deadline = self._deadline(characters)
        if suffix is None:
            return self._ids(text, deadline, param)
        if self._model.infill_tokens is None:
            raise UnsupportedParameter(
                f"{self.name} has no fill-in-the-middle tokens; leave suffix out, or use a code "
                "model that was trained for it.",
                "suffix",
            )
        before, after, middle = self._model.infill_tokens
        prefix_ids = self._ids(text, deadline, param, False, add_bos=False)
        suffix_ids = self._ids(suffix, deadline, param, False, add_bos=False)
        bos = self._model.tokenize("", parse_special=False, add_bos=True)
        return [*bos, before, *prefix_ids, after, *suffix_ids, middle]

    async def tokenize(self, text: str, *, add_bos: bool) -> list[int]:
        """The same ids for a text of any length, to be looked at; with `add_bos` as a prompt.
        Raises QueueFull."""

        def work() -> list[int]:
            deadline = self._deadline(len(text), SECONDS_PER_TOKEN * len(text))
            return self._ids(text, deadline, "prompt", add_bos=add_bos)

        return await self._counting.run(work, size=len(text))

    async def spellings(self, ids: Sequence[int]) -> list[str]:
        """`token_texts` for any number of them. Raises QueueFull."""
        return await self._counting.run(self.token_texts, ids, size=len(ids))

    async def detokenize(self, ids: Sequence[int], param: str) -> str:
        """What ids of any number spell. Raises InvalidRequest, QueueFull."""

        def work() -> str:
            self._check_ids(ids, param)
            return self.text(ids)

        return await self._counting.run(work, size=len(ids))

    def token_prompt(self, ids: list[int], param: str) -> list[int]:
        """Checks a prompt that a client sent as ids. Raises InvalidRequest for one beyond the
        vocabulary, and ContextLengthExceeded."""
        if len(ids) > self.context_length:
            raise ContextLengthExceeded(len(ids), self.context_length, param)
        self._check_ids(ids, param)
        return ids

    def _check_ids(self, ids: Sequence[int], param: str) -> None:
        if not ids or (min(ids) >= 0 and max(ids) < self.num_vocab):
            return
        index = next(i for i, token in enumerate(ids) if not 0 <= token < self.num_vocab)
        raise InvalidRequest(
            f"Token id {ids[index]} at position {index} is not in the vocabulary of {self.name}, "
            f"which ends at {self.num_vocab - 1}.",
            param,
        )

    def _ids(
        self,
        text: str,
        deadline: Deadline,
        param: str,
        parse_special: bool = True,
        *,
        add_bos: bool = True,
    ) -> list[int]:
        """Raises ContextLengthExceeded or InvalidRequest where the time is up."""
        ids: list[int] = []
        try:
            for part in self._model.tokens(text, parse_special=parse_special, add_bos=add_bos):
                ids += part
                deadline.check()
        except LimitExceeded as error:
            if len(ids) > self.context_length:
                raise ContextLengthExceeded(
                    len(ids), self.context_length, param, is_exact=False
                ) from None
            raise InvalidRequest(
                f"Splitting the text into tokens was stopped: {error}. Send a shorter one.", param
            ) from None
        return ids

    def _deadline(self, num_characters: int, more_s: float | None = None) -> Deadline:
        self._model.prepare_for(num_characters)  # once, at nobody's expense
        if more_s is None:
            more_s = SECONDS_PER_TOKEN * self.context_length
        return Deadline(DEADLINE_S + more_s, is_abandoned)

    def _refuse_endless(self, num_characters: int, param: str) -> None:
        """Refuses a text that can't fit before spending seconds on tokenising it."""
        at_least = num_characters // self._model.longest_token
        if at_least > self.context_length:
            raise ContextLengthExceeded(at_least, self.context_length, param, is_exact=False)

    def generate(self, request: TextRequest) -> Deltas:
        """Submits the request. Raises ContextLengthExceeded, QueueFull and InvalidRequest.

        Choices are numbered prompt by prompt.
        """
        requests = self._engine_requests(request)
        stops = Stops(request.stops)
        outputs = [
            ChoiceOutput(
                choice,
                self._spelled(request.marks),
                stops,
                score_end=request.score_prompt,
                reader=request.readers[choice] if request.readers else None,
            )
            for choice in range(len(requests) * request.num_choices)
        ]
        return Deltas(self._engine.generate(requests), outputs)

    def _spelled(self, marks: frozenset[int]) -> Callable[[int], bytes]:
        """What tokens add to a text in which these control tokens are spelled out."""
        plain, full = self._model.token_bytes, self.token_bytes
        return (lambda token: full(token) if token in marks else plain(token)) if marks else plain

    def _engine_requests(self, request: TextRequest) -> list[GenerationRequest]:
        for token in request.sampling.logit_bias:
            if not 0 <= token < self.num_vocab:
                raise InvalidRequest(
                    f"Token id {token} is not in the vocabulary of {self.name}, which ends at "
                    f"{self.num_vocab - 1}.",
                    "logit_bias",
                )
        return [
            GenerationRequest(
                prompt=prompt,
                max_tokens=self._max_tokens(request, len(prompt)),
                sampling=request.sampling,
                num_choices=request.num_choices,
                top_logprobs=request.top_logprobs,
                score_prompt=request.score_prompt,
                grammar=request.grammar,
                client=request.client,
                cache_salt="" if self._shares_prefixes else request.client,
            )
            for prompt in request.prompts
        ]

    def _max_tokens(self, request: TextRequest, num_prompt: int) -> int:
        """Tokens to generate: what was asked for, within the entry's cap and the context."""
        if not num_prompt:
            raise InvalidRequest(
                "The prompt is empty and this model has no token that begins a text; send at "
                "least one character.",
                request.prompt_param,
            )
        room = self.context_length - num_prompt
        choices = (request.max_tokens, self.entry.default_max_tokens, request.default_max_tokens)
        wanted = next((limit for limit in choices if limit is not None), max(room, 1))
        if self.entry.max_output_tokens is not None:
            wanted = min(wanted, self.entry.max_output_tokens)
        if room < min(wanted, 1):
            raise ContextLengthExceeded(num_prompt, self.context_length, request.prompt_param)
        return min(wanted, room)
