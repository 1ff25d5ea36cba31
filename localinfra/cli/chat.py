"""`localinfra chat`: a conversation in the terminal with a running server, or one started for it.

Knows the API, not the engine: sends chat completions and prints the streamed answers.
"""

import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click
import msgspec

from localinfra.cli.cards import NO_TEXT_MODEL, Card, find_model, refuse_other_kinds, text_models
from localinfra.cli.client import Client
from localinfra.cli.completion import complete_models
from localinfra.cli.connect import connect
from localinfra.cli.progress import WaitingLine
from localinfra.cli.terminal import Prompt, is_typed, silent
from localinfra.errors import ApiError
from localinfra.models.catalog import Catalog
from localinfra.models.sources import locate

HELP = """\
/system TEXT  set the system message (without TEXT: show it)
/model NAME   switch to another model (without NAME: list them)
/retry        answer the last message again
/clear        forget the conversation, keep the system message
/quit         leave (or Ctrl-D); Ctrl-C stops an answer
A paste is one message. End a line with \\ to continue on the next."""

F = TypeVar("F", bound=Callable[..., Any])

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline


class HistoryMessage(msgspec.Struct, frozen=True):
    role: str
    content: str


class ReceivedDelta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class ReceivedChoice(msgspec.Struct):
    delta: ReceivedDelta
    finish_reason: str | None = None


class PromptDetails(msgspec.Struct):
    cached_tokens: int = 0


class ReceivedUsage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptDetails | None = None


class ReceivedChunk(msgspec.Struct):
    choices: list[ReceivedChoice] = []
    usage: ReceivedUsage | None = None


@dataclass
class AnswerTiming:
    """When an answer was requested and when its first text came: separates prefill from decode."""

    started: float = field(default_factory=time.monotonic)
    first: float | None = None

    def summary(self, usage: ReceivedUsage | None, finish_reason: str | None) -> str:
        if usage is None or self.first is None:
            return ""
        writing_s = time.monotonic() - self.first
        num_after_first = usage.completion_tokens - 1
        speed = f" · {num_after_first / writing_s:.1f} tokens/s" if num_after_first > 0 else ""
        details = usage.prompt_tokens_details
        cached = f" ({details.cached_tokens} cached)" if details and details.cached_tokens else ""
        cut = " · cut off at the token limit" if finish_reason == "length" else ""
        return (
            f"{usage.completion_tokens} tokens{speed} · first after "
            f"{self.first - self.started:.2f} s · {usage.prompt_tokens} read{cached}{cut}"
        )


@dataclass
class Conversation:
    """The messages so far, and the settings of the next request."""

    client: Client
    card: Card
    interactive: bool
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    messages: list[HistoryMessage] = field(default_factory=list)

    def body(self) -> dict[str, object]:
        head = [HistoryMessage("system", self.system)] if self.system else []
        body = {"model": self.card.id, "messages": [*head, *self.messages], "stream": True}
        given = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        given = {name: value for name, value in given.items() if value is not None}
        return body | self.card.recommended | given

    def say(self, text: str) -> bool:
        """Sends a message and prints the answer; returns False if Ctrl-C stopped it.

        Raises ApiError if the request fails. A message without any answer text counts as not sent.
        """
        self.messages.append(HistoryMessage("user", text))
        parts: list[str] = []
        finished, summary = True, ""
        try:
            summary = self.print_answer(parts)
        except KeyboardInterrupt:
            finished, summary = False, "stopped"
        finally:
            if parts:
                self.messages.append(HistoryMessage("assistant", "".join(parts)))
            else:
                self.messages.pop()
        click.echo()
        if self.interactive and summary:
            click.secho(summary, dim=True)
        return finished

    def retry(self) -> bool:
        """Drops the last answer and sends its message again."""
        if not self.messages:
            raise ApiError("there is no message to answer again")
        before = self.messages
        *self.messages, question, _ = before
        try:
            return self.say(question.content)
        except ApiError:
            self.messages = before
            raise

    def print_answer(self, parts: list[str]) -> str:
        """Prints an answer as it arrives, collects its text in `parts`, returns its summary."""
        timing = AnswerTiming()
        usage, finish_reason = None, None
        stream = self.client.stream("/v1/chat/completions", self.body(), ReceivedChunk)
        with WaitingLine(self.card.id) as waiting, closing(stream) as chunks:
            for chunk in chunks:
                if any(one.delta.content or one.delta.reasoning_content for one in chunk.choices):
                    waiting.end()
                usage = chunk.usage or usage
                for choice in chunk.choices:
                    finish_reason = choice.finish_reason or finish_reason
                    self.print_delta(choice.delta, parts, timing)
        return timing.summary(usage, finish_reason)

    def print_delta(self, delta: ReceivedDelta, parts: list[str], timing: AnswerTiming) -> None:
        if delta.content or delta.reasoning_content:
            timing.first = timing.first or time.monotonic()
        if delta.reasoning_content and self.interactive:
            click.secho(printable(delta.reasoning_content), dim=True, nl=False)
        if delta.content:
            parts.append(delta.content)
            is_shown = self.interactive or (sys.stdout is not None and sys.stdout.isatty())
            text = printable(delta.content) if is_shown else delta.content
            click.echo(text, nl=False)  # echo flushes


