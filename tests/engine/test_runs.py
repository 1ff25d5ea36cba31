"""Pictures as runs of pseudo-tokens, and where lists of tokens are cut."""

from fake_pictures import picture, with_pictures
from hypothesis import given
from hypothesis import strategies as st

from localinfra.engine.pictures import Picture
from localinfra.engine.runs import (
    FIRST,
    begins_with,
    border_after,
    border_before,
    first_piece,
    is_border,
    last_piece,
    shared_run,
)

PARTS = st.lists(
    st.one_of(
        st.integers(0, 9),
        st.builds(picture, st.integers(1, 3), st.integers(1, 30)),
    ),
    min_size=1,
    max_size=6,
)


def test_equal_pictures_have_equal_tokens_and_others_have_not() -> None:
    tokens = picture(1).tokens
    assert tokens == picture(1).tokens
    others = [picture(2), picture(1, 6), picture(1, is_causal=True), picture(1, grid=(1, 5))]
    assert all(set(tokens).isdisjoint(other.tokens) for other in others)
    assert -(2**31) <= tokens[0] < FIRST and all(FIRST <= token < 0 for token in tokens[1:])


@given(PARTS)
def test_borders_are_where_no_picture_is_on_both_sides(parts: list[int | Picture]) -> None:
    tokens, placed = with_pictures(*parts)
    inside = {at for each in placed for at in range(each.at + 1, each.end)}
    for at in range(len(tokens) + 1):
        assert is_border(tokens, at) == (at not in inside)
        assert border_before(tokens, at) <= at <= border_after(tokens, at)
        assert is_border(tokens, border_before(tokens, at))
        assert is_border(tokens, border_after(tokens, at))


@given(PARTS, PARTS)
def test_what_two_prompts_share_ends_with_whole_pictures(
    left: list[int | Picture], right: list[int | Picture]
) -> None:
    one, other = with_pictures(*left)[0], with_pictures(*right)[0]
    size = shared_run(one, other)
    assert one[:size] == other[:size] and is_border(one, size) and is_border(other, size)
    if size < min(len(one), len(other)):
        assert begins_with(one, size) != begins_with(other, size)


@given(PARTS, st.integers(5, 20), st.integers(0, 40))
def test_pieces_have_whole_pictures_unless_one_is_too_large(
    parts: list[int | Picture], size: int, extra: int
) -> None:
    tokens, most = with_pictures(*parts)[0], size + extra
    first = first_piece(tokens, size, most) if size < len(tokens) else len(tokens)
    start = last_piece(tokens, min(size, len(tokens)), most)
    assert 0 < first <= max(most, size) and len(tokens) - start <= max(most, size)
    assert start < len(tokens)
    longest = max((len(p.tokens) for p in parts if isinstance(p, Picture)), default=0)
    if longest <= most:
        assert is_border(tokens, first) and is_border(tokens, start)
    for cut in {first, start} - {0, len(tokens)}:
        assert begins_with(tokens[:cut]) == begins_with(tokens), "its place in the tree stays"
