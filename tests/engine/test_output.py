"""Detokenizer, stop strings and logprobs of one choice, for every way to cut the text."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localinfra.engine.logprobs import token_logprob
from localinfra.engine.output import ChoiceOutput, Detokenizer, OutputDelta
from localinfra.engine.radix import Prefix, RadixTree
from localinfra.engine.request import FinishReason, TokenEvent, TokenLogprob
from localinfra.engine.runs import common_prefix
from localinfra.engine.stops import StopMatcher, Stops

TEXT = "aé🦜b"
END = 9999


def cuts(data: bytes) -> list[list[bytes]]:
    """All ways to cut `data` into pieces."""
    ways = []
    for flags in itertools.product([False, True], repeat=len(data) - 1):
        borders = [0, *(i + 1 for i, cut in enumerate(flags) if cut), len(data)]
        ways.append([data[a:b] for a, b in itertools.pairwise(borders)])
    return ways


def test_text_is_sent_in_whole_characters_however_bytes_are_cut() -> None:
    for pieces in cuts(TEXT.encode()):
        detokenizer = Detokenizer(pieces.__getitem__)
        sent = [detokenizer.push(i) for i in range(len(pieces))] + [detokenizer.flush()]
        assert "".join(sent) == TEXT
        assert all(set(part) <= set(TEXT) for part in sent)  # the bird arrives in one piece


def test_invalid_bytes_become_replacement_characters() -> None:
    pieces = [b"a", b"\xf0\x9f", b"b", b"\xc3"]
    detokenizer = Detokenizer(pieces.__getitem__)
    text = "".join(detokenizer.push(i) for i in range(4)) + detokenizer.flush()
    assert text == "a\ufffdb\ufffd"


def matched(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(Stops(stops))
    sent = ""
    for piece in pieces:
        ready, stop = matcher.push(piece)
        sent += ready
        if stop:
            return sent, stop
    return sent + matcher.flush(), None


STOPS = st.lists(st.text("ab#", min_size=1, max_size=4), max_size=4)


@given(st.text("ab#", max_size=12), STOPS, st.lists(st.integers(0, 12), max_size=6))
def test_stop_strings_do_not_depend_on_where_text_is_cut(
    text: str, stops: list[str], borders: list[int]
) -> None:
    edges = [0, *sorted(min(b, len(text)) for b in borders), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    hits = [(text.find(s) + len(s), text.find(s), s) for s in stops if s in text]
    expected = (text[: min(hits)[1]], min(hits)[2]) if hits else (text, None)
    assert matched(pieces, stops) == expected


@given(st.text("ab#", min_size=1, max_size=12), STOPS)
def test_a_possible_beginning_of_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(Stops(stops))
    sent = ""
    for character in text:
        ready, stop = matcher.push(character)
        sent += ready
        if stop:
            break
        held = text[len(sent) : len(sent) + 5]
        assert sent + held[: len(held)] == text[: len(sent) + len(held)]
    assert not any(stop in sent for stop in stops)


def events(pieces: list[bytes], reason: FinishReason, has_end_token: bool) -> list[TokenEvent]:
    tokens = list(range(len(pieces))) + ([END] if has_end_token else [])
    return [
        TokenEvent(
            0, token, index + 1, 0, logprob=TokenLogprob(token, -1.0),
            is_end_token=token == END,
            finish_reason=reason if index == len(tokens) - 1 else None,
        )
        for index, token in enumerate(tokens)
    ]  # fmt: skip


def play(
    pieces: list[bytes], stops: list[str], has_end_token: bool = False, score_end: bool = False
) -> list[OutputDelta]:
    output = ChoiceOutput(0, pieces.__getitem__, Stops(stops), score_end=score_end)
    deltas = [output.push(event) for event in events(pieces, FinishReason.LENGTH, has_end_token)]
    return [delta for delta in deltas if delta is not None]


@pytest.mark.parametrize("stops", [[], ["🦜"], ["éx"], ["b"], ["é🦜b"]])
def test_logprobs_are_sent_with_the_text_in_which_their_token_begins(stops: list[str]) -> None:
    for pieces in cuts(TEXT.encode()):
        deltas = play(pieces, stops)
        text = "".join(delta.text for delta in deltas)
        assert text == min((TEXT.split(stop)[0] for stop in stops), key=len, default=TEXT)
        scored = [item for delta in deltas for item in delta.scored]
        assert [item.logprob.token for item in scored] == list(range(len(scored)))
        stopped = any(stop in TEXT for stop in stops)
        assert all(item.offset < len(text) for item in scored) or not stopped
        if not stopped:
            assert len(scored) == len(pieces)
        assert deltas[-1].finish_reason is (FinishReason.STOP if stopped else FinishReason.LENGTH)
        sent = 0
        for delta in deltas:
            sent += len(delta.text)
            assert all(item.offset < sent for item in delta.scored) or delta is deltas[-1]


def test_nothing_is_sent_after_a_stop_string() -> None:
    deltas = play([b"a", b"#", b"b", b"c"], ["#"])
    assert [(delta.text, delta.finish_reason, delta.stop) for delta in deltas] == [
        ("a", None, None),
        ("", FinishReason.STOP, "#"),
    ]


def test_an_end_token_has_no_text_and_an_entry_only_for_scoring() -> None:
    for score_end in (False, True):
        deltas = play([b"a"], [], has_end_token=True, score_end=score_end)
        assert "".join(delta.text for delta in deltas) == "a"
        assert sum(len(delta.scored) for delta in deltas) == 1 + score_end


def test_logprobs_are_a_log_softmax_and_ties_go_to_the_lowest_id() -> None:
    row = np.array([1.0, 3.0, 2.0, 3.0, -np.inf, 2.0], np.float32)
    expected = row - np.log(np.exp(row.astype(np.float64)).sum())
    score = token_logprob(row, 2, 3)
    assert score.logprob == pytest.approx(expected[2])
    assert [token for token, _ in score.top] == [1, 3, 2]
    assert dict(score.top)[2] == score.logprob  # the very same number
    assert [token for token, _ in token_logprob(row, 2, 20).top] == [1, 3, 2, 5, 0, 4]


@given(st.lists(st.integers(0, 2), max_size=20), st.lists(st.integers(0, 2), max_size=20))
def test_common_prefix(left: list[int], right: list[int]) -> None:
    size = common_prefix(left, right)
    assert left[:size] == right[:size]
    assert size == min(len(left), len(right)) or left[size] != right[size]


paths = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=8)


@given(paths, st.lists(st.integers(0, 7)), paths)
def test_the_tree_finds_the_longest_prefix_on_any_path(
    inserted: list[list[int]], released: list[int], asked: list[list[int]]
) -> None:
    tree = RadixTree()
    for slot, path in enumerate(inserted):
        tree.insert(Prefix(path), slot)
    held = dict(enumerate(inserted))
    for slot in released:
        if slot in held:
            tree.release(slot, Prefix(held.pop(slot)))
    prefixes = {tuple(path[:size]) for path in held.values() for size in range(1, len(path) + 1)}
    assert tree.num_tokens == len(prefixes)
    for tokens in asked:
        expected = max((common_prefix(tokens, path) for path in held.values()), default=0)
        match = tree.match(Prefix(tokens), len(tokens))
        length, holder = match.num_held, match.holder
        assert match.num_known == length
        assert length == expected
        if length:
            assert holder is not None and held[holder][:length] == tokens[:length]
