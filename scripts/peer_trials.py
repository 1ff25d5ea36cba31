"""The measurements of bench_peers, one function each: requests and answers → figures."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from benchlib import (
    Message,
    Server,
    Stream,
    TimedOut,
    Unmeasurable,
    busy_cores,
    user,
    words,
)
from benchreport import say
from benchreview import ask_review

PARAGRAPH = """The old lighthouse stands at the end of a narrow path that winds along the cliffs.
Every evening the keeper climbs one hundred and twelve steps, cleans the glass, and lights the lamp
before the sun goes down. Ships coming from the north see its light first as a faint glow, then as a
steady beam that turns every eight seconds. In winter the storms are so loud that he cannot hear his
own voice, and the waves throw small stones against the windows. In summer visitors come with
baskets of bread and cheese, sit on the warm rocks, and ask him how it feels to live alone. He
always answers that nobody is alone who has a lamp to light and a harbour to guard."""
CODE = """class Account:
    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance
        self.history = []

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError("the amount must be positive")
        self.balance = self.balance + amount
        self.history.append(("deposit", amount))

    def withdraw(self, amount):
        if amount > self.balance:
            raise ValueError("the balance is too low")
        self.balance = self.balance - amount
        self.history.append(("withdraw", amount))
"""


@dataclass(frozen=True)
class Setup:
    """The settings that all servers share."""

    model: str
    end_tokens: list[int]
    context: int  # cells of KV cache, in tokens
    threads: int
    sequences: int
    flash_attention: str
    chat_template: str | None  # a file, for a model that has none
    mmproj: str | None  # the file of a projector, for a model that sees
    conversations: list[int]
    timeout_s: float  # for one measurement
    busy_limit_s: float  # for each part of measurement i


@dataclass(frozen=True)
class Figure:
    title: str
    unit: str  # rates end with /s, and higher is better; for all others lower is better
    value: float
    is_bound: bool = False  # a lower bound: it took longer than `value`


@dataclass(frozen=True)
class Trial:
    """A running server, and prompts that it has not seen, the same for all servers."""

    server: Server
    setup: Setup
    seed: str
    tokens_per_word: float = 1.0
    tokens_around: int = 0  # added by the chat template

    def text(self, num_tokens: int, label: object = "") -> str:
        """A message whose prompt has about `num_tokens` tokens, the template's included."""
        count = round((num_tokens - self.tokens_around) / self.tokens_per_word)
        return words(f"{self.seed} {num_tokens} {label}", count)

    def prompt(self, num_tokens: int, label: object = "") -> list[Message]:
        return [user(self.text(num_tokens, label))]

    def prompts(self, num_tokens: int, count: int) -> list[list[Message]]:
        return [self.prompt(num_tokens, f"{index} of {count}") for index in range(count)]

    def warmed_up(self) -> "Trial":
        """Warms the server up; returns the trial with the measured tokens per word and template."""
        few, many = (self.server.send(self.prompt(n), 1, stream=None) for n in (10, 110))
        self.server.finish(few, many)
        counts = [stream.answer().usage.get("prompt_tokens", 0) for stream in (few, many)]
        if counts[0] >= counts[1]:
            raise Unmeasurable(f"usage counts {counts} tokens in prompts of 10 and 110 words")
        per_word = (counts[1] - counts[0]) / 100
        around = round(counts[0] - 10 * per_word)
        trial = replace(self, tokens_per_word=per_word, tokens_around=around)
        self.server.ask(trial.prompts(100, 8), 16)
        return trial


def one_stream(trial: Trial) -> Iterator[Figure]:
    """Tokens per second after the first one."""
    [stream] = trial.server.ask([trial.prompt(60)], 256)
    rate = 255 / (stream.text_at[-1] - stream.first_at)
    yield Figure("one stream of 256 tokens", "tokens/s", rate)


def many_streams(trial: Trial) -> Iterator[Figure]:
    """Tokens of all streams per second, from the first request to the last end, with prefill."""
    for count in (8, 32):
        streams = trial.server.ask(trial.prompts(200, count), 128)
        total_s = max(s.ended_at for s in streams) - min(s.sent_at for s in streams)
        first_token_s = statistics.median(stream.first_token_s for stream in streams)
        yield Figure(f"{count} streams, 200 + 128 tokens each", "tokens/s", count * 128 / total_s)
        yield Figure(f"{count} streams, median first token", "s", first_token_s)


def choices(trial: Trial, count: int = 8, prompt: int = 1000, each: int = 64) -> Iterator[Figure]:
    """Seconds from request to answer, not streamed; `prompt` and `each` are numbers of tokens."""
    stream = trial.server.send(trial.prompt(prompt), each, n=count, stream=None)
    trial.server.finish(stream)
    if (found := len(stream.answer().texts)) != count:
        raise Unmeasurable(f"number of choices for n={count}: {found}")
    yield Figure(f"n={count} over {prompt:,} tokens, {each} each", "s", stream.duration_s)


