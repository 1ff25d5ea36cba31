"""Messages → prompt text, by the model's own Jinja template.

Owns how a conversation is put to a template: roles, system messages that stand elsewhere than
first, an answer to be continued, control tokens typed by users. `sandbox.py` runs the template.
"""

import datetime
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import jinja2
import msgspec
from jinja2 import Template, meta

from localinfra.chat.dialects import voice_of
from localinfra.chat.marks import ControlTokens, Marks, Segment, mapped, strings
from localinfra.chat.messages import Json, Message, Plain, normalize
from localinfra.chat.meter import LimitExceeded, Meter
from localinfra.chat.sandbox import SANDBOX, Refusal
from localinfra.chat.tools import as_plain_messages
from localinfra.errors import InvalidRequest

RESERVED = frozenset(SANDBOX.globals) | {
    *("messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "strftime_now")
}
MAX_REASON_CHARS = 500
MAX_DATE_FORMAT_CHARS = 100  # strftime makes up to 256 characters of each
REMEDY = "If they are right, chat_template in models.toml can replace the template."


class TemplateError(Exception):
    """The source is no template that could be run. Says why, for the log and models.toml."""


class RenderedPrompt(msgspec.Struct, frozen=True):
    """Tokenize each segment by itself, with control tokens only where `is_template`."""

    segments: tuple[Segment, ...]
    is_continued: bool = False  # it ends inside a message of the assistant

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)


class ChatTemplate:
    """A compiled template. Renderings on several threads don't disturb each other.

    `variables` are the names that its source reads, those of the server among them.
    """

    def __init__(
        self, source: str, *, bos_token: str, eos_token: str, special_tokens: Collection[str]
    ):
        """Raises TemplateError. `special_tokens` are the spellings that only it may write."""
        try:
            self._compiled = SANDBOX.compile_bounded(source)
        except (Exception, LimitExceeded) as error:
            raise TemplateError(f"the chat template can't be used: {_reason(error)}") from error
        self.source = source
        self.variables = frozenset(meta.find_undeclared_variables(SANDBOX.parse(source)))
        self.voice = voice_of(source)
        self._tokens = ControlTokens(special_tokens)
        self._bos_token = bos_token
        self._eos_token = eos_token

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Json]] | None = None,
        add_generation_prompt: bool = True,
        extra: Mapping[str, object] | None = None,
        now: datetime.datetime | None = None,
    ) -> RenderedPrompt:
        """The prompt that asks for the next message, or for the rest of a last assistant message;
        without `add_generation_prompt` the conversation alone, every message of it complete.

        `extra` are more variables for the template, JSON values; `now` is what `strftime_now`
        tells. Raises InvalidRequest where the messages or extra can't be rendered. Takes about
        2 ms for an ordinary conversation and never much more than `meter.DEADLINE_S`.
        """
        _refuse_reserved(extra or {})
        is_continued = add_generation_prompt and ends_in_answer(messages)
        if self.voice.takes_tools:
            variants = self._variants(messages)
        else:
            normalize(messages)  # for what it refuses, which plain messages would hide
            plain = [
                as_plain_messages(messages, tools or (), in_system=in_system)
                for in_system in (True, False)
            ]
            variants = itertools.chain.from_iterable(map(self._variants, plain))
            tools = None
        conversation = next(variants)
        variables: dict[str, Json] = msgspec.to_builtins(
            {"tools": [dict(tool) for tool in tools or ()] or None, **(extra or {})}
        )
        texts = [self.source, *strings(variables), *strings([*conversation])]
        # Arguments may be rendered as text, which can hold what the object doesn't: a key twice.
        calls = [call for message in messages for call in message.tool_calls or ()]
        texts += [call.function.arguments for call in calls]
        has_control_tokens = self._tokens.occur_in(texts[1:])
        needs_marks = is_continued or has_control_tokens
        rendering = _Rendering(
            template=self._compiled,
            tokens=self._tokens,
            given={
                "bos_token": self._bos_token,
                "eos_token": self._eos_token,
                "add_generation_prompt": add_generation_prompt and not is_continued,
                "strftime_now": _clock(now),
            },
            variables=variables,
            is_continued=is_continued,
            has_control_tokens=has_control_tokens,
            marks=Marks.absent_from(texts) if needs_marks else Marks("", "", ""),
            meter=Meter([variables, conversation]),
        )
        failure = None
        for variant in itertools.chain([conversation], variants):
            try:
                return rendering.prompt(variant)
            except _TemplateFailed as error:
                failure = error  # the last one is what no other form answers: the client's to fix
        assert failure is not None
        raise failure

    def _variants(self, messages: Sequence[Message]) -> Iterator[list[Plain]]:
        """The conversation as given, then in the other forms that templates of some models need.

        Some write arguments of tool calls as they are and need the text (DeepSeek R1), some
        search the content that stands beside tool calls (Qwen 3, gpt-oss), many take a system
        message first or not at all.
        """
        knows_developer = "developer" in self.source
        seen: list[list[Plain]] = []
        for is_system_first, is_content_text, parse_arguments in itertools.product(
            (False, True), (False, True), (True, False)
        ):
            variant = normalize(messages, parse_arguments=parse_arguments)
            if not knows_developer:
                variant = _developer_as_system(variant)
            if is_content_text:
                variant = _content_as_text(variant)
            if is_system_first:
                variant = _system_first(variant)
            if variant not in seen:
                seen.append(variant)
                yield variant