def printable(text: str) -> str:
    """Drops control characters: a model must not steer the terminal."""
    return CONTROL.sub("", text)


def options(command: F) -> F:
    """The options of a chat."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


OPTIONS = (
    click.option("--system", help="A system message."),
    click.option(
        "--temperature",
        type=click.FloatRange(0, 2),
        help="Default: as the model's authors recommend.",
    ),
    click.option("--max-tokens", type=click.IntRange(1), help="Limit of an answer's length."),
    click.option("--url", envvar="LOCALINFRA_URL", help="The server to use."),
    click.option("--key", envvar="LOCALINFRA_API_KEY", help="Its API key."),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="Use the server of this models.toml, started if needed.",
    ),
)


@click.command("chat")
@click.argument("model", required=False, shell_complete=complete_models)
@click.argument("prompt", required=False)
@options
def chat(
    model: str | None,
    prompt: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    url: str | None,
    key: str | None,
    config: Path | None,
) -> None:
    """Talk with MODEL, by default the first one that is ready.

    With PROMPT, or text on standard input, or both, it answers once and exits:

    \b
      localinfra chat smollm2 "Name three rivers."
      cat notes.txt | localinfra chat smollm2 "Sum this up:"

    Uses the server at --url, or the one that models.toml describes. If none is running there, it
    starts one and stops it after the chat.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # characters that the terminal can't encode
    question = read_question(prompt)
    with ExitStack() as stack:
        if question is None:
            # A script's background job starts with SIGINT ignored; at a terminal Ctrl-C must work.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        with silent():
            client = connect(stack, url, key, config, lambda catalog: check(catalog, model), model)
            card = find_model(client, model) if model else text_models(client)[0]
        conversation = Conversation(client, card, question is None, system, temperature, max_tokens)
        if question is None:
            click.secho(f"{card.id} at {client.url}; /help lists the commands", dim=True)
            converse(conversation)
        elif not question:
            raise ApiError(
                "There is no prompt: write one after the model's name, or pipe text to standard "
                "input."
            )
        else:
            with silent():
                finished = conversation.say(question)
            if not finished:
                raise click.exceptions.Exit(130)


def read_question(prompt: str | None) -> str | None:
    """The one prompt to answer; None for a conversation at the terminal."""
    if prompt is None and is_typed():
        return None
    text = "" if is_typed() or sys.stdin is None else read_all(sys.stdin)
    return "\n\n".join(part for part in (prompt, text) if part and part.strip())


def read_all(stream: TextIO) -> str:
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(encoding="utf-8-sig", errors="replace")  # tolerates stray bytes
    return stream.read().rstrip("\n")


def check(catalog: Catalog, name: str | None) -> None:
    """Raises ApiError if the chat could not start; called before a server is started for it."""
    if name is not None:
        found, entry = catalog.resolve(name)
        refuse_other_kinds(found, entry.kind)
        locate(found, entry.source)
    elif not any(
        entry.kind == "text" and entry.source.find() for entry in catalog.entries.values()
    ):
        raise ApiError(NO_TEXT_MODEL)


# --- The conversation ---------------------------------------------------------------------------


def converse(conversation: Conversation) -> None:
    """Reads messages and commands until /quit, Ctrl-D, or Ctrl-C twice in a row."""
    prompt = Prompt(Path(click.get_app_dir("localinfra")) / "chat_history")
    interrupted = False
    while True:
        try:
            text = prompt.read()
            interrupted = False
            with silent():
                if text.startswith("/") and "\n" not in text:
                    interrupted = not obey(conversation, text)
                elif text.strip():
                    interrupted = not conversation.say(text)
        except EOFError:
            return
        except KeyboardInterrupt:
            click.echo()
            if interrupted:
                return
            interrupted = True
            click.secho("press Ctrl-C again, or Ctrl-D, to leave", dim=True)
        except ApiError as error:
            click.secho(f"error: {error.message}", fg="red", err=True)


def obey(conversation: Conversation, line: str) -> bool:
    """Runs a command. Returns False if Ctrl-C stopped it, raises EOFError for /quit."""
    command, _, argument = line.strip().partition(" ")
    match command, argument.strip():
        case "/help", _:
            click.echo(HELP)
        case "/clear", _:
            conversation.messages.clear()
            click.secho("forgotten", dim=True)
        case "/system", "":
            click.echo(conversation.system or "there is no system message")
        case "/system", text:
            conversation.system = text
        case "/model", "":
            for card in text_models(conversation.client):
                state = "" if card.is_ready else f" ({card.state})"
                click.echo(f"{'*' if card.id == conversation.card.id else ' '} {card.id}{state}")
        case "/model", name:
            conversation.card = find_model(conversation.client, name)
            click.secho(f"now with {conversation.card.id}", dim=True)
        case "/retry", _:
            return conversation.retry()
        case "/quit" | "/exit", _:
            raise EOFError
        case _:
            raise ApiError(
                f"{command} is not a command: /help lists them. To send a message that starts "
                "with a slash, put a space before it."
            )
    return True