def conversations(trial: Trial) -> Iterator[Figure]:
    """Seconds until the last of all conversations, started together, has its second answer of 32
    tokens. User messages have 30 words."""
    for count in trial.setup.conversations:
        system = {"role": "system", "content": trial.text(1200, count)}
        histories = [[system, user(words(f"{trial.seed} {i}", 30))] for i in range(count)]
        begun_at = time.perf_counter()
        running = {i: trial.server.send(history, 32) for i, history in enumerate(histories)}
        while running:
            trial.server.wait(partial(any_ended, running.values()))
            for i in [i for i, stream in running.items() if stream.ended_at]:
                answer = running.pop(i).answer()
                if len(histories[i]) == 2:
                    histories[i].append({"role": "assistant", "content": answer.texts[0]})
                    histories[i].append(user(words(f"{trial.seed} {i} again", 30)))
                    running[i] = trial.server.send(histories[i], 32)
        total_s = time.perf_counter() - begun_at
        yield Figure(f"{count} conversations over 1,200 shared tokens, two turns", "s", total_s)


def later_turns(trial: Trial) -> Iterator[Figure]:
    """First tokens of five more turns over a history of 1,500 tokens."""
    history = trial.prompt(1500)
    take_turn(trial, history)
    streams = [take_turn(trial, history) for _ in range(5)]
    first_token_s = statistics.median(stream.first_token_s for stream in streams)
    yield Figure("first token of a turn over 1,500 tokens", "s", first_token_s)
    cached = [count for stream in streams if (count := cached_tokens(stream)) is not None]
    if len(cached) == len(streams):
        share = sum(cached) / sum(stream.answer().usage["prompt_tokens"] for stream in streams)
        say(f"{share:.1%} of the prompts of these turns were cached")


def turns_in_rotation(trial: Trial) -> Iterator[Figure]:
    """First tokens of twice as many conversations of 800 tokens as there are sequences, which take
    turns one after the other: each finds that others came in between."""
    histories = trial.prompts(800, 2 * trial.setup.sequences)
    for history in histories:
        take_turn(trial, history)
    streams = [take_turn(trial, history) for _ in range(3) for history in histories]
    title = f"first token of a turn, {len(histories)} conversations one after the other"
    yield Figure(title, "s", statistics.median(stream.first_token_s for stream in streams))


def take_turn(trial: Trial, history: list[Message]) -> Stream:
    """Asks for 48 tokens, and adds them and a next message of 30 words to the history."""
    [stream] = trial.server.ask([history], 48)
    history.append({"role": "assistant", "content": stream.answer().texts[0]})
    history.append(user(words(f"{trial.seed} {len(history)} {history[0]}", 30)))
    return stream


def cached_tokens(stream: Stream) -> int | None:
    details = stream.answer().usage.get("prompt_tokens_details")
    return details.get("cached_tokens") if isinstance(details, dict) else None


def any_ended(streams: Iterable[Stream]) -> bool:
    return any(stream.ended_at for stream in streams)


def long_prompt(trial: Trial) -> Iterator[Figure]:
    [stream] = trial.server.ask([trial.prompt(2000)], 1)
    yield Figure("first token of an unseen 2,000 tokens", "s", stream.first_token_s)


def short_requests(trial: Trial) -> Iterator[Figure]:
    """One-token requests with unseen prompts of 60 tokens, each on a new connection."""
    for at_once, count in ((1, 30), (8, 80)):
        streams: list[Stream] = []
        begun_at = time.perf_counter()
        trial.server.ask_in_turn(trial.prompts(60, count), 1, at_once, streams)
        rate = count / (time.perf_counter() - begun_at)
        yield Figure(f"one-token requests, {at_once} at a time", "requests/s", rate)


def interrupted_streams(trial: Trial) -> Iterator[Figure]:
    """Gaps between arrivals of text in four running streams, before and during the prefill of a
    long prompt; and that prompt's first token, beside the streams and alone."""
    server = trial.server
    [alone] = server.ask([trial.prompt(2000, "alone")], 1)
    running = [server.send(messages, 1000) for messages in trial.prompts(60, 4)]
    server.wait(lambda: all(len(s.text_at) > 24 for s in running) or any_ended(running))
    if any_ended(running):
        raise Unmeasurable("the server does not run four streams at once")
    long = server.send(trial.prompt(2000, "beside others"), 1)
    server.wait(lambda: bool(long.ended_at) or any_ended(running))
    # A stalled stream's gap ends only with its next token.
    server.wait(lambda: all(s.text_at[-1] > long.ended_at for s in running) or any_ended(running))
    if any_ended(running):
        raise Unmeasurable("a running stream ended while the long prompt was read")
    server.cancel()
    long.answer()
    begin = max(stream.first_at for stream in running)
    gaps = [gap for stream in running for gap in pairwise(stream.text_at)]
    usual = [after - before for before, after in gaps if begin < before and after < long.sent_at]
    disturbed = [b - a for a, b in gaps if b > long.sent_at and a < long.first_at]
    yield Figure("usual gap in four streams", "ms", 1000 * statistics.median(usual))
    yield Figure("their longest gap while 2,000 tokens are read", "ms", 1000 * max(disturbed))
    yield Figure("first token of the 2,000 beside them", "s", long.first_token_s)
    multiple = long.first_token_s / alone.first_token_s
    yield Figure("the same, against alone", "times", multiple)


