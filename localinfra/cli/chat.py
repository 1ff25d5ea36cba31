"""`localinfra chat`: a conversation in the terminal with a running server, or one started for it.

Knows the API, not the engine: it sends chat completions and prints what streams back.
"""

import re
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path

import click
import msgspec

from localinfra.cli import child
from localinfra.cli.client import Client, ServerUnreachable
from localinfra.errors import ApiError

HELP = """\
/system TEXT  give the model a system message (without TEXT: show it)
/model NAME   go on with another model (without NAME: list them)
/retry        answer the last message again
/clear        forget the conversation, keep the system message
/quit         leave, as does Ctrl-D; Ctrl-C stops an answer
A line ending in \\ goes on in the next line."""


CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline


class Message(msgspec.Struct, frozen=True):
    role: str
    content: str


class Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class Choice(msgspec.Struct):
    delta: Delta
    finish_reason: str | None = None


class PromptDetails(msgspec.Struct):
    cached_tokens: int = 0


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptDetails | None = None


class Chunk(msgspec.Struct):
    choices: list[Choice] = []
    usage: Usage | None = None


class Card(msgspec.Struct):
    id: str
    kind: str = "text"
    state: str = "present"  # loaded, loading, failed, or that of its files

    @property
    def is_ready(self) -> bool:
        return self.state in ("loaded", "loading", "present")


class Cards(msgspec.Struct):
    data: list[Card]


@dataclass
class Timing:
    """When an answer was asked for and when its first text came, to tell waiting from writing."""

    started: float = field(default_factory=time.monotonic)
    first: float | None = None

    def summary(self, usage: Usage | None, finish_reason: str | None) -> str:
        if usage is None or self.first is None:
            return ""
        writing_s = time.monotonic() - self.first
        num_after_first = usage.completion_tokens - 1
        speed = f" · {num_after_first / writing_s:.1f} tokens/s" if num_after_first > 0 else ""
        details = usage.prompt_tokens_details
        cached = f" ({details.cached_tokens} cached)" if details and details.cached_tokens else ""
        cut = " · cut at the limit of tokens" if finish_reason == "length" else ""
        return (
            f"{usage.completion_tokens} tokens{speed} · first after "
            f"{self.first - self.started:.2f} s · {usage.prompt_tokens} read{cached}{cut}"
        )


@dataclass
class Conversation:
    """What has been said, and how the next answer is asked for."""

    client: Client
    model: str
    interactive: bool
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    messages: list[Message] = field(default_factory=list)

    def body(self) -> dict[str, object]:
        head = [Message("system", self.system)] if self.system else []
        body = {"model": self.model, "messages": [*head, *self.messages], "stream": True}
        limits = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return body | {name: value for name, value in limits.items() if value is not None}

    def say(self, text: str) -> bool:
        """Sends a message and prints the answer; returns False if Ctrl-C stopped it.

        Raises ApiError. A message that got no text in return counts as not sent.
        """
        self.messages.append(Message("user", text))
        parts: list[str] = []
        finished, summary = True, ""
        try:
            summary = self.print_answer(parts)
        except KeyboardInterrupt:
            finished, summary = False, "stopped"
        finally:
            if parts:
                self.messages.append(Message("assistant", "".join(parts)))
            else:
                self.messages.pop()
        click.echo()
        if self.interactive and summary:
            click.secho(summary, dim=True)
        return finished

    def retry(self) -> bool:
        """Asks the last message again, forgetting its answer."""
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
        """Prints an answer while it comes, collects its text in `parts`, returns its summary."""
        timing = Timing()
        usage, finish_reason = None, None
        with closing(self.client.stream("/v1/chat/completions", self.body(), Chunk)) as chunks:
            for chunk in chunks:
                usage = chunk.usage or usage
                for choice in chunk.choices:
                    finish_reason = choice.finish_reason or finish_reason
                    self.print_delta(choice.delta, parts, timing)
        return timing.summary(usage, finish_reason)

    def print_delta(self, delta: Delta, parts: list[str], timing: Timing) -> None:
        if delta.content or delta.reasoning_content:
            timing.first = timing.first or time.monotonic()
        if delta.reasoning_content and self.interactive:
            click.secho(printable(delta.reasoning_content), dim=True, nl=False)
        if delta.content:
            parts.append(delta.content)
            text = printable(delta.content) if self.interactive else delta.content
            click.echo(text, nl=False)  # which flushes


