"""A scripted model whose own layers draft for it, strict about the hidden states that they read."""

import zlib
from typing import Any

import numpy as np
from fakes import FakeBackend, FakeDrafter

from localinfra.engine.backend import Batch
from localinfra.llama.hidden import HiddenStates, rows_by_slot


class FakeHidden(FakeBackend):
    """Keeps hidden states, which tell the tokens before."""

    def __init__(self, kept: int, **options: Any):
        super().__init__(**options)
        self.hidden = HiddenStates(self.num_sequences, 1, kept)

    def decode(self, batch: Batch) -> None:
        super().decode(batch)
        rows = [
            hidden_after(self.history(slot)[: position + 1])
            for slot, position in zip(batch.slots, batch.positions, strict=True)
        ]
        self.hidden.put(batch, np.array(rows, np.float32)[:, None])

    def drop(self, slot: int, start: int, stop: int | None = None) -> None:
        super().drop(slot, start, stop)
        if stop is None:
            self.hidden.drop(slot, start)

    def clear(self) -> None:
        super().clear()
        self.hidden.clear()


def hidden_after(history: list[int]) -> int:
    return zlib.crc32(bytes(history)) % 2**24  # exact as a float32


class FakeMtp(FakeDrafter):
    """Reads tokens after their hidden states, and nothing else; guesses after a token."""

    rereads_guesses = True

    def __init__(self, verifier: FakeHidden, noise: float = 0.0, **options: Any):
        super().__init__(noise, **options)
        self.verifier = verifier
        self.num_late = 0  # tokens read that are not the text's last one

    def first_readable(self, slot: int) -> int | None:
        return self.verifier.hidden.first_readable(slot)

    def decode(self, batch: Batch) -> None:
        for slot, part in rows_by_slot(batch):
            source, begin = batch.origins[slot]
            first, held = begin + batch.positions[part.start], self.verifier.history(source)
            known = self.verifier.hidden.before(source, first, part.stop - part.start)
            if known is None:
                assert first > len(held) and part.stop == part.start + 1, "it is no guess"
                continue
            for position, (row,) in enumerate(known.tolist(), first):
                assert row == (hidden_after(held[:position]) if position else 0)
            own = batch.tokens[part][: len(held) - first]
            assert own == held[first : first + len(own)], "another text"
            self.num_late += len(own)
        super().decode(batch)