class _TemplateFailed(InvalidRequest):
    """The template ran into an error of its own, or raised one."""


class _Rendering(msgspec.Struct, frozen=True):
    """A request on its way through the template, which may take several runs."""

    template: Template
    tokens: ControlTokens
    given: dict[str, object]  # what the server says
    variables: dict[str, Json]  # what the client says, besides messages
    is_continued: bool
    has_control_tokens: bool  # in messages or variables
    marks: Marks
    meter: Meter  # one allowance for all runs

    def prompt(self, messages: list[Plain]) -> RenderedPrompt:
        plain = self._text(messages, self.variables)
        if not self.has_control_tokens:
            return RenderedPrompt((Segment(plain, True),) if plain else (), self.is_continued)
        marked = self._text(
            [{key: self._wrap(value) for key, value in message.items()} for message in messages],
            {name: self._wrap(value) for name, value in self.variables.items()},
        )
        return RenderedPrompt(self.tokens.segments(marked, plain, self.marks), self.is_continued)

    def _wrap(self, value: Json) -> Json:
        return mapped(value, lambda text: self.tokens.wrap(text, self.marks))

    def _text(self, messages: list[Plain], variables: dict[str, Json]) -> str:
        if not self.is_continued:
            return self._run(messages, variables)
        *earlier, last = messages
        content = str(last["content"])
        stripped = content.rstrip()
        space = content[len(stripped) :]

        def split_at_end(space: str) -> tuple[str, str]:
            ended: Plain = {**last, "content": stripped + self.marks.end + space}
            before, mark, after = self._run([*earlier, ended], variables).rpartition(self.marks.end)
            if not mark:
                raise InvalidRequest(
                    "The model's chat template leaves out the last assistant message, so it "
                    "can't be continued; send a user message last.",
                    "messages",
                )
            return before.replace(self.marks.end, ""), after

        before, after = split_at_end("")
        if not space:
            return before
        # What more follows the end now is the space that the template keeps.
        kept = split_at_end(space)[1].removesuffix(after)
        return before + kept if space.startswith(kept) else before

    def _run(self, messages: list[Plain], variables: dict[str, Json]) -> str:
        values = {**self.given, **variables, "messages": messages}
        try:
            return SANDBOX.run(self.template, values, self.meter, "".join(self.marks))
        except LimitExceeded as error:
            raise InvalidRequest(
                f"The model's chat template was stopped: {error}. {REMEDY}", "messages"
            ) from error
        except Refusal as error:
            raise _TemplateFailed(
                f"The model's chat template refuses these messages: {_reason(error)}", "messages"
            ) from error
        except Exception as error:
            raise _TemplateFailed(
                f"The model's chat template could not render these messages: {_reason(error)}. "
                f"{REMEDY}",
                "messages",
            ) from error


def ends_in_answer(messages: Sequence[Message]) -> bool:
    """Whether the last message is an assistant's text, which the next answer continues."""
    return messages[-1].role == "assistant" and not messages[-1].tool_calls


def check_kwargs(kwargs: Mapping[str, object]) -> None:
    """For `chat_template_kwargs` of a request. Raises InvalidRequest for what the server sets."""
    _refuse_reserved(kwargs)


def _refuse_reserved(names: Collection[str]) -> None:
    if taken := sorted(RESERVED.intersection(names)):
        raise InvalidRequest(
            f"{', '.join(taken)} can't be set: the server gives it to the template.",
            "chat_template_kwargs",
        )


def _developer_as_system(messages: list[Plain]) -> list[Plain]:
    return [
        {**message, "role": "system"} if message["role"] == "developer" else message
        for message in messages
    ]


def _system_first(messages: list[Plain]) -> list[Plain]:
    """All system messages as one, joined by blank lines, before the others."""
    system = [message for message in messages if message["role"] in ("system", "developer")]
    if not system:
        return messages
    others = [message for message in messages if message not in system]
    content = "\n\n".join(str(message["content"]) for message in system)
    return [{**system[0], "content": content}, *others]


def _content_as_text(messages: list[Plain]) -> list[Plain]:
    return [{**message, "content": message["content"] or ""} for message in messages]


def _clock(now: datetime.datetime | None) -> Callable[[str], str]:
    def strftime_now(format: str) -> str:
        if len(format) > MAX_DATE_FORMAT_CHARS:
            raise ValueError("the date format is too long")
        return (now or datetime.datetime.now()).strftime(format)

    return strftime_now


def _reason(error: BaseException) -> str:
    known = isinstance(error, Refusal | LimitExceeded | jinja2.TemplateError)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    return text[:MAX_REASON_CHARS]