def json_schema(trial: Trial) -> Iterator[Figure]:
    """Measures whole answers, since tokens that the schema forces may come at once. Drops the first
    of four, which may include the server's preparation."""
    reviews = [ask_review(trial.server, f"{trial.seed} {index}") for index in range(4)]
    counts, durations = zip(*reviews[1:], strict=True)
    yield Figure("JSON by a schema", "tokens/s", sum(counts) / sum(durations))
    yield Figure("the same, an answer", "s", statistics.mean(durations))


def repetition(trial: Trial) -> Iterator[Figure]:
    """Tokens per second of a whole answer whose prompt is cached. The small model soon departs from
    the prompt in the last task: speculative decoding should not slow it down."""
    paragraph = [user(f"Repeat this text word for word:\n\n{PARAGRAPH}")]
    renaming = [
        user(f"{fenced(CODE)}\n\nShow this code with `Account` renamed to `Wallet`."),
        {"role": "assistant", "content": fenced(CODE.replace("Account", "Wallet"))},
        user("Show this code with `Wallet` renamed to `Purse`."),
    ]
    departing = [user(f"Repeat this code exactly:\n\n{fenced(CODE)}")]
    for title, task, num_tokens in (
        ("repeating a paragraph", paragraph, 100),
        ("renaming a class in code", renaming, 128),
        ("code unlike its prompt", departing, 128),
    ):
        trial.server.ask([task], 1)
        [stream] = trial.server.ask([task], num_tokens)
        produced = stream.answer().texts[0].split()
        runs = [" ".join(produced[i : i + 4]) for i in range(len(produced) - 3)]
        past = " ".join(" ".join(str(message["content"]) for message in task).split())
        repeated = sum(run in past for run in runs)
        if task is not departing and 2 * repeated < len(runs):
            say(f"{title}: only {repeated} of {len(runs)} word sequences are from the prompt")
        yield Figure(f"{title}, {num_tokens} tokens", "tokens/s", num_tokens / stream.duration_s)


def fenced(code: str) -> str:
    return f"```python\n{code}```"


def busy_machine(trial: Trial) -> Iterator[Figure]:
    """Seconds until all answers of 48 tokens have ended, and for the slowest of them. Answers that
    run into the limit count as the limit."""
    for count, at_once in ((10, 1), (8, 8), (32, 32)):
        streams: list[Stream] = []
        is_bound = False
        with busy_cores():
            trial.server.set_deadline(trial.setup.busy_limit_s)
            begun_at = time.perf_counter()
            try:
                trial.server.ask_in_turn(trial.prompts(60, count), 48, at_once, streams)
            except TimedOut:
                is_bound = True
            now = time.perf_counter()
        slowest_s = max((stream.ended_at or now) - stream.sent_at for stream in streams)
        title = "busy cores, " + ("10 answers in turn" if at_once == 1 else f"{count} at once")
        yield Figure(title, "s", now - begun_at, is_bound)
        yield Figure(f"{title}: the slowest", "s", slowest_s, is_bound)
        trial.server.cancel()
        trial.server.set_deadline(trial.setup.timeout_s)
        trial.server.ask([trial.prompt(60, "calm")], 1)  # answered once the dropped ones are gone


def first_answer(trial: Trial) -> Iterator[Figure]:
    yield Figure("exec to the first answer", "s", trial.server.first_answer_s)


def memory(trial: Trial) -> Iterator[Figure]:
    """The file's pages, shared by all its readers, count as resident but not as anonymous."""
    sums = trial.server.memory_mib()
    yield Figure("resident memory at the end", "MiB", sums["VmRSS"])
    yield Figure("of that anonymous", "MiB", sums["RssAnon"])


# In running order.
MEASUREMENTS: dict[str, Callable[[Trial], Iterator[Figure]]] = {
    "a": one_stream,
    "b": many_streams,
    "c": choices,
    "d": conversations,
    "e": long_prompt,
    "f": short_requests,
    "g": interrupted_streams,
    "h": json_schema,
    "l": later_turns,
    "m": turns_in_rotation,
    "n": partial(choices, count=4, prompt=800, each=32),
    "s": repetition,
    "i": busy_machine,
    "j": first_answer,
    "k": memory,
}
