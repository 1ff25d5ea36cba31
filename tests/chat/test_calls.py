"""A call that repeats an earlier one ends the answer, and no part of it is ever sent."""

import random

import pytest

from localinfra.chat.calls import CallFilter
from localinfra.chat.formats.pieces import CallArguments, CallEnd, CallStart, Content, Piece, joined

A = ("get", '{"city": "Paris"}')
B = ("get", '{"city": "Parma"}')
C = ("now", '{"city": "Paris"}')
TWO = ("get", '{"a": "x, y", "b": [1, {"c": "\\"}"}]}')
SWAPPED = ("get", '{"b":[1,{"c":"\\"}"}],"a":"x, y"}')
TWICE = ("get", '{"b": 1, "b": 1}')
ONCE = ("get", '{"b": 1}')
TEXT = ("get", '"b"')
SHORTER = ("get", '{"b": [1, {"c": "\\"}"}]}')


def pieces_of(calls: list[tuple[str, str]], size: int) -> list[list[Piece]]:
    """A step for each `size` characters."""
    steps: list[list[Piece]] = [[Content("Let me see.")]]
    for name, arguments in calls:
        steps.append([CallStart(name)])
        steps += [[CallArguments(arguments[n : n + size])] for n in range(0, len(arguments), size)]
        steps[-1].append(CallEnd())
    return steps


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("calls", "delivered"),
    [
        ([A], [A]),
        ([A, A], [A]),
        ([A, B, A, C], [A, B]),
        ([A, B, C], [A, B, C]),
        ([A, C, C], [A, C]),
        ([TWO, SWAPPED, A], [TWO]),
        ([SWAPPED, TWO], [SWAPPED]),
        ([TWO, SHORTER, TWO], [TWO, SHORTER]),
        ([SHORTER, SWAPPED], [SHORTER, SWAPPED]),
        ([ONCE, TWICE, ONCE], [ONCE, TWICE]),
        ([TWICE, ONCE, TWICE], [TWICE, ONCE]),
        ([TEXT, TEXT], [TEXT]),
        ([A, A, B], [A]),
        ([A, ("get", "{}"), ("get", "{}")], [A, ("get", "{}")]),
    ],
)
def test_the_calls_end_where_one_repeats(
    calls: list[tuple[str, str]], delivered: list[tuple[str, str]], size: int
) -> None:
    filtered = CallFilter()
    told: list[Piece] = []
    for step in pieces_of(calls, size):
        told += filtered.push(step)
    assert not filtered.finish()
    assert filtered.is_repeating == (calls != delivered)
    expected = [piece for step in pieces_of(delivered, 1000) for piece in step]
    assert joined(told) == joined(expected)


def test_a_call_is_held_back_only_while_it_may_be_a_repetition() -> None:
    filtered = CallFilter()
    for step in pieces_of([A], 1):
        filtered.push(step)
    assert filtered.push([CallStart("get"), CallArguments('{"city": "Par')]) == []
    assert filtered.push([CallArguments("m")]) == [
        CallStart("get"),
        CallArguments('{"city": "Parm'),
    ]
    assert filtered.push([CallArguments("a")]) == [CallArguments("a")]


def test_a_call_that_was_cut_off_is_passed_on_at_the_end() -> None:
    filtered = CallFilter()
    for step in pieces_of([A], 1):
        filtered.push(step)
    assert filtered.push([CallStart("get"), CallArguments('{"city"')]) == []
    assert filtered.finish() == [CallStart("get"), CallArguments('{"city"')]


def test_the_result_is_the_same_however_the_text_is_split() -> None:
    rng = random.Random(0)
    for _ in range(200):
        calls = rng.choices(
            [A, B, C, TWO, SWAPPED, SHORTER, ONCE, TWICE, TEXT], k=rng.randrange(1, 6)
        )
        results = []
        for size in (1, 2, 7, 100):
            filtered = CallFilter()
            told = [p for step in pieces_of(calls, size) for p in filtered.push(step)]
            results.append(joined([*told, *filtered.finish()]))
        assert all(result == results[0] for result in results)
