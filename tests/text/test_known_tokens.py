"""What was tokenized before is found again, each client's by itself."""

import re
from collections.abc import Iterator, Mapping
from itertools import chain

import pytest
from echo import CHATML, SPECIAL, Bytes
from hypothesis import given
from hypothesis import strategies as st

from localinfra.text import known_tokens
from localinfra.text.known_tokens import MAX_BORDERS, KnownTokens


class Noting(Bytes):
    """Notes what it tokenizes beyond a few words."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def tokens(self, text: str, *, parse_special: bool, add_bos: bool) -> Iterator[list[int]]:
        if len(text) > 100:
            self.texts.append(text)
        return super().tokens(text, parse_special=parse_special, add_bos=add_bos)


def ids(known: KnownTokens, text: str, client: str = "", parse_special: bool = True) -> list[int]:
    parts = known.tokens(client, text, parse_special=parse_special, add_bos=False)
    return [*chain.from_iterable(parts)]


def plain(text: str) -> list[int]:
    return [*chain.from_iterable(Bytes().tokens(text, parse_special=True, add_bos=False))]


def turns(count: int, letter: str = "a") -> str:
    return "".join(
        f"<|im_start|>user\n{number} {letter * 600}<|im_end|>\n" for number in range(count)
    )


def test_a_growing_conversation_is_tokenized_where_it_is_new() -> None:
    vocabulary = Noting()
    known = KnownTokens(vocabulary, [CHATML])
    for count in range(1, 9):
        text = turns(count) + "<|im_start|>assistant\n"
        vocabulary.texts.clear()
        assert ids(known, text) == plain(text)
        # The part with the end of what was there before, and what is new.
        assert sum(map(len, vocabulary.texts)) < 2 * len(turns(1))
        vocabulary.texts.clear()
        assert ids(known, text) == plain(text) and not vocabulary.texts


WORDS = st.sampled_from([*SPECIAL, "a\n", " ", "\n\n", "<|im_", "é漢", "b" * 300])


@given(st.lists(st.lists(WORDS, max_size=30), max_size=4))
def test_tokens_are_those_of_the_whole_text(additions: list[list[str]]) -> None:
    known = KnownTokens(Bytes(), [CHATML, "<|fim_middle|>"])
    text = ""
    for addition in additions:
        text += "".join(addition)
        assert ids(known, text) == plain(text)
        as_text = Bytes().tokens(text, parse_special=False, add_bos=False)
        assert ids(known, text, parse_special=False) == [*chain.from_iterable(as_text)]


def test_a_client_finds_only_its_own() -> None:
    vocabulary = Noting()
    known = KnownTokens(vocabulary, [CHATML])
    for client in ("", "key one", "key two"):
        ids(known, turns(3), client)
    assert vocabulary.texts.count(vocabulary.texts[0]) == 3


def test_the_greediest_client_loses_its_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_tokens, "MAX_KEPT", 20_000)
    vocabulary = Noting()
    known = KnownTokens(vocabulary, [CHATML])
    ids(known, turns(3), "modest")
    for letter in "bcdefghijk":
        ids(known, turns(5, letter), "greedy")
    vocabulary.texts.clear()
    ids(known, turns(3), "modest")
    ids(known, turns(5, "k"), "greedy")
    assert not vocabulary.texts
    ids(known, turns(5, "b"), "greedy")
    assert vocabulary.texts
    ids(known, "x" * 50_000, "greedy")  # larger than all that is kept
    vocabulary.texts.clear()
    ids(known, turns(3), "modest")
    assert not vocabulary.texts


def test_a_text_that_was_given_up_is_not_known() -> None:
    known = KnownTokens(Bytes(), [CHATML])
    text = turns(2)
    given_up = known.tokens("", text, parse_special=True, add_bos=False)
    next(iter(given_up))
    given_up.close()  # type: ignore[attr-defined]
    assert ids(known, text) == plain(text)


class Stripping(Noting):
    """`<|im_start|>` swallows the blanks before it."""

    def tokens(self, text: str, *, parse_special: bool, add_bos: bool) -> Iterator[list[int]]:
        text = re.sub(r"\s+<\|im_start\|>", "<|im_start|>", text) if parse_special else text
        return super().tokens(text, parse_special=parse_special, add_bos=add_bos)


class Overlapped(Noting):
    special_tokens: Mapping[str, int] = {**SPECIAL, "x<": 300}


@pytest.mark.parametrize("vocabulary", [Stripping(), Overlapped()])
def test_a_text_is_not_cut_where_tokens_depend_on_both_sides(vocabulary: Noting) -> None:
    text = re.sub(r"<\|im_end\|>", "", turns(3))
    ids(KnownTokens(vocabulary, [CHATML.replace("<|im_end|>", "")]), text)
    assert [len(text) for text in vocabulary.texts] == [len(vocabulary.texts[0])]


class Controlled(Bytes):
    """A file may say that any tokens are control tokens, and its template may write all of them."""

    control_tokens: Mapping[str, int] = {f"<|{at}|>": at for at in range(1000)}

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0

    def tokens(self, text: str, *, parse_special: bool, add_bos: bool) -> Iterator[list[int]]:
        self.num_calls += 1
        return super().tokens(text, parse_special=parse_special, add_bos=add_bos)


def test_texts_are_cut_before_a_few_kinds_of_control_tokens() -> None:
    vocabulary = Controlled()
    ids(KnownTokens(vocabulary, ["".join(vocabulary.control_tokens)]), "x")
    assert 3 * MAX_BORDERS <= vocabulary.num_calls <= 3 * MAX_BORDERS + 1
