"""Messages → prompt text, using the model's own Jinja template.

Gives the template the conversation in the first form that fits, and keeps control tokens typed by
users apart. `rendering.py` renders it.
"""

import datetime
from collections.abc import Collection, Mapping, Sequence

import msgspec

from localinfra.chat.control_tokens import Brackets, ControlTokens, strings
from localinfra.chat.fitting import Fitting, RenderInput
from localinfra.chat.formats.generic import instruction
from localinfra.chat.forms import Form
from localinfra.chat.messages import Json, Message, checked
from localinfra.chat.rendering import (
    REMEDY,
    RenderedPrompt,
    Rendering,
    TemplateFailed,
    reason_of,
)
from localinfra.chat.sandbox.environment import SANDBOX, compiled
from localinfra.chat.sandbox.meter import Deadline, LimitExceeded, Meter
from localinfra.chat.thoughts import USUAL, taken_out
from localinfra.chat.variables import server_values
from localinfra.chat.voice import voice_of
from localinfra.errors import InvalidRequest

RESERVED = frozenset(SANDBOX.globals) | {
    *("messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "strftime_now")
}
LARGE_CHARACTERS = 200_000  # 50,000 tokens or more; no template needs 2 s for fewer


class TemplateError(Exception):
    """The source can't be used as a template. The message says why."""


class ChatTemplate:
    """A compiled template. Thread-safe.

    `variables`: the names that its source reads, including those set by the server.
    """

    def __init__(
        self, source: str, *, bos_token: str, eos_token: str, special_tokens: Collection[str]
    ):
        """`special_tokens`: spellings that only the template may write. Raises TemplateError."""
        try:
            self._compiled = compiled(source)
        except (Exception, LimitExceeded) as error:
            raise TemplateError(f"the chat template can't be used: {reason_of(error)}") from error
        self.source = source
        self.variables = self._compiled.variables
        self.voice = voice_of(source, self._compiled, bos_token, eos_token)
        self._tokens = ControlTokens(special_tokens)
        self._bos_token = bos_token
        self._eos_token = eos_token
        self._fitting = Fitting(self._compiled, self._tokens, source, self.voice)

    @property
    def shows_texts(self) -> bool:
        """Whether the template copies texts verbatim into the prompt."""
        return self._fitting.shows_texts

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Json]] | None = None,
        add_generation_prompt: bool = True,
        extra: Mapping[str, object] | None = None,
        now: datetime.datetime | None = None,
        deadline: Deadline | None = None,
    ) -> RenderedPrompt:
        """The prompt for the next message, or for the rest of a final assistant message; without
        `add_generation_prompt`, the conversation alone with every message complete.

        `extra`: more variables for the template, JSON values. `now`: the time for `strftime_now`.
        Takes about 3 ms for an ordinary conversation and never much longer than `deadline`. Raises
        InvalidRequest if the messages or `extra` can't be rendered.
        """
        _refuse_reserved(extra or {})
        conversation = taken_out(checked(messages), self.voice.reasoning)
        has_thoughts = any(message.reasoning_content for message in conversation)
        # Before the clock starts: they probe the template once.
        thoughts = self._fitting.thoughts if has_thoughts else USUAL
        no_tools = self._fitting.no_tools
        deadline = deadline or Deadline()
        is_continued = add_generation_prompt and ends_in_answer(messages)
        variables: dict[str, Json] = msgspec.to_builtins({"tools": None, **(extra or {})})
        told = ""  # about tools that the template can't describe itself
        if self.voice.takes_tools:
            definitions = msgspec.to_builtins([dict(tool) for tool in tools or ()])
            variables["tools"] = self._fitting.readable(definitions)
        else:
            told = instruction(tools or (), self.voice.calls)
        variables["tools"] = variables["tools"] or no_tools
        asked = RenderInput(
            conversation,
            told,
            variables,
            given=server_values(
                bos_token=self._bos_token,
                eos_token=self._eos_token,
                add_generation_prompt=add_generation_prompt and not is_continued,
                now=now or datetime.datetime.now(),
            ),
            is_continued=is_continued,
            deadline=deadline,
            thoughts=thoughts,
        )
        failures: list[InvalidRequest] = []
        try:
            for form in self._fitting.forms(asked, failures):
                try:
                    return self._rendered(asked, form)
                except TemplateFailed as error:
                    failures.append(error)
        except LimitExceeded as error:
            failures.append(stopped(error, size_to_render(conversation, [variables, told])))
        raise failures[0]  # of the form closest to the original

    def _rendered(self, asked: RenderInput, form: Form) -> RenderedPrompt:
        """Raises TemplateFailed, InvalidRequest, and LimitExceeded if it was stopped."""
        conversation = form.messages(asked.messages, asked.instruction)
        asked.deadline.check()
        texts = [self.source, *strings(asked.variables), *strings([*conversation])]
        # Arguments may be rendered as text, which can hold more than the object: duplicate keys.
        calls = [call for message in asked.messages for call in message.tool_calls or ()]
        texts += [call.function.arguments for call in calls]
        has_control_tokens = self._tokens.occur_in(texts[1:])
        asked.deadline.check()
        needs_brackets = asked.is_continued or has_control_tokens
        rendering = Rendering(
            compiled=self._compiled,
            tokens=self._tokens,
            given=asked.given,
            variables=asked.variables,
            is_continued=asked.is_continued,
            has_control_tokens=has_control_tokens,
            brackets=Brackets.absent_from(texts) if needs_brackets else Brackets("", "", ""),
            meter=Meter([asked.variables, conversation], asked.deadline),
            thoughts=asked.thoughts,
            has_parts=self._fitting.has_parts,
        )
        return rendering.prompt(conversation)


def size_to_render(messages: Sequence[Message], more: object) -> int:
    """Characters of texts and calls, and of `more` as JSON."""
    calls = [call for message in messages for call in message.tool_calls or ()]
    size = sum(len(str(message.content or "")) for message in messages)
    size += sum(len(call.function.arguments) for call in calls)
    return size + len(msgspec.json.encode(more))


def stopped(error: LimitExceeded, num_characters: int) -> InvalidRequest:
    """Ordinary conversations take milliseconds: either this one is large or the template loops."""
    reason = f"The model's chat template was stopped: {error}"
    if num_characters > LARGE_CHARACTERS:
        reason += f", for {num_characters} characters of messages, calls and tools. Send fewer."
    else:
        reason += f". {REMEDY}"
    return InvalidRequest(reason, "messages")


def ends_in_answer(messages: Sequence[Message]) -> bool:
    """Whether the last message is an assistant's text, which the next answer continues."""
    if not messages:
        return False
    return messages[-1].role == "assistant" and not messages[-1].tool_calls


def check_kwargs(kwargs: Mapping[str, object]) -> None:
    """Checks a request's `chat_template_kwargs`. Raises InvalidRequest for the server's names."""
    _refuse_reserved(kwargs)


def _refuse_reserved(names: Collection[str]) -> None:
    if taken := sorted(RESERVED.intersection(names)):
        raise InvalidRequest(
            f"{', '.join(taken)} can't be set: the server sets it.",
            "chat_template_kwargs",
        )
