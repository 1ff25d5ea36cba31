"""Hidden states by slot and position."""

import random

import numpy as np
import pytest

from localinfra.engine.backend import Batch
from localinfra.llama.hidden import HiddenStates

KEPT = 5


@pytest.mark.parametrize("seed", range(20))
def test_any_use_gives_the_rows_that_were_put_last(seed: int) -> None:
    chance = random.Random(seed)
    hidden, number = HiddenStates(2, 1, KEPT), 0
    known: list[dict[int, int]] = [{}, {}]  # by slot and position
    ends = [0, 0]
    for _ in range(60):
        if chance.random() < 0.3:
            slot = chance.randrange(2)
            start = ends[slot] = chance.randint(0, ends[slot])
            known[slot] = {at: row for at, row in known[slot].items() if at < start}
            hidden.drop(slot, start)
            hidden.drop(7, 0)  # one that is never decoded
        else:
            batch = Batch()
            for slot in chance.sample(range(2), chance.randint(1, 2)):
                jump = chance.choice([0, 0, 0, 3])  # as where a prefix is reused
                if jump:
                    known[slot] = {}
                size = chance.randint(1, KEPT + 2)
                batch.extend(slot, ends[slot] + jump, [0] * size, 0)
                known[slot] |= {at: 0 for at in batch.positions[-size:]}
                ends[slot] += jump + size
            rows = np.arange(number, number + len(batch), dtype=np.float32)[:, None]
            for slot, at, row in zip(batch.slots, batch.positions, rows[:, 0], strict=True):
                known[slot][at] = int(row)
            number += len(batch)
            hidden.put(batch, rows)
        for slot in range(2):
            known[slot] = {at: row for at, row in known[slot].items() if at >= ends[slot] - KEPT}
            check(hidden, slot, known[slot], ends[slot])


def check(hidden: HiddenStates, slot: int, known: dict[int, int], end: int) -> None:
    first = None if not known else min(known) + 1 if min(known) else 0
    assert hidden.first_readable(slot) == first
    known = {-1: 0} | known if 0 in known else known  # zeros before the first token
    for start in range(end + 2):
        for count in range(1, KEPT + 2):
            wanted = [known.get(at) for at in range(start - 1, start - 1 + count)]
            rows = hidden.before(slot, start, count)
            if None not in wanted:
                assert rows is not None and rows[:, 0].tolist() == wanted
            else:
                assert rows is None or (start, count, known) == (0, 1, {})


def test_nothing_is_left_after_clearing() -> None:
    hidden, batch = HiddenStates(1, 1), Batch()
    batch.extend(0, 0, [1, 2], 0)
    hidden.put(batch, np.ones((2, 1), np.float32))
    hidden.clear()
    assert hidden.first_readable(0) is None and hidden.before(0, 1, 1) is None
