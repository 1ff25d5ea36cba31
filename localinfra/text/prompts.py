"""Conversations and texts → token ids, using a model's template and vocabulary; and ids → texts.

Rendering and tokenizing long prompts is slow, so both run in bounded threads.
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from localinfra.chat.answer import Tool
from localinfra.chat.formats.form import Voice
from localinfra.chat.messages import Message, size_of, texts_of
from localinfra.chat.sandbox.meter import DEADLINE_S, Deadline, LimitExceeded
from localinfra.chat.template import ChatTemplate
from localinfra.engine.pictures import Placed
from localinfra.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from localinfra.executor import BoundedExecutor, is_abandoned
from localinfra.shares import current_client
from localinfra.text.known_tokens import KnownTokens
from localinfra.text.showing import NOTHING_SHOWN, PromptWithPictures, ShownPictures
from localinfra.text.templates import ModelTemplates
from localinfra.text.vocabulary import Vocabulary, spelled, text_of

# Threads: few, since they hold the GIL, which the event loop needs. Characters: prompts longer than
# this leave one thread free for the others.
MAX_PROMPTING, MAX_COUNTING, LARGE_PROMPT = 3, 2, 100_000
MAX_WAITING_COUNTS = 128  # texts that are only tokenized

# CPU time allowed per token of the context, in addition to the template's. Ten times what the
# slowest text took (letters without a space, 2 µs).
SECONDS_PER_TOKEN = 20e-6


class ChatPrompt(msgspec.Struct, frozen=True):
    """A rendered conversation, and how its answer will be written."""

    ids: list[int]
    voice: Voice
    is_thinking: bool  # the template has already opened the reasoning
    is_continued: bool  # the answer is the rest of a message
    border: int = 0  # tokens before the last message's text
    pictures: tuple[Placed, ...] = ()  # in ids


class ShownText(msgspec.Struct, frozen=True):
    """A text that is a prompt as it is."""

    ids: list[int]
    pictures: tuple[Placed, ...]  # in ids


class TokenizerInfo(msgspec.Struct, frozen=True):
    kind: str  # its name in GGUF files: gpt2, llama, ...
    bos: str  # "" if the model has none, as with eos
    eos: str
    adds_bos: bool  # to a text that has none
    chat_template: str | None  # Jinja


class Prompts:
    """A model's prompts. Event loop only, except to make and `close` them."""

    def __init__(
        self,
        name: str,
        vocabulary: Vocabulary,
        templates: ModelTemplates,
        context_length: int,
        max_waiting: int,
    ):
        """`max_waiting` requests may wait for their prompt to be made."""
        self._name = name
        self._vocabulary = vocabulary
        self._templates = templates
        self._context_length = context_length
        # The control tokens among the marks of the model's answers, found before requests come:
        # a file may have any number of them.
        marks = " ".join(template.voice.marks for template in templates.all)
        tokens = vocabulary.special_tokens.items()
        self.format_tokens = frozenset(token for text, token in tokens if text in marks)
        self._known = KnownTokens(vocabulary, [each.source for each in templates.all])
        self._prompting = BoundedExecutor("prompts", MAX_PROMPTING, max_waiting, LARGE_PROMPT)
        self._counting = BoundedExecutor(
            "tokenizing", MAX_COUNTING, MAX_WAITING_COUNTS, LARGE_PROMPT
        )

    @property
    def is_busy(self) -> bool:
        return self._prompting.is_busy or self._counting.is_busy

    def close(self) -> None:
        self._prompting.close()
        self._counting.close()

    @property
    def tokenizer(self) -> TokenizerInfo:
        default = self._templates.default
        return TokenizerInfo(
            kind=self._vocabulary.tokenizer_kind,
            bos=self._vocabulary.bos_text,
            eos=self._vocabulary.eos_text,
            adds_bos=self._vocabulary.adds_bos,
            chat_template=default.source if default else None,
        )

    def unread(self, paths: Mapping[str, str]) -> list[str]:
        """`paths`: template variable → path in the request that sets it. Returns the paths of which
        no template reads a variable."""
        templates = self._templates.all
        read = {
            path
            for name, path in paths.items()
            if any(name in template.variables for template in templates)
        }
        return [path for path in dict.fromkeys(paths.values()) if path not in read]

    async def chat(
        self,
        messages: Sequence[Message],
        template_kwargs: Mapping[str, object],
        tools: Sequence[Tool] = (),
        *,
        asks: bool = True,
        is_counted: bool = False,
        shown: ShownPictures = NOTHING_SHOWN,
    ) -> ChatPrompt:
        """Messages and tools → a prompt, using the model's template; the conversation alone unless
        it `asks` for an answer. With `is_counted` the prompt is only tokenized, and waits in the
        queue of such texts. `shown`: the pictures whose marks are in the messages.

        Only the template can write control tokens: the same spellings in a message stay text.
        Raises InvalidRequest if there is no template or it refuses the messages,
        ContextLengthExceeded if the prompt can't fit, and QueueFull.
        """
        template = self._templates.with_tools if tools else self._templates.default
        if template is None:
            raise InvalidRequest(
                f"{self._name} has no usable chat template ({self._templates.errors[0]}): set "
                "chat_template for it in models.toml, or use /v1/completions with a prompt in "
                "the model's own format.",
                "model",
            )
        if len(messages) > self._context_length:  # each has at least one token
            raise ContextLengthExceeded(len(messages), self._context_length, is_exact=False)
        executor = self._counting if is_counted else self._prompting
        client = current_client.get()
        job = (self._render, client, template, messages, template_kwargs, tools, asks, shown)
        return await executor.run(*job, size=size_of(messages))

    def _render(
        self,
        client: str,
        template: ChatTemplate,
        messages: Sequence[Message],
        kwargs: Mapping[str, object],
        tools: Sequence[Tool],
        asks: bool,
        shown: ShownPictures,
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
        made = PromptWithPictures(shown)
        for segment in rendered.segments:
            for text in made.texts(segment.text):
                parts = self._known.tokens(
                    client, text, parse_special=segment.is_template, add_bos=not made.ids
                )
                made.ids += self._collected(parts, deadline, "messages")
        made.check_whole(self._name)
        ids = made.ids
        reasoning = template.voice.reasoning
        is_thinking = reasoning is not None and reasoning.is_open_at_end_of(rendered.text)
        # Pictures are read once whatever follows them.
        border = 0 if made.placed else self._border(ids, rendered.text, messages)
        return ChatPrompt(
            ids, template.voice, is_thinking, rendered.is_continued, border, tuple(made.placed)
        )

    def _border(self, ids: Sequence[int], text: str, messages: Sequence[Message]) -> int:
        """How many tokens there are before the last message's text; 0 if it is not found."""
        parts = [part.strip() for part in texts_of(messages[-1:])]
        at = text.rfind(next(filter(None, parts), text))
        if at <= 0:
            return 0
        num_left, border = len(text[at:].encode()), len(ids)
        while border and num_left > 0:
            border -= 1
            num_left -= len(spelled(self._vocabulary, ids[border]))
        return border

    async def text(self, text: str, suffix: str | None = None, param: str = "prompt") -> list[int]:
        """A completions prompt → token ids; control tokens in it are recognized.

        With `suffix`, the model fills in the middle. Raises UnsupportedParameter if the model has
        no tokens for that, and ContextLengthExceeded naming `param`.
        """
        size = len(text) + len(suffix or "")
        return await self._prompting.run(self._tokenize_prompt, text, suffix, param, size=size)

    async def shown_text(self, text: str, shown: ShownPictures, param: str) -> ShownText:
        """The same of a text with marks for pictures."""
        return await self._prompting.run(self._show_text, text, shown, param, size=len(text))

    def _show_text(self, text: str, shown: ShownPictures, param: str) -> ShownText:
        self._refuse_endless(len(text), param)
        deadline, made = self._deadline(len(text)), PromptWithPictures(shown)
        for part in made.texts(text):
            made.ids += self._ids(part, deadline, param, add_bos=not made.ids)
        return ShownText(made.ids, tuple(made.placed))

    def _tokenize_prompt(self, text: str, suffix: str | None, param: str) -> list[int]:
        characters = len(text) + len(suffix or "")
        self._refuse_endless(characters, param)
        deadline = self._deadline(characters)
        if suffix is None:
            return self._ids(text, deadline, param)
        if self._vocabulary.infill_tokens is None:
            raise UnsupportedParameter(
                f"{self._name} has no fill-in-the-middle tokens; leave suffix out, or use a code "
                "model that was trained for it.",
                "suffix",
            )
        before, after, middle = self._vocabulary.infill_tokens
        prefix_ids = self._ids(text, deadline, param, False, add_bos=False)
        suffix_ids = self._ids(suffix, deadline, param, False, add_bos=False)
        bos = self._ids("", deadline, param)
        return [*bos, before, *prefix_ids, after, *suffix_ids, middle]

    async def tokenize(self, text: str, *, add_bos: bool) -> list[int]:
        """A text of any length → token ids, for clients that tokenize; with `add_bos`, as for a
        prompt. Raises QueueFull."""

        def work() -> list[int]:
            deadline = self._deadline(len(text), SECONDS_PER_TOKEN * len(text))
            return self._ids(text, deadline, "prompt", add_bos=add_bos)

        return await self._counting.run(work, size=len(text))

    async def spellings(self, ids: Sequence[int]) -> list[str]:
        """The vocabulary's own spellings, in which a space may be `Ġ` or `▁`. Raises QueueFull."""

        def work() -> list[str]:
            return [self._vocabulary.token_text(token) for token in ids]

        return await self._counting.run(work, size=len(ids))

    async def detokenize(self, ids: Sequence[int], param: str) -> str:
        """Any number of ids → their text. Raises InvalidRequest, QueueFull."""

        def work() -> str:
            self._check_ids(ids, param)
            return text_of(self._vocabulary, ids)

        return await self._counting.run(work, size=len(ids))

    def checked_ids(self, ids: list[int], param: str) -> list[int]:
        """Checks a prompt that a client sent as ids. Raises InvalidRequest for an id that is not in
        the vocabulary, and ContextLengthExceeded."""
        if len(ids) > self._context_length:
            raise ContextLengthExceeded(len(ids), self._context_length, param)
        self._check_ids(ids, param)
        return ids

    def after(self, before: list[int], ids: list[int]) -> list[int]:
        """The tokens of a prompt that goes on from these, without a second BOS. Raises the errors
        of `checked_ids`."""
        vocabulary = self._vocabulary
        bos = vocabulary.special_tokens.get(vocabulary.bos_text)
        has_bos = vocabulary.adds_bos and ids[:1] == [bos]
        return [*self.checked_ids(before, "context"), *(ids[1:] if has_bos else ids)]

    def _check_ids(self, ids: Sequence[int], param: str) -> None:
        num_vocab = self._vocabulary.num_vocab
        if not ids or (min(ids) >= 0 and max(ids) < num_vocab):
            return
        index = next(i for i, token in enumerate(ids) if not 0 <= token < num_vocab)
        raise InvalidRequest(
            f"Token id {ids[index]} at position {index} is not in the vocabulary of {self._name}, "
            f"which ends at {num_vocab - 1}.",
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
        parts = self._vocabulary.tokens(text, parse_special=parse_special, add_bos=add_bos)
        return self._collected(parts, deadline, param)

    def _collected(
        self, parts: Iterable[Iterable[int]], deadline: Deadline, param: str
    ) -> list[int]:
        """Raises ContextLengthExceeded or InvalidRequest if the time is up."""
        ids: list[int] = []
        try:
            for part in parts:
                ids += part
                deadline.check()
        except LimitExceeded as error:
            if len(ids) > self._context_length:
                raise ContextLengthExceeded(
                    len(ids), self._context_length, param, is_exact=False
                ) from None
            raise InvalidRequest(
                f"Tokenizing the text was stopped: {error}. Send a shorter text.", param
            ) from None
        return ids

    def _deadline(self, num_characters: int, more_s: float | None = None) -> Deadline:
        self._vocabulary.prepare_for(num_characters)  # before the clock starts
        if more_s is None:
            more_s = SECONDS_PER_TOKEN * self._context_length
        return Deadline(DEADLINE_S + more_s, is_abandoned)

    def _refuse_endless(self, num_characters: int, param: str) -> None:
        """Refuses a text that can't fit, before spending seconds on tokenizing it."""
        at_least = num_characters // self._vocabulary.longest_token
        if at_least > self._context_length:
            raise ContextLengthExceeded(at_least, self._context_length, param, is_exact=False)