def printable(text: str) -> str:
    """Drops control characters: a model must not steer the terminal."""
    return CONTROL.sub("", text)


@click.command("chat")
@click.argument("model", required=False)
@click.option("--system", help="A system message.")
@click.option("--temperature", type=click.FloatRange(0, 2))
@click.option("--max-tokens", type=click.IntRange(1), help="The longest answer.")
@click.option("--url", envvar="LOCALINFRA_URL", help="The server to talk with.")
@click.option("--key", envvar="LOCALINFRA_API_KEY", help="Its API key.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="Start a server with this models.toml."
)
def chat(
    model: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    url: str | None,
    key: str | None,
    config: Path | None,
) -> None:
    """Talk with MODEL, by default the first one served whose files are here.

    Uses the server at --url, or starts one for as long as the chat lasts. In a pipe, every line is
    a message and only the answers are printed.
    """
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a stray byte is no reason to stop
    with ExitStack() as stack:
        client = connect(stack, url, key, config)
        name = model or text_models(client)[0].id
        conversation = Conversation(
            client, name, interactive, system, temperature=temperature, max_tokens=max_tokens
        )
        if interactive:
            click.secho(f"{name} at {client.url}; /help lists the commands", dim=True)
            converse(conversation, stack)
        else:
            answer_lines(conversation, sys.stdin)


def connect(stack: ExitStack, url: str | None, key: str | None, config: Path | None) -> Client:
    """Returns a client of the server asked for, or of one that `stack` stops in the end."""
    client = Client(url, key)
    if config is None:
        try:
            child.is_healthy(client)
            return client
        except ServerUnreachable:
            if url is not None:  # a server was named: another one is not what was asked for
                raise
    try:
        return stack.enter_context(child.server(config, show_waiting))
    finally:
        if sys.stderr.isatty():
            click.echo("\r\033[K", nl=False, err=True)


def show_waiting(waited_s: float) -> None:
    if sys.stderr.isatty():
        click.echo(f"\rstarting a server: {waited_s:.0f} s", nl=False, err=True)


def text_models(client: Client) -> list[Card]:
    """Returns the chat models served, the ready ones first; raises ApiError if there are none."""
    cards = [card for card in client.get("/v1/models", Cards).data if card.kind == "text"]
    if not cards:
        raise ApiError(f"{client.url} serves no text model: add one to models.toml")
    return sorted(cards, key=lambda card: not card.is_ready)


def answer_lines(conversation: Conversation, lines: Iterable[str]) -> None:
    for line in lines:
        if line.strip() and not conversation.say(line.rstrip("\r\n")):
            raise click.Abort


def converse(conversation: Conversation, stack: ExitStack) -> None:
    """Reads messages and commands until /quit, Ctrl-D, or Ctrl-C twice in a row."""
    keep_history(stack)
    interrupted = False
    while True:
        try:
            text = read_message()
            interrupted = False
            if text.startswith("/"):
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
            click.secho("Ctrl-C again, or Ctrl-D, leaves", dim=True)
        except ApiError as error:
            click.secho(f"error: {error.message}", fg="red", err=True)


def read_message() -> str:
    lines = [input("> ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input("… "))
    return "\n".join(lines)


def obey(conversation: Conversation, line: str) -> bool:
    """Carries out a command; returns False if Ctrl-C stopped it, raises EOFError for /quit."""
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
                click.echo(f"{'*' if card.id == conversation.model else ' '} {card.id}{state}")
        case "/model", name:
            conversation.model = name
        case "/retry", _:
            return conversation.retry()
        case "/quit" | "/exit", _:
            raise EOFError
        case _:
            raise ApiError(f"{command} is no command; /help lists them")
    return True


def keep_history(stack: ExitStack) -> None:
    """Gives the prompt line editing and a history, where Python has readline."""
    try:
        import readline
    except ImportError:  # Windows: its console edits lines by itself
        return
    path = Path(click.get_app_dir("localinfra")) / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        readline.read_history_file(path)
    except OSError:
        return  # no home to write to: a chat works without
    readline.set_history_length(1000)
    stack.callback(readline.write_history_file, path)
