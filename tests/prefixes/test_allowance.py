"""Prefixes outside of KV caches take what the models leave of the budget, and no more."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from localinfra.engine.offloaded import KeptSpan, OffloadedCells
from localinfra.prefixes.allowance import GROWTH_BYTES, Allowance, Share, divided
from localinfra.prefixes.shelves import Shelves

sizes = st.one_of(st.integers(0, 5), st.integers(0, 8 * GROWTH_BYTES))


@st.composite
def share(draw: st.DrawFn) -> Share:
    used = draw(sizes)
    return Share(used, used + draw(sizes), used + draw(sizes))


@given(st.integers(-10, 30 * GROWTH_BYTES), sizes, st.lists(share(), max_size=4))
def test_what_is_granted_fits_and_unloaded_models_lose_theirs_first(
    room: int, kept: int, shares: list[Share]
) -> None:
    rest, limits = divided(room, kept, shares)
    used = sum(one.used for one in shares)
    assert 0 <= rest <= kept
    assert rest + sum(limits) <= max(0, room)
    assert all(limit <= max(one.most, one.limit) for one, limit in zip(shares, limits, strict=True))
    if used <= max(0, room):
        assert all(limit >= one.used for one, limit in zip(shares, limits, strict=True))
    else:
        assert not rest
    if kept + sum(one.most for one in shares) <= room:
        assert rest == kept, "there is room for all"


@given(st.integers(0, 30 * GROWTH_BYTES), st.lists(share(), max_size=4))
def test_limits_that_are_told_once_need_no_change(room: int, shares: list[Share]) -> None:
    _, limits = divided(room, 0, shares)
    again = [one._replace(limit=at) for one, at in zip(shares, limits, strict=True)]
    assert divided(room, 0, again)[1] == limits


class Engine:
    def __init__(self, used: int, most: int):
        self.offloaded_bytes = used
        self.most_offloaded_bytes = self.max_offloaded_bytes = most

    def limit_offloaded(self, max_bytes: int) -> None:
        self.max_offloaded_bytes = max_bytes
        self.offloaded_bytes = min(self.offloaded_bytes, max_bytes)


def spans(*ages: int, num_bytes: int = 100, file: str | None = None) -> list[KeptSpan]:
    """A prompt in pieces, each after the one before, last used so long ago."""
    found: list[KeptSpan] = []
    for at, age in enumerate(ages):
        data = np.zeros(num_bytes, np.uint8)
        copy = OffloadedCells(20 * at, [at] * 20, False, data, file=file)
        found.append(KeptSpan("", found[-1].cells if found else None, copy, age))
    return found


def shelves_with(root: Path, **left: list[KeptSpan]) -> Shelves:
    shelves = Shelves(root)
    for name, one in left.items():
        shelves.shelf(name, [name]).put(one)
    return shelves


def test_models_unloaded_long_ago_lose_theirs_before_those_wanted_next(tmp_path: Path) -> None:
    shelves = shelves_with(tmp_path, a=spans(1), b=spans(1), c=spans(1))
    shelves.fit(250, wanted=["a"])
    assert shelves.num_bytes == {"a": 100, "b": 0, "c": 100}
    shelves.fit(100, wanted=["a"])
    assert shelves.num_bytes == {"a": 100, "b": 0, "c": 0}


def test_of_one_model_the_least_recently_used_go_and_none_before_what_continues_it(
    tmp_path: Path,
) -> None:
    old, new = spans(9, 8), spans(6, 7, 5)  # ages of what was read in may be out of order
    shelves = shelves_with(tmp_path, a=[*old, *new])
    shelves.fit(400, wanted=[])
    assert [one.cells.data is None for one in old] == [False, True]
    shelves.fit(200, wanted=[])
    assert [one.cells.data is None for one in new] == [False, False, True]
    assert shelves.shelf("a", ["a"]).take() == new[:2]


def test_what_is_in_a_file_only_leaves_memory(tmp_path: Path) -> None:
    left = spans(2, 1, file="its name")
    shelves = shelves_with(tmp_path, a=left)
    shelves.fit(0, wanted=[])
    assert shelves.num_bytes == {"a": 0}
    assert shelves.shelf("a", ["a"]).take() == left


def test_engines_that_run_give_way_last(tmp_path: Path) -> None:
    shelves = shelves_with(tmp_path, a=spans(1, num_bytes=GROWTH_BYTES))
    busy, idle = Engine(3 * GROWTH_BYTES, 9 * GROWTH_BYTES), Engine(GROWTH_BYTES, GROWTH_BYTES)
    allowance = Allowance(shelves)
    allowance.fit(20 * GROWTH_BYTES, [busy, idle], ["busy", "idle"])
    assert busy.max_offloaded_bytes == 9 * GROWTH_BYTES
    assert allowance.num_bytes == 5 * GROWTH_BYTES
    allowance.fit(5 * GROWTH_BYTES, [busy, idle], ["busy", "idle"])
    assert shelves.num_bytes == {"a": 0} and allowance.num_bytes == 4 * GROWTH_BYTES
    allowance.fit(2 * GROWTH_BYTES, [], [])  # they leave, and are not freed yet
    assert allowance.num_bytes == 2 * GROWTH_BYTES
    del busy
    assert allowance.num_bytes == GROWTH_BYTES // 2
