"""Renders a request through a compiled template, with brackets around control tokens users typed.

Finds the end of an answer to be continued. `sandbox/` runs the template; `template.py` chooses its
inputs.
"""

import jinja2
import msgspec

from localinfra.chat.control_tokens import Brackets, ControlTokens, Segment, mapped
from localinfra.chat.messages import Json, Plain
from localinfra.chat.sandbox.environment import SANDBOX, CompiledTemplate, Refusal
from localinfra.chat.sandbox.meter import LimitExceeded, Meter
from localinfra.chat.thoughts import USUAL, Thoughts
from localinfra.chat.variables import with_functions
from localinfra.errors import InvalidRequest
from localinfra.long_text import join

MAX_REASON_CHARS = 500
REMEDY = "If the messages are right, set another chat_template in models.toml."


class RenderedPrompt(msgspec.Struct, frozen=True):
    """Tokenize each segment by itself, with control tokens only where `is_template`."""

    segments: tuple[Segment, ...]
    is_continued: bool = False  # ends inside an assistant message

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)


class TemplateFailed(InvalidRequest):
    """The template failed, or refused the messages."""


class Rendering(msgspec.Struct, frozen=True):
    """The rendering of one request, which may take several runs of the template."""

    compiled: CompiledTemplate
    tokens: ControlTokens
    given: dict[str, object]  # from the server
    variables: dict[str, Json]  # from the client, besides messages
    is_continued: bool
    has_control_tokens: bool  # in messages or variables
    brackets: Brackets
    meter: Meter  # one budget for all runs
    thoughts: Thoughts = USUAL
    has_parts: bool = False  # the template reads texts as lists of parts

    def prompt(self, messages: list[Plain]) -> RenderedPrompt:
        plain = self._text(messages, self.variables)
        if not self.has_control_tokens:
            return RenderedPrompt((Segment(plain, True),) if plain else (), self.is_continued)
        marked = self._text(
            [{key: self._wrap(value) for key, value in message.items()} for message in messages],
            {name: self._wrap(value) for name, value in self.variables.items()},
        )
        return RenderedPrompt(self.tokens.segments(marked, plain, self.brackets), self.is_continued)

    def _wrap(self, value: Json) -> Json:
        return mapped(value, lambda text: self.tokens.wrap(text, self.brackets))

    def _text(self, messages: list[Plain], variables: dict[str, Json]) -> str:
        if not self.is_continued:
            return self.run(messages, variables)
        *earlier, last = messages
        content = str(last["content"])
        stripped = content.rstrip()
        space = content[len(stripped) :]

        def split_at_end(space: str) -> tuple[str, str]:
            ended: Plain = {**last, "content": join([stripped, self.brackets.end, space])}
            before, mark, after = self.run([*earlier, ended], variables).rpartition(
                self.brackets.end
            )
            if not mark:
                raise InvalidRequest(
                    "The model's chat template leaves out the last assistant message, so it "
                    "can't be continued; send a user message last.",
                    "messages",
                )
            return before.replace(self.brackets.end, ""), after

        before, after = split_at_end("")
        if not space:
            return before
        # The text added after the end mark is the space that the template keeps.
        kept = split_at_end(space)[1].removesuffix(after)
        return before + kept if space.startswith(kept) else before

    def run(self, messages: list[Plain], variables: dict[str, Json]) -> str:
        """Runs the template once. Raises TemplateFailed, and LimitExceeded if it was stopped."""
        try:
            read = with_functions(variables, self.compiled.variables)
            placed = [self.thoughts.placed(message) for message in messages]
            if self.has_parts:
                placed = [in_parts(message) for message in placed]
            values = {**self.given, **read, "messages": placed}
            return SANDBOX.run(self.compiled.template, values, self.meter, "".join(self.brackets))
        except Refusal as error:
            raise TemplateFailed(
                f"The model's chat template refuses these messages: {reason_of(error)}", "messages"
            ) from error
        except Exception as error:
            raise TemplateFailed(
                f"The model's chat template could not render these messages: {reason_of(error)}. "
                f"{REMEDY}",
                "messages",
            ) from error


def in_parts(message: Plain) -> Plain:
    """The message with its text as a list of one part."""
    if isinstance(content := message["content"], list):
        return message
    return {**message, "content": [{"type": "text", "text": content or ""}]}


def reason_of(error: BaseException) -> str:
    known = isinstance(error, Refusal | LimitExceeded | jinja2.TemplateError)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    return text[:MAX_REASON_CHARS]
