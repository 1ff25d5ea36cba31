"""Attempts sent by several workers at once, and what was found."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from fuzzing.client import Client, Outcome
from fuzzing.generator import Attempt, Generator
from fuzzing.judging import Judge
from fuzzing.patience import SLOW_S, Slow, num_tokens
from fuzzing.shrinking import shrunk, write

HANG_S = 180.0  # of silence; on a busy machine, answers may be slow
MOST_FILES = 200


@dataclass
class Findings:
    num_sent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    files: dict[str, Path] = field(default_factory=dict)  # of the first attempt with each fault
    slow: list[Slow] = field(default_factory=list)


class Run:
    def __init__(self, generator: Generator, judge: Judge, port: int, folder: Path):
        self.findings = Findings()
        self._generator, self._judge = generator, judge
        self._port, self._folder = port, folder
        self._lock = threading.Lock()

    def send(self, numbers: Iterator[int], num_workers: int, goes_on: Callable[[], bool]) -> None:
        """Until the numbers end, or `goes_on` says no."""

        def work() -> None:
            client = Client(self._port, HANG_S)
            while goes_on():
                with self._lock:
                    number = next(numbers, None)
                if number is None:
                    break
                self.send_one(self._generator.attempt(number), client)
            client.close()

        with ThreadPoolExecutor(num_workers) as threads:
            for worker in [threads.submit(work) for _ in range(num_workers)]:
                worker.result()  # or what was wrong with it

    def send_one(self, attempt: Attempt, client: Client) -> list[str]:
        outcome = exchanged(client, attempt)
        faults = self._judge.faults_of(attempt, outcome)
        self._note(attempt, outcome)
        if faults:
            self._note_faults(attempt, outcome, faults)
        return faults

    def _note(self, attempt: Attempt, outcome: Outcome) -> None:
        with self._lock:
            found = self.findings
            found.num_sent += 1
            found.operations[attempt.route.operation] += 1
            words = [str(answer.status) for answer in outcome.answers[:1]]
            found.statuses[words[0] if words else attempt.delivery.how] += 1
            if outcome.silence.took_s > SLOW_S:
                tokens = max(map(num_tokens, outcome.answers), default=0)
                slow = Slow(
                    outcome.silence, tokens, attempt.number, attempt.route.operation, attempt.kind
                )
                found.slow.append(slow)
                body = outcome.answers[0].body if outcome.answers else b""
                folder = self._folder / "slow"
                write(attempt, [str(slow)], body[:10_000], folder, self._generator.seed)

    def _note_faults(self, attempt: Attempt, outcome: Outcome, faults: list[str]) -> None:
        keys = [f"{attempt.route.operation}: {fault}" for fault in faults]
        with self._lock:
            is_new = any(key not in self.findings.faults for key in keys)
            self.findings.faults.update(keys)
            is_new = is_new and len(self.findings.files) < MOST_FILES
        if not is_new:
            return

        def has_fault(other: Attempt) -> bool:
            client = Client(self._port, HANG_S)
            found = self._judge.faults_of(other, exchanged(client, other))
            client.close()
            return faults[0] in found

        small = shrunk(attempt, has_fault) if faults[0] != "hangs" else attempt
        body = outcome.answers[0].body if outcome.answers else repr(outcome).encode()
        path = write(small, faults, body[:100_000], self._folder, self._generator.seed)
        with self._lock:
            for key in keys:
                self.findings.files.setdefault(key, path)


def exchanged(client: Client, attempt: Attempt) -> Outcome:
    return client.send(attempt.delivery, is_head=attempt.request.method == "HEAD")


def numbers(first: int, count: int) -> Iterator[int]:
    return itertools.islice(itertools.count(first), count)


def for_minutes(minutes: float) -> Callable[[], bool]:
    until = time.monotonic() + minutes * 60
    return lambda: time.monotonic() < until
