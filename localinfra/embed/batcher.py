"""Chooses which texts of which requests are computed next. Plain values, no thread.

A batch is bounded by its tokens padded to the longest text (`batch_tokens`), since these determine
its cost, and large batches of long texts exceed the CPU caches. Requests take turns. A request that
fits a batch is joined by other small ones of similar lengths, so that many clients with a text each
are served as fast as one client with all of them. A larger request computes one batch per turn, so
that others wait for no more than that.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from localinfra.embed.encoder import Rows, Tokens

MAX_LOOKED_AT = 2048  # texts, in the search for ones of similar length


class EncodeJob:
    """One request's texts, and the rows computed so far."""

    def __init__(self, texts: Sequence[Tokens], width: int):
        self.texts = texts
        self.rows: Rows = np.empty((len(texts), width), np.float32)
        self.num_missing = len(texts)
        # Shortest first; taken from the end, so that the longest texts are computed first.
        self.waiting = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        self.num_waiting_tokens = sum(map(len, texts))

    @property
    def num_computed_tokens(self) -> int:
        """Those of texts that are computed, or just being so."""
        return sum(map(len, self.texts)) - self.num_waiting_tokens

    def put(self, index: int, row: Rows) -> None:
        self.rows[index] = row
        self.num_missing -= 1

    def take(self, index: int) -> "BatchPart":
        self.waiting.remove(index)
        self.num_waiting_tokens -= len(self.texts[index])
        return BatchPart(self, index)

    def take_longest(self, batch_tokens: int) -> "list[BatchPart]":
        """Takes a batch from this job alone: at least one text."""
        longest = len(self.texts[self.waiting[-1]])
        count = min(max(1, batch_tokens // max(longest, 1)), len(self.waiting))
        taken = self.waiting[-count:]
        del self.waiting[-count:]
        self.num_waiting_tokens -= sum(len(self.texts[index]) for index in taken)
        return [BatchPart(self, index) for index in taken]


class BatchPart(NamedTuple):
    """One text of a request."""

    job: EncodeJob
    at: int  # its index in the job

    @property
    def tokens(self) -> Tokens:
        return self.job.texts[self.at]


class Batcher:
    def __init__(self, batch_tokens: int):
        """`batch_tokens` may change between two batches."""
        self.batch_tokens = batch_tokens
        self._turns: deque[EncodeJob] = deque()  # all have texts waiting

    def __bool__(self) -> bool:
        return bool(self._turns)

    def add(self, job: EncodeJob) -> None:
        self._turns.append(job)

    def drop(self, job: EncodeJob) -> None:
        """Removes a job whose remaining texts are no longer wanted."""
        if job in self._turns:
            self._turns.remove(job)

    def next(self) -> list[BatchPart]:
        """Takes the next batch; there must be a job."""
        job = self._turns.popleft()
        parts = (
            job.take_longest(self.batch_tokens) if self._is_large(job) else self._take_similar(job)
        )
        if job.waiting:
            self._turns.append(job)
        return parts

    def _is_large(self, job: EncodeJob) -> bool:
        return job.num_waiting_tokens > self.batch_tokens

    def _take_similar(self, job: EncodeJob) -> list[BatchPart]:
        """Takes the job's longest text, and texts of small jobs that are nearest in length."""
        parts = [BatchPart(job, index) for index in job.waiting]
        anchor = len(parts[-1].tokens)
        for other in self._turns:
            if len(parts) >= MAX_LOOKED_AT:
                break
            if not self._is_large(other):
                parts += [BatchPart(other, index) for index in other.waiting]
        parts.sort(key=lambda part: (part.job is not job, abs(len(part.tokens) - anchor)))
        chosen: list[BatchPart] = []
        longest = anchor
        for part in parts:
            new_longest = max(longest, len(part.tokens))
            if chosen and (len(chosen) + 1) * new_longest > self.batch_tokens:
                continue
            longest = new_longest
            chosen.append(part.job.take(part.at))
        emptied = {id(part.job) for part in chosen if not part.job.waiting}
        self._turns = deque(other for other in self._turns if id(other) not in emptied)
        return chosen
